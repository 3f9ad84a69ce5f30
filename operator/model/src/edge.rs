//! How the proxies of a LoadBalancer treat clients and Endpoints: the intermediate form between the API and Envoy.
//!
//! Every default is in force here, so whoever renders it decides nothing, and another source of load balancers than a
//! ServiceGroup fills the same form. What changes the bytes of a listener stands in [`Listen`], what changes those of a
//! cluster in [`Reach`]: an edit of the one cuts connections after the drain time, an edit of the other does not.

use std::time::Duration;

use ipnet::IpNet;

/// The whole form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    /// Towards clients.
    pub listen: Listen,
    /// Towards Endpoints.
    pub reach: Reach,
}

/// Towards clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Until a connection on which nothing happens is closed; `None`: never.
    pub idle: Option<Duration>,
    /// Networks whose PROXY headers are believed; connections come from there alone. `None`: no header is read.
    pub trusted_networks: Option<Vec<IpNet>>,
    /// How many connections at once.
    pub connection_limit: Option<ConnectionLimit>,
    /// How many connections in a second.
    pub rate_limit: Option<RateLimit>,
    /// Which connections are logged.
    pub access_log: AccessLog,
}

/// How many connections a port takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimit {
    /// So many.
    pub value: u32,
    /// Until one beyond it is closed.
    pub close_delay: Duration,
}

/// How many connections a port takes in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// In the long run.
    pub per_second: u32,
    /// At once after a quiet time.
    pub burst: u32,
}

/// Which connections are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// All.
    #[default]
    All,
    /// Those that failed, and so many percent of the others.
    Sampled(u8),
    /// None.
    Off,
}

/// Towards Endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// For a connection to an Endpoint.
    pub connect: Duration,
    /// Percent of healthy Endpoints below which all are tried.
    pub panic_threshold: u8,
    /// Active checks.
    pub check: Option<Check>,
    /// What takes an Endpoint out by the connections of clients.
    pub passive: Passive,
    /// The PROXY header that Endpoints get.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How much is asked of them.
    pub limits: Limits,
}

/// An active check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Between two checks.
    pub interval: Duration,
    /// For an answer.
    pub timeout: Duration,
    /// Good answers in a row until healthy.
    pub healthy_threshold: u32,
    /// Failures in a row until unhealthy.
    pub unhealthy_threshold: u32,
    /// Port that is asked; `None`: the one that traffic goes to. The API has no such field, so no proxy is ever given one.
    pub port: Option<u16>,
    /// What is asked.
    pub probe: Probe,
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Whether a connection is accepted.
    Tcp,
    /// What an HTTP/1.1 request is answered with.
    Http {
        /// Path.
        path: String,
        /// Host header; `None`: the name of the LoadBalancer.
        host: Option<String>,
        /// Good statuses.
        statuses: Vec<u16>,
    },
    /// What the gRPC health protocol says.
    Grpc {
        /// Of this service; empty: of the server.
        service: String,
    },
}

/// What takes an Endpoint out by the connections of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passive {
    /// Failed connections in a row.
    pub consecutive_failures: u32,
    /// For how long at first.
    pub base_ejection: Duration,
    /// At most so many percent at once.
    pub max_ejection_percent: u8,
}

impl Passive {
    /// Longest time that an Endpoint is out before it is tried again.
    pub fn max_ejection(self) -> Duration {
        self.base_ejection.max(Duration::from_secs(30))
    }
}

/// Version of a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// How much is asked of Endpoints; `None`: no limit of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections to all of them.
    pub connections: Option<u32>,
    /// Clients that wait for one.
    pub pending: Option<u32>,
    /// Connections to each of them.
    pub connections_per_endpoint: Option<u32>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            idle: Some(Duration::from_secs(3_600)),
            trusted_networks: None,
            connection_limit: None,
            rate_limit: None,
            access_log: AccessLog::default(),
        }
    }
}

impl Default for Reach {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            panic_threshold: 30,
            check: None,
            passive: Passive::default(),
            proxy_protocol: None,
            limits: Limits::default(),
        }
    }
}

impl Default for Passive {
    fn default() -> Self {
        // Half ejects one of two and never the only one: who has one Endpoint is as far away as that Endpoint.
        Self { consecutive_failures: 3, base_ejection: Duration::from_secs(5), max_ejection_percent: 50 }
    }
}

impl Check {
    /// A check with this probe and every other value at its default.
    pub fn new(probe: Probe) -> Self {
        Self {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            healthy_threshold: 1,
            unhealthy_threshold: 3,
            port: None,
            probe,
        }
    }
}
