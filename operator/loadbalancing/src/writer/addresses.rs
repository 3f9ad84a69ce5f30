//! Who has an address: verbs for frontends.
//!
//! For every address the frontend that precedes all wishes for it is in `frontends`, the others are in `wishes`. Each verb
//! leaves it so; nothing else writes these two tables.

use std::sync::Arc;

use epic_store::{Row as _, Stored};

use super::{WriteError, WriteTxn};
use crate::rows::{Frontend, FrontendKey, ServiceName, ServiceRef, Source, Wish, WishKey};

/// What became of a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Its service has the address.
    Has,
    /// This service has it; it gets it when that one leaves it.
    Waits(ServiceName),
}

impl WriteTxn<'_> {
    /// Writes a frontend of an existing service of this source; says whether the service has the address now. Source and
    /// age are set to those of the service.
    ///
    /// # Errors
    /// [`WriteError::ServiceNotFound`].
    pub fn upsert_frontend(&mut self, frontend: Frontend) -> Result<Claimed, WriteError> {
        let key = crate::rows::ServiceKey { service: frontend.service.id(), source: self.source };
        let Some(service) = self.tables().services.get(key) else {
            return Err(WriteError::ServiceNotFound { frontend: frontend.key, service: frontend.service });
        };
        let frontend = Frontend { source: service.source, since: service.since, ..frontend };
        Ok(self.claim(frontend))
    }

    /// Gives up a frontend, or the wish for it; says whether there was one.
    pub fn delete_frontend(&mut self, service: &ServiceName, key: FrontendKey) -> bool {
        self.give_up(key, service.id(), self.source)
    }

    fn claim(&mut self, frontend: Frontend) -> Claimed {
        let key = frontend.key;
        let mine = WishKey { frontend: key, service: frontend.service.id(), source: frontend.source };
        let Some(holder) = self.tables().frontends.get(key) else {
            self.put(frontend);
            return Claimed::Has;
        };
        if holder.service == frontend.service && holder.source == frontend.source {
            let younger = frontend.precedence() > holder.precedence();
            self.put(frontend);
            // Recreated under the same name, it may come after somebody who waits.
            return if younger { self.elect(key) } else { Claimed::Has };
        }
        if frontend.precedence() < holder.precedence() {
            let refused = Wish(holder.row.clone());
            self.store.remove::<Wish>(mine);
            self.put(frontend);
            self.put(refused);
            return Claimed::Has;
        }
        let holder = holder.service.clone();
        self.put(Wish(frontend));
        Claimed::Waits(holder)
    }

    /// Gives the address to the first wish, if that precedes the holder.
    fn elect(&mut self, key: FrontendKey) -> Claimed {
        let Some(first) = self.first_wish(key) else { return Claimed::Has };
        let Some(held) = self.tables().frontends.get(key) else { return Claimed::Has };
        if first.0.precedence() >= held.precedence() {
            return Claimed::Has;
        }
        let refused = Wish(held.row.clone());
        self.promote(&first);
        self.put(refused);
        Claimed::Waits(first.0.service.clone())
    }

    fn first_wish(&self, key: FrontendKey) -> Option<Arc<Stored<Wish>>> {
        let wishes = self.tables().wishes.prefix(key);
        wishes.min_by(|a, b| a.0.precedence().cmp(&b.0.precedence())).map(Arc::clone)
    }

    fn promote(&mut self, wish: &Stored<Wish>) {
        self.store.remove::<Wish>(wish.key());
        self.put(wish.0.clone());
    }

    pub(super) fn give_up(&mut self, key: FrontendKey, service: ServiceRef, source: Source) -> bool {
        let holder = self.tables().frontends.get(key);
        if holder.is_none_or(|holder| holder.service.id() != service || holder.source != source) {
            return self.store.remove::<Wish>(WishKey { frontend: key, service, source }).is_some();
        }
        match self.first_wish(key) {
            Some(first) => self.promote(&first),
            None => drop(self.store.remove::<Frontend>(key)),
        }
        true
    }
}
