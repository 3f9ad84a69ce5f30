//! Which of Envoy's statistics a proxy makes and shows.
//!
//! Envoy has some 1,400 lines for one port. At level Basic it makes only those that a dashboard or an alert looks at, and
//! a scrape leaves out what it counts for each endpoint, which no matcher can switch off. Names end as they are listed
//! here; what is behind the dot is one of a cluster, a listener, a TCP proxy or a filter.

use serde_yaml::Value;

use super::mapping;

/// How much a proxy counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// What dashboards and alerts need.
    #[default]
    Basic,
    /// All that Envoy counts.
    Full,
}

/// Of the process: everything under these.
const PROCESS: [&str; 7] = [
    "server.",
    "overload.",
    "cluster_manager.",
    "listener_manager.",
    "control_plane.",
    "cluster.xds.",
    "sds.",
];

/// Of a port.
const PORT: [&str; 45] = [
    // Clients: how many, how much, and who was turned away by a limit.
    "downstream_cx_total",
    "downstream_cx_active",
    "downstream_cx_overflow",
    "downstream_cx_overload_reject",
    "downstream_global_cx_overflow",
    "downstream_pre_cx_timeout",
    "no_filter_chain_match",
    "downstream_cx_rx_bytes_total",
    "downstream_cx_tx_bytes_total",
    "downstream_cx_no_route",
    "idle_timeout",
    "active_connections",
    "limited_connections",
    "rate_limited",
    "proxy_proto.not_found_disallowed",
    "proxy_proto.versions.v1.found",
    "proxy_proto.versions.v2.found",
    "proxy_proto.versions.v1.error",
    "proxy_proto.versions.v2.error",
    // Endpoints: how many, how good, and what could not be had of them.
    "membership_total",
    "membership_healthy",
    "lb_healthy_panic",
    "upstream_cx_total",
    "upstream_cx_active",
    "upstream_cx_rx_bytes_total",
    "upstream_cx_tx_bytes_total",
    "upstream_cx_connect_ms",
    "upstream_cx_connect_fail",
    "upstream_cx_connect_timeout",
    "upstream_cx_connect_attempts_exceeded",
    "upstream_cx_none_healthy",
    "upstream_cx_overflow",
    "upstream_cx_max_duration_reached",
    "upstream_rq_pending_overflow",
    "upstream_rq_pending_active",
    "circuit_breakers.default.cx_open",
    "circuit_breakers.default.rq_pending_open",
    "health_check.attempt",
    "health_check.failure",
    "health_check.network_failure",
    "outlier_detection.ejections_active",
    "outlier_detection.ejections_enforced_total",
    "outlier_detection.ejections_overflow",
    // xDS.
    "update_rejected",
    "init_fetch_timeout",
];

/// The matchers of what is made.
pub(super) fn patterns() -> Value {
    let process = PROCESS.iter().map(|prefix| mapping(&[("prefix", (*prefix).into())]));
    let port = PORT.iter().map(|name| mapping(&[("suffix", format!(".{name}").into())]));
    Value::Sequence(process.chain(port).collect())
}

/// Where a scrape goes at Envoy's admin interface. What the scraper appends becomes the value of a parameter that means
/// nothing: it can widen nothing.
pub(super) fn scrape_path() -> String {
    let escaped = |names: &[&str]| names.join("%7C").replace('.', "%5C.");
    // ^(server\.|…)|\.(downstream_cx_total|…)$
    format!(
        "/stats/prometheus?usedonly&filter=%5E({})%7C%5C.({})%24&asked=",
        escaped(&PROCESS),
        escaped(&PORT)
    )
}
