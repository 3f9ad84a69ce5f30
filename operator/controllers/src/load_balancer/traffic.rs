//! Whether traffic flows: the conditions `Ready` and `Endpoints` of a LoadBalancer, and its counts.
//!
//! `Ready` is about traffic alone. What is wrong while traffic flows is its reason and its message; what is wrong with
//! the spec stands in `Accepted`.

use epic_crds::condition::{ACCEPTED, PROGRAMMED, READY, TUNNEL_UP, find};
use epic_crds::reason::Reason as _;
use epic_crds::{
    ConditionStatus, Endpoint, EndpointCounts, HasConditions, LoadBalancerReason as Reason,
    LoadBalancerStatus, Summary,
};

use super::Found;
use super::build::Wanted;
use super::in_force::Judgement;
use super::validate::Refused;

/// Whether it takes traffic. `in_force` is what `Programmed` says now; `None` when it has never said anything.
pub(super) fn ready(
    found: &Found,
    wanted: &Wanted,
    refused: Option<&Refused>,
    obstacle: Option<(Reason, String)>,
    in_force: Option<Judgement>,
) -> Judgement {
    let served = wanted.ready > 0 && found.balancer.is_condition_true(READY);
    match (in_force, refused) {
        // While a change is under way traffic flows as it did before.
        (Some((false, reason, message)), _) if !served => return (false, reason, message),
        (Some((false, reason @ Reason::ProxyRejected, message)), _) => {
            return (true, reason, format!("it serves as it did before: {message}"));
        }
        (None, Some(Refused { reason, message })) => return (false, *reason, message.clone()),
        _ => {}
    }
    if wanted.ready == 0 {
        let (reason, text) = not_ready(found);
        return (false, reason, text);
    }
    if let Some(first) = found.stale.first() {
        let text = format!(
            "no operator has heard {} for more than a minute ({} of {} proxies that take traffic): it serves what it \
             knew last; see that it reaches the xDS Service in namespace epic, or delete the pod",
            first,
            found.stale.len(),
            wanted.ready.max(found.stale.len())
        );
        return (true, Reason::ProxyStale, text);
    }
    if let Some((pod, words)) = rejecting(found) {
        let text = format!(
            "the roll-out stands still, {} other proxies serve on: Envoy refuses the configuration in pod {pod}: {words}",
            wanted.ready
        );
        return (true, Reason::ProxyRejected, text);
    }
    if let Some((reason, message)) = obstacle {
        return (true, reason, format!("it goes on as it was: {message}"));
    }
    if !found.in_pool {
        let text = "its address lies in no pool of its group any more; it stays granted";
        return (true, Reason::AddressOutOfPool, text.to_owned());
    }
    if let Some(trouble) = &found.trouble {
        let missing = usize::try_from(found.replicas).is_ok_and(|wanted_pods| wanted.ready < wanted_pods);
        let text = if missing {
            format!("{} of {} proxies are ready: {trouble}", wanted.ready, found.replicas)
        } else {
            format!("the roll-out stands still, {} other proxies serve on: {trouble}", wanted.ready)
        };
        return (true, Reason::ProxiesMissing, text);
    }
    (true, Reason::Ready, String::new())
}

/// A proxy that takes no traffic, since Envoy refuses what it was given, with Envoy's words.
fn rejecting(found: &Found) -> Option<(&str, &str)> {
    let leaves =
        |name: &str| found.pods.iter().any(|pod| pod.name.as_str() == name && (pod.deleting || pod.ended));
    let refusals =
        found.configured.iter().filter_map(|(pod, _, words)| Some((pod.as_str(), words.as_deref()?)));
    refusals.into_iter().find(|(pod, _)| !leaves(pod))
}

/// Why no proxy takes traffic: nothing but time is missing, as far as is known, or the one thing to look at.
pub(super) fn not_ready(found: &Found) -> (Reason, String) {
    if let Some((pod, words)) = rejecting(found) {
        let text = format!("no proxy is ready: Envoy refuses the configuration in pod {pod}: {words}");
        return (Reason::ProxyRejected, text);
    }
    let text = found.trouble.as_ref().map_or_else(
        || "no proxy is ready yet".to_owned(),
        |trouble| format!("no proxy is ready: {trouble}"),
    );
    (Reason::NoReadyProxy, text)
}

/// What `Programmed` says, for one that is not judged anew.
pub(super) fn as_before(before: &LoadBalancerStatus) -> Option<Judgement> {
    let known = find(&before.conditions, PROGRAMMED)?;
    let reason = Reason::parse(&known.reason).unwrap_or(Reason::Pending);
    Some((known.status == ConditionStatus::True, reason, known.message.clone()))
}

/// How many Endpoints name it, and how far they are.
pub(super) fn counts(found: &Found) -> EndpointCounts {
    let before =
        found.balancer.status.as_ref().and_then(|status| status.endpoints.clone()).unwrap_or_default();
    let mut counts = EndpointCounts { rest: before.rest, ..EndpointCounts::default() };
    for endpoint in &found.endpoints {
        counts.total += 1;
        counts.accepted += i64::from(endpoint.is_condition_true(ACCEPTED));
        counts.programmed += i64::from(endpoint.is_condition_true(PROGRAMMED));
        counts.reachable += i64::from(is_reachable(endpoint));
    }
    counts
}

fn is_reachable(endpoint: &Endpoint) -> bool {
    let down = endpoint.condition(TUNNEL_UP).is_some_and(|known| known.status == ConditionStatus::False);
    endpoint.is_condition_true(PROGRAMMED) && !down
}

/// Whether Endpoints take traffic.
pub(super) fn endpoints(found: &Found, counts: &EndpointCounts) -> Judgement {
    let reachable = || found.endpoints.iter().filter(|endpoint| is_reachable(endpoint));
    let serving = reachable().filter(|endpoint| endpoint.spec.weight() > 0).count();
    let EndpointCounts { total, programmed, .. } = counts;
    if serving > 0 {
        let unreachable = counts.programmed - counts.reachable;
        let text = if unreachable > 0 {
            format!(
                "{serving} of {total} take traffic; the tunnels of {unreachable} are down, see their conditions"
            )
        } else {
            format!("{serving} of {total} take traffic")
        };
        return (true, Reason::EndpointsReady, text);
    }
    let (reason, text) = if *total == 0 {
        (Reason::NoneReady, "no Endpoint names this LoadBalancer; create one".to_owned())
    } else if *programmed == 0 {
        (Reason::NoneReady, "none of its Endpoints is programmed; see their conditions".to_owned())
    } else if counts.reachable > 0 {
        (Reason::NoneReady, "all of its Endpoints drain: give one a weight above 0".to_owned())
    } else {
        let text = format!(
            "{programmed} programmed, 0 reachable: their tunnels are down; see TunnelUp of the Endpoints"
        );
        (Reason::NoneReachable, text)
    };
    (false, reason, text)
}

/// The counts as `kubectl get` shows them.
pub(super) fn summary(found: &Found, wanted: &Wanted, counts: &EndpointCounts) -> Summary {
    let before = found.balancer.status.as_ref().and_then(|status| status.summary.clone());
    Summary {
        proxies: Some(format!("{}/{}", wanted.ready, found.replicas)),
        endpoints: Some(format!("{}/{}", counts.reachable, counts.total)),
        ..before.unwrap_or_default()
    }
}
