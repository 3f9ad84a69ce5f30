//! The cluster of a public port.

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    self, ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig,
};
use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster, TrackClusterStats, UpstreamConnectionOptions,
};
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::proxy_protocol_config::Version;
use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, ConfigSource, Http2ProtocolOptions, ProxyProtocolConfig,
    TcpKeepalive, TransportSocket, transport_socket,
};
use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions,
};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;
use epic_lb::{LbPolicy, Service};
use epic_model::edge::{Check, Limits, Probe, ProxyProtocol};
use prost::Message;

use super::{BUFFER_LIMIT, check, duration, seconds, uint};
use crate::engine::{Kind, Resource};

/// Envoy's defaults of 1,024 would refuse connections; how many a proxy takes is limited once, in its bootstrap.
const NO_LIMIT: u32 = 1_000_000;

/// The same on both sides of a proxy: a peer that is gone is noticed after 90 s of silence.
pub(super) fn keepalive() -> TcpKeepalive {
    TcpKeepalive { keepalive_probes: uint(3), keepalive_time: uint(60), keepalive_interval: uint(10) }
}

pub(super) fn resource(name: &str, service: &Service) -> Resource {
    let reach = &service.edge.reach;
    let check = reach.check.as_ref();
    let cluster = Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ConfigSource {
                resource_api_version: ApiVersion::V3.into(),
                initial_fetch_timeout: seconds(5),
                config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
                ..ConfigSource::default()
            }),
            ..EdsClusterConfig::default()
        }),
        connect_timeout: duration(reach.connect),
        per_connection_buffer_limit_bytes: uint(BUFFER_LIMIT),
        lb_policy: lb_policy(service.lb_policy).into(),
        // With health checks, an endpoint that passes them would otherwise stay after its removal.
        ignore_health_on_host_removal: true,
        // Fewer healthy endpoints than that, and Envoy tries them all: a verdict of its own then refuses nobody.
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: reach.panic_threshold.into() }),
            ..CommonLbConfig::default()
        }),
        circuit_breakers: Some(circuit_breakers(reach.limits)),
        health_checks: check.map(|check| check::active(check, service.name.name())).into_iter().collect(),
        typed_extension_protocol_options: check
            .filter(|check| is_grpc(check))
            .map(|_| http2())
            .into_iter()
            .collect(),
        transport_socket: reach.proxy_protocol.map(proxy_protocol),
        upstream_connection_options: Some(UpstreamConnectionOptions {
            tcp_keepalive: Some(keepalive()),
            ..UpstreamConnectionOptions::default()
        }),
        outlier_detection: Some(check::passive(reach.passive)),
        // The gauges that the operator is told the health of endpoints by.
        track_cluster_stats: Some(TrackClusterStats {
            per_endpoint_stats: true,
            ..TrackClusterStats::default()
        }),
        ..Cluster::default()
    };
    Resource::new(Kind::Cluster, name, cluster.encode_to_vec()).needing(name)
}

fn circuit_breakers(limits: Limits) -> CircuitBreakers {
    let each = |connections| Thresholds { max_connections: uint(connections), ..Thresholds::default() };
    CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: uint(limits.connections.unwrap_or(NO_LIMIT)),
            max_pending_requests: uint(limits.pending.unwrap_or(NO_LIMIT)),
            max_requests: uint(NO_LIMIT),
            max_retries: uint(NO_LIMIT),
            ..Thresholds::default()
        }],
        per_host_thresholds: limits.connections_per_endpoint.map(each).into_iter().collect(),
    }
}

fn is_grpc(check: &Check) -> bool {
    matches!(check.probe, Probe::Grpc { .. })
}

/// Envoy asks by gRPC only where the cluster speaks HTTP/2. Connections of clients stay what they are: bytes.
fn http2() -> (String, Any) {
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default())),
        })),
        ..HttpProtocolOptions::default()
    };
    ("envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(), pack_any(options))
}

/// Puts a header with the client's address in front of what endpoints get, those of health checks included.
fn proxy_protocol(version: ProxyProtocol) -> TransportSocket {
    let socket = |name: &str, config| TransportSocket {
        name: name.to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(config)),
    };
    let version = match version {
        ProxyProtocol::V1 => Version::V1,
        ProxyProtocol::V2 => Version::V2,
    };
    let header = ProxyProtocolUpstreamTransport {
        config: Some(ProxyProtocolConfig { version: version.into(), ..ProxyProtocolConfig::default() }),
        transport_socket: Some(socket("envoy.transport_sockets.raw_buffer", pack_any(RawBuffer {}))),
        ..ProxyProtocolUpstreamTransport::default()
    };
    socket("envoy.transport_sockets.upstream_proxy_protocol", pack_any(header))
}

fn lb_policy(policy: LbPolicy) -> cluster::LbPolicy {
    match policy {
        LbPolicy::RoundRobin => cluster::LbPolicy::RoundRobin,
        LbPolicy::LeastRequest => cluster::LbPolicy::LeastRequest,
        LbPolicy::Random => cluster::LbPolicy::Random,
        LbPolicy::RingHash => cluster::LbPolicy::RingHash,
        LbPolicy::Maglev => cluster::LbPolicy::Maglev,
    }
}
