//! What an Endpoint's status says. One PUT, and only when something differs.

use std::collections::BTreeSet;

use epic_crds::condition::{ACCEPTED, PROGRAMMED, TUNNEL_UP, set};
use epic_crds::{
    ConditionStatus, Endpoint, EndpointReason as Reason, EndpointStatus, GueTunnelEndpoint, ProxyState,
};
use epic_model::address;
use epic_model::endpoint::alias;
use epic_model::id::EndpointId;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Found, Refused};
use crate::context::Shared;
use crate::reconcile::{Error, now, publish_status};
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
            set(conditions, PROGRAMMED, true, Reason::Programmed, "", Some(served), now)
        }
        (Ok(()), None) => {
            let (reason, message) = awaited(found, &before);
            set(conditions, PROGRAMMED, false, reason, message, generation, now)
        }
    };
    let (value, reason, message) = tunnel(found);
    set(conditions, TUNNEL_UP, value, reason, message, generation, now);
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

fn tunnel(found: &Found) -> (ConditionStatus, Reason, String) {
    let Some(node) = &found.endpoint.spec.node_address else {
        return (ConditionStatus::Unknown, Reason::NotTunnelled, "it has no node-address".to_owned());
    };
    let status = found.balancer.as_ref().and_then(|balancer| balancer.status.as_ref());
    let (Some(status), Some(entry)) = (status, entry(found)) else {
        return (ConditionStatus::False, Reason::TunnelPending, "waiting for its tunnel".to_owned());
    };
    let serving: BTreeSet<&str> = status
        .proxies
        .iter()
        .filter(|proxy| proxy.state == ProxyState::Ready)
        .filter_map(|proxy| proxy.epic_address.as_deref())
        .collect();
    let lacking: Vec<&str> = serving
        .iter()
        .filter(|address| !entry.legs().any(|leg| leg.epic_address == **address))
        .copied()
        .collect();
    if !lacking.is_empty() {
        let text = format!("waiting for its tunnel to {}", lacking.join(", "));
        return (ConditionStatus::False, Reason::TunnelPending, text);
    }
    let down: Vec<String> = entry
        .legs()
        .filter(|leg| serving.is_empty() || serving.contains(leg.epic_address.as_str()))
        .filter(|leg| {
            let state = u32::try_from(leg.tunnel_id).ok().and_then(|id| found.tunnels.get(&id));
            state != Some(&true)
        })
        .map(|leg| format!("{} (tunnel {})", leg.epic_address, leg.tunnel_id))
        .collect();
    if down.is_empty() {
        return (ConditionStatus::True, Reason::TunnelUp, String::new());
    }
    let text = format!("client node {node} does not say hello to {}; is its agent running?", down.join(", "));
    (ConditionStatus::False, Reason::TunnelDown, text)
}
