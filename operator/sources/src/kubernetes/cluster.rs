//! What another cluster shares of its Services: backends for the Services of the same namespace and name here.
//!
//! | annotation of a Service | what it means |
//! | --- | --- |
//! | `epic.acnodal.io/global: "true"` | it is one with the Services of its name in other clusters that say so too: it takes their backends, and they take its own |
//! | `epic.acnodal.io/shared: "false"` | beside that: it takes theirs, and keeps its own to itself |
//! | `epic.acnodal.io/cluster-affinity: local`, `remote` | which backends are preferred while they serve; otherwise all are alike |
//!
//! Both sides have to agree: nobody can put a backend into a Service that did not ask for it. Frontends are not taken: the
//! addresses of another cluster are its own. Health, states and weights are; nodes are not, for names of nodes may be the same.
//!
//! Guarantees: a cluster touches the backends it gave and no other's, those of a third cluster included. Once it was listed, what
//! it does not share (any more) is removed in the transaction that completes its initializer: nothing is pruned, and nothing
//! counts as listed, while there is anything left of a former run. That transaction waits for all other sources, since which
//! Services here are global only they know. A cluster that cannot be reached any more keeps what it gave.
//! Assumption: clusters have different pod networks. Of two that name one address for one Service the first has it, until it
//! gives it up and the other's next change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use epic_lb::{
    Backend, Initializer, Locality, Name, Place, Service, ServiceName, Snapshot, Source, Tables, WriteTxn,
    Writer,
};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kates::{Accumulator, Client, Query};
use tokio_util::sync::CancellationToken;

use super::service::annotation;
use super::{endpoints, name_of, touched};
use crate::Origin;

/// Says that a Service is one with those of its name elsewhere.
const ANNOTATION_GLOBAL: &str = "epic.acnodal.io/global";
/// Says whether others take its backends.
const ANNOTATION_SHARED: &str = "epic.acnodal.io/shared";
/// Says which backends are preferred.
pub(super) const ANNOTATION_AFFINITY: &str = "epic.acnodal.io/cluster-affinity";
/// Property of a service that takes the backends of other clusters, whatever source it is of.
pub const PROPERTY_GLOBAL: &str = "global";
/// What the names of the initializers begin with.
const INITIALIZER: &str = "cluster ";

fn is_global(object: &core::Service) -> bool {
    annotation(object, ANNOTATION_GLOBAL) == Some("true")
}

/// What a Service of this cluster has in its row.
pub(super) fn properties(object: &core::Service) -> BTreeMap<Arc<str>, Arc<str>> {
    let global = is_global(object).then(|| (PROPERTY_GLOBAL.into(), "true".into()));
    global.into_iter().collect()
}

/// What a Service of another cluster shares; `None`: nothing.
pub fn backends<'a>(
    object: &core::Service,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    cluster: &str,
) -> Option<Vec<Backend>> {
    let spec = object.spec.as_ref()?;
    let shares = is_global(object) && annotation(object, ANNOTATION_SHARED) != Some("false");
    if !shares
        || object.metadata.deletion_timestamp.is_some()
        || spec.type_.as_deref() == Some("ExternalName")
    {
        return None;
    }
    let publish = spec.publish_not_ready_addresses.unwrap_or(false);
    let mut rows = endpoints::rows(&name_of(object)?, slices, publish, false);
    for row in &mut rows {
        row.source = Source::Cluster;
        row.locality = Locality { node: None, cluster: Some(Name::new(cluster)), ..row.locality.clone() };
    }
    Some(rows)
}

/// What a cluster shares, and how it gets into the tables.
#[derive(Clone, Debug)]
pub struct Shared {
    cluster: Name,
    services: BTreeMap<ServiceName, Vec<Backend>>,
}

impl Shared {
    /// Of a cluster that shares nothing yet.
    pub fn new(cluster: &str) -> Self {
        Self { cluster: Name::new(cluster), services: BTreeMap::new() }
    }

    /// Takes over what Services of the cluster share now; says which those are.
    pub fn take(
        &mut self,
        changed: impl IntoIterator<Item = (ServiceName, Option<Vec<Backend>>)>,
    ) -> BTreeSet<ServiceName> {
        let mut names = BTreeSet::new();
        for (name, backends) in changed {
            match backends {
                Some(backends) => drop(self.services.insert(name.clone(), backends)),
                None => drop(self.services.remove(&name)),
            }
            names.insert(name);
        }
        names
    }

    /// All services of which the cluster shares something, or has something in the tables.
    pub fn names(&self, tables: &Tables) -> BTreeSet<ServiceName> {
        let rows = tables.backends.iter().filter(|row| self.gave(row));
        rows.map(|row| row.service.clone()).chain(self.services.keys().cloned()).collect()
    }

    /// Makes the backends that these services have of the cluster those that it shares, if they ask for them.
    pub fn write(&self, txn: &mut WriteTxn<'_>, names: impl IntoIterator<Item = ServiceName>) {
        for name in names {
            let asks = txn.tables().service(name.id()).is_some_and(|row| takes_others(row));
            let shared = self.services.get(&name).filter(|_| asks).map_or(&[][..], Vec::as_slice);
            let given: BTreeMap<Place, bool> = txn
                .tables()
                .backends_of(name.id())
                .filter(|row| row.source == Source::Cluster)
                .map(|row| (row.place, self.gave(row)))
                .collect();
            let wanted: BTreeSet<Place> = shared.iter().map(|row| row.place).collect();
            for (place, _) in given.iter().filter(|(place, own)| **own && !wanted.contains(place)) {
                txn.release_backend(&name, *place);
            }
            let (taken, free): (Vec<&Backend>, Vec<&Backend>) =
                shared.iter().partition(|row| given.get(&row.place) == Some(&false));
            for row in taken {
                let (cluster, place) = (&self.cluster, row.place);
                tracing::error!(%cluster, service = %name, %place, "another cluster has the same address; give clusters different pod networks");
            }
            txn.upsert_backends(&name, free.into_iter().cloned());
        }
    }

    fn gave(&self, row: &Backend) -> bool {
        row.source == Source::Cluster && row.locality.cluster.as_ref() == Some(&self.cluster)
    }
}

/// Whether a service asks for the backends of other clusters.
fn takes_others(service: &Service) -> bool {
    service.source != Source::Cluster
        && service.traffic().properties.get(PROPERTY_GLOBAL).is_some_and(|value| &**value == "true")
}

/// Whether all sources have listed that know which services here are global.
fn others_have_listed(tables: &Snapshot) -> bool {
    tables.pending().all(|pending| pending.name.starts_with(INITIALIZER))
}

/// Follows another cluster.
pub struct Cluster {
    name: String,
    accumulator: Accumulator,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Watches Services and EndpointSlices of the cluster that the client (of a kubeconfig of its own) speaks to. `name` is
    /// what its backends are known by, another one for each cluster, and not the own one's.
    pub fn new(name: impl Into<String>, client: &Client) -> Self {
        let watches = client.accumulate().watch::<core::Service>(Query::all());
        Self { name: name.into(), accumulator: watches.watch::<EndpointSlice>(Query::all()).start() }
    }
}

impl Origin for Cluster {
    const SOURCE: Source = Source::Cluster;

    fn name(&self) -> String {
        format!("{INITIALIZER}{}", self.name)
    }

    async fn run(self, writer: Writer, listed: Initializer, stop: CancellationToken) {
        let mut initializer = Some(listed);
        let (mut shared, mut has_listed) = (Shared::new(&self.name), false);
        let mut updates = self.accumulator.updates();
        let mut here = writer.reader().watch_any();
        let mut seen = writer.snapshot();
        loop {
            let mut names = BTreeSet::new();
            tokio::select! {
                update = updates.next() => {
                    let make = |object: &core::Service, slices: &[&Arc<EndpointSlice>]| {
                        backends(object, slices.iter().map(|slice| &***slice), &self.name)
                    };
                    names = shared.take(touched(&update, make));
                    if update.before.is_none() {
                        has_listed = true;
                        names.append(&mut shared.names(&writer.snapshot()));
                    }
                }
                changed = here.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
            // Before the list there is nothing to give; with it come all services, whatever changed here before.
            if !has_listed {
                continue;
            }
            let now = writer.snapshot();
            names.extend(now.services.changes_since(&seen.services).map(|change| change.row().name.clone()));
            seen = now;
            let completes = initializer.is_some() && others_have_listed(&seen);
            if names.is_empty() && !completes {
                continue;
            }
            let mut txn = writer.write();
            shared.write(&mut txn, names);
            if let Some(initializer) = initializer.take_if(|_| completes) {
                txn.complete(&initializer);
            }
            txn.commit();
        }
    }
}
