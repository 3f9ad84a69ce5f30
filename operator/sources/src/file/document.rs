//! The format of the state file.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use epic_lb::rows::{ClusterAffinity, Distribution, TrafficPolicy};
use epic_lb::{
    Backend, BackendState, Frontend, FrontendKey, Locality, Name, Place, Protocol, Redirect, RedirectWhen,
    Service, ServiceName, Source, TargetPort, Traffic,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::check::HealthCheck;
use crate::Rows;

/// Bytes that a name of Kubernetes may have.
const LONGEST_NAME: usize = 253;

/// A state file.
///
/// ```
/// # use epic_sources::file::Document;
/// let document = Document::parse(
///     "
/// services:
/// - name: kube-system/api-server
///   frontends: [{ address: 192.0.2.10, port: 6443 }]
///   backends:
///   - { address: 10.0.0.1, port: 6443 }
///   - { address: 10.0.0.2, port: 6443, weight: 2, zone: a }
/// ",
/// )?;
/// assert_eq!(document.services[0].backends.len(), 2);
/// # Ok::<(), epic_sources::file::DocumentError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The services, each once.
    #[serde(default)]
    pub services: Vec<Entry>,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Entry {
    /// `namespace/name`.
    pub name: String,
    /// Where it is reached.
    #[serde(default)]
    pub frontends: Vec<Port>,
    /// Where its traffic goes.
    #[serde(default)]
    pub backends: Vec<Member>,
    /// `Cluster` or `Local`, for traffic from outside.
    #[serde(default, skip_serializing_if = "is_default")]
    pub external_traffic_policy: Policy,
    /// Seconds that a client keeps its backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity_seconds: Option<u32>,
    /// Clients that are admitted; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ranges: Vec<IpNet>,
    /// Which backends are preferred while they serve.
    #[serde(default, skip_serializing_if = "is_default")]
    pub distribution: Preference,
    /// Clusters that are preferred, in turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefer_clusters: Vec<String>,
    /// Healthy share of the backends in percent, under which verdicts of health are ignored.
    #[serde(default, skip_serializing_if = "is_default")]
    pub panic_threshold: u8,
    /// `namespace/name` of the service that takes its traffic while nothing of it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// How its backends are probed; absent: they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Port on which this node tells whether it has backends of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check_node_port: Option<u16>,
}

/// A place where a service is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Port {
    /// VIP.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    #[serde(default)]
    pub protocol: Transport,
    /// Which port of the backends: a number or a name; absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Member {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    #[serde(default)]
    pub protocol: Transport,
    /// Share of new flows, 0–128.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u16,
    /// `Active`, `Draining` or `Maintenance`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub state: State,
    /// Names of its port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_names: Vec<String>,
    /// Node that it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Zone of that node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Its cluster; absent: the own one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

fn one() -> u16 {
    1
}

fn is_one(weight: &u16) -> bool {
    *weight == 1
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl From<Transport> for Protocol {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Protocol::Tcp,
            Transport::Udp => Protocol::Udp,
            Transport::Sctp => Protocol::Sctp,
        }
    }
}

/// A port by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Target {
    /// By number.
    Number(u16),
    /// By name.
    Name(String),
}

/// `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// Backends of all nodes.
    #[default]
    Cluster,
    /// Those of the node that the packet reached.
    Local,
}

/// Which backends are preferred while they serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Preference {
    /// None.
    #[default]
    Everywhere,
    /// Those of the same zone.
    SameZone,
    /// Those of the same node, then of the same zone.
    SameNode,
}

/// What an administrator says of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It takes new flows.
    #[default]
    Active,
    /// It keeps the flows it has.
    Draining,
    /// The same, and it is not probed.
    Maintenance,
}

/// Why a document is refused. As a whole: half a state is worse than the one before.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is no YAML of this form.
    #[error("it is not understood: {0}")]
    Form(#[from] serde_yaml::Error),
    /// A value cannot be.
    #[error("service {service}: {why}")]
    Value {
        /// The service.
        service: String,
        /// What is wrong, and what to write instead.
        why: String,
    },
}

impl Document {
    /// Reads a document and checks what its form does not say.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub fn parse(text: &str) -> Result<Self, DocumentError> {
        // An empty file is an empty state: who means that writes it.
        let document: Option<Self> = serde_yaml::from_str(text)?;
        let document = document.unwrap_or_default();
        document.check()?;
        Ok(document)
    }

    /// Checks what the form does not say; [`Document::parse`] has done it.
    ///
    /// # Errors
    /// [`DocumentError::Value`], of the first service that cannot be.
    pub fn check(&self) -> Result<(), DocumentError> {
        let mut names = BTreeSet::new();
        let mut node_ports = BTreeMap::new();
        for entry in &self.services {
            let refuse = |why: String| DocumentError::Value { service: entry.name.clone(), why };
            entry.check().map_err(refuse)?;
            if !names.insert(&entry.name) {
                return Err(refuse("it stands there twice; give each service once".to_owned()));
            }
            if let Some(port) = entry.health_check_node_port
                && let Some(other) = node_ports.insert(port, &entry.name)
            {
                let why = format!("health-check-node-port {port} is that of {other}; give it one of its own");
                return Err(refuse(why));
            }
        }
        Ok(())
    }

    /// As text that parses to the same.
    ///
    /// # Errors
    /// Those of YAML, which such a document does not meet.
    pub fn to_yaml(&self) -> Result<String, serde_yaml::Error> {
        serde_yaml::to_string(self)
    }

    /// The rows of a checked document.
    pub fn rows(&self) -> Vec<Rows> {
        self.services.iter().filter_map(Entry::rows).collect()
    }
}

impl Entry {
    /// Reads one service that stands for itself, and checks what its form does not say.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub fn parse(text: &str) -> Result<Self, DocumentError> {
        let entry: Self = serde_yaml::from_str(text)?;
        entry.check().map_err(|why| DocumentError::Value { service: entry.name.clone(), why })?;
        Ok(entry)
    }

    fn check(&self) -> Result<(), String> {
        if ServiceName::parse(&self.name).is_none() {
            return Err("a name has the form namespace/name".to_owned());
        }
        if let Some(backup) = &self.backup {
            if ServiceName::parse(backup).is_none() {
                return Err(format!("backup {backup:?} has not the form namespace/name"));
            }
            if *backup == self.name {
                return Err("it is its own backup; name another service".to_owned());
            }
        }
        if let Some(name) = self.long_name() {
            let start: String = name.chars().take(32).collect();
            return Err(format!("{start}… is longer than a name of {LONGEST_NAME} bytes; shorten it"));
        }
        if self.panic_threshold > 100 {
            return Err(format!("panic-threshold {} is more than 100 %", self.panic_threshold));
        }
        if self.health_check_node_port == Some(0) {
            return Err("health-check-node-port 0 is no port; ports are 1 – 65535".to_owned());
        }
        if let Some(check) = &self.health_check {
            check.check()?;
        }
        let mut places = BTreeSet::new();
        for port in &self.frontends {
            if port.port == 0 || port.target == Some(Target::Number(0)) {
                return Err(format!("frontend {} has port 0; ports are 1 – 65535", port.address));
            }
            if !places.insert((port.address, port.port, Protocol::from(port.protocol))) {
                return Err(format!("frontend {} port {} stands there twice", port.address, port.port));
            }
        }
        let mut places = BTreeSet::new();
        for member in &self.backends {
            let (address, port) = (member.address, member.port);
            if port == 0 {
                return Err(format!("backend {address} has port 0; ports are 1 – 65535"));
            }
            if member.weight > 128 {
                return Err(format!("backend {address} has weight {}; weights are 0 – 128", member.weight));
            }
            if address.is_unspecified() || address.is_multicast() {
                return Err(format!("backend {address} is no address of a host"));
            }
            if !places.insert((address, port, Protocol::from(member.protocol))) {
                return Err(format!("backend {address} port {port} stands there twice"));
            }
        }
        Ok(())
    }

    /// Its rows, once it was checked. The writer sets their source to its own.
    pub(crate) fn rows(&self) -> Option<Rows> {
        let name = ServiceName::parse(&self.name)?;
        let traffic = self.traffic();
        let plain = Service::new(name.clone(), "");
        let service = Service {
            source: Source::File,
            traffic: (traffic != *Traffic::DEFAULT).then(|| traffic.into()),
            edge: self.health_check.as_ref().map_or(plain.edge, HealthCheck::edge),
            ..plain
        };
        let frontends = self.frontends.iter().map(|port| {
            let key = FrontendKey::new(port.address, port.port, port.protocol.into());
            Frontend {
                target_port: port.target.as_ref().map(|target| match target {
                    Target::Number(number) => TargetPort::Number(*number),
                    Target::Name(name) => TargetPort::Name(Name::new(name)),
                }),
                ..Frontend::direct(key, name.clone())
            }
        });
        let backends = self.backends.iter().map(|member| member.row(&name));
        let redirect = self.backup.as_deref().and_then(ServiceName::parse).map(|to| Redirect {
            service: name.clone(),
            source: Source::File,
            to,
            when: RedirectWhen::NothingServes,
            port: None,
        });
        Some(Rows { service, frontends: frontends.collect(), backends: backends.collect(), redirect })
    }

    /// Where it is reached.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> + '_ {
        self.frontends.iter().map(|port| Place::new(port.address, port.port, port.protocol.into()))
    }

    /// How much it is: rows, ranges and names. Each is bounded in itself.
    pub(crate) fn weight(&self) -> usize {
        let names: usize = self.backends.iter().map(|member| member.port_names.len()).sum();
        let lists = self.source_ranges.len() + self.prefer_clusters.len() + names;
        1 + self.frontends.len() + self.backends.len() + lists
    }

    /// A name in it that is longer than any of Kubernetes.
    fn long_name(&self) -> Option<&str> {
        let of_frontends = self.frontends.iter().filter_map(|port| match &port.target {
            Some(Target::Name(name)) => Some(name),
            _ => None,
        });
        let of_backends = self.backends.iter().flat_map(|member| {
            let one = [&member.node, &member.zone, &member.cluster];
            member.port_names.iter().chain(one.into_iter().flatten())
        });
        let names = self.prefer_clusters.iter().chain(of_frontends).chain(of_backends);
        let services = [Some(&self.name), self.backup.as_ref()].into_iter().flatten();
        let mut long = names.filter(|name| name.len() > LONGEST_NAME);
        let mut long_services = services.filter(|name| name.len() > 2 * LONGEST_NAME + 1);
        long.next().or_else(|| long_services.next()).map(String::as_str)
    }

    fn traffic(&self) -> Traffic {
        let clusters: Arc<[Arc<str>]> =
            self.prefer_clusters.iter().map(|name| name.as_str().into()).collect();
        Traffic {
            external: match self.external_traffic_policy {
                Policy::Cluster => TrafficPolicy::Cluster,
                Policy::Local => TrafficPolicy::Local,
            },
            session_affinity: self.session_affinity_seconds.map(|s| Duration::from_secs(s.into())),
            source_ranges: self.source_ranges.clone(),
            distribution: match self.distribution {
                Preference::Everywhere => Distribution::Everywhere,
                Preference::SameZone => Distribution::SameZone,
                Preference::SameNode => Distribution::SameNode,
            },
            clusters: if clusters.is_empty() {
                ClusterAffinity::Any
            } else {
                ClusterAffinity::Named(clusters)
            },
            panic_threshold: self.panic_threshold,
            health_check_node_port: self.health_check_node_port,
            ..Traffic::default()
        }
    }
}

impl Member {
    fn row(&self, service: &ServiceName) -> Backend {
        let names: Vec<Name> = self.port_names.iter().map(|name| Name::new(name)).collect();
        Backend {
            source: Source::File,
            state: match self.state {
                State::Active if self.weight == 0 => BackendState::Draining,
                State::Active => BackendState::Active,
                State::Draining => BackendState::Draining,
                State::Maintenance => BackendState::Maintenance,
            },
            weight: self.weight,
            port_names: (!names.is_empty()).then(|| names.into()),
            locality: Locality {
                node: self.node.as_deref().map(Name::new),
                zone: self.zone.as_deref().map(Name::new),
                cluster: self.cluster.as_deref().map(Name::new),
            },
            ..Backend::new(service.clone(), self.address, self.port, self.protocol.into())
        }
    }
}
