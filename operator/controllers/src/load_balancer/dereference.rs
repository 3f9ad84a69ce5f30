//! Everything a LoadBalancer's reconcile looks at, out of one snapshot.

use std::net::IpAddr;
use std::sync::Arc;

use epic_crds::well_known::{EPIC_NAME, EPIC_NAMESPACE};
use epic_crds::{Account, AddressClaim, AddressPool, EPIC, Endpoint, LoadBalancer, ServiceGroup};
use epic_model::claim::Claim;
use epic_model::id::{NodeName, ObjectName, Seconds};
use epic_model::proxy::Pod;
use epic_model::revision::NodeRevision;
use jiff::Timestamp;
use kates::{Key, Snapshot};
use kube::ResourceExt;

use crate::account::account_of;
use crate::allocation::verdict::Verdict;
use crate::claim::{claim, live_nodes, node_revisions};
use crate::context::Shared;
use crate::proxy::{Index, first_trouble, listed};
use crate::service_group::{admits, group_of, pools_of};
use crate::xds::{configured, xds_address};

/// What is there.
pub struct Found {
    /// The LoadBalancer.
    pub balancer: Arc<LoadBalancer>,
    /// The EPIC object.
    pub epic: Option<Arc<EPIC>>,
    /// The Account that its namespace belongs to.
    pub account: Option<Arc<Account>>,
    /// Its group.
    pub group: Option<Arc<ServiceGroup>>,
    /// Whether the group, when it is a shared one, admits the Account.
    pub admitted: bool,
    /// Whether it is among those beyond the Account's limit of LoadBalancers.
    pub over_balancer_limit: bool,
    /// Whether it asks for more proxies than it has, and those are beyond the Account's proxy limit.
    pub over_proxy_limit: bool,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// What keeps one of them from getting ready.
    pub trouble: Option<String>,
    /// What its pods' conditions say about their configuration, by pod name.
    pub configured: Vec<(ObjectName, Option<i64>, Option<String>)>,
    /// The Endpoints that name it.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// How far the nodes are.
    pub revisions: Vec<NodeRevision>,
    /// Nodes whose agents live.
    pub live: Vec<NodeName>,
    /// Why an ID is missing.
    pub verdict: Option<Verdict>,
    /// ClusterIP of the xDS Service.
    pub xds_address: Option<IpAddr>,
    /// Whether a pool that holds its address is announced on layer 2; `None` without address.
    pub announced: Option<bool>,
    /// Whether its address lies in a pool of its group.
    pub in_pool: bool,
}

/// Looks everything up; `None` when the LoadBalancer is gone.
pub fn load(snapshot: &Snapshot, context: &Shared, key: &Key) -> Option<Found> {
    let balancer = Arc::clone(snapshot.get::<LoadBalancer>(key)?);
    let namespace = balancer.namespace().unwrap_or_default();
    let account = account_of(snapshot, &namespace);
    let group = group_of(snapshot, &balancer);
    let now = Seconds(Timestamp::now().as_second());
    let limits = account.as_ref().map(|account| crate::account::limits(snapshot, account, &namespace));
    let uid = balancer.uid().unwrap_or_default();
    let over = |refused: &dyn Fn(&crate::account::Limits) -> bool| limits.as_ref().is_some_and(refused);
    let pool = balancer
        .status
        .as_ref()
        .and_then(|status| status.public_address.as_deref())
        .and_then(|text| epic_model::address::parse(text).ok())
        .and_then(|address| snapshot.get::<AddressClaim>(&crate::claim::release::claim_key(address)))
        .and_then(|object| claim(object));
    let announces =
        |object: &&Arc<AddressPool>| object.spec.advertise.as_ref().is_some_and(|how| how.l2.is_some());
    // As agents see it: any pool will do that holds the address, and the one that it was taken from.
    let is_announced = |claim: &Claim| {
        snapshot.list::<AddressPool>().filter(announces).any(|object| {
            object.name_any() == claim.pool.as_str()
                || crate::claim::pool(object).is_ok_and(|pool| pool.contains(claim.address))
        })
    };
    let names = group.as_deref().map(pools_of).unwrap_or_default();
    let in_pool = pool.as_ref().is_none_or(|claim| {
        let pools = context.addresses.pools();
        pools.iter().any(|pool| names.contains(&pool.name) && pool.contains(claim.address))
    });
    let index = Index::within(snapshot, &namespace);
    let pods = index.objects(&balancer.metadata, listed(&balancer));
    Some(Found {
        epic: snapshot.get::<EPIC>(&Key::namespaced(EPIC_NAMESPACE, EPIC_NAME)).cloned(),
        admitted: match (&group, &account) {
            (Some(group), Some(account)) => admits(group, &account.name_any(), &namespace),
            _ => false,
        },
        over_balancer_limit: over(&|limits| limits.load_balancers.refused.contains(&uid.as_str().into())),
        over_proxy_limit: over(&|limits| limits.proxies.refused.contains(&uid.as_str().into())),
        trouble: first_trouble(pods.iter().copied()),
        configured: configured(&pods),
        pods: pods.iter().map(|pod| index.proxy(pod)).collect(),
        endpoints: snapshot
            .in_namespace::<Endpoint>(&namespace)
            .filter(|endpoint| endpoint.spec.load_balancer == balancer.name_any())
            .cloned()
            .collect(),
        revisions: node_revisions(snapshot, now),
        live: live_nodes(snapshot, now).into_iter().map(NodeName::from).collect(),
        verdict: context.verdicts.of(&uid),
        xds_address: xds_address(snapshot, &context.settings),
        announced: pool.as_ref().map(is_announced),
        in_pool,
        balancer,
        account,
        group,
    })
}
