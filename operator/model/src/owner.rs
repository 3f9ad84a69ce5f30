//! Which node answers for a public address (ARP, gratuitous ARP).
//!
//! Rendezvous hashing over the eligible nodes: every node computes the same owner without talking, and when a node
//! comes or goes only the addresses move that have to. A node is eligible while its Node is Ready, its EPICNode was last
//! Ready, in the boot that the Node is in now, and the operator has not taken it out of service. So a dead agent on a live
//! node keeps its addresses, for its BPF programs still answer, and one that has not come back from a reboot has none. When
//! no node is eligible, nothing is known rather than everything lost, and the owners stay (design §8, issue: API server
//! gone). All of it is read from objects, so all nodes decide alike.

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
}

impl Candidate {
    fn is_ready(&self) -> bool {
        self.node_ready && self.agent_ready && !self.rebooted
    }
}

/// The nodes that own addresses now.
///
/// `previous` is what this function answered before (empty at start). A node out of service is one only while no other
/// is Ready. When none is, the previous nodes that still exist stay; when there are none of those either, all candidates
/// are taken. A node that was rebooted and has not reported since is never one: nothing on it could answer.
pub fn eligible(candidates: &[Candidate], previous: &BTreeSet<NodeName>) -> BTreeSet<NodeName> {
    let nodes = |filter: &dyn Fn(&Candidate) -> bool| -> BTreeSet<NodeName> {
        let found = candidates.iter().filter(|candidate| !candidate.rebooted && filter(candidate));
        found.map(|candidate| candidate.node.clone()).collect()
    };
    let in_service = nodes(&|candidate| candidate.is_ready() && !candidate.out_of_service);
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
}
