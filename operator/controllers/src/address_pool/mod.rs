//! The AddressPool's controller: whether its addresses can be handed out, and how many are.

#[cfg(test)]
mod situations;

use std::sync::Arc;

use epic_crds::condition::{ACCEPTED, AVAILABLE, OVERLAPS, READY, set};
use epic_crds::{
    AddressClaim, AddressPool, AddressPoolReason as Reason, AddressPoolStatus, AddressUsage, Condition,
};
use epic_model::address::{self, Family};
use epic_model::claim::{Pool, overlaps};
use epic_model::endpoint::Surroundings;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kates::{Snapshot, Subject};
use kube::runtime::controller::Action;

use crate::claim::{Addresses, NotAPool, pool};
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
    let around = context.endpoints.surroundings(&snapshot);
    let found = found(&snapshot, &context.addresses, &around, object);
    let status = status(object, found, &now());
    let after = AddressPool { status: Some(status), ..object.as_ref().clone() };
    publish_status(&context, object.as_ref(), after).await?;
    Ok(Action::requeue(context.settings.full_pass))
}

/// What a pool is judged by.
struct Found {
    pool: Pool,
    counts: [Count; 2],
    /// Addresses in use that it does not hold any more.
    outside: usize,
    /// What it holds that it must not.
    refused: Option<(Reason, String)>,
    /// All pools.
    pools: Vec<Pool>,
}

fn found(
    snapshot: &Snapshot,
    addresses: &Addresses,
    around: &Surroundings,
    object: &AddressPool,
) -> Result<Found, NotAPool> {
    let pool = pool(object)?;
    let counts = [Family::V4, Family::V6].map(|family| Count {
        family,
        total: pool.total(family),
        used: addresses.claimed(&pool, family),
    });
    let outside = snapshot
        .list::<AddressClaim>()
        .filter(|claim| claim.spec.pool == pool.name.as_str())
        .filter(|claim| address::parse(&claim.spec.address).is_ok_and(|address| !pool.contains(address)))
        .count();
    Ok(Found { counts, outside, refused: protected(around, &pool), pools: addresses.pools(), pool })
}

/// What the status says. Pure.
fn status(object: &AddressPool, found: Result<Found, NotAPool>, now: &Time) -> AddressPoolStatus {
    let before = object.status.clone().unwrap_or_default();
    let (mut conditions, generation) = (before.conditions, object.metadata.generation);
    let rest = before.rest;
    let Found { pool, counts, outside, refused, pools } = match found {
        Ok(found) => found,
        Err(error) => {
            let text = format!("spec.addresses: {error}");
            for type_ in [ACCEPTED, READY, AVAILABLE] {
                set(&mut conditions, type_, false, Reason::InvalidAddress, text.as_str(), generation, now);
            }
            return AddressPoolStatus { conditions, rest, ..Default::default() };
        }
    };
    let (accepted, reason, text) = match &refused {
        None => (true, Reason::Accepted, ""),
        Some((reason, text)) => (false, *reason, text.as_str()),
    };
    set(&mut conditions, ACCEPTED, accepted, reason, text, generation, now);
    overlapping(&pools, &pool, &mut conditions, generation, now);
    let (available, reason, text) = availability(&pool, refused.as_ref(), &counts);
    set(&mut conditions, AVAILABLE, available, reason, text, generation, now);
    let (ready, reason, text) = readiness(&pool, refused, &counts, outside);
    set(&mut conditions, READY, ready, reason, text, generation, now);
    let [ipv4, ipv6] = counts.map(Count::written);
    AddressPoolStatus { ipv4, ipv6, conditions, rest }
}

/// The largest number that every reader of JSON takes for itself.
const MOST: i64 = (1 << 53) - 1;

/// Addresses of one family.
#[derive(Clone, Copy, Debug)]
struct Count {
    family: Family,
    total: u128,
    used: u128,
}

impl Count {
    fn free(self) -> u128 {
        self.total.saturating_sub(self.used)
    }

    fn written(self) -> Option<AddressUsage> {
        let number = |count: u128| Some(i64::try_from(count).unwrap_or(MOST).min(MOST));
        (self.total > 0).then(|| AddressUsage {
            total: self.total.to_string(),
            used: self.used.to_string(),
            total_count: number(self.total),
            used_count: number(self.used),
            free: number(self.free()),
            ..Default::default()
        })
    }
}

/// Whether an address can be had.
fn availability(pool: &Pool, refused: Option<&(Reason, String)>, counts: &[Count]) -> (bool, Reason, String) {
    if let Some((reason, text)) = refused {
        return (false, *reason, text.clone());
    }
    if pool.disabled {
        return (
            false,
            Reason::Disabled,
            "spec.disabled is true; set it to false to have addresses taken".to_owned(),
        );
    }
    if counts.iter().all(|count| count.free() == 0) {
        return (
            false,
            Reason::Exhausted,
            "every address is in use; add a range to spec.addresses".to_owned(),
        );
    }
    let there = counts.iter().filter(|count| count.total > 0);
    let free = there.map(|count| format!("{} of {} {} addresses", count.free(), count.total, count.family));
    let asked = if pool.auto_assign { "" } else { ", given only to LoadBalancers that ask for one by name" };
    let text = format!("{} are free{asked}", free.collect::<Vec<_>>().join(" and "));
    (true, Reason::AddressesFree, text)
}

/// Whether its addresses are in force. A pool whose addresses are all in use is in force like any other.
fn readiness(
    pool: &Pool,
    refused: Option<(Reason, String)>,
    counts: &[Count],
    outside: usize,
) -> (bool, Reason, String) {
    if let Some((reason, text)) = refused {
        return (false, reason, text);
    }
    if pool.disabled {
        return (false, Reason::Disabled, "spec.disabled is true; what is in use stays".to_owned());
    }
    if counts.iter().all(|count| count.free() == 0) {
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
    pools: &[Pool],
    parsed: &Pool,
    conditions: &mut Vec<Condition>,
    generation: Option<i64>,
    now: &Time,
) {
    let found = overlaps(pools).into_iter().find(|overlap| overlap.younger == parsed.name);
    let (value, reason, text) = match found {
        Some(overlap) => {
            (true, Reason::Overlapping, format!("{overlap}; each address is handed out once all the same"))
        }
        None => (false, Reason::NotOverlapping, String::new()),
    };
    set(conditions, OVERLAPS, value, reason, text, generation, now);
}

/// The pools, judged by what a snapshot shows around them: their conditions may be older, and a node's address that is
/// handed out for a moment has cut off that node.
pub fn judge(mut pools: Vec<Pool>, around: &Surroundings) -> Vec<Pool> {
    for pool in &mut pools {
        pool.accepted = protected(around, pool).is_none();
    }
    pools
}

/// What the pool holds that belongs to the cluster, to EPIC itself, or to a router of the network.
fn protected(around: &Surroundings, pool: &Pool) -> Option<(Reason, String)> {
    let take_out = "take it out of spec.addresses";
    if let Some(address) = around.node_addresses.iter().find(|address| pool.contains(**address)) {
        return Some((
            Reason::ProtectedAddress,
            format!("it holds the address {address} of a node; {take_out}"),
        ));
    }
    if let Some(address) = around.gateways.iter().find(|address| pool.contains(**address)) {
        let text = format!(
            "it holds {address}, the default gateway of an EPIC node, and who takes that cuts off the network; {take_out}"
        );
        return Some((Reason::GatewayAddress, text));
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
            let text = format!("{interval} overlaps {network} of pods, Services or EPIC; {take_out}");
            return Some((Reason::ProtectedAddress, text));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    use epic_model::claim::{self as model, Asker, Spared};
    use epic_model::id::{AccountName, Kind, ObjectVersion};

    fn counts(total: u128, used: u128) -> [Count; 2] {
        [Count { family: Family::V4, total, used }, Count { family: Family::V6, total: 0, used: 0 }]
    }

    #[test]
    fn a_full_pool_is_in_force_and_one_that_is_disabled_or_protected_is_not() {
        let pool = Pool::parse("default", ["192.0.2.1-192.0.2.2"]).unwrap();
        let judged = |pool: &Pool, refused: Option<Reason>, used: u128, outside: usize| {
            let refused = refused.map(|reason| (reason, "of nodes".to_owned()));
            let (available, why_available, _) = availability(pool, refused.as_ref(), &counts(2, used));
            let (ready, why_ready, _) = readiness(pool, refused, &counts(2, used), outside);
            ((ready, why_ready), (available, why_available))
        };
        let free = (true, Reason::AddressesFree);
        assert_eq!(judged(&pool, None, 1, 0), ((true, Reason::Ready), free));
        assert_eq!(judged(&pool, None, 2, 0), ((true, Reason::Exhausted), (false, Reason::Exhausted)));
        assert_eq!(judged(&pool, None, 0, 1), ((true, Reason::AddressesOutOfPool), free));
        let protected = (false, Reason::ProtectedAddress);
        assert_eq!(judged(&pool, Some(Reason::ProtectedAddress), 0, 0), (protected, protected));
        let mut disabled = pool;
        disabled.disabled = true;
        let off = (false, Reason::Disabled);
        assert_eq!(judged(&disabled, None, 0, 0), (off, off));
    }

    #[test]
    fn figures_are_numbers_beside_the_text_and_stop_where_numbers_do() {
        let [v4, v6] = counts(14, 5).map(Count::written);
        let v4 = v4.unwrap();
        assert_eq!((v4.total.as_str(), v4.used.as_str()), ("14", "5"));
        assert_eq!((v4.total_count, v4.used_count, v4.free), (Some(14), Some(5), Some(9)));
        assert!(v6.is_none(), "a family without addresses has no figures");
        let huge = Count { family: Family::V6, total: u128::MAX, used: 1 }.written().unwrap();
        assert_eq!((huge.total_count, huge.free), (Some(MOST), Some(MOST)));
        assert_eq!(huge.total, u128::MAX.to_string());
        let pool = Pool::parse("default", ["192.0.2.1-192.0.2.14"]).unwrap();
        assert_eq!(availability(&pool, None, &counts(14, 5)).2, "9 of 14 IPv4 addresses are free");
    }

    #[test]
    fn a_pool_with_a_default_gateway_of_a_node_gives_nothing() {
        let around =
            Surroundings { gateways: ["192.168.77.254".parse().unwrap()].into(), ..Surroundings::default() };
        let with = Pool::parse("default", ["192.168.77.240-192.168.77.254"]).unwrap();
        let (reason, text) = protected(&around, &with).unwrap();
        assert_eq!(reason, Reason::GatewayAddress);
        assert!(text.contains("192.168.77.254, the default gateway of an EPIC node"), "{text}");
        assert!(given(with, &around, Some("192.168.77.241")).unwrap_err().contains("is not accepted"));
        let without = Pool::parse("default", ["192.168.77.240-192.168.77.253"]).unwrap();
        assert_eq!(given(without, &around, None), Ok("192.168.77.240".parse().unwrap()));
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
            most_claims: usize::MAX,
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
