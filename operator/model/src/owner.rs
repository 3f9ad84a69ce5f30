//! Which node answers for a public address (ARP, gratuitous ARP).
//!
//! Rendezvous hashing over the eligible nodes: every node computes the same owner without talking, and when a node
//! comes or goes only the addresses move that have to. A node is eligible while its Node is Ready and its EPICNode was
//! last Ready, so a dead agent on a live node keeps its addresses: its BPF programs still answer. When no node is
//! eligible, nothing is known rather than everything lost, and the owners stay (design §8, issue: API server gone).

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
}

/// The nodes that own addresses now.
///
/// `previous` is what this function answered before (empty at start). When no candidate is eligible the previous
/// nodes that still exist stay; when there are none of those either, all candidates are taken.
pub fn eligible(candidates: &[Candidate], previous: &BTreeSet<NodeName>) -> BTreeSet<NodeName> {
    let nodes = |filter: &dyn Fn(&&Candidate) -> bool| -> BTreeSet<NodeName> {
        candidates.iter().filter(filter).map(|candidate| candidate.node.clone()).collect()
    };
    let ready = nodes(&|candidate| candidate.node_ready && candidate.agent_ready);
    if !ready.is_empty() {
        return ready;
    }
    let stayed = nodes(&|candidate| previous.contains(&candidate.node));
    if stayed.is_empty() { nodes(&|_| true) } else { stayed }
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
        let candidate =
            |node: &str, node_ready, agent_ready| Candidate { node: node.into(), node_ready, agent_ready };
        let none = BTreeSet::new();
        let some = [candidate("a", true, true), candidate("b", false, true), candidate("c", true, false)];
        assert_eq!(eligible(&some, &none), ["a".into()].into());
    }

    #[test]
    fn the_owners_stay_when_no_node_is_ready() {
        let candidate = |node: &str| Candidate { node: node.into(), node_ready: false, agent_ready: true };
        let lost = [candidate("a"), candidate("b"), candidate("c")];
        let previous = ["a".into(), "b".into(), "gone".into()].into();
        assert_eq!(eligible(&lost, &previous), ["a".into(), "b".into()].into());
        assert_eq!(eligible(&lost, &BTreeSet::new()).len(), 3, "at start all are taken");
    }
}
