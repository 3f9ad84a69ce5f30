//! Whether a LoadBalancer can be served as it is written. Pure.

use std::time::Duration;

use epic_crds::condition::ACCEPTED;
use epic_crds::{HasConditions, LoadBalancerReason as Reason, PortSlot, PublicPort as Written};
use epic_model::id::{AccountName, GroupId, PoolName};
use epic_model::port::{Protocol, PublicPort, TargetPort, check_unique};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::Found;
use crate::service_group::pools_of;

/// A LoadBalancer that can be served: every invariant is a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Valid {
    /// Its Account.
    pub account: AccountName,
    /// The Account's group ID.
    pub group: GroupId,
    /// Its public ports, unique.
    pub ports: Vec<PublicPort>,
    /// Pools to take the address from.
    pub pools: Vec<PoolName>,
    /// Image of Envoy; `None`: the operator's.
    pub image: Option<String>,
    /// Wanted pods.
    pub replicas: u32,
    /// `timeouts.drain`.
    pub drain: Duration,
    /// `telemetry.metrics.level`.
    pub metrics: epic_crds::MetricsLevel,
}

/// Why it cannot be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Reason of the condition.
    pub reason: Reason,
    /// What to do about it.
    pub message: String,
}

fn refuse<T>(reason: Reason, message: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { reason, message: message.into() })
}

/// Judges a LoadBalancer.
///
/// # Errors
/// [`Refused`], with the first thing to mend.
pub fn check(found: &Found) -> Result<Valid, Refused> {
    let spec = &found.balancer.spec;
    let unsupported = spec.not_supported_yet();
    if !unsupported.is_empty() {
        let text = format!("{} has no effect in this version; leave it out", unsupported.join(", "));
        return refuse(Reason::NotSupportedYet, text);
    }
    let Some(account) = &found.account else {
        return refuse(
            Reason::AccountNotReady,
            "this namespace belongs to no Account; an administrator creates the Account first",
        );
    };
    let name = account.name_any();
    let parsed = AccountName::parse(&name);
    let group_id = account.status.as_ref().and_then(|status| status.group_id);
    let (Ok(account_name), Some(Ok(group_id))) = (parsed, group_id.map(GroupId::try_from)) else {
        return refuse(Reason::AccountNotReady, format!("account {name} has no group ID yet"));
    };
    let Some(group) = &found.group else {
        let known = match found.groups.as_slice() {
            [] => "there is none yet that this account may use".to_owned(),
            groups => format!("there are {}", listed(groups)),
        };
        let text = format!(
            "ServiceGroup {:?} exists neither in this namespace nor in epic; create it, or name another one: {known}",
            spec.service_group
        );
        return refuse(Reason::GroupNotFound, text);
    };
    if !found.admitted {
        let text = format!(
            "ServiceGroup {:?} does not admit account {name}; add it to spec.accounts",
            spec.service_group
        );
        return refuse(Reason::GroupNotAdmitted, text);
    }
    // What a group's owner breaks later takes nothing from those that are served already.
    let served = found.balancer.status.as_ref().is_some_and(|status| status.service_id.is_some());
    if !served && !group.is_condition_true(ACCEPTED) {
        let text = format!("ServiceGroup {:?} is not accepted; see its conditions", spec.service_group);
        return refuse(Reason::GroupNotAccepted, text);
    }
    let ports: Vec<PublicPort> = spec.public_ports.iter().filter_map(port).collect();
    if ports.len() != spec.public_ports.len() {
        return refuse(Reason::InvalidPort, "a public port is out of range; choose one from 1 to 65535");
    }
    if let Err(duplicate) = check_unique(&ports) {
        return refuse(Reason::InvalidPort, duplicate.to_string());
    }
    if let Some(usage) = &found.over_balancer_limit {
        let text = format!(
            "account {name} has {usage} LoadBalancers; delete one, or have load-balancer-limit of the Account raised by an administrator"
        );
        return refuse(Reason::LimitExceeded, text);
    }
    if let Some(usage) = &found.over_proxy_limit {
        let text = format!(
            "its {} proxies exceed what account {name} may have: {usage} are there or are to come, those counted that still drain; lower envoy-replicas, wait for them, or have proxy-limit of the Account raised by an administrator",
            group.spec.envoy_replicas()
        );
        return refuse(Reason::ProxyLimitExceeded, text);
    }
    let shared = group.namespace().as_deref() == Some(epic_crds::well_known::EPIC_NAMESPACE);
    let epic_image = found.epic.as_ref().and_then(|epic| epic.spec.envoy_image.clone());
    Ok(Valid {
        account: account_name,
        group: group_id,
        ports,
        pools: pools_of(group),
        image: group.spec.envoy_image.clone().filter(|_| shared).or(epic_image),
        replicas: u32::try_from(group.spec.envoy_replicas()).unwrap_or(1),
        drain: group.spec.drain(),
        metrics: group.spec.metrics_level(),
    })
}

/// The first names of a list.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        Some(more) => format!("{shown} and {more} more"),
        None => shown,
    }
}

/// A public port as the model has it; `None` for numbers the schema does not admit.
pub fn port(written: &Written) -> Option<PublicPort> {
    let target_port = match &written.target_port {
        None => None,
        Some(IntOrString::Int(number)) => Some(TargetPort::Number(u16::try_from(*number).ok()?)),
        Some(IntOrString::String(name)) => Some(TargetPort::Name(name.clone())),
    };
    Some(PublicPort {
        name: written.name.clone(),
        port: u16::try_from(written.port).ok().filter(|port| *port > 0)?,
        protocol: protocol(written.protocol),
        target_port,
    })
}

/// The public port that is served through a slot; `None` for a slot that is about to be freed. Once granted it is the
/// status that counts, so that a spec which is refused takes nothing away.
pub fn served(slot: &PortSlot) -> Option<PublicPort> {
    port(&Written {
        name: slot.name.clone(),
        port: slot.port,
        protocol: slot.protocol,
        target_port: Some(slot.target_port.clone()?),
        ..Written::default()
    })
}

/// A protocol as the model has it.
pub fn protocol(written: epic_crds::Protocol) -> Protocol {
    match written {
        epic_crds::Protocol::Tcp => Protocol::Tcp,
        epic_crds::Protocol::Udp => Protocol::Udp,
        epic_crds::Protocol::Sctp => Protocol::Sctp,
    }
}
