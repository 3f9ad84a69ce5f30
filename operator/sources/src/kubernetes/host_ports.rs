//! Pods as services of the node they run on: what `hostPort` of a container asks for.
//!
//! A Pod with host ports is *one* service, `NAMESPACE/POD:host-ports`, with a frontend for each host port at each address and a
//! backend for each container port behind one at each address of the Pod; a frontend takes the backends of its container port
//! alone. A colon stands in no name of an object, so no Service and no LoadBalancer can be called so; and since the name is made
//! of the Pod's alone, a Pod that was deleted is known by it, and one that is recreated under its name takes its place in one
//! transaction. (The ancestor has a service a port; its names needed the port, and one that was recreated waited for the former.)
//!
//! | of the Pod | here |
//! | --- | --- |
//! | no `hostIP`, or an unspecified one | a frontend at every address of the node (`status.hostIPs`), of that family |
//! | `hostIP` | a frontend there, if it is one of those addresses, or of [`Scope::node_addresses`]; otherwise none, and it is told |
//! | `hostIP` on loopback | a frontend there, for Pods of this node alone, and `loopback_host_port` |
//! | `initContainers` with `restartPolicy: Always` | they run on, so their ports count |
//! | `hostNetwork` | none: the Pod itself has the port |
//! | phase Succeeded or Failed, no address yet | none: nothing is there that could serve |
//! | condition `Ready`, `deletionTimestamp` | the state, as for endpoints of a Service |
//!
//! Who has an address that two Pods want, or a Pod and a Service, is decided as everywhere: the older has it. So that nobody
//! gets the address of a Service by naming it as his `hostIP`, it has to be one of the node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use epic_lb::{
    Backend, BackendState, Frontend, FrontendKey, FrontendKind, Locality, Name, Place, Protocol, Service,
    ServiceName, Since, Source, TargetPort, Traffic,
};
use k8s_openapi::api::core::v1 as core;
use kates::{Key, Query};

use super::service::protocol;
use super::{Made, Scope};
use crate::Rows;

/// What follows the name of the Pod in that of its service.
const SUFFIX: &str = ":host-ports";

/// Of which Pods the host ports are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostPorts {
    /// Of none; Pods are not read.
    #[default]
    Off,
    /// Of those on the node of this name; others are not read.
    Node(String),
    /// Of all, each at the addresses of its own node.
    Everywhere,
}

impl HostPorts {
    /// The Pods to watch.
    pub(super) fn query(&self) -> Option<Query> {
        match self {
            Self::Off => None,
            Self::Node(name) => Some(Query::all().field("spec.nodeName", name)),
            Self::Everywhere => Some(Query::all()),
        }
    }

    fn concern(&self, node: &str) -> bool {
        match self {
            Self::Off => false,
            Self::Node(name) => name == node,
            Self::Everywhere => !node.is_empty(),
        }
    }
}

/// A port of the node, and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Port {
    host: u16,
    container: u16,
    protocol: Protocol,
    /// `None`: every address of the node.
    address: Option<IpAddr>,
}

/// The name of the service that a Pod becomes.
pub(super) fn name_of(pod: &Key) -> ServiceName {
    ServiceName::new(pod.namespace().unwrap_or_default(), format!("{}{SUFFIX}", pod.name()))
}

/// Whether a Pod asks for anything.
pub(super) fn asks(pod: &core::Pod) -> bool {
    ports(pod).next().is_some()
}

/// What becomes of a Pod.
pub fn rows(pod: &core::Pod, scope: &Scope) -> Made {
    of_pod(pod, scope).unwrap_or_default()
}

fn of_pod(pod: &core::Pod, scope: &Scope) -> Option<Made> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    let node = spec.node_name.as_deref().unwrap_or_default();
    if !scope.host_ports.concern(node) || matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let several = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let addresses = parsed(several.chain(status.pod_ip.as_deref()));
    if addresses.is_empty() {
        return None;
    }
    let several = status.host_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let node_addresses = parsed(several.chain(status.host_ip.as_deref()));
    let name = name_of(&Key::of(pod));
    let state = state(pod, status);
    let mut frontends: BTreeMap<Place, Frontend> = BTreeMap::new();
    let mut backends: BTreeMap<Place, Backend> = BTreeMap::new();
    let (mut on_loopback, mut refused) = (false, None);
    for port in ports(pod) {
        let places = match reached_at(&port, &node_addresses, scope) {
            Ok(places) => places,
            Err(why) => {
                refused = Some(why);
                continue;
            }
        };
        for address in places {
            on_loopback |= address.is_loopback();
            let key = FrontendKey::new(address, port.host, port.protocol);
            // The API server lets a Pod name a place once.
            frontends.entry(key.place()).or_insert_with(|| Frontend {
                kind: FrontendKind::HostPort,
                source: Source::Kubernetes,
                target_port: Some(TargetPort::Number(port.container)),
                ..Frontend::direct(key, name.clone())
            });
        }
        for address in &addresses {
            let row = Backend {
                source: Source::Kubernetes,
                state,
                locality: Locality { node: Some(Name::new(node)), ..Locality::default() },
                ..Backend::new(name.clone(), *address, port.container, port.protocol)
            };
            backends.insert(row.place, row);
        }
    }
    if frontends.is_empty() {
        return Some(Made { rows: None, refused });
    }
    let traffic = Traffic { loopback_host_port: on_loopback, ..Traffic::default() };
    let since = pod.metadata.creation_timestamp.as_ref();
    let service = Service {
        source: Source::Kubernetes,
        since: since.map(|time| Since::from_seconds(time.0.as_second())).unwrap_or_default(),
        generation: pod.metadata.generation.unwrap_or(0),
        traffic: (traffic != *Traffic::DEFAULT).then(|| traffic.into()),
        ..Service::new(name, pod.metadata.uid.as_deref().unwrap_or_default())
    };
    let (frontends, backends) = (frontends.into_values().collect(), backends.into_values().collect());
    Some(Made { rows: Some(Rows { service, frontends, backends, redirect: None }), refused })
}

/// The host ports of a Pod, of those of its containers that run as long as it does.
fn ports(pod: &core::Pod) -> impl Iterator<Item = Port> + '_ {
    let spec = pod.spec.as_ref().filter(|spec| spec.host_network != Some(true));
    let containers = spec.into_iter().flat_map(|spec| {
        let sidecars = spec.init_containers.iter().flatten();
        let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
        spec.containers.iter().chain(sidecars)
    });
    containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        let number = |port: i32| u16::try_from(port).ok().filter(|port| *port != 0);
        Some(Port {
            host: number(port.host_port?)?,
            container: number(port.container_port)?,
            protocol: protocol(port.protocol.as_deref()),
            address: match port.host_ip.as_deref().filter(|text| !text.is_empty()) {
                Some(text) => Some(text.parse().ok()?),
                None => None,
            },
        })
    })
}

/// The addresses at which a port is reached; the text of a refusal tells what to change.
fn reached_at(port: &Port, of_node: &BTreeSet<IpAddr>, scope: &Scope) -> Result<Vec<IpAddr>, String> {
    match port.address {
        Some(address) if address.is_loopback() => match scope.host_ports {
            HostPorts::Node(_) => Ok(vec![address]),
            // Each node has a loopback of its own: that of another is nowhere to be reached.
            _ => Ok(Vec::new()),
        },
        Some(address) if !address.is_unspecified() => {
            if of_node.contains(&address) || scope.node_addresses.contains(&address) {
                return Ok(vec![address]);
            }
            Err(format!(
                "hostIP {address} of port {} is no known address of its node; leave hostIP out, or name the address as one of the node",
                port.host
            ))
        }
        any => {
            let family = |address: &&IpAddr| any.is_none_or(|any| any.is_ipv4() == address.is_ipv4());
            Ok(of_node.iter().filter(family).copied().collect())
        }
    }
}

fn state(pod: &core::Pod, status: &core::PodStatus) -> BackendState {
    let conditions = status.conditions.iter().flatten();
    let ready = conditions.into_iter().any(|found| found.type_ == "Ready" && found.status == "True");
    match (pod.metadata.deletion_timestamp.is_some(), ready) {
        (true, true) => BackendState::Terminating,
        (true, false) => BackendState::TerminatingNotServing,
        (false, true) => BackendState::Active,
        (false, false) => BackendState::Quarantined,
    }
}

fn parsed<'t>(texts: impl Iterator<Item = &'t str>) -> BTreeSet<IpAddr> {
    texts.filter_map(|text| text.parse().ok()).collect()
}
