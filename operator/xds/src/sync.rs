//! Envoy sync: follows the tables and publishes the view of every service whose rows changed.
//!
//! Guarantees: nothing is published before every initializer of the tables has completed, so a restarted operator
//! never shows a part of the world; views of services that are gone are withdrawn; a change of one service costs
//! nothing for the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use epic_lb::{Here, Reader, ServiceName, Snapshot};

use crate::identity::Identity;
use crate::resources;
use crate::views::Views;

/// Follows `tables` until the task is dropped.
pub async fn run(tables: Reader, views: Arc<Views>) {
    let mut any = tables.watch_any();
    while !tables.snapshot().initialized() {
        if any.changed().await.is_err() {
            return;
        }
    }
    let mut sync = Sync { seen: Arc::default(), published: BTreeMap::new(), views };
    loop {
        any.mark_unchanged();
        sync.step(tables.snapshot());
        if any.changed().await.is_err() {
            return;
        }
    }
}

struct Sync {
    seen: Arc<Snapshot>,
    published: BTreeMap<ServiceName, Identity>,
    views: Arc<Views>,
}

impl Sync {
    fn step(&mut self, snapshot: Arc<Snapshot>) {
        for name in snapshot.services_changed(&self.seen) {
            self.publish(&name, &snapshot);
        }
        self.seen = snapshot;
    }

    fn publish(&mut self, name: &ServiceName, snapshot: &Snapshot) {
        let service = snapshot.service(name.id());
        let identity = service.map(|service| resources::identity(service));
        if let Some(old) = self.published.get(name)
            && identity.as_ref() != Some(old)
        {
            self.views.withdraw(old);
            self.published.remove(name);
        }
        if let (Some(service), Some(identity)) = (service, identity) {
            self.views.publish(&identity, resources::build(snapshot, service, Here::default()));
            self.published.insert(name.clone(), identity);
        }
    }
}
