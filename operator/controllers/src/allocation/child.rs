//! Children of a parent of IDs as the plan sees them, and a plan's write as a child's new status.
//!
//! Children are read from raw JSON: an object that no longer parses still holds what its status grants, so that its
//! values are not given to somebody else. Such an object asks for nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use epic_crds::LoadBalancerReason;
use epic_crds::condition::{ACCEPTED, PROGRAMMED};
use epic_model::address;
use epic_model::allocation::{Child, ChildWrite, Counter, Request, Slot, parse_tunnel_subkey, tunnel_subkey};
use epic_model::id::{Kind, ObjectVersion, Seconds, TunnelId, Uid};
use epic_model::proxy::{Known, ProxyState};
use epic_model::tunnel::Pair;
use jiff::Timestamp;
use kube::api::{DynamicObject, ObjectMeta};
use serde_json::{Value, json};

use super::facts::Facts;
use super::need::Remembering;

/// What an object is to the plan, whatever its content; `None` for one that was not read from the API server.
pub fn object_version(kind: Kind, meta: &ObjectMeta) -> Option<ObjectVersion> {
    Some(ObjectVersion {
        kind,
        namespace: meta.namespace.as_deref()?.into(),
        name: meta.name.as_deref()?.into(),
        uid: meta.uid.as_deref()?.into(),
        resource_version: meta.resource_version.as_deref()?.into(),
    })
}

/// When an object was created, in whole seconds as the API server has it.
pub fn created(meta: &ObjectMeta) -> Seconds {
    Seconds(meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()))
}

/// A child with these slots.
pub fn child(kind: Kind, meta: &ObjectMeta, slots: Vec<Slot>) -> Option<Child> {
    let deleting = meta.deletion_timestamp.is_some();
    Some(Child { object: object_version(kind, meta)?, created: created(meta), deleting, slots })
}

/// The slot of a counter that gives one value. `remembering` names the EPIC nodes that may still program an old owner of
/// a requested value; it is asked only where one is requested and not granted, which is almost never.
pub fn single(counter: Counter, object: &impl Facts, asks: bool, remembering: &Remembering<'_>) -> Slot {
    let granted = object.granted(counter);
    let request = object.requested(counter).filter(|_| asks && granted.is_none());
    let request = request.map(|value| Request { value, programmed_by: remembering.nodes().to_vec() });
    Slot { wanted: asks || granted.is_some(), ..Slot::single(counter, granted, request) }
}

/// The tunnels in a LoadBalancer's status.
pub fn granted_tunnels(object: &DynamicObject) -> BTreeMap<Pair, TunnelId> {
    let mut granted = BTreeMap::new();
    let entries = object.data.pointer("/status/gue-tunnel-endpoints").and_then(Value::as_object);
    for (client, entry) in entries.into_iter().flatten() {
        let Ok(client) = address::parse(client) else { continue };
        let alternates = entry.get("alternates").and_then(Value::as_array).into_iter().flatten();
        for leg in std::iter::once(entry).chain(alternates) {
            let epic =
                leg.get("epic-address").and_then(Value::as_str).and_then(|text| address::parse(text).ok());
            let id = leg.get("tunnel-id").and_then(Value::as_i64).and_then(|id| TunnelId::new(id).ok());
            if let (Some(epic), Some(id)) = (epic, id) {
                granted.insert(Pair { client, epic }, id);
            }
        }
    }
    granted
}

/// The proxies in a LoadBalancer's status, by pod uid.
pub fn known_proxies(object: &DynamicObject) -> BTreeMap<Uid, Known> {
    let list = object.data.pointer("/status/proxies").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|proxy| {
            let uid = proxy.get("pod-uid")?.as_str()?;
            let proxy_id = proxy.get("proxy-id")?.as_i64()?.try_into().ok()?;
            let state = match proxy.get("state").and_then(Value::as_str) {
                Some("Ready") => ProxyState::Ready,
                Some("Draining") => ProxyState::Draining,
                _ => ProxyState::Pending,
            };
            Some((uid.into(), Known { proxy_id, state }))
        })
        .collect()
}

/// The slots of a LoadBalancer that asks for nothing (it does not parse): it keeps what it has.
pub fn held(object: &impl Facts) -> Vec<Slot> {
    let tunnels = object.tunnels();
    let tunnels = tunnels.iter().map(|(pair, id)| {
        Slot::keyed(Counter::Tunnel, tunnel_subkey(pair.client, pair.epic), Some(id.get()), true)
    });
    let proxies = object.proxies();
    let proxies = proxies
        .iter()
        .map(|(uid, known)| Slot::keyed(Counter::Proxy, uid.as_str(), Some(known.proxy_id.get()), true));
    tunnels.chain(proxies).collect()
}

/// What a granted row of a LoadBalancer says besides its number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Proxy rows by pod uid, complete but for the id and the address.
    pub proxies: BTreeMap<Uid, Value>,
    /// Base of the proxy addresses.
    pub proxy_addresses: Option<ipnet::IpNet>,
    /// GUE port of the EPIC nodes.
    pub gue_port: u16,
}

/// A time as conditions have it.
pub fn timestamp(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Changes an object without granting anything: `mark` goes into the message of its condition `Accepted`, whose
/// controller takes it out again. What the condition says stays, since what is served must not blink.
pub fn mark(object: &mut DynamicObject, mark: &str, now: &str) {
    let message = format!("waiting for its IDs ({mark})");
    if let Some(known) = condition(object, ACCEPTED) {
        known["message"] = message.into();
        return;
    }
    let status = status(object);
    if !status.get("conditions").is_some_and(Value::is_array) {
        status["conditions"] = json!([]);
    }
    if let Some(conditions) = status["conditions"].as_array_mut() {
        conditions.push(json!({
            "type": ACCEPTED, "status": "Unknown", "reason": "Pending", "message": message, "lastTransitionTime": now,
        }));
    }
}

fn condition<'o>(object: &'o mut DynamicObject, type_: &str) -> Option<&'o mut Value> {
    let conditions = object.data.pointer_mut("/status/conditions").and_then(Value::as_array_mut)?;
    conditions.iter_mut().find(|known| known.get("type").and_then(Value::as_str) == Some(type_))
}

/// The object with a plan's values in its status. What changes what nodes program withdraws `Programmed` in the same
/// write.
pub fn apply(object: &mut DynamicObject, write: &ChildWrite, rows: &Rows, now: &str) {
    let programmed = |value: &epic_model::allocation::Value| {
        matches!(value.counter, Counter::Service | Counter::Tunnel | Counter::Proxy)
    };
    if write.grant.iter().chain(&write.free).any(programmed)
        && let Some(known) = condition(object, PROGRAMMED)
        && known.get("status").and_then(Value::as_str) == Some("True")
    {
        known["status"] = "False".into();
        known["reason"] = LoadBalancerReason::NodesPending.as_str().into();
        known["message"] = "what is programmed has just changed".into();
        known["lastTransitionTime"] = now.into();
    }
    for value in &write.free {
        match value.counter {
            Counter::Tunnel => free_tunnel(object, &value.subkey),
            Counter::Proxy => {
                if let Some(list) = status(object).get_mut("proxies").and_then(Value::as_array_mut) {
                    list.retain(|row| row.get("pod-uid").and_then(Value::as_str) != Some(&value.subkey));
                }
            }
            Counter::Group | Counter::Service | Counter::Endpoint => {}
        }
    }
    for value in &write.grant {
        match value.counter {
            Counter::Group => set(object, "group-id", value.value.into()),
            Counter::Service => set(object, "service-id", value.value.into()),
            Counter::Endpoint => set(object, "endpoint-id", value.value.into()),
            Counter::Tunnel => grant_tunnel(object, &value.subkey, value.value, rows.gue_port),
            Counter::Proxy => grant_proxy(object, &value.subkey, value.value, rows),
        }
    }
}

fn status(object: &mut DynamicObject) -> &mut Value {
    if !object.data.get("status").is_some_and(Value::is_object) {
        object.data["status"] = json!({});
    }
    &mut object.data["status"]
}

fn set(object: &mut DynamicObject, field: &str, value: Value) {
    status(object)[field] = value;
}

fn grant_proxy(object: &mut DynamicObject, uid: &str, id: u32, rows: &Rows) {
    let wanted = rows.proxies.get(&Uid::from(uid)).cloned().unwrap_or_else(|| json!({"pod": "unknown"}));
    // A row without ID (an import) is no grant; what it says besides stays.
    let mut known = object.data.pointer("/status/proxies").and_then(Value::as_array).into_iter().flatten();
    let mut row = known
        .rfind(|known| known.get("pod-uid").and_then(Value::as_str) == Some(uid))
        .cloned()
        .unwrap_or_else(|| json!({}));
    for (field, value) in wanted.as_object().into_iter().flatten() {
        row[field] = value.clone();
    }
    row["pod-uid"] = uid.into();
    row["proxy-id"] = id.into();
    row["state"] = "Pending".into();
    if let Some(address) = rows.proxy_addresses.and_then(|range| address::offset(range, id)) {
        row["proxy-address"] = address.to_string().into();
    }
    let status = status(object);
    if !status.get("proxies").is_some_and(Value::is_array) {
        status["proxies"] = json!([]);
    }
    if let Some(list) = status["proxies"].as_array_mut() {
        list.retain(|known| known.get("pod-uid") != row.get("pod-uid"));
        list.push(row);
    }
}

fn leg(epic: IpAddr, port: u16, id: u32) -> Value {
    json!({
        "epic-address": epic.to_string(),
        "epic-port": {"appProtocol": "gue", "port": port, "protocol": "UDP"},
        "tunnel-id": id,
    })
}

fn grant_tunnel(object: &mut DynamicObject, subkey: &str, id: u32, port: u16) {
    let Some((client, epic)) = parse_tunnel_subkey(subkey) else { return };
    let status = status(object);
    if !status.get("gue-tunnel-endpoints").is_some_and(Value::is_object) {
        status["gue-tunnel-endpoints"] = json!({});
    }
    let entry = &mut status["gue-tunnel-endpoints"][client.to_string()];
    if entry.is_object() {
        if !entry.get("alternates").is_some_and(Value::is_array) {
            entry["alternates"] = json!([]);
        }
        if let Some(list) = entry["alternates"].as_array_mut() {
            list.push(leg(epic, port, id));
        }
    } else {
        *entry = leg(epic, port, id);
    }
}

fn free_tunnel(object: &mut DynamicObject, subkey: &str) {
    let Some((client, epic)) = parse_tunnel_subkey(subkey) else { return };
    let (client, epic) = (client.to_string(), epic.to_string());
    let Some(entries) = status(object).get_mut("gue-tunnel-endpoints").and_then(Value::as_object_mut) else {
        return;
    };
    let Some(entry) = entries.get_mut(&client) else { return };
    let is_freed = |leg: &Value| leg.get("epic-address").and_then(Value::as_str) == Some(&epic);
    if let Some(list) = entry.get_mut("alternates").and_then(Value::as_array_mut) {
        list.retain(|leg| !is_freed(leg));
    }
    if is_freed(entry) {
        // The first alternate takes the main entry's place; the controller orders them by the primary later.
        let mut rest = entry.get("alternates").and_then(Value::as_array).cloned().unwrap_or_default();
        if rest.is_empty() {
            entries.remove(&client);
            return;
        }
        let mut main = rest.remove(0);
        if !rest.is_empty() {
            main["alternates"] = rest.into();
        }
        *entry = main;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use epic_model::allocation::Value as Allocated;

    const NOW: &str = "2026-01-02T03:04:05Z";

    fn balancer(status: Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "epic.acnodal.io/v1", "kind": "LoadBalancer",
            "metadata": {"name": "web", "namespace": "epic-red", "uid": "u", "resourceVersion": "3"},
            "spec": {"service-id": 7}, "status": status,
        }))
        .unwrap()
    }

    fn write(grant: &[(Counter, &str, u32)], free: &[(Counter, &str, u32)]) -> ChildWrite {
        let values = |list: &[(Counter, &str, u32)]| {
            list.iter()
                .map(|(counter, subkey, value)| Allocated {
                    counter: *counter,
                    subkey: (*subkey).to_owned(),
                    value: *value,
                })
                .collect()
        };
        let object = object_version(Kind::LoadBalancer, &balancer(json!({})).metadata).unwrap();
        ChildWrite { object, grant: values(grant), free: values(free) }
    }

    fn rows() -> Rows {
        Rows { proxy_addresses: "100.64.0.0/11".parse().ok(), gue_port: 6080, ..Rows::default() }
    }

    #[test]
    fn what_is_granted_is_read_back_and_what_is_freed_is_gone() {
        let mut object = balancer(json!({}));
        let (first, second) = ("10.0.0.1/192.168.77.11", "10.0.0.1/192.168.77.12");
        let grants = [(Counter::Tunnel, first, 4), (Counter::Tunnel, second, 5), (Counter::Proxy, "p", 9)];
        apply(&mut object, &write(&grants, &[]), &rows(), NOW);
        let ids: Vec<u32> = granted_tunnels(&object).values().map(|id| id.get()).collect();
        assert_eq!(ids, [4, 5]);
        assert_eq!(object.data["status"]["proxies"][0]["proxy-address"], "100.64.0.9");
        apply(
            &mut object,
            &write(&[], &[(Counter::Tunnel, first, 4), (Counter::Proxy, "p", 9)]),
            &rows(),
            NOW,
        );
        let left = granted_tunnels(&object);
        assert_eq!(
            left.into_iter().map(|(pair, id)| (pair.epic.to_string(), id.get())).collect::<Vec<_>>(),
            [("192.168.77.12".to_owned(), 5)]
        );
        assert!(known_proxies(&object).is_empty());
        apply(&mut object, &write(&[], &[(Counter::Tunnel, second, 5)]), &rows(), NOW);
        assert_eq!(object.data["status"]["gue-tunnel-endpoints"], json!({}));
    }

    #[test]
    fn a_request_counts_until_something_is_granted() {
        let nobody = Remembering::nobody();
        let asked = single(Counter::Service, &balancer(json!({})), true, &nobody);
        assert_eq!(asked.request.map(|request| request.value), Some(7));
        let granted = single(Counter::Service, &balancer(json!({"service-id": 3})), true, &nobody);
        assert_eq!((granted.granted, granted.request), (Some(3), None));
    }

    #[test]
    fn who_remembers_is_asked_only_for_a_value_that_is_requested_and_not_granted() {
        let asked = std::cell::Cell::new(0);
        let remembering = Remembering::asking(|| {
            asked.set(asked.get() + 1);
            vec!["node1".into()]
        });
        for status in [json!({"service-id": 3}), json!({"service-id": 7})] {
            single(Counter::Service, &balancer(status), true, &remembering);
        }
        single(Counter::Service, &balancer(json!({})), false, &remembering);
        single(Counter::Endpoint, &balancer(json!({})), true, &remembering);
        assert_eq!(asked.get(), 0);
        assert!(!remembering.names_some());
        for _ in 0..3 {
            let slot = single(Counter::Service, &balancer(json!({})), true, &remembering);
            assert_eq!(slot.request.unwrap().programmed_by, ["node1".into()]);
        }
        assert_eq!(asked.get(), 1, "and once for all");
        assert!(remembering.names_some());
    }

    #[test]
    fn an_object_that_asks_for_nothing_keeps_what_it_has() {
        let object = balancer(json!({"service-id": 3, "proxies": [{"pod-uid": "p", "proxy-id": 9}]}));
        assert!(held(&object).iter().all(|slot| slot.wanted && slot.granted.is_some()));
        assert!(single(Counter::Service, &object, false, &Remembering::nobody()).wanted);
    }
}
