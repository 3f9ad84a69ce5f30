//! Events on objects: what changed for them, told once.
//!
//! The reason of an Event is the reason of the condition that changed, out of the kind's closed list. An Event is
//! published when a condition takes another status or reason, not with every pass, so it needs no memory of its own.

use epic_crds::condition::{CONFLICT, OVERLAPS, RELEASED};
use epic_crds::reason::Reason;
use epic_crds::{AddressClaimReason, Condition, ConditionStatus};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use crate::metrics::{Counters, ReasonLabel};

/// Longest note the API server takes, in bytes.
const NOTE: usize = 1_024;

/// Most Events that wait to be published. Beyond, they are dropped: whoever makes so many has no time for them.
const WAITING: usize = 1_024;

/// Publishes Events, beside the work that they tell of: none of it waits for a notice.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<(ObjectReference, Event)>,
}

impl Events {
    /// Events reported by this replica.
    pub fn new(client: Client, instance: &str, counters: Counters) -> Self {
        let reporter = Reporter { controller: "epic-operator".into(), instance: Some(instance.into()) };
        let (queue, waiting) = mpsc::channel(WAITING);
        // Ends when the last sender is dropped.
        tokio::spawn(publish(Recorder::new(client, reporter), counters, waiting));
        Self { queue }
    }

    /// Tells which conditions of `object` changed. Losing an Event loses nothing but a notice.
    pub fn conditions(&self, object: &ObjectReference, before: &[Condition], after: &[Condition]) {
        for change in changed(before, after) {
            let known = before.iter().find(|known| known.type_ == change.type_);
            let event = Event {
                type_: if is_bad_news(known, change) { EventType::Warning } else { EventType::Normal },
                reason: change.reason.clone(),
                note: Some(note(&format!("{}: {}", change.type_, change.message))),
                action: change.type_.clone(),
                secondary: None,
            };
            self.tell(object, event);
        }
    }

    /// Tells of something that is no condition and is as it should be: an ID that was handed out, a proxy that drains.
    pub fn note<R: Reason>(&self, object: &ObjectReference, reason: R, action: &str, text: &str) {
        let event = Event {
            type_: EventType::Normal,
            reason: reason.as_str().to_owned(),
            note: Some(note(text)),
            action: action.to_owned(),
            secondary: None,
        };
        self.tell(object, event);
    }

    /// Tells of something that is no condition: an object that cannot be read.
    pub fn warn<R: Reason>(&self, object: &ObjectReference, reason: R, action: &str, text: &str) {
        let event = Event {
            type_: EventType::Warning,
            reason: reason.as_str().to_owned(),
            note: Some(note(text)),
            action: action.to_owned(),
            secondary: None,
        };
        self.tell(object, event);
    }

    fn tell(&self, object: &ObjectReference, event: Event) {
        if self.queue.try_send((object.clone(), event)).is_err() {
            tracing::debug!(name = object.name, "event dropped");
        }
    }
}

async fn publish(
    recorder: Recorder,
    counters: Counters,
    mut waiting: mpsc::Receiver<(ObjectReference, Event)>,
) {
    while let Some((object, event)) = waiting.recv().await {
        match recorder.publish(&event, &object).await {
            Ok(()) => {
                let label = ReasonLabel { kind: object.kind.unwrap_or_default(), reason: event.reason };
                counters.events.get_or_create(&label).inc();
            }
            Err(error) => tracing::debug!(%error, "event not published"),
        }
    }
}

/// The conditions that have another status or reason than before. `Unknown` at birth says nothing worth an Event, and
/// what one condition says another need not say again: `Ready` repeats what keeps `Programmed` from being true.
fn changed<'c>(before: &[Condition], after: &'c [Condition]) -> Vec<&'c Condition> {
    let mut told: Vec<&Condition> = Vec::new();
    for condition in after {
        let differs = match before.iter().find(|known| known.type_ == condition.type_) {
            Some(known) => known.status != condition.status || known.reason != condition.reason,
            None => condition.status != ConditionStatus::Unknown,
        };
        let repeats = told.iter().any(|known| {
            (&known.status, &known.reason, &known.message)
                == (&condition.status, &condition.reason, &condition.message)
        });
        if differs && !repeats {
            told.push(condition);
        }
    }
    told
}

/// Reasons of what is under way: a start, or an edit that is being put into force.
const UNDER_WAY: &[&str] = &[
    "AliasPending",
    "AnnouncementPending",
    "NodesPending",
    "Pending",
    "ProxiesPending",
    "Starting",
    "TunnelPending",
];

/// Reasons that are normal as long as it was never otherwise: nobody has come yet.
const AT_FIRST: &[&str] = &["NoneReachable", "NoneReady", "TunnelDown"];

/// Reasons of what is wrong although the condition is True.
const ALTHOUGH: &[&str] =
    &["AddressOutOfPool", "ApplyFailed", "NoOtherNode", "ProxiesMissing", "ProxyRejected", "ProxyStale"];

/// What an administrator should look at: conditions are good when True, but for those that tell of overlaps and
/// conflicts. The normal steps of a start are no bad news, and that a claim is not released yet is a step like any
/// other; a delay has an Event of its own.
fn is_bad_news(before: Option<&Condition>, condition: &Condition) -> bool {
    if condition.type_ == RELEASED {
        return condition.status == ConditionStatus::False
            && condition.reason == AddressClaimReason::ReleaseDelayed.as_str();
    }
    let tells_of_bad = matches!(condition.type_.as_str(), OVERLAPS | CONFLICT);
    let is = |reasons: &[&str]| reasons.contains(&condition.reason.as_str());
    let held = before.is_some_and(|before| before.status == ConditionStatus::True);
    match condition.status {
        ConditionStatus::True => tells_of_bad || is(ALTHOUGH),
        ConditionStatus::False => !tells_of_bad && !is(UNDER_WAY) && (held || !is(AT_FIRST)),
        ConditionStatus::Unknown => false,
    }
}

fn note(text: &str) -> String {
    let mut end = text.len().min(NOTE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    fn condition(status: ConditionStatus, reason: &str, message: &str) -> Condition {
        Condition {
            type_: "Ready".into(),
            status,
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
            reason: reason.into(),
            message: message.into(),
            rest: Default::default(),
        }
    }

    #[test]
    fn another_message_is_no_event_and_another_reason_is() {
        let before = [condition(ConditionStatus::False, "Pending", "a")];
        let message = [condition(ConditionStatus::False, "Pending", "b")];
        let reason = [condition(ConditionStatus::False, "Rejected", "b")];
        assert_eq!(changed(&before, &message).len(), 0);
        assert_eq!(changed(&before, &reason).len(), 1);
        assert_eq!(changed(&[], &[condition(ConditionStatus::Unknown, "Pending", "")]).len(), 0);
    }

    #[test]
    fn one_cause_is_told_once_and_two_are_told_both() {
        let programmed = |reason: &str| Condition {
            type_: "Programmed".into(),
            ..condition(ConditionStatus::False, reason, "a")
        };
        let told = |ready: Condition, other: Condition| -> Vec<String> {
            changed(&[], &[other, ready]).into_iter().map(|condition| condition.type_.clone()).collect()
        };
        let ready = || condition(ConditionStatus::False, "NodesPending", "a");
        assert_eq!(told(ready(), programmed("NodesPending")), ["Programmed"]);
        assert_eq!(told(ready(), programmed("ProxiesPending")), ["Programmed", "Ready"]);
    }

    #[test]
    fn the_normal_steps_of_a_start_are_no_warnings_and_what_is_lost_is_one() {
        use ConditionStatus::{False, True};
        let held = condition(True, "Ready", "");
        for (reason, at_first, later) in [
            ("NodesPending", false, false),
            ("ProxiesPending", false, false),
            ("NoneReady", false, true),
            ("TunnelDown", false, true),
            ("NoReadyProxy", true, true),
            ("GroupNotFound", true, true),
        ] {
            let now = condition(False, reason, "");
            assert_eq!(
                (is_bad_news(None, &now), is_bad_news(Some(&held), &now)),
                (at_first, later),
                "{reason}"
            );
        }
        assert!(
            is_bad_news(Some(&held), &condition(True, "ProxyStale", "")),
            "traffic flows, and somebody should look"
        );
        assert!(!is_bad_news(None, &held));
        let overlaps = |status| Condition { type_: OVERLAPS.into(), ..condition(status, "x", "") };
        assert!(is_bad_news(None, &overlaps(True)) && !is_bad_news(Some(&overlaps(True)), &overlaps(False)));
    }

    #[test]
    fn a_note_is_cut_between_characters() {
        assert_eq!(note(&"ä".repeat(600)).len(), 1_024);
        assert_eq!(note(&format!("x{}", "ä".repeat(600))).len(), 1_023);
    }
}
