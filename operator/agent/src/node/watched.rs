//! What a node agent watches, and how it becomes the objects of one decision.

use std::collections::BTreeSet;
use std::sync::Arc;

use epic_crds::well_known::{EPIC_NAME, EPIC_NAMESPACE, SECRET_GUE_MASTER};
use epic_crds::{Account, AddressClaim, AddressPool, EPIC, EPICNode, Endpoint, LoadBalancer};
use epic_lb::{Ask, MapKey};
use epic_reconciler::ConfirmPrune;
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kates::{Accumulator, Client, Key, Query, Snapshot, Version};
use kube::core::Expression;
use parking_lot::Mutex;

use crate::desired::keys::{MASTER_ENTRY, Master};
use crate::desired::node::{Changes, Objects};

/// Service in front of the operator's xDS.
const XDS_SERVICE: &str = "epic-xds";
/// Label of EndpointSlices with the name of their Service.
const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Starts watching, the DaemonSet of this name too if there is one. LoadBalancers are never listed older than `reported`:
/// the operator has acted on that.
pub fn watch(client: &Client, node: &str, daemon_set: Option<&str>, reported: Option<&str>) -> Accumulator {
    let balancers = match reported {
        Some(revision) => Query::all().not_older_than(Version::from(revision)),
        None => Query::all(),
    };
    let here = || Query::namespace(EPIC_NAMESPACE);
    let of_xds = Expression::Equal(LABEL_SERVICE_NAME.to_owned(), XDS_SERVICE.to_owned());
    let watches = client
        .accumulate()
        .watch::<EPIC>(here())
        .watch::<EPICNode>(here())
        .watch::<Account>(Query::all())
        .watch::<LoadBalancer>(balancers)
        .watch::<Endpoint>(Query::all())
        .watch::<AddressClaim>(here())
        .watch::<AddressPool>(here())
        .watch::<Node>(Query::all())
        .watch::<Pod>(Query::all().field("spec.nodeName", node))
        .watch::<Secret>(here().field("metadata.name", SECRET_GUE_MASTER))
        .watch::<Service>(here().field("metadata.name", XDS_SERVICE))
        .watch::<EndpointSlice>(here().labels(of_xds));
    match daemon_set {
        Some(name) => watches.watch::<DaemonSet>(here().field("metadata.name", name)).start(),
        None => watches.start(),
    }
}

/// The EPIC object.
pub fn epic(snapshot: &Snapshot) -> Option<&Arc<EPIC>> {
    snapshot.get::<EPIC>(&Key::namespaced(EPIC_NAMESPACE, EPIC_NAME))
}

/// The master key.
pub fn master(snapshot: &Snapshot) -> Option<Master> {
    let secret = snapshot.get::<Secret>(&Key::namespaced(EPIC_NAMESPACE, SECRET_GUE_MASTER))?;
    let ByteString(bytes) = secret.data.as_ref()?.get(MASTER_ENTRY)?;
    Master::new(bytes)
}

/// The objects of one decision; `None` without the EPIC object.
pub fn objects(snapshot: &Snapshot) -> Option<Objects> {
    Some(Objects {
        epic: Arc::clone(epic(snapshot)?),
        load_balancers: snapshot.list().cloned().collect(),
        endpoints: snapshot.list().cloned().collect(),
        accounts: snapshot.list().cloned().collect(),
        claims: snapshot.list().cloned().collect(),
        pools: snapshot.list().cloned().collect(),
        epic_nodes: snapshot.list().cloned().collect(),
        nodes: snapshot.list().cloned().collect(),
        pods: snapshot.list().cloned().collect(),
        xds: snapshot.get(&Key::namespaced(EPIC_NAMESPACE, XDS_SERVICE)).cloned(),
        xds_slices: snapshot.list().cloned().collect(),
    })
}

/// Uids and versions of LoadBalancers and Endpoints: which state a decision was made on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Basis {
    /// LoadBalancers, each with its version.
    pub load_balancers: BTreeSet<(String, String)>,
    /// Endpoints.
    pub endpoints: BTreeSet<String>,
}

/// What changed of what a decision follows.
pub fn changes(now: &Snapshot, before: &Snapshot) -> Changes {
    Changes {
        load_balancers: now.changes_since(Some(before)),
        endpoints: now.changes_since(Some(before)),
        claims: now.changes_since(Some(before)),
    }
}

/// Whether anything that a decision is made on changed, but for what it follows. What agents report of tunnels, maps, programs
/// and addresses is nothing of that; who answered for an address is asked once, when it is new
/// ([`super::guard::Guard::may_answer`]).
pub fn has_changed_otherwise(now: &Snapshot, before: &Snapshot) -> bool {
    fn has<K: kates::Object>(now: &Snapshot, before: &Snapshot) -> bool {
        !now.changes_since::<K>(Some(before)).is_empty()
    }
    let decisive = |node: &EPICNode| {
        let mut status = node.status.clone();
        if let Some(status) = &mut status {
            (status.tunnels, status.load_balancers_revision) = (None, None);
            (status.map_usage, status.programs) = (Vec::new(), Vec::new());
            (status.behind, status.behind_truncated) = (Vec::new(), false);
            (status.answers, status.answers_truncated) = (Vec::new(), false);
            status.conflicts = Vec::new();
        }
        (node.metadata.uid.clone(), status)
    };
    has::<EPIC>(now, before)
        || has::<Account>(now, before)
        || has::<AddressPool>(now, before)
        || has::<Node>(now, before)
        || has::<Pod>(now, before)
        || has::<Secret>(now, before)
        || has::<Service>(now, before)
        || has::<EndpointSlice>(now, before)
        || now.differs::<EPICNode, _>(before, decisive)
}

fn versions<'a>(objects: impl Iterator<Item = &'a LoadBalancer>) -> BTreeSet<(String, String)> {
    let pair = |object: &LoadBalancer| {
        Some((object.metadata.uid.clone()?, object.metadata.resource_version.clone()?))
    };
    objects.filter_map(pair).collect()
}

impl Basis {
    /// Of objects that were decided on.
    pub fn of(objects: &Objects) -> Self {
        let endpoints = objects.endpoints.iter().filter_map(|e| e.metadata.uid.clone()).collect();
        Self { load_balancers: versions(objects.load_balancers.iter().map(|o| &**o)), endpoints }
    }

    /// Follows what changed.
    pub fn change(&mut self, Changes { load_balancers, endpoints, .. }: &Changes) {
        for change in load_balancers {
            for gone in versions(change.before.iter().map(|o| &**o)) {
                self.load_balancers.remove(&gone);
            }
            self.load_balancers.extend(versions(change.after.iter().map(|o| &**o)));
        }
        let uid = |endpoint: &Arc<Endpoint>| endpoint.metadata.uid.clone();
        for change in endpoints {
            for gone in change.before.iter().filter_map(uid) {
                self.endpoints.remove(&gone);
            }
            self.endpoints.extend(change.after.iter().filter_map(uid));
        }
    }
}

/// Lists LoadBalancers now: their versions, and up to where that is complete.
///
/// # Errors
/// Whatever the API server answers.
pub async fn list_versions(client: &Client) -> Result<(BTreeSet<(String, String)>, Version), kates::Error> {
    let listed = client.list::<LoadBalancer>(&Query::all()).await?;
    Ok((versions(listed.items.iter()), listed.revision))
}

/// Asks the API server again before more than half of the map entries go: they may only if it shows the very
/// LoadBalancers and Endpoints that the tables were made of.
#[derive(Clone)]
pub struct AskAgain {
    /// To ask.
    pub client: Client,
    /// What the tables were made of.
    pub basis: Arc<Mutex<Basis>>,
}

impl ConfirmPrune<MapKey> for AskAgain {
    fn confirm_prune(&mut self, ask: Ask) -> std::pin::Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async move {
            let client = &self.client;
            let balancers = list_versions(client).await;
            let endpoints = client.list::<Endpoint>(&Query::all()).await;
            let (Ok((balancers, _)), Ok(endpoints)) = (balancers, endpoints) else { return false };
            let uids = |pairs: &BTreeSet<(String, String)>| -> BTreeSet<String> {
                pairs.iter().map(|(uid, _)| uid.clone()).collect()
            };
            let listed: BTreeSet<String> =
                endpoints.items.iter().filter_map(|e| e.metadata.uid.clone()).collect();
            let basis = self.basis.lock();
            let same = uids(&balancers) == uids(&basis.load_balancers) && listed == basis.endpoints;
            tracing::info!(
                removals = ask.entries.len(),
                entries = ask.held,
                confirmed = same,
                "asked the API server before a large removal"
            );
            same
        })
    }
}
