//! Services, EndpointSlices and Pods of a Kubernetes cluster.
//!
//! What becomes of each field stands in [`service`], [`endpoints`] and [`host_ports`]. A change of one Service, of one of its
//! slices or of one Pod costs that service alone and goes through at once; bursts are batched by kates, which gives the most
//! recent state. All that is watched was listed when the source completes.
//!
//! | field | here |
//! | --- | --- |
//! | `type`, `clusterIPs`, `externalIPs`, `status.loadBalancer.ingress`, `nodePort` | frontends by kind; a node port at each address of the node |
//! | `externalTrafficPolicy`, `internalTrafficPolicy` | policies of the two scopes |
//! | `sessionAffinity`, `loadBalancerSourceRanges`, `healthCheckNodePort`, `trafficDistribution`, topology hints | [`Traffic`](epic_lb::Traffic) |
//! | `publishNotReadyAddresses`, conditions of endpoints | states of backends |
//! | annotations `epic.acnodal.io/global`, `epic.acnodal.io/shared`, `epic.acnodal.io/cluster-affinity` | one service in several clusters, see [`cluster`] |
//! | annotations `epic.acnodal.io/backup`, `epic.acnodal.io/local-redirect` | a redirect to a Service of the same namespace |
//! | annotation `epic.acnodal.io/health-check` | how its backends are probed, in the form of the state file ([`HealthCheck`](crate::file::HealthCheck)); one that is not understood leaves the Service as it is, its backends unprobed, and is told in [`State`] |
//! | `hostPort` of Pods | a service a Pod, see [`HostPorts`] |
//! | `loadBalancerClass` | which Services of type LoadBalancer are of concern, see [`Scope`] |
//!
//! Headless Services have no frontends of their own, Services of type ExternalName none at all. Pods are read for their host
//! ports alone: which backends of a local redirect are on this node the slices say (`nodeName`), so the Service it names needs a
//! selector and may be headless.

pub mod cluster;
mod connect;
mod endpoints;
mod host_ports;
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use epic_lb::{Initializer, ServiceName, Source, WriteTxn, Writer};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kates::{Accumulator, Client, Key, Query, Snapshot, Update};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use connect::{ConnectError, connect};
pub use host_ports::{HostPorts, rows as rows_of_pod};

use crate::{Origin, Rows};

/// Label of an EndpointSlice that names its Service (Kubernetes, `discovery.k8s.io/v1`).
const LABEL_SERVICE: &str = "kubernetes.io/service-name";

/// Which Services are of concern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Services of type LoadBalancer of this class alone, and of them only what makes them one; `None`: all Services, with
    /// everything they have.
    pub class: Option<String>,
    /// Addresses of this node: at these node ports are served (empty: they are not), and a Pod may name one as its `hostIP`.
    pub node_addresses: Vec<IpAddr>,
    /// Of which Pods host ports are served.
    pub host_ports: HostPorts,
}

/// What becomes of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Made {
    /// Its rows; `None` if it is of no concern.
    pub rows: Option<Rows>,
    /// What it asks for in vain, and what to change.
    pub refused: Option<String>,
}

/// Services by what they ask for in vain, and what to change.
pub type Refused = BTreeMap<ServiceName, Arc<str>>;

/// How it stands with a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Whether everything is in the tables that the cluster had when it was listed.
    pub listed: bool,
    /// Services of which a part is not in force. The rest of each is.
    pub refused: Refused,
}

/// What becomes of a Service and its slices.
pub fn rows<'a>(
    object: &core::Service,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    scope: &Scope,
) -> Made {
    of_service(object, slices, scope).unwrap_or_default()
}

fn of_service<'a>(
    object: &core::Service,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    scope: &Scope,
) -> Option<Made> {
    let name = name_of(object)?;
    let hinted = endpoints::is_hinted(object);
    let (check, refused) = match service::health_check(object) {
        Ok(check) => (check, None),
        Err(why) => (None, Some(why)),
    };
    let (service, frontends) = service::rows(object, &name, scope, hinted, check.as_ref())?;
    let publish = object.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false);
    let backends = endpoints::rows(&name, slices, publish, hinted);
    let redirect = service::redirect(object, &name);
    Some(Made { rows: Some(Rows { service, frontends, backends, redirect }), refused })
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
    state: watch::Sender<State>,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// Watches Services and EndpointSlices, and Pods if their host ports are of concern; the receiver tells how it stands.
    pub fn new(client: &Client, scope: Scope) -> (Self, watch::Receiver<State>) {
        let watches = client.accumulate().watch::<core::Service>(Query::all());
        let watches = watches.watch::<EndpointSlice>(Query::all());
        let accumulator = match scope.host_ports.query() {
            Some(query) => watches.watch::<core::Pod>(query).start(),
            None => watches.start(),
        };
        let (state, receiver) = watch::channel(State::default());
        (Self { accumulator, scope, state }, receiver)
    }

    /// Pods with host ports that changed, with what is made of them now.
    fn touched_pods(&self, update: &Update) -> Vec<(ServiceName, Option<Made>)> {
        if self.scope.host_ports == HostPorts::Off {
            return Vec::new();
        }
        let changes = update.changes::<core::Pod>().into_iter();
        let asks = changes
            .filter(|change| change.before.iter().chain(&change.after).any(|pod| host_ports::asks(pod)));
        let made = asks.map(|change| {
            let made = change.after.map(|pod| rows_of_pod(&pod, &self.scope));
            (host_ports::name_of(&change.key), made)
        });
        made.collect()
    }

    /// Takes in what changed services ask for in vain.
    fn say(&self, refused: Vec<(ServiceName, Option<String>)>) {
        self.state.send_if_modified(|state| {
            let mut changed = !std::mem::replace(&mut state.listed, true);
            for (service, why) in refused {
                let why: Option<Arc<str>> = why.map(Arc::from);
                if state.refused.get(&service) == why.as_ref() {
                    continue;
                }
                changed = true;
                match why {
                    Some(why) => {
                        tracing::warn!(%service, %why, "a part of a service is not in force");
                        state.refused.insert(service, why);
                    }
                    None => drop(state.refused.remove(&service)),
                }
            }
            changed
        });
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
            let make = |object: &core::Service, slices: &[&Arc<EndpointSlice>]| {
                Some(rows(object, slices.iter().map(|slice| &***slice), &self.scope))
            };
            let mut made = touched(&update, make);
            made.extend(self.touched_pods(&update));
            // Most changes of Pods are of no concern.
            if update.before.is_some() && made.is_empty() {
                continue;
            }
            let (mut wanted, mut refused) = (Vec::new(), Vec::new());
            for (name, made) in made {
                let Made { rows, refused: why } = made.unwrap_or_default();
                wanted.push((name.clone(), rows));
                refused.push((name, why));
            }
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
            self.say(refused);
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
