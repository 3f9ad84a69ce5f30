//! Verbs for services and redirects.

use std::collections::BTreeSet;
use std::sync::Arc;

use epic_store::{Row as _, Stored};

use super::{WriteError, WriteTxn};
use crate::rows::{Frontend, FrontendKey, Redirect, Service, ServiceKey, ServiceName};

impl WriteTxn<'_> {
    /// Writes a service as this source has it; returns the row it replaced.
    pub fn upsert_service(&mut self, service: Service) -> Option<Arc<Stored<Service>>> {
        let service = Service { source: self.source, ..service };
        let key = service.key();
        let old = self.tables().services.get(key).cloned();
        self.put(service);
        old
    }

    /// Writes a service and makes the given frontends the only ones that this source wants for it. Those whose address
    /// another service has wait for it.
    ///
    /// # Errors
    /// [`WriteError::ForeignFrontend`]; then nothing is written.
    pub fn upsert_service_and_frontends(
        &mut self,
        service: Service,
        frontends: Vec<Frontend>,
    ) -> Result<(), WriteError> {
        if let Some(foreign) = frontends.iter().find(|frontend| frontend.service != service.name) {
            return Err(WriteError::ForeignFrontend {
                frontend: foreign.key,
                service: service.name,
                named: foreign.service.clone(),
            });
        }
        let name = service.name.clone();
        let wanted: BTreeSet<FrontendKey> = frontends.iter().map(|frontend| frontend.key).collect();
        self.upsert_service(service);
        for key in self.claims_of(&name) {
            if !wanted.contains(&key) {
                self.give_up(key, name.id(), self.source);
            }
        }
        for frontend in frontends {
            self.upsert_frontend(frontend)?;
        }
        Ok(())
    }

    /// Removes a service of this source with its frontends, wishes, redirect and backends; says whether it was there.
    /// What other sources say of it stays.
    pub fn delete_service_and_frontends(&mut self, name: &ServiceName) -> bool {
        for key in self.claims_of(name) {
            self.give_up(key, name.id(), self.source);
        }
        self.release_backends(name);
        let key = ServiceKey { service: name.id(), source: self.source };
        self.store.remove::<Redirect>(key);
        self.store.remove::<Service>(key).is_some()
    }

    /// Removes all services of this source, as when it starts over with a list. Returns how many.
    pub fn delete_services(&mut self) -> usize {
        self.retain_services(|_| false)
    }

    /// Removes those services of this source that are not to be kept. Returns how many.
    pub fn retain_services(&mut self, keep: impl Fn(&ServiceName) -> bool) -> usize {
        let services = self.tables().services.iter();
        let gone = services.filter(|row| row.source == self.source && !keep(&row.name));
        let gone: Vec<ServiceName> = gone.map(|row| row.name.clone()).collect();
        for name in &gone {
            self.delete_service_and_frontends(name);
        }
        gone.len()
    }

    /// Says where the traffic of a service goes instead; `None`: nowhere. The service need not exist yet.
    pub fn set_redirect(&mut self, service: &ServiceName, redirect: Option<Redirect>) {
        match redirect {
            Some(redirect) => {
                self.put(Redirect { service: service.clone(), source: self.source, ..redirect });
            }
            None => {
                let key = ServiceKey { service: service.id(), source: self.source };
                self.store.remove::<Redirect>(key);
            }
        }
    }

    /// Addresses that this source has or wants for a service.
    fn claims_of(&self, name: &ServiceName) -> Vec<FrontendKey> {
        let (tables, source) = (self.tables(), self.source);
        let has = tables.frontends_of(name.id()).filter(|row| row.source == source).map(|row| row.key);
        let wants = tables.wishes_of(name.id()).filter(|row| row.0.source == source).map(|row| row.0.key);
        has.chain(wants).collect()
    }
}
