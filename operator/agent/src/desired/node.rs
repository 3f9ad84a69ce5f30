//! What an EPIC node should do: VIPs and their proxies, tunnels that end here, endpoints behind them.
//!
//! A proxy is a pod whose uid stands in the status of a LoadBalancer of the pod's own namespace, whatever labels it
//! carries. Its row appears when its veth is found; until then the node does as if it were not there. Around every pod
//! of a tenant there is a fence as soon as its veth is found, whether it is listed or not, and it stays when the tenant
//! goes before its pods.
//!
//! An endpoint without a node may be passed to only while the operator's `Accepted` is about the very generation that
//! is read here: a tenant edits its spec at will, and the address in it has to be judged first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use epic_crds::well_known::TENANT_NAMESPACE_PREFIX;
use epic_crds::{
    Account, AddressClaim, AddressPool, ConditionStatus, EPIC, EPICNode, EPICNodeReason, Endpoint,
    HasConditions as _, LoadBalancer, ProxyState as CrdState,
};
use epic_lb::{
    Alias, Backend, BackendState, EpicNode, Frontend, FrontendKey, Link, Name, Pass, Place as At, Protocol,
    Proxy, ProxyId, ProxyState, ServiceName, Tunnel, TunnelId, Veth,
};
use epic_model::address as text;
use epic_model::claim::{Interval, Pool};
use epic_model::id::NodeName;
use epic_model::owner::{self, Candidate, Service as NodeService};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Pod, Service as CoreService};

use super::keys::Keyring;
use super::unique::{Taken, by_age};
use super::{Identity, Rows, ServiceRows, address, is_refused, port, protocol};
use crate::hello::responder::{self, Protected};

/// What stands for the boot id of a kernel that gives none.
pub const UNKNOWN_BOOT: &str = "unknown";

/// The objects one decision is made on.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// The singleton.
    pub epic: Arc<EPIC>,
    /// All LoadBalancers.
    pub load_balancers: Vec<Arc<LoadBalancer>>,
    /// All Endpoints.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// All Accounts.
    pub accounts: Vec<Arc<Account>>,
    /// All claims.
    pub claims: Vec<Arc<AddressClaim>>,
    /// All pools.
    pub pools: Vec<Arc<AddressPool>>,
    /// All EPICNodes.
    pub epic_nodes: Vec<Arc<EPICNode>>,
    /// All Nodes.
    pub nodes: Vec<Arc<Node>>,
    /// Pods of this node.
    pub pods: Vec<Arc<Pod>>,
    /// The Service of the operator's xDS.
    pub xds: Option<Arc<CoreService>>,
}

/// This node, as far as rows depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub name: Arc<str>,
    /// How tunnels leave it. Its `local` is the node's GUE address.
    pub link: Link,
}

/// A proxy pod of this node whose veth was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    /// Proxy id.
    pub id: ProxyId,
    /// LoadBalancer.
    pub service: ServiceName,
    /// Namespace and name of the pod.
    pub pod: kates::Key,
    /// Where it hangs.
    pub veth: Veth,
    /// Client nodes that its LoadBalancer's endpoints are on, each with the tunnel to this node if there is one yet.
    pub clients: BTreeMap<IpAddr, Option<u32>>,
}

/// For whom an address is owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// uid of the LoadBalancer that it is claimed for.
    pub uid: Arc<str>,
    /// It is the gateway of a default route of an EPIC node.
    pub gateway: bool,
}

/// What follows from the objects.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// Rows of the tables.
    pub rows: Rows,
    /// What the hello responder has to know.
    pub directory: responder::Directory,
    /// Proxies of this node, by pod uid.
    pub local: BTreeMap<Arc<str>, Local>,
    /// Nodes that may own addresses; the next decision's `previous`.
    pub eligible: BTreeSet<NodeName>,
    /// Host sides of the veths of tenants' pods on this node, listed or not, with their names: where the fence is.
    pub fences: BTreeMap<u32, Arc<str>>,
    /// Host sides of the veths of pods that certainly are no tenant's: no fence may stay around them.
    pub others: BTreeSet<u32>,
    /// Public addresses that this node is to answer for, those that it may not answer for yet included.
    pub owned: BTreeMap<IpAddr, Claim>,
    /// Those of them that it answers for.
    pub answering: BTreeSet<IpAddr>,
    /// What was left out, and why.
    pub left_out: Vec<String>,
}

/// Decides. `veths` are those found for [`local_addresses`], `previous` is the last decision's `eligible`. Of one
/// `keyring` to the next call keys need not be derived again. `may_answer` says of an address that is owned for the
/// LoadBalancer of a claim whether it is known that nobody else has it.
pub fn desired(
    objects: &Objects,
    place: &Place,
    keyring: &mut Keyring,
    veths: &BTreeMap<IpAddr, Vec<Veth>>,
    previous: &BTreeSet<NodeName>,
    mut may_answer: impl FnMut(IpAddr, &Claim) -> bool,
) -> Desired {
    let candidates = candidates(objects);
    let mut found = Desired { eligible: owner::eligible(&candidates, previous), ..Desired::default() };
    let serving = service_of_nodes(objects, &candidates);
    let gateways = gateways(objects);
    let me = NodeName::new(&*place.name);
    let pods: BTreeMap<&str, &Pod> =
        objects.pods.iter().filter_map(|pod| Some((pod.metadata.uid.as_deref()?, &**pod))).collect();
    let places = veths_of_pods(&objects.pods, veths);
    let addresses = gue_addresses(objects);
    let endpoints = by_load_balancer(&objects.endpoints);
    let networks = client_networks(&objects.accounts);
    let announced = announced(objects);
    let claimed = claimed(objects);
    let mut taken = Taken::default();
    let mut vips: BTreeMap<IpAddr, ServiceName> = BTreeMap::new();
    for object in by_age(&objects.load_balancers) {
        let Some(identity) = Identity::of(object) else { continue };
        if let Err(why) = taken.ids(&identity) {
            found.left_out.push(why);
            continue;
        }
        let Some((keys, hello)) = keyring.keys(&identity) else {
            found.left_out.push(format!("{}: its uid is none, so it has no keys", identity.name));
            continue;
        };
        let mut service = identity.row(object);
        service.keys = Some(keys.into());
        let (mut proxies, here) =
            proxies(object, &identity, place, &addresses, (&pods, &places), &mut found.left_out);
        taken.proxies(&mut proxies, &mut found.left_out);
        let is_its_own = |uid: &Arc<str>| proxies.iter().any(|proxy| proxy.pod_uid == *uid);
        found.local.extend(here.into_iter().filter(|(uid, _)| is_its_own(uid)));
        for proxy in &mut proxies {
            proxy.state = match serving.get(&*proxy.node) {
                // It has lost its maps.
                Some(NodeService::Rebooted) => ProxyState::Pending,
                Some(NodeService::OutOfService) if proxy.state == ProxyState::Ready => {
                    ProxyState::OutOfService
                }
                _ => proxy.state,
            };
        }
        let vip = object.status.as_ref().and_then(|s| address(s.public_address.as_deref()?));
        let vip = vip.filter(|vip| {
            let owner = claimed.get(&*epic_crds::claim_name(*vip));
            if owner.is_some_and(|owner| *owner != &*identity.uid) {
                found.left_out.push(format!("{}: {vip} is claimed for another LoadBalancer", identity.name));
                return false;
            }
            match vips.get(vip) {
                Some(other) => {
                    found.left_out.push(format!("{}: {vip} is also granted to {other}", identity.name));
                    false
                }
                None => vips.insert(*vip, identity.name.clone()).is_none(),
            }
        });
        let owned = vip.is_some_and(|vip| {
            announced.get(&*epic_crds::claim_name(vip)) == Some(&&*identity.uid)
                && owner::owner(vip, &found.eligible) == Some(&me)
        });
        let mut answers = false;
        if let Some(vip) = vip.filter(|_| owned) {
            let claim = Claim { uid: Arc::clone(&identity.uid), gateway: gateways.contains(&vip) };
            answers = may_answer(vip, &claim);
            found.owned.insert(vip, claim);
            found.answering.extend(answers.then_some(vip));
        }
        let frontends = vip.map(|vip| frontends(object, &identity.name, vip, answers)).unwrap_or_default();
        let backends = proxies.iter().filter_map(backend).collect();
        let mut tunnels = tunnels(object, &identity, place);
        taken.tunnels(&mut tunnels, &mut found.left_out);
        let mine = endpoints.get(&identity.name).map(Vec::as_slice).unwrap_or_default();
        let (aliases, passes) = reach(mine, &identity.name, &tunnels);
        for proxy in &proxies {
            if let Some(local) = found.local.get_mut(&proxy.pod_uid) {
                local.clients = clients(mine, &tunnels);
            }
        }
        // Without its Account nothing says where a tenant's clients may be.
        let allowed = networks.get(identity.name.namespace()).cloned().unwrap_or_else(|| Some([].into()));
        let entry = responder::Tunnel { lb: identity.lb(), keys: hello, client_networks: allowed };
        let ids = tunnels.iter().map(|tunnel| tunnel.id.get());
        found.directory.tunnels.extend(ids.map(|id| (id, entry.clone())));
        let rows = ServiceRows { service, frontends, backends, tunnels, proxies, aliases, passes };
        found.rows.services.push(rows);
    }
    found.rows.passes.extend(xds(objects.xds.as_deref()));
    found.rows.nodes = addresses
        .iter()
        .filter(|(name, _)| **name != &*place.name)
        .map(|(name, address)| EpicNode::new(*address, name))
        .collect();
    found.directory.protected = protected(objects, &addresses, vips.keys());
    let is_tenant_s = tenancy(objects);
    for (uid, veth) in &places {
        let Some(pod) = pods.get(uid) else { continue };
        if is_tenant_s(pod) {
            // One that is being deleted has its fence. A veth that comes now is of whoever got its address.
            if pod.metadata.deletion_timestamp.is_none() {
                found.fences.insert(veth.ifindex, Arc::clone(&veth.ifname));
            }
        } else if !may_have_been_a_tenant_s(pod) {
            found.others.insert(veth.ifindex);
        }
    }
    let uids: BTreeSet<&str> =
        objects.load_balancers.iter().filter_map(|o| o.metadata.uid.as_deref()).collect();
    keyring.retain(|uid| uids.contains(uid));
    found
}

/// Addresses of pods on this node: those to find veths for. Others' pods too, for no fence may be around them.
pub fn local_addresses(objects: &Objects) -> BTreeSet<IpAddr> {
    objects.pods.iter().filter_map(|pod| pod_address(pod)).collect()
}

/// The veth of every pod, by uid. An address may be handed on while the API still shows the pod that had it: of several
/// pods with it, and of several veths behind which it is found, the youngest belong together.
fn veths_of_pods<'a>(
    pods: &'a [Arc<Pod>],
    veths: &'a BTreeMap<IpAddr, Vec<Veth>>,
) -> BTreeMap<&'a str, &'a Veth> {
    let mut youngest: BTreeMap<IpAddr, &Pod> = BTreeMap::new();
    for pod in pods {
        let Some(address) = pod_address(pod) else { continue };
        let held = youngest.entry(address).or_insert(pod);
        if held.metadata.creation_timestamp < pod.metadata.creation_timestamp {
            *held = pod;
        }
    }
    let place = |(address, pod): (IpAddr, &'a Pod)| {
        let veth = veths.get(&address)?.iter().max_by_key(|veth| veth.ifindex)?;
        Some((pod.metadata.uid.as_deref()?, veth))
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
    let serving = nodes_of_proxies(objects);
    let candidate = |object: &Arc<EPICNode>| {
        let name = object.metadata.name.as_deref()?;
        let node = *nodes.get(name)?;
        Some(Candidate {
            node: NodeName::new(name),
            node_ready: node_is_ready(node),
            agent_ready: object.is_condition_true(epic_crds::condition::READY),
            rebooted: is_rebooted(node, object),
            out_of_service: object.out_of_service().is_some(),
            runs_proxy: serving.contains(name),
        })
    };
    objects.epic_nodes.iter().filter_map(candidate).collect()
}

/// Nodes on which a proxy of any LoadBalancer serves. One that drains counts, or the address would leave the flow table
/// that its flows stand in. One that is pending does not: on a node that fails unseen it stays so.
fn nodes_of_proxies(objects: &Objects) -> BTreeSet<&str> {
    let statuses = objects.load_balancers.iter().filter_map(|object| object.status.as_ref());
    statuses
        .flat_map(|status| &status.proxies)
        .filter(|proxy| proxy.state != CrdState::Pending)
        .filter_map(|proxy| proxy.node.as_deref())
        .collect()
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
fn service_of_nodes<'o>(objects: &'o Objects, candidates: &[Candidate]) -> BTreeMap<&'o str, NodeService> {
    let judged: BTreeMap<&str, NodeService> =
        candidates.iter().map(|candidate| (candidate.node.as_str(), candidate.service())).collect();
    let service = |object: &'o Arc<EPICNode>| {
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
        Some((name, service))
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
fn gue_addresses(objects: &Objects) -> BTreeMap<&str, IpAddr> {
    let of = |object: &'_ Arc<EPICNode>| address(object.status.as_ref()?.addresses.first()?);
    objects
        .epic_nodes
        .iter()
        .filter_map(|object| Some((object.metadata.name.as_deref()?, of(object)?)))
        .collect()
}

fn by_load_balancer(endpoints: &[Arc<Endpoint>]) -> BTreeMap<ServiceName, Vec<&Endpoint>> {
    let mut found: BTreeMap<ServiceName, Vec<&Endpoint>> = BTreeMap::new();
    for endpoint in endpoints {
        let Some(namespace) = endpoint.metadata.namespace.as_deref() else { continue };
        let name = ServiceName::new(namespace, endpoint.spec.load_balancer.as_str());
        found.entry(name).or_default().push(endpoint);
    }
    found
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

fn proxies(
    object: &LoadBalancer,
    identity: &Identity,
    place: &Place,
    addresses: &BTreeMap<&str, IpAddr>,
    (pods, places): (&BTreeMap<&str, &Pod>, &BTreeMap<&str, &Veth>),
    left_out: &mut Vec<String>,
) -> (Vec<Proxy>, BTreeMap<Arc<str>, Local>) {
    let (mut rows, mut here) = (Vec::new(), BTreeMap::new());
    for entry in object.status.iter().flat_map(|status| &status.proxies) {
        let Some(id) = entry.proxy_id.and_then(|id| ProxyId::new(id).ok()) else { continue };
        let Some(proxy_address) = entry.proxy_address.as_deref().and_then(address) else { continue };
        let Some(node) = entry.node.as_deref() else { continue };
        let mut row = Proxy {
            id,
            service: identity.name.clone(),
            address: proxy_address,
            pod: entry.pod.as_str().into(),
            pod_uid: entry.pod_uid.as_str().into(),
            node: node.into(),
            node_address: place.link.local,
            state: match entry.state {
                CrdState::Pending => ProxyState::Pending,
                CrdState::Ready => ProxyState::Ready,
                CrdState::Draining => ProxyState::Draining,
            },
            local: None,
        };
        if node != &*place.name {
            let known = addresses.get(node).copied();
            let Some(far) = known.or_else(|| address(entry.epic_address.as_deref()?)) else {
                left_out.push(format!("proxy {id}: the address of {node} is not known yet"));
                continue;
            };
            rows.push(Proxy { node_address: far, ..row });
            continue;
        }
        let Some(pod) = pods.get(entry.pod_uid.as_str()) else { continue };
        if pod.metadata.namespace.as_deref() != Some(identity.name.namespace()) {
            left_out.push(format!("proxy {id}: its pod lies in another namespace"));
            continue;
        }
        let Some(veth) = places.get(entry.pod_uid.as_str()) else {
            left_out.push(format!("proxy {id}: the veth of pod {} is not found yet", entry.pod));
            continue;
        };
        row.local = Some((*veth).clone());
        let local = Local {
            id,
            service: identity.name.clone(),
            pod: kates::Key::of(*pod),
            veth: (*veth).clone(),
            clients: BTreeMap::new(),
        };
        here.insert(Arc::clone(&row.pod_uid), local);
        rows.push(row);
    }
    (rows, here)
}

/// A proxy as a backend of its VIP. One that is pending is none. One whose node is out of service takes flows only if no
/// other proxy does.
fn backend(proxy: &Proxy) -> Option<Backend> {
    let state = match proxy.state {
        ProxyState::Pending => return None,
        ProxyState::Ready => BackendState::Active,
        ProxyState::OutOfService => BackendState::Terminating,
        ProxyState::Draining => BackendState::Draining,
    };
    let mut backend = Backend::proxy(proxy.service.clone(), proxy.address, proxy.id);
    backend.state = state;
    backend.locality.node = Some(proxy.node.clone());
    Some(backend)
}

fn frontends(object: &LoadBalancer, service: &ServiceName, vip: IpAddr, owned: bool) -> Vec<Frontend> {
    let slots = object.status.iter().flat_map(|status| &status.ports);
    slots
        .filter_map(|slot| {
            let key = FrontendKey::new(vip, port(slot.port)?, protocol(slot.protocol));
            slot.listener_port()?;
            let slot = u16::try_from(slot.slot).ok()?;
            Some(Frontend { announced: owned, ..Frontend::proxied(key, service.clone(), slot) })
        })
        .collect()
}

fn tunnels(object: &LoadBalancer, identity: &Identity, place: &Place) -> Vec<Tunnel> {
    let entries = object.status.iter().flat_map(|status| &status.gue_tunnel_endpoints);
    entries
        .filter_map(|(client, entry)| {
            let leg = entry.legs().find(|leg| address(&leg.epic_address) == Some(place.link.local))?;
            Some(Tunnel {
                id: TunnelId::new(leg.tunnel_id).ok()?,
                service: identity.name.clone(),
                client_node: address(client)?,
                epic_node: Name::new(&place.name),
                epic_address: place.link.local,
                epic_port: port(leg.epic_port.port)?,
                link: place.link,
            })
        })
        .collect()
}

/// Endpoints that proxies reach: through a tunnel under their alias, or past the tunnels.
fn reach(endpoints: &[&Endpoint], service: &ServiceName, tunnels: &[Tunnel]) -> (Vec<Alias>, Vec<Pass>) {
    let by_client: BTreeMap<IpAddr, TunnelId> =
        tunnels.iter().rev().map(|tunnel| (tunnel.client_node, tunnel.id)).collect();
    let (mut aliases, mut passes) = (Vec::new(), Vec::new());
    for endpoint in endpoints {
        let name = endpoint.metadata.name.as_deref().unwrap_or_default();
        // Past the tunnels: as the operator's tables have it.
        if let Some((real, to)) = endpoint.accepted_target() {
            if let (Some(address), Some(port)) = (address(real), port(to.port)) {
                let place = At::new(address, port, protocol(to.protocol));
                passes.push(Pass { service: Some(service.clone()), place, purpose: name.into() });
            }
            continue;
        }
        if is_refused(endpoint) {
            continue;
        }
        let node = endpoint.spec.node_address.as_deref().and_then(address);
        let alias = endpoint.status.as_ref().and_then(|s| address(s.alias_address.as_deref()?));
        let tunnel = node.and_then(|node| by_client.get(&node));
        let (Some(real), Some(number), Some(alias), Some(tunnel)) =
            (address(&endpoint.spec.address), port(endpoint.spec.port.port), alias, tunnel)
        else {
            continue;
        };
        aliases.push(Alias {
            service: service.clone(),
            address: alias.into(),
            tunnel: Some(*tunnel),
            real: At::new(real, number, protocol(endpoint.spec.port.protocol)),
            endpoint: name.into(),
        });
    }
    (aliases, passes)
}

/// Client nodes of a LoadBalancer's endpoints, with the tunnel from here.
fn clients(endpoints: &[&Endpoint], tunnels: &[Tunnel]) -> BTreeMap<IpAddr, Option<u32>> {
    let nodes = endpoints.iter().filter(|endpoint| !is_refused(endpoint));
    nodes
        .filter_map(|endpoint| address(endpoint.spec.node_address.as_deref()?))
        .map(|node| (node, tunnels.iter().find(|t| t.client_node == node).map(|t| t.id.get())))
        .collect()
}

/// The claims whose addresses are to be announced, by name: uids of their owners. Any pool that announces and holds the
/// address will do, since pools are renamed and overlap; so will the one that it was taken from, which may have been
/// edited since.
fn announced(objects: &Objects) -> BTreeMap<&str, &str> {
    let announces = |pool: &&Arc<AddressPool>| pool.spec.advertise.as_ref().is_some_and(|a| a.l2.is_some());
    let pools: Vec<&Arc<AddressPool>> = objects.pools.iter().filter(announces).collect();
    let names: BTreeSet<&str> = pools.iter().filter_map(|pool| pool.metadata.name.as_deref()).collect();
    let entries = pools.iter().flat_map(|pool| &pool.spec.addresses);
    let held = Pool::new("", entries.filter_map(|entry| entry.parse::<Interval>().ok()));
    let is_announced = |claim: &&Arc<AddressClaim>| {
        names.contains(claim.spec.pool.as_str())
            || address(&claim.spec.address).is_some_and(|address| held.contains(address))
    };
    let claims = objects.claims.iter().filter(is_announced);
    claims
        .filter_map(|claim| Some((claim.metadata.name.as_deref()?, claim.spec.owner.uid.as_str())))
        .collect()
}

/// All claims by name: uids of their owners.
fn claimed(objects: &Objects) -> BTreeMap<&str, &str> {
    let claims = objects.claims.iter();
    claims
        .filter_map(|claim| Some((claim.metadata.name.as_deref()?, claim.spec.owner.uid.as_str())))
        .collect()
}

/// Every proxy may reach the operator's xDS.
fn xds(service: Option<&CoreService>) -> Vec<Pass> {
    let Some(spec) = service.and_then(|service| service.spec.as_ref()) else { return Vec::new() };
    let addresses: Vec<IpAddr> = spec.cluster_ips.iter().flatten().filter_map(|ip| address(ip)).collect();
    let ports = spec.ports.iter().flatten().filter_map(|p| port(i64::from(p.port)));
    ports
        .flat_map(|port| addresses.iter().map(move |address| (*address, port)))
        .map(|(address, port)| {
            let place = At::new(address, port, Protocol::Tcp);
            Pass { service: None, place, purpose: "xDS".into() }
        })
        .collect()
}

/// Where no client may call from.
fn protected<'a>(
    objects: &Objects,
    addresses: &BTreeMap<&str, IpAddr>,
    vips: impl Iterator<Item = &'a IpAddr>,
) -> Protected {
    let internal = objects.nodes.iter().flat_map(|node| internal_addresses(node));
    let given = objects.epic.spec.protected_addresses.iter();
    let given =
        given.filter_map(|given| text::parse_network(given).ok().or_else(|| address(given).map(text::host)));
    Protected {
        hosts: addresses.values().copied().chain(internal).chain(vips.copied()).collect(),
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
