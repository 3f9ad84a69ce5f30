//! Everything a LoadBalancer's reconcile looks at, out of one snapshot.

use std::net::IpAddr;
use std::sync::Arc;

use epic_crds::well_known::{EPIC_NAME, EPIC_NAMESPACE};
use epic_crds::{
    Account, AddressClaim, AddressPool, EPIC, EPICNode, Endpoint, LoadBalancer, ProxySettings, ProxyState,
    ServiceGroup,
};
use epic_model::account::Usage;
use epic_model::claim::Claim;
use epic_model::id::{NodeName, ObjectName, Seconds};
use epic_model::proxy::Pod;
use epic_model::revision::NodeRevision;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kates::{Key, Snapshot};
use kube::ResourceExt;

use super::Announcement;
use crate::account::{Limits, account_of};
use crate::allocation::verdict::Verdict;
use crate::claim::{Of, claim, live_nodes, node_revisions};
use crate::context::Shared;
use crate::proxy::{Agent, Index, Surroundings, first_trouble, lacks_volume, listed, owned_by, settings};
use crate::service_group::{admits, group_of, offer, pools_of};
use crate::witness::Heard;
use crate::xds::{configured, xds_address};

/// What is there.
#[derive(Clone)]
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
    /// The groups that it may name; only where its own is not there.
    pub groups: Vec<String>,
    /// How full the Account's limit of LoadBalancers is, if it is among those beyond it.
    pub over_balancer_limit: Option<String>,
    /// How full the Account's limit of proxies is, if it asks for more than it has and is beyond it.
    pub over_proxy_limit: Option<String>,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// What keeps one of them from getting ready.
    pub trouble: Option<String>,
    /// Whether a pod waits for a volume, which its certificate's Secret may be.
    pub lacks_volume: bool,
    /// What its pods' conditions say about their configuration, by pod name.
    pub configured: Vec<(ObjectName, Option<i64>, Option<String>)>,
    /// Where its proxies run, and with what.
    pub settings: ProxySettings,
    /// The Endpoints that name it.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// How far the nodes are.
    pub revisions: Vec<NodeRevision>,
    /// Why nodes do not hold it in their maps as they should, by node.
    pub behind: Vec<(NodeName, String)>,
    /// Nodes whose agents live.
    pub live: Vec<NodeName>,
    /// Why an ID is missing.
    pub verdict: Option<Verdict>,
    /// ClusterIP of the xDS Service.
    pub xds_address: Option<IpAddr>,
    /// How its address is announced; `None` without address.
    pub announcement: Option<Announcement>,
    /// Pods that take traffic and have not been heard for a while.
    pub stale: Vec<String>,
    /// Wanted pods: those of the group, or what its Deployment has when it is refused.
    pub replicas: u32,
    /// Who is heard.
    pub heard: Arc<Heard>,
    /// Whether its address lies in a pool of its group.
    pub in_pool: bool,
}

/// Names of the pods that take traffic and have not been heard for a while.
fn stale(balancer: &LoadBalancer, heard: &Heard) -> Vec<String> {
    let proxies = balancer.status.iter().flat_map(|status| &status.proxies);
    let ready = proxies.filter(|proxy| proxy.state == ProxyState::Ready);
    ready.filter(|proxy| heard.is_stale(proxy.proxy_id)).map(|proxy| proxy.pod.clone()).collect()
}

fn replicas(group: Option<&ServiceGroup>, deployment: Option<&Deployment>) -> u32 {
    let made = deployment.and_then(|deployment| deployment.spec.as_ref()?.replicas);
    let wanted = made.map(i64::from).or_else(|| group.map(|group| group.spec.envoy_replicas()));
    wanted.and_then(|wanted| u32::try_from(wanted).ok()).unwrap_or(0)
}

/// Looks everything up; `None` when the LoadBalancer is gone.
pub fn load(snapshot: &Snapshot, context: &Shared, key: &Key) -> Option<Found> {
    let balancer = Arc::clone(snapshot.get::<LoadBalancer>(key)?);
    let namespace = balancer.namespace().unwrap_or_default();
    let account = account_of(snapshot, &namespace);
    let group = group_of(snapshot, &balancer);
    let now = Seconds(Timestamp::now().as_second());
    let limits = account.as_ref().map(|account| context.admissions.of(snapshot, account, &namespace));
    let uid = balancer.uid().unwrap_or_default();
    let over = |usage: fn(&Limits) -> &Usage| {
        let usage = limits.as_deref().map(usage)?;
        usage.refused.contains(&uid.as_str().into()).then(|| usage.to_string())
    };
    let groups = match (&group, &account) {
        (None, Some(account)) => offer(snapshot, account, &namespace).groups.into_keys().collect(),
        _ => Vec::new(),
    };
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
    let heard = context.witness.heard();
    let xds_address = xds_address(snapshot, &context.settings);
    let child = epic_model::name::child(&namespace.as_str().into(), &balancer.name_any().into());
    let deployment = snapshot
        .get::<Deployment>(&Key::namespaced(namespace.as_str(), child.as_str()))
        .filter(|deployment| owned_by(&deployment.metadata, &uid))
        .cloned();
    let agent = |node: &str| match snapshot.get::<EPICNode>(&Key::namespaced(EPIC_NAMESPACE, node)) {
        None => Agent::Missing,
        Some(_) if heard.is_silent(node) => Agent::Silent,
        Some(_) => Agent::Alive,
    };
    let around =
        Surroundings { deployment: deployment.as_deref(), agent: &agent, xds_address, now: Timestamp::now() };
    Some(Found {
        epic: snapshot.get::<EPIC>(&Key::namespaced(EPIC_NAMESPACE, EPIC_NAME)).cloned(),
        admitted: match (&group, &account) {
            (Some(group), Some(account)) => admits(group, &account.name_any(), &namespace),
            _ => false,
        },
        groups,
        over_balancer_limit: over(|limits| &limits.load_balancers),
        over_proxy_limit: over(|limits| &limits.proxies),
        lacks_volume: pods.iter().any(|pod| lacks_volume(pod, now)),
        trouble: first_trouble(pods.iter().copied(), &around),
        stale: stale(&balancer, &heard),
        replicas: replicas(group.as_deref(), deployment.as_deref()),
        settings: settings(
            &context.settings.proxies,
            snapshot.get::<EPIC>(&Key::namespaced(EPIC_NAMESPACE, EPIC_NAME)).map(AsRef::as_ref),
            group.as_deref(),
        ),
        configured: configured(&pods),
        pods: pods.iter().map(|pod| index.proxy(pod)).collect(),
        endpoints: snapshot
            .in_namespace::<Endpoint>(&namespace)
            .filter(|endpoint| endpoint.spec.load_balancer == balancer.name_any())
            .cloned()
            .collect(),
        revisions: node_revisions(snapshot, now, Of::Balancer { namespace: &namespace, uid: &uid }),
        behind: behind(snapshot, &namespace, &uid),
        live: live_nodes(snapshot, now).into_iter().map(NodeName::from).collect(),
        verdict: context.verdicts.of(&uid),
        xds_address,
        announcement: pool.map(|claim| {
            let answers = context.endpoints.answers(snapshot);
            Announcement {
                announced: is_announced(&claim),
                answer: answers.about(claim.address),
                may_be_unlisted: !answers.incomplete.is_empty() || !answers.are_told(),
            }
        }),
        heard,
        in_pool,
        balancer,
        account,
        group,
    })
}

/// What nodes say of it that do not hold it in their maps as they should.
fn behind(snapshot: &Snapshot, namespace: &str, uid: &str) -> Vec<(NodeName, String)> {
    let nodes = snapshot.list::<EPICNode>();
    nodes
        .filter_map(|node| {
            let why = node.status.as_ref()?.behind(namespace, uid)?;
            Some((NodeName::from(node.name_any()), why.to_owned()))
        })
        .collect()
}
