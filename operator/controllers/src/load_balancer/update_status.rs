//! What a LoadBalancer's status says. One PUT, and only when something differs.

use epic_crds::condition::{ACCEPTED, ADVERTISED, ENDPOINTS, PROGRAMMED, READY, find, set};
use epic_crds::{HasConditions, LoadBalancer, LoadBalancerReason as Reason, LoadBalancerStatus, ProxyState};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kates::Key;
use kube::Resource;

use super::advertised::advertised;
use super::apply::{Done, complete_spec};
use super::awaited::Awaited;
use super::build::Wanted;
use super::in_force::{in_force, obstacle};
use super::validate::{Refused, Valid};
use super::{Found, traffic};
use crate::context::Shared;
use crate::reconcile::{Error, now, publish_status};

/// Writes `Accepted` when it is another one than before, with `Ready` and `Programmed` of one that is refused and was
/// never served. Says whether it wrote.
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

/// Puts the judgement into the conditions; says whether that changed anything. One that is served is served on: its
/// other conditions are about that, and only `Accepted` tells of the refusal.
pub(super) fn judged(
    status: &mut LoadBalancerStatus,
    valid: &Result<Valid, Refused>,
    generation: Option<i64>,
    now: &Time,
) -> bool {
    let served = status.service_id.is_some();
    let conditions = &mut status.conditions;
    let Err(Refused { reason, message }) = valid else {
        return set(conditions, ACCEPTED, true, Reason::Accepted, "", generation, now);
    };
    let mut changed = set(conditions, ACCEPTED, false, *reason, message, generation, now);
    if !served {
        changed |= set(conditions, PROGRAMMED, false, *reason, message, generation, now);
        changed |= set(conditions, READY, false, *reason, message, generation, now);
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
    let changes = proxy_changes(balancer.status.as_ref(), after.status.as_ref());
    let written = publish_status(context, balancer.as_ref(), after).await?;
    for change in changes.iter().filter(|_| written) {
        context.events.note(&balancer.object_ref(&()), Reason::ProxyChanged, "Proxy", change);
    }
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
        (status.endpoints, status.proxies_ready, status.summary) = (None, None, None);
        status
    };
    balancer.status.as_ref().is_some_and(|before| plain(before) == plain(after))
}

/// Proxies that take traffic now, or do not any more, in words.
fn proxy_changes(before: Option<&LoadBalancerStatus>, after: Option<&LoadBalancerStatus>) -> Vec<String> {
    let proxies =
        |status: Option<&LoadBalancerStatus>| status.map(|status| status.proxies.clone()).unwrap_or_default();
    let before = proxies(before);
    let was = |uid: &str| before.iter().find(|known| known.pod_uid == uid).map(|known| known.state);
    proxies(after)
        .into_iter()
        .filter(|proxy| was(&proxy.pod_uid).unwrap_or_default() != proxy.state)
        .map(|proxy| match proxy.state {
            ProxyState::Ready => format!("{} takes traffic", proxy.pod),
            ProxyState::Draining => format!("{} drains: it keeps the connections it has", proxy.pod),
            ProxyState::Pending => format!("{} takes no new connections: it is not ready", proxy.pod),
        })
        .collect()
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
    // Of one whose present generation is refused, the generation before goes on; proxies acknowledge that one.
    let programmed = match valid {
        Ok(_) => Some(generation.unwrap_or(0)),
        Err(_) => find(&before.conditions, PROGRAMMED).and_then(|known| known.observed_generation),
    };
    let in_force = programmed.map(|programmed| {
        let judged = in_force(found, wanted, programmed, obstacle.as_ref(), &before, &status, awaited);
        let (value, reason, message) = judged.clone();
        set(&mut status.conditions, PROGRAMMED, value, reason, message, Some(programmed), now);
        judged
    });
    let in_force = in_force.or_else(|| traffic::as_before(&before));

    let counts = traffic::counts(found);
    let (value, reason, message) = traffic::endpoints(found, &counts);
    set(&mut status.conditions, ENDPOINTS, value, reason, message, generation, now);

    if let Some(announcement) = &found.announcement {
        let ((value, reason, message), by) = advertised(found, announcement, &found.heard);
        set(&mut status.conditions, ADVERTISED, value, reason, message, generation, now);
        status.advertised_by = by;
    }

    let (value, reason, message) = traffic::ready(found, wanted, valid.as_ref().err(), obstacle, in_force);
    set(&mut status.conditions, READY, value, reason, message, generation, now);
    status.summary = Some(traffic::summary(found, wanted, &counts));
    status.proxies_ready = i64::try_from(wanted.ready).ok();
    status.endpoints = Some(counts);
    status
}
