//! The pod condition `epic.acnodal.io/configured`: what a proxy answered to its configuration.
//!
//! True: the listeners and clusters of a LoadBalancer's generation were acknowledged; the message names the
//! generation. False: rejected, and the message is Envoy's. The replica that serves the stream writes it.
//!
//! A pod may have two streams for a while: one that has ended without anybody noticing, and its successor, perhaps on
//! another replica. Views change under both, so both may have something to say; but only the living one hears its
//! proxy. So the message also tells when the proxy was heard, and what was heard earlier never replaces it.

use std::time::Duration;

use epic_crds::well_known::POD_CONDITION_CONFIGURED;
use epic_model::id::ObjectName;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

/// What a proxy answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has listeners and clusters of this generation of its LoadBalancer.
    Acknowledged(i64),
    /// It refuses something, in its words.
    Rejected(String),
}

/// What a stream of a pod says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// The proxy's answer.
    pub answer: Answer,
    /// When the stream had heard the proxy last; `None` when a condition does not tell.
    pub heard: Option<Timestamp>,
}

impl Said {
    /// The same, read at `now`: of a time further ahead than `leeway` it is not known when it was. It was written by a
    /// clock that was wrong, and nobody could speak against it until that time has come.
    pub(super) fn seen_at(mut self, now: Timestamp, leeway: Duration) -> Said {
        self.heard = self.heard.filter(|heard| {
            heard.duration_since(now) <= leeway.try_into().unwrap_or(jiff::SignedDuration::MAX)
        });
        self
    }

    /// Whether it is to be written over what stands there. The same answer is written once, whoever gave it.
    pub(super) fn replaces(&self, there: Option<&Said>) -> bool {
        there.is_none_or(|there| there.answer != self.answer && there.heard <= self.heard)
    }
}

const PREFIX: &str = "generation ";
const HEARD: &str = " (heard ";

/// The condition for what a stream says.
pub(super) fn pod_condition(said: &Said, now: Time) -> PodCondition {
    let (status, reason, mut message) = match &said.answer {
        Answer::Acknowledged(generation) => ("True", "Acknowledged", format!("{PREFIX}{generation}")),
        Answer::Rejected(message) => ("False", "Rejected", message.clone()),
    };
    if let Some(heard) = said.heard {
        message = format!("{message}{HEARD}{heard})");
    }
    PodCondition {
        type_: POD_CONDITION_CONFIGURED.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(now),
        ..PodCondition::default()
    }
}

/// What a pod's condition says.
pub(super) fn read(pod: &Pod) -> Option<Said> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    let condition = conditions.iter().find(|known| known.type_ == POD_CONDITION_CONFIGURED)?;
    let (message, heard) = split(condition.message.as_deref().unwrap_or_default());
    let answer = match condition.status.as_str() {
        "True" => Answer::Acknowledged(message.strip_prefix(PREFIX)?.parse().ok()?),
        "False" => Answer::Rejected(message.to_owned()),
        _ => return None,
    };
    Some(Said { answer, heard })
}

/// The message without the time at its end, and that time.
fn split(message: &str) -> (&str, Option<Timestamp>) {
    let parts = message.strip_suffix(')').and_then(|rest| rest.rsplit_once(HEARD));
    let parsed = parts.and_then(|(text, time)| Some((text, time.parse().ok()?)));
    parsed.map_or((message, None), |(text, time)| (text, Some(time)))
}

/// Whether a pod's proxy has ever come to an xDS server and answered.
pub fn has_answered(pod: &Pod) -> bool {
    read(pod).is_some()
}

/// What these pods say: name, acknowledged generation, rejection.
pub fn configured(pods: &[&Pod]) -> Vec<(ObjectName, Option<i64>, Option<String>)> {
    pods.iter()
        .map(|pod| {
            let name = ObjectName::new(pod.name_any());
            match read(pod).map(|said| said.answer) {
                Some(Answer::Acknowledged(generation)) => (name, Some(generation), None),
                Some(Answer::Rejected(message)) => (name, None, Some(message)),
                None => (name, None, None),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodStatus;

    fn pod(condition: PodCondition) -> Pod {
        let status = PodStatus { conditions: Some(vec![condition]), ..PodStatus::default() };
        Pod { status: Some(status), ..Pod::default() }
    }

    fn said(answer: Answer, heard: i64) -> Said {
        Said { answer, heard: Timestamp::from_millisecond(heard).ok() }
    }

    fn rejected() -> Answer {
        Answer::Rejected("bad listener (heard of elsewhere)".to_owned())
    }

    #[test]
    fn what_was_said_is_read_back_from_the_condition() {
        for answer in [Answer::Acknowledged(7), rejected()] {
            for heard in [None, Timestamp::from_millisecond(1_767_225_600_123).ok()] {
                let said = Said { answer: answer.clone(), heard };
                assert_eq!(read(&pod(pod_condition(&said, Time(Timestamp::UNIX_EPOCH)))), Some(said));
            }
        }
        assert_eq!(read(&Pod::default()), None);
    }

    #[test]
    fn a_stream_that_fell_silent_does_not_contradict_its_successor() {
        let successor = said(Answer::Acknowledged(6), 2_000);
        // Its view changed, and with that its rejection went: now it would say what was acknowledged before.
        assert!(!said(Answer::Acknowledged(4), 1_000).replaces(Some(&successor)));
        assert!(successor.replaces(Some(&said(Answer::Acknowledged(4), 1_000))));
        assert!(successor.replaces(Some(&said(rejected(), 1_000))));
    }

    #[test]
    fn an_answer_is_written_once_whoever_gave_it() {
        let there = said(Answer::Acknowledged(6), 1_000);
        assert!(!said(Answer::Acknowledged(6), 2_000).replaces(Some(&there)));
        assert!(there.replaces(None));
        let without_time = Said { answer: Answer::Acknowledged(5), heard: None };
        assert!(there.replaces(Some(&without_time)));
    }
}
