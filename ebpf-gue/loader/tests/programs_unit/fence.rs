//! The fence around tenants' pods: those that are no listed proxies, and what whoever takes over a proxy may try.

use epic_abi::{
    Lb,
    drop::DropReason,
    maps::{LocalProxy, PassKey},
    stats::Event,
};
use epic_datapath::Program::FromProxy;

use crate::{
    arp::arp,
    frame::{addr, ethernet, frame, segment, syn, udp},
    kernel::{IFINDEX, Kernel, NEXT},
    scene::{self, POD, ip},
};

const XDS: &str = "10.96.0.50:18000";
const KUBELET: &str = "10.244.1.1:50000";

fn xds() -> PassKey {
    PassKey { lb: Lb::default(), address: ip("10.96.0.50"), port: 18000, protocol: 6, _reserved: 0 }
}

/// Takes the proxy out of the maps; its program stays.
fn unlist(kernel: &mut Kernel) {
    kernel.set("passes", xds(), 0u32);
    kernel.remove::<_, LocalProxy>("local_proxies", IFINDEX);
}

#[test]
fn a_pod_that_is_not_listed_reaches_xds_and_answers_its_probes() {
    scene::routed(|kernel| {
        unlist(kernel);
        for packet in [syn("10.244.1.7:41000", XDS, 1460), segment("10.244.1.7:9901", KUBELET, b"")] {
            let outcome = kernel.run(FromProxy, &frame(&packet));
            assert_eq!((outcome.verdict, outcome.frame), (NEXT, frame(&packet)));
        }
        assert_eq!(kernel.run(FromProxy, &arp(1, POD, "10.244.1.1")).verdict, NEXT, "it finds its gateway");
        assert_eq!(kernel.events(), [(Event::Passed, 1), (Event::PassedOps, 1)].into());
    });
}

#[test]
fn a_pod_that_is_not_listed_reaches_nothing_else() {
    scene::routed(|kernel| {
        unlist(kernel);
        let to = |from: &str, to: &str| kernel.dropped(FromProxy, &frame(&syn(from, to, 1460)));
        let from = "10.244.1.7:41000";
        assert_eq!(to(from, "100.127.0.7:8080"), DropReason::NotListed, "an alias");
        assert_eq!(to(from, "10.244.1.9:80"), DropReason::NotListed, "another pod");
        assert_eq!(to(from, "198.51.100.1:10250"), DropReason::NotListed, "the node");
        assert_eq!(to(from, "203.0.113.10:443"), DropReason::NotListed, "the internet");
        assert_eq!(
            to("10.244.1.7:9901", "10.244.1.9:80"),
            DropReason::NotListed,
            "from the port of its probes"
        );
        let reply = frame(&segment("10.244.1.7:10001", "203.0.113.10:40000", b""));
        assert_eq!(kernel.dropped(FromProxy, &reply), DropReason::NotListed, "as a listener");
        let probed = frame(&segment("10.244.1.7:9901", "203.0.113.10:40000", b""));
        assert_eq!(
            kernel.dropped(FromProxy, &probed),
            DropReason::ProxyNotAllowed,
            "a probe from the internet"
        );
        let dns = frame(&udp(addr(from), addr("10.96.0.10:53"), b""));
        assert_eq!(kernel.dropped(FromProxy, &dns), DropReason::Protocol);
    });
}

#[test]
fn what_is_written_down_for_a_load_balancer_is_not_for_pods_without_one() {
    let mut kernel = scene::node();
    unlist(&mut kernel);
    kernel.set("passes", PassKey { lb: scene::LB, ..xds() }, 0u32);
    kernel.remove::<_, u32>("passes", xds());
    let packet = frame(&syn("10.244.1.7:41000", XDS, 1460));
    assert_eq!(kernel.dropped(FromProxy, &packet), DropReason::NotListed);
}

#[test]
fn no_connection_is_opened_from_a_port_of_the_proxy() {
    scene::routed(|kernel| {
        for (from, to) in [
            ("10.244.1.7:9901", "10.244.1.1:10250"),
            ("10.244.1.7:9901", "10.244.1.9:80"),
            ("10.244.1.7:10001", "203.0.113.10:443"),
        ] {
            let packet = frame(&syn(from, to, 1460));
            assert_eq!(kernel.dropped(FromProxy, &packet), DropReason::ProxyNotAllowed, "{from} to {to}");
        }
    });
}

#[test]
fn a_proxy_speaks_by_arp_for_its_own_address_alone() {
    let kernel = scene::node();
    let verdict = |packet: &[u8]| kernel.run(FromProxy, packet).verdict;
    assert_eq!(verdict(&arp(1, POD, "10.244.1.1")), NEXT);
    assert_eq!(verdict(&arp(2, POD, "10.244.1.1")), NEXT);
    assert_eq!(verdict(&arp(1, "0.0.0.0", POD)), NEXT, "a probe for its own address");
    for operation in [1, 2] {
        let gateway = arp(operation, "10.244.1.1", "10.244.1.9");
        assert_eq!(kernel.dropped(FromProxy, &gateway), DropReason::PodSource);
    }
    let mut token_ring = arp(1, POD, "10.244.1.1");
    token_ring[15] = 4;
    assert_eq!(kernel.dropped(FromProxy, &token_ring), DropReason::Protocol);
    assert_eq!(kernel.dropped(FromProxy, &arp(1, POD, "10.244.1.1")[..40]), DropReason::Malformed);
}

/// An IPv6 frame of this next header, whose payload begins with `kind`.
fn ipv6(next: u8, kind: u8, destination: &str) -> Vec<u8> {
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mut packet = vec![0x60, 0, 0, 0, 0, 24, next, 255];
    packet.extend(address("fe80::7"));
    packet.extend(address(destination));
    packet.push(kind);
    packet.extend([0; 23]);
    ethernet(0x86DD, &packet)
}

#[test]
fn of_ipv6_only_neighbour_discovery_passes() {
    let kernel = scene::node();
    for (next, kind, destination) in
        [(58, 133, "ff02::2"), (58, 135, "ff02::1:ff00:1"), (58, 136, "fe80::1"), (0, 58, "ff02::16")]
    {
        let verdict = kernel.run(FromProxy, &ipv6(next, kind, destination)).verdict;
        assert_eq!(verdict, NEXT, "{next} {kind} to {destination}");
    }
    for (what, next, kind, destination) in [
        ("TCP to the node", 6, 0, "fe80::1"),
        ("UDP to everybody", 17, 0, "ff02::1"),
        ("a router advertisement", 58, 134, "ff02::1"),
        ("a redirect", 58, 137, "fe80::1"),
        ("an echo", 58, 128, "fe80::1"),
        ("options to the node", 0, 6, "fe80::1"),
    ] {
        assert_eq!(kernel.dropped(FromProxy, &ipv6(next, kind, destination)), DropReason::Ipv6, "{what}");
    }
}
