//! A Service as a row, and its ports as frontends.

use std::net::IpAddr;
use std::time::Duration;

use epic_lb::rows::{ClusterAffinity, Distribution, TrafficPolicy};
use epic_lb::{
    Frontend, FrontendKey, FrontendKind, Name, Protocol, Redirect, RedirectWhen, Scope as Reach, Service,
    ServiceName, Since, Source, Traffic,
};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};

use super::{Scope, cluster};
use crate::file::HealthCheck;

/// Names the Service of the same namespace that takes the traffic while nothing of this one serves.
const ANNOTATION_BACKUP: &str = "epic.acnodal.io/backup";
/// Names the Service of the same namespace that takes the traffic on nodes where it serves.
const ANNOTATION_LOCAL: &str = "epic.acnodal.io/local-redirect";
/// Says how the backends are probed, in the form of the state file's `health-check`.
const ANNOTATION_CHECK: &str = "epic.acnodal.io/health-check";
/// Seconds that `ClientIP` affinity lasts if nothing is said (Kubernetes, `sessionAffinityConfig`).
const AFFINITY_SECONDS: i32 = 10_800;

/// The row of a Service and its frontends.
pub(super) fn rows(
    object: &core::Service,
    name: &ServiceName,
    scope: &Scope,
    hinted: bool,
    check: Option<&HealthCheck>,
) -> Option<(Service, Vec<Frontend>)> {
    let spec = object.spec.as_ref()?;
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    if kind == "ExternalName" || object.metadata.deletion_timestamp.is_some() {
        return None;
    }
    if let Some(class) = &scope.class
        && (kind != "LoadBalancer" || spec.load_balancer_class.as_ref() != Some(class))
    {
        return None;
    }
    let since = object.metadata.creation_timestamp.as_ref();
    let traffic = traffic(object, spec, hinted);
    let plain = Service::new(name.clone(), object.metadata.uid.as_deref().unwrap_or_default());
    let service = Service {
        source: Source::Kubernetes,
        since: since.map(|time| Since::from_seconds(time.0.as_second())).unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or(0),
        traffic: (traffic != *Traffic::DEFAULT).then(|| traffic.into()),
        edge: check.map_or(plain.edge, HealthCheck::edge),
        ..plain
    };
    Some((service, frontends(object, spec, name, kind, scope)))
}

fn traffic(object: &core::Service, spec: &ServiceSpec, hinted: bool) -> Traffic {
    let policy = |text: Option<&String>| match text.map(String::as_str) {
        Some("Local") => TrafficPolicy::Local,
        _ => TrafficPolicy::Cluster,
    };
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    });
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    let labels = object.metadata.labels.iter().flatten();
    Traffic {
        labels: labels.map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect(),
        external: policy(spec.external_traffic_policy.as_ref()),
        internal: policy(spec.internal_traffic_policy.as_ref()),
        session_affinity: affinity,
        // The API server has checked them; a range that does not parse admits nobody rather than everybody.
        source_ranges: ranges.filter_map(|range| range.trim().parse().ok()).collect(),
        health_check_node_port: spec.health_check_node_port.and_then(|port| u16::try_from(port).ok()),
        distribution: match spec.traffic_distribution.as_deref() {
            Some("PreferSameNode") => Distribution::SameNode,
            Some("PreferSameZone" | "PreferClose") => Distribution::SameZone,
            _ if hinted => Distribution::SameZone,
            _ => Distribution::Everywhere,
        },
        clusters: match annotation(object, cluster::ANNOTATION_AFFINITY) {
            Some("local") => ClusterAffinity::Local,
            Some("remote") => ClusterAffinity::Remote,
            _ => ClusterAffinity::Any,
        },
        properties: cluster::properties(object),
        ..Traffic::default()
    }
}

/// What an annotation of a Service says.
pub(super) fn annotation<'o>(object: &'o core::Service, key: &str) -> Option<&'o str> {
    object.metadata.annotations.as_ref()?.get(key).map(|text| text.trim())
}

/// How the backends are probed, as the annotation says; the text of a refusal tells what to write instead.
pub(super) fn health_check(object: &core::Service) -> Result<Option<HealthCheck>, String> {
    let check = annotation(object, ANNOTATION_CHECK).map(HealthCheck::parse).transpose();
    check.map_err(|error| {
        format!("annotation {ANNOTATION_CHECK}: {error}; its backends are not probed until it is mended")
    })
}

/// Where traffic goes instead, as the annotations say.
pub(super) fn redirect(object: &core::Service, name: &ServiceName) -> Option<Redirect> {
    let (to, when) = match annotation(object, ANNOTATION_LOCAL) {
        Some(to) => (to, RedirectWhen::ServesHere),
        None => (annotation(object, ANNOTATION_BACKUP)?, RedirectWhen::NothingServes),
    };
    // Nobody sends his traffic to another namespace, nor in a circle of one.
    let to = ServiceName::parse(&format!("{}/{to}", name.namespace())).filter(|to| to != name)?;
    Some(Redirect { service: name.clone(), source: Source::Kubernetes, to, when, port: None })
}

fn frontends(
    object: &core::Service,
    spec: &ServiceSpec,
    name: &ServiceName,
    kind: &str,
    scope: &Scope,
) -> Vec<Frontend> {
    let mut addresses: Vec<(IpAddr, FrontendKind, Reach)> = Vec::new();
    let mut add = |text: &str, kind: FrontendKind, reach: Reach| {
        if let Ok(address) = text.parse() {
            addresses.push((address, kind, reach));
        }
    };
    let ingress = object.status.iter().filter_map(|status| status.load_balancer.as_ref());
    let ingress = ingress.flat_map(|status| status.ingress.iter().flatten());
    let ingress: Vec<&str> = ingress.filter_map(|ingress| ingress.ip.as_deref()).collect();
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    let mut outside = |text: &str, kind: FrontendKind| {
        add(text, kind, Reach::External);
        // From within the cluster the policy of the other scope counts.
        if local {
            add(text, kind, Reach::Internal);
        }
    };
    for text in ingress {
        outside(text, FrontendKind::LoadBalancer);
    }
    if scope.class.is_none() {
        for text in spec.external_ips.iter().flatten() {
            outside(text, FrontendKind::ExternalIp);
        }
        let single = spec.cluster_ip.iter();
        let several = spec.cluster_ips.iter().flatten();
        let all: std::collections::BTreeSet<&str> = single.chain(several).map(String::as_str).collect();
        for text in all.into_iter().filter(|text| *text != "None" && !text.is_empty()) {
            add(text, FrontendKind::ClusterIp, Reach::Internal);
        }
    }
    let has_node_ports = scope.class.is_none() && matches!(kind, "NodePort" | "LoadBalancer");
    let mut rows = Vec::new();
    for port in spec.ports.iter().flatten() {
        let Some(number) = u16::try_from(port.port).ok().filter(|number| *number != 0) else { continue };
        for (address, kind, reach) in &addresses {
            rows.push(frontend(name, port, (*address, number), *kind, *reach));
        }
        let node_port = port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
        if let Some(node_port) = node_port.filter(|_| has_node_ports) {
            for address in &scope.node_addresses {
                rows.push(frontend(
                    name,
                    port,
                    (*address, node_port),
                    FrontendKind::NodePort,
                    Reach::External,
                ));
            }
        }
    }
    rows
}

fn frontend(
    name: &ServiceName,
    port: &ServicePort,
    (address, number): (IpAddr, u16),
    kind: FrontendKind,
    scope: Reach,
) -> Frontend {
    let key = FrontendKey { scope, ..FrontendKey::new(address, number, protocol(port.protocol.as_deref())) };
    // Slices name their ports as the Service does; the one port of a Service may have no name.
    let port_name = port.name.as_deref().filter(|name| !name.is_empty()).map(Name::new);
    Frontend { kind, source: Source::Kubernetes, port_name, ..Frontend::direct(key, name.clone()) }
}

/// The protocol of a port; Kubernetes means TCP where it says nothing.
pub(super) fn protocol(text: Option<&str>) -> Protocol {
    match text {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}
