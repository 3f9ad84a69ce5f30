//! What the passes over Endpoints have in common, kept from one snapshot to the next.
//!
//! A LoadBalancer may have thousands of Endpoints, and each write of one gives a new snapshot. So nothing here is made
//! anew as long as what it is made of stays, and the siblings follow the changes. Snapshots may come in any order:
//! each call answers for the one that it is given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use epic_crds::{AddressClaim, AddressPool, EPICNode, Endpoint};
use epic_model::endpoint::{self as model, Surroundings};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kates::{Change, Key, Snapshot};
use kube::ResourceExt;
use parking_lot::Mutex;

use super::siblings::Siblings;
use super::surroundings::surroundings;
use super::validate::plain;
use crate::load_balancer::Answers;
use crate::relations::{addresses, gateways, networks, settings};
use crate::tunnels::Tunnels;

/// A value that is made anew when what it is made of differs.
type Kept<T> = Mutex<Option<(Snapshot, Arc<T>)>>;

fn keep<T>(
    kept: &Kept<T>,
    snapshot: &Snapshot,
    differs: impl FnOnce(&Snapshot) -> bool,
    make: impl FnOnce(&Snapshot) -> T,
) -> Arc<T> {
    let mut kept = kept.lock();
    let value = match kept.take() {
        Some((seen, value)) if !differs(&seen) => value,
        _ => Arc::new(make(snapshot)),
    };
    // The next comparison starts here, so the older state can go.
    *kept = Some((snapshot.clone(), Arc::clone(&value)));
    value
}

/// See the module.
#[derive(Default)]
pub struct Index {
    surroundings: Kept<Surroundings>,
    tunnels: Kept<Tunnels>,
    answers: Kept<Answers>,
    followed: Mutex<Followed>,
}

#[derive(Default)]
struct Followed {
    seen: Option<Snapshot>,
    siblings: Siblings,
    /// How many Endpoints a namespace has.
    counts: BTreeMap<String, usize>,
}

impl Index {
    /// What no Endpoint may reach.
    pub fn surroundings(&self, snapshot: &Snapshot) -> Arc<Surroundings> {
        let differs = |seen: &Snapshot| {
            snapshot.differs(seen, settings)
                || snapshot.differs(seen, |claim: &AddressClaim| claim.spec.address.clone())
                || snapshot.differs(seen, |pool: &AddressPool| pool.spec.clone())
                || snapshot.differs(seen, networks)
                || snapshot.differs(seen, |node: &EPICNode| (addresses(node), gateways(node)))
                || snapshot.differs(seen, |cidr: &ServiceCIDR| cidr.spec.clone())
        };
        keep(&self.surroundings, snapshot, differs, surroundings)
    }

    /// What the EPIC nodes say of their tunnels.
    pub fn tunnels(&self, snapshot: &Snapshot) -> Arc<Tunnels> {
        let differs = |seen: &Snapshot| snapshot.differs(seen, Tunnels::part);
        keep(&self.tunnels, snapshot, differs, |snapshot| Tunnels::of(snapshot.list::<EPICNode>()))
    }

    /// What the EPIC nodes say of the addresses that they answer for.
    pub fn answers(&self, snapshot: &Snapshot) -> Arc<Answers> {
        let differs = |seen: &Snapshot| snapshot.differs(seen, Answers::part);
        keep(&self.answers, snapshot, differs, |snapshot| Answers::of(snapshot.list::<EPICNode>()))
    }

    /// Those that decide about an Endpoint, itself included.
    pub fn deciding(
        &self,
        snapshot: &Snapshot,
        endpoint: &Endpoint,
        is_good: impl Fn(&model::Endpoint) -> bool,
    ) -> Vec<model::Endpoint> {
        let Some(mine) = plain(endpoint) else { return Vec::new() };
        let mut followed = self.followed.lock();
        followed.follow(snapshot);
        followed.siblings.deciding(&balancer_of(endpoint), &mine, is_good)
    }

    /// Keys of the Endpoints about which one may decide that comes, goes, or has another spec.
    pub fn concerned(&self, snapshot: &Snapshot, endpoint: &Endpoint) -> BTreeSet<Key> {
        let Some(mine) = plain(endpoint) else { return BTreeSet::new() };
        let namespace = endpoint.namespace().unwrap_or_default();
        let mut followed = self.followed.lock();
        followed.follow(snapshot);
        let names = followed.siblings.concerned(&balancer_of(endpoint), &mine);
        names.into_iter().map(|name| Key::namespaced(namespace.as_str(), name.as_str())).collect()
    }

    /// How many Endpoints a namespace has.
    pub fn count(&self, snapshot: &Snapshot, namespace: &str) -> usize {
        let mut followed = self.followed.lock();
        followed.follow(snapshot);
        followed.counts.get(namespace).copied().unwrap_or(0)
    }
}

impl Followed {
    fn follow(&mut self, snapshot: &Snapshot) {
        for Change { before, after, .. } in snapshot.changes_since::<Endpoint>(self.seen.as_ref()) {
            if let (Some(before), Some(after)) = (&before, &after)
                && before.metadata.uid == after.metadata.uid
                && before.spec == after.spec
            {
                continue;
            }
            if let Some(before) = before {
                self.count(&before, |count| count.saturating_sub(1));
                if let Some(plain) = plain(&before) {
                    self.siblings.remove(&balancer_of(&before), &plain);
                }
            }
            if let Some(after) = after {
                self.count(&after, |count| count + 1);
                if let Some(plain) = plain(&after) {
                    self.siblings.insert(&balancer_of(&after), plain);
                }
            }
        }
        self.seen = Some(snapshot.clone());
    }

    fn count(&mut self, endpoint: &Endpoint, change: impl FnOnce(usize) -> usize) {
        let namespace = endpoint.namespace().unwrap_or_default();
        let count = change(self.counts.get(&namespace).copied().unwrap_or(0));
        if count == 0 {
            self.counts.remove(&namespace);
        } else {
            self.counts.insert(namespace, count);
        }
    }
}

fn balancer_of(endpoint: &Endpoint) -> Key {
    Key::namespaced(endpoint.namespace().unwrap_or_default(), endpoint.spec.load_balancer.as_str())
}
