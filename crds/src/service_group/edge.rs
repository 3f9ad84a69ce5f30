//! What a ServiceGroup says to Envoy: how it treats clients, how it tells good Endpoints from bad ones, how long it
//! waits, and what it writes down.
//!
//! Each field says what an edit of it costs, because one that changes the listener ends, an hour later, the
//! connections that were open at that moment.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::duration::Duration;
use crate::rest::Rest;
use crate::schema;

/// How proxies find out which Endpoints work. They are checked actively where one of tcp, http and grpc is named; what
/// happens to clients' connections is judged always (passive). Edits cut no connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline, extend("x-kubernetes-validations" = json!([
    {
        "rule": "[has(self.tcp), has(self.http), has(self.grpc)].filter(named, named).size() <= 1",
        "message": "at most one of tcp, http and grpc may be named"
    },
    {
        "rule": "has(self.tcp) || has(self.http) || has(self.grpc) || !(has(self.interval) || has(self.timeout) || has(self.healthy__dash__threshold) || has(self.unhealthy__dash__threshold))",
        "message": "interval, timeout and thresholds are those of active checks; name one of tcp, http and grpc, or leave them out"
    }
])))]
pub struct HealthCheck {
    /// Time between two checks of an Endpoint by one proxy, 1s to 10m. Absent: 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::CheckInterval>")]
    pub interval: Option<Duration>,
    /// How long an answer may take, 100ms to 1m. A changed group is in force only after the first checks, so at most
    /// so much later. Absent: 2s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::CheckTimeout>")]
    pub timeout: Option<Duration>,
    /// Good answers in a row until an Endpoint counts as healthy. Absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub healthy_threshold: Option<i64>,
    /// Failures in a row until an Endpoint counts as unhealthy. Absent: 3. One that says NOT_SERVING by gRPC does at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy_threshold: Option<i64>,
    /// Check by a TCP connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpHealthCheck>,
    /// Check by an HTTP/1.1 request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpHealthCheck>,
    /// Check by the gRPC health protocol (grpc.health.v1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcHealthCheck>,
    /// Take out Endpoints to which clients' connections fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive: Option<PassiveHealthCheck>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// A check by a TCP connection: good if it is accepted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct TcpHealthCheck {
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// An HTTP health check.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct HttpHealthCheck {
    /// Path that is asked for.
    #[schemars(with = "schema::HttpPath")]
    pub path: String,
    /// Host header that is sent. Absent: the name of the LoadBalancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::ForeignName>")]
    pub host: Option<String>,
    /// Statuses of a good answer. Absent: 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Option<Vec<schema::HttpStatus>>",
        length(min = 1, max = 32),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub statuses: Option<Vec<i64>>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// A gRPC health check.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct GrpcHealthCheck {
    /// Service that is asked about. Absent: the server as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::ForeignName>")]
    pub service: Option<String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// Take out Endpoints to which clients' connections fail: refused, unreachable or not answered in time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct PassiveHealthCheck {
    /// Failed connections in a row until an Endpoint is taken out. Absent: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub consecutive_failures: Option<i64>,
    /// For how long at first, 1s to 1h; again and again it is longer, up to 30s or this if that is more. Absent: 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::EjectionTime>")]
    pub base_ejection_time: Option<Duration>,
    /// At most so many percent of the Endpoints at once; 0: none ever. Absent: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_ejection_percent: Option<i64>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// How long proxies wait.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct Timeouts {
    /// For a connection to an Endpoint, 10ms to 1m; three are tried for each client. Edits cut no connection. Absent:
    /// 2s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::ConnectTimeout>")]
    pub connect: Option<Duration>,
    /// Until a connection on which nothing happens is closed, 1s to 720h; 0s: never. Connections that are open at an
    /// edit keep the old time and end after an hour. Absent: 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::IdleTimeout>")]
    pub idle: Option<Duration>,
    /// For open connections when a proxy is taken away, at most 1h. An edit rolls the proxies. Absent: 300s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::ShortDuration>")]
    pub drain: Option<Duration>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// How proxies treat those who connect. Connections that are open at an edit keep the old form and end after an hour.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct ClientSettings {
    /// Learn the client's address from a PROXY header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ClientProxyProtocol>,
    /// How many connections there may be at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_limit: Option<ConnectionLimit>,
    /// How many connections there may be in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// Learn the client's address from a PROXY header, version 1 or 2. Every connection must begin with one and come from
/// a trusted network; all others are closed and reach no Endpoint, because whoever sends a header can claim any address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct ClientProxyProtocol {
    /// Networks of the proxies in front that are believed.
    #[schemars(
        with = "Vec<schema::Cidr>",
        length(min = 1, max = 64),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub trusted_networks: Vec<String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// How many connections a public port takes at once, in each proxy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct ConnectionLimit {
    /// So many; the next one is closed.
    #[schemars(range(min = 1, max = 1000000))]
    pub value: i64,
    /// Close those beyond it only after this time, at most 10s, so that they come back more slowly. Absent: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::CloseDelay>")]
    pub close_delay: Option<Duration>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// How many new connections a public port takes in a second, in each proxy; those beyond it are closed at once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline, extend("x-kubernetes-validations" = json!([{
    "rule": "!has(self.burst) || self.burst >= self.connections__dash__per__dash__second",
    "message": "burst must be at least connections-per-second"
}])))]
pub struct RateLimit {
    /// So many in a second, in the long run.
    #[schemars(range(min = 1, max = 1000000))]
    pub connections_per_second: i64,
    /// So many at once after a quiet time. Absent: connections-per-second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000))]
    pub burst: Option<i64>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// How much proxies ask of Endpoints. Each proxy counts for itself, and each public port. Edits cut no connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct CircuitBreaker {
    /// Connections to all Endpoints together; clients beyond it are closed. Absent: as many as the proxy's memory allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000))]
    pub max_connections: Option<i64>,
    /// Clients that wait for a connection to an Endpoint; those beyond it are closed. Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000))]
    pub max_pending_requests: Option<i64>,
    /// The same for each Endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_endpoint: Option<EndpointCircuitBreaker>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// How much proxies ask of one Endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct EndpointCircuitBreaker {
    /// Connections to it. Clients beyond it wait for their turn, so set max-pending-requests too.
    #[schemars(range(min = 1, max = 1000000))]
    pub max_connections: i64,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// What proxies write down and count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct Telemetry {
    /// One line of JSON on standard output for each connection, when it ends. Connections that are open at an edit keep
    /// the old form and end after an hour. Absent: all are logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
    /// Statistics of the proxies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricsTelemetry>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// Which connections are logged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline, extend("x-kubernetes-validations" = json!([
    {
        "rule": "!(has(self.disabled) && self.disabled) || !(has(self.filter) || has(self.sample__dash__percent))",
        "message": "a log that is disabled has neither filter nor sample-percent"
    },
    {
        "rule": "!has(self.sample__dash__percent) || !has(self.filter) || self.filter == 'All'",
        "message": "sample-percent is a share of the connections that did not fail, which filter Failures leaves out; leave one of them out"
    }
])))]
pub struct AccessLog {
    /// None of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// All (the default), or only Failures: connections that no Endpoint took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<AccessLogFilter>,
    /// Of connections that did not fail so many percent, chosen at random; those that failed are logged all. Absent: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub sample_percent: Option<i64>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// Which connections are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum AccessLogFilter {
    /// All of them.
    #[default]
    All,
    /// Those that no Endpoint took.
    Failures,
}

/// Statistics of the proxies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct MetricsTelemetry {
    /// Basic (the default): what dashboards and alerts need, some 40 values a public port. Full: all that Envoy counts,
    /// for each Endpoint too. An edit rolls the proxies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<MetricsLevel>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// How much proxies count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum MetricsLevel {
    /// What dashboards and alerts need.
    #[default]
    Basic,
    /// All that Envoy counts.
    Full,
}
