//! The cluster of a public port.

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    self, ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig,
};
use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster, OutlierDetection, UpstreamConnectionOptions,
};
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, ConfigSource, TcpKeepalive,
};
use envoy_types::pb::envoy::r#type::v3::Percent;
use epic_lb::{LbPolicy, Service};
use prost::Message;

use super::{BUFFER_LIMIT, duration, seconds, uint};
use crate::engine::{Kind, Resource};

/// Envoy's defaults of 1,024 would refuse connections; how many a proxy takes is limited once, in its bootstrap.
const NO_LIMIT: u32 = 1_000_000;

/// Percent of healthy endpoints below which all are tried.
const PANIC_THRESHOLD: f64 = 30.0;

/// The same on both sides of a proxy: a peer that is gone is noticed after 90 s of silence.
pub(super) fn keepalive() -> TcpKeepalive {
    TcpKeepalive { keepalive_probes: uint(3), keepalive_time: uint(60), keepalive_interval: uint(10) }
}

pub(super) fn resource(name: &str, service: &Service) -> Resource {
    let thresholds = Thresholds {
        max_connections: uint(NO_LIMIT),
        max_pending_requests: uint(NO_LIMIT),
        max_requests: uint(NO_LIMIT),
        max_retries: uint(NO_LIMIT),
        ..Thresholds::default()
    };
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
        connect_timeout: service.timeouts.connect.map_or(seconds(2), duration),
        per_connection_buffer_limit_bytes: uint(BUFFER_LIMIT),
        lb_policy: lb_policy(service.lb_policy).into(),
        // With health checks, an endpoint that passes them would otherwise stay after its removal.
        ignore_health_on_host_removal: true,
        // Fewer healthy endpoints than that, and Envoy tries them all: a verdict of its own then refuses nobody.
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: PANIC_THRESHOLD }),
            ..CommonLbConfig::default()
        }),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![thresholds],
            ..CircuitBreakers::default()
        }),
        upstream_connection_options: Some(UpstreamConnectionOptions {
            tcp_keepalive: Some(keepalive()),
            ..UpstreamConnectionOptions::default()
        }),
        outlier_detection: Some(outlier_detection()),
        ..Cluster::default()
    };
    Resource::new(Kind::Cluster, name, cluster.encode_to_vec()).needing(name)
}

/// Ejects an endpoint after three failed connects. A hashing policy sends every attempt of a client to the same
/// endpoint, and round robin meets a dead one first again and again; only this lets the next client through.
fn outlier_detection() -> OutlierDetection {
    OutlierDetection {
        consecutive_local_origin_failure: uint(3),
        split_external_local_origin_errors: true,
        enforcing_consecutive_local_origin_failure: uint(100),
        enforcing_success_rate: uint(0),
        enforcing_local_origin_success_rate: uint(0),
        interval: seconds(2),
        base_ejection_time: seconds(5),
        max_ejection_time: seconds(30),
        // The default of 10 % ejects nobody of two; half ejects one of two and never the only one. Who has one endpoint
        // is as far away as that endpoint, and back with it: so no `always_eject_one_host`.
        max_ejection_percent: uint(50),
        ..OutlierDetection::default()
    }
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
