//! Services and EndpointSlices of a Kubernetes cluster.
//!
//! What becomes of each field stands in [`service`] and [`endpoints`]. A change of one Service or of one of its slices costs that
//! Service alone and goes through at once; bursts are batched by kates, which gives the most recent state.
//!
//! | field | here |
//! | --- | --- |
//! | `type`, `clusterIPs`, `externalIPs`, `status.loadBalancer.ingress`, `nodePort` | frontends by kind; a node port at each address of the node |
//! | `externalTrafficPolicy`, `internalTrafficPolicy` | policies of the two scopes |
//! | `sessionAffinity`, `loadBalancerSourceRanges`, `healthCheckNodePort`, `trafficDistribution`, topology hints | [`Traffic`](epic_lb::Traffic) |
//! | `publishNotReadyAddresses`, conditions of endpoints | states of backends |
//! | annotations `epic.acnodal.io/global`, `epic.acnodal.io/shared`, `epic.acnodal.io/cluster-affinity` | one service in several clusters, see [`cluster`] |
//! | annotations `epic.acnodal.io/backup`, `epic.acnodal.io/local-redirect` | a redirect to a Service of the same namespace |
//! | `loadBalancerClass` | which Services of type LoadBalancer are of concern, see [`Scope`] |
//!
//! Headless Services have no frontends of their own, Services of type ExternalName none at all.

pub mod cluster;
mod endpoints;
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use epic_lb::{Initializer, ServiceName, Source, WriteTxn, Writer};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kates::{Accumulator, Client, Key, Query, Snapshot, Update};
use tokio_util::sync::CancellationToken;

use crate::{Origin, Rows};

/// Label of an EndpointSlice that names its Service (Kubernetes, `discovery.k8s.io/v1`).
const LABEL_SERVICE: &str = "kubernetes.io/service-name";

/// Which Services are of concern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Services of type LoadBalancer of this class alone, and of them only what makes them one; `None`: all Services, with
    /// everything they have.
    pub class: Option<String>,
    /// Addresses at which node ports are served; empty: they are not.
    pub node_addresses: Vec<IpAddr>,
}

/// The rows of a Service and its slices; `None` if it is of no concern.
pub fn rows<'a>(
    object: &core::Service,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    scope: &Scope,
) -> Option<Rows> {
    let name = name_of(object)?;
    let hinted = endpoints::is_hinted(object);
    let (service, frontends) = service::rows(object, &name, scope, hinted)?;
    let publish = object.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false);
    let backends = endpoints::rows(&name, slices, publish, hinted);
    let redirect = service::redirect(object, &name);
    Some(Rows { service, frontends, backends, redirect })
}

fn name_of(object: &core::Service) -> Option<ServiceName> {
    let metadata = &object.metadata;
    Some(ServiceName::new(metadata.namespace.as_deref()?, metadata.name.as_deref()?))
}

/// The name of the Service that a slice is of.
fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get(LABEL_SERVICE)?;
    Some(Key::namespaced(slice.metadata.namespace.as_deref()?, name.as_str()))
}

/// Follows a cluster.
pub struct Kubernetes {
    accumulator: Accumulator,
    scope: Scope,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// Watches Services and EndpointSlices.
    pub fn new(client: &Client, scope: Scope) -> Self {
        let watches = client.accumulate().watch::<core::Service>(Query::all());
        Self { accumulator: watches.watch::<EndpointSlice>(Query::all()).start(), scope }
    }
}

impl Origin for Kubernetes {
    const SOURCE: Source = Source::Kubernetes;

    fn name(&self) -> String {
        "kubernetes".to_owned()
    }

    async fn run(self, writer: Writer, listed: Initializer, stop: CancellationToken) {
        let mut initializer = Some(listed);
        let mut updates = self.accumulator.updates();
        loop {
            let update = tokio::select! {
                update = updates.next() => update,
                () = stop.cancelled() => return,
            };
            let wanted =
                touched(&update, |object, slices| rows(object, slices.iter().map(|s| &***s), &self.scope));
            let mut txn = writer.write();
            if update.before.is_none() {
                let keep: BTreeSet<&ServiceName> = wanted.iter().map(|(name, _)| name).collect();
                txn.retain_services(|name| keep.contains(name));
            }
            apply(&mut txn, wanted);
            if let Some(initializer) = initializer.take() {
                txn.complete(&initializer);
            }
            txn.commit();
        }
    }
}

/// Services that changed, or whose slices did, with what is made of them now.
fn touched<T>(
    update: &Update,
    make: impl Fn(&core::Service, &[&Arc<EndpointSlice>]) -> Option<T>,
) -> Vec<(ServiceName, Option<T>)> {
    let slices = update.changes::<EndpointSlice>();
    let of_slices = slices.iter().flat_map(|change| change.before.iter().chain(&change.after));
    let mut touched: BTreeSet<Key> = of_slices.filter_map(|slice| service_of(slice)).collect();
    touched.extend(update.changes::<core::Service>().into_iter().map(|change| change.key));
    let namespaces: BTreeSet<&str> = touched.iter().filter_map(Key::namespace).collect();
    let members = members(&update.snapshot, namespaces, &touched);
    touched
        .iter()
        .map(|key| {
            let object = update.snapshot.get::<core::Service>(key);
            let slices = members.get(key).map_or(&[][..], Vec::as_slice);
            let made = object.and_then(|object| make(object, slices));
            (ServiceName::new(key.namespace().unwrap_or_default(), key.name()), made)
        })
        .collect()
}

/// Slices by the Service that they are of.
fn members<'s>(
    snapshot: &'s Snapshot,
    namespaces: BTreeSet<&str>,
    of: &BTreeSet<Key>,
) -> BTreeMap<Key, Vec<&'s Arc<EndpointSlice>>> {
    let mut members: BTreeMap<Key, Vec<&'s Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in namespaces.into_iter().flat_map(|name| snapshot.in_namespace::<EndpointSlice>(name)) {
        if let Some(key) = service_of(slice).filter(|key| of.contains(key)) {
            members.entry(key).or_default().push(slice);
        }
    }
    members
}

/// Makes the rows of these Services what is given.
pub fn apply(txn: &mut WriteTxn<'_>, wanted: impl IntoIterator<Item = (ServiceName, Option<Rows>)>) {
    for (name, rows) in wanted {
        match rows {
            Some(rows) => rows.write(txn),
            None => {
                txn.delete_service_and_frontends(&name);
            }
        }
    }
}
