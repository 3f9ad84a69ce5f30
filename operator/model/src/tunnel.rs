//! Tunnels: which are wanted, which are freed, and how a LoadBalancer's status shows them.
//!
//! One tunnel for every (LoadBalancer, client node, EPIC node). It is wanted while the client node has an Endpoint
//! and the EPIC node a proxy; it outlasts a proxy by ten minutes, so a roll-out that moves proxies about renumbers
//! nothing. It is freed at once when the last Endpoint of the client node goes (design §4).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::allocation::{Counter, Slot, tunnel_subkey};
use crate::id::{Seconds, TunnelId};

/// The most client nodes of a LoadBalancer. Endpoints on others are refused.
pub const MAX_CLIENT_NODES: usize = 250;
/// The most alternates of a client node, beside the main entry. Proxies on further EPIC nodes take no traffic.
pub const MAX_ALTERNATES: usize = 8;
/// How long an EPIC node without proxy keeps its tunnels, in seconds.
pub const LINGER_SECONDS: i64 = 600;

/// One tunnel of a LoadBalancer, by its two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// The client node's `node-address`.
    pub client: IpAddr,
    /// The EPIC node's GUE address.
    pub epic: IpAddr,
}

/// An EPIC node that has, or had, proxies of the LoadBalancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpicNode {
    /// Its GUE address.
    pub address: IpAddr,
    /// Since when it has had no proxy of the LoadBalancer; `None` while it has one, whatever its state. After a
    /// restart of the operator: since then.
    pub without_proxy_since: Option<Seconds>,
}

/// What is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The tunnels that should exist.
    pub pairs: BTreeSet<Pair>,
    /// When the next tunnel is due to be freed.
    pub next_due: Option<Seconds>,
}

/// The tunnels that should exist.
///
/// `clients` are the node addresses of accepted Endpoints, those of the oldest first; `nodes` in any order;
/// `granted` are the tunnels in the status. What is granted goes before what is new, so a limit takes nothing away;
/// but a node that only lingers makes room for one with a proxy.
pub fn wanted(
    clients: &[IpAddr],
    nodes: &[EpicNode],
    granted: &BTreeMap<Pair, TunnelId>,
    now: Seconds,
) -> Wanted {
    let has_client = |client: &IpAddr| granted.keys().any(|pair| pair.client == *client);
    let has_node = |node: &IpAddr| granted.keys().any(|pair| pair.epic == *node);
    let clients = first(clients.iter().copied(), |client| !has_client(client), MAX_CLIENT_NODES);
    let lingering = |node: &&EpicNode| {
        node.without_proxy_since
            .is_none_or(|since| now.since(since) < LINGER_SECONDS && has_node(&node.address))
    };
    let mut alive: Vec<&EpicNode> = nodes.iter().filter(lingering).collect();
    alive.sort_by_key(|node| (node.without_proxy_since.is_some(), !has_node(&node.address), node.address));
    alive.truncate(MAX_ALTERNATES + 1);
    let mut wanted = Wanted::default();
    for EpicNode { address, without_proxy_since: since } in alive {
        for client in &clients {
            let pair = Pair { client: *client, epic: *address };
            // Nothing new for a node that only lingers.
            if since.is_none() || granted.contains_key(&pair) {
                wanted.pairs.insert(pair);
            }
        }
        if let Some(since) = *since {
            let due = Seconds(since.0.saturating_add(LINGER_SECONDS));
            wanted.next_due = Some(wanted.next_due.map_or(due, |known| known.min(due)));
        }
    }
    wanted
}

/// The first `limit` of the values, each once, with those that are new behind all others.
fn first(
    values: impl Iterator<Item = IpAddr>,
    is_new: impl Fn(&IpAddr) -> bool,
    limit: usize,
) -> Vec<IpAddr> {
    let mut seen = BTreeSet::new();
    let mut kept: Vec<IpAddr> = values.filter(|value| seen.insert(*value)).collect();
    kept.sort_by_key(is_new);
    kept.truncate(limit);
    kept
}

/// The places for tunnel IDs of a LoadBalancer: one for each tunnel that is wanted or granted.
pub fn slots(wanted: &Wanted, granted: &BTreeMap<Pair, TunnelId>) -> Vec<Slot> {
    let all: BTreeSet<Pair> = wanted.pairs.iter().chain(granted.keys()).copied().collect();
    all.into_iter()
        .map(|pair| {
            let id = granted.get(&pair).map(|id| id.get());
            let is_wanted = wanted.pairs.contains(&pair);
            Slot::keyed(Counter::Tunnel, tunnel_subkey(pair.client, pair.epic), id, is_wanted)
        })
        .collect()
}

/// One end of a tunnel, as `gue-tunnel-endpoints` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelEnd {
    /// The EPIC node's GUE address.
    pub epic_address: IpAddr,
    /// Its UDP port.
    pub port: u16,
    /// The tunnel's ID.
    pub tunnel_id: TunnelId,
}

/// The tunnels of one client node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelEntry {
    /// The tunnel to the primary proxy's node; while there is none, the one with the lowest ID.
    pub main: TunnelEnd,
    /// Those to further EPIC nodes, by address.
    pub alternates: Vec<TunnelEnd>,
}

impl TunnelEntry {
    /// All tunnels, the main one first.
    pub fn all(&self) -> impl Iterator<Item = &TunnelEnd> {
        std::iter::once(&self.main).chain(&self.alternates)
    }
}

/// `gue-tunnel-endpoints`, by client node.
///
/// `primary` is the GUE address of the primary proxy's node ([`crate::proxy::primary`]).
pub fn render(
    granted: &BTreeMap<Pair, TunnelId>,
    primary: Option<IpAddr>,
    port: u16,
) -> BTreeMap<IpAddr, TunnelEntry> {
    let mut ends: BTreeMap<IpAddr, Vec<TunnelEnd>> = BTreeMap::new();
    for (pair, tunnel_id) in granted {
        let end = TunnelEnd { epic_address: pair.epic, port, tunnel_id: *tunnel_id };
        ends.entry(pair.client).or_default().push(end);
    }
    ends.into_iter()
        .filter_map(|(client, mut ends)| {
            let main = ends
                .iter()
                .enumerate()
                .min_by_key(|(_, end)| (Some(end.epic_address) != primary, end.tunnel_id))
                .map(|(index, _)| index)?;
            let main = ends.remove(main);
            ends.sort_by_key(|end| end.epic_address);
            Some((client, TunnelEntry { main, alternates: ends }))
        })
        .collect()
}

/// The tunnel that an Endpoint's status names: the one it had while that exists, else its node's main one.
pub fn of_endpoint(current: Option<TunnelId>, entry: Option<&TunnelEntry>) -> Option<TunnelId> {
    let entry = entry?;
    current.filter(|current| entry.all().any(|end| end.tunnel_id == *current)).or(Some(entry.main.tunnel_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn id(value: u32) -> TunnelId {
        TunnelId::new(value).unwrap()
    }

    fn node(address: &str, without_proxy_since: Option<i64>) -> EpicNode {
        EpicNode { address: ip(address), without_proxy_since: without_proxy_since.map(Seconds) }
    }

    fn pair(client: &str, epic: &str) -> Pair {
        Pair { client: ip(client), epic: ip(epic) }
    }

    #[test]
    fn every_client_node_has_a_tunnel_to_every_node_with_a_proxy() {
        let clients = [ip("10.0.0.1"), ip("10.0.0.2"), ip("10.0.0.1")];
        let nodes = [node("192.0.2.1", None), node("192.0.2.2", None)];
        let wanted = wanted(&clients, &nodes, &BTreeMap::new(), Seconds(0));
        assert_eq!(wanted.pairs.len(), 4);
        assert_eq!(slots(&wanted, &BTreeMap::new())[0].subkey, "10.0.0.1/192.0.2.1");
    }

    #[test]
    fn a_tunnel_is_freed_with_the_last_endpoint_of_its_node() {
        let granted = [(pair("10.0.0.1", "192.0.2.1"), id(1))].into();
        let wanted = wanted(&[], &[node("192.0.2.1", None)], &granted, Seconds(0));
        assert_eq!(
            slots(&wanted, &granted),
            [Slot::keyed(Counter::Tunnel, "10.0.0.1/192.0.2.1", Some(1), false)]
        );
    }

    #[test]
    fn a_tunnel_outlasts_the_last_proxy_by_ten_minutes() {
        let granted = [(pair("10.0.0.1", "192.0.2.1"), id(1))].into();
        let clients = [ip("10.0.0.1"), ip("10.0.0.2")];
        let at = |now| wanted(&clients, &[node("192.0.2.1", Some(100))], &granted, Seconds(now));
        let lingering = at(699);
        assert_eq!(lingering.pairs, [pair("10.0.0.1", "192.0.2.1")].into(), "and nothing new is made");
        assert_eq!(lingering.next_due, Some(Seconds(700)));
        assert_eq!(at(700).pairs, BTreeSet::new());
        assert_eq!(at(700).next_due, None);
    }

    #[test]
    fn limits_keep_what_is_granted_and_leave_out_what_is_new() {
        let clients: Vec<IpAddr> =
            (0..=250).map(|last| ip(&format!("10.0.{}.{}", last / 250, last % 250))).collect();
        let nodes: Vec<EpicNode> = (1..=10).map(|last| node(&format!("192.0.2.{last}"), None)).collect();
        let granted: BTreeMap<Pair, TunnelId> = [(pair("10.0.1.0", "192.0.2.10"), id(5))].into();
        let wanted = wanted(&clients, &nodes, &granted, Seconds(0));
        assert_eq!(wanted.pairs.len(), 250 * 9);
        assert!(wanted.pairs.contains(&pair("10.0.1.0", "192.0.2.10")));
        assert!(!wanted.pairs.iter().any(|pair| pair.client == ip("10.0.0.249")));
        assert!(!wanted.pairs.iter().any(|pair| pair.epic == ip("192.0.2.9")));
    }

    #[test]
    fn nodes_that_only_linger_make_room_for_nodes_with_a_proxy() {
        let gone = (1..=9).map(|last| node(&format!("192.0.2.{last}"), Some(0)));
        let come = (1..=5).map(|last| node(&format!("198.51.100.{last}"), None));
        let nodes: Vec<EpicNode> = gone.chain(come).collect();
        let granted: BTreeMap<Pair, TunnelId> =
            (1..=9).map(|last| (pair("10.0.0.1", &format!("192.0.2.{last}")), id(last))).collect();
        let wanted = wanted(&[ip("10.0.0.1")], &nodes, &granted, Seconds(1));
        let epic: Vec<String> = wanted.pairs.iter().map(|pair| pair.epic.to_string()).collect();
        let expected: Vec<String> = (1..=4)
            .map(|last| format!("192.0.2.{last}"))
            .chain((1..=5).map(|last| format!("198.51.100.{last}")))
            .collect();
        assert_eq!(epic, expected);
    }

    #[test]
    fn the_main_entry_is_the_primary_proxys_node() {
        let granted = [
            (pair("10.0.0.1", "192.0.2.1"), id(2)),
            (pair("10.0.0.1", "192.0.2.2"), id(1)),
            (pair("10.0.0.1", "192.0.2.3"), id(3)),
        ]
        .into();
        let entry = &render(&granted, Some(ip("192.0.2.1")), 6080)[&ip("10.0.0.1")];
        assert_eq!(entry.main.tunnel_id, id(2));
        let alternates: Vec<IpAddr> = entry.alternates.iter().map(|end| end.epic_address).collect();
        assert_eq!(alternates, [ip("192.0.2.2"), ip("192.0.2.3")]);
        assert_eq!(render(&granted, None, 6080)[&ip("10.0.0.1")].main.tunnel_id, id(1));
    }

    #[test]
    fn an_endpoint_keeps_its_tunnel_until_that_is_freed() {
        let granted = [(pair("10.0.0.1", "192.0.2.1"), id(2)), (pair("10.0.0.1", "192.0.2.2"), id(1))].into();
        let map = render(&granted, Some(ip("192.0.2.1")), 6080);
        let entry = map.get(&ip("10.0.0.1"));
        assert_eq!(of_endpoint(None, entry), Some(id(2)));
        assert_eq!(of_endpoint(Some(id(1)), entry), Some(id(1)));
        assert_eq!(of_endpoint(Some(id(9)), entry), Some(id(2)));
        assert_eq!(of_endpoint(Some(id(1)), None), None);
    }
}
