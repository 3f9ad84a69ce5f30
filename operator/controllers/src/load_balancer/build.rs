//! What should be there for a LoadBalancer. Pure, and cannot fail.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use epic_crds::condition::READY;
use epic_crds::rest;
use epic_crds::{
    EndpointPort, GueTunnelEndpoint, GueTunnelLeg, HasConditions, LoadBalancerStatus, MetricsLevel,
    PortSlot as WrittenSlot, Protocol, Proxy as WrittenProxy, ProxyState as WrittenState,
};
use epic_model::address;
use epic_model::id::{TunnelId, Uid};
use epic_model::port::{PortSlot, PublicPort, TargetPort, assign_slots};
use epic_model::programmed::{Configured, all_acknowledged};
use epic_model::proxy::{self, Known, Pod, Proxy, ProxyState};
use epic_model::tunnel::{self, Pair, TunnelEnd};
use epic_model::{key, name};
use epic_xds::bootstrap::Level;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::validate::protocol;
use super::{Found, Valid};
use crate::certificate::Holder;
use crate::proxy::{Proxies, PullPolicy, restarts};

/// What should be there.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Pools to take an address from, and for whom; `None` for one that is refused and served as it was.
    pub valid: Option<Valid>,
    /// Whose certificate is kept current.
    pub holder: Option<Holder>,
    /// The proxies' objects, `None` when those that are there stay as they are. The text names what is missing.
    pub proxies: Result<Option<Proxies>, &'static str>,
    /// The status, as far as it follows from what was read; conditions are set later.
    pub status: LoadBalancerStatus,
    /// The proxies, for the decision whether everything is in force.
    pub configured: Vec<Configured>,
    /// Pods that are ready by their own word, and may take traffic.
    pub ready: usize,
    /// Whether a pod waits for its ID.
    pub lacks_ids: bool,
}

/// The plan for `found`. Without `valid` it is refused: what was granted is served on, with proxies and tunnels as
/// they come and go, and nothing new begins.
pub(super) fn plan(found: &Found, valid: Option<&Valid>) -> Wanted {
    let before = found.balancer.status.clone().unwrap_or_default();
    let range = found.epic.as_ref().and_then(|epic| address::parse_network(epic.spec.proxy_ipv4()).ok());
    let known = known(&before);
    let pods = connected(found, &known, &granted(&before));
    let mut list = range.map(|range| proxy::list(&pods, &known, range)).unwrap_or_default();
    keep_addresses(&mut list, &before);
    let configured = acknowledgements(found, &list);
    let primary = proxy::primary(&list);
    let port = found.epic.as_ref().map_or(epic_abi::gue::DEFAULT_PORT, |epic| epic.spec.gue_port());
    let generation = found.balancer.metadata.generation.unwrap_or(0);
    let ports = match valid {
        Some(valid) => {
            let slots =
                assign_slots(&valid.ports, &slots(&before), all_acknowledged(generation, &configured));
            slots.iter().map(|slot| written_slot(slot, &valid.ports)).collect()
        }
        None => before.ports.clone(),
    };
    // Rows whose pod is gone are taken out by the allocator, which frees their IDs in the same write. Until then
    // nothing new is sent there.
    let gone = before
        .proxies
        .iter()
        .filter(|row| row.proxy_id.is_some())
        .filter(|row| range.is_none() || !list.iter().any(|proxy| proxy.pod_uid.as_str() == row.pod_uid))
        .map(|row| WrittenProxy {
            state: if range.is_none() { row.state } else { WrittenState::Draining },
            ..row.clone()
        });
    let mut status = LoadBalancerStatus {
        group_id: valid.map(|valid| i64::from(valid.group.get())).or(before.group_id),
        gue_tunnel_endpoints: tunnels(&before, primary.and_then(|proxy| proxy.epic_address), port),
        proxies: list.iter().map(written).chain(gone).collect(),
        ports,
        proxy_ifindex: primary.and_then(|proxy| proxy.ifindex).map(i64::from),
        proxy_ifname: primary.and_then(|proxy| proxy.ifname.clone()),
        key_generation: Some(before.key_generation.unwrap_or(i64::from(key::FIRST_GENERATION))),
        ..before.clone()
    };
    // Before anything is compared: what a newer version says of a port must not look like other content.
    rest::carry(&mut status, &before);
    Wanted {
        valid: valid.cloned(),
        holder: holder(found),
        proxies: valid.map(|valid| proxies(found, valid)).transpose(),
        status,
        configured,
        ready: proxy::ready_pods(&pods),
        lacks_ids: found
            .pods
            .iter()
            .any(|pod| pod.node.is_some() && !pod.deleting && !pod.ended && !known.contains_key(&pod.uid)),
    }
}

/// The pods, with one as not ready that has not served yet and
///
/// - has acknowledged no configuration: Envoy may have refused its listeners, and flows that went there would be reset;
/// - has no tunnel while others have: its node has just got its first proxy, or is one too many. Flows that went there
///   would reach no endpoint behind a tunnel.
///
/// One that serves goes on, whatever its xDS stream does.
fn connected(found: &Found, known: &BTreeMap<Uid, Known>, granted: &BTreeMap<Pair, TunnelId>) -> Vec<Pod> {
    let nodes: BTreeSet<IpAddr> = granted.keys().map(|pair| pair.epic).collect();
    let serves = |pod: &Pod| known.get(&pod.uid).is_some_and(|known| known.state == ProxyState::Ready);
    let has_acknowledged = |pod: &Pod| {
        found.configured.iter().any(|(name, generation, _)| *name == pod.name && generation.is_some())
    };
    let leads =
        |pod: &Pod| nodes.is_empty() || pod.epic_address.is_some_and(|address| nodes.contains(&address));
    let may_serve = |pod: &Pod| serves(pod) || (has_acknowledged(pod) && leads(pod));
    found.pods.iter().map(|pod| Pod { ready: pod.ready && may_serve(pod), ..pod.clone() }).collect()
}

/// A node whose EPICNode is being made anew keeps the address that it had.
fn keep_addresses(list: &mut [Proxy], before: &LoadBalancerStatus) {
    for proxy in list.iter_mut().filter(|proxy| proxy.epic_address.is_none()) {
        let known = before.proxies.iter().find(|row| {
            row.pod_uid == proxy.pod_uid.as_str() && row.node.as_deref() == Some(proxy.node.as_str())
        });
        proxy.epic_address =
            known.and_then(|row| row.epic_address.as_deref()).and_then(|text| address::parse(text).ok());
    }
}

/// Who has a certificate: a LoadBalancer that has a service ID.
fn holder(found: &Found) -> Option<Holder> {
    found.balancer.status.as_ref()?.service_id?;
    let (namespace, load_balancer) = (found.balancer.namespace()?, found.balancer.name_any());
    Some(Holder {
        secret: name::child(&namespace.as_str().into(), &load_balancer.as_str().into()),
        account: found.account.as_ref()?.name_any(),
        uid: found.balancer.uid()?,
        namespace,
        load_balancer,
    })
}

fn proxies(found: &Found, valid: &Valid) -> Result<Proxies, &'static str> {
    let status = found.balancer.status.as_ref();
    if status.and_then(|status| status.service_id).is_none() {
        return Err("waiting for its service ID");
    }
    let settled = found.account.as_ref().is_some_and(|account| account.is_condition_true(READY));
    if !settled && found.pods.is_empty() {
        // Without policies and rights in its namespace nothing may run there yet.
        return Err("waiting for its Account to be ready");
    }
    let Some(xds_address) = found.xds_address else {
        return Err("waiting for the ClusterIP of the xDS Service in namespace epic");
    };
    let namespace = found.balancer.namespace().unwrap_or_default();
    let load_balancer = found.balancer.name_any();
    let name = name::child(&namespace.as_str().into(), &load_balancer.as_str().into());
    Ok(Proxies {
        uid: found.balancer.uid().unwrap_or_default(),
        account: valid.account.as_str().to_owned(),
        certificate: name.clone(),
        image: valid.image.clone().unwrap_or_default(),
        pull_policy: PullPolicy::default(),
        settings: found.settings.clone(),
        restarted_at: restarts(&found.balancer, found.group.as_deref()),
        replicas: valid.replicas,
        drain: valid.drain,
        metrics: match valid.metrics {
            MetricsLevel::Basic => Level::Basic,
            MetricsLevel::Full => Level::Full,
        },
        namespace,
        load_balancer,
        name,
        xds_address,
    })
}

/// What a status holds of its proxies.
pub fn known(status: &LoadBalancerStatus) -> BTreeMap<Uid, Known> {
    status
        .proxies
        .iter()
        .filter_map(|row| {
            let proxy_id = row.proxy_id?.try_into().ok()?;
            let state = match row.state {
                WrittenState::Pending => ProxyState::Pending,
                WrittenState::Ready => ProxyState::Ready,
                WrittenState::Draining => ProxyState::Draining,
            };
            Some((row.pod_uid.as_str().into(), Known { proxy_id, state }))
        })
        .collect()
}

fn acknowledgements(found: &Found, list: &[Proxy]) -> Vec<Configured> {
    list.iter()
        .map(|proxy| {
            let said = found.configured.iter().find(|(pod, ..)| *pod == proxy.pod);
            Configured {
                pod: proxy.pod.clone(),
                state: proxy.state,
                generation: said.and_then(|(_, generation, _)| *generation),
                rejection: said.and_then(|(_, _, rejection)| rejection.clone()),
            }
        })
        .collect()
}

fn slots(status: &LoadBalancerStatus) -> Vec<PortSlot> {
    status
        .ports
        .iter()
        .filter_map(|slot| {
            Some(PortSlot {
                port: u16::try_from(slot.port).ok()?,
                protocol: protocol(slot.protocol),
                slot: u16::try_from(slot.slot).ok()?,
            })
        })
        .collect()
}

fn written_slot(slot: &PortSlot, wanted: &[PublicPort]) -> WrittenSlot {
    use epic_model::port::Protocol as Plain;
    let served = wanted.iter().find(|port| (port.port, port.protocol) == (slot.port, slot.protocol));
    WrittenSlot {
        name: served.and_then(|port| port.name.clone()),
        target_port: served.map(|port| match &port.target_port {
            None => IntOrString::Int(port.port.into()),
            Some(TargetPort::Number(number)) => IntOrString::Int((*number).into()),
            Some(TargetPort::Name(name)) => IntOrString::String(name.clone()),
        }),
        port: i64::from(slot.port),
        protocol: match slot.protocol {
            Plain::Tcp => Protocol::Tcp,
            Plain::Udp => Protocol::Udp,
            Plain::Sctp => Protocol::Sctp,
        },
        slot: i64::from(slot.slot),
        ..Default::default()
    }
}

fn written(proxy: &Proxy) -> WrittenProxy {
    WrittenProxy {
        pod: proxy.pod.to_string(),
        pod_uid: proxy.pod_uid.to_string(),
        node: Some(proxy.node.to_string()),
        epic_address: proxy.epic_address.map(|address| address.to_string()),
        proxy_id: Some(i64::from(proxy.proxy_id.get())),
        proxy_address: proxy.proxy_address.map(|address| address.to_string()),
        state: match proxy.state {
            ProxyState::Pending => WrittenState::Pending,
            ProxyState::Ready => WrittenState::Ready,
            ProxyState::Draining => WrittenState::Draining,
        },
        ifindex: proxy.ifindex.map(i64::from),
        ifname: proxy.ifname.clone(),
        ..Default::default()
    }
}

/// The granted tunnels of a status.
pub fn granted(status: &LoadBalancerStatus) -> BTreeMap<Pair, TunnelId> {
    let mut granted = BTreeMap::new();
    for (client, entry) in &status.gue_tunnel_endpoints {
        let Ok(client) = address::parse(client) else { continue };
        for leg in entry.legs() {
            if let (Ok(epic), Ok(id)) = (address::parse(&leg.epic_address), TunnelId::try_from(leg.tunnel_id))
            {
                granted.insert(Pair { client, epic }, id);
            }
        }
    }
    granted
}

fn tunnels(
    status: &LoadBalancerStatus,
    primary: Option<IpAddr>,
    port: u16,
) -> BTreeMap<String, GueTunnelEndpoint> {
    let leg = |end: &TunnelEnd| GueTunnelLeg {
        epic_address: end.epic_address.to_string(),
        epic_port: EndpointPort::gue(end.port),
        tunnel_id: i64::from(end.tunnel_id.get()),
        ..Default::default()
    };
    tunnel::render(&granted(status), primary, port)
        .iter()
        .map(|(client, entry)| {
            let main = leg(&entry.main);
            let entry = GueTunnelEndpoint {
                epic_address: main.epic_address,
                epic_port: main.epic_port,
                tunnel_id: main.tunnel_id,
                alternates: entry.alternates.iter().map(leg).collect(),
                ..Default::default()
            };
            (client.to_string(), entry)
        })
        .collect()
}

/// Of a proxy's row: pod, ID, its node's address, state, ifindex.
type ProxyContent = (String, Option<i64>, Option<String>, WrittenState, Option<i64>);

/// What of a status nodes and proxies program. A change of it begins a new wait for `Programmed`.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    address: Option<String>,
    service_id: Option<i64>,
    key_generation: Option<i64>,
    ports: Vec<WrittenSlot>,
    proxies: Vec<ProxyContent>,
    tunnels: BTreeMap<Pair, TunnelId>,
}

impl Content {
    /// The content of a status.
    pub fn of(status: &LoadBalancerStatus) -> Self {
        let proxies = status.proxies.iter();
        Self {
            address: status.public_address.clone(),
            service_id: status.service_id,
            key_generation: status.key_generation,
            ports: status.ports.clone(),
            proxies: proxies
                .map(|row| {
                    (row.pod_uid.clone(), row.proxy_id, row.epic_address.clone(), row.state, row.ifindex)
                })
                .collect(),
            tunnels: granted(status),
        }
    }
}
