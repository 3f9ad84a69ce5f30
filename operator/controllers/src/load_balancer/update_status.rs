//! What a LoadBalancer's status says. One PUT, and only when something differs.

use epic_crds::condition::{ACCEPTED, ADVERTISED, ENDPOINTS, PROGRAMMED, READY, find, set};
use epic_crds::{
    ConditionStatus, HasConditions, LoadBalancer, LoadBalancerReason as Reason, LoadBalancerStatus,
};
use epic_model::claim::Refusal;
use epic_model::programmed::{Programmed, programmed};
use epic_model::proxy::ProxyState;
use epic_model::revision::Revision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kates::Key;
use kube::ResourceExt;

use super::Found;
use super::apply::{Done, complete_spec};
use super::awaited::{Awaited, Wait};
use super::build::{Content, Wanted};
use super::validate::{Refused, Valid};
use crate::context::Shared;
use crate::reconcile::{Error, now, publish_status};

/// Writes `Accepted` when it is another one than before, with `Ready` and `Programmed` when it is refused. Says
/// whether it wrote.
///
/// # Errors
/// What the API server answers.
pub(super) async fn accepted(
    context: &Shared,
    found: &Found,
    valid: &Result<Valid, Refused>,
) -> Result<bool, Error> {
    let balancer = &found.balancer;
    let mut status = balancer.status.clone().unwrap_or_default();
    let changed = judged(&mut status, valid, balancer.metadata.generation, &now());
    if changed {
        let after = LoadBalancer { status: Some(status), ..balancer.as_ref().clone() };
        publish_status(context, balancer.as_ref(), after).await?;
    }
    Ok(changed)
}

/// Puts the judgement into the conditions; says whether that changed anything.
pub(super) fn judged(
    status: &mut LoadBalancerStatus,
    valid: &Result<Valid, Refused>,
    generation: Option<i64>,
    now: &Time,
) -> bool {
    let conditions = &mut status.conditions;
    let Err(Refused { reason, message }) = valid else {
        return set(conditions, ACCEPTED, true, Reason::Accepted, "", generation, now);
    };
    let mut changed = set(conditions, ACCEPTED, false, *reason, message, generation, now);
    changed |= set(conditions, READY, false, *reason, message, generation, now);
    // What was programmed for an earlier generation goes on, and proxies acknowledge that one.
    let programmed = find(conditions, PROGRAMMED).and_then(|known| known.observed_generation);
    if programmed.is_none() || programmed != generation {
        changed |= set(conditions, PROGRAMMED, false, *reason, message, programmed, now);
    }
    changed
}

/// Completes the spec, then writes the rest of the status. Says whether nothing is awaited any more.
///
/// # Errors
/// What the API server answers.
pub(super) async fn publish(
    context: &Shared,
    found: &Found,
    valid: &Result<Valid, Refused>,
    wanted: &Wanted,
    done: &Done,
) -> Result<bool, Error> {
    if done.moved {
        return Ok(false);
    }
    let balancer = &found.balancer;
    // Before the first status, and so before the first view of its proxies: another generation would have to be
    // acknowledged by all of them once more.
    let completed = if valid.is_ok() { complete_spec(context, balancer).await } else { Ok(false) };
    if completed.as_ref().is_ok_and(|written| *written) {
        return Ok(false);
    }
    let status = status(found, valid, wanted, done, &context.awaited, &now());
    if wanted.lacks_ids && found.verdict.is_none() && is_mere_wording(balancer, &status) {
        return completed;
    }
    let after = LoadBalancer { status: Some(status), ..balancer.as_ref().clone() };
    let written = publish_status(context, balancer.as_ref(), after).await?;
    // A completion that is refused keeps nobody from seeing the status.
    completed?;
    if written {
        return Ok(false);
    }
    let settled = balancer.is_condition_true(PROGRAMMED);
    if settled {
        context.awaited.forget(&Key::of(balancer.as_ref()));
    }
    Ok(settled && (valid.is_err() || balancer.is_condition_true(READY)))
}

/// Whether a status differs from the present one at most in reasons and messages: whom it waits for. While the
/// allocator has IDs to give, such a write would only make it begin anew.
pub(super) fn is_mere_wording(balancer: &LoadBalancer, after: &LoadBalancerStatus) -> bool {
    let plain = |status: &LoadBalancerStatus| {
        let mut status = status.clone();
        for condition in &mut status.conditions {
            condition.reason.clear();
            condition.message.clear();
        }
        status
    };
    balancer.status.as_ref().is_some_and(|before| plain(before) == plain(after))
}

/// The status as it should be.
pub(super) fn status(
    found: &Found,
    valid: &Result<Valid, Refused>,
    wanted: &Wanted,
    done: &Done,
    awaited: &Awaited,
    now: &Time,
) -> LoadBalancerStatus {
    let generation = found.balancer.metadata.generation;
    let before = found.balancer.status.clone().unwrap_or_default();
    let mut status = wanted.status.clone();
    let obstacle = obstacle(found, wanted, done, &status);
    let programmed = find(&before.conditions, PROGRAMMED).and_then(|known| known.observed_generation);
    // A refused generation is not programmed; `judged` has said so.
    let is_of_now = valid.is_ok() || programmed == generation;
    let in_force = is_of_now.then(|| in_force(found, wanted, obstacle.as_ref(), &before, &status, awaited));
    if let Some((value, reason, message)) = in_force.clone() {
        set(&mut status.conditions, PROGRAMMED, value, reason, message, generation, now);
    }

    let (serving, count) = endpoints(found);
    let (reason, message) = if serving == 0 {
        let text = if count == 0 {
            "no Endpoint names this LoadBalancer; create one"
        } else {
            "none of its Endpoints is programmed; see their conditions"
        };
        (Reason::NoneReady, text.to_owned())
    } else {
        (Reason::EndpointsReady, format!("{serving} of {count} take traffic"))
    };
    set(&mut status.conditions, ENDPOINTS, serving > 0, reason, message, generation, now);

    if let Some(announced) = found.announced {
        let (value, reason, message) = advertised(found, announced);
        set(&mut status.conditions, ADVERTISED, value, reason, message, generation, now);
    }

    if let (Ok(_), Some(in_force)) = (valid, in_force) {
        let (ready, reason, message) = ready(found, wanted, obstacle, in_force);
        set(&mut status.conditions, READY, ready, reason, message, generation, now);
    }
    status
}

fn ready(
    found: &Found,
    wanted: &Wanted,
    obstacle: Option<(Reason, String)>,
    in_force: (bool, Reason, String),
) -> (bool, Reason, String) {
    if !in_force.0 {
        return in_force;
    }
    if wanted.ready == 0 {
        return (false, Reason::NoReadyProxy, not_ready(found));
    }
    if let Some((reason, message)) = obstacle {
        return (true, reason, format!("it goes on as it was: {message}"));
    }
    if !found.in_pool {
        let text = "its address lies in no pool of its group any more; it stays granted";
        return (true, Reason::AddressOutOfPool, text.to_owned());
    }
    (true, Reason::Ready, String::new())
}

/// What keeps the status from being put into force.
fn obstacle(
    found: &Found,
    wanted: &Wanted,
    done: &Done,
    status: &LoadBalancerStatus,
) -> Option<(Reason, String)> {
    if let Some(verdict) = &found.verdict {
        let reason = match (verdict.duplicate, verdict.exhausted) {
            (true, _) => Reason::DuplicateGrant,
            (false, true) => Reason::IdsExhausted,
            (false, false) => Reason::ServiceIdTaken,
        };
        return Some((reason, verdict.message.clone()));
    }
    if let Some(refusal) = &done.refusal {
        return Some((refused(refusal), refusal.to_string()));
    }
    if let Some(failed) = &done.failed {
        return Some((Reason::ApplyFailed, failed.clone()));
    }
    if let Err(missing) = &wanted.proxies {
        return Some((Reason::Pending, (*missing).to_owned()));
    }
    status.public_address.is_none().then(|| (Reason::Pending, "waiting for its address".to_owned()))
}

/// Whether what the status says is in force everywhere.
fn in_force(
    found: &Found,
    wanted: &Wanted,
    obstacle: Option<&(Reason, String)>,
    before: &LoadBalancerStatus,
    status: &LoadBalancerStatus,
    awaited: &Awaited,
) -> (bool, Reason, String) {
    let known = find(&before.conditions, PROGRAMMED);
    let generation = found.balancer.metadata.generation.unwrap_or(0);
    let content = Content::of(status);
    let begins = Content::of(before) != content
        || known.is_none_or(|known| known.observed_generation != Some(generation));
    // Only a change of content withdraws it; nodes that come and go, and writes that fail, do not.
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
            (false, Reason::ProxiesPending, not_ready(found))
        }
        Programmed::Yes { .. } => (true, Reason::Programmed, message),
        Programmed::Waiting { proxies, .. } if !proxies.is_empty() => {
            (false, Reason::ProxiesPending, message)
        }
        Programmed::Waiting { .. } => (false, Reason::NodesPending, message),
        Programmed::Rejected { .. } => (false, Reason::ProxyRejected, message),
    }
}

/// Nothing but time is missing, as far as is known, or the one thing to look at.
fn not_ready(found: &Found) -> String {
    found
        .trouble
        .as_ref()
        .map_or_else(|| "no proxy is ready yet".to_owned(), |trouble| format!("no proxy is ready: {trouble}"))
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

/// Endpoints that take traffic, and all that name it.
fn endpoints(found: &Found) -> (usize, usize) {
    let serving = found.endpoints.iter().filter(|endpoint| endpoint.is_condition_true(PROGRAMMED)).count();
    (serving, found.endpoints.len())
}

fn advertised(found: &Found, announced: bool) -> (ConditionStatus, Reason, String) {
    if !announced {
        let text = "its pool does not say how to announce it; route it to the EPIC nodes";
        return (ConditionStatus::Unknown, Reason::NotAnnounced, text.to_owned());
    }
    if found.live.is_empty() {
        let text = "no EPIC node is there to announce it; see kubectl get epicnodes -n epic";
        return (ConditionStatus::False, Reason::NoNodeToAnnounce, text.to_owned());
    }
    (ConditionStatus::True, Reason::Announced, "an EPIC node answers for it on layer 2".to_owned())
}
