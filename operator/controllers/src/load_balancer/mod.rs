//! The LoadBalancer's controller: address, proxies, slots, and whether all of it is in force.
//!
//! Who writes what of a LoadBalancer's status: the allocators put `service-id`, new rows of `proxies` and new
//! tunnels, and take out what is no longer needed; [`crate::claim::grant`] puts `public-address`; everything else is
//! put here, in one PUT at the version that was read, and only when something differs.
//!
//! A LoadBalancer that is refused after it was granted something is not taken away: it keeps its grants and its
//! proxies, their states and certificates are looked after, and `Accepted` says what is wrong. Only its deletion ends
//! it.

mod advertised;
mod apply;
mod awaited;
mod build;
mod dereference;
mod in_force;
#[cfg(test)]
mod situations;
#[cfg(test)]
mod tests;
mod traffic;
mod update_status;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use epic_crds::condition::ACCEPTED;
use epic_crds::{HasConditions, LoadBalancer};
use epic_model::proxy::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kates::{Key, Subject};
use kube::runtime::controller::Action;

pub use advertised::{Announcement, Answer, Answers};
pub use awaited::Awaited;
pub use build::{granted, known};
pub use dereference::{Found, load};
pub use validate::{Refused, Valid, check, port as plain_port, protocol as plain_protocol, served};

use crate::context::Shared;
use crate::reconcile::{Error, now};
use crate::uninstall;

/// Another look while the LoadBalancer waits for something that rings no bell.
const SOON: Duration = Duration::from_secs(5);
/// Another look while a pod is not ready, whose container may run without ever coming to the xDS server.
const WHILE_PODS_START: Duration = Duration::from_secs(15);
/// Another look after a write whose bell may have rung already.
const AT_ONCE: Duration = Duration::from_millis(250);

/// One pass over one LoadBalancer.
///
/// # Errors
/// What the API server answers; the caller waits and calls again.
pub async fn reconcile(subject: Arc<Subject<LoadBalancer>>, context: Shared) -> Result<Action, Error> {
    let key: Key = subject.key();
    let snapshot = context.snapshot()?;
    let Some(found) = dereference::load(&snapshot, &context, &key) else {
        context.certificates.forget(&key);
        context.awaited.forget(&key);
        return Ok(Action::await_change());
    };
    if found.balancer.metadata.deletion_timestamp.is_some() || uninstall::is_under_way(&snapshot) {
        return Ok(Action::await_change());
    }
    let valid = validate::check(&found);
    if update_status::accepted(&context, &found, &valid).await? {
        // The write rings this controller's own bell; what follows wants the object as it is now.
        return Ok(Action::await_change());
    }
    // What has been granted is served on, whatever is refused: a change of the spec, or what it refers to is gone.
    let served = found.balancer.status.as_ref().is_some_and(|status| status.service_id.is_some());
    if valid.is_err() && !served {
        return Ok(full_pass(&context));
    }
    if !served && is_left_to_allocator(&found, &now()) {
        return Ok(Action::requeue(SOON));
    }
    let wanted = build::plan(&found, valid.as_ref().ok());
    let done = apply::run(&context, &snapshot, &found, &wanted).await?;
    let settled = update_status::publish(&context, &found, &valid, &wanted, &done).await?;
    Ok(match (settled, done.moved) {
        (true, _) if found.pods.iter().any(starts) => Action::requeue(WHILE_PODS_START),
        (true, _) => full_pass(&context),
        // Whatever gives it an address after all is an event: of a claim, a pool, its group, its Account or itself.
        (false, false) if done.refusal.is_some() => full_pass(&context),
        (false, true) => Action::requeue(AT_ONCE),
        (false, false) => Action::requeue(SOON),
    })
}

/// Whether the allocator goes first. It reserves an ID for one version of the LoadBalancer, so a write meanwhile makes
/// it begin anew. Not for long, and not when it has said why there is none: then the status has to say so too.
fn is_left_to_allocator(found: &Found, now: &Time) -> bool {
    let accepted = found.balancer.condition(ACCEPTED);
    let waits = accepted.map(|known| now.0.duration_since(known.last_transition_time.0));
    found.verdict.is_none() && waits.is_some_and(|waits| waits.unsigned_abs() < SOON)
}

fn starts(pod: &Pod) -> bool {
    !pod.ready && !pod.deleting && !pod.ended
}

fn full_pass(context: &Shared) -> Action {
    Action::requeue(context.settings.full_pass)
}
