//! Envoy sync: follows the tables and publishes the view of every service whose rows changed.
//!
//! Guarantees: nothing is published before every initializer of the tables has completed, so a restarted operator
//! never shows a part of the world; views of services that are gone are withdrawn; a change of one service costs
//! nothing for the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use epic_lb::{Changes, Frontend, Service, ServiceName, Snapshot, Tables};

use crate::identity::Identity;
use crate::resources;
use crate::views::Views;

/// Follows `tables` until the task is dropped.
pub async fn run(tables: Arc<Tables>, views: Arc<Views>) {
    let mut any = tables.watch_any();
    while !tables.snapshot().initialized() {
        if any.changed().await.is_err() {
            return;
        }
    }
    let mut sync = Sync::new(&tables, views);
    loop {
        sync.step();
        sync.changed().await;
    }
}

struct Sync {
    services: Changes<Service>,
    frontends: Changes<Frontend>,
    published: BTreeMap<ServiceName, Identity>,
    views: Arc<Views>,
}

impl Sync {
    fn new(tables: &Arc<Tables>, views: Arc<Views>) -> Self {
        Self {
            services: tables.changes(true),
            frontends: tables.changes(true),
            published: BTreeMap::new(),
            views,
        }
    }

    async fn changed(&mut self) {
        tokio::select! {
            () = self.services.changed() => {}
            () = self.frontends.changed() => {}
        }
    }

    fn step(&mut self) {
        let (services, _) = self.services.poll();
        let (frontends, snapshot) = self.frontends.poll();
        let mut touched: BTreeSet<ServiceName> = services.iter().map(|c| c.row().name.clone()).collect();
        for change in &frontends {
            touched.insert(change.row().params.service.clone());
            if let epic_lb::Change::Updated { old, .. } = change {
                touched.insert(old.params.service.clone());
            }
        }
        for name in touched {
            self.publish(&name, &snapshot);
        }
    }

    fn publish(&mut self, name: &ServiceName, snapshot: &Snapshot) {
        let service = snapshot.services.get(name);
        let identity = service.map(|s| resources::identity(s));
        if let Some(old) = self.published.get(name)
            && identity.as_ref() != Some(old)
        {
            self.views.withdraw(old);
            self.published.remove(name);
        }
        if let (Some(service), Some(identity)) = (service, identity) {
            let frontends = snapshot.frontends_of(name).map(Arc::as_ref);
            self.views.publish(&identity, resources::build(service, frontends));
            self.published.insert(name.clone(), identity);
        }
    }
}
