//! What is wrong: conditions that do not hold, and what no condition says. Pure.
//!
//! A condition that only repeats another one of the same object (same reason and message) is told once. A status that
//! is older than the spec is told before anything that it says.

use epic_crds::condition::{ACCEPTED, ADVERTISED, DETACHED, OVERLAPS, PROGRAMMED, READY};
use epic_crds::well_known::{ANNOTATION_UNINSTALL, LEASE_OPERATOR, node_lease_name};
use epic_crds::{
    Account, AddressPool, AddressUsage, Condition, ConditionStatus, EPICNode, Endpoint, HasConditions,
};
use epic_model::revision::Revision;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt};

use super::lease::{is_fresh, silent_for};
use super::traffic;
use super::{AccountLine, EndpointLine, Found, Group, Node, Overview, Pool, Problem, Releasing};

/// A map this full (in per cent) is worth a word.
const NEARLY_FULL: i64 = 90;

impl Problem {
    /// One of epicctl's own.
    pub fn own(reason: &str, message: impl Into<String>) -> Self {
        Self { condition: None, reason: reason.to_owned(), message: message.into() }
    }
}

/// Everything on one screen, as of `now`.
pub fn judge(found: &Found, now: Timestamp) -> Overview {
    let mut overview = Overview {
        problems: whole(found, now),
        operator: holder(found, now),
        nodes: found.nodes.items.iter().map(|object| node(object, &found.leases.items, now)).collect(),
        accounts: found.accounts.items.iter().map(account).collect(),
        pools: found.pools.items.iter().map(pool).collect(),
        groups: groups(found),
        load_balancers: found.balancers.items.iter().map(|object| traffic::balancer(object, found)).collect(),
        stray_endpoints: strays(found),
        releasing: releasing(found),
    };
    overview.nodes.sort_by(|a, b| a.name.cmp(&b.name));
    overview.accounts.sort_by(|a, b| a.name.cmp(&b.name));
    overview.pools.sort_by(|a, b| a.name.cmp(&b.name));
    overview.load_balancers.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    overview
}

fn whole(found: &Found, now: Timestamp) -> Vec<Problem> {
    let mut problems = Vec::new();
    let shown = |kind: &str| !found.forbidden.iter().any(|forbidden| forbidden == kind);
    if !found.forbidden.is_empty() {
        let kinds = found.forbidden.join(", ");
        problems.push(Problem::own("Forbidden", format!("you may not list {kinds}: they are not shown")));
    }
    match found.epics.items.first() {
        None if shown("epics") => problems.push(Problem::own(
            "NoEpic",
            "there is no EPIC object, so nothing is handed out: kubectl apply -f config/samples/platform/epic.yaml",
        )),
        None => {}
        Some(epic) => {
            if epic.annotations().contains_key(ANNOTATION_UNINSTALL) {
                problems.push(Problem::own(
                    "Uninstalling",
                    format!("EPIC is being uninstalled; to take that back: kubectl -n epic annotate epics.epic.acnodal.io epic {ANNOTATION_UNINSTALL}-"),
                ));
            }
            problems.extend(conditions(epic));
        }
    }
    if shown("leases") {
        let lease = found.leases.items.iter().find(|lease| lease.name_any() == LEASE_OPERATOR);
        match lease.map(|lease| silent_for(lease, now)) {
            Some(Some(seconds)) if seconds <= 0 => {}
            Some(Some(seconds)) => problems.push(Problem::own(
                "NoOperator",
                format!("no operator has renewed its Lease for {seconds} s, so nothing changes: kubectl -n epic get pods"),
            )),
            _ => problems.push(Problem::own(
                "NoOperator",
                "no operator holds the Lease epic-operator, so nothing changes: kubectl -n epic get pods",
            )),
        }
    }
    if shown("epicnodes") && found.nodes.items.is_empty() {
        problems.push(Problem::own(
            "NoNode",
            "no node agent has reported: kubectl -n epic get pods -l app.kubernetes.io/name=epic-agent",
        ));
    }
    let unreadable = [
        ("EPIC", &found.epics.unreadable),
        ("EPICNode", &found.nodes.unreadable),
        ("Account", &found.accounts.unreadable),
        ("AddressPool", &found.pools.unreadable),
        ("AddressClaim", &found.claims.unreadable),
        ("ServiceGroup", &found.groups.unreadable),
        ("LoadBalancer", &found.balancers.unreadable),
        ("Endpoint", &found.endpoints.unreadable),
    ];
    for (kind, objects) in unreadable {
        let told = |object| Problem::own("UnreadableObject", format!("{kind} {object}"));
        problems.extend(objects.iter().map(told));
    }
    problems
}

fn holder(found: &Found, now: Timestamp) -> Option<String> {
    let lease = found.leases.items.iter().find(|lease| lease.name_any() == LEASE_OPERATOR)?;
    is_fresh(lease, now).then(|| lease.spec.as_ref()?.holder_identity.clone())?
}

fn node(object: &EPICNode, leases: &[Lease], now: Timestamp) -> Node {
    let status = object.status.clone().unwrap_or_default();
    let name = object.name_any();
    let mut problems = Vec::new();
    let lease = leases.iter().find(|lease| lease.name_any() == node_lease_name(&name));
    if let Some(seconds) = lease.and_then(|lease| silent_for(lease, now)).filter(|seconds| *seconds > 0) {
        problems.push(Problem::own(
            "AgentSilent",
            format!("its agent has been silent for {seconds} s; packets go on, changes do not reach it"),
        ));
    }
    problems.extend(conditions(object));
    for usage in &status.map_usage {
        if usage.capacity > 0 && usage.entries * 100 >= usage.capacity * NEARLY_FULL {
            problems.push(Problem::own(
                "MapNearlyFull",
                format!("map {} has {} of {} entries", usage.map, usage.entries, usage.capacity),
            ));
        }
    }
    let share =
        |usage: &epic_crds::MapUsage| (usage.map.clone(), usage.entries * 100 / usage.capacity.max(1));
    Node {
        ready: state(object, READY),
        addresses: status.addresses.clone(),
        kernel: status.kernel.clone().unwrap_or_default(),
        tunnels_up: status.tunnels.as_ref().map_or(0, |tunnels| tunnels.up),
        tunnels: status.tunnels.as_ref().map_or(0, |tunnels| tunnels.total),
        fullest_map: status.map_usage.iter().map(share).max_by_key(|(_, share)| *share),
        name,
        problems,
    }
}

fn account(object: &Account) -> AccountLine {
    let status = object.status.clone().unwrap_or_default();
    let usage = status.usage.unwrap_or_default();
    AccountLine {
        name: object.name_any(),
        ready: state(object, READY),
        namespace: status.namespace,
        group_id: status.group_id,
        load_balancers: (usage.load_balancers, object.spec.load_balancer_limit()),
        endpoints: (usage.endpoints, object.spec.endpoint_limit()),
        proxies: (usage.proxies, object.spec.proxy_limit()),
        problems: conditions(object),
    }
}

fn pool(object: &AddressPool) -> Pool {
    let status = object.status.clone().unwrap_or_default();
    let used = |usage: &AddressUsage| format!("{}/{}", usage.used, usage.total);
    Pool {
        name: object.name_any(),
        ready: state(object, READY),
        addresses: object.spec.addresses.clone(),
        used: status.ipv4.iter().chain(&status.ipv6).map(used).collect(),
        advertise: object
            .spec
            .advertise
            .as_ref()
            .and_then(|advertise| advertise.l2.as_ref())
            .map(|_| "l2".to_owned()),
        problems: conditions(object),
    }
}

fn groups(found: &Found) -> Vec<Group> {
    let mut groups: Vec<Group> = found
        .groups
        .items
        .iter()
        .map(|object| Group {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            problems: conditions(object),
        })
        .filter(|group| !group.problems.is_empty())
        .collect();
    groups.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    groups
}

/// Endpoints whose LoadBalancer is not there.
fn strays(found: &Found) -> Vec<EndpointLine> {
    let known = |endpoint: &&Endpoint| {
        found.balancers.items.iter().any(|balancer| {
            balancer.namespace() == endpoint.namespace() && balancer.name_any() == endpoint.spec.load_balancer
        })
    };
    let mut strays: Vec<EndpointLine> =
        found.endpoints.items.iter().filter(|endpoint| !known(endpoint)).map(traffic::endpoint).collect();
    strays.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    strays
}

fn releasing(found: &Found) -> Vec<Releasing> {
    let mut releasing: Vec<Releasing> = found
        .claims
        .items
        .iter()
        .filter(|claim| claim.is_releasing())
        .map(|claim| {
            let awaited = claim.status.as_ref().and_then(|status| status.release_revision.as_deref());
            let awaited = awaited.and_then(|text| text.parse::<Revision>().ok());
            let behind = |node: &&EPICNode| match awaited {
                None => true,
                Some(awaited) => node
                    .reached_for(&claim.spec.owner.namespace, &claim.spec.owner.uid)
                    .and_then(|text| text.parse::<Revision>().ok())
                    .is_none_or(|revision| revision < awaited),
            };
            Releasing {
                address: claim.spec.address.clone(),
                owner: format!("{}/{}", claim.spec.owner.namespace, claim.spec.owner.name),
                waits_for: found.nodes.items.iter().filter(behind).map(ResourceExt::name_any).collect(),
            }
        })
        .collect();
    releasing.sort_by(|a, b| a.address.cmp(&b.address));
    releasing
}

/// Status of a condition, as text.
pub(super) fn state(object: &impl HasConditions, type_: &str) -> String {
    object.condition(type_).map_or("-", |condition| condition.status.as_str()).to_owned()
}

/// What the conditions of an object say is wrong.
pub(super) fn conditions<K: HasConditions + Resource>(object: &K) -> Vec<Problem> {
    if object.meta().deletion_timestamp.is_some() {
        let ready = object.condition(READY).or_else(|| object.condition(ACCEPTED));
        let why = ready.map(|ready| ready.message.clone()).filter(|message| !message.is_empty());
        let message = why.unwrap_or_else(|| "it is being deleted".to_owned());
        return vec![Problem::own("Deleting", message)];
    }
    let all = object.conditions();
    if all.is_empty() {
        return vec![Problem::own("NotLookedAt", "nobody has looked at it yet; does the operator run?")];
    }
    let mut problems: Vec<Problem> = Vec::new();
    // A condition may be about an earlier generation that goes on while a later one is refused; not all of them.
    let looked_at = all.iter().filter_map(|condition| condition.observed_generation).max();
    if looked_at.is_some() && looked_at < object.meta().generation {
        problems
            .push(Problem::own("Outdated", "it was changed, and the operator has not looked at it since"));
    }
    let mut wrong: Vec<&Condition> = all.iter().filter(|condition| is_wrong(condition)).collect();
    // What is not accepted is not programmed and not ready either: causes first.
    wrong.sort_by_key(|condition| rank(&condition.type_));
    for condition in wrong {
        let repeats = |told: &Problem| {
            told.reason == condition.reason
                && (told.message == condition.message || condition.message.is_empty())
        };
        if !problems.iter().any(repeats) {
            problems.push(Problem {
                condition: Some(format!("{}={}", condition.type_, condition.status.as_str())),
                reason: condition.reason.clone(),
                message: condition.message.clone(),
            });
        }
    }
    problems
}

fn is_wrong(condition: &Condition) -> bool {
    let expected = match condition.type_.as_str() {
        OVERLAPS | DETACHED => ConditionStatus::False,
        // The pool does not say how; whoever set it up routes the address.
        ADVERTISED if condition.status == ConditionStatus::Unknown => return false,
        _ => ConditionStatus::True,
    };
    // Traffic flows, and somebody should look all the same.
    let although =
        ["AddressOutOfPool", "ApplyFailed", "NoOtherNode", "ProxiesMissing", "ProxyRejected", "ProxyStale"];
    condition.status != expected || although.contains(&condition.reason.as_str())
}

fn rank(type_: &str) -> u8 {
    match type_ {
        ACCEPTED => 0,
        PROGRAMMED => 1,
        READY => 3,
        DETACHED => 4,
        _ => 2,
    }
}
