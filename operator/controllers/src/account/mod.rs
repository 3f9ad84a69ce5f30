//! The Account's controller, and what others ask about Accounts: which one a namespace belongs to, and its limits.

mod apply;
pub mod departure;
mod dereference;
mod foreign;
mod update_status;

use std::sync::Arc;

use epic_crds::condition::ACCEPTED;
use epic_crds::well_known::{EPIC_NAMESPACE, TENANT_NAMESPACE_PREFIX};
use epic_crds::{Account, AccountReason as Reason, EPIC, Endpoint, HasConditions, LoadBalancer};
use epic_model::account::{self as model, Counted, Limit, Proxied, Usage, fit, fit_proxies};
use epic_model::allocation::Counter;
use epic_model::id::{AccountName, Seconds};
use kates::{Key, Snapshot, Subject};
use kube::ResourceExt;
use kube::runtime::controller::Action;

pub use dereference::{Found, load};
pub use foreign::Refused;

use crate::allocation::facts::Facts;
use crate::context::Shared;
use crate::proxy::Census;
use crate::reconcile::Error;
use crate::service_group::group_of;
use crate::uninstall;

/// One pass over one Account.
///
/// # Errors
/// What the API server answers; the caller waits and calls again.
pub async fn reconcile(subject: Arc<Subject<Account>>, context: Shared) -> Result<Action, Error> {
    let snapshot = context.snapshot()?;
    let Some(found) = load(&snapshot, &context, &subject.key()) else { return Ok(Action::await_change()) };
    if uninstall::is_under_way(&snapshot) {
        return Ok(Action::await_change());
    }
    if found.account.metadata.deletion_timestamp.is_some() {
        update_status::departing(&context, &found).await?;
        return Ok(Action::requeue(context.settings.full_pass));
    }
    let judged = check(&found);
    if update_status::accepted(&context, &found, judged.as_ref().map(|_| ())).await? {
        // The write rings this controller's own bell; what follows wants the object as it is now.
        return Ok(Action::await_change());
    }
    let Ok((name, epic)) = judged else { return Ok(Action::requeue(context.settings.full_pass)) };
    let done = apply::run(&context, &snapshot, &found, &name, &epic).await?;
    update_status::publish(&context, &found, name.namespace().as_str(), &done).await
}

/// Judges an Account; the error is the first thing to mend. Pure.
fn check(found: &Found) -> Result<(AccountName, Arc<EPIC>), (Reason, String)> {
    let name = model::resolve(&plain(&found.account), &found.all).map_err(|refusal| {
        let reason = match refusal {
            model::Refusal::Namesake(_) => Reason::DuplicateAccount,
            model::Refusal::Name(_) | model::Refusal::Misplaced { .. } => Reason::WrongNamespace,
        };
        (reason, refusal.to_string())
    })?;
    let granted = found.account.status.as_ref().is_some_and(|status| status.group_id.is_some());
    match &found.epic {
        None => {
            Err((Reason::EpicNotReady, "there is no EPIC object; create epic in namespace epic".to_owned()))
        }
        // Settings that were broken later take nothing from those who are served already.
        Some(epic) if !granted && !epic.is_condition_true(ACCEPTED) => {
            Err((Reason::EpicNotReady, "the EPIC object is not accepted; see its conditions".to_owned()))
        }
        Some(epic) => Ok((name, Arc::clone(epic))),
    }
}

/// The Accounts that count, each with its tenant namespace: X in `epic` or in `epic-X`, the one in `epic` first.
pub fn accounts_in_force(snapshot: &Snapshot) -> Vec<(Arc<Account>, String)> {
    let all: Vec<model::Account> = snapshot.list::<Account>().map(|account| plain(account)).collect();
    snapshot
        .list::<Account>()
        .filter_map(|account| {
            let name = model::resolve(&plain(account), &all).ok()?;
            Some((Arc::clone(account), name.namespace().as_str().to_owned()))
        })
        .collect()
}

/// The Account that a namespace belongs to.
pub fn account_of(snapshot: &Snapshot, namespace: &str) -> Option<Arc<Account>> {
    let name = namespace.strip_prefix(TENANT_NAMESPACE_PREFIX)?;
    let shared = Key::namespaced(EPIC_NAMESPACE, name);
    snapshot.get::<Account>(&shared).or_else(|| snapshot.get(&Key::namespaced(namespace, name))).cloned()
}

/// An Account as the model sees it.
pub fn plain(account: &Account) -> model::Account {
    model::Account {
        name: account.name_any().into(),
        namespace: account.namespace().unwrap_or_default().into(),
        uid: account.uid().unwrap_or_default().into(),
    }
}

/// How far an Account's limits are used.
#[derive(Clone, Debug)]
pub struct Limits {
    /// LoadBalancers.
    pub load_balancers: Usage,
    /// Proxies: those that are there, draining ones included, and those that are to come and fit.
    pub proxies: Usage,
    /// Endpoints.
    pub endpoints: Usage,
}

/// How many Endpoints an Account may have.
pub fn endpoint_limit(account: &Account) -> u64 {
    limit(account.spec.endpoint_limit, Limit::Endpoints)
}

/// How many AddressClaims an Account may have, those counted that are being released.
pub fn most_claims(account: &Account) -> usize {
    epic_model::claim::most_claims(limit(account.spec.load_balancer_limit, Limit::LoadBalancers))
}

fn limit(written: Option<i64>, limit: Limit) -> u64 {
    written.and_then(|written| u64::try_from(written).ok()).unwrap_or(limit.default_value())
}

/// The limits of an Account, and who is beyond them. What is served goes before what is not, so a limit that is
/// lowered takes nothing away; then the oldest first, so every replica decides the same. Of proxies only more than
/// there are can be refused.
pub fn limits(snapshot: &Snapshot, account: &Account, namespace: &str) -> Limits {
    let spec = &account.spec;
    let counted = |object: &dyn Object, amount: u64| Counted {
        uid: object.uid_text().into(),
        created: if object.is_served() { Seconds(i64::MIN) } else { Seconds(object.created()) },
        amount,
    };
    let balancers: Vec<&LoadBalancer> =
        snapshot.in_namespace::<LoadBalancer>(namespace).map(AsRef::as_ref).collect();
    let load_balancers = fit(
        &balancers.iter().map(|balancer| counted(*balancer, 1)).collect::<Vec<_>>(),
        limit(spec.load_balancer_limit, Limit::LoadBalancers),
    );
    let replicas = |balancer: &LoadBalancer| {
        group_of(snapshot, balancer).map_or(0, |group| group.spec.envoy_replicas().max(0).unsigned_abs())
    };
    let census = Census::within(snapshot, namespace);
    let proxied: Vec<Proxied> = balancers
        .iter()
        .map(|balancer| {
            let uid = balancer.uid_text().into();
            let fits = !load_balancers.refused.contains(&uid);
            Proxied {
                served: balancer.is_served(),
                created: Seconds(balancer.created()),
                // What is beyond the limit of LoadBalancers keeps what it has, and gets no more.
                wanted: if fits { replicas(balancer) } else { 0 },
                granted: census.granted(balancer),
                running: census.running(balancer),
                uid,
            }
        })
        .collect();
    let draining = census.others(proxied.iter().map(|balancer| balancer.running).sum());
    let proxies = fit_proxies(&proxied, draining, limit(spec.proxy_limit, Limit::Proxies));
    let endpoints = fit(
        &snapshot.in_namespace::<Endpoint>(namespace).map(|e| counted(e.as_ref(), 1)).collect::<Vec<_>>(),
        endpoint_limit(account),
    );
    Limits { load_balancers, proxies, endpoints }
}

/// What counting needs of an object.
trait Object {
    fn uid_text(&self) -> String;
    fn created(&self) -> i64;
    fn is_served(&self) -> bool;
}

impl<K: ResourceExt + Facts> Object for K {
    fn is_served(&self) -> bool {
        self.accepted()
            || [Counter::Service, Counter::Endpoint].iter().any(|counter| self.granted(*counter).is_some())
    }

    fn uid_text(&self) -> String {
        self.uid().unwrap_or_default()
    }

    fn created(&self) -> i64 {
        self.creation_timestamp().map_or(0, |time| time.0.as_second())
    }
}
