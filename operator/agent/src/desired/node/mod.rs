//! What an EPIC node should do: VIPs and their proxies, tunnels that end here, endpoints behind them.
//!
//! A proxy is a pod whose uid stands in the status of a LoadBalancer of the pod's own namespace, whatever labels it
//! carries. Its row appears when its veth is found; until then the node does as if it were not there. Around every pod
//! of a tenant there is a fence as soon as its veth is found, whether it is listed or not, and it stays when the tenant
//! goes before its pods.
//!
//! An endpoint without a node may be passed to only while the operator's `Accepted` is about the very generation that
//! is read here: a tenant edits its spec at will, and the address in it has to be judged first.

mod balancer;
#[cfg(test)]
mod changes;
mod scene;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use epic_crds::{Account, AddressClaim, AddressPool, EPIC, EPICNode, Endpoint, LoadBalancer};
use epic_lb::{EpicNode, Link, ProxyId, ProxyState, ServiceName, Veth};
use epic_model::id::NodeName;
use epic_model::owner::Service as NodeService;
use imbl::{OrdMap, OrdSet};
use k8s_openapi::api::core::v1::{Node, Pod, Service as CoreService};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kates::Change;

use self::scene::Scene;
pub use self::scene::{alias_ranges, candidates, internal_addresses, local_addresses, proxy_ranges};
use super::keys::Keyring;
use super::unique::{Numbers, Taken, by_age};
use super::{Identity, Rows, ServiceRows, address};
use crate::hello::responder;

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
    /// The pods behind it.
    pub xds_slices: Vec<Arc<EndpointSlice>>,
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
    pub owned: OrdMap<IpAddr, Claim>,
    /// Those of them that it answers for.
    pub answering: OrdSet<IpAddr>,
    /// uids of pods of this node that LoadBalancers list, whether their veths were found or not.
    pub listed: BTreeSet<Arc<str>>,
    /// What was left out of each LoadBalancer, and why.
    pub left_out: BTreeMap<ServiceName, Vec<String>>,
}

impl Desired {
    /// Reasons of all that was left out.
    pub fn left_out(&self) -> impl Iterator<Item = &str> {
        self.left_out.values().flatten().map(String::as_str)
    }
}

/// What changed since a decision.
#[derive(Debug, Default)]
pub struct Changes {
    /// LoadBalancers.
    pub load_balancers: Vec<Change<LoadBalancer>>,
    /// Endpoints.
    pub endpoints: Vec<Change<Endpoint>>,
    /// Claims of addresses.
    pub claims: Vec<Change<AddressClaim>>,
}

/// What a change made of a decision.
#[derive(Debug, Default, PartialEq)]
pub struct Delta {
    /// Rows of LoadBalancers that were decided again.
    pub services: Vec<ServiceRows>,
    /// LoadBalancers that have no rows any more.
    pub gone: Vec<ServiceName>,
    /// Whether tunnels, or addresses that clients may not call from, came, went or changed.
    pub directory: bool,
    /// Whether the addresses that are owned or answered for changed.
    pub addresses: bool,
    /// What was left out and was not before, and why.
    pub left_out: Vec<String>,
}

/// A decision, with what is needed to decide anew about one LoadBalancer without looking at any other.
#[derive(Debug)]
pub struct Decision {
    scene: Scene,
    taken: Taken,
    endpoints: BTreeMap<ServiceName, BTreeMap<String, Arc<Endpoint>>>,
    /// LoadBalancers by the public address that they show, whether they have it or not.
    shown: BTreeMap<IpAddr, BTreeSet<ServiceName>>,
    /// What each LoadBalancer put into `desired`.
    parts: BTreeMap<ServiceName, Part>,
    desired: Desired,
    stale: bool,
}

/// What a LoadBalancer put into the decision.
#[derive(Debug, Default, PartialEq)]
struct Part {
    numbers: Numbers,
    local: BTreeMap<Arc<str>, Local>,
    listed: BTreeSet<Arc<str>>,
    shown: Option<IpAddr>,
    tunnels: BTreeMap<u32, responder::Tunnel>,
    owned: Option<(IpAddr, Claim, bool)>,
}

impl Decision {
    /// Decides about everything. `veths` are those found for [`local_addresses`], `previous` is the last decision's
    /// `eligible`. Of one `keyring` to the next call keys need not be derived again. `may_answer` says of an address that
    /// is owned for the LoadBalancer of a claim whether it is known that nobody else has it.
    pub fn new(
        objects: &Objects,
        place: &Place,
        keyring: &mut Keyring,
        veths: &BTreeMap<IpAddr, Vec<Veth>>,
        previous: &BTreeSet<NodeName>,
        mut may_answer: impl FnMut(IpAddr, &Claim) -> bool,
    ) -> Self {
        let scene = Scene::of(objects, place, veths, previous);
        let (fences, others) = scene.fences(objects);
        let nodes = scene.addresses.iter().filter(|(name, _)| **name != *place.name);
        let rows = Rows {
            passes: scene::xds(objects.xds.as_deref(), &objects.xds_slices),
            nodes: nodes.map(|(name, address)| EpicNode::new(*address, name)).collect(),
            ..Rows::default()
        };
        let directory = responder::Directory {
            protected: scene.protected.clone(),
            source_ports: objects.epic.spec.source_ports(),
            ..responder::Directory::default()
        };
        let desired = Desired {
            rows,
            directory,
            eligible: scene.eligible.clone(),
            fences,
            others,
            ..Desired::default()
        };
        let mut this = Self {
            scene,
            taken: Taken::default(),
            endpoints: BTreeMap::new(),
            shown: BTreeMap::new(),
            parts: BTreeMap::new(),
            desired,
            stale: false,
        };
        for endpoint in &objects.endpoints {
            this.note(None, Some(endpoint));
        }
        for object in by_age(&objects.load_balancers) {
            let rows = this.put(object, keyring, &mut may_answer);
            this.desired.rows.services.extend(rows);
        }
        let uids: BTreeSet<&str> =
            objects.load_balancers.iter().filter_map(|o| o.metadata.uid.as_deref()).collect();
        keyring.retain(|uid| uids.contains(uid));
        this
    }

    /// Whether a change was begun that [`Decision::change`] could not bring to an end: another decision has to follow.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// What it came to. The rows are those of [`Decision::new`], until they are taken.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// The rows, which are written once.
    pub fn take_rows(&mut self) -> Rows {
        std::mem::take(&mut self.desired.rows)
    }

    /// What it came to, for good.
    pub fn into_desired(self) -> Desired {
        self.desired
    }

    /// Decides again about the LoadBalancers that changed themselves, by their Endpoints, or by the claim of their address.
    /// `find` gives a LoadBalancer as it is now. `None` if others have to be decided again as well: numbers are or become
    /// contested, a node came to run proxies or runs none any more, which says where addresses may be, or a pod here became
    /// a tenant's by being listed. Then only [`Decision::new`] will do.
    pub fn change(
        &mut self,
        changes: &Changes,
        find: impl Fn(&ServiceName) -> Option<Arc<LoadBalancer>>,
        keyring: &mut Keyring,
        mut may_answer: impl FnMut(IpAddr, &Claim) -> bool,
    ) -> Option<Delta> {
        if self.taken.is_contested() || !self.scene.follow_proxies(&changes.load_balancers) {
            return None;
        }
        let mut touched: BTreeSet<ServiceName> = BTreeSet::new();
        for change in &changes.load_balancers {
            touched.extend(change.object().and_then(|object| name_of(object)));
        }
        for change in &changes.endpoints {
            self.note(change.before.as_ref(), change.after.as_ref());
            touched.extend(change.before.iter().chain(&change.after).filter_map(|e| balancer_of(e)));
        }
        for change in &changes.claims {
            self.scene.follow_claim(change);
            let addresses =
                change.before.iter().chain(&change.after).filter_map(|c| address(&c.spec.address));
            let shown = addresses.filter_map(|address| self.shown.get(&address));
            touched.extend(shown.flatten().cloned());
        }
        self.stale = true;
        // These share with what they become whatever does not change.
        let (directory, owned) = (self.desired.directory.clone(), self.desired.owned.clone());
        let answering = self.desired.answering.clone();
        let said: Vec<Vec<String>> = touched.iter().map(|name| self.retract(name)).collect();
        let mut delta = Delta::default();
        for (name, said) in touched.into_iter().zip(said) {
            let rows = find(&name).and_then(|object| self.put(&object, keyring, &mut may_answer));
            if self.taken.is_contested() {
                return None;
            }
            let says = self.desired.left_out.get(&name).into_iter().flatten();
            delta.left_out.extend(says.filter(|why| !said.contains(why)).cloned());
            match rows {
                Some(rows) => delta.services.push(rows),
                None => delta.gone.push(name),
            }
        }
        self.stale = false;
        delta.directory = directory != self.desired.directory;
        delta.addresses = owned != self.desired.owned || answering != self.desired.answering;
        Some(delta)
    }

    /// Keeps Endpoints by LoadBalancer.
    fn note(&mut self, before: Option<&Arc<Endpoint>>, after: Option<&Arc<Endpoint>>) {
        if let Some((service, name)) = before.and_then(|e| balancer_of(e).zip(e.metadata.name.as_deref()))
            && let Some(of) = self.endpoints.get_mut(&service)
        {
            of.remove(name);
            if of.is_empty() {
                self.endpoints.remove(&service);
            }
        }
        if let Some((service, endpoint)) = after.and_then(|e| balancer_of(e).zip(Some(e))) {
            let name = endpoint.metadata.name.clone().unwrap_or_default();
            self.endpoints.entry(service).or_default().insert(name, Arc::clone(endpoint));
        }
    }

    /// Takes what a LoadBalancer put into the decision out again; returns what was said of it.
    fn retract(&mut self, name: &ServiceName) -> Vec<String> {
        let part = self.parts.remove(name).unwrap_or_default();
        self.taken.release(&part.numbers);
        let desired = &mut self.desired;
        let said = desired.left_out.remove(name).unwrap_or_default();
        part.local.keys().for_each(|uid| drop(desired.local.remove(uid)));
        for uid in &part.listed {
            desired.listed.remove(uid);
        }
        part.tunnels.keys().for_each(|id| drop(desired.directory.tunnels.remove(id)));
        if let Some(vip) = part.numbers.address.filter(|vip| !self.scene.protected.hosts.contains(vip)) {
            desired.directory.protected.hosts.remove(&vip);
        }
        if let Some(vip) = part.shown
            && let Some(names) = self.shown.get_mut(&vip)
        {
            names.remove(name);
            if names.is_empty() {
                self.shown.remove(&vip);
            }
        }
        if let Some((vip, ..)) = &part.owned {
            desired.owned.remove(vip);
            desired.answering.remove(vip);
        }
        said
    }

    /// Decides about a LoadBalancer that has nothing in the decision.
    fn put(
        &mut self,
        object: &LoadBalancer,
        keyring: &mut Keyring,
        may_answer: &mut impl FnMut(IpAddr, &Claim) -> bool,
    ) -> Option<ServiceRows> {
        let identity = Identity::of(object)?;
        let mut left_out = Vec::new();
        let shown = object.status.as_ref().and_then(|s| address(s.public_address.as_deref()?));
        let mut part = Part { listed: balancer::listed(object, &self.scene), shown, ..Part::default() };
        let rows = self.rows(object, &identity, keyring, may_answer, (&mut part, &mut left_out));
        let desired = &mut self.desired;
        if !left_out.is_empty() {
            desired.left_out.insert(identity.name.clone(), left_out);
        }
        desired.local.extend(part.local.iter().map(|(uid, local)| (Arc::clone(uid), local.clone())));
        desired.listed.extend(part.listed.iter().cloned());
        desired.directory.tunnels.extend(part.tunnels.iter().map(|(id, tunnel)| (*id, tunnel.clone())));
        desired.directory.protected.hosts.extend(part.numbers.address);
        if let Some((vip, claim, answers)) = &part.owned {
            desired.owned.insert(*vip, claim.clone());
            desired.answering.extend(answers.then_some(*vip));
        }
        if let Some(vip) = shown {
            self.shown.entry(vip).or_default().insert(identity.name.clone());
        }
        self.parts.insert(identity.name, part);
        rows
    }

    fn rows(
        &mut self,
        object: &LoadBalancer,
        identity: &Identity,
        keyring: &mut Keyring,
        may_answer: &mut impl FnMut(IpAddr, &Claim) -> bool,
        (part, left_out): (&mut Part, &mut Vec<String>),
    ) -> Option<ServiceRows> {
        let (scene, taken) = (&self.scene, &mut self.taken);
        if let Err(why) = taken.ids(identity, &mut part.numbers) {
            left_out.push(why);
            return None;
        }
        let Some((keys, hello)) = keyring.keys(identity) else {
            left_out.push(format!("{}: its uid is none, so it has no keys", identity.name));
            return None;
        };
        let mut service = identity.row(object);
        service.keys = Some(keys.into());
        let (mut proxies, here) = balancer::proxies(object, identity, scene, left_out);
        taken.proxies(&mut proxies, &mut part.numbers, left_out);
        let is_its_own = |uid: &Arc<str>| proxies.iter().any(|proxy| proxy.pod_uid == *uid);
        part.local.extend(here.into_iter().filter(|(uid, _)| is_its_own(uid)));
        for proxy in &mut proxies {
            proxy.state = match scene.serving.get(&*proxy.node) {
                // It has lost its maps.
                Some(NodeService::Rebooted) => ProxyState::Pending,
                Some(NodeService::OutOfService) if proxy.state == ProxyState::Ready => {
                    ProxyState::OutOfService
                }
                _ => proxy.state,
            };
        }
        let vip = part.shown.filter(|vip| {
            let owner = scene.claimed.get(&*epic_crds::claim_name(*vip));
            if owner.is_some_and(|owner| **owner != *identity.uid) {
                left_out.push(format!("{}: {vip} is claimed for another LoadBalancer", identity.name));
                return false;
            }
            let taken = taken.address(*vip, identity, &mut part.numbers);
            taken.map_err(|why| left_out.push(why)).is_ok()
        });
        let mut answers = false;
        if let Some(vip) = vip.filter(|vip| scene.owns(*vip, &identity.uid)) {
            let claim = Claim { uid: Arc::clone(&identity.uid), gateway: scene.gateways.contains(&vip) };
            answers = may_answer(vip, &claim);
            part.owned = Some((vip, claim, answers));
        }
        let frontends =
            vip.map(|vip| balancer::frontends(object, &identity.name, vip, answers)).unwrap_or_default();
        let backends = proxies.iter().filter_map(balancer::backend).collect();
        let mut tunnels = balancer::tunnels(object, identity, &scene.place);
        taken.tunnels(&mut tunnels, &mut part.numbers, left_out);
        let mine: Vec<Arc<Endpoint>> =
            self.endpoints.get(&identity.name).map(|of| of.values().cloned().collect()).unwrap_or_default();
        let (aliases, passes) = balancer::reach(&mine, &identity.name, &tunnels);
        for local in part.local.values_mut() {
            local.clients = balancer::clients(&mine, &tunnels);
        }
        // Without its Account nothing says where a tenant's clients may be.
        let allowed =
            scene.networks.get(identity.name.namespace()).cloned().unwrap_or_else(|| Some([].into()));
        let entry = responder::Tunnel { lb: identity.lb(), keys: hello, client_networks: allowed };
        part.tunnels.extend(tunnels.iter().map(|tunnel| (tunnel.id.get(), entry.clone())));
        let redirect = balancer::backup(object, &identity.name, left_out);
        Some(ServiceRows { service, frontends, redirect, backends, tunnels, proxies, aliases, passes })
    }
}

fn name_of(object: &LoadBalancer) -> Option<ServiceName> {
    Some(ServiceName::new(object.metadata.namespace.as_deref()?, object.metadata.name.as_deref()?))
}

/// The LoadBalancer of an Endpoint.
fn balancer_of(endpoint: &Endpoint) -> Option<ServiceName> {
    Some(ServiceName::new(endpoint.metadata.namespace.as_deref()?, endpoint.spec.load_balancer.as_str()))
}
