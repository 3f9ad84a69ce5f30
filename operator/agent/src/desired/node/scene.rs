//! What all LoadBalancers have in common for a decision: nodes, pods, claims, pools, networks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use epic_crds::well_known::TENANT_NAMESPACE_PREFIX;
use epic_crds::{
    Account, AddressClaim, AddressPool, ConditionStatus, EPIC, EPICNode, EPICNodeReason, HasConditions as _,
    LoadBalancer, ProxyState as CrdState,
};
use epic_lb::{Pass, Place as At, Protocol, Veth};
use epic_model::address as text;
use epic_model::claim::{Interval, Pool};
use epic_model::id::NodeName;
use epic_model::owner::{self, Candidate, Service as NodeService};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Pod, Service as CoreService};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kates::Change;

use super::super::{address, port};
use super::{Objects, Place, UNKNOWN_BOOT};
use crate::hello::responder::Protected;

/// Everything that the rows of a LoadBalancer depend on beside itself, its Endpoints, and who has which number.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) place: Place,
    /// Nodes that may own addresses.
    pub(super) eligible: BTreeSet<NodeName>,
    /// Whether the proxies of a node take new flows.
    pub(super) serving: BTreeMap<String, NodeService>,
    /// Gateways of default routes of EPIC nodes.
    pub(super) gateways: BTreeSet<IpAddr>,
    /// Pods of this node, by uid.
    pub(super) pods: BTreeMap<String, Arc<Pod>>,
    /// Their veths, by uid.
    pub(super) veths: BTreeMap<String, Veth>,
    /// GUE addresses of EPIC nodes.
    pub(super) addresses: BTreeMap<String, IpAddr>,
    /// Where clients may be, by tenant namespace.
    pub(super) networks: BTreeMap<Arc<str>, Option<Arc<[IpNet]>>>,
    /// Claims whose addresses are announced, by name: uids of their owners.
    pub(super) announced: BTreeMap<String, String>,
    /// All claims.
    pub(super) claimed: BTreeMap<String, String>,
    /// Which addresses are announced.
    announcing: Announcing,
    /// Proxies that serve, by node.
    proxies: BTreeMap<String, usize>,
    /// Where no client may call from, beside the public addresses.
    pub(super) protected: Protected,
}

impl Scene {
    /// What the objects say now. `veths` were found for [`local_addresses`], `previous` may have owned addresses so far.
    pub(super) fn of(
        objects: &Objects,
        place: &Place,
        veths: &BTreeMap<IpAddr, Vec<Veth>>,
        previous: &BTreeSet<NodeName>,
    ) -> Self {
        let candidates = candidates(objects);
        let addresses = gue_addresses(objects);
        let pods = objects.pods.iter();
        let announcing = Announcing::of(&objects.pools);
        let proxies = serving_proxies(&objects.load_balancers);
        Self {
            place: place.clone(),
            eligible: owner::eligible(&candidates, previous),
            serving: service_of_nodes(objects, &candidates),
            gateways: gateways(objects),
            pods: pods.filter_map(|pod| Some((pod.metadata.uid.clone()?, Arc::clone(pod)))).collect(),
            veths: veths_of_pods(&objects.pods, veths),
            networks: client_networks(&objects.accounts),
            announced: owners(objects.claims.iter().filter(|claim| announcing.includes(claim))),
            claimed: owners(objects.claims.iter()),
            announcing,
            proxies: proxies.into_iter().map(|(node, count)| (node.to_owned(), count)).collect(),
            protected: protected(objects, &addresses),
            addresses,
        }
    }

    /// Takes note of a claim that came, went or changed.
    pub(super) fn follow_claim(&mut self, change: &Change<AddressClaim>) {
        if let Some(claim) = &change.before {
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            self.claimed.remove(name);
            self.announced.remove(name);
        }
        if let Some(claim) = &change.after {
            self.claimed.extend(owners(std::iter::once(claim)));
            self.announced
                .extend(owners(std::iter::once(claim).filter(|claim| self.announcing.includes(claim))));
        }
    }

    /// Takes note of the proxies of LoadBalancers that changed, if nothing follows from that for others. It does when a node
    /// comes to run proxies or runs none any more, and when a pod here is a tenant's for being listed alone.
    pub(super) fn follow_proxies(&mut self, changes: &[Change<LoadBalancer>]) -> bool {
        let before: Vec<_> = changes.iter().filter_map(|change| change.before.clone()).collect();
        let after: Vec<_> = changes.iter().filter_map(|change| change.after.clone()).collect();
        let listed = |objects: &[Arc<LoadBalancer>]| -> BTreeSet<String> {
            let entries = objects.iter().filter_map(|object| object.status.as_ref()).flat_map(|s| &s.proxies);
            entries.map(|entry| entry.pod_uid.clone()).filter(|uid| self.pods.contains_key(uid)).collect()
        };
        let is_stranger = |uid: &String| {
            let pod = self.pods.get(uid).and_then(|pod| pod.metadata.namespace.as_deref());
            pod.is_some_and(|namespace| !self.networks.contains_key(namespace))
        };
        if listed(&before).symmetric_difference(&listed(&after)).any(is_stranger) {
            return false;
        }
        let (gone, come) = (serving_proxies(&before), serving_proxies(&after));
        let count = |counts: &BTreeMap<&str, usize>, node: &str| counts.get(node).copied().unwrap_or(0);
        let nodes: BTreeSet<&str> = gone.keys().chain(come.keys()).copied().collect();
        let new: Vec<(&str, usize)> = nodes
            .into_iter()
            .map(|node| {
                let held = self.proxies.get(node).copied().unwrap_or(0);
                (node, (held + count(&come, node)).saturating_sub(count(&gone, node)))
            })
            .collect();
        if new.iter().any(|(node, count)| (*count > 0) != self.proxies.contains_key(*node)) {
            return false;
        }
        for (node, count) in new.into_iter().filter(|(_, count)| *count > 0) {
            self.proxies.insert(node.to_owned(), count);
        }
        true
    }

    /// Whether this node is to answer for the address of a LoadBalancer.
    pub(super) fn owns(&self, vip: IpAddr, uid: &str) -> bool {
        self.announced.get(&*epic_crds::claim_name(vip)).is_some_and(|owner| owner == uid)
            && owner::owner(vip, &self.eligible).is_some_and(|node| node.as_str() == &*self.place.name)
    }

    /// Host sides of the veths of tenants' pods, and of pods that certainly are no tenant's.
    pub(super) fn fences(&self, objects: &Objects) -> (BTreeMap<u32, Arc<str>>, BTreeSet<u32>) {
        let (mut fences, mut others) = (BTreeMap::new(), BTreeSet::new());
        let is_tenant_s = tenancy(objects);
        for (uid, veth) in &self.veths {
            let Some(pod) = self.pods.get(uid) else { continue };
            if is_tenant_s(pod) {
                // One that is being deleted has its fence. A veth that comes now is of whoever got its address.
                if pod.metadata.deletion_timestamp.is_none() {
                    fences.insert(veth.ifindex, Arc::clone(&veth.ifname));
                }
            } else if !may_have_been_a_tenant_s(pod) {
                others.insert(veth.ifindex);
            }
        }
        (fences, others)
    }
}

/// The veth of every pod, by uid. An address may be handed on while the API still shows the pod that had it: of several
/// pods with it, and of several veths behind which it is found, the youngest belong together.
fn veths_of_pods(pods: &[Arc<Pod>], veths: &BTreeMap<IpAddr, Vec<Veth>>) -> BTreeMap<String, Veth> {
    let mut youngest: BTreeMap<IpAddr, &Pod> = BTreeMap::new();
    for pod in pods {
        let Some(address) = pod_address(pod) else { continue };
        let held = youngest.entry(address).or_insert(pod);
        if held.metadata.creation_timestamp < pod.metadata.creation_timestamp {
            *held = pod;
        }
    }
    let place = |(address, pod): (IpAddr, &Pod)| {
        let veth = veths.get(&address)?.iter().max_by_key(|veth| veth.ifindex)?;
        Some((pod.metadata.uid.clone()?, veth.clone()))
    };
    youngest.into_iter().filter_map(place).collect()
}

/// Whether a pod is a tenant's: it lies in the namespace of an account, or a LoadBalancer of its own namespace lists it.
/// Not by labels, which prove nothing, and not only by lists: a pod begins to send before anybody could list it.
fn tenancy(objects: &Objects) -> impl Fn(&Pod) -> bool {
    let accounts = objects.accounts.iter().filter_map(|account| account.status.as_ref());
    let tenants: BTreeSet<&str> = accounts.filter_map(|status| status.namespace.as_deref()).collect();
    let listed: BTreeSet<(&str, &str)> = objects
        .load_balancers
        .iter()
        .filter_map(|object| Some((object.metadata.namespace.as_deref()?, object.status.as_ref()?)))
        .flat_map(|(namespace, status)| status.proxies.iter().map(move |p| (namespace, p.pod_uid.as_str())))
        .collect();
    move |pod| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        tenants.contains(namespace) || listed.contains(&(namespace, uid))
    }
}

/// Whether a pod lies where only tenants' do. LoadBalancer and Account may be gone while it still drains, and then nothing
/// but its namespace tells whose it is, to an agent that has just started as well.
fn may_have_been_a_tenant_s(pod: &Pod) -> bool {
    pod.metadata.namespace.as_deref().is_some_and(|namespace| namespace.starts_with(TENANT_NAMESPACE_PREFIX))
}

/// The address of a running pod that has a network of its own.
fn pod_address(pod: &Pod) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let host = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    if ended || host { None } else { address(status.pod_ip.as_deref()?) }
}

/// What a claim of Readiness rests on for every Node that has an EPICNode.
pub fn candidates(objects: &Objects) -> Vec<Candidate> {
    let nodes: BTreeMap<&str, &Node> =
        objects.nodes.iter().filter_map(|node| Some((node.metadata.name.as_deref()?, &**node))).collect();
    let serving = serving_proxies(&objects.load_balancers);
    let candidate = |object: &Arc<EPICNode>| {
        let name = object.metadata.name.as_deref()?;
        let node = *nodes.get(name)?;
        Some(Candidate {
            node: NodeName::new(name),
            node_ready: node_is_ready(node),
            agent_ready: object.is_condition_true(epic_crds::condition::READY),
            rebooted: is_rebooted(node, object),
            out_of_service: object.out_of_service().is_some(),
            runs_proxy: serving.contains_key(name),
        })
    };
    objects.epic_nodes.iter().filter_map(candidate).collect()
}

/// How many proxies of LoadBalancers serve, by node. One that drains counts, or the address would leave the flow table that
/// its flows stand in. One that is pending does not: on a node that fails unseen it stays so.
fn serving_proxies(load_balancers: &[Arc<LoadBalancer>]) -> BTreeMap<&str, usize> {
    let statuses = load_balancers.iter().filter_map(|object| object.status.as_ref());
    let serving =
        statuses.flat_map(|status| &status.proxies).filter(|proxy| proxy.state != CrdState::Pending);
    let mut counts = BTreeMap::new();
    for node in serving.filter_map(|proxy| proxy.node.as_deref()) {
        *counts.entry(node).or_default() += 1;
    }
    counts
}

/// Whether the node runs in another boot than the one its EPICNode speaks of. Where one of the two is not known it does not.
fn is_rebooted(node: &Node, object: &EPICNode) -> bool {
    let known = |id: &&str| !id.is_empty() && *id != UNKNOWN_BOOT;
    let now = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    let now = now.map(|info| info.boot_id.as_str()).filter(known);
    let then = object.status.as_ref().and_then(|status| status.boot_id.as_deref()).filter(known);
    now.zip(then).is_some_and(|(now, then)| now != then)
}

/// Whether the proxies of each node may take new flows. Where nothing is known of a node they may.
fn service_of_nodes(objects: &Objects, candidates: &[Candidate]) -> BTreeMap<String, NodeService> {
    let judged: BTreeMap<&str, NodeService> =
        candidates.iter().map(|candidate| (candidate.node.as_str(), candidate.service())).collect();
    let service = |object: &Arc<EPICNode>| {
        let name = object.metadata.name.as_deref()?;
        let judged = *judged.get(name)?;
        let ready = object.condition(epic_crds::condition::READY);
        let reason = ready.filter(|c| c.status == ConditionStatus::False).map(|c| c.reason.as_str());
        // An agent that is starting after a reboot has not closed the gates of the earlier boot yet.
        let service = match reason {
            Some(reason) if reason == EPICNodeReason::Starting.as_str() => NodeService::Rebooted,
            Some(reason) if reason == EPICNodeReason::InterfaceDown.as_str() => match judged {
                NodeService::InService => NodeService::OutOfService,
                worse => worse,
            },
            _ => judged,
        };
        Some((name.to_owned(), service))
    };
    objects.epic_nodes.iter().filter_map(service).collect()
}

/// Gateways of default routes of any EPIC node: whoever answered for one would take the network from all.
fn gateways(objects: &Objects) -> BTreeSet<IpAddr> {
    let statuses = objects.epic_nodes.iter().filter_map(|object| object.status.as_ref());
    statuses.flat_map(|status| &status.gateways).filter_map(|text| address(text)).collect()
}

fn node_is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// GUE addresses by the name of the EPICNode.
fn gue_addresses(objects: &Objects) -> BTreeMap<String, IpAddr> {
    let of = |object: &'_ Arc<EPICNode>| address(object.status.as_ref()?.addresses.first()?);
    objects
        .epic_nodes
        .iter()
        .filter_map(|object| Some((object.metadata.name.clone()?, of(object)?)))
        .collect()
}

/// Where clients may be, by tenant namespace. A list none of whose entries parses admits nobody.
fn client_networks(accounts: &[Arc<Account>]) -> BTreeMap<Arc<str>, Option<Arc<[IpNet]>>> {
    let networks = |account: &Account| {
        let given = account.spec.client_networks.as_ref()?;
        Some(given.iter().filter_map(|network| text::parse_network(network).ok()).collect())
    };
    accounts
        .iter()
        .filter_map(|account| {
            let namespace = account.status.as_ref()?.namespace.as_deref()?;
            Some((namespace.into(), networks(account)))
        })
        .collect()
}

/// Which claimed addresses are to be announced. Any pool that announces and holds the address will do, since pools are
/// renamed and overlap; so will the one that it was taken from, which may have been edited since.
#[derive(Debug)]
struct Announcing {
    pools: BTreeSet<String>,
    held: Pool,
}

impl Announcing {
    fn of(pools: &[Arc<AddressPool>]) -> Self {
        let announces =
            |pool: &&Arc<AddressPool>| pool.spec.advertise.as_ref().is_some_and(|a| a.l2.is_some());
        let pools: Vec<&Arc<AddressPool>> = pools.iter().filter(announces).collect();
        let entries = pools.iter().flat_map(|pool| &pool.spec.addresses);
        let held = Pool::new("", entries.filter_map(|entry| entry.parse::<Interval>().ok()));
        Self { pools: pools.iter().filter_map(|pool| pool.metadata.name.clone()).collect(), held }
    }

    fn includes(&self, claim: &AddressClaim) -> bool {
        self.pools.contains(&claim.spec.pool)
            || address(&claim.spec.address).is_some_and(|address| self.held.contains(address))
    }
}

/// Claims by name: uids of their owners.
fn owners<'a>(claims: impl Iterator<Item = &'a Arc<AddressClaim>>) -> BTreeMap<String, String> {
    claims.filter_map(|claim| Some((claim.metadata.name.clone()?, claim.spec.owner.uid.clone()))).collect()
}

/// Where no client may call from, beside the public addresses.
fn protected(objects: &Objects, addresses: &BTreeMap<String, IpAddr>) -> Protected {
    let internal = objects.nodes.iter().flat_map(|node| internal_addresses(node));
    let given = objects.epic.spec.protected_addresses.iter();
    let given =
        given.filter_map(|given| text::parse_network(given).ok().or_else(|| address(given).map(text::host)));
    Protected {
        hosts: addresses.values().copied().chain(internal).collect(),
        networks: proxy_ranges(&objects.epic)
            .into_iter()
            .chain(alias_ranges(&objects.epic))
            .chain(given)
            .collect(),
    }
}

/// Addresses of type InternalIP.
pub fn internal_addresses(node: &Node) -> Vec<IpAddr> {
    let all = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let internal = all.into_iter().flatten().filter(|address| address.type_ == "InternalIP");
    internal.filter_map(|entry| address(&entry.address)).collect()
}

/// Ranges of proxy addresses in force, IPv4 first.
pub fn proxy_ranges(epic: &EPIC) -> Vec<IpNet> {
    let status = epic.status.as_ref().and_then(|status| status.proxy_addresses.as_ref());
    ranges(status.or(epic.spec.proxy_addresses.as_ref()), epic.spec.proxy_ipv4())
}

/// Ranges of aliases in force, IPv4 first.
pub fn alias_ranges(epic: &EPIC) -> Vec<IpNet> {
    let status = epic.status.as_ref().and_then(|status| status.alias_addresses.as_ref());
    ranges(status.or(epic.spec.alias_addresses.as_ref()), epic.spec.alias_ipv4())
}

fn ranges(given: Option<&epic_crds::AddressRanges>, default: &str) -> Vec<IpNet> {
    let v4 = given.and_then(|ranges| ranges.ipv4.as_deref()).unwrap_or(default);
    let v6 = given.and_then(|ranges| ranges.ipv6.as_deref());
    [Some(v4), v6].into_iter().flatten().filter_map(|range| text::parse_network(range).ok()).collect()
}

/// Every proxy may reach the operator's xDS: by the addresses of its Service, and by those of the pods behind it. Where
/// sockets are balanced (Cilium without kube-proxy), a proxy that dials the one sends packets to the other.
pub(super) fn xds(service: Option<&CoreService>, slices: &[Arc<EndpointSlice>]) -> Vec<Pass> {
    let spec = service.and_then(|service| service.spec.as_ref());
    let cluster_ips = spec.and_then(|spec| spec.cluster_ips.as_ref()).into_iter().flatten();
    let addresses: Vec<IpAddr> = cluster_ips.filter_map(|ip| address(ip)).collect();
    let ports = spec.and_then(|spec| spec.ports.as_ref()).into_iter().flatten();
    let of_service = ports
        .filter_map(|p| port(i64::from(p.port)))
        .flat_map(|port| addresses.iter().map(move |address| (*address, port)));
    let of_pods = slices.iter().flat_map(|slice| {
        let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
            endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
        });
        let addresses = ready.flat_map(|endpoint| &endpoint.addresses).filter_map(|ip| address(ip));
        let ports = slice.ports.iter().flatten().filter_map(|p| port(i64::from(p.port?)));
        let ports: Vec<u16> = ports.collect();
        addresses.flat_map(move |address| ports.clone().into_iter().map(move |port| (address, port)))
    });
    // By set, for an address may be in two slices.
    let places: BTreeSet<(IpAddr, u16)> = of_service.chain(of_pods).collect();
    places
        .into_iter()
        .map(|(address, port)| {
            let place = At::new(address, port, Protocol::Tcp);
            Pass { service: None, place, purpose: "xDS".into() }
        })
        .collect()
}

/// Addresses of pods on this node: those to find veths for. Others' pods too, for no fence may be around them.
pub fn local_addresses(objects: &Objects) -> BTreeSet<IpAddr> {
    objects.pods.iter().filter_map(|pod| pod_address(pod)).collect()
}
