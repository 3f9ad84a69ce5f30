//! What an Endpoint's status says. One PUT, and only when something differs.

use std::collections::BTreeSet;

use epic_crds::condition::{ACCEPTED, PROGRAMMED, READY, TUNNEL_UP, find, set};
use epic_crds::reason::Reason as _;
use epic_crds::{
    Condition, ConditionStatus, Endpoint, EndpointReason as Reason, EndpointStatus, GueTunnelEndpoint,
    GueTunnelLeg, HasConditions, ProxyState,
};
use epic_model::address;
use epic_model::endpoint::alias;
use epic_model::id::EndpointId;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Found, Refused};
use crate::context::Shared;
use crate::reconcile::{Error, now, publish_status};
use crate::tunnels::Said;
use crate::xds::health;

/// Writes the status.
///
/// # Errors
/// What the API server answers.
pub(super) async fn publish(
    context: &Shared,
    found: &Found,
    judged: &Result<(), Refused>,
) -> Result<bool, Error> {
    let endpoint = &found.endpoint;
    let after = Endpoint { status: Some(status(found, judged, &now())), ..endpoint.as_ref().clone() };
    publish_status(context, endpoint.as_ref(), after).await
}

/// The status as it should be.
pub(super) fn status(found: &Found, judged: &Result<(), Refused>, now: &Time) -> EndpointStatus {
    let endpoint = &found.endpoint;
    let before = endpoint.status.clone().unwrap_or_default();
    let mut status = EndpointStatus { conditions: before.conditions.clone(), ..granted(found, &before) };
    let generation = endpoint.metadata.generation;
    if judged.is_ok() {
        let spec = Some(&endpoint.spec).filter(|spec| spec.node_address.is_none());
        status.accepted_address = spec.map(|spec| spec.address.clone());
        status.accepted_port = spec.map(|spec| spec.port.clone());
    }
    let conditions = &mut status.conditions;
    match judged {
        Ok(()) => set(conditions, ACCEPTED, true, Reason::Accepted, "", generation, now),
        Err(Refused { reason, message }) => {
            set(conditions, ACCEPTED, false, *reason, message, generation, now)
        }
    };
    match (judged, in_force(found, &before)) {
        (Err(Refused { reason, message }), _) => {
            set(conditions, PROGRAMMED, false, *reason, message, generation, now)
        }
        (Ok(()), Some(served)) => {
            set(conditions, PROGRAMMED, true, Reason::Programmed, in_proxies(found), Some(served), now)
        }
        (Ok(()), None) => {
            let (reason, message) = awaited(found, &before);
            set(conditions, PROGRAMMED, false, reason, message, generation, now)
        }
    };
    let (value, reason, message) = tunnel(found, &before);
    set(conditions, TUNNEL_UP, value, reason, message, generation, now);
    let (value, reason, message) = ready(found, conditions);
    set(conditions, READY, value, reason, message, generation, now);
    health::forget_gone(&mut status, found.balancer.as_deref(), generation, now);
    status
}

/// The tunnels of its client node.
fn entry(found: &Found) -> Option<&GueTunnelEndpoint> {
    let node = address::parse(found.endpoint.spec.node_address.as_deref()?).ok()?;
    found.balancer.as_ref()?.status.as_ref()?.gue_tunnel_endpoints.get(&node.to_string())
}

/// The values that follow from what was granted.
fn granted(found: &Found, before: &EndpointStatus) -> EndpointStatus {
    let balancer = found.balancer.as_ref().and_then(|balancer| balancer.status.clone()).unwrap_or_default();
    let alias_address = match &found.epic {
        Some(epic) => {
            let id = before.endpoint_id.and_then(|id| EndpointId::try_from(id).ok());
            let range = address::parse_network(epic.spec.alias_ipv4()).ok();
            range.zip(id).and_then(|(range, id)| alias(range, id)).map(|alias| alias.to_string())
        }
        // Of EPIC gone for a moment nothing can be said.
        None => before.alias_address.clone(),
    };
    let legs: Vec<i64> =
        entry(found).map(|entry| entry.legs().map(|leg| leg.tunnel_id).collect()).unwrap_or_default();
    EndpointStatus {
        accepted_address: before.accepted_address.clone(),
        accepted_port: before.accepted_port.clone(),
        group_id: balancer.group_id,
        service_id: balancer.service_id,
        endpoint_id: before.endpoint_id,
        alias_address,
        proxy_ifindex: balancer.proxy_ifindex,
        // Sticky until that tunnel is freed; else the main one, which stands first.
        tunnel_id: before.tunnel_id.filter(|id| legs.contains(id)).or(legs.first().copied()),
        unhealthy_in: before.unhealthy_in.clone(),
        conditions: Vec::new(),
        rest: before.rest.clone(),
    }
}

/// The generation of it that proxies serve.
fn in_force(found: &Found, before: &EndpointStatus) -> Option<i64> {
    let generation = found.endpoint.metadata.generation;
    if lacks_alias(found, before) {
        return None;
    }
    if found.acknowledged.is_some() && found.acknowledged >= generation {
        return generation;
    }
    // What one replica has heard of stays true for the others. After an edit the form before it is served until the
    // new one is acknowledged, and the condition names the generation that it is about; unless the edit has moved the
    // Endpoint to another LoadBalancer.
    let known = epic_crds::condition::find(&before.conditions, PROGRAMMED)?;
    let service_id = found.balancer.as_ref().and_then(|balancer| balancer.status.as_ref()?.service_id);
    let stays = before.service_id == service_id;
    known.observed_generation.filter(|_| stays && known.status == ConditionStatus::True)
}

fn lacks_alias(found: &Found, before: &EndpointStatus) -> bool {
    found.endpoint.spec.node_address.is_some() && before.endpoint_id.is_none()
}

/// What is missing before it is served.
fn awaited(found: &Found, before: &EndpointStatus) -> (Reason, String) {
    match &found.verdict {
        Some(verdict) if lacks_alias(found, before) => (Reason::IdsExhausted, verdict.message.clone()),
        None if lacks_alias(found, before) => (Reason::AliasPending, "waiting for its alias".to_owned()),
        _ => (Reason::ProxiesPending, "no ready proxy has acknowledged it yet".to_owned()),
    }
}

/// Whether its tunnels are up: False only for what a node has reported to be down.
fn tunnel(found: &Found, before: &EndpointStatus) -> (ConditionStatus, Reason, String) {
    let Some(node) = &found.endpoint.spec.node_address else {
        return (ConditionStatus::Unknown, Reason::NotTunnelled, "it has no node-address".to_owned());
    };
    let status = found.balancer.as_ref().and_then(|balancer| balancer.status.as_ref());
    let (Some(status), Some(entry)) = (status, entry(found)) else {
        return (ConditionStatus::Unknown, Reason::TunnelPending, "waiting for its tunnel".to_owned());
    };
    let ready = status.proxies.iter().filter(|proxy| proxy.state == ProxyState::Ready);
    let mut serving: BTreeSet<&str> = ready.filter_map(|proxy| proxy.epic_address.as_deref()).collect();
    // The proxies of a node that is out of service get nothing, unless there are no others.
    if !serving.iter().all(|address| found.tunnels.is_out(address)) {
        serving.retain(|address| !found.tunnels.is_out(address));
    }
    let legs = entry.legs().filter(|leg| serving.is_empty() || serving.contains(leg.epic_address.as_str()));
    let legs: Vec<_> = legs.map(|leg| (said(found, before, &leg), leg)).collect();
    let named = |wanted: Said| -> Vec<String> {
        let named = legs.iter().filter(|(said, _)| *said == wanted);
        named.map(|(_, leg)| format!("{} (tunnel {})", leg.epic_address, leg.tunnel_id)).collect()
    };
    let down = named(Said::Down);
    if !down.is_empty() {
        let text =
            format!("client node {node} does not say hello to {}; is its agent running?", down.join(", "));
        return (ConditionStatus::False, Reason::TunnelDown, text);
    }
    let lacking: Vec<&str> = serving
        .iter()
        .filter(|address| !entry.legs().any(|leg| leg.epic_address == **address))
        .copied()
        .collect();
    if !lacking.is_empty() {
        let text = format!("waiting for its tunnel to {}", lacking.join(", "));
        return (ConditionStatus::Unknown, Reason::TunnelPending, text);
    }
    let unknown = named(Said::Nothing);
    if !unknown.is_empty() {
        let text = format!(
            "EPIC nodes have not reported, or not lately: {}; see kubectl get epicnodes -n epic",
            unknown.join(", ")
        );
        return (ConditionStatus::Unknown, Reason::TunnelNotReported, text);
    }
    (ConditionStatus::True, Reason::TunnelUp, String::new())
}

/// How a tunnel is. What a node said before it fell silent is not known to hold any more. One that is not among those
/// that are down is up where its node has it: once the LoadBalancer is in force, or if it was up before.
fn said(found: &Found, before: &EndpointStatus, leg: &GueTunnelLeg) -> Said {
    let silent =
        found.tunnels.node(&leg.epic_address).is_some_and(|node| found.heard.is_silent(node.as_str()));
    match found.tunnels.said(&leg.epic_address, leg.tunnel_id) {
        _ if silent => Said::Nothing,
        Said::Unlisted => {
            let programmed = found.balancer.as_ref().is_some_and(|it| it.is_condition_true(PROGRAMMED));
            let was_up = epic_crds::condition::is_true(&before.conditions, TUNNEL_UP);
            if programmed || was_up { Said::Up } else { Said::Nothing }
        }
        said => said,
    }
}

/// Whether traffic reaches it. `Accepted`, `Programmed` and `TunnelUp` have been set.
fn ready(found: &Found, conditions: &[Condition]) -> (bool, Reason, String) {
    for type_ in [ACCEPTED, PROGRAMMED, TUNNEL_UP] {
        let Some(known) = find(conditions, type_) else { continue };
        let Some(reason) = Reason::parse(&known.reason) else { continue };
        if known.status == ConditionStatus::False {
            return (false, reason, known.message.clone());
        }
    }
    if found.endpoint.spec.weight() == 0 {
        let text = "its weight is 0: it keeps the connections it has and gets no new ones";
        return (true, Reason::Draining, text.to_owned());
    }
    (true, Reason::Ready, String::new())
}

/// In how many proxies it is, where that is not all of them.
fn in_proxies(found: &Found) -> String {
    let status = found.balancer.as_ref().and_then(|balancer| balancer.status.as_ref());
    let ready: Vec<_> = status
        .iter()
        .flat_map(|status| &status.proxies)
        .filter(|proxy| proxy.state == ProxyState::Ready)
        .collect();
    let stale: Vec<&str> = ready
        .iter()
        .filter(|proxy| found.heard.is_stale(proxy.proxy_id))
        .map(|proxy| proxy.pod.as_str())
        .collect();
    if stale.is_empty() {
        return String::new();
    }
    format!(
        "in {} of {} proxies; no operator hears {}, which may serve an older form",
        ready.len() - stale.len(),
        ready.len(),
        stale.join(", ")
    )
}
