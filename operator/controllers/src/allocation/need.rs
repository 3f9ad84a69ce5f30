//! What children need, from objects as they were listed and from a snapshot of what surrounds them.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use epic_crds::{Account, AddressClaim, EPIC, EPICSpec, Endpoint, LoadBalancer};
use epic_model::account::{Counted, fit};
use epic_model::address;
use epic_model::allocation::{
    Child, Counter, SIXTEEN_BITS, Slot, THIRTY_TWO_BITS, endpoint_range, proxy_range,
};
use epic_model::claim::remembered_by;
use epic_model::id::{Kind, NodeName, Seconds, TunnelId, Uid};
use epic_model::tunnel::{self, EpicNode, Pair, Wanted};
use epic_model::{proxy as proxies, tunnel::LINGER_SECONDS};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kates::Snapshot;
use kube::ResourceExt;
use kube::api::{DynamicObject, ObjectMeta};
use parking_lot::Mutex;
use serde_json::json;

use super::child::{self, Rows};
use super::execute::Listed;
use super::facts::Facts;
use crate::claim::{Of, claim, node_revisions};
use crate::proxy::{Index, ReplicaSet};

/// Since when EPIC nodes have had no proxy of a LoadBalancer, as far as this process has seen.
#[derive(Debug, Default)]
pub struct Absences {
    since: Mutex<BTreeMap<(Uid, IpAddr), Seconds>>,
}

impl Absences {
    fn note(&self, balancer: &Uid, node: IpAddr, has_proxy: bool, now: Seconds) -> Option<Seconds> {
        let mut since = self.since.lock();
        let key = (balancer.clone(), node);
        if has_proxy {
            since.remove(&key);
            return None;
        }
        Some(*since.entry(key).or_insert(now))
    }

    /// Forgets LoadBalancers that are gone.
    pub fn retain(&self, alive: &BTreeSet<Uid>) {
        self.since.lock().retain(|(balancer, _), _| alive.contains(balancer));
    }
}

/// Of a range that does not parse; EPIC's own condition says so.
const NO_ROOM: RangeInclusive<u32> = RangeInclusive::new(1, 0);

/// Ranges of the counters in EPIC's status.
pub fn epic_ranges(epic: &EPIC) -> BTreeMap<Counter, RangeInclusive<u32>> {
    let proxies = address::parse_network(epic.spec.proxy_ipv4()).map(proxy_range);
    BTreeMap::from([
        (Counter::Group, SIXTEEN_BITS),
        (Counter::Tunnel, THIRTY_TWO_BITS),
        (Counter::Proxy, proxies.unwrap_or(NO_ROOM)),
    ])
}

/// Ranges of the counters in an Account's status.
pub fn account_ranges(epic: &EPICSpec) -> BTreeMap<Counter, RangeInclusive<u32>> {
    let endpoints = address::parse_network(epic.alias_ipv4()).map(endpoint_range);
    BTreeMap::from([(Counter::Service, SIXTEEN_BITS), (Counter::Endpoint, endpoints.unwrap_or(NO_ROOM))])
}

/// The EPIC nodes that may still program a LoadBalancer that is gone, of one namespace or of all: a requested ID may
/// have been such a one's. Found out when it is asked for first, since that is a walk over all claims.
pub struct Remembering<'s> {
    ask: Box<dyn Fn() -> Vec<NodeName> + 's>,
    nodes: OnceCell<Vec<NodeName>>,
}

impl<'s> Remembering<'s> {
    /// By the claims and nodes of `snapshot`.
    pub fn new(snapshot: &'s Snapshot, namespace: Option<&'s str>, now: Seconds) -> Self {
        Self::asking(move || {
            let concerns = |owner: &str| namespace.is_none_or(|namespace| owner == namespace);
            let claims: Vec<_> = snapshot
                .list::<AddressClaim>()
                .filter(|object| concerns(&object.spec.owner.namespace))
                .filter_map(|object| claim(object))
                .collect();
            let alive: BTreeSet<Uid> = snapshot
                .list::<LoadBalancer>()
                .filter(|balancer| concerns(balancer.metadata.namespace.as_deref().unwrap_or_default()))
                .filter_map(|balancer| balancer.uid())
                .map(Uid::from)
                .collect();
            let nodes = node_revisions(snapshot, now, Of::Namespace(namespace));
            remembered_by(&claims, |_| true, |uid| alive.contains(uid), &nodes)
        })
    }

    /// By what `ask` says, which is asked once at most.
    pub fn asking(ask: impl Fn() -> Vec<NodeName> + 's) -> Self {
        Self { ask: Box::new(ask), nodes: OnceCell::new() }
    }

    /// No node remembers anything.
    #[cfg(test)]
    pub fn nobody() -> Self {
        Self::asking(Vec::new)
    }

    /// Those nodes.
    pub fn nodes(&self) -> &[NodeName] {
        self.nodes.get_or_init(|| (self.ask)())
    }

    /// Whether it was asked and named a node.
    pub fn names_some(&self) -> bool {
        self.nodes.get().is_some_and(|nodes| !nodes.is_empty())
    }
}

/// Accounts as children of EPIC.
pub fn accounts<'o, F: Facts + 'o>(
    objects: impl Iterator<Item = &'o F>,
    remembering: &Remembering<'_>,
) -> Vec<Child> {
    objects
        .filter_map(|object| {
            let slot = child::single(Counter::Group, object, object.accepted(), remembering);
            child::child(Kind::Account, object.meta(), vec![slot])
        })
        .collect()
}

/// What of a pod decides who needs a proxy ID, and what its row says. Of the many other changes of a pod, each would
/// cost a look at all LoadBalancers.
pub fn part_of_pod(pod: &Pod) -> impl PartialEq + use<> {
    let status = pod.status.as_ref();
    (
        pod.uid(),
        pod.owner_references().to_vec(),
        pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        pod.metadata.deletion_timestamp.is_some(),
        status.and_then(|status| status.phase.clone()),
    )
}

/// What of an Endpoint decides who needs a tunnel.
pub fn part_of_endpoint(endpoint: &Endpoint) -> impl PartialEq + use<> {
    (
        endpoint.uid(),
        endpoint.spec.load_balancer.clone(),
        endpoint.spec.node_address.clone(),
        endpoint.metadata.deletion_timestamp.is_some(),
        endpoint.accepted(),
    )
}

/// What surrounds LoadBalancers in a snapshot, indexed once for all of them.
pub struct Around<'s> {
    pods: Index<'s>,
    /// Endpoints by namespace and LoadBalancer.
    endpoints: HashMap<(&'s str, &'s str), Vec<&'s Endpoint>>,
    /// Whether some object that decides what is no longer needed cannot be read.
    unreadable: bool,
}

impl<'s> Around<'s> {
    /// The surroundings in `snapshot`.
    pub fn new(snapshot: &'s Snapshot) -> Self {
        let unreadable = snapshot.view::<Endpoint>().poisoned().count()
            + snapshot.view::<Pod>().poisoned().count()
            + snapshot.view::<ReplicaSet>().poisoned().count()
            + snapshot.view::<Deployment>().poisoned().count();
        Self::of(Index::new(snapshot), snapshot.list::<Endpoint>(), unreadable > 0)
    }

    /// These surroundings.
    pub fn of(pods: Index<'s>, all: impl Iterator<Item = &'s Arc<Endpoint>>, unreadable: bool) -> Self {
        let mut endpoints: HashMap<_, Vec<&Endpoint>> = HashMap::new();
        for endpoint in all {
            let namespace = endpoint.metadata.namespace.as_deref().unwrap_or_default();
            endpoints.entry((namespace, endpoint.spec.load_balancer.as_str())).or_default().push(endpoint);
        }
        Self { pods, endpoints, unreadable }
    }

    fn endpoints<'m>(&'m self, balancer: &'m ObjectMeta) -> &'m [&'s Endpoint] {
        let (Some(namespace), Some(name)) = (balancer.namespace.as_deref(), balancer.name.as_deref()) else {
            return &[];
        };
        self.endpoints.get(&(namespace, name)).map(Vec::as_slice).unwrap_or_default()
    }
}

/// LoadBalancers as children of EPIC: their tunnels and proxies; and when the next tunnel is due to be freed.
pub fn datapaths<'o, F: Facts + 'o>(
    objects: impl Iterator<Item = &'o F>,
    around: &Around<'_>,
    absences: &Absences,
    now: Seconds,
) -> (Vec<Child>, Option<Seconds>) {
    let (mut children, mut due) = (Vec::new(), None::<Seconds>);
    for object in objects {
        let slots = if object.is_balancer() {
            let (slots, next) = datapath(object, around, absences, now);
            due = [due, next].into_iter().flatten().min();
            slots
        } else {
            child::held(object)
        };
        children.extend(child::child(Kind::LoadBalancer, object.meta(), slots));
    }
    (children, due)
}

fn datapath(
    object: &impl Facts,
    around: &Around<'_>,
    absences: &Absences,
    now: Seconds,
) -> (Vec<Slot>, Option<Seconds>) {
    let meta = object.meta();
    let uid: Uid = meta.uid.clone().unwrap_or_default().into();
    let (known, granted) = (object.proxies(), object.tunnels());
    let pods = around.pods.proxies(meta, known.keys().map(Uid::as_str));
    let alive: BTreeSet<IpAddr> =
        pods.iter().filter(|pod| !pod.ended).filter_map(|pod| pod.epic_address).collect();
    let all: BTreeSet<IpAddr> = alive.iter().copied().chain(granted.keys().map(|pair| pair.epic)).collect();
    let nodes: Vec<EpicNode> = all
        .into_iter()
        .map(|address| EpicNode {
            address,
            without_proxy_since: absences.note(&uid, address, alive.contains(&address), now),
        })
        .collect();
    let clients = client_nodes(around.endpoints(meta), &granted);
    // One that never had a service ID needs no tunnels. One that has is served, accepted or not: what is refused is
    // its change, or what it refers to is gone for a moment.
    let wanted = if object.granted(Counter::Service).is_some() {
        tunnel::wanted(&clients, &nodes, &granted, now)
    } else {
        Wanted { pairs: granted.keys().copied().collect::<BTreeSet<Pair>>(), ..Wanted::default() }
    };
    let mut slots = tunnel::slots(&wanted, &granted);
    slots.extend(proxies::slots(&pods, &known));
    if around.unreadable {
        // What cannot be read may be what still needs it.
        slots.iter_mut().for_each(|slot| slot.wanted |= slot.granted.is_some());
    }
    let due = wanted.next_due.filter(|due| due.0 <= now.0.saturating_add(LINGER_SECONDS));
    (slots, due)
}

/// What the granted rows of LoadBalancers say besides their numbers, by uid.
pub fn rows<'o, F: Facts + 'o>(
    objects: impl Iterator<Item = &'o F>,
    around: &Around<'_>,
    epic: &EPIC,
) -> BTreeMap<Uid, Rows> {
    let proxy_addresses = address::parse_network(epic.spec.proxy_ipv4()).ok();
    objects
        .map(|object| {
            let meta = object.meta();
            let pods = around.pods.proxies(meta, object.proxies().keys().map(Uid::as_str));
            let rows = pods.iter().map(|pod| {
                let mut row = json!({"pod": pod.name.as_str()});
                if let Some(node) = &pod.node {
                    row["node"] = node.as_str().into();
                }
                if let Some(address) = pod.epic_address {
                    row["epic-address"] = address.to_string().into();
                }
                (pod.uid.clone(), row)
            });
            let rows = Rows { proxies: rows.collect(), proxy_addresses, gue_port: epic.spec.gue_port() };
            (meta.uid.clone().unwrap_or_default().into(), rows)
        })
        .collect()
}

/// Node addresses of the Endpoints of a LoadBalancer, those of the oldest first. A new tunnel needs an Endpoint that
/// is accepted; one that is there stays while any Endpoint names its node, so a refusal that passes renumbers nothing.
fn client_nodes(endpoints: &[&Endpoint], granted: &BTreeMap<Pair, TunnelId>) -> Vec<IpAddr> {
    let has_tunnel: BTreeSet<IpAddr> = granted.keys().map(|pair| pair.client).collect();
    let mut found: Vec<(Option<Timestamp>, &str, IpAddr)> = endpoints
        .iter()
        .filter(|endpoint| endpoint.metadata.deletion_timestamp.is_none())
        .filter_map(|endpoint| {
            let node = address::parse(endpoint.spec.node_address.as_deref()?).ok()?;
            (endpoint.accepted() || has_tunnel.contains(&node)).then(|| {
                let created = endpoint.metadata.creation_timestamp.as_ref().map(|time| time.0);
                (created, endpoint.metadata.name.as_deref().unwrap_or_default(), node)
            })
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, _, node)| node).collect()
}

/// LoadBalancers and Endpoints as children of their Account.
pub fn services<'o, B: Facts + 'o, E: Facts + 'o>(
    account: &Account,
    balancers: impl Iterator<Item = &'o B>,
    endpoints: impl Iterator<Item = &'o E>,
    remembering: &Remembering<'_>,
) -> Vec<Child> {
    let balancers: Vec<&B> = balancers.collect();
    let endpoints: Vec<&E> = endpoints.collect();
    let no_balancer = over_limit(&balancers, Counter::Service, crate::account::load_balancer_limit(account));
    let no_endpoint = over_limit(&endpoints, Counter::Endpoint, crate::account::endpoint_limit(account));
    let services = balancers.into_iter().filter_map(|object| {
        let asks = object.accepted() && !no_balancer.contains(&uid(object.meta()));
        let slot = child::single(Counter::Service, object, asks, remembering);
        child::child(Kind::LoadBalancer, object.meta(), vec![slot])
    });
    let aliases = endpoints.into_iter().filter_map(|object| {
        let asks = object.is_tunnelled() && object.accepted() && !no_endpoint.contains(&uid(object.meta()));
        let slot = child::single(Counter::Endpoint, object, asks, remembering);
        child::child(Kind::Endpoint, object.meta(), vec![slot])
    });
    services.chain(aliases).collect()
}

/// The objects of a round by uid.
pub fn listed(objects: impl IntoIterator<Item = DynamicObject>, rows: BTreeMap<Uid, Rows>) -> Listed {
    let objects = objects.into_iter().map(|object| (uid(&object.metadata), object)).collect();
    Listed { objects, rows }
}

/// Those beyond a limit: the youngest, but what is served goes before what is not. A limit that is lowered
/// takes nothing away.
fn over_limit<F: Facts>(objects: &[&F], counter: Counter, limit: u64) -> BTreeSet<Uid> {
    if u64::try_from(objects.len()).is_ok_and(|count| count <= limit) {
        return BTreeSet::new();
    }
    let counted: Vec<Counted> = objects
        .iter()
        .map(|object| Counted {
            uid: uid(object.meta()),
            created: match object.granted(counter).is_some() || object.accepted() {
                true => Seconds(i64::MIN),
                false => child::created(object.meta()),
            },
            amount: 1,
        })
        .collect();
    fit(&counted, limit).refused
}

fn uid(meta: &ObjectMeta) -> Uid {
    meta.uid.clone().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn object<K: serde::de::DeserializeOwned>(kind: &str, name: &str, spec: Value, status: Value) -> K {
        serde_json::from_value(json!({
            "apiVersion": "epic.acnodal.io/v1", "kind": kind, "spec": spec, "status": status,
            "metadata": {
                "name": name, "namespace": "epic-red", "uid": format!("uid-{name}"), "resourceVersion": "7",
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
        }))
        .unwrap()
    }

    fn accepted(value: &str) -> Value {
        json!([{"type": "Accepted", "status": value, "reason": "x", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    }

    fn endpoint(name: &str, is_accepted: &str) -> Arc<Endpoint> {
        let spec = json!({"load-balancer": "web", "address": "10.0.0.9", "node-address": "10.0.0.1",
            "port": {"port": 8080}});
        Arc::new(object("Endpoint", name, spec, json!({"conditions": accepted(is_accepted)})))
    }

    fn balancer<K: serde::de::DeserializeOwned>(is_accepted: &str) -> K {
        let tunnel = json!({"epic-address": "192.168.77.11", "tunnel-id": 4,
            "epic-port": {"appProtocol": "gue", "port": 6080, "protocol": "UDP"}});
        let status = json!({
            "service-id": 3, "conditions": accepted(is_accepted),
            "gue-tunnel-endpoints": {"10.0.0.1": tunnel},
            "proxies": [{"pod": "p", "pod-uid": "p", "proxy-id": 9, "state": "Ready"}],
        });
        let spec = json!({"public-ports": [{"port": 80}], "service-group": "g"});
        object("LoadBalancer", "web", spec, status)
    }

    fn freed(balancer: &impl Facts, endpoints: &[Arc<Endpoint>], unreadable: bool) -> Vec<Counter> {
        let pods = Index::of([].iter(), [].iter(), [].iter(), [].iter());
        let around = Around::of(pods, endpoints.iter(), unreadable);
        let (slots, _) = datapath(balancer, &around, &Absences::default(), Seconds(1_000));
        slots.iter().filter(|slot| !slot.wanted).map(|slot| slot.counter).collect()
    }

    #[test]
    fn a_refusal_that_passes_frees_no_tunnel() {
        for refused in ["False", "Unknown"] {
            let web: LoadBalancer = balancer(refused);
            assert_eq!(freed(&web, &[endpoint("a", "True")], false), [Counter::Proxy]);
            assert_eq!(freed(&web, &[endpoint("a", refused)], false), [Counter::Proxy]);
        }
        let web: LoadBalancer = balancer("True");
        assert_eq!(freed(&web, &[endpoint("a", "False")], false), [Counter::Proxy]);
        assert_eq!(freed(&web, &[], false), [Counter::Tunnel, Counter::Proxy], "the last Endpoint has gone");
    }

    #[test]
    fn a_pod_that_becomes_ready_is_no_reason_to_look_again_and_one_that_ends_is() {
        let pod = |status: Value, node: Value| -> Pod {
            let meta = json!({"name": "p", "namespace": "epic-red", "uid": "p"});
            let spec = json!({"containers": [], "nodeName": node});
            serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": status})).unwrap()
        };
        let known = part_of_pod(&pod(json!({"phase": "Running"}), json!("node1")));
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let ready = pod(json!({"phase": "Running", "conditions": ready}), json!("node1"));
        assert!(known == part_of_pod(&ready));
        assert!(known != part_of_pod(&pod(json!({"phase": "Failed"}), json!("node1"))));
        assert!(known != part_of_pod(&pod(json!({"phase": "Running"}), json!(null))));
    }

    #[test]
    fn nothing_is_freed_while_something_cannot_be_read() {
        assert_eq!(freed(&balancer::<LoadBalancer>("True"), &[], true), []);
    }

    #[test]
    fn a_new_tunnel_needs_an_accepted_endpoint() {
        let none = BTreeMap::new();
        assert_eq!(client_nodes(&[&endpoint("a", "False")], &none), [] as [IpAddr; 0]);
        assert_eq!(client_nodes(&[&endpoint("a", "True")], &none), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn the_raw_and_the_typed_form_of_an_object_give_the_same_children() {
        let (raw, typed): (DynamicObject, LoadBalancer) = (balancer("True"), balancer("True"));
        let pods = Index::of([].iter(), [].iter(), [].iter(), [].iter());
        let around = Around::of(pods, [].iter(), false);
        let absences = Absences::default();
        let of_raw = datapaths([&raw].into_iter(), &around, &absences, Seconds(0));
        assert_eq!(of_raw, datapaths([&typed].into_iter(), &around, &absences, Seconds(0)));
        let account = Account::new("red", epic_crds::AccountSpec::default());
        let none: [DynamicObject; 0] = [];
        let of_raw = services(&account, [&raw].into_iter(), none.iter(), &Remembering::nobody());
        assert_eq!(of_raw, services(&account, [&typed].into_iter(), none.iter(), &Remembering::nobody()));
    }

    #[test]
    fn a_balancer_that_cannot_be_read_keeps_its_grants_and_asks_for_nothing() {
        let mut poisoned: DynamicObject = balancer("True");
        poisoned.data["spec"]["public-ports"] = "nonsense".into();
        assert_eq!(freed_of(&poisoned), (vec![Counter::Tunnel, Counter::Proxy], 0));
    }

    fn freed_of(object: &DynamicObject) -> (Vec<Counter>, usize) {
        let pods = Index::of([].iter(), [].iter(), [].iter(), [].iter());
        let around = Around::of(pods, [].iter(), false);
        let (children, _) = datapaths([object].into_iter(), &around, &Absences::default(), Seconds(0));
        let slots = children.into_iter().flat_map(|child| child.slots);
        let (held, other): (Vec<_>, Vec<_>) = slots.partition(|slot| slot.wanted && slot.granted.is_some());
        (held.into_iter().map(|slot| slot.counter).collect(), other.len())
    }

    #[test]
    fn a_lowered_limit_takes_nothing_from_those_that_are_served() {
        let spec = |name: &str, status: Value| -> LoadBalancer {
            object(
                "LoadBalancer",
                name,
                json!({"public-ports": [{"port": 80}], "service-group": "g"}),
                status,
            )
        };
        // The younger by uid is served, the older is not.
        let served = spec("z", json!({"service-id": 1, "conditions": accepted("True")}));
        let waiting = spec("a", json!({}));
        let refused = over_limit(&[&waiting, &served], Counter::Service, 1);
        assert_eq!(refused, [Uid::from("uid-a")].into());
    }

    #[test]
    fn looking_at_two_thousand_balancers_takes_milliseconds() {
        let many: Vec<LoadBalancer> = (0..2_000).map(|_| balancer("True")).collect();
        let endpoints: Vec<Arc<Endpoint>> = (0..2_000).map(|n| endpoint(&n.to_string(), "True")).collect();
        let start = std::time::Instant::now();
        let pods = Index::of([].iter(), [].iter(), [].iter(), [].iter());
        let around = Around::of(pods, endpoints.iter().take(8), false);
        let (children, _) = datapaths(many.iter(), &around, &Absences::default(), Seconds(0));
        println!("{} children in {:?}", children.len(), start.elapsed());
        assert_eq!(children.len(), 2_000);
    }
}
