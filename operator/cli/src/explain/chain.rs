//! The links of a LoadBalancer, in the order in which one needs the other. Pure.

use std::collections::BTreeSet;

use epic_crds::condition::{ACCEPTED, ADVERTISED, PROGRAMMED, READY, TUNNEL_UP};
use epic_crds::well_known::{
    ANNOTATION_UNINSTALL, LABEL_LOAD_BALANCER, LEASE_OPERATOR, TENANT_NAMESPACE_PREFIX,
};
use epic_crds::{
    Account, AddressClaim, Condition, ConditionStatus, Endpoint, HasConditions, LoadBalancer,
    LoadBalancerReason as Reason, ServiceGroup,
};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::reasons::{of_balancer, of_endpoint};
use super::{Explanation, Fix, Found, Link, SYSTEM, Subject, may_read, pods, serves};
use crate::overview::lease::silent_for;

/// What a link says: it holds, with what to know of it; it cannot be told; or it is to be fixed.
type Verdict = Result<Option<String>, Fix>;

/// Follows the links up to the first that does not hold, as of `now`.
pub fn explain(found: &Found, subject: &Subject, now: Timestamp) -> Explanation {
    let balancer = found.balancer(subject);
    let mut explanation = Explanation {
        subject: subject.clone(),
        holds: Vec::new(),
        fix: None,
        serves: serves(balancer),
        unread: found.epic.forbidden.clone(),
    };
    let mut follow = |what: &'static str, verdict: Verdict| match verdict {
        Ok(known) => {
            explanation.holds.extend(known.map(|found| Link { what, found }));
            true
        }
        Err(fix) => {
            explanation.fix = Some((what, fix));
            false
        }
    };
    let platform = follow("EPIC", epic(found))
        && follow("operator", operator(found, now))
        && follow("account", account(found, subject));
    if !platform {
        return explanation;
    }
    let Some(balancer) = balancer else {
        follow("object", Err(missing(found, subject)));
        return explanation;
    };
    // One after the other: what comes later is not even asked.
    let _ = follow("object", object(balancer))
        && follow("group", group(found, balancer))
        && follow("accepted", accepted(balancer))
        && follow("ID", service_id(balancer))
        && follow("address", address(found, balancer))
        && follow("proxies", proxies(found, balancer, now))
        && follow("programmed", programmed(found, balancer, now))
        && follow("announced", announced(found, balancer))
        && follow("endpoints", endpoints(found, balancer))
        && follow("ready", ready(balancer));
    explanation
}

fn epic(found: &Found) -> Verdict {
    if !may_read(found, "epics") {
        return Ok(None);
    }
    let Some(epic) = found.epic.epics.items.first() else {
        let text = "there is no EPIC object, so nothing is handed out";
        return Err(Fix::new(text, "create it: kubectl apply -f config/samples/platform/epic.yaml"));
    };
    if epic.annotations().contains_key(ANNOTATION_UNINSTALL) {
        return Err(Fix::new(
            "EPIC is being uninstalled",
            format!(
                "to go on instead: kubectl -n {SYSTEM} annotate epics.epic.acnodal.io epic {ANNOTATION_UNINSTALL}-"
            ),
        ));
    }
    if epic.metadata.deletion_timestamp.is_some() {
        let text = "the EPIC object is being deleted, so it hands out no IDs";
        return Err(Fix::new(
            text,
            "delete the LoadBalancers or let the deletion end, then create EPIC again",
        ));
    }
    refused(epic, "the EPIC object", "kubectl -n epic edit epics.epic.acnodal.io epic")?;
    Ok(Some("there, and accepted".to_owned()))
}

fn operator(found: &Found, now: Timestamp) -> Verdict {
    if !may_read(found, "leases") {
        return Ok(None);
    }
    let lease = found.epic.leases.items.iter().find(|lease| lease.name_any() == LEASE_OPERATOR);
    let remedy = format!(
        "kubectl -n {SYSTEM} get pods -l app.kubernetes.io/name=epic-operator; a pod that runs without leading says why at /readyz and in its log"
    );
    match lease.and_then(|lease| silent_for(lease, now).map(|silent| (lease, silent))) {
        None => Err(Fix::new("no operator has ever held its Lease", remedy)),
        Some((_, silent)) if silent > 0 => Err(Fix::new(
            format!("no operator has renewed its Lease for {silent} s, so nothing changes"),
            remedy,
        )),
        Some((lease, _)) => {
            let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
            Ok(Some(format!("{} leads", holder.unwrap_or_else(|| "one".to_owned()))))
        }
    }
}

fn account(found: &Found, subject: &Subject) -> Verdict {
    if !may_read(found, "accounts") {
        return Ok(None);
    }
    let Some(name) = subject.namespace.strip_prefix(TENANT_NAMESPACE_PREFIX) else {
        return Err(Fix::new(
            format!("namespace {} is no tenant's; theirs are called epic-ACCOUNT", subject.namespace),
            "create the LoadBalancer in the namespace of an Account",
        ));
    };
    // The one in `epic` wins over its namesake.
    let is_it = |account: &&Account, namespace: &str| {
        account.name_any() == name && account.namespace().as_deref() == Some(namespace)
    };
    let accounts = &found.epic.accounts.items;
    let account = accounts
        .iter()
        .find(|account| is_it(account, SYSTEM))
        .or_else(|| accounts.iter().find(|account| is_it(account, &subject.namespace)));
    let Some(account) = account else {
        return Err(Fix::new(
            format!("there is no Account {name}"),
            format!("create it in namespace {SYSTEM}: it gives the namespace its IDs and rights"),
        ));
    };
    if account.metadata.deletion_timestamp.is_some() {
        return Err(Fix::new(
            format!("Account {name} is being deleted; it waits for its LoadBalancers"),
            format!(
                "delete the LoadBalancers of {}, or create the Account again afterwards",
                subject.namespace
            ),
        ));
    }
    let edit = format!("kubectl -n {} edit epicacct {name}", account.namespace().unwrap_or_default());
    refused(account, &format!("Account {name}"), &edit)?;
    match account.condition(READY) {
        Some(known) if known.status == ConditionStatus::True => Ok(Some(format!("{name}, ready"))),
        Some(known) => Err(Fix::new(
            format!("Account {name} is not ready: {}: {}", known.reason, known.message),
            format!("do what the message says; then {edit} if the Account is to change"),
        )),
        None => Err(Fix::new(
            format!("Account {name} has not been reconciled yet"),
            "wait a moment; if it stays so, look at the operator's log",
        )),
    }
}

fn missing(found: &Found, subject: &Subject) -> Fix {
    let others: Vec<String> = found
        .epic
        .balancers
        .items
        .iter()
        .filter(|known| known.namespace().as_deref() == Some(subject.namespace.as_str()))
        .map(ResourceExt::name_any)
        .collect();
    let there = match others.is_empty() {
        true => "the namespace has none".to_owned(),
        false => format!("there are {}", others.join(", ")),
    };
    Fix::new(
        format!("there is no LoadBalancer {}; {there}", subject.name),
        "create it, or correct the name; -n names the namespace",
    )
}

fn object(balancer: &LoadBalancer) -> Verdict {
    let (namespace, name) = (balancer.namespace().unwrap_or_default(), balancer.name_any());
    if let Some(deleted) = &balancer.metadata.deletion_timestamp {
        let waits: Vec<&str> = balancer.finalizers().iter().map(String::as_str).collect();
        return Err(Fix::new(
            format!("it is being deleted since {}; it waits for {}", deleted.0, waits.join(", ")),
            "let it end: proxies drain for timeouts.drain of the group. To keep it, create it again afterwards",
        ));
    }
    let known = balancer.condition(ACCEPTED);
    match known {
        None => Err(Fix::new(
            "the operator has not reconciled it yet",
            "wait a moment; if it stays so, look at the operator's log: kubectl -n epic logs deploy/epic-operator",
        )),
        Some(known) if known.observed_generation < balancer.metadata.generation => Err(Fix::new(
            "it was edited, and the operator has not judged the edit yet",
            format!(
                "wait a moment; if it stays so, look at the operator's log. kubectl -n {namespace} get epiclb {name} -o yaml shows the generation that was judged"
            ),
        )),
        Some(_) => Ok(None),
    }
}

/// The group it names: its own conditions tell more than what the LoadBalancer says of them.
fn group(found: &Found, balancer: &LoadBalancer) -> Verdict {
    let Some(group) = group_of(found, balancer) else { return Ok(None) };
    let place = group.namespace().unwrap_or_default();
    let name = group.name_any();
    refused(
        group,
        &format!("ServiceGroup {place}/{name}"),
        &format!("kubectl -n {place} edit epicsg {name}"),
    )?;
    if let Some(known) = group.condition(READY).filter(|known| known.status == ConditionStatus::False)
        && balancer.status.as_ref().is_none_or(|status| status.public_address.is_none())
    {
        return Err(Fix::new(
            format!("ServiceGroup {place}/{name} is not ready: {}: {}", known.reason, known.message),
            format!("mend the pool that it names, or name another: kubectl -n {place} edit epicsg {name}"),
        ));
    }
    Ok(Some(format!("{place}/{name}")))
}

fn group_of<'f>(found: &'f Found, balancer: &LoadBalancer) -> Option<&'f ServiceGroup> {
    let named = |namespace: &str| {
        found.epic.groups.items.iter().find(|group| {
            group.name_any() == balancer.spec.service_group && group.namespace().as_deref() == Some(namespace)
        })
    };
    named(&balancer.namespace().unwrap_or_default()).or_else(|| named(SYSTEM))
}

fn accepted(balancer: &LoadBalancer) -> Verdict {
    match balancer.condition(ACCEPTED) {
        Some(known) if known.status == ConditionStatus::False => Err(of_condition(balancer, known)),
        _ => Ok(Some("its spec is valid".to_owned())),
    }
}

fn service_id(balancer: &LoadBalancer) -> Verdict {
    if let Some(id) = balancer.status.as_ref().and_then(|status| status.service_id) {
        return Ok(Some(format!("service ID {id}")));
    }
    match balancer.condition(PROGRAMMED) {
        Some(known) if known.status == ConditionStatus::False && known.reason != Reason::Pending.as_str() => {
            Err(of_condition(balancer, known))
        }
        _ => Err(Fix::new(
            "it waits for its service ID",
            "wait a moment; if it stays so, look at the operator's log: kubectl -n epic logs deploy/epic-operator",
        )),
    }
}

fn address(found: &Found, balancer: &LoadBalancer) -> Verdict {
    if let Some(address) = balancer.status.as_ref().and_then(|status| status.public_address.as_deref()) {
        return Ok(Some(address.to_owned()));
    }
    let asked = balancer.spec.public_address.as_deref();
    if let Some(claim) = asked.and_then(|address| claim_of(found, address)) {
        let owner = format!("{}/{}", claim.spec.owner.namespace, claim.spec.owner.name);
        let address = &claim.spec.address;
        if claim.is_releasing() {
            return Err(Fix::new(
                format!(
                    "address {address} is being released by {owner}; some node may still have it in its maps"
                ),
                format!(
                    "wait; the AddressClaim names the nodes: kubectl -n {SYSTEM} get epicclaim {} -o yaml. For a node that is gone for good: epicctl address release {address}",
                    claim.name_any()
                ),
            ));
        }
        if claim.spec.owner.uid != balancer.uid().unwrap_or_default() {
            return Err(Fix::new(
                format!("address {address} belongs to LoadBalancer {owner}"),
                of_balancer(
                    Reason::AddressTaken.as_str(),
                    &balancer.namespace().unwrap_or_default(),
                    &balancer.name_any(),
                ),
            ));
        }
    }
    match balancer.condition(PROGRAMMED) {
        Some(known) if known.status == ConditionStatus::False => Err(of_condition(balancer, known)),
        _ => Err(Fix::new("it waits for its address", "wait a moment; then look at the pools of its group")),
    }
}

fn claim_of<'f>(found: &'f Found, address: &str) -> Option<&'f AddressClaim> {
    found.epic.claims.items.iter().find(|claim| claim.spec.address == address)
}

fn proxies(found: &Found, balancer: &LoadBalancer, now: Timestamp) -> Verdict {
    let uid = balancer.uid().unwrap_or_default();
    let of_it = |owners: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference]| {
        owners.iter().any(|owner| owner.uid == uid)
    };
    let deployment = found.deployments.iter().find(|deployment| of_it(deployment.owner_references()));
    let ready: Vec<&epic_crds::Proxy> = balancer
        .status
        .iter()
        .flat_map(|status| &status.proxies)
        .filter(|proxy| proxy.state == epic_crds::ProxyState::Ready)
        .collect();
    let programmed = balancer.condition(PROGRAMMED);
    if !may_read(found, "pods") || !may_read(found, "deployments") {
        return if ready.is_empty() { Ok(None) } else { Ok(Some(format!("{} ready", ready.len()))) };
    }
    if deployment.is_none() {
        return Err(match programmed.filter(|known| known.status == ConditionStatus::False) {
            Some(known) => of_condition(balancer, known),
            None => Fix::new(
                "it has no Deployment of proxies yet",
                "wait a moment; then look at the operator's log",
            ),
        });
    }
    if let Some(fix) = deployment.and_then(pods::deployment) {
        return Err(fix);
    }
    let labels = deployment.map(|deployment| deployment.labels().clone()).unwrap_or_default();
    let label = labels.get(LABEL_LOAD_BALANCER);
    let own = found.pods.iter().filter(|pod| pod.labels().get(LABEL_LOAD_BALANCER) == label);
    let own: Vec<_> = own.collect();
    if own.is_empty() {
        return Err(Fix::new(
            "its Deployment has no pods",
            format!(
                "kubectl -n {} describe deployments -l epic.acnodal.io/load-balancer",
                balancer.namespace().unwrap_or_default()
            ),
        ));
    }
    if let Some(fix) = own.iter().find_map(|pod| pods::pod(pod, found, now)) {
        return Err(fix);
    }
    // A proxy that has lost its operator: its pod is ready all the same.
    let stale = [PROGRAMMED, READY]
        .iter()
        .filter_map(|type_| balancer.condition(type_))
        .find(|known| known.reason == Reason::ProxyStale.as_str());
    if let Some(stale) = stale {
        return Err(of_condition(balancer, stale));
    }
    if ready.is_empty() {
        let text = "its pods are ready, and none is a proxy in its status yet";
        return Err(Fix::new(text, "wait a moment; then look at the operator's log"));
    }
    let versions: BTreeSet<&str> = own.iter().filter_map(|pod| pods::version(pod)).collect();
    let versions: String = versions.iter().map(|version| format!(", {version}")).collect();
    Ok(Some(format!("{} ready of {} pods{versions}", ready.len(), own.len())))
}

fn programmed(found: &Found, balancer: &LoadBalancer, now: Timestamp) -> Verdict {
    let Some(known) = balancer.condition(PROGRAMMED) else { return Ok(None) };
    if known.status == ConditionStatus::True {
        return Ok(Some("by all proxies and nodes".to_owned()));
    }
    if known.reason == Reason::NodesPending.as_str() {
        let named = |name: &String| known.message.contains(name.as_str());
        let behind = found.epic.nodes.items.iter().map(ResourceExt::name_any).filter(named);
        let trouble = behind.filter_map(|node| pods::agent(&node, found, now)).next();
        if let Some(fix) = trouble {
            return Err(Fix::new(format!("{}: {}", known.message, fix.problem), fix.remedy));
        }
    }
    Err(of_condition(balancer, known))
}

fn announced(found: &Found, balancer: &LoadBalancer) -> Verdict {
    let Some(known) = balancer.condition(ADVERTISED) else { return Ok(None) };
    let address =
        balancer.status.as_ref().and_then(|status| status.public_address.clone()).unwrap_or_default();
    if let Some(node) = found.epic.nodes.items.iter().find(|node| {
        balancer
            .status
            .as_ref()
            .and_then(|status| status.advertised_by.as_ref())
            .is_some_and(|by| by.node == node.name_any())
    }) && let Some(out) = node.out_of_service()
    {
        return Err(Fix::new(
            format!(
                "node {} answers for {address}, and was taken out of service: {}",
                node.name_any(),
                out.message
            ),
            "wait for another node to take the address over; then mend the node",
        ));
    }
    match known.status {
        ConditionStatus::True => Ok(Some(known.message.clone())),
        ConditionStatus::False => Err(of_condition(balancer, known)),
        // Whoever set the pool up without `advertise` routes its addresses: that is no fault.
        ConditionStatus::Unknown if known.reason == Reason::NotAnnounced.as_str() => {
            Ok(Some(format!("EPIC does not announce {address}; your network routes it to the EPIC nodes")))
        }
        ConditionStatus::Unknown => Err(of_condition(balancer, known)),
    }
}

fn endpoints(found: &Found, balancer: &LoadBalancer) -> Verdict {
    let (namespace, name) = (balancer.namespace().unwrap_or_default(), balancer.name_any());
    let own: Vec<&Endpoint> = found
        .epic
        .endpoints
        .items
        .iter()
        .filter(|endpoint| {
            endpoint.namespace().as_deref() == Some(namespace.as_str()) && endpoint.spec.load_balancer == name
        })
        .collect();
    if own.is_empty() {
        return Err(Fix::new(
            "no Endpoint names it",
            format!(
                "create an Endpoint with load-balancer: {name} in namespace {namespace} for each pod that serves"
            ),
        ));
    }
    let serves = |endpoint: &&&Endpoint| {
        endpoint.is_condition_true(PROGRAMMED)
            && endpoint.condition(TUNNEL_UP).is_none_or(|known| known.status != ConditionStatus::False)
            && endpoint.spec.weight() > 0
    };
    let serving = own.iter().filter(serves).count();
    if serving > 0 {
        return Ok(Some(format!("{serving} of {} reached", own.len())));
    }
    if own.iter().all(|endpoint| endpoint.spec.weight() == 0) {
        return Err(Fix::new(
            "all its Endpoints drain: their weight is 0",
            format!(
                "give one a weight: kubectl -n {namespace} edit epicep {}",
                own.first().map(|e| e.name_any()).unwrap_or_default()
            ),
        ));
    }
    let first =
        own.iter().filter(|endpoint| endpoint.spec.weight() > 0).find_map(|endpoint| broken(endpoint));
    Err(first.unwrap_or_else(|| {
        Fix::new("none of its Endpoints is reached", format!("kubectl -n {namespace} get epicep"))
    }))
}

/// What keeps an Endpoint from taking traffic, the cause before its consequences.
fn broken(endpoint: &Endpoint) -> Option<Fix> {
    let (namespace, name) = (endpoint.namespace().unwrap_or_default(), endpoint.name_any());
    let known = [ACCEPTED, PROGRAMMED, TUNNEL_UP]
        .iter()
        .filter_map(|type_| endpoint.condition(type_))
        .find(|known| known.status == ConditionStatus::False);
    let Some(known) = known else {
        return endpoint.conditions().is_empty().then(|| {
            Fix::new(
                format!("Endpoint {name} has not been reconciled yet"),
                of_endpoint("", &namespace, &name),
            )
        });
    };
    Some(Fix::new(
        format!("Endpoint {name}: {}: {}", known.reason, known.message),
        of_endpoint(&known.reason, &namespace, &name),
    ))
}

/// What remains, by its own word.
fn ready(balancer: &LoadBalancer) -> Verdict {
    match balancer.condition(READY) {
        Some(known) if known.status == ConditionStatus::False => Err(of_condition(balancer, known)),
        Some(known) if known.reason != Reason::Ready.as_str() => Err(of_condition(balancer, known)),
        _ => Ok(None),
    }
}

/// Whether an object was refused as such.
fn refused<K: HasConditions>(object: &K, what: &str, edit: &str) -> Result<(), Fix> {
    match object.condition(ACCEPTED) {
        Some(known) if known.status == ConditionStatus::False => Err(Fix::new(
            format!("{what} is refused: {}: {}", known.reason, known.message),
            format!("correct what the message names: {edit}"),
        )),
        _ => Ok(()),
    }
}

fn of_condition(balancer: &LoadBalancer, known: &Condition) -> Fix {
    let said = match known.message.is_empty() {
        true => known.reason.clone(),
        false => format!("{}: {}", known.reason, known.message),
    };
    Fix::new(
        said,
        of_balancer(&known.reason, &balancer.namespace().unwrap_or_default(), &balancer.name_any()),
    )
}
