//! The listener of a public port: a TCP proxy on port 10000 + slot, in front of the cluster of the same name.
//!
//! Its bytes must not change without need: a changed listener cuts the connections of its old form after the drain
//! time. So it depends on nothing that does not concern it (policy, limits of clusters, endpoints), a feature appears
//! only in the listeners that use it, and a test guards the bytes of the plain one from release to release.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use envoy_types::pb::envoy::r#type::v3::HashPolicy;
use envoy_types::pb::envoy::r#type::v3::hash_policy::{PolicySpecifier, SourceIp};
use envoy_types::util::pack_any;
use epic_lb::Service;
use prost::Message;

use super::cluster::keepalive;
use super::{BUFFER_LIMIT, access_log, assignment, client, duration, uint};
use crate::engine::{Kind, Resource};

pub(super) fn resource(name: &str, service: &Service, port: u16) -> Resource {
    let listen = &service.edge.listen;
    let proxy = TcpProxy {
        stat_prefix: name.to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(name.to_owned())),
        // Zero is never; absent would be Envoy's default.
        idle_timeout: duration(listen.idle.unwrap_or(Duration::ZERO)),
        // The default of 1 fails a client as soon as it meets one endpoint that refuses.
        max_connect_attempts: uint(3),
        // Set for every policy: those that do not hash ignore it, and the listener does not change with the policy.
        hash_policy: vec![HashPolicy { policy_specifier: Some(PolicySpecifier::SourceIp(SourceIp {})) }],
        access_log: access_log::logs(listen.access_log),
        ..TcpProxy::default()
    };
    let mut filters = client::filters(listen, name);
    filters.push(client::filter("envoy.filters.network.tcp_proxy", pack_any(proxy)));
    let chain =
        FilterChain { filter_chain_match: client::chain_match(listen), filters, ..FilterChain::default() };
    let listener = Listener {
        name: name.to_owned(),
        address: Some(assignment::socket_address(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)),
        per_connection_buffer_limit_bytes: uint(BUFFER_LIMIT),
        tcp_keepalive: Some(keepalive()),
        listener_filters: client::listener_filters(listen),
        listener_filters_timeout: client::listener_filters_timeout(listen),
        filter_chains: vec![chain],
        ..Listener::default()
    };
    Resource::new(Kind::Listener, name, listener.encode_to_vec()).sending_to([name])
}
