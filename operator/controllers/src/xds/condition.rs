//! The pod condition `epic.acnodal.io/configured`: what a proxy answered to its configuration.
//!
//! True: the listeners and clusters of a LoadBalancer's generation were acknowledged; the message names the
//! generation. False: rejected, and the message is Envoy's. The replica that serves the stream writes it.

use epic_crds::LoadBalancer;
use epic_crds::well_known::POD_CONDITION_CONFIGURED;
use epic_model::id::ObjectName;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kates::Snapshot;
use kube::ResourceExt;

use crate::proxy::objects_of;

/// What a proxy answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has listeners and clusters of this generation of its LoadBalancer.
    Acknowledged(i64),
    /// It refuses something, in its words.
    Rejected(String),
}

const PREFIX: &str = "generation ";

/// The condition for an answer.
pub fn pod_condition(answer: &Answer, now: Time) -> PodCondition {
    let (status, reason, message) = match answer {
        Answer::Acknowledged(generation) => ("True", "Acknowledged", format!("{PREFIX}{generation}")),
        Answer::Rejected(message) => ("False", "Rejected", message.clone()),
    };
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
pub fn read(pod: &Pod) -> Option<Answer> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    let condition = conditions.iter().find(|known| known.type_ == POD_CONDITION_CONFIGURED)?;
    let message = condition.message.clone().unwrap_or_default();
    match condition.status.as_str() {
        "True" => message.strip_prefix(PREFIX)?.parse().ok().map(Answer::Acknowledged),
        "False" => Some(Answer::Rejected(message)),
        _ => None,
    }
}

/// What the pods of a LoadBalancer say: name, acknowledged generation, rejection.
pub fn configured(
    snapshot: &Snapshot,
    balancer: &LoadBalancer,
) -> Vec<(ObjectName, Option<i64>, Option<String>)> {
    objects_of(snapshot, balancer)
        .into_iter()
        .map(|pod| {
            let name = ObjectName::new(pod.name_any());
            match read(pod) {
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
    use k8s_openapi::jiff::Timestamp;

    #[test]
    fn an_answer_is_read_back_from_the_condition() {
        for answer in [Answer::Acknowledged(7), Answer::Rejected("bad listener".to_owned())] {
            let condition = pod_condition(&answer, Time(Timestamp::UNIX_EPOCH));
            let status = PodStatus { conditions: Some(vec![condition]), ..PodStatus::default() };
            let pod = Pod { status: Some(status), ..Pod::default() };
            assert_eq!(read(&pod), Some(answer));
        }
        assert_eq!(read(&Pod::default()), None);
    }
}
