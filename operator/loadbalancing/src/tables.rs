//! All tables, declared once, and the questions that are asked of several of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use epic_reconciler::Status;
use epic_store::{Change, Row, Schema as _, Stored, tables};

use crate::Progress;
use crate::rows::{
    Alias, Backend, ByIds, ByService, ByTarget, EpicNode, Frontend, Pass, Place, Proxy, Redirect, Service,
    ServiceName, ServiceRef, Tunnel, Verdict, VerdictKey, Wish,
};

tables! {
    /// The tables of load balancing.
    pub Tables {
        /// LoadBalancers, a row per source.
        services: Service,
        /// Addresses and ports, each with the service that has it.
        frontends: Frontend,
        /// Addresses and ports that other services would like to have.
        wishes: Wish,
        /// Endpoints or proxies of services, a row per source.
        backends: Backend,
        /// What health checkers found out.
        verdicts: Verdict,
        /// Services whose traffic goes elsewhere.
        redirects: Redirect,
        /// Tunnels of this node.
        tunnels: Tunnel,
        /// Proxy pods.
        proxies: Proxy,
        /// What proxies dial.
        aliases: Alias,
        /// What proxies reach without a tunnel.
        passes: Pass,
        /// EPIC nodes.
        nodes: EpicNode,
    }
}

/// The current tables, for whoever may not write.
pub type Reader = epic_store::Reader<Tables>;

/// All tables at one moment.
pub type Snapshot = epic_store::Snapshot<Tables>;

impl Tables {
    /// A service as its most preferred source has it.
    pub fn service(&self, service: ServiceRef) -> Option<&Arc<Stored<Service>>> {
        self.services.prefix(service).next()
    }

    /// The service that a row belongs to; `None` for those that concern all of the node, or are not there.
    pub fn service_of(&self, row: RowId) -> Option<ServiceRef> {
        match row {
            RowId::Service(key) | RowId::Redirect(key) => Some(key.service),
            RowId::Frontend(key) => self.frontends.get(key).map(|row| row.service.id()),
            RowId::Wish(key) => Some(key.service),
            RowId::Backend(key) => Some(key.service),
            RowId::Verdict(key) => Some(key.service),
            RowId::Tunnel(id) => self.tunnels.get(id).map(|row| row.service.id()),
            RowId::Proxy(id) => self.proxies.get(id).map(|row| row.service.id()),
            RowId::Alias(key) => Some(key.service),
            RowId::Pass(key) => key.service,
            RowId::EpicNode(_) => None,
        }
    }

    /// Whether the IDs of a service are its own: of two that claim the same the one has them that precedes.
    pub fn owns_ids(&self, service: &Service) -> Result<(), &Arc<Stored<Service>>> {
        let Some(ids) = service.ids else { return Ok(()) };
        let claim = |row: &&Arc<Stored<Service>>| {
            row.name != service.name && row.precedence() < service.precedence() && self.counts(row)
        };
        self.services.by(ByIds, ids).find(claim).map_or(Ok(()), Err)
    }

    fn counts(&self, row: &Service) -> bool {
        self.service(row.name.id()).is_some_and(|first| first.source == row.source)
    }

    /// Services whose traffic may differ from what it was in older tables: those with a row that changed, and those whose
    /// traffic goes to one of these. The cost follows the change.
    pub fn services_changed(&self, before: &Self) -> BTreeSet<ServiceName> {
        let mut changed = BTreeSet::new();
        fn names<'a, R: Row, I: IntoIterator<Item = &'a ServiceName>>(
            changed: &mut BTreeSet<ServiceName>,
            changes: impl Iterator<Item = Change<'a, R>>,
            of: fn(&'a R) -> I,
        ) {
            for change in changes {
                let rows = change.old().into_iter().chain(change.current());
                changed.extend(rows.flat_map(|row| of(&row.row)).cloned());
            }
        }
        names(&mut changed, self.services.changes_since(&before.services), |row| [&row.name]);
        names(&mut changed, self.backends.changes_since(&before.backends), |row| [&row.service]);
        names(&mut changed, self.verdicts.changes_since(&before.verdicts), |row| [&row.service]);
        let sent_there = changed.iter().flat_map(|name| self.redirects.by(ByTarget, name.id()));
        let sent_there: Vec<ServiceName> = sent_there.map(|row| row.service.clone()).collect();
        changed.extend(sent_there);
        names(&mut changed, self.frontends.changes_since(&before.frontends), |row| [&row.service]);
        names(&mut changed, self.redirects.changes_since(&before.redirects), |row| [&row.service]);
        changed
    }

    /// How a row stands in the maps; `None` if there is no such row.
    pub fn status(&self, row: RowId, progress: &Progress) -> Option<Status> {
        self.row_revision(row).map(|revision| progress.status(row, revision))
    }

    /// Frontends of a service, by key.
    pub fn frontends_of(
        &self,
        service: ServiceRef,
    ) -> impl Iterator<Item = &Arc<Stored<Frontend>>> + use<'_> {
        self.frontends.by(ByService, service)
    }

    /// Wishes of a service, by key.
    pub fn wishes_of(&self, service: ServiceRef) -> impl Iterator<Item = &Arc<Stored<Wish>>> + use<'_> {
        self.wishes.by(ByService, service)
    }

    /// Backends of a service, all sources, by key: those of one place together, the most preferred source first.
    pub fn backends_of(&self, service: ServiceRef) -> impl Iterator<Item = &Arc<Stored<Backend>>> + use<'_> {
        self.backends.prefix(service)
    }

    /// Whether a place of a service is healthy, as far as anybody knows.
    pub fn is_healthy(&self, service: ServiceRef, place: Place) -> bool {
        self.verdicts.get(VerdictKey { service, place }).is_none_or(|verdict| verdict.healthy)
    }

    /// Where the traffic of a service may be redirected to, as the most preferred source has it.
    pub fn redirect_of(&self, service: ServiceRef) -> Option<&Arc<Stored<Redirect>>> {
        self.redirects.prefix(service).next()
    }

    /// Tunnels of a service, by id.
    pub fn tunnels_of(&self, service: ServiceRef) -> impl Iterator<Item = &Arc<Stored<Tunnel>>> + use<'_> {
        self.tunnels.by(ByService, service)
    }

    /// Proxies of a service, by id.
    pub fn proxies_of(&self, service: ServiceRef) -> impl Iterator<Item = &Arc<Stored<Proxy>>> + use<'_> {
        self.proxies.by(ByService, service)
    }

    /// Passes of a service, by key.
    pub fn passes_of(&self, service: ServiceRef) -> impl Iterator<Item = &Arc<Stored<Pass>>> + use<'_> {
        self.passes.prefix(Some(service))
    }

    /// Aliases of a service, by key.
    pub fn aliases_of(&self, service: ServiceRef) -> impl Iterator<Item = &Arc<Stored<Alias>>> + use<'_> {
        self.aliases.prefix(service)
    }
}
