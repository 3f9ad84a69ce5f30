//! The listener of a public port: a TCP proxy on port 10000 + slot, in front of the cluster of the same name.
//!
//! Its bytes must not change without need: a changed listener cuts the connections of its old form after the drain
//! time. So it depends on nothing that does not concern it (policy, limits of clusters, endpoints), a feature appears
//! only in the listeners that use it, and a test guards the bytes of the plain one from release to release.

use std::net::{IpAddr, Ipv4Addr};

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;
use envoy_types::pb::envoy::config::accesslog::v3::access_log;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use envoy_types::pb::envoy::r#type::v3::HashPolicy;
use envoy_types::pb::envoy::r#type::v3::hash_policy::{PolicySpecifier, SourceIp};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;
use epic_lb::Service;
use prost::Message;

use super::cluster::keepalive;
use super::{BUFFER_LIMIT, assignment, duration, seconds, uint, wire};
use crate::engine::{Kind, Resource};

/// What is logged of every connection, one JSON object a line. `alias` is what Envoy dialled, `endpoint` what stands
/// behind it. A connection failed only if `flags` holds `URX`, `UH` or `UO`.
const ACCESS_LOG: [(&str, &str); 13] = [
    ("log", "access"),
    ("time", "%START_TIME%"),
    ("cluster", "%UPSTREAM_CLUSTER%"),
    ("client", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("alias", "%UPSTREAM_HOST%"),
    ("endpoint", "%UPSTREAM_METADATA(epic:address)%"),
    ("name", "%UPSTREAM_HOST_NAME%"),
    ("rx", "%BYTES_RECEIVED%"),
    ("tx", "%BYTES_SENT%"),
    ("ms", "%DURATION%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("fail", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
];

const STDOUT_ACCESS_LOG: &str =
    "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog";

pub(super) fn resource(name: &str, service: &Service, port: u16) -> Resource {
    let proxy = TcpProxy {
        stat_prefix: name.to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(name.to_owned())),
        idle_timeout: service.timeouts.idle.map_or(seconds(3_600), duration),
        // The default of 1 fails a client as soon as it meets one endpoint that refuses.
        max_connect_attempts: uint(3),
        // Set for every policy: those that do not hash ignore it, and the listener does not change with the policy.
        hash_policy: vec![HashPolicy { policy_specifier: Some(PolicySpecifier::SourceIp(SourceIp {})) }],
        access_log: vec![access_log()],
        ..TcpProxy::default()
    };
    let filter = Filter {
        name: "envoy.filters.network.tcp_proxy".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(pack_any(proxy))),
    };
    let listener = Listener {
        name: name.to_owned(),
        address: Some(assignment::socket_address(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)),
        per_connection_buffer_limit_bytes: uint(BUFFER_LIMIT),
        tcp_keepalive: Some(keepalive()),
        filter_chains: vec![FilterChain { filters: vec![filter], ..FilterChain::default() }],
        ..Listener::default()
    };
    Resource::new(Kind::Listener, name, listener.encode_to_vec())
}

fn access_log() -> AccessLog {
    let stdout = wire::StdoutAccessLog {
        log_format: Some(wire::SubstitutionFormatString { json_format: Some(wire::Struct::of(ACCESS_LOG)) }),
    };
    AccessLog {
        name: "envoy.access_loggers.stdout".to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(Any {
            type_url: STDOUT_ACCESS_LOG.to_owned(),
            value: stdout.encode_to_vec(),
        })),
        ..AccessLog::default()
    }
}
