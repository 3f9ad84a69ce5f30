//! What a LoadBalancer's status says. One PUT, and only when something differs.

use epic_crds::condition::{ACCEPTED, ADVERTISED, ENDPOINTS, PROGRAMMED, READY, set};
use epic_crds::{
    ConditionStatus, HasConditions, LoadBalancer, LoadBalancerReason as Reason, LoadBalancerStatus,
};
use epic_model::claim::Refusal;
use epic_model::programmed::{Programmed, programmed};
use epic_model::revision::Revision;
use kube::ResourceExt;

use super::Found;
use super::apply::{Done, complete_spec};
use super::build::{Wanted, differs_in_content};
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
    let (generation, now) = (balancer.metadata.generation, now());
    let conditions = &mut status.conditions;
    let changed = match valid {
        Ok(_) => set(conditions, ACCEPTED, true, Reason::Accepted, "", generation, &now),
        Err(Refused { reason, message }) => {
            let mut changed = set(conditions, ACCEPTED, false, *reason, message, generation, &now);
            for type_ in [PROGRAMMED, READY] {
                changed |= set(conditions, type_, false, *reason, message, generation, &now);
            }
            changed
        }
    };
    if changed {
        let after = LoadBalancer { status: Some(status), ..balancer.as_ref().clone() };
        publish_status(context, balancer.as_ref(), after).await?;
    }
    Ok(changed)
}

/// Writes the rest of the status, then completes the spec. Says whether nothing is awaited any more.
///
/// # Errors
/// What the API server answers.
pub(super) async fn publish(
    context: &Shared,
    found: &Found,
    wanted: &Wanted,
    done: &Done,
) -> Result<bool, Error> {
    if done.moved {
        return Ok(false);
    }
    let balancer = &found.balancer;
    let before = balancer.status.clone().unwrap_or_default();
    let mut status = wanted.status.clone();
    conditions(found, wanted, done, &before, &mut status);
    let after = LoadBalancer { status: Some(status), ..balancer.as_ref().clone() };
    if publish_status(context, balancer.as_ref(), after).await? {
        return Ok(false);
    }
    if complete_spec(context, balancer).await? {
        return Ok(false);
    }
    Ok(balancer.is_condition_true(READY) && balancer.is_condition_true(PROGRAMMED))
}

fn conditions(
    found: &Found,
    wanted: &Wanted,
    done: &Done,
    before: &LoadBalancerStatus,
    status: &mut LoadBalancerStatus,
) {
    let generation = found.balancer.metadata.generation;
    let now = now();
    let (in_force, reason, message) = in_force(found, wanted, done, before, status);
    set(&mut status.conditions, PROGRAMMED, in_force, reason, message, generation, &now);

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
    set(&mut status.conditions, ENDPOINTS, serving > 0, reason, message, generation, &now);

    if let Some(announced) = found.announced {
        let (value, reason, message) = advertised(found, announced);
        set(&mut status.conditions, ADVERTISED, value, reason, message, generation, &now);
    }

    let (ready, reason, message) = if !in_force {
        let programmed = epic_crds::condition::find(&status.conditions, PROGRAMMED);
        let (reason, message) =
            programmed.map(|known| (known.reason.clone(), known.message.clone())).unwrap_or_default();
        (false, <Reason as epic_crds::Reason>::parse(&reason).unwrap_or(Reason::Pending), message)
    } else if wanted.ready == 0 {
        (false, Reason::NoReadyProxy, "no proxy is ready; see the pods of this namespace".to_owned())
    } else if !found.in_pool {
        (
            true,
            Reason::AddressOutOfPool,
            "its address lies in no pool of its group any more; it stays granted".to_owned(),
        )
    } else {
        (true, Reason::Ready, String::new())
    };
    set(&mut status.conditions, READY, ready, reason, message, generation, &now);
}

/// Whether what the status says is in force everywhere.
fn in_force(
    found: &Found,
    wanted: &Wanted,
    done: &Done,
    before: &LoadBalancerStatus,
    status: &LoadBalancerStatus,
) -> (bool, Reason, String) {
    if let Some(verdict) = &found.verdict {
        let reason = match (verdict.duplicate, verdict.exhausted) {
            (true, _) => Reason::DuplicateGrant,
            (false, true) => Reason::IdsExhausted,
            (false, false) => Reason::ServiceIdTaken,
        };
        return (false, reason, verdict.message.clone());
    }
    if let Some(refusal) = &done.refusal {
        return (false, refused(refusal), refusal.to_string());
    }
    if let Some(failed) = &done.failed {
        return (false, Reason::ApplyFailed, failed.clone());
    }
    if let Err(missing) = &wanted.proxies {
        return (false, Reason::Pending, (*missing).to_owned());
    }
    if status.public_address.is_none() {
        return (false, Reason::Pending, "waiting for its address".to_owned());
    }
    let known = epic_crds::condition::find(&before.conditions, PROGRAMMED);
    let generation = found.balancer.metadata.generation.unwrap_or(0);
    let begins = differs_in_content(before, status)
        || known.is_none_or(|known| known.observed_generation != Some(generation));
    if begins {
        return (false, Reason::NodesPending, "what is programmed has just changed".to_owned());
    }
    // Only a change of content withdraws it; nodes that come and go later do not.
    if let Some(known) = known.filter(|known| known.status == ConditionStatus::True) {
        return (true, Reason::Programmed, known.message.clone());
    }
    let awaited = found.balancer.resource_version().and_then(|version| version.parse::<Revision>().ok());
    let Some(awaited) = awaited else { return (false, Reason::Pending, String::new()) };
    let decision = programmed(generation, awaited, &wanted.configured, &found.revisions);
    let message = decision.to_string();
    match decision {
        Programmed::Yes { .. } if wanted.configured.is_empty() => {
            (false, Reason::ProxiesPending, "no proxy runs yet".to_owned())
        }
        Programmed::Yes { .. } => (true, Reason::Programmed, message),
        Programmed::Waiting { proxies, .. } if !proxies.is_empty() => {
            (false, Reason::ProxiesPending, message)
        }
        Programmed::Waiting { .. } => (false, Reason::NodesPending, message),
        Programmed::Rejected { .. } => (false, Reason::ProxyRejected, message),
    }
}

fn refused(refusal: &Refusal) -> Reason {
    match refusal {
        Refusal::NoPool { .. } => Reason::PoolNotFound,
        Refusal::NotInPool { .. } => Reason::AddressNotInPool,
        Refusal::Taken { .. } => Reason::AddressTaken,
        Refusal::Exhausted(_) => Reason::PoolExhausted,
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
