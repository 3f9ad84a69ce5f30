//! The endpoints of a public port.

use std::net::IpAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, HealthStatus, SocketAddress};
use envoy_types::pb::envoy::config::endpoint::v3::Endpoint;
use epic_lb::{Backend, Frontend, Protocol, Role, Selected, Selection};
use prost::Message;

use super::{uint, wire};
use crate::engine::{EndpointRef, Kind, Resource};

/// Key of our metadata; `%UPSTREAM_METADATA(epic:address)%` in access logs.
const METADATA: &str = "epic";

pub(super) fn socket_address(address: IpAddr, port: u16) -> Address {
    Address {
        address: Some(AddressKind::SocketAddress(SocketAddress {
            address: address.to_string(),
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..SocketAddress::default()
        })),
    }
}

/// The endpoints selected for `frontend`, by key. Nothing to send gives an empty assignment, which ends new
/// connections at once; an absent one would leave Envoy with what it had.
///
/// A TCP endpoint that only keeps its flows is left out, since established connections survive its removal. As a
/// draining host it would count as one: of one that serves and one that drains Envoy may eject one, and in panic it
/// would send new connections to the one that drains. It is held all the same: that it takes nothing new is in force.
pub(super) fn resource(name: &str, frontend: &Frontend, selection: &Selection<'_>) -> Resource {
    let selected: Vec<Selected<'_>> = selection.iter().collect();
    let endpoints: Vec<EndpointRef> = selected.iter().filter_map(|s| object(s.backend)).collect();
    let is_sent = |s: &&Selected<'_>| match frontend.key.protocol {
        Protocol::Tcp => s.role == Role::Serving,
        // A UDP session moves as soon as its host is gone, and stays with one that drains while no other is there.
        _ => true,
    };
    let lb_endpoints: Vec<wire::LbEndpoint> =
        selected.iter().filter(is_sent).map(|s| lb_endpoint(s)).collect();
    let localities =
        if lb_endpoints.is_empty() { Vec::new() } else { vec![wire::LocalityLbEndpoints { lb_endpoints }] };
    let assignment = wire::ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints: localities };
    Resource::new(Kind::Assignment, name, assignment.encode_to_vec()).holding(endpoints)
}

fn lb_endpoint(selected: &Selected<'_>) -> wire::LbEndpoint {
    let backend = selected.backend;
    let (address, port) = (backend.place.address.ip(), backend.place.port);
    let real = backend.hostname();
    let object = backend.endpoint().map(|endpoint| &*endpoint.object).unwrap_or_default();
    let name = object.rsplit('/').next().unwrap_or_default();
    let health = match selected.role {
        Role::Serving => HealthStatus::Healthy,
        Role::ExistingOnly => HealthStatus::Draining,
    };
    wire::LbEndpoint {
        endpoint: Some(Endpoint {
            address: Some(socket_address(address, port)),
            hostname: real.clone(),
            ..Endpoint::default()
        }),
        health_status: health.into(),
        metadata: Some(wire::Metadata::of(METADATA, [("address", real.as_str()), ("endpoint", name)])),
        // Envoy refuses a weight of 0; such an endpoint is draining instead.
        load_balancing_weight: uint(u32::from(backend.weight.max(1))),
    }
}

fn object(backend: &Backend) -> Option<EndpointRef> {
    let endpoint = backend.endpoint()?;
    Some(EndpointRef {
        object: Arc::clone(&endpoint.object),
        uid: Arc::clone(&endpoint.uid),
        generation: endpoint.generation,
    })
}
