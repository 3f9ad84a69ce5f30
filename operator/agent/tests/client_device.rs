//! The client node's own device, the routes around it, and its nftables table.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::IpAddr;
use std::time::Duration;

use epic_agent::netlink::Netlink;
use epic_agent::netlink::watch::{Interest, Watch};
use epic_agent::{device, nft};
use epic_testnet::{Netns, veth};
use ipnet::IpNet;

const DEADLINE: Duration = Duration::from_secs(10);

fn ranges() -> Vec<IpNet> {
    vec!["100.64.0.0/11".parse().unwrap()]
}

/// A client host with one interface towards the internet.
fn host() -> (Netns, Netns) {
    let host = Netns::new("client");
    let router = Netns::new("router");
    veth(&host, "nic0", &router, "lan0");
    host.ip("addr add 192.168.77.20/24 dev nic0");
    host.ip("route add default via 192.168.77.1");
    (host, router)
}

#[test]
fn the_device_owns_the_route_to_the_proxies_and_has_no_arp() {
    let (host, _router) = host();
    let seen = host.clone();
    host.run_async(DEADLINE, || async move {
        let netlink = Netlink::connect().unwrap();
        let made = device::ensure(&netlink, 1448, &ranges(), true).await.unwrap();
        let again = device::ensure(&netlink, 1448, &ranges(), true).await.unwrap();
        assert_eq!(made, again, "a second run changes nothing");

        let path = netlink.path_to("100.64.0.1".parse().unwrap()).await.unwrap();
        assert_eq!((path.ifindex, path.gateway), (made.ifindex, None));
        let shown = seen.ip("link show epic0");
        assert!(shown.contains("NOARP") && shown.contains("mtu 1448") && shown.contains("UP"), "{shown}");
        assert!(shown.contains("02:00:45:50:49:43"), "{shown}");
    });
}

#[test]
fn a_second_run_tells_nobody_who_follows_routes() {
    let (host, _router) = host();
    let seen = host.clone();
    host.run_async(DEADLINE, || async move {
        let netlink = Netlink::connect().unwrap();
        let both: Vec<IpNet> = vec!["100.64.0.0/11".parse().unwrap(), "fd00:1:2:3::/64".parse().unwrap()];
        device::ensure(&netlink, 1448, &both, true).await.unwrap();
        let mut watch = Watch::open(Interest::Routes).unwrap();
        device::ensure(&netlink, 1448, &both, true).await.unwrap();
        // Whatever the second run did comes before this; messages of one socket keep their order.
        seen.ip("link add marker type bridge");
        let changed = watch.changed().await.unwrap();
        assert!(changed.links && !changed.addresses && !changed.routes, "{changed:?}");
    });
}

#[test]
fn a_host_that_cannot_route_ipv6_is_served_by_ipv4() {
    let both: Vec<IpNet> = vec!["100.64.0.0/11".parse().unwrap(), "fd00:1:2:3::/64".parse().unwrap()];
    // Below 1280 bytes the kernel takes IPv6 off a device.
    for (disabled, mtu) in [("1", 1448), ("0", 1270)] {
        let (host, _router) = host();
        for which in ["all", "default"] {
            host.command("sysctl", &["-qw", &format!("net.ipv6.conf.{which}.disable_ipv6={disabled}")]);
        }
        let (seen, both) = (host.clone(), both.clone());
        host.run_async(DEADLINE, || async move {
            let netlink = Netlink::connect().unwrap();
            let made = device::ensure(&netlink, mtu, &both, true).await.unwrap();
            let path = netlink.path_to("100.64.0.1".parse().unwrap()).await.unwrap();
            assert_eq!((path.ifindex, path.gateway), (made.ifindex, None));
            assert!(!seen.ip("-6 route show table all").contains("fd00:1:2:3::"));
        });
    }
}

#[test]
fn a_new_mtu_and_new_ranges_replace_the_old_ones() {
    let (host, _router) = host();
    let seen = host.clone();
    host.run_async(DEADLINE, || async move {
        let netlink = Netlink::connect().unwrap();
        device::ensure(&netlink, 1448, &ranges(), true).await.unwrap();
        device::ensure(&netlink, 1348, &["100.96.0.0/12".parse().unwrap()], true).await.unwrap();
        assert_eq!(
            seen.ip("route show dev epic0").trim().trim_end_matches(" linkdown"),
            "100.96.0.0/12 proto static scope link"
        );
        assert!(seen.ip("link show epic0").contains("mtu 1348"));
    });
}

#[test]
fn nothing_is_left_after_removal() {
    let (host, _router) = host();
    let seen = host.clone();
    host.run_async(DEADLINE, || async move {
        let netlink = Netlink::connect().unwrap();
        device::ensure(&netlink, 1448, &ranges(), true).await.unwrap();
        nft::ensure(device::NAME, &ranges()).await.unwrap();
        nft::remove().await.unwrap();
        device::remove(&netlink).await.unwrap();
        device::remove(&netlink).await.unwrap();
        nft::remove().await.unwrap();
        assert!(!seen.ip("link show").contains("epic0"));
        assert!(!seen.ip("route show table all").contains("100.64."));
        assert_eq!(seen.command("nft", &["list", "ruleset"]), "");
    });
}

#[test]
fn a_host_that_lives_in_the_proxy_range_is_refused_before_anything_is_touched() {
    let (host, _router) = host();
    let seen = host.clone();
    host.ip("addr add 100.65.3.1/16 dev nic0");
    host.run_async(DEADLINE, || async move {
        let netlink = Netlink::connect().unwrap();
        let refused = device::ensure(&netlink, 1448, &ranges(), true).await.unwrap_err().to_string();
        assert!(refused.contains("100.65.0.0/16") && refused.contains("proxy-addresses"), "{refused}");
        assert!(!seen.ip("link show").contains("epic0"));
    });
}

#[test]
fn a_carrier_grade_route_around_the_range_is_a_conflict_and_a_default_route_is_none() {
    let (host, _router) = host();
    host.clone().run_async(DEADLINE, || async move {
        let netlink = Netlink::connect().unwrap();
        assert_eq!(netlink.conflicts(&ranges(), None).await.unwrap(), []);
        host.ip("route add 100.64.0.0/10 via 192.168.77.1 table 52");
        let conflicts = netlink.conflicts(&ranges(), None).await.unwrap();
        assert_eq!(conflicts.len(), 1);
        assert_eq!(conflicts[0].table, 52);
    });
}

#[test]
fn the_interface_towards_epic_is_followed_when_routes_change() {
    let (host, _router) = host();
    let second = Netns::new("second-router");
    veth(&host, "nic1", &second, "lan0");
    host.ip("addr add 192.168.78.20/24 dev nic1");
    host.clone().run_async(DEADLINE, || async move {
        let netlink = Netlink::connect().unwrap();
        let epic: IpAddr = "192.0.2.9".parse().unwrap();
        let before = netlink.path_to(epic).await.unwrap();
        assert_eq!(before.source, Some("192.168.77.20".parse().unwrap()));
        assert_eq!(netlink.link_by_index(before.ifindex).await.unwrap().name, "nic0");

        let mut watch = Watch::open(Interest::Routes).unwrap();
        host.ip("route replace default via 192.168.78.1");
        while !watch.changed().await.unwrap().routes {}
        let after = netlink.path_to(epic).await.unwrap();
        assert_eq!(netlink.link_by_index(after.ifindex).await.unwrap().name, "nic1");

        let held = netlink.link_with_address("192.168.78.20".parse().unwrap()).await.unwrap();
        assert_eq!(held.map(|link| link.name).as_deref(), Some("nic1"));
    });
}

#[test]
fn the_table_binds_proxy_traffic_to_its_own_source_before_any_masquerade() {
    let (host, _router) = host();
    let seen = host.clone();
    host.run_async(DEADLINE, || async move {
        nft::ensure(device::NAME, &ranges()).await.unwrap();
        nft::ensure(device::NAME, &ranges()).await.unwrap();
        let shown = seen.command("nft", &["list", "table", "inet", nft::TABLE]);
        assert_eq!(shown.matches("snat ip to ip saddr").count(), 1, "{shown}");
        assert!(shown.contains("100.64.0.0/11"), "{shown}");
        assert!(shown.contains("srcnat - 1") || shown.contains("priority 99"), "{shown}");
    });
}

#[test]
fn a_forward_chain_of_iptables_that_drops_gets_accept_rules_once() {
    let (host, _router) = host();
    let seen = host.clone();
    host.feed(
        "nft",
        &["-f", "-"],
        "add table ip filter\n\
         add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }\n\
         add table inet firewalld\n\
         add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy drop; }\n",
    );
    host.run_async(DEADLINE, || async move {
        nft::ensure(device::NAME, &ranges()).await.unwrap();
        nft::ensure(device::NAME, &ranges()).await.unwrap();
        let shown = seen.command("nft", &["list", "chain", "ip", "filter", "FORWARD"]);
        assert_eq!(shown.matches("accept comment \"epic\"").count(), 2, "{shown}");
        assert_eq!(nft::forward_drops().await.unwrap(), ["inet firewalld filter_FORWARD"]);
        nft::remove().await.unwrap();
        let shown = seen.command("nft", &["list", "chain", "ip", "filter", "FORWARD"]);
        assert!(!shown.contains("epic"), "{shown}");
    });
}
