//! Which tunnels are up, as the agents of the EPIC nodes report it.
//!
//! An agent counts its tunnels and lists those that are down. One that is not listed is up, unless the list was cut off.
//! Agents of earlier releases list all their tunnels, up to 8,192 of them; one that is not listed there is one that they
//! do not have yet. What nobody says is not known: it is never taken for down.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use epic_crds::{EPICNode, NodeTunnels};
use epic_model::address;
use epic_model::id::NodeName;
use kube::ResourceExt;

/// How a tunnel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Its client says hello.
    Up,
    /// It does not.
    Down,
    /// It is not among those that are down. One that its node does not have yet is not, either.
    Unlisted,
    /// Its node has not said.
    Nothing,
}

/// What one node reports.
#[derive(Clone, Debug, PartialEq)]
struct Node {
    name: NodeName,
    listed: BTreeMap<i64, bool>,
    /// What one is that is not listed.
    unlisted: Said,
    /// Tunnels that are up.
    up: i64,
    /// Whether it is out of service: nothing is sent by its tunnels.
    out: bool,
}

/// What all nodes report, by their GUE address.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tunnels(BTreeMap<IpAddr, Node>);

impl Tunnels {
    /// What of an EPICNode is read here.
    pub fn part(node: &EPICNode) -> impl PartialEq + use<> {
        let status = node.status.clone().unwrap_or_default();
        (status.addresses, status.tunnels, node.out_of_service().is_some())
    }

    /// What these nodes report.
    pub fn of<'n>(nodes: impl Iterator<Item = &'n Arc<EPICNode>>) -> Self {
        let mut found = BTreeMap::new();
        for object in nodes {
            let Some(status) = &object.status else { continue };
            let (name, out): (NodeName, bool) = (object.name_any().into(), object.out_of_service().is_some());
            let node = match &status.tunnels {
                None => Node { name, listed: BTreeMap::new(), unlisted: Said::Nothing, up: 0, out },
                Some(tunnels) => Node {
                    name,
                    listed: tunnels.states.iter().map(|state| (state.tunnel_id, state.up)).collect(),
                    unlisted: unlisted(tunnels),
                    up: tunnels.up,
                    out,
                },
            };
            let addresses = status.addresses.iter().filter_map(|text| address::parse(text).ok());
            found.extend(addresses.map(|address| (address, node.clone())));
        }
        Self(found)
    }

    /// How the tunnel with this ID is, to the node with this GUE address.
    pub fn said(&self, epic_address: &str, tunnel_id: i64) -> Said {
        let Some(node) = self.at(epic_address) else { return Said::Nothing };
        match node.listed.get(&tunnel_id) {
            Some(true) => Said::Up,
            Some(false) => Said::Down,
            None => node.unlisted,
        }
    }

    /// The node with this GUE address.
    pub fn node(&self, epic_address: &str) -> Option<&NodeName> {
        self.at(epic_address).map(|node| &node.name)
    }

    /// Whether the node with this GUE address is out of service.
    pub fn is_out(&self, epic_address: &str) -> bool {
        self.at(epic_address).is_some_and(|node| node.out)
    }

    /// Whether some node has tunnels and hears nobody: nothing else makes [`crate::witness`] compare.
    pub fn has_deaf(&self) -> bool {
        self.0.values().any(|node| node.up == 0 && !node.listed.is_empty())
    }

    fn at(&self, epic_address: &str) -> Option<&Node> {
        self.0.get(&address::parse(epic_address).ok()?)
    }
}

fn unlisted(tunnels: &NodeTunnels) -> Said {
    let count = i64::try_from(tunnels.states.len()).unwrap_or(i64::MAX);
    let lists_up = tunnels.states.iter().any(|state| state.up);
    // Where all are listed, one that is not is new. Where some that are up are listed, so would this one be, or the
    // list was cut off.
    if tunnels.truncated || lists_up || count >= tunnels.total { Said::Nothing } else { Said::Unlisted }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn said(tunnels: Value, id: i64) -> Said {
        let node: EPICNode = serde_json::from_value(json!({
            "apiVersion": "epic.acnodal.io/v1", "kind": "EPICNode", "metadata": {"name": "n1", "namespace": "epic"},
            "status": {"addresses": ["192.168.77.101"], "tunnels": tunnels},
        }))
        .unwrap();
        Tunnels::of([Arc::new(node)].iter()).said("192.168.77.101", id)
    }

    fn states(states: &[(i64, bool)]) -> Value {
        let state = |(id, up): &(i64, bool)| json!({"tunnel-id": id, "up": up, "nat": false, "since": "2026-01-01T00:00:00Z"});
        states.iter().map(state).collect()
    }

    #[test]
    fn an_agent_that_lists_what_is_down_says_of_all_others_that_they_are_not() {
        let tunnels = json!({"up": 2, "down": 1, "total": 3, "states": states(&[(4, false)])});
        assert_eq!((said(tunnels.clone(), 4), said(tunnels, 5)), (Said::Down, Said::Unlisted));
        assert_eq!(said(json!({"up": 2, "down": 0, "total": 2}), 5), Said::Unlisted);
    }

    #[test]
    fn what_was_cut_off_or_never_reported_is_not_known() {
        let cut = json!({"up": 2, "down": 2, "total": 4, "truncated": true, "states": states(&[(4, false)])});
        assert_eq!((said(cut.clone(), 4), said(cut, 5)), (Said::Down, Said::Nothing));
        assert_eq!(said(json!(null), 5), Said::Nothing);
        assert_eq!(said(json!({"up": 0, "down": 0, "total": 0}), 5), Said::Nothing, "it has none yet");
        assert_eq!(Tunnels::default().said("192.168.77.101", 5), Said::Nothing);
        assert_eq!(Tunnels::default().said("nonsense", 5), Said::Nothing);
    }

    #[test]
    fn an_agent_of_an_earlier_release_lists_them_all_until_there_are_too_many() {
        let all = json!({"up": 1, "down": 1, "total": 2, "states": states(&[(4, false), (5, true)])});
        assert_eq!(
            (said(all.clone(), 4), said(all.clone(), 5), said(all, 6)),
            (Said::Down, Said::Up, Said::Nothing)
        );
        let cut = json!({"up": 9_000, "down": 1, "total": 9_001, "states": states(&[(4, false), (5, true)])});
        assert_eq!((said(cut.clone(), 5), said(cut, 9)), (Said::Up, Said::Nothing), "healthy, and not down");
    }
}
