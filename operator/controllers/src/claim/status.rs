//! What the status of a claim says besides its phase: which nodes keep its address from being free, whether another
//! machine answers for it, and whether a pool still holds it. Pure.
//!
//! Releasing takes two or three writes whatever the number of nodes: with the mark all that are behind are named, after
//! [`SLOW`] those that still are, and after [`DELAYED`] an Event says so.

use std::net::IpAddr;
use std::time::Duration;

use epic_crds::condition::{CONFLICT, IN_POOL, RELEASED, find, remove, set};
use epic_crds::{AddressClaimReason as Reason, AddressClaimStatus, ConditionStatus};
use epic_model::claim::Pool;
use epic_model::id::{NodeName, PoolName};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// After this time the nodes that are still waited for are named again.
const SLOW: Duration = Duration::from_secs(10);
/// After this time waiting is worth a warning.
const DELAYED: Duration = Duration::from_secs(30);
/// Nodes that a status names; a message says how many more there are.
const NAMED: usize = 256;
/// Nodes that a message names.
const SPOKEN: usize = 8;

/// Another machine that answers for an address, as a node has seen it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rival {
    /// The node that saw it.
    pub node: String,
    /// Its interface.
    pub interface: String,
    /// Hardware address of the machine; `None` for a default gateway that was not heard yet.
    pub mac: Option<String>,
}

/// The pool that a claim should name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// The one that it names.
    Named,
    /// That one does not hold its address any more, but this one does.
    Moved(PoolName),
    /// None holds it.
    Lost,
}

/// Where a claim belongs: pools are edited, renamed (which is a deletion and a creation) and overlap.
pub(super) fn home(named: &PoolName, address: IpAddr, pools: &[Pool]) -> Home {
    let mut holding: Vec<&Pool> = pools.iter().filter(|pool| pool.contains(address)).collect();
    holding.sort_by_key(|pool| (pool.created, pool.name.clone()));
    match holding.first() {
        None => Home::Lost,
        Some(_) if holding.iter().any(|pool| pool.name == *named) => Home::Named,
        Some(oldest) => Home::Moved(oldest.name.clone()),
    }
}

fn list(nodes: &[NodeName]) -> String {
    let named: Vec<&str> = nodes.iter().take(SPOKEN).map(NodeName::as_str).collect();
    match nodes.len().saturating_sub(SPOKEN) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// Names the nodes that a claim in Releasing waits for. Says after which time to look again.
pub(super) fn waits(
    status: &mut AddressClaimStatus,
    nodes: &[NodeName],
    generation: Option<i64>,
    now: &Time,
) -> Duration {
    let since = find(&status.conditions, RELEASED).map(|known| known.last_transition_time.clone());
    let waited = since.as_ref().map(|since| now.0.duration_since(since.0).unsigned_abs());
    let names: Vec<String> = nodes.iter().take(NAMED).map(ToString::to_string).collect();
    match waited {
        None => {
            status.waiting_for = names;
            let text = format!("waits for {}", list(nodes));
            set(&mut status.conditions, RELEASED, false, Reason::NodesPending, text, generation, now);
            SLOW
        }
        // Nodes pass one by one; a write for each would be as many as there are nodes.
        Some(waited) if waited < SLOW => SLOW - waited,
        Some(waited) => {
            status.waiting_for = names;
            let delayed = waited >= DELAYED;
            let (reason, advice) = if delayed {
                let advice =
                    "; see whether their agents run, and of a node that is gone for good delete the EPICNode";
                (Reason::ReleaseDelayed, advice)
            } else {
                (Reason::NodesPending, "")
            };
            let text = format!("waits for {}{advice}", list(nodes));
            set(&mut status.conditions, RELEASED, false, reason, text, generation, now);
            if delayed { Duration::MAX } else { DELAYED - waited }
        }
    }
}

/// Says whether another machine answers for the address, and whether a pool holds it. What was always well says nothing.
pub(super) fn bound(
    status: &mut AddressClaimStatus,
    rivals: &[Rival],
    home: &Home,
    generation: Option<i64>,
    now: &Time,
) {
    let conditions = &mut status.conditions;
    if let Some(Rival { node, interface, mac }) = rivals.first() {
        let more = match rivals.len() {
            1 => String::new(),
            count => format!(" (and {} more reports)", count - 1),
        };
        let who = mac.as_deref().unwrap_or("a default gateway of an EPIC node");
        let text = format!(
            "{who} answers for it, seen by {node} on {interface}{more}; EPIC does not take it over: give that machine \
             another address, or take this one out of its pool and let the LoadBalancer have another one"
        );
        set(conditions, CONFLICT, true, Reason::InUseElsewhere, text, generation, now);
    } else if find(conditions, CONFLICT).is_some() {
        set(conditions, CONFLICT, false, Reason::NotInUseElsewhere, "", generation, now);
    }
    match home {
        Home::Lost => {
            let text = "no AddressPool holds it any more, so nobody announces it; it stays with its owner. Create a pool \
                        that holds it, or delete the LoadBalancer";
            set(conditions, IN_POOL, false, Reason::PoolNotFound, text, generation, now);
        }
        Home::Named | Home::Moved(_) => {
            if find(conditions, IN_POOL).is_some_and(|known| known.status != ConditionStatus::True) {
                set(conditions, IN_POOL, true, Reason::PoolFound, "", generation, now);
            }
        }
    }
}

/// Takes out what a claim that is on its way out has no use for.
pub(super) fn leaving(status: &mut AddressClaimStatus) {
    remove(&mut status.conditions, IN_POOL);
}

#[cfg(test)]
mod tests {
    use super::*;
    use epic_model::id::Seconds;
    use k8s_openapi::jiff::Timestamp;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    fn nodes(names: &[&str]) -> Vec<NodeName> {
        names.iter().map(|name| NodeName::new(*name)).collect()
    }

    fn said(status: &AddressClaimStatus, type_: &str) -> (ConditionStatus, String, String) {
        let known = find(&status.conditions, type_).unwrap();
        (known.status, known.reason.clone(), known.message.clone())
    }

    #[test]
    fn a_release_names_its_nodes_at_once_again_after_a_while_and_warns_when_it_is_delayed() {
        let mut status = AddressClaimStatus::default();
        assert_eq!(waits(&mut status, &nodes(&["node1", "node2"]), None, &at(100)), SLOW);
        assert_eq!(status.waiting_for, ["node1", "node2"]);
        let before = status.clone();
        assert_eq!(waits(&mut status, &nodes(&["node2"]), None, &at(101)), Duration::from_secs(9));
        assert_eq!(status, before, "one node has passed: no write for that");
        assert_eq!(waits(&mut status, &nodes(&["node2"]), None, &at(110)), Duration::from_secs(20));
        assert_eq!(status.waiting_for, ["node2"]);
        let expected = (ConditionStatus::False, "NodesPending".to_owned(), "waits for node2".to_owned());
        assert_eq!(said(&status, RELEASED), expected);
        assert_eq!(waits(&mut status, &nodes(&["node2"]), None, &at(130)), Duration::MAX);
        let (_, reason, message) = said(&status, RELEASED);
        assert_eq!(reason, "ReleaseDelayed");
        assert!(message.starts_with("waits for node2; see whether their agents run"), "{message}");
        let before = status.clone();
        waits(&mut status, &nodes(&["node2"]), None, &at(900));
        assert_eq!(status, before, "said once");
    }

    #[test]
    fn a_thousand_nodes_are_counted_where_they_cannot_be_named() {
        let many: Vec<NodeName> = (0..1_000).map(|n| NodeName::new(format!("node{n}"))).collect();
        let mut status = AddressClaimStatus::default();
        waits(&mut status, &many, None, &at(0));
        assert_eq!(status.waiting_for.len(), NAMED);
        assert!(said(&status, RELEASED).2.ends_with("node7 and 992 more"));
    }

    #[test]
    fn a_machine_that_answers_is_a_conflict_until_it_is_gone() {
        let mut status = AddressClaimStatus::default();
        bound(&mut status, &[], &Home::Named, None, &at(1));
        assert_eq!(status, AddressClaimStatus::default(), "a claim that is well says nothing");
        let rival =
            Rival { node: "node1".into(), interface: "eth0".into(), mac: Some("02:00:00:00:00:01".into()) };
        bound(&mut status, std::slice::from_ref(&rival), &Home::Named, None, &at(2));
        let (holds, reason, message) = said(&status, CONFLICT);
        assert_eq!((holds, reason.as_str()), (ConditionStatus::True, "InUseElsewhere"));
        assert!(message.starts_with("02:00:00:00:00:01 answers for it, seen by node1 on eth0;"), "{message}");
        bound(&mut status, &[], &Home::Named, None, &at(3));
        assert_eq!(said(&status, CONFLICT).1, "NotInUseElsewhere");
    }

    #[test]
    fn a_claim_follows_its_address_into_the_pool_that_holds_it() {
        let pool = |name: &str, created: i64, addresses: &str| {
            let mut pool = Pool::parse(name, [addresses]).unwrap();
            pool.created = Seconds(created);
            pool
        };
        let (named, address) = (PoolName::new("default"), "192.0.2.7".parse().unwrap());
        let default = pool("default", 3, "192.0.2.0/24");
        let public = pool("public", 2, "192.0.2.0/24");
        let wide = pool("wide", 1, "192.0.0.0/16");
        assert_eq!(home(&named, address, &[public.clone(), default]), Home::Named, "overlapping");
        let renamed = [public, wide.clone()];
        assert_eq!(home(&named, address, &renamed), Home::Moved("wide".into()), "the older of two");
        let edited = pool("default", 1, "198.51.100.0/24");
        assert_eq!(home(&named, address, &[edited.clone(), wide]), Home::Moved("wide".into()));
        assert_eq!(home(&named, address, &[edited]), Home::Lost);
        let mut status = AddressClaimStatus::default();
        bound(&mut status, &[], &Home::Lost, None, &at(1));
        assert_eq!(said(&status, IN_POOL).1, "PoolNotFound");
        bound(&mut status, &[], &Home::Named, None, &at(2));
        assert_eq!(said(&status, IN_POOL).1, "PoolFound");
    }
}
