//! What children need, from objects as they were listed and from a snapshot of what surrounds them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use epic_crds::condition::ACCEPTED;
use epic_crds::{Account, EPIC, EPICSpec, Endpoint, HasConditions, LoadBalancer};
use epic_model::account::{Counted, Limit, fit};
use epic_model::address;
use epic_model::allocation::{
    Child, Counter, SIXTEEN_BITS, Slot, THIRTY_TWO_BITS, endpoint_range, proxy_range,
};
use epic_model::claim::remembered_by;
use epic_model::id::{Kind, NodeName, Seconds, Uid};
use epic_model::tunnel::{self, EpicNode, Pair, Wanted};
use epic_model::{proxy as proxies, tunnel::LINGER_SECONDS};
use kates::Snapshot;
use kube::ResourceExt;
use kube::api::DynamicObject;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::child::{self, Rows};
use super::execute::Listed;
use crate::claim::{claims, node_revisions};
use crate::proxy::{gue_address, pods_of};

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

/// Ranges of the counters in EPIC's status.
pub fn epic_ranges(epic: &EPIC) -> BTreeMap<Counter, RangeInclusive<u32>> {
    let proxies = address::parse_network(epic.spec.proxy_ipv4()).map(proxy_range);
    BTreeMap::from([
        (Counter::Group, SIXTEEN_BITS),
        (Counter::Tunnel, THIRTY_TWO_BITS),
        // A range that does not parse has no room; EPIC's own condition says so.
        (Counter::Proxy, proxies.unwrap_or(1..=0)),
    ])
}

/// Ranges of the counters in an Account's status.
pub fn account_ranges(epic: &EPICSpec) -> BTreeMap<Counter, RangeInclusive<u32>> {
    let endpoints = address::parse_network(epic.alias_ipv4()).map(endpoint_range);
    BTreeMap::from([(Counter::Service, SIXTEEN_BITS), (Counter::Endpoint, endpoints.unwrap_or(1..=0))])
}

/// The EPIC nodes that may still program a LoadBalancer that is gone, of one namespace or of all: a requested ID may
/// have been such a one's.
pub fn remembering(snapshot: &Snapshot, namespace: Option<&str>, now: Seconds) -> Vec<NodeName> {
    let alive: BTreeSet<Uid> =
        snapshot.list::<LoadBalancer>().filter_map(|balancer| balancer.uid()).map(Uid::from).collect();
    remembered_by(
        &claims(snapshot),
        |owner| namespace.is_none_or(|namespace| owner.namespace.as_str() == namespace),
        |uid| alive.contains(uid),
        &node_revisions(snapshot, now),
    )
}

/// Accounts as children of EPIC.
pub fn accounts<'o>(
    objects: impl Iterator<Item = &'o DynamicObject>,
    remembering: &[NodeName],
) -> Vec<Child> {
    objects
        .filter_map(|object| {
            let slot = child::single(Counter::Group, object, "group-id", accepted(object), remembering);
            child::child(Kind::Account, object, vec![slot])
        })
        .collect()
}

/// LoadBalancers as children of EPIC: their tunnels and proxies.
pub fn datapaths<'o>(
    objects: impl Iterator<Item = &'o DynamicObject>,
    snapshot: &Snapshot,
    epic: &EPIC,
    system: &str,
    absences: &Absences,
    now: Seconds,
) -> (Vec<Child>, BTreeMap<Uid, Rows>, Option<Seconds>) {
    let (mut children, mut rows, mut due) = (Vec::new(), BTreeMap::new(), None::<Seconds>);
    for object in objects {
        let Ok(balancer) = object.clone().try_parse::<LoadBalancer>() else {
            children.extend(child::child(Kind::LoadBalancer, object, child::held(object)));
            continue;
        };
        let (slots, row, next) = datapath(object, &balancer, snapshot, epic, system, absences, now);
        due = [due, next].into_iter().flatten().min();
        rows.insert(balancer.uid().unwrap_or_default().into(), row);
        children.extend(child::child(Kind::LoadBalancer, object, slots));
    }
    (children, rows, due)
}

fn datapath(
    object: &DynamicObject,
    balancer: &LoadBalancer,
    snapshot: &Snapshot,
    epic: &EPIC,
    system: &str,
    absences: &Absences,
    now: Seconds,
) -> (Vec<Slot>, Rows, Option<Seconds>) {
    let uid: Uid = balancer.uid().unwrap_or_default().into();
    let known = child::known_proxies(object);
    let granted = child::granted_tunnels(object);
    let pods = pods_of(snapshot, balancer);
    let status = balancer.status.clone().unwrap_or_default();
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
    let clients = client_nodes(snapshot, balancer);
    // A LoadBalancer that is not served yet needs no tunnels; those it has it keeps.
    let served = status.service_id.is_some() && balancer.is_condition_true(ACCEPTED);
    let wanted = if served {
        tunnel::wanted(&clients, &nodes, &granted, now)
    } else {
        Wanted { pairs: granted.keys().copied().collect::<BTreeSet<Pair>>(), ..Wanted::default() }
    };
    let mut slots = tunnel::slots(&wanted, &granted);
    slots.extend(proxies::slots(&pods, &known));
    let rows = pods
        .iter()
        .map(|pod| {
            let mut row = json!({"pod": pod.name.as_str()});
            if let Some(node) = &pod.node {
                row["node"] = node.as_str().into();
                if let Some(address) = gue_address(snapshot, node.as_str(), system) {
                    row["epic-address"] = address.to_string().into();
                }
            }
            (pod.uid.clone(), row)
        })
        .collect();
    let rows = Rows {
        proxies: rows,
        proxy_addresses: address::parse_network(epic.spec.proxy_ipv4()).ok(),
        gue_port: epic.spec.gue_port(),
    };
    let due = wanted.next_due.filter(|due| due.0 <= now.0.saturating_add(LINGER_SECONDS));
    (slots, rows, due)
}

/// Node addresses of the accepted Endpoints of a LoadBalancer, those of the oldest first.
fn client_nodes(snapshot: &Snapshot, balancer: &LoadBalancer) -> Vec<IpAddr> {
    let (Some(namespace), name) = (balancer.namespace(), balancer.name_any()) else { return Vec::new() };
    let mut endpoints: Vec<&Endpoint> = snapshot
        .in_namespace::<Endpoint>(&namespace)
        .map(|endpoint| endpoint.as_ref())
        .filter(|endpoint| endpoint.spec.load_balancer == name)
        .filter(|endpoint| endpoint.metadata.deletion_timestamp.is_none())
        .filter(|endpoint| endpoint.is_condition_true(ACCEPTED))
        .collect();
    endpoints.sort_by_key(|endpoint| (endpoint.creation_timestamp().map(|time| time.0), endpoint.name_any()));
    endpoints
        .iter()
        .filter_map(|endpoint| endpoint.spec.node_address.as_deref())
        .filter_map(|text| address::parse(text).ok())
        .collect()
}

/// LoadBalancers and Endpoints as children of their Account.
pub fn services<'o>(
    account: &Account,
    balancers: impl Iterator<Item = &'o DynamicObject>,
    endpoints: impl Iterator<Item = &'o DynamicObject>,
    remembering: &[NodeName],
) -> Vec<Child> {
    let balancers: Vec<&DynamicObject> = balancers.collect();
    let endpoints: Vec<&DynamicObject> = endpoints.collect();
    let limit = |written: Option<i64>, limit: Limit| {
        written.and_then(|written| u64::try_from(written).ok()).unwrap_or(limit.default_value())
    };
    let no_balancer = over_limit(&balancers, limit(account.spec.load_balancer_limit, Limit::LoadBalancers));
    let no_endpoint = over_limit(&endpoints, limit(account.spec.endpoint_limit, Limit::Endpoints));
    let services = balancers.into_iter().filter_map(|object| {
        let asks = accepted(object) && !no_balancer.contains(&uid(object));
        child::child(
            Kind::LoadBalancer,
            object,
            vec![child::single(Counter::Service, object, "service-id", asks, remembering)],
        )
    });
    let aliases = endpoints.into_iter().filter_map(|object| {
        let tunnelled = object.data.pointer("/spec/node-address").is_some_and(Value::is_string);
        let asks = tunnelled && accepted(object) && !no_endpoint.contains(&uid(object));
        child::child(
            Kind::Endpoint,
            object,
            vec![child::single(Counter::Endpoint, object, "endpoint-id", asks, &[])],
        )
    });
    services.chain(aliases).collect()
}

/// The objects of a round by uid.
pub fn listed(objects: impl IntoIterator<Item = DynamicObject>, rows: BTreeMap<Uid, Rows>) -> Listed {
    let objects = objects.into_iter().map(|object| (uid(&object), object)).collect();
    Listed { objects, rows }
}

fn over_limit(objects: &[&DynamicObject], limit: u64) -> BTreeSet<Uid> {
    let counted: Vec<Counted> = objects
        .iter()
        .map(|object| Counted {
            uid: uid(object),
            created: Seconds(
                object.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
            ),
            amount: 1,
        })
        .collect();
    fit(&counted, limit).refused
}

fn uid(object: &DynamicObject) -> Uid {
    object.metadata.uid.clone().unwrap_or_default().into()
}

/// Whether the object's controller has accepted it. IDs are not spent on what cannot be served.
fn accepted(object: &DynamicObject) -> bool {
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    let text =
        |condition: &Value, field: &str| condition.get(field).and_then(Value::as_str).map(str::to_owned);
    conditions.into_iter().flatten().any(|condition| {
        text(condition, "type").as_deref() == Some(ACCEPTED)
            && text(condition, "status").as_deref() == Some("True")
    })
}
