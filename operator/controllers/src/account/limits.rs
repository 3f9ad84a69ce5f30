//! How far the limits of Accounts are used, and who is beyond them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use epic_crds::well_known::{EPIC_NAMESPACE, tenant_namespace};
use epic_crds::{Account, Endpoint, LoadBalancer, ServiceGroup};
use epic_model::account::{Counted, Limit, Proxied, Usage, fit, fit_proxies};
use epic_model::allocation::Counter;
use epic_model::id::Seconds;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kates::Snapshot;
use kube::ResourceExt;
use parking_lot::Mutex;

use crate::allocation::facts::Facts;
use crate::proxy::{Census, ReplicaSet, has_ended};
use crate::service_group::group_of;
use crate::tenant::keys::MOST_LOAD_BALANCERS;

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

/// How many LoadBalancers an Account may have. Their keys lie in one Secret, which can hold only so many.
pub fn load_balancer_limit(account: &Account) -> u64 {
    limit(account.spec.load_balancer_limit, Limit::LoadBalancers).min(MOST_LOAD_BALANCERS)
}

/// How many AddressClaims an Account may have, those counted that are being released.
pub fn most_claims(account: &Account) -> usize {
    epic_model::claim::most_claims(load_balancer_limit(account))
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
        load_balancer_limit(account),
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

/// Who is admitted, by namespace: sorted once for all objects of a namespace, and again when something that the order
/// is made of differs. An object that is refused would else cost a walk over all others with each of its reconciles.
#[derive(Default)]
pub struct Admissions {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    seen: Option<Snapshot>,
    by_namespace: HashMap<String, Arc<Limits>>,
}

impl Admissions {
    /// The limits of the Account of a namespace.
    pub fn of(&self, snapshot: &Snapshot, account: &Account, namespace: &str) -> Arc<Limits> {
        let mut known = self.known.lock();
        match &known.seen {
            Some(seen) => match outdated(seen, snapshot) {
                Some(outdated) => known.by_namespace.retain(|namespace, _| !outdated.contains(namespace)),
                None => known.by_namespace.clear(),
            },
            None => known.by_namespace.clear(),
        }
        known.seen = Some(snapshot.clone());
        let counted = || Arc::new(limits(snapshot, account, namespace));
        Arc::clone(known.by_namespace.entry(namespace.to_owned()).or_insert_with(counted))
    }
}

/// The namespaces whose counts differ between two snapshots, whichever is the older; `None`: all. Costs in proportion to
/// the changes.
fn outdated(seen: &Snapshot, now: &Snapshot) -> Option<BTreeSet<String>> {
    let mut outdated = BTreeSet::new();
    collect(&mut outdated, seen, now, |balancer: &LoadBalancer| {
        (balancer.is_served(), balancer.spec.service_group.clone())
    });
    collect(&mut outdated, seen, now, Object::is_served as fn(&Endpoint) -> bool);
    collect(&mut outdated, seen, now, |pod: &Pod| {
        (has_ended(pod), pod.metadata.deletion_timestamp.is_some(), pod.owner_references().to_vec())
    });
    collect(&mut outdated, seen, now, |set: &ReplicaSet| set.owner_references().to_vec());
    collect(&mut outdated, seen, now, |deployment: &Deployment| {
        deployment.spec.as_ref().and_then(|spec| spec.replicas)
    });
    let mut groups = BTreeSet::new();
    collect(&mut groups, seen, now, |group: &ServiceGroup| group.spec.envoy_replicas);
    if groups.contains(EPIC_NAMESPACE) {
        return None;
    }
    outdated.extend(groups);
    for change in now.changes_since::<Account>(Some(seen)) {
        let spec = |account: Option<&Account>| account.map(|account| account.spec.clone());
        if spec(change.before.as_deref()) != spec(change.after.as_deref()) {
            outdated.insert(tenant_namespace(change.key.name()));
        }
    }
    Some(outdated)
}

fn collect<K: kates::Object, P: PartialEq>(
    into: &mut BTreeSet<String>,
    seen: &Snapshot,
    now: &Snapshot,
    part: impl Fn(&K) -> P,
) {
    for change in now.changes_since::<K>(Some(seen)) {
        let of = |object: Option<&K>| object.map(|object| (object.meta().uid.clone(), part(object)));
        let Some(namespace) = change.key.namespace().filter(|namespace| !into.contains(*namespace)) else {
            continue;
        };
        if of(change.before.as_deref()) != of(change.after.as_deref()) {
            into.insert(namespace.to_owned());
        }
    }
}
