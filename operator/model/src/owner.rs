//! Which node answers for a public address (ARP, gratuitous ARP).
//!
//! Rendezvous hashing over the eligible nodes: every node computes the same owner without talking, and when a node
//! comes or goes only the addresses move that have to. A node is eligible while its Node is Ready, its EPICNode was last
//! Ready, in the boot that the Node is in now, and the operator has not taken it out of service. So a dead agent on a live
//! node keeps its addresses, for its BPF programs still answer, and one that has not come back from a reboot has none. When
//! no node is eligible, nothing is known rather than everything lost, and the owners stay (design §8, issue: API server
//! gone). All of it is read from objects, so all nodes decide alike.
//!
//! Nodes that run a proxy come before those that run none: a silent agent is one witness, the xDS streams of the node's
//! proxies are the other ([`crate::in_service`]), and a node without proxies could fail unseen. It is the proxies of
//! any LoadBalancer that count, as they do for that verdict. Counted by LoadBalancer, every roll-out would move its
//! address; counted by node, an address moves when the first proxy of a node serves or the last one is gone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use sha2::{Digest, Sha256};

use crate::id::NodeName;

/// A node that may own addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: NodeName,
    /// Whether its Node is Ready.
    pub node_ready: bool,
    /// Whether its EPICNode was last Ready, however long ago.
    pub agent_ready: bool,
    /// Whether the node has been booted since: its programs and maps are lost.
    pub rebooted: bool,
    /// Whether the operator has taken it out of service (condition `InService` is False).
    pub out_of_service: bool,
    /// Whether a proxy of any LoadBalancer serves on it: takes flows, or drains those that it has.
    pub runs_proxy: bool,
}

impl Candidate {
    fn is_ready(&self) -> bool {
        self.node_ready && self.agent_ready && !self.rebooted
    }
}

/// The nodes that own addresses now.
///
/// `previous` is what this function answered before (empty at start). A node out of service is one only while no other
/// is Ready, and one that runs no proxy while no other in service runs one. When none is Ready, the previous nodes that still exist stay; when there are none of those either, all candidates
/// are taken. A node that was rebooted and has not reported since is never one: nothing on it could answer.
pub fn eligible(candidates: &[Candidate], previous: &BTreeSet<NodeName>) -> BTreeSet<NodeName> {
    let nodes = |filter: &dyn Fn(&Candidate) -> bool| -> BTreeSet<NodeName> {
        let found = candidates.iter().filter(|candidate| !candidate.rebooted && filter(candidate));
        found.map(|candidate| candidate.node.clone()).collect()
    };
    let is_in_service = |candidate: &Candidate| candidate.is_ready() && !candidate.out_of_service;
    let with_proxies = nodes(&|candidate| is_in_service(candidate) && candidate.runs_proxy);
    if !with_proxies.is_empty() {
        return with_proxies;
    }
    let in_service = nodes(&is_in_service);
    if !in_service.is_empty() {
        return in_service;
    }
    let ready = nodes(&Candidate::is_ready);
    if !ready.is_empty() {
        return ready;
    }
    let stayed = nodes(&|candidate| previous.contains(&candidate.node));
    if stayed.is_empty() { nodes(&|_| true) } else { stayed }
}

/// Whether the proxies of a node may take new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// They may.
    InService,
    /// They keep the flows they have.
    OutOfService,
    /// They have lost everything: their gates were opened in an earlier boot.
    Rebooted,
}

impl Candidate {
    /// Whether its proxies may take new flows.
    pub fn service(&self) -> Service {
        match (self.rebooted, self.out_of_service) {
            (true, _) => Service::Rebooted,
            (false, true) => Service::OutOfService,
            (false, false) => Service::InService,
        }
    }
}

/// The owner of an address among nodes: the one with the highest hash of (address, node). `None` without nodes.
pub fn owner<'n>(address: IpAddr, nodes: impl IntoIterator<Item = &'n NodeName>) -> Option<&'n NodeName> {
    nodes.into_iter().max_by_key(|node| (score(address, node), *node))
}

/// All nodes, best owner first: whom to ask next when the first is gone.
pub fn ranking<'n>(address: IpAddr, nodes: impl IntoIterator<Item = &'n NodeName>) -> Vec<&'n NodeName> {
    let mut ranked: Vec<&NodeName> = nodes.into_iter().collect();
    ranked.sort_by_key(|node| std::cmp::Reverse((score(address, node), *node)));
    ranked
}

/// The first 8 bytes of SHA-256 over the address (16 bytes, IPv4 mapped) and the node's name. Every node must compute
/// the same, in every version: do not change it.
fn score(address: IpAddr, node: &NodeName) -> u64 {
    let octets = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let digest = Sha256::new().chain_update(octets).chain_update(node.as_str()).finalize();
    digest[..8].iter().fold(0, |score, byte| score << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nodes(count: usize) -> Vec<NodeName> {
        (1..=count).map(|number| NodeName::new(format!("node{number}"))).collect()
    }

    fn candidate(node: &str) -> Candidate {
        Candidate {
            node: node.into(),
            node_ready: true,
            agent_ready: true,
            rebooted: false,
            out_of_service: false,
            runs_proxy: true,
        }
    }

    fn address(number: u32) -> IpAddr {
        IpAddr::V4((0xc0a8_4d00 + number).into())
    }

    #[test]
    fn the_owner_is_the_same_on_every_node_and_in_every_version() {
        let nodes = nodes(3);
        let owners: Vec<&str> = (2..8).map(|last| owner(address(last), &nodes).unwrap().as_str()).collect();
        let reversed: Vec<&str> =
            (2..8).map(|last| owner(address(last), nodes.iter().rev()).unwrap().as_str()).collect();
        assert_eq!(owners, reversed);
        assert_eq!(owners.join(" "), "node3 node1 node1 node1 node3 node1");
        assert_eq!(owner(address(2), &[]), None);
        assert_eq!(
            owner("::ffff:192.168.77.2".parse().unwrap(), &nodes),
            owner("192.168.77.2".parse().unwrap(), &nodes)
        );
    }

    #[test]
    fn only_the_addresses_of_a_lost_node_move_and_they_spread() {
        let (all, fewer) = (nodes(4), nodes(3));
        let mut moved = 0;
        for number in 0..1000 {
            let (before, after) = (owner(address(number), &all), owner(address(number), &fewer));
            if before == all.last() {
                moved += 1;
                assert_eq!(after, Some(ranking(address(number), &all)[1]));
            } else {
                assert_eq!(before, after);
            }
        }
        assert!((180..320).contains(&moved), "{moved} of 1000 addresses were on the fourth node");
    }

    #[test]
    fn a_dead_agent_on_a_live_node_keeps_its_addresses_and_a_dead_node_does_not() {
        let some = [
            candidate("a"),
            Candidate { node_ready: false, ..candidate("b") },
            Candidate { agent_ready: false, ..candidate("c") },
        ];
        assert_eq!(eligible(&some, &BTreeSet::new()), ["a".into()].into());
    }

    #[test]
    fn a_node_that_was_booted_since_it_was_ready_owns_nothing_even_if_nobody_else_is_there() {
        let rebooted = || Candidate { rebooted: true, ..candidate("a") };
        let previous: BTreeSet<NodeName> = ["a".into()].into();
        assert_eq!(eligible(&[rebooted(), candidate("b")], &previous), ["b".into()].into());
        let lost = Candidate { node_ready: false, ..candidate("b") };
        assert_eq!(eligible(&[rebooted(), lost], &previous), ["b".into()].into());
        assert_eq!(eligible(&[rebooted()], &previous), BTreeSet::new());
        assert_eq!(rebooted().service(), Service::Rebooted);
    }

    #[test]
    fn a_node_out_of_service_owns_nothing_while_another_one_is_ready() {
        let out = || Candidate { out_of_service: true, ..candidate("a") };
        let previous: BTreeSet<NodeName> = ["a".into(), "b".into()].into();
        assert_eq!(eligible(&[out(), candidate("b")], &previous), ["b".into()].into());
        let lost = Candidate { agent_ready: false, ..candidate("b") };
        assert_eq!(eligible(&[out(), lost], &previous), ["a".into()].into(), "better it than none");
        assert_eq!(out().service(), Service::OutOfService);
    }

    #[test]
    fn the_owners_stay_when_no_node_is_ready() {
        let lost = ["a", "b", "c"].map(|node| Candidate { node_ready: false, ..candidate(node) });
        let previous = ["a".into(), "b".into(), "gone".into()].into();
        assert_eq!(eligible(&lost, &previous), ["a".into(), "b".into()].into());
        assert_eq!(eligible(&lost, &BTreeSet::new()).len(), 3, "at start all are taken");
    }

    #[test]
    fn a_node_without_a_proxy_owns_nothing_while_another_one_in_service_runs_one() {
        let idle = |node: &str| Candidate { runs_proxy: false, ..candidate(node) };
        let none = BTreeSet::new();
        assert_eq!(eligible(&[idle("a"), candidate("b")], &none), ["b".into()].into());
        let previous: BTreeSet<NodeName> = ["a".into()].into();
        assert_eq!(
            eligible(&[idle("a"), candidate("b")], &previous),
            ["b".into()].into(),
            "agents that know different pasts agree"
        );
        let out = Candidate { out_of_service: true, ..candidate("b") };
        assert_eq!(eligible(&[idle("a"), out], &none), ["a".into()].into(), "a proxy alone makes no owner");
        assert_eq!(eligible(&[idle("a"), idle("b")], &none).len(), 2, "nobody runs one yet");
    }

    fn any_candidate(node: usize) -> impl Strategy<Value = Candidate> {
        any::<[bool; 5]>().prop_map(move |[node_ready, agent_ready, rebooted, out_of_service, runs_proxy]| {
            let node = NodeName::new(format!("node{node}"));
            Candidate { node, node_ready, agent_ready, rebooted, out_of_service, runs_proxy }
        })
    }

    fn clusters() -> impl Strategy<Value = Vec<Candidate>> {
        (0..7_usize).prop_flat_map(|count| (0..count).map(any_candidate).collect::<Vec<_>>())
    }

    fn owners(eligible: &BTreeSet<NodeName>) -> Vec<Option<NodeName>> {
        (0..64).map(|number| owner(address(number), eligible).cloned()).collect()
    }

    proptest! {
        #[test]
        fn without_proxies_and_with_one_on_each_node_the_owners_are_the_same(cluster in clusters()) {
            let all = |runs_proxy: bool| -> Vec<Candidate> {
                cluster.iter().map(|candidate| Candidate { runs_proxy, ..candidate.clone() }).collect()
            };
            let previous = cluster.iter().step_by(2).map(|candidate| candidate.node.clone()).collect();
            prop_assert_eq!(eligible(&all(false), &previous), eligible(&all(true), &previous));
        }

        #[test]
        fn proxies_decide_among_nodes_in_service_and_put_no_other_in_their_place(cluster in clusters()) {
            let idle: Vec<Candidate> =
                cluster.iter().map(|candidate| Candidate { runs_proxy: false, ..candidate.clone() }).collect();
            let (all, found) = (eligible(&idle, &BTreeSet::new()), eligible(&cluster, &BTreeSet::new()));
            prop_assert!(found.is_subset(&all) && found.is_empty() == all.is_empty(), "{found:?} of {all:?}");
        }

        /// Once somewhere a proxy serves, one that comes takes only what its node owns then, and one that goes gives
        /// away only what its node owned.
        #[test]
        fn a_proxy_that_comes_or_goes_moves_addresses_of_its_own_node_alone(
            cluster in clusters(), at in any::<prop::sample::Index>(),
        ) {
            let cluster = [cluster, vec![candidate("serving"), candidate("other")]].concat();
            let at = at.index(cluster.len());
            let with = |runs_proxy: bool| {
                let mut cluster = cluster.clone();
                cluster[at].runs_proxy = runs_proxy;
                cluster
            };
            let node = &cluster[at].node;
            let [before, after] = [false, true].map(|runs| owners(&eligible(&with(runs), &BTreeSet::new())));
            for (before, after) in before.iter().zip(&after) {
                prop_assert!(before == after || after.as_ref() == Some(node), "{before:?} → {after:?}");
            }
        }
    }
}
