//! Verbs for backends, and for verdicts of health.

use std::collections::BTreeSet;
use std::sync::Arc;

use epic_store::Row as _;

use super::WriteTxn;
use crate::rows::{Backend, BackendKey, Place, ServiceName, Verdict, VerdictKey};

impl WriteTxn<'_> {
    /// Adds or updates backends that this source has for a service, whatever service and source the rows name. The service
    /// need not exist yet.
    pub fn upsert_backends(&mut self, service: &ServiceName, backends: impl IntoIterator<Item = Backend>) {
        for backend in backends {
            self.put(Backend { service: service.clone(), source: self.source, ..backend });
        }
    }

    /// Makes the given backends the only ones that this source has for the service.
    pub fn set_backends(&mut self, service: &ServiceName, backends: impl IntoIterator<Item = Backend>) {
        let backends: Vec<Backend> = backends.into_iter().collect();
        let wanted: BTreeSet<Place> = backends.iter().map(|backend| backend.place).collect();
        self.release(service, |place| !wanted.contains(&place));
        self.upsert_backends(service, backends);
    }

    /// Removes a place from a service, as far as this source named it; says whether it did.
    pub fn release_backend(&mut self, service: &ServiceName, place: Place) -> bool {
        self.remove_backend(BackendKey { service: service.id(), place, source: self.source })
    }

    /// Removes what this source said about the backends of a service; returns how many rows that were.
    pub fn release_backends(&mut self, service: &ServiceName) -> usize {
        self.release(service, |_| true)
    }

    /// Removes all backends of this source, in all services; returns how many.
    pub fn delete_backends(&mut self) -> usize {
        let rows = self.tables().backends.iter().filter(|row| row.source == self.source);
        let gone: Vec<BackendKey> = rows.map(|row| row.key()).collect();
        for key in &gone {
            self.remove_backend(*key);
        }
        gone.len()
    }

    /// Records what a health checker found out about a place of a service; says whether that is new. A place without a
    /// backend gets no verdict: nobody would ever take it back.
    pub fn set_backend_health(
        &mut self,
        service: &ServiceName,
        place: Place,
        healthy: bool,
        reason: Option<Arc<str>>,
    ) -> bool {
        if !self.is_named(VerdictKey { service: service.id(), place }) {
            return false;
        }
        self.put(Verdict { service: service.clone(), place, healthy, reason })
    }

    /// Forgets what was found out about a place: it counts as healthy until it is judged again.
    pub fn forget_backend_health(&mut self, service: &ServiceName, place: Place) -> bool {
        self.store.remove::<Verdict>(VerdictKey { service: service.id(), place }).is_some()
    }

    fn release(&mut self, service: &ServiceName, gone: impl Fn(Place) -> bool) -> usize {
        let rows = self.tables().backends_of(service.id()).filter(|row| row.source == self.source);
        let keys: Vec<BackendKey> = rows.filter(|row| gone(row.place)).map(|row| row.key()).collect();
        for key in &keys {
            self.remove_backend(*key);
        }
        keys.len()
    }

    fn remove_backend(&mut self, key: BackendKey) -> bool {
        if self.store.remove::<Backend>(key).is_none() {
            return false;
        }
        let verdict = VerdictKey { service: key.service, place: key.place };
        if !self.is_named(verdict) {
            self.store.remove::<Verdict>(verdict);
        }
        true
    }

    /// Whether any source has a backend there.
    fn is_named(&self, place: VerdictKey) -> bool {
        self.tables().backends.prefix((place.service, place.place)).next().is_some()
    }
}
