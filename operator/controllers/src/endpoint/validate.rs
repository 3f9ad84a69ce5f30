//! Whether an Endpoint can serve its LoadBalancer. Pure.

use epic_crds::condition::ACCEPTED;
use epic_crds::{ConditionStatus, Endpoint, EndpointReason as Reason, HasConditions, LoadBalancer};
use epic_model::address;
use epic_model::endpoint::{self as model, Forbidden, Refusal};
use epic_model::id::Seconds;
use epic_model::port::{EndpointPort, PublicPort};
use epic_model::tunnel::MAX_CLIENT_NODES;
use kube::ResourceExt;

use super::Found;
use crate::load_balancer;
use crate::reconcile::is_accepted_now;

/// Why it cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Reason of the condition.
    pub reason: Reason,
    /// What to do about it.
    pub message: String,
}

fn refuse(reason: Reason, message: impl Into<String>) -> Result<(), Refused> {
    Err(Refused { reason, message: message.into() })
}

/// Judges an Endpoint.
///
/// # Errors
/// [`Refused`], with the first thing to mend.
pub fn check(found: &Found) -> Result<(), Refused> {
    let endpoint = &found.endpoint;
    let unsupported = endpoint.spec.not_supported_yet();
    if !unsupported.is_empty() {
        let text = format!("{} has no effect in this version", unsupported.join(", "));
        return refuse(Reason::NotSupportedYet, text);
    }
    // What is served is not taken away since something else is gone for a moment, or a limit was lowered.
    let served = is_accepted_now(endpoint.as_ref());
    if found.account.is_none() && !served {
        let text = "this namespace belongs to no Account; an administrator creates the Account first";
        return refuse(Reason::AccountNotReady, text);
    }
    let Some(balancer) = &found.balancer else {
        let text = format!(
            "LoadBalancer {:?} does not exist in this namespace; create it",
            endpoint.spec.load_balancer
        );
        return refuse(Reason::LoadBalancerNotFound, text);
    };
    let in_service = balancer.status.as_ref().is_some_and(|status| status.service_id.is_some());
    if !balancer.is_condition_true(ACCEPTED) && !in_service {
        let text =
            format!("LoadBalancer {:?} is not accepted; see its conditions", endpoint.spec.load_balancer);
        return refuse(Reason::LoadBalancerNotAccepted, text);
    }
    if let Some(usage) = &found.over_limit {
        let text = format!(
            "the account has {usage} Endpoints; delete one, or have endpoint-limit of the Account raised by an administrator"
        );
        return refuse(Reason::LimitExceeded, text);
    }
    let uid = endpoint.uid().unwrap_or_default().into();
    let judged = model::judge(&found.siblings, &public_ports(balancer), &found.surroundings);
    match judged.get(&uid) {
        Some(Ok(_)) => {}
        Some(Err(refusal)) => return refuse(reason(refusal), refusal.to_string()),
        None => return refuse(Reason::AddressRefused, "an address or port of it cannot be read"),
    }
    if is_beyond(endpoint, balancer) {
        let text = format!(
            "the LoadBalancer has Endpoints on {MAX_CLIENT_NODES} client nodes already, and can have no more; make \
             another LoadBalancer for the others"
        );
        return refuse(Reason::TooManyClientNodes, text);
    }
    // An ID that is lacking is no refusal: only what is accepted asks for one.
    if let Some(verdict) = found.verdict.as_ref().filter(|verdict| verdict.duplicate) {
        return refuse(Reason::DuplicateGrant, verdict.message.clone());
    }
    Ok(())
}

/// Whether its client node gets no tunnel, since as many others have theirs as there can be.
fn is_beyond(endpoint: &Endpoint, balancer: &LoadBalancer) -> bool {
    let node = endpoint.spec.node_address.as_deref().and_then(|text| address::parse(text).ok());
    let tunnels = balancer.status.as_ref().map(|status| &status.gue_tunnel_endpoints);
    node.zip(tunnels).is_some_and(|(node, tunnels)| {
        tunnels.len() >= MAX_CLIENT_NODES && !tunnels.contains_key(&node.to_string())
    })
}

/// The public ports that Endpoints of a LoadBalancer may serve: those that are served, and those that it asks for
/// unless that was refused.
pub(super) fn public_ports(balancer: &LoadBalancer) -> Vec<PublicPort> {
    let slots = balancer.status.iter().flat_map(|status| &status.ports);
    let served = slots.filter_map(load_balancer::served);
    let refused = balancer.condition(ACCEPTED).is_some_and(|known| {
        known.status == ConditionStatus::False && known.observed_generation == balancer.metadata.generation
    });
    let asked = balancer.spec.public_ports.iter().filter(|_| !refused).filter_map(load_balancer::plain_port);
    served.chain(asked).collect()
}

/// The Endpoint as the model has it; `None` for values that the schema does not admit.
pub(super) fn plain(endpoint: &Endpoint) -> Option<model::Endpoint> {
    let port = &endpoint.spec.port;
    Some(model::Endpoint {
        name: endpoint.name_any().into(),
        uid: endpoint.uid()?.into(),
        created: Seconds(endpoint.creation_timestamp().map_or(0, |time| time.0.as_second())),
        address: address::parse(&endpoint.spec.address).ok()?,
        port: EndpointPort {
            name: port.name.clone(),
            port: u16::try_from(port.port).ok()?,
            protocol: load_balancer::plain_protocol(port.protocol),
        },
        node_address: match &endpoint.spec.node_address {
            Some(text) => Some(address::parse(text).ok()?),
            None => None,
        },
        cluster: endpoint.spec.cluster.clone(),
    })
}

fn reason(refusal: &Refusal) -> Reason {
    match refusal {
        Refusal::Address {
            why: Forbidden::NotUntunnelled | Forbidden::NodeAddress | Forbidden::ClusterNetwork,
            ..
        } => Reason::UntunnelledAddressRefused,
        Refusal::Address { .. } | Refusal::NodeAddress(_) => Reason::AddressRefused,
        Refusal::Port(_) => Reason::NoMatchingPort,
        Refusal::Duplicate(_) => Reason::DuplicateEndpoint,
        Refusal::OtherCluster { .. } => Reason::ClusterConflict,
    }
}
