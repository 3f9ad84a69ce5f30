//! What a plan reads of a child, whether the child was listed raw for a round or is typed in a snapshot.
//!
//! A round counts every object, also those that no longer parse; a snapshot, looked at with every event, is not worth
//! turning back into JSON. Both forms of one object give the same facts.

use std::collections::BTreeMap;

use epic_crds::condition::ACCEPTED;
use epic_crds::{Account, Endpoint, HasConditions, LoadBalancer};
use epic_model::allocation::Counter;
use epic_model::id::{TunnelId, Uid};
use epic_model::proxy::Known;
use epic_model::tunnel::Pair;
use kube::api::{DynamicObject, ObjectMeta};
use serde_json::Value;

use super::child;
use crate::load_balancer::{granted, known};

/// What a plan reads of a child.
pub trait Facts {
    /// Its metadata.
    fn meta(&self) -> &ObjectMeta;
    /// Whether its controller has accepted it. IDs are not spent on what cannot be served.
    fn accepted(&self) -> bool;
    /// The value of a counter without subkeys in its status.
    fn granted(&self, counter: Counter) -> Option<u32>;
    /// The value of such a counter that its spec asks for.
    fn requested(&self, counter: Counter) -> Option<u32>;
    /// Whether it is an Endpoint behind a tunnel.
    fn is_tunnelled(&self) -> bool {
        false
    }
    /// The tunnels in a LoadBalancer's status.
    fn tunnels(&self) -> BTreeMap<Pair, TunnelId> {
        BTreeMap::new()
    }
    /// The proxies in a LoadBalancer's status, by pod uid.
    fn proxies(&self) -> BTreeMap<Uid, Known> {
        BTreeMap::new()
    }
    /// Whether it can be read as a LoadBalancer.
    fn is_balancer(&self) -> bool {
        false
    }
}

/// The field in status and spec that holds a counter's value.
fn field(counter: Counter) -> Option<&'static str> {
    match counter {
        Counter::Group => Some("group-id"),
        Counter::Service => Some("service-id"),
        Counter::Endpoint => Some("endpoint-id"),
        Counter::Tunnel | Counter::Proxy => None,
    }
}

fn narrow(value: Option<i64>) -> Option<u32> {
    value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0)
}

impl Facts for DynamicObject {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn accepted(&self) -> bool {
        let conditions = self.data.pointer("/status/conditions").and_then(Value::as_array);
        let text = |condition: &Value, field: &str, wanted: &str| {
            condition.get(field).and_then(Value::as_str) == Some(wanted)
        };
        conditions
            .into_iter()
            .flatten()
            .any(|known| text(known, "type", ACCEPTED) && text(known, "status", "True"))
    }

    fn granted(&self, counter: Counter) -> Option<u32> {
        narrow(self.data.get("status")?.get(field(counter)?)?.as_i64())
    }

    fn requested(&self, counter: Counter) -> Option<u32> {
        narrow(self.data.get("spec")?.get(field(counter)?)?.as_i64())
    }

    fn is_tunnelled(&self) -> bool {
        self.data.pointer("/spec/node-address").is_some_and(Value::is_string)
    }

    fn tunnels(&self) -> BTreeMap<Pair, TunnelId> {
        child::granted_tunnels(self)
    }

    fn proxies(&self) -> BTreeMap<Uid, Known> {
        child::known_proxies(self)
    }

    fn is_balancer(&self) -> bool {
        self.clone().try_parse::<LoadBalancer>().is_ok()
    }
}

impl Facts for Account {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn accepted(&self) -> bool {
        self.is_condition_true(ACCEPTED)
    }

    fn granted(&self, counter: Counter) -> Option<u32> {
        (counter == Counter::Group).then(|| narrow(self.status.as_ref()?.group_id)).flatten()
    }

    fn requested(&self, counter: Counter) -> Option<u32> {
        (counter == Counter::Group).then(|| narrow(self.spec.group_id)).flatten()
    }
}

impl Facts for LoadBalancer {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn accepted(&self) -> bool {
        self.is_condition_true(ACCEPTED)
    }

    fn granted(&self, counter: Counter) -> Option<u32> {
        (counter == Counter::Service).then(|| narrow(self.status.as_ref()?.service_id)).flatten()
    }

    fn requested(&self, counter: Counter) -> Option<u32> {
        (counter == Counter::Service).then(|| narrow(self.spec.service_id)).flatten()
    }

    fn tunnels(&self) -> BTreeMap<Pair, TunnelId> {
        self.status.as_ref().map(granted).unwrap_or_default()
    }

    fn proxies(&self) -> BTreeMap<Uid, Known> {
        self.status.as_ref().map(known).unwrap_or_default()
    }

    fn is_balancer(&self) -> bool {
        true
    }
}

impl Facts for Endpoint {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn accepted(&self) -> bool {
        self.is_condition_true(ACCEPTED)
    }

    fn granted(&self, counter: Counter) -> Option<u32> {
        (counter == Counter::Endpoint).then(|| narrow(self.status.as_ref()?.endpoint_id)).flatten()
    }

    fn requested(&self, _: Counter) -> Option<u32> {
        None
    }

    fn is_tunnelled(&self) -> bool {
        self.spec.node_address.is_some()
    }
}
