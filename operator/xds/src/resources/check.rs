//! How a cluster tells good endpoints from bad ones: active checks, and what connections of clients show.

use envoy_types::pb::envoy::config::cluster::v3::OutlierDetection;
use envoy_types::pb::envoy::config::core::v3::HealthCheck;
use envoy_types::pb::envoy::config::core::v3::health_check::{
    GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck,
};
use envoy_types::pb::envoy::r#type::v3::Int64Range;
use envoy_types::pb::google::protobuf::BoolValue;
use epic_model::edge::{Check, Passive, Probe};

use super::{duration, seconds, uint};

/// The active check, in the name of `load_balancer` where the group names no host.
pub(super) fn active(check: &Check, load_balancer: &str) -> HealthCheck {
    let interval = duration(check.interval);
    HealthCheck {
        timeout: duration(check.timeout),
        interval,
        // Otherwise a service that nobody uses is checked once a minute, and the first client meets what was long ago.
        no_traffic_interval: interval,
        // Proxies that started together would check together for ever.
        interval_jitter_percent: 10,
        unhealthy_threshold: uint(check.unhealthy_threshold),
        healthy_threshold: uint(check.healthy_threshold),
        // What is asked is whether the next client will be served, not whether a connection of ours still is.
        reuse_connection: Some(BoolValue { value: false }),
        health_checker: Some(match &check.probe {
            Probe::Tcp => HealthChecker::TcpHealthCheck(TcpHealthCheck::default()),
            Probe::Http { path, host, statuses } => HealthChecker::HttpHealthCheck(HttpHealthCheck {
                host: host.clone().unwrap_or_else(|| load_balancer.to_owned()),
                path: path.clone(),
                expected_statuses: statuses
                    .iter()
                    .map(|status| Int64Range { start: i64::from(*status), end: i64::from(*status) + 1 })
                    .collect(),
                // Without it Envoy takes an endpoint out at the first wrong answer, whatever the threshold says.
                retriable_statuses: vec![Int64Range { start: 100, end: 600 }],
                ..HttpHealthCheck::default()
            }),
            Probe::Grpc { service } => HealthChecker::GrpcHealthCheck(GrpcHealthCheck {
                service_name: service.clone(),
                authority: load_balancer.to_owned(),
                ..GrpcHealthCheck::default()
            }),
        }),
        ..HealthCheck::default()
    }
}

/// Ejects an endpoint after failed connects. A hashing policy sends every attempt of a client to the same endpoint, and
/// round robin meets a dead one first again and again; only this lets the next client through.
pub(super) fn passive(passive: Passive) -> OutlierDetection {
    OutlierDetection {
        consecutive_local_origin_failure: uint(passive.consecutive_failures),
        split_external_local_origin_errors: true,
        enforcing_consecutive_local_origin_failure: uint(100),
        enforcing_success_rate: uint(0),
        enforcing_local_origin_success_rate: uint(0),
        interval: seconds(2),
        base_ejection_time: duration(passive.base_ejection),
        max_ejection_time: duration(passive.max_ejection()),
        // Envoy's default of 10 % ejects nobody of two; with `always_eject_one_host` it ejects the only one.
        max_ejection_percent: uint(passive.max_ejection_percent.into()),
        ..OutlierDetection::default()
    }
}
