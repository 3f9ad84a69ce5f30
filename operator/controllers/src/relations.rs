//! Which changes of which objects concern which others: the wiring of the controllers.
//!
//! A change counts only if the part of the object that others read differs: a heartbeat of a Node, a renewed Lease or
//! a count in a status rings no bell. What this misses, the full pass makes good.

mod balancer;
mod endpoint;
mod room;
mod tenant;

use std::collections::BTreeSet;
use std::sync::Arc;

use epic_crds::condition::{ACCEPTED, READY};
use epic_crds::well_known::{EPIC_NAME, EPIC_NAMESPACE, TENANT_NAMESPACE_PREFIX};
use epic_crds::{
    Account, AddressClaim, AddressPool, ClaimPhase, EPIC, EPICNode, HasConditions, LoadBalancer, NodeBehind,
    ServiceGroup,
};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kates::{Change, Key, Object, Queue, Snapshot, Subject};
use kube::runtime::reflector::ObjectRef;
use tokio::sync::broadcast;

pub use balancer::load_balancer;
pub use endpoint::endpoint;
pub use tenant::{account, namespace};

use crate::context::Shared;
use crate::proxy::has_ended;

/// What triggers reconciles of `K`.
type Triggers<K> = BoxStream<'static, ObjectRef<Subject<K>>>;

/// For every change of an `Other` in its `part`, the keys that `relate` names in a snapshot of now, for the object as
/// it was and as it is.
fn on<Other, K, P>(
    context: &Shared,
    part: impl Fn(&Other) -> P + Send + 'static,
    relate: impl Fn(&Snapshot, &Other) -> Vec<Key> + Send + 'static,
) -> Triggers<K>
where
    Other: Object<DynamicType = ()>,
    K: Object<DynamicType = ()>,
    P: PartialEq,
{
    on_changes(context, move |snapshot, changes: Vec<Change<Other>>| {
        let moved = changes.iter().filter(|change| differs(change, &part));
        let objects = moved.flat_map(|change| change.before.iter().chain(&change.after));
        objects.flat_map(|object| relate(snapshot, object)).collect()
    })
}

/// Whether an object came, went, or differs in this part.
fn differs<K: Object, P: PartialEq>(change: &Change<K>, part: impl Fn(&K) -> P) -> bool {
    match (&change.before, &change.after) {
        (Some(before), Some(after)) => before.meta().uid != after.meta().uid || part(before) != part(after),
        _ => true,
    }
}

/// The keys that `relate` names for every batch of changes.
fn on_changes<Other, K>(
    context: &Shared,
    relate: impl Fn(&Snapshot, Vec<Change<Other>>) -> BTreeSet<Key> + Send + 'static,
) -> Triggers<K>
where
    Other: Object<DynamicType = ()>,
    K: Object<DynamicType = ()>,
{
    let watches = context.watches.clone();
    context
        .watches
        .changes::<Other>()
        .flat_map(move |changes| {
            let keys = watches.snapshot().map(|snapshot| relate(&snapshot, changes)).unwrap_or_default();
            stream::iter(keys.into_iter().map(|key| Subject::<K>::reference(&key)))
        })
        .boxed()
}

/// Keys that somebody in this process names. A reader that falls behind relies on the full pass.
fn told<K: Object<DynamicType = ()>>(keys: broadcast::Receiver<Key>) -> Triggers<K> {
    tokio_stream::wrappers::BroadcastStream::new(keys)
        .filter_map(|key| futures::future::ready(key.ok().map(|key| Subject::<K>::reference(&key))))
        .boxed()
}

fn keys_of<K: Object<DynamicType = ()>>(snapshot: &Snapshot, which: impl Fn(&K) -> bool) -> Vec<Key> {
    snapshot.list::<K>().filter(|object| which(object)).map(|object| Key::of(object.as_ref())).collect()
}

fn all<K: Object<DynamicType = ()>>(snapshot: &Snapshot) -> Vec<Key> {
    keys_of::<K>(snapshot, |_| true)
}

fn in_namespace<K: Object<DynamicType = ()>>(
    snapshot: &Snapshot,
    namespace: &str,
    which: impl Fn(&K) -> bool,
) -> Vec<Key> {
    let found = snapshot.in_namespace::<K>(namespace);
    found.filter(|object| which(object)).map(|object| Key::of(object.as_ref())).collect()
}

fn is_accepted<K: HasConditions>(object: &K) -> bool {
    object.is_condition_true(ACCEPTED)
}

/// What others read of EPIC.
pub(crate) fn settings(epic: &EPIC) -> impl PartialEq + use<> {
    let status = epic.status.clone().unwrap_or_default();
    (
        epic.spec.clone(),
        status.proxy_addresses,
        status.alias_addresses,
        is_accepted(epic),
        crate::uninstall::is_asked_for(epic),
    )
}

/// Addresses of a Node and of its pods.
pub(crate) fn networks(node: &Node) -> impl PartialEq + use<> {
    let spec = node.spec.clone().unwrap_or_default();
    (node.status.as_ref().and_then(|status| status.addresses.clone()), spec.pod_cidr, spec.pod_cidrs)
}

pub(crate) fn addresses(node: &EPICNode) -> Vec<String> {
    node.status.iter().flat_map(|status| status.addresses.clone()).collect()
}

/// Whether a pod takes room on its node, and whether it is to go.
fn occupancy(pod: &Pod) -> impl PartialEq + use<> {
    (has_ended(pod), pod.metadata.deletion_timestamp.is_some())
}

fn replicas(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref().and_then(|spec| spec.replicas)
}

/// Routers that a node sends by.
pub(crate) fn gateways(node: &EPICNode) -> Vec<String> {
    node.status.iter().flat_map(|status| status.gateways.clone()).collect()
}

/// Changes of what must overlap nothing: networks of the cluster and of EPIC, and the routers of its nodes.
fn surroundings<K: Object<DynamicType = ()>>(context: &Shared) -> Triggers<K> {
    let nodes = on::<Node, K, _>(context, networks, |snapshot, _| all::<K>(snapshot));
    let cidrs = on::<ServiceCIDR, K, _>(context, |cidr| cidr.spec.clone(), |snapshot, _| all::<K>(snapshot));
    let epic = on::<EPIC, K, _>(context, settings, |snapshot, _| all::<K>(snapshot));
    let ours = on::<EPICNode, K, _>(
        context,
        |node| (addresses(node), gateways(node)),
        |snapshot, _| all::<K>(snapshot),
    );
    let pools = on::<AddressPool, K, _>(context, |pool| pool.spec.clone(), |snapshot, _| all::<K>(snapshot));
    stream::select_all([nodes, cidrs, epic, ours, pools]).boxed()
}

/// EPIC's controller.
pub fn epic(context: &Shared) -> Queue<EPIC> {
    let accounts = on::<Account, EPIC, _>(
        context,
        |account| account.status.as_ref().and_then(|status| status.group_id),
        |_, _| vec![epic_key()],
    );
    context
        .watches
        .controller::<EPIC>()
        .reconcile_on(accounts)
        .reconcile_on(surroundings(context))
        .reconcile_on(pull_secrets(context))
        .reconcile_on(told(context.verdicts.changes()))
}

/// Changes of Secrets that images are pulled with, which are few.
fn pull_secrets<K: Object<DynamicType = ()>>(context: &Shared) -> Triggers<K> {
    on::<Secret, K, _>(context, |secret| secret.data.clone(), |snapshot, _| all::<K>(snapshot))
}

/// The controller of AddressPools.
pub fn address_pool(context: &Shared) -> Queue<AddressPool> {
    let claims = on::<AddressClaim, AddressPool, _>(
        context,
        |claim| claim.spec.pool.clone(),
        |snapshot, claim| {
            let address = epic_model::address::parse(&claim.spec.address).ok();
            let holds = |pool: &AddressPool| {
                pool.metadata.name.as_deref() == Some(claim.spec.pool.as_str())
                    || address.is_some_and(|address| {
                        crate::claim::pool(pool).is_ok_and(|pool| pool.contains(address))
                    })
            };
            keys_of(snapshot, holds)
        },
    );
    context.watches.controller::<AddressPool>().reconcile_on(claims).reconcile_on(surroundings(context))
}

/// The controller of ServiceGroups.
pub fn service_group(context: &Shared) -> Queue<ServiceGroup> {
    let pools = on::<AddressPool, ServiceGroup, _>(
        context,
        |pool| {
            (pool.spec.accounts.clone(), pool.spec.account_selector.clone(), pool.is_condition_true(READY))
        },
        |snapshot, pool| {
            let name = pool.metadata.name.clone().unwrap_or_default();
            keys_of(snapshot, |group: &ServiceGroup| group.spec.address_pools().contains(&name.as_str()))
        },
    );
    let balancers = on::<LoadBalancer, ServiceGroup, _>(
        context,
        |balancer| balancer.spec.service_group.clone(),
        |_, balancer| {
            let name: Arc<str> = balancer.spec.service_group.as_str().into();
            let own = balancer.metadata.namespace.clone().unwrap_or_default();
            vec![Key::namespaced(own, Arc::clone(&name)), Key::namespaced(EPIC_NAMESPACE, name)]
        },
    );
    let accounts = on::<Account, ServiceGroup, _>(
        context,
        |account| account.metadata.labels.clone(),
        |snapshot, account| {
            let namespace =
                format!("{TENANT_NAMESPACE_PREFIX}{}", account.metadata.name.as_deref().unwrap_or_default());
            keys_of(snapshot, |group: &ServiceGroup| group.metadata.namespace.as_deref() == Some(&namespace))
        },
    );
    context
        .watches
        .controller::<ServiceGroup>()
        .reconcile_on(pools)
        .reconcile_on(pull_secrets(context))
        .reconcile_on(balancers)
        .reconcile_on(accounts)
}

/// What of a node's report LoadBalancers and claims wait for: the revision, and who is not in the maps.
fn reached(node: &EPICNode) -> Option<(Option<String>, Vec<NodeBehind>)> {
    node.status.as_ref().map(|status| (status.load_balancers_revision.clone(), status.behind.clone()))
}

/// The controller of AddressClaims. One can be let go of when its owner goes, has moved on, or would not get the address
/// any more, and is gone when all nodes have forgotten that.
pub fn claim(context: &Shared) -> Queue<AddressClaim> {
    let owners = on::<LoadBalancer, AddressClaim, _>(
        context,
        |balancer| balancer.metadata.resource_version.clone(),
        |snapshot, balancer| {
            let uid = balancer.metadata.uid.as_deref();
            keys_of(snapshot, |claim: &AddressClaim| Some(claim.spec.owner.uid.as_str()) == uid)
        },
    );
    let nodes = on::<EPICNode, AddressClaim, _>(context, reached, |snapshot, _| {
        keys_of(snapshot, |claim: &AddressClaim| {
            claim.status.as_ref().is_some_and(|status| status.phase == Some(ClaimPhase::Releasing))
        })
    });
    let conflicts = on_changes::<EPICNode, AddressClaim>(context, |_, changes| {
        let of = |node: &Option<Arc<EPICNode>>| -> BTreeSet<String> {
            let status = node.iter().filter_map(|node| node.status.as_ref());
            status.flat_map(|status| &status.conflicts).map(|conflict| conflict.address.clone()).collect()
        };
        let moved = changes.iter().flat_map(|change| {
            let (before, after) = (of(&change.before), of(&change.after));
            before.symmetric_difference(&after).cloned().collect::<Vec<_>>()
        });
        let addresses = moved.filter_map(|text| epic_model::address::parse(&text).ok());
        addresses.map(crate::claim::release::claim_key).collect()
    });
    let everyone = |snapshot: &Snapshot| all::<AddressClaim>(snapshot);
    context
        .watches
        .controller::<AddressClaim>()
        .reconcile_on(owners)
        .reconcile_on(nodes)
        .reconcile_on(conflicts)
        .reconcile_on(on::<ServiceGroup, _, _>(
            context,
            |group| group.spec.clone(),
            move |snapshot, _| everyone(snapshot),
        ))
        .reconcile_on(on::<Account, _, _>(
            context,
            |account| (account.metadata.deletion_timestamp.clone(), account.metadata.labels.clone()),
            move |snapshot, _| everyone(snapshot),
        ))
        .reconcile_on(surroundings(context))
}

/// The controller of Nodes, which looks at the Leases of agents again and again: one that runs out tells nobody.
pub fn node(context: &Shared) -> Queue<Node> {
    let ours = on::<EPICNode, Node, _>(
        context,
        |node| node.is_condition_true(READY),
        |_, node| node.metadata.name.as_deref().map(Key::cluster).into_iter().collect(),
    );
    let epic =
        on::<EPIC, Node, _>(context, crate::uninstall::is_asked_for, |snapshot, _| all::<Node>(snapshot));
    context.watches.controller::<Node>().reconcile_on(ours).reconcile_on(epic)
}

/// The key of the one EPIC object.
pub fn epic_key() -> Key {
    Key::namespaced(EPIC_NAMESPACE, EPIC_NAME)
}
