//! The condition `Programmed` of a LoadBalancer: whether what its status says is in force everywhere.
//!
//! Only a change of content withdraws it; nodes that come and go, writes that fail and refused edits do not.

use epic_crds::condition::{PROGRAMMED, find};
use epic_crds::{ConditionStatus, LoadBalancerReason as Reason, LoadBalancerStatus};
use epic_model::claim::Refusal;
use epic_model::programmed::{Programmed, programmed};
use epic_model::proxy::ProxyState;
use epic_model::revision::Revision;
use kates::Key;
use kube::ResourceExt;

use super::Found;
use super::apply::Done;
use super::awaited::{Awaited, Wait};
use super::build::{Content, Wanted};
use super::traffic::not_ready;

/// A condition before it has a time: whether it holds, why, and what a person should know.
pub(super) type Judgement = (bool, Reason, String);

/// What keeps the status from being put into force.
pub(super) fn obstacle(
    found: &Found,
    wanted: &Wanted,
    done: &Done,
    status: &LoadBalancerStatus,
) -> Option<(Reason, String)> {
    if let Some(verdict) = &found.verdict {
        let reason = match (verdict.duplicate, verdict.exhausted, verdict.taken) {
            (true, ..) => Reason::DuplicateGrant,
            (false, true, _) => Reason::IdsExhausted,
            (false, false, true) => Reason::ServiceIdTaken,
            (false, false, false) => Reason::Pending,
        };
        return Some((reason, verdict.message.clone()));
    }
    if let Some(refusal) = &done.refusal {
        return Some((refused(refusal), refusal.to_string()));
    }
    if let Some((reason, text)) = &done.failed {
        return Some((*reason, text.clone()));
    }
    if let Err(missing) = &wanted.proxies {
        return Some((Reason::Pending, (*missing).to_owned()));
    }
    status.public_address.is_none().then(|| (Reason::Pending, "waiting for its address".to_owned()))
}

/// Whether what the status says is in force at this generation.
pub(super) fn in_force(
    found: &Found,
    wanted: &Wanted,
    generation: i64,
    obstacle: Option<&(Reason, String)>,
    before: &LoadBalancerStatus,
    status: &LoadBalancerStatus,
    awaited: &Awaited,
) -> Judgement {
    let known = find(&before.conditions, PROGRAMMED);
    let content = Content::of(status);
    let begins = Content::of(before) != content
        || known.is_none_or(|known| known.observed_generation != Some(generation));
    if let Some(known) = known.filter(|known| !begins && known.status == ConditionStatus::True) {
        return (true, Reason::Programmed, known.message.clone());
    }
    if let Some((reason, message)) = obstacle {
        return (false, *reason, message.clone());
    }
    if begins {
        return (false, Reason::NodesPending, "what is programmed has just changed".to_owned());
    }
    let present = found.balancer.resource_version().and_then(|version| version.parse::<Revision>().ok());
    let Some(present) = present else { return (false, Reason::Pending, String::new()) };
    let since = known.map(|known| known.last_transition_time.clone());
    let wait = Wait { uid: found.balancer.uid().unwrap_or_default().into(), generation, since, content };
    let awaited = awaited.version(&Key::of(found.balancer.as_ref()), wait, present);
    let decision = programmed(generation, awaited, &wanted.configured, &found.revisions);
    let message = decision.to_string();
    match decision {
        Programmed::Yes { .. } if !wanted.configured.iter().any(|known| known.state == ProxyState::Ready) => {
            let (reason, text) = not_ready(found);
            // Nothing but time is missing, as far as is known.
            let starts = reason == Reason::NoReadyProxy && found.trouble.is_none();
            (false, if starts { Reason::ProxiesPending } else { reason }, text)
        }
        Programmed::Yes { .. } => (true, Reason::Programmed, message),
        Programmed::Waiting { proxies, .. } if !proxies.is_empty() => {
            // One that nobody hears does not answer, however long one waits.
            match found.stale.iter().find(|stale| proxies.iter().any(|late| late.as_str() == *stale)) {
                Some(stale) => (false, Reason::ProxyStale, format!("{message}; no operator hears {stale}")),
                None => (false, Reason::ProxiesPending, message),
            }
        }
        Programmed::Waiting { .. } => match found.behind.first() {
            Some((node, why)) => (false, Reason::NodesPending, format!("{message}; {node} says: {why}")),
            None => (false, Reason::NodesPending, message),
        },
        Programmed::Rejected { .. } => (false, Reason::ProxyRejected, message),
    }
}

fn refused(refusal: &Refusal) -> Reason {
    match refusal {
        Refusal::NoPool { .. } => Reason::PoolNotFound,
        Refusal::NotInPool { .. } => Reason::AddressNotInPool,
        Refusal::Taken { .. } => Reason::AddressTaken,
        Refusal::Exhausted(_) => Reason::PoolExhausted,
        Refusal::TooMany { .. } => Reason::LimitExceeded,
        Refusal::Conflict { .. } => Reason::DuplicateGrant,
    }
}
