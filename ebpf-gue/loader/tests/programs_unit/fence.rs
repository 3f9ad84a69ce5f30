//! The fence around tenants' pods: those that are no listed proxies, and what whoever takes over a proxy may try.

use std::net::Ipv6Addr;

use epic_abi::{
    Lb,
    drop::DropReason,
    maps::{LocalProxy, PassKey},
    stats::Event,
};
use epic_datapath::Program::FromProxy;

use crate::{
    frame::{ETH, addr, arp, discovery, frame, segment, syn, udp},
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

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const POD_V6: &str = "fd00:10:244:1::7";
const NEIGHBOUR_V6: &str = "fd00:10:244:1::9";

/// An IPv6 frame of this next header, whose payload begins with `kind` and has `target` where a message of neighbour
/// discovery has its target.
fn ipv6(next: u8, kind: u8, source: &str, destination: &str, target: &str) -> Vec<u8> {
    crate::frame::ipv6(next, source, destination, &discovery(kind, target))
}

/// A node whose proxy has an IPv6 address as well.
fn dual_stack() -> Kernel {
    let mut kernel = scene::node();
    let pod_v6: Ipv6Addr = POD_V6.parse().unwrap();
    kernel.set("local_proxies", IFINDEX, LocalProxy { pod_v6: pod_v6.into(), ..scene::listed_pod() });
    kernel
}

#[test]
fn a_proxy_speaks_by_neighbour_discovery_for_its_own_address_alone() {
    let kernel = dual_stack();
    let gateway = "fd00:10:244:1::1";
    for (what, kind, source, target) in [
        ("it looks for its gateway", SOLICITATION, POD_V6, gateway),
        ("it looks for a router's link-local address", SOLICITATION, POD_V6, "fe80::1"),
        ("it asks whether somebody has its address", SOLICITATION, "::", POD_V6),
        ("and its link-local one", SOLICITATION, "::", "fe80::7"),
        ("it says where it is", ADVERTISEMENT, POD_V6, POD_V6),
    ] {
        let packet = ipv6(58, kind, source, "ff02::1", target);
        let outcome = kernel.run(FromProxy, &packet);
        assert_eq!((outcome.verdict, outcome.frame), (NEXT, packet), "{what}");
    }
    for (what, kind, source, target) in [
        ("it is its neighbour", ADVERTISEMENT, POD_V6, NEIGHBOUR_V6),
        ("it is its gateway", ADVERTISEMENT, POD_V6, gateway),
        ("it is its link's router", ADVERTISEMENT, POD_V6, "fe80::1"),
        ("its neighbour says so", ADVERTISEMENT, NEIGHBOUR_V6, NEIGHBOUR_V6),
        ("its neighbour says where it is", ADVERTISEMENT, NEIGHBOUR_V6, POD_V6),
        ("a router says so", ADVERTISEMENT, "fe80::1", "fe80::1"),
        ("nobody says where it is", ADVERTISEMENT, "::", POD_V6),
        ("nobody is nobody", ADVERTISEMENT, "::", "::"),
        ("its neighbour looks for its gateway", SOLICITATION, NEIGHBOUR_V6, gateway),
        ("a router looks for it", SOLICITATION, "fe80::1", POD_V6),
    ] {
        let packet = ipv6(58, kind, source, "ff02::1", target);
        assert_eq!(kernel.dropped(FromProxy, &packet), DropReason::PodSource, "{what}");
    }
    let whole = ipv6(58, SOLICITATION, POD_V6, "ff02::1", gateway);
    assert_eq!(kernel.dropped(FromProxy, &whole[..whole.len() - 1]), DropReason::Malformed);
    assert!(kernel.events().is_empty());
}

#[test]
fn a_bit_of_the_pod_s_own_address_makes_another_one() {
    let kernel = dual_stack();
    for bit in 0..128 {
        // The source, then the target, each in network order.
        for at in [ETH + 8, ETH + 40 + 8] {
            let mut packet = ipv6(58, ADVERTISEMENT, POD_V6, "ff02::1", POD_V6);
            packet[at + bit / 8] ^= 0x80 >> (bit % 8);
            assert_eq!(kernel.dropped(FromProxy, &packet), DropReason::PodSource, "bit {bit} at {at}");
        }
    }
}

#[test]
fn a_proxy_without_an_ipv6_address_has_none_to_speak_for() {
    let kernel = scene::node();
    let probe = ipv6(58, SOLICITATION, "::", "ff02::1", "fe80::7");
    assert_eq!(kernel.run(FromProxy, &probe).verdict, NEXT);
    for (kind, source) in
        [(SOLICITATION, POD_V6), (SOLICITATION, "fe80::7"), (ADVERTISEMENT, POD_V6), (ADVERTISEMENT, "::")]
    {
        for target in [POD_V6, "::"] {
            let packet = ipv6(58, kind, source, "ff02::1", target);
            assert_eq!(kernel.dropped(FromProxy, &packet), DropReason::PodSource, "{kind} {source} {target}");
        }
    }
}

#[test]
fn the_addresses_of_a_pod_that_is_not_listed_are_not_known() {
    let mut kernel = scene::node();
    unlist(&mut kernel);
    for kind in [SOLICITATION, ADVERTISEMENT] {
        let packet = ipv6(58, kind, POD_V6, "ff02::1", POD_V6);
        assert_eq!(kernel.run(FromProxy, &packet).verdict, NEXT);
    }
}

#[test]
fn of_ipv6_only_neighbour_discovery_passes() {
    let kernel = dual_stack();
    let ipv6 = |next, kind, destination: &str| ipv6(next, kind, "fe80::7", destination, POD_V6);
    for (next, kind, destination) in [(58, 133, "ff02::2"), (0, 58, "ff02::16")] {
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
