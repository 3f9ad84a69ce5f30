//! How the traffic of a service is spread and admitted: what most services leave at its default, behind one pointer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

/// Which backends traffic may reach (Kubernetes `externalTrafficPolicy`, `internalTrafficPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// Those of all nodes.
    #[default]
    Cluster,
    /// Those of the node that the packet reached; if there is none, it is dropped.
    Local,
}

/// Which backends are preferred while they serve (Kubernetes `trafficDistribution`). If none of the preferred serves, the
/// next best do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distribution {
    /// None.
    #[default]
    Everywhere,
    /// Those of the same zone (`PreferSameZone`, formerly `PreferClose`).
    SameZone,
    /// Those of the same node, then of the same zone (`PreferSameNode`).
    SameNode,
}

/// Which clusters are preferred while their backends serve (the seed's ServiceAffinity).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClusterAffinity {
    /// None.
    #[default]
    Any,
    /// The own one, then all others.
    Local,
    /// All others, then the own one.
    Remote,
    /// These in turn, then all others.
    Named(Arc<[Arc<str>]>),
}

/// Whether packets may change their family on the way (the seed's NatPolicy).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NatPolicy {
    /// A backend of the other family is reached through a proxy, and not at all without one.
    #[default]
    None,
    /// IPv6 frontends of IPv4 backends.
    Nat64,
    /// IPv4 frontends of IPv6 backends.
    Nat46,
}

/// Traffic of one service. Nothing here is EPIC's default unless [`Traffic::DEFAULT`] has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Labels of its object; redirects select by them.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Annotations of its object: read by the source that wrote the row, and by nobody else.
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
    /// For traffic from outside.
    pub external: TrafficPolicy,
    /// For traffic from within the cluster.
    pub internal: TrafficPolicy,
    /// How long a client keeps its backend after its last flow; `None`: it need not.
    pub session_affinity: Option<Duration>,
    /// Clients that are admitted; empty: all.
    pub source_ranges: Vec<IpNet>,
    /// Whether packets may change their family.
    pub nat: NatPolicy,
    /// Whether its host ports are served on loopback addresses as well.
    pub loopback_host_port: bool,
    /// Port on which every node tells whether it has backends of this service (Kubernetes `healthCheckNodePort`).
    pub health_check_node_port: Option<u16>,
    /// Which backends are preferred by place.
    pub distribution: Distribution,
    /// Which backends are preferred by cluster.
    pub clusters: ClusterAffinity,
    /// Healthy share of the backends, in percent, under which verdicts of health are ignored; 0: they never are.
    pub panic_threshold: u8,
    /// What sources say beyond that, by name.
    pub properties: BTreeMap<Arc<str>, Arc<str>>,
}

impl Traffic {
    /// Everything at its default.
    pub const DEFAULT: &'static Self = &Self {
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        external: TrafficPolicy::Cluster,
        internal: TrafficPolicy::Cluster,
        session_affinity: None,
        source_ranges: Vec::new(),
        nat: NatPolicy::None,
        loopback_host_port: false,
        health_check_node_port: None,
        distribution: Distribution::Everywhere,
        clusters: ClusterAffinity::Any,
        panic_threshold: 0,
        properties: BTreeMap::new(),
    };
}

impl Default for Traffic {
    fn default() -> Self {
        Self::DEFAULT.clone()
    }
}

impl fmt::Display for Traffic {
    /// What is not at its default, labels and annotations excepted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said: Vec<String> = Vec::new();
        if self.external != TrafficPolicy::Cluster {
            said.push("external=Local".to_owned());
        }
        if self.internal != TrafficPolicy::Cluster {
            said.push("internal=Local".to_owned());
        }
        if let Some(timeout) = self.session_affinity {
            said.push(format!("affinity={}s", timeout.as_secs()));
        }
        if !self.source_ranges.is_empty() {
            let ranges: Vec<String> = self.source_ranges.iter().map(ToString::to_string).collect();
            said.push(format!("ranges={}", ranges.join("+")));
        }
        if self.nat != NatPolicy::None {
            said.push(format!("nat={:?}", self.nat));
        }
        if self.loopback_host_port {
            said.push("loopback".to_owned());
        }
        if let Some(port) = self.health_check_node_port {
            said.push(format!("health-check-node-port={port}"));
        }
        if self.distribution != Distribution::Everywhere {
            said.push(format!("distribution={:?}", self.distribution));
        }
        match &self.clusters {
            ClusterAffinity::Any => {}
            ClusterAffinity::Named(names) => said.push(format!("clusters={}", names.join("+"))),
            preferred => said.push(format!("clusters={preferred:?}")),
        }
        if self.panic_threshold != 0 {
            said.push(format!("panic={}%", self.panic_threshold));
        }
        said.extend(self.properties.iter().map(|(name, value)| format!("{name}={value}")));
        f.write_str(&said.join(" "))
    }
}
