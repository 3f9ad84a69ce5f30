//! Which Endpoints ready proxies have acknowledged, as far as this replica has served them.

use std::collections::{BTreeMap, BTreeSet};

use kates::Key;
use parking_lot::Mutex;
use tokio::sync::broadcast;

/// An Endpoint: its uid and its name. A successor of the same name is somebody else.
pub(super) type Assignee = (String, String);

/// Endpoints by LoadBalancer that stand in an acknowledged assignment.
#[derive(Debug)]
pub struct Assigned {
    by_balancer: Mutex<BTreeMap<Key, BTreeSet<Assignee>>>,
    changed: broadcast::Sender<Key>,
}

impl Default for Assigned {
    fn default() -> Self {
        let (changed, _) = broadcast::channel(4_096);
        Self { by_balancer: Mutex::default(), changed }
    }
}

impl Assigned {
    /// Whether the Endpoint with this uid is in an acknowledged assignment.
    pub fn holds(&self, namespace: &str, balancer: &str, uid: &str) -> bool {
        let key = Key::namespaced(namespace, balancer);
        let by_balancer = self.by_balancer.lock();
        by_balancer.get(&key).is_some_and(|endpoints| endpoints.iter().any(|(known, _)| known == uid))
    }

    /// Replaces what is acknowledged for a LoadBalancer.
    pub(super) fn publish(&self, balancer: &Key, endpoints: BTreeSet<Assignee>) {
        let before = self.by_balancer.lock().insert(balancer.clone(), endpoints.clone()).unwrap_or_default();
        for (_, name) in before.symmetric_difference(&endpoints) {
            if let Some(namespace) = balancer.namespace() {
                // Nobody listening is no error.
                let _ = self.changed.send(Key::namespaced(namespace, name.as_str()));
            }
        }
    }

    /// Forgets all LoadBalancers but those that have proxies here.
    pub fn retain(&self, served: &BTreeSet<Key>) {
        self.by_balancer.lock().retain(|balancer, _| served.contains(balancer));
    }

    /// Keys of Endpoints whose acknowledgement changed.
    pub fn changes(&self) -> broadcast::Receiver<Key> {
        self.changed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_of_the_same_name_has_acknowledged_nothing() {
        let assigned = Assigned::default();
        let mut changes = assigned.changes();
        let balancer = Key::namespaced("epic-red", "web");
        assigned.publish(&balancer, [("u1".to_owned(), "a".to_owned())].into());
        assert!(assigned.holds("epic-red", "web", "u1"));
        assert!(!assigned.holds("epic-red", "web", "u2"));
        assert_eq!(changes.try_recv().unwrap(), Key::namespaced("epic-red", "a"));
        assigned.publish(&balancer, [("u1".to_owned(), "a".to_owned())].into());
        assert!(changes.try_recv().is_err(), "nothing changed");
        assigned.retain(&BTreeSet::new());
        assert!(!assigned.holds("epic-red", "web", "u1"));
    }
}
