//! Which Endpoints ready proxies have acknowledged, and at which generation, as far as this replica has served them.

use std::collections::BTreeMap;

use epic_xds::engine::EndpointRef;
use kates::Key;
use parking_lot::Mutex;
use tokio::sync::broadcast;

/// Endpoints of one LoadBalancer by uid: a successor of the same name is somebody else.
pub(super) type Endpoints = BTreeMap<String, Acknowledged>;

/// What is acknowledged of an Endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acknowledged {
    /// Its name.
    pub name: String,
    /// Its generation.
    pub generation: i64,
}

/// The Endpoints that one proxy has. One that serves several ports has the oldest of its forms: where an edit moves it
/// from one port to another, both assignments must have been acknowledged.
pub(super) fn of_proxy<'e>(held: impl IntoIterator<Item = &'e EndpointRef>) -> Endpoints {
    let mut endpoints = Endpoints::new();
    for held in held {
        let Some((_, name)) = held.object.split_once('/') else { continue };
        let known = Acknowledged { name: name.to_owned(), generation: held.generation };
        let entry = endpoints.entry(held.uid.to_string()).or_insert(known);
        entry.generation = entry.generation.min(held.generation);
    }
    endpoints
}

/// Adds those of a further proxy. One proxy is enough to be programmed.
pub(super) fn merge(into: &mut Endpoints, more: Endpoints) {
    for (uid, more) in more {
        let entry = into.entry(uid).or_insert_with(|| more.clone());
        entry.generation = entry.generation.max(more.generation);
    }
}

/// Endpoints by LoadBalancer that stand in an acknowledged assignment.
#[derive(Debug)]
pub struct Assigned {
    by_balancer: Mutex<BTreeMap<Key, Endpoints>>,
    changed: broadcast::Sender<Key>,
}

impl Default for Assigned {
    fn default() -> Self {
        let (changed, _) = broadcast::channel(4_096);
        Self { by_balancer: Mutex::default(), changed }
    }
}

impl Assigned {
    /// The generation at which the Endpoint with this uid is in an acknowledged assignment.
    pub fn generation(&self, balancer: &Key, uid: &str) -> Option<i64> {
        Some(self.by_balancer.lock().get(balancer)?.get(uid)?.generation)
    }

    /// Replaces what is acknowledged for a LoadBalancer.
    pub(super) fn publish(&self, balancer: &Key, endpoints: Endpoints) {
        let mut by_balancer = self.by_balancer.lock();
        let before = by_balancer.insert(balancer.clone(), endpoints).unwrap_or_default();
        let Some(now) = by_balancer.get(balancer) else { return };
        let gone = before.iter().filter(|(uid, _)| !now.contains_key(*uid));
        let changed = now.iter().filter(|(uid, endpoint)| before.get(*uid) != Some(endpoint));
        for (_, endpoint) in gone.chain(changed) {
            if let Some(namespace) = balancer.namespace() {
                // Nobody listening is no error.
                let _ = self.changed.send(Key::namespaced(namespace, endpoint.name.as_str()));
            }
        }
    }

    /// Forgets all LoadBalancers for which `served` says no: they have no proxies here.
    pub(super) fn retain(&self, served: impl Fn(&Key) -> bool) {
        self.by_balancer.lock().retain(|balancer, _| served(balancer));
    }

    /// Keys of Endpoints whose acknowledgement changed.
    pub fn changes(&self) -> broadcast::Receiver<Key> {
        self.changed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(list: &[(&str, i64)]) -> Endpoints {
        let refs: Vec<EndpointRef> = list
            .iter()
            .map(|(uid, generation)| EndpointRef {
                object: "epic-red/a".into(),
                uid: (*uid).into(),
                generation: *generation,
            })
            .collect();
        of_proxy(&refs)
    }

    #[test]
    fn a_successor_of_the_same_name_has_acknowledged_nothing() {
        let assigned = Assigned::default();
        let mut changes = assigned.changes();
        let balancer = Key::namespaced("epic-red", "web");
        assigned.publish(&balancer, held(&[("u1", 1)]));
        assert_eq!(assigned.generation(&balancer, "u1"), Some(1));
        assert_eq!(assigned.generation(&balancer, "u2"), None);
        assert_eq!(changes.try_recv().unwrap(), Key::namespaced("epic-red", "a"));
        assigned.publish(&balancer, held(&[("u1", 1)]));
        assert!(changes.try_recv().is_err(), "nothing changed");
        assigned.retain(|_| false);
        assert_eq!(assigned.generation(&balancer, "u1"), None);
    }

    #[test]
    fn a_new_generation_and_an_endpoint_that_goes_are_told() {
        let assigned = Assigned::default();
        let mut changes = assigned.changes();
        let balancer = Key::namespaced("epic-red", "web");
        for endpoints in [held(&[("u1", 1)]), held(&[("u1", 2)]), held(&[])] {
            assigned.publish(&balancer, endpoints);
            assert_eq!(changes.try_recv().unwrap(), Key::namespaced("epic-red", "a"));
        }
    }

    #[test]
    fn of_two_ports_the_older_form_counts_and_of_two_proxies_the_newer() {
        let mut endpoints = held(&[("u1", 1), ("u1", 2)]);
        assert_eq!(endpoints["u1"].generation, 1);
        merge(&mut endpoints, held(&[("u1", 2), ("u2", 1)]));
        assert_eq!((endpoints["u1"].generation, endpoints["u2"].generation), (2, 1));
        merge(&mut endpoints, held(&[("u1", 1)]));
        assert_eq!(endpoints["u1"].generation, 2);
    }
}
