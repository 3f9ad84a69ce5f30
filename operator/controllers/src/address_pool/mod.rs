//! The AddressPool's controller: whether its addresses can be handed out, and how many are.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use epic_crds::condition::{ACCEPTED, OVERLAPS, READY, set};
use epic_crds::{AddressPool, AddressPoolReason as Reason, AddressPoolStatus, AddressUsage, Condition};
use epic_model::address::Family;
use epic_model::claim::{Pool, overlaps};
use epic_model::endpoint::Surroundings;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kates::{Snapshot, Subject};
use kube::ResourceExt;
use kube::runtime::controller::Action;

use crate::claim::{claims, pool, pools};
use crate::context::Shared;
use crate::reconcile::{Error, now, publish_status};

/// One pass over one AddressPool.
///
/// # Errors
/// What the API server answers; the caller waits and calls again.
pub async fn reconcile(subject: Arc<Subject<AddressPool>>, context: Shared) -> Result<Action, Error> {
    let snapshot = context.snapshot()?;
    let Some(object) = snapshot.get::<AddressPool>(&subject.key()) else { return Ok(Action::await_change()) };
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let status = status(&snapshot, &context.endpoints.surroundings(&snapshot), object, &now());
    let after = AddressPool { status: Some(status), ..object.as_ref().clone() };
    publish_status(&context, object.as_ref(), after).await?;
    Ok(Action::requeue(context.settings.full_pass))
}

/// What the status says. Pure but for the time.
fn status(snapshot: &Snapshot, around: &Surroundings, object: &AddressPool, now: &Time) -> AddressPoolStatus {
    let before = object.status.clone().unwrap_or_default();
    let (mut conditions, generation) = (before.conditions, object.metadata.generation);
    let rest = before.rest;
    let parsed = match pool(object) {
        Ok(parsed) => parsed,
        Err(error) => {
            let text = format!("spec.addresses: {error}");
            for type_ in [ACCEPTED, READY] {
                set(&mut conditions, type_, false, Reason::InvalidAddress, text.as_str(), generation, now);
            }
            return AddressPoolStatus { conditions, rest, ..Default::default() };
        }
    };
    let claims = claims(snapshot);
    let claimed: BTreeSet<IpAddr> = claims.iter().map(|claim| claim.address).collect();
    let usage = |family| {
        let total = parsed.total(family);
        let used = parsed.used(family, &claimed);
        (total > 0).then(|| AddressUsage {
            total: total.to_string(),
            used: used.to_string(),
            ..Default::default()
        })
    };
    let name = object.name_any();
    let outside =
        claims.iter().filter(|claim| claim.pool.as_str() == name && !parsed.contains(claim.address)).count();
    let protected = protected(around, &parsed);
    match &protected {
        None => set(&mut conditions, ACCEPTED, true, Reason::Accepted, "", generation, now),
        Some(text) => {
            set(&mut conditions, ACCEPTED, false, Reason::ProtectedAddress, text.as_str(), generation, now)
        }
    };
    overlapping(snapshot, &parsed, &mut conditions, generation, now);
    let (ready, reason, message) = readiness(&parsed, protected, &claimed, outside);
    set(&mut conditions, READY, ready, reason, message, generation, now);
    AddressPoolStatus { ipv4: usage(Family::V4), ipv6: usage(Family::V6), conditions, rest }
}

/// Whether its addresses are in force. A pool whose addresses are all in use is in force like any other.
fn readiness(
    pool: &Pool,
    protected: Option<String>,
    claimed: &BTreeSet<IpAddr>,
    outside: usize,
) -> (bool, Reason, String) {
    let is_full = |family| pool.total(family) <= pool.used(family, claimed);
    if let Some(text) = protected {
        return (false, Reason::ProtectedAddress, text);
    }
    if pool.disabled {
        return (false, Reason::Disabled, "spec.disabled is true; what is in use stays".to_owned());
    }
    if is_full(Family::V4) && is_full(Family::V6) {
        let text = "every address is in use; add a range to spec.addresses before the next is asked for";
        return (true, Reason::Exhausted, text.to_owned());
    }
    if outside > 0 {
        let text = format!("{outside} addresses in use lie outside of spec.addresses; they stay in use");
        return (true, Reason::AddressesOutOfPool, text);
    }
    (true, Reason::Ready, String::new())
}

fn overlapping(
    snapshot: &Snapshot,
    parsed: &Pool,
    conditions: &mut Vec<Condition>,
    generation: Option<i64>,
    now: &Time,
) {
    let found = overlaps(&pools(snapshot)).into_iter().find(|overlap| overlap.younger == parsed.name);
    let (value, reason, text) = match found {
        Some(overlap) => {
            (true, Reason::Overlapping, format!("{overlap}; each address is handed out once all the same"))
        }
        None => (false, Reason::NotOverlapping, String::new()),
    };
    set(conditions, OVERLAPS, value, reason, text, generation, now);
}

/// The pools of a snapshot, judged by what the same snapshot shows around them: their conditions may be older, and a
/// node's address that is handed out for a moment has cut off that node.
pub fn judged(snapshot: &Snapshot, around: &Surroundings) -> Vec<Pool> {
    judge(pools(snapshot), around)
}

fn judge(mut pools: Vec<Pool>, around: &Surroundings) -> Vec<Pool> {
    for pool in &mut pools {
        pool.accepted = protected(around, pool).is_none();
    }
    pools
}

/// What the pool holds that belongs to the cluster or to EPIC itself.
fn protected(around: &Surroundings, pool: &Pool) -> Option<String> {
    let take_out = "take it out of spec.addresses";
    if let Some(address) = around.node_addresses.iter().find(|address| pool.contains(**address)) {
        return Some(format!("it holds the address {address} of a node; {take_out}"));
    }
    let networks =
        around.cluster_networks.iter().chain(&around.proxy_addresses).chain(&around.alias_addresses);
    for network in networks {
        let shared = pool.intervals().iter().find(|interval| {
            network.contains(&interval.first())
                || network.contains(&interval.last())
                || interval.contains(network.network())
        });
        if let Some(interval) = shared {
            return Some(format!("{interval} overlaps {network} of pods, Services or EPIC; {take_out}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use epic_model::claim::{self as model, Asker, Spared};
    use epic_model::id::{AccountName, Kind, ObjectVersion};

    fn ready(pool: &Pool, protected: Option<&str>, claimed: &[&str], outside: usize) -> (bool, Reason) {
        let claimed = claimed.iter().map(|text| text.parse().unwrap()).collect();
        let (ready, reason, _) = readiness(pool, protected.map(str::to_owned), &claimed, outside);
        (ready, reason)
    }

    #[test]
    fn a_full_pool_is_in_force_and_one_that_is_disabled_or_protected_is_not() {
        let pool = Pool::parse("default", ["192.0.2.1-192.0.2.2"]).unwrap();
        assert_eq!(ready(&pool, None, &["192.0.2.1"], 0), (true, Reason::Ready));
        assert_eq!(ready(&pool, None, &["192.0.2.1", "192.0.2.2"], 0), (true, Reason::Exhausted));
        assert_eq!(ready(&pool, None, &["192.0.2.9"], 1), (true, Reason::AddressesOutOfPool));
        assert_eq!(ready(&pool, Some("of nodes"), &[], 0), (false, Reason::ProtectedAddress));
        let mut disabled = pool;
        disabled.disabled = true;
        assert_eq!(ready(&disabled, None, &[], 0), (false, Reason::Disabled));
    }

    /// Why a LoadBalancer gets no address out of a pool, or the address that it gets.
    fn given(pool: Pool, around: &Surroundings, requested: Option<&str>) -> Result<IpAddr, String> {
        let object = ObjectVersion {
            kind: Kind::LoadBalancer,
            namespace: "epic-red".into(),
            name: "web".into(),
            uid: "web".into(),
            resource_version: "1".into(),
        };
        let asker = Asker {
            object,
            account: AccountName::parse("red").unwrap(),
            deleting: false,
            family: Family::V4,
            requested: requested.map(|text| text.parse().unwrap()),
            granted: None,
            pool_names: vec![pool.name.clone()],
        };
        let plan = model::plan(&asker, &judge(vec![pool], around), &[], &Spared::default());
        match &plan.writes[..] {
            [model::Write::Create { address, .. }, model::Write::Grant { .. }] => Ok(*address),
            [] => Err(plan.refusal.unwrap().to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pool_with_an_address_of_a_node_or_of_the_cluster_gives_nothing_asked_for_or_not() {
        let node: IpAddr = "192.168.77.11".parse().unwrap();
        let around = Surroundings {
            node_addresses: [node].into(),
            cluster_networks: vec!["10.96.0.0/16".parse().unwrap()],
            ..Surroundings::default()
        };
        let pool = |addresses: &str| Pool::parse("default", [addresses]).unwrap();
        for (addresses, asked) in [("192.168.77.0/24", "192.168.77.11"), ("10.96.0.0/24", "10.96.0.1")] {
            for requested in [None, Some(asked)] {
                let refusal = given(pool(addresses), &around, requested).unwrap_err();
                assert!(refusal.contains("\"default\" is not accepted (see its conditions)"), "{refusal}");
            }
        }
        let without = || pool("192.168.77.12-192.168.77.20");
        assert_eq!(given(without(), &around, None), Ok("192.168.77.12".parse().unwrap()));
        assert!(
            given(without(), &around, Some("192.168.77.11")).unwrap_err().contains("lies in no address pool")
        );
        let node_gone = Surroundings { node_addresses: [].into(), ..around };
        assert_eq!(given(pool("192.168.77.0/24"), &node_gone, Some("192.168.77.11")), Ok(node));
    }
}
