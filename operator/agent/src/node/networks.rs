//! The networks of the EPIC cluster itself, which programs tell from the internet by sets of source ranges: who may scrape
//! proxies, and to whom no reply is led out.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use epic_abi::Ip;
use epic_abi::maps::{SET_CLUSTER, SET_OWN_PODS, SourceRange, SourceRangeKey};
use epic_crds::EPIC;
use epic_datapath::{Error, SourcePrefix, Table};
use epic_model::address::parse_network;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;

/// Bits of a key before those of an IPv6 address: the set. The v4-mapped prefix of an IPv4 address is 96 more.
const SET_BITS: u8 = 32;

/// What the sets hold for the node `here`: its own pods by `podCIDRs`; all pods likewise, all addresses of nodes, and what the
/// EPIC object adds.
pub(super) fn of(nodes: &[Arc<Node>], here: &str, epic: &EPIC) -> BTreeSet<SourcePrefix> {
    let own = nodes.iter().filter(|node| node.name_any() == here).flat_map(|node| pods(node));
    let own = own.map(|network| prefix(SET_OWN_PODS, &network));
    let more = epic.spec.scraper_networks.iter().filter_map(|text| parse_network(text).ok());
    let cluster = nodes.iter().flat_map(|node| pods(node).chain(addresses(node))).chain(more);
    own.chain(cluster.map(|network| prefix(SET_CLUSTER, &network))).collect()
}

fn pods(node: &Node) -> impl Iterator<Item = IpNet> + '_ {
    let spec = node.spec.iter();
    let named = spec.flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
    named.filter_map(|text| text.parse().ok())
}

fn addresses(node: &Node) -> impl Iterator<Item = IpNet> + '_ {
    let listed = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let of_nodes = listed.filter(|address| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP"));
    of_nodes.filter_map(|address| address.address.parse::<IpAddr>().ok().map(IpNet::from))
}

fn prefix(set: u32, network: &IpNet) -> SourcePrefix {
    let mapped = if matches!(network, IpNet::V4(_)) { 96 } else { 0 };
    let bits = u32::from(SET_BITS + mapped + network.prefix_len());
    SourcePrefix { bits, key: SourceRangeKey { set, address: Ip::from(network.network()) } }
}

/// Makes the sets hold this and nothing else. Sets of services are not touched. What is new is written first.
pub(super) fn write(
    map: &Table<SourcePrefix, SourceRange>,
    wanted: &BTreeSet<SourcePrefix>,
) -> Result<(), Error> {
    let held = map.entries()?;
    for network in wanted.iter().filter(|network| !held.contains_key(network)) {
        map.set(network, &SourceRange::default())?;
    }
    let ours = |network: &&SourcePrefix| matches!(network.key.set, SET_OWN_PODS | SET_CLUSTER);
    for stray in held.keys().filter(ours).filter(|network| !wanted.contains(network)) {
        map.remove(stray)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    fn node(name: &str, pods: &[&str], address: &str) -> Arc<Node> {
        let node = json!({
            "metadata": {"name": name},
            "spec": {"podCIDR": pods.first(), "podCIDRs": pods},
            "status": {"addresses": [
                {"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name},
            ]},
        });
        Arc::new(serde_json::from_value(node).expect("a Node"))
    }

    fn epic(scrapers: &[&str]) -> EPIC {
        let epic = json!({"metadata": {"name": "epic"}, "spec": {"scraper-networks": scrapers}});
        serde_json::from_value(epic).expect("an EPIC object")
    }

    fn shown(sets: &BTreeSet<SourcePrefix>, set: u32) -> Vec<String> {
        let of_set = sets.iter().filter(|network| network.key.set == set);
        let mut shown: Vec<_> = of_set.map(|net| format!("{} {}", net.key.address, net.bits)).collect();
        shown.sort();
        shown
    }

    #[test]
    fn own_pods_are_those_of_this_node_and_scrapers_everybody_of_the_cluster() {
        let nodes = [
            node("a", &["10.244.1.0/24", "fd00:1::/64"], "192.0.2.11"),
            node("b", &["10.244.2.0/24"], "2001:db8::b"),
        ];
        let sets = of(&nodes, "a", &epic(&["172.31.0.0/16"]));
        assert_eq!(shown(&sets, SET_OWN_PODS), ["10.244.1.0 152", "fd00:1:: 96"]);
        let cluster = shown(&sets, SET_CLUSTER);
        let wanted = [
            "10.244.1.0 152",
            "10.244.2.0 152",
            "172.31.0.0 144",
            "192.0.2.11 160",
            "2001:db8::b 160",
            "fd00:1:: 96",
        ];
        assert_eq!(cluster, wanted);
    }

    #[test]
    fn a_node_that_names_nothing_adds_nothing_and_nonsense_is_left_out() {
        let nodes = [node("a", &[], "no address"), node("b", &["no network"], "192.0.2.12")];
        let sets = of(&nodes, "a", &epic(&[]));
        assert_eq!(shown(&sets, SET_OWN_PODS), Vec::<String>::new());
        assert_eq!(shown(&sets, SET_CLUSTER), ["192.0.2.12 160"]);
    }
}
