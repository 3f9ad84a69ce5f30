//! Finding the host side of a pod's veth by netlink alone.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use epic_agent::netlink::Netlink;
use epic_agent::netlink::watch::{Interest, Watch};
use epic_testnet::{Netns, veth};

const DEADLINE: Duration = Duration::from_secs(10);

fn pod(host: &Netns, host_end: &str, address: &str, mac: &str) -> Netns {
    let pod = Netns::new("pod");
    veth(host, host_end, &pod, "eth0");
    pod.ip(&format!("link set eth0 address {mac}"));
    pod.ip(&format!("addr add {address} dev eth0"));
    pod
}

fn index(host: &Netns, name: &str) -> u32 {
    let shown = host.ip(&format!("-o link show {name}"));
    shown.split(':').next().unwrap().trim().parse().unwrap()
}

fn wanted(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

#[test]
fn a_pod_is_found_by_its_address_behind_a_bridge_port() {
    let host = Netns::new("host");
    host.ip("link add cni0 type bridge");
    host.ip("addr add 10.244.1.1/24 dev cni0");
    let _a = pod(&host, "vethA", "10.244.1.7/24", "02:00:00:00:01:07");
    let _b = pod(&host, "vethB", "10.244.1.8/24", "02:00:00:00:01:08");
    host.ip("link set vethA master cni0");
    host.ip("link set vethB master cni0");
    let expected = index(&host, "vethB");

    host.run_async(DEADLINE, || async move {
        let netlink = Netlink::connect().unwrap();
        let found = netlink.pod_veths(&wanted(&["10.244.1.8", "10.244.1.99"])).await.unwrap();
        assert_eq!(found.len(), 1, "an address that no pod has is absent");
        let veths = &found[&"10.244.1.8".parse::<IpAddr>().unwrap()];
        assert_eq!(veths.len(), 1);
        assert_eq!((veths[0].ifindex, veths[0].name.as_str()), (expected, "vethB"));
        assert_eq!(veths[0].peer_mac, [2, 0, 0, 0, 1, 8]);
        assert_eq!(veths[0].peer_ifindex, 2, "eth0 is the first interface after lo");
    });
}

#[test]
fn the_host_s_own_addresses_are_never_taken_for_a_pod_s() {
    let host = Netns::new("host");
    let _pod = pod(&host, "vethA", "10.244.1.7/24", "02:00:00:00:01:07");
    host.ip("addr add 10.244.1.1/24 dev vethA");

    host.run_async(DEADLINE, || async move {
        let netlink = Netlink::connect().unwrap();
        assert!(netlink.pod_veths(&wanted(&["10.244.1.1"])).await.unwrap().is_empty());
    });
}

#[test]
fn an_address_in_two_pods_is_reported_with_both_veths() {
    let host = Netns::new("host");
    let _a = pod(&host, "vethA", "10.244.1.7/24", "02:00:00:00:01:07");
    let _b = pod(&host, "vethB", "10.244.1.7/24", "02:00:00:00:02:07");

    host.run_async(DEADLINE, || async move {
        let netlink = Netlink::connect().unwrap();
        let found = netlink.pod_veths(&wanted(&["10.244.1.7"])).await.unwrap();
        let mut names: Vec<_> = found.values().flatten().map(|veth| veth.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["vethA", "vethB"]);
    });
}

#[test]
fn an_ipv6_pod_address_is_found_too() {
    let host = Netns::new("host");
    let _pod = pod(&host, "vethA", "fd00:244::7/64", "02:00:00:00:01:07");

    host.run_async(DEADLINE, || async move {
        let netlink = Netlink::connect().unwrap();
        let found = netlink.pod_veths(&wanted(&["fd00:244::7"])).await.unwrap();
        assert_eq!(found.values().next().map(|veths| veths[0].name.as_str()), Some("vethA"));
    });
}

#[test]
fn a_pod_that_comes_and_goes_is_noticed_without_polling() {
    let host = Netns::new("host");
    let inside = host.clone();

    host.run_async(DEADLINE, || async move {
        let netlink = Netlink::connect().unwrap();
        let mut watch = Watch::open(Interest::Routes).unwrap();
        let address = wanted(&["10.244.1.7"]);

        let made = inside.clone();
        let pod =
            tokio::task::spawn_blocking(move || pod(&made, "vethA", "10.244.1.7/24", "02:00:00:00:01:07"))
                .await
                .unwrap();
        while !watch.changed().await.unwrap().links {}
        assert_eq!(netlink.pod_veths(&address).await.unwrap().len(), 1);

        drop(pod);
        while !netlink.pod_veths(&address).await.unwrap().is_empty() {
            watch.changed().await.unwrap();
        }
    });
}
