//! Which Endpoints ready proxies have acknowledged, as far as this replica has served them.

use std::collections::{BTreeMap, BTreeSet};

use kates::Key;
use parking_lot::Mutex;
use tokio::sync::broadcast;

/// Endpoints by LoadBalancer that stand in an acknowledged assignment.
#[derive(Debug)]
pub struct Assigned {
    by_balancer: Mutex<BTreeMap<Key, BTreeSet<String>>>,
    changed: broadcast::Sender<Key>,
}

impl Default for Assigned {
    fn default() -> Self {
        let (changed, _) = broadcast::channel(4_096);
        Self { by_balancer: Mutex::default(), changed }
    }
}

impl Assigned {
    /// Whether the Endpoint is in an acknowledged assignment.
    pub fn holds(&self, namespace: &str, balancer: &str, endpoint: &str) -> bool {
        let key = Key::namespaced(namespace, balancer);
        self.by_balancer.lock().get(&key).is_some_and(|endpoints| endpoints.contains(endpoint))
    }

    /// Replaces what is acknowledged for a LoadBalancer.
    pub fn publish(&self, balancer: &Key, endpoints: BTreeSet<String>) {
        let before = self.by_balancer.lock().insert(balancer.clone(), endpoints.clone()).unwrap_or_default();
        for name in before.symmetric_difference(&endpoints) {
            if let Some(namespace) = balancer.namespace() {
                // Nobody listening is no error.
                let _ = self.changed.send(Key::namespaced(namespace, name.as_str()));
            }
        }
    }

    /// Forgets a LoadBalancer that is gone.
    pub fn forget(&self, balancer: &Key) {
        self.by_balancer.lock().remove(balancer);
    }

    /// Keys of Endpoints whose acknowledgement changed.
    pub fn changes(&self) -> broadcast::Receiver<Key> {
        self.changed.subscribe()
    }
}
