//! Verbs for services and frontends.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{WriteError, WriteTxn};
use crate::rows::{Frontend, FrontendKey, FrontendParams, Service, ServiceName, Source};

impl WriteTxn<'_> {
    /// Writes a service; returns the row it replaced. Its frontends become pending again if it changed.
    pub fn upsert_service(&mut self, service: Service) -> Option<Arc<Service>> {
        let name = service.name.clone();
        let old = self.next.services.get(&name).cloned();
        if self.put(service, |s| &mut s.services) && old.is_some() {
            self.touch_frontends(&name);
        }
        old
    }

    /// Writes a frontend of an existing service; returns the row it replaced.
    ///
    /// # Errors
    /// [`WriteError::ServiceNotFound`]; [`WriteError::AddressConflict`] while another service has the address.
    pub fn upsert_frontend(&mut self, params: FrontendParams) -> Result<Option<Arc<Frontend>>, WriteError> {
        if self.next.services.get(&params.service).is_none() {
            return Err(WriteError::ServiceNotFound { frontend: params.key, service: params.service });
        }
        self.check_owner(&params)?;
        let old = self.next.frontends.get(&params.key).cloned();
        if old.as_ref().is_some_and(|f| f.params == params) {
            return Ok(old);
        }
        self.dirty.insert(params.service.clone());
        let backends = old.as_ref().map(|f| Arc::clone(&f.backends)).unwrap_or_default();
        self.put(Frontend { params, backends }, |s| &mut s.frontends);
        Ok(old)
    }

    /// Writes a service and makes the given frontends the only ones it has. All or nothing.
    ///
    /// # Errors
    /// [`WriteError::AddressConflict`] and [`WriteError::ForeignFrontend`]; then not even the service is written.
    pub fn upsert_service_and_frontends(
        &mut self,
        service: Service,
        frontends: Vec<FrontendParams>,
    ) -> Result<(), WriteError> {
        for params in &frontends {
            if params.service != service.name {
                return Err(WriteError::ForeignFrontend {
                    frontend: params.key,
                    service: service.name,
                    named: params.service.clone(),
                });
            }
            self.check_owner(params)?;
        }
        let wanted: BTreeSet<FrontendKey> = frontends.iter().map(|f| f.key).collect();
        let surplus = self.next.frontends_of(&service.name).map(|f| f.params.key);
        let surplus: Vec<FrontendKey> = surplus.filter(|k| !wanted.contains(k)).collect();
        self.upsert_service(service);
        for key in surplus {
            self.remove(&key, |s| &mut s.frontends);
        }
        for params in frontends {
            self.upsert_frontend(params)?;
        }
        Ok(())
    }

    /// Removes one frontend; says whether it was there.
    pub fn delete_frontend(&mut self, key: &FrontendKey) -> bool {
        self.remove(key, |s| &mut s.frontends).is_some()
    }

    /// Removes a service with its frontends and releases its backends; says whether it was there.
    pub fn delete_service_and_frontends(&mut self, name: &ServiceName) -> bool {
        let frontends: Vec<FrontendKey> = self.next.frontends_of(name).map(|f| f.params.key).collect();
        for key in frontends {
            self.remove(&key, |s| &mut s.frontends);
        }
        let backends: Vec<_> = self.next.backends_of(name).map(|b| b.key.clone()).collect();
        for key in backends {
            self.remove(&key, |s| &mut s.backends);
        }
        self.remove(name, |s| &mut s.services).is_some()
    }

    /// Removes all services of a source, as when it starts over with a list. Returns how many.
    pub fn delete_services_by_source(&mut self, source: Source) -> usize {
        self.retain_services(source, &BTreeSet::new())
    }

    /// Removes those services of a source that are not in `keep`. Returns how many.
    pub fn retain_services(&mut self, source: Source, keep: &BTreeSet<ServiceName>) -> usize {
        let gone = self.next.services.iter().filter(|s| s.source == source && !keep.contains(&s.name));
        let gone: Vec<ServiceName> = gone.map(|s| s.name.clone()).collect();
        for name in &gone {
            self.delete_service_and_frontends(name);
        }
        gone.len()
    }

    fn check_owner(&self, params: &FrontendParams) -> Result<(), WriteError> {
        match self.next.frontends.get(&params.key) {
            Some(holder) if holder.params.service != params.service => Err(WriteError::AddressConflict {
                frontend: params.key,
                owner: holder.params.service.clone(),
                refused: params.service.clone(),
            }),
            _ => Ok(()),
        }
    }

    fn touch_frontends(&mut self, service: &ServiceName) {
        let frontends: Vec<Arc<Frontend>> = self.next.frontends_of(service).cloned().collect();
        for frontend in frontends {
            let id = self.next.next_status;
            self.next.next_status += 1;
            self.next.frontends.put((*frontend).clone(), self.revision, id);
        }
    }
}
