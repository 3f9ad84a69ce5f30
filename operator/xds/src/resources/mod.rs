//! From rows to Envoy resources: one listener, one cluster and one assignment per public port.
//!
//! Pure and deterministic: equal rows give equal bytes in every process, whatever order they come in, because
//! versions are made of the bytes. Each form was proved with the pinned Envoy.
//!
//! Guarantees: every cluster has its assignment in the same view, an empty one if nothing serves the port (a removed
//! assignment would leave Envoy with the old endpoints); listeners do not depend on endpoints, so endpoint changes
//! never touch connections of others; a row that cannot be expressed is left out, never half expressed.
//! What it does not do: choose endpoints ([`epic_lb::selection`] did), UDP and other protocols, IPv6 listeners.

mod access_log;
mod assignment;
mod check;
mod client;
mod cluster;
mod listener;
mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use envoy_types::pb::google::protobuf::{self, UInt32Value};
use epic_lb::{Frontend, Here, Protocol, Selection, Service, Tables};

use crate::engine::View;
use crate::identity::Identity;

/// Bytes buffered per connection and direction before the other side is made to wait. The default of 1 MiB lets a few
/// stalled connections exhaust a proxy.
const BUFFER_LIMIT: u32 = 65_536;

/// The identity of a service's proxies.
pub fn identity(service: &Service) -> Identity {
    Identity::new(service.name.namespace(), service.name.name(), service.uid.clone())
}

/// Everything that the proxies of `service` get, made of its frontends and of the backends selected for them.
pub fn build(tables: &Tables, service: &Service, here: Here<'_>) -> View {
    // Two addresses of one LoadBalancer (a second family) share the listener of their port.
    let mut ports: BTreeMap<u16, (&Frontend, u16)> = BTreeMap::new();
    for frontend in tables.frontends_of(service.name.id()) {
        if let (Protocol::Tcp, Some(listener)) = (frontend.key.protocol, frontend.listener_port()) {
            // By key: the first address decides.
            ports.entry(frontend.key.port).or_insert((frontend, listener));
        }
    }
    let resources = ports.into_iter().flat_map(|(port, (frontend, listener))| {
        let name = port_name(service, port);
        [
            cluster::resource(&name, service),
            assignment::resource(&name, frontend, &Selection::of(tables, frontend, here)),
            listener::resource(&name, service, listener),
        ]
    });
    View::new(service.generation, resources)
}

/// Name of listener, cluster and assignment of a port, as it appears in logs and metrics. It follows from the port
/// alone: a renamed port or another slot keeps it.
fn port_name(service: &Service, port: u16) -> String {
    format!("{}-tcp-{port}", service.name.name())
}

fn uint(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn seconds(value: u64) -> Option<protobuf::Duration> {
    duration(Duration::from_secs(value))
}

fn duration(value: Duration) -> Option<protobuf::Duration> {
    // Envoy accepts at most about 10,000 years; a timeout that long is as good as the longest.
    let seconds = i64::try_from(value.as_secs()).unwrap_or(i64::MAX).min(315_576_000_000);
    let nanos = i32::try_from(value.subsec_nanos()).unwrap_or(0);
    Some(protobuf::Duration { seconds, nanos })
}
