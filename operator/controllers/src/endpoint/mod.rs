//! The Endpoint's controller: whether it is accepted, its alias, its tunnel, and whether traffic can reach it.
//!
//! `endpoint-id` is put by the Account's allocator, everything else here.

mod index;
pub mod siblings;
#[cfg(test)]
mod situations;
mod surroundings;
#[cfg(test)]
mod tests;
mod update_status;
mod validate;

use std::sync::Arc;

use epic_crds::well_known::{EPIC_NAME, EPIC_NAMESPACE};
use epic_crds::{Account, EPIC, Endpoint, LoadBalancer};
use epic_model::endpoint as model;
use kates::{Key, Snapshot, Subject};
use kube::ResourceExt;
use kube::runtime::controller::Action;

pub use index::Index;
pub use surroundings::surroundings;
pub use validate::{Refused, check};

use crate::account::account_of;
use crate::allocation::verdict::Verdict;
use crate::context::Shared;
use crate::reconcile::{Error, is_accepted_now};
use crate::tunnels::Tunnels;
use crate::witness::Heard;

/// Everything an Endpoint's reconcile looks at.
#[derive(Clone)]
pub struct Found {
    /// The Endpoint.
    pub endpoint: Arc<Endpoint>,
    /// The EPIC object.
    pub epic: Option<Arc<EPIC>>,
    /// The Account of its namespace.
    pub account: Option<Arc<Account>>,
    /// Its LoadBalancer.
    pub balancer: Option<Arc<LoadBalancer>>,
    /// The Endpoints of that LoadBalancer that decide about it, itself included; none when it cannot be read.
    pub siblings: Vec<model::Endpoint>,
    /// Whether it is among those beyond the Account's limit.
    pub over_limit: Option<String>,
    /// What no Endpoint may reach.
    pub surroundings: Arc<model::Surroundings>,
    /// Why its ID is missing.
    pub verdict: Option<Verdict>,
    /// What the EPIC nodes say of their tunnels.
    pub tunnels: Arc<Tunnels>,
    /// Who is heard.
    pub heard: Arc<Heard>,
    /// The generation of it that is in an assignment which a ready proxy has acknowledged, as far as this replica knows.
    pub acknowledged: Option<i64>,
}

/// One pass over one Endpoint.
///
/// # Errors
/// What the API server answers; the caller waits and calls again.
pub async fn reconcile(subject: Arc<Subject<Endpoint>>, context: Shared) -> Result<Action, Error> {
    let snapshot = context.snapshot()?;
    let Some(found) = load(&snapshot, &context, &subject.key()) else { return Ok(Action::await_change()) };
    if found.endpoint.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let judged = validate::check(&found);
    update_status::publish(&context, &found, &judged).await?;
    Ok(Action::requeue(context.settings.full_pass))
}

fn load(snapshot: &Snapshot, context: &Shared, key: &Key) -> Option<Found> {
    let endpoint = Arc::clone(snapshot.get::<Endpoint>(key)?);
    let namespace = endpoint.namespace().unwrap_or_default();
    let account = account_of(snapshot, &namespace);
    let served = Key::namespaced(namespace.as_str(), endpoint.spec.load_balancer.as_str());
    let balancer = snapshot.get::<LoadBalancer>(&served);
    let uid = endpoint.uid().unwrap_or_default();
    let index = &context.endpoints;
    // Who is beyond a limit is asked only where somebody is.
    let over_limit = account.as_ref().and_then(|account| {
        let limit = crate::account::endpoint_limit(account);
        let within = u64::try_from(index.count(snapshot, &namespace)).is_ok_and(|count| count <= limit);
        if within || is_accepted_now(endpoint.as_ref()) {
            return None;
        }
        let limits = context.admissions.of(snapshot, account, &namespace);
        limits.endpoints.refused.contains(&uid.as_str().into()).then(|| limits.endpoints.to_string())
    });
    let surroundings = index.surroundings(snapshot);
    let ports = balancer.map(|balancer| validate::public_ports(balancer)).unwrap_or_default();
    let is_good = |one: &model::Endpoint| model::is_good(one, &ports, &surroundings);
    Some(Found {
        epic: snapshot.get::<EPIC>(&Key::namespaced(EPIC_NAMESPACE, EPIC_NAME)).cloned(),
        balancer: balancer.cloned(),
        siblings: index.deciding(snapshot, &endpoint, is_good),
        over_limit,
        surroundings,
        verdict: context.verdicts.of(&uid),
        tunnels: index.tunnels(snapshot),
        heard: context.witness.heard(),
        acknowledged: context.assigned.generation(&served, &uid),
        account,
        endpoint,
    })
}
