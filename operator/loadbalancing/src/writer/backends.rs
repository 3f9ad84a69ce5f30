//! Verbs for backends. A source touches only its own rows; health touches the rows of every source.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::WriteTxn;
use crate::rows::{Backend, BackendKey, Protocol, ServiceName, Source};

impl WriteTxn<'_> {
    /// Adds or updates backends of a service. Service and source of each row are set to those given, and its health
    /// verdict is kept from the stored row. The service need not exist yet.
    pub fn upsert_backends(
        &mut self,
        service: &ServiceName,
        source: Source,
        backends: impl IntoIterator<Item = Backend>,
    ) {
        for mut backend in backends {
            backend.key.service = service.clone();
            backend.key.source = source;
            if let Some(old) = self.next.backends.get(&backend.key) {
                backend.unhealthy = old.unhealthy;
            }
            if self.put(backend, |s| &mut s.backends) {
                self.dirty.insert(service.clone());
            }
        }
    }

    /// Makes the given backends the only ones that this source has for the service.
    pub fn set_backends(
        &mut self,
        service: &ServiceName,
        source: Source,
        backends: impl IntoIterator<Item = Backend>,
    ) {
        let backends: Vec<Backend> = backends.into_iter().collect();
        let wanted: BTreeSet<(IpAddr, u16, Protocol)> =
            backends.iter().map(|b| (b.key.address, b.key.port, b.key.protocol)).collect();
        self.release(service, |b| b.source == source && !wanted.contains(&(b.address, b.port, b.protocol)));
        self.upsert_backends(service, source, backends);
    }

    /// Removes an address from a service, whatever the source; returns how many rows that were.
    pub fn release_backend(
        &mut self,
        service: &ServiceName,
        address: IpAddr,
        port: u16,
        protocol: Protocol,
    ) -> usize {
        self.release(service, |b| b.address == address && b.port == port && b.protocol == protocol)
    }

    /// Removes what one source said about the backends of a service.
    pub fn release_backends_from_source(&mut self, service: &ServiceName, source: Source) -> usize {
        self.release(service, |b| b.source == source)
    }

    /// Removes all backends of a source, in all services.
    pub fn delete_backends_by_source(&mut self, source: Source) -> usize {
        let gone = self.next.backends.iter().filter(|b| b.key.source == source);
        let gone: Vec<BackendKey> = gone.map(|b| b.key.clone()).collect();
        for key in &gone {
            self.remove(key, |s| &mut s.backends);
            self.dirty.insert(key.service.clone());
        }
        gone.len()
    }

    /// Records a health verdict on an address in every service and source that has it; returns how many rows changed.
    pub fn set_backend_health(
        &mut self,
        address: IpAddr,
        port: u16,
        protocol: Protocol,
        healthy: bool,
    ) -> usize {
        let rows = self.next.backends.group(&(address, port, protocol));
        let rows: Vec<_> = rows.filter(|b| b.unhealthy == healthy).cloned().collect();
        for row in &rows {
            self.dirty.insert(row.key.service.clone());
            self.put(Backend { unhealthy: !healthy, ..(**row).clone() }, |s| &mut s.backends);
        }
        rows.len()
    }

    fn release(&mut self, service: &ServiceName, gone: impl Fn(&BackendKey) -> bool) -> usize {
        let keys = self.next.backends_of(service).map(|b| &b.key).filter(|k| gone(k));
        let keys: Vec<BackendKey> = keys.cloned().collect();
        if !keys.is_empty() {
            self.dirty.insert(service.clone());
        }
        for key in &keys {
            self.remove(key, |s| &mut s.backends);
        }
        keys.len()
    }
}
