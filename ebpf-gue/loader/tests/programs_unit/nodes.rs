//! Between EPIC nodes: a proxy elsewhere, its packets here, and the reply to the internet.

use epic_abi::{
    drop::DropReason,
    maps::{KeySlot, LbKeys, PassKey, SET_CLUSTER, SET_OWN_PODS},
    stats::Event,
};
use epic_datapath::Program::{FromProxy, Ingress};
use epic_testnet::gue::decode;

use crate::{
    frame::{ACK, ETH, SYN, addr, frame, gue, ipv4, linux_options, read_tcp, segment, tcp, udp},
    kernel::{DROP, Kernel, NEXT, REDIRECT},
    scene::{self, DATA_KEY, LB, NODE, NODE_KEY, NODE2, ip},
};

const CLIENT: &str = "203.0.113.10:40000";
const LISTENER: &str = "10.244.1.7:10001";

#[test]
fn a_flow_to_a_proxy_elsewhere_goes_to_its_node_addressed_to_the_proxy() {
    let mut kernel = scene::node();
    kernel.set_maglev(LB, &[3]);
    let outcome = kernel.run(Ingress, &frame(&segment(CLIENT, "192.0.2.7:80", b"GET /")));
    assert_eq!(outcome.verdict, REDIRECT);
    let packet = decode(&outcome.frame[ETH..], 6080).unwrap().expect("a GUE packet");
    assert_eq!(packet.outer.source.to_string(), NODE);
    assert_eq!(packet.outer.destination.to_string(), NODE2);
    assert_eq!(packet.gue.key(), Some(NODE_KEY), "the key that tenants never get");
    let inner = read_tcp(packet.gue.payload);
    assert_eq!(inner.source, addr(CLIENT));
    assert_eq!(inner.destination, addr("100.64.0.3:10001"));
    assert_eq!(kernel.events(), [(Event::VipToNode, 1), (Event::FlowNew, 1)].into());
}

#[test]
fn without_a_node_key_nothing_is_sent_to_another_node() {
    let mut kernel = scene::node();
    kernel.set_maglev(LB, &[3]);
    kernel.set("keys", LB, LbKeys { node: [KeySlot::default(); 3], ..LbKeys::default() });
    let packet = frame(&segment(CLIENT, "192.0.2.7:80", b""));
    assert_eq!(kernel.dropped(Ingress, &packet), DropReason::UnknownService);
}

#[test]
fn another_node_s_packet_is_delivered_to_the_proxy_it_names() {
    let kernel = scene::node();
    let inner = segment(CLIENT, "100.64.0.1:10001", b"GET /");
    let outcome =
        kernel.run(Ingress, &gue("198.51.100.3:50000", "198.51.100.1:6080", 3, 7, &NODE_KEY, &inner));
    assert_eq!(outcome.verdict, REDIRECT);
    let packet = read_tcp(&outcome.frame[ETH..]);
    assert_eq!(packet.source, addr(CLIENT));
    assert_eq!(packet.destination, addr(LISTENER));
    assert_eq!(kernel.events(), [(Event::FromNode, 1)].into());
}

#[test]
fn a_node_s_packet_for_a_proxy_that_is_not_here_is_dropped_and_not_sent_on() {
    let kernel = scene::node();
    let to = |destination: &str| {
        let inner = segment(CLIENT, destination, b"");
        kernel.dropped(Ingress, &gue("198.51.100.3:50000", "198.51.100.1:6080", 3, 7, &NODE_KEY, &inner))
    };
    assert_eq!(to("100.64.0.3:10001"), DropReason::ProxyElsewhere);
    assert_eq!(to("100.64.0.9:10001"), DropReason::InnerDestination);
    assert_eq!(to("100.64.0.4:10001"), DropReason::InnerDestination);
    assert_eq!(to("192.0.2.7:80"), DropReason::InnerDestination);
}

#[test]
fn a_node_that_uses_a_tenant_s_key_is_no_client() {
    let inner = segment(CLIENT, "100.64.0.1:10001", b"");
    let packet = gue("198.51.100.3:50000", "198.51.100.1:6080", 3, 7, &DATA_KEY, &inner);
    assert_eq!(scene::node().dropped(Ingress, &packet), DropReason::OuterSource);
}

#[test]
fn a_reply_leaves_from_the_vip_with_a_clamped_mss() {
    scene::routed(|kernel| {
        let packet = tcp(addr(LISTENER), addr(CLIENT), SYN | ACK, &linux_options(1460), &[]);
        let outcome = kernel.run(FromProxy, &frame(&packet));
        assert_eq!(outcome.verdict, REDIRECT, "{:?}", kernel.drops());
        let reply = read_tcp(&outcome.frame[ETH..]);
        assert_eq!(reply.source, addr("192.0.2.7:80"));
        assert_eq!(reply.destination, addr(CLIENT));
        assert_eq!(reply.mss, Some(1408), "packets to the VIP may have to go on to another node");
        assert_eq!(kernel.events(), [(Event::Reply, 1), (Event::MssClamped, 1)].into());
    });
}

#[test]
fn a_listener_s_reply_that_would_stay_on_the_node_is_dropped() {
    scene::routed(|kernel| {
        let to = |kernel: &Kernel, destination: &str| {
            kernel.dropped(FromProxy, &frame(&segment(LISTENER, destination, b"")))
        };
        assert_eq!(to(kernel, "10.244.1.1:50000"), DropReason::ReplyNotPublic, "the node");
        assert_eq!(to(kernel, "10.244.1.9:50000"), DropReason::ReplyNotPublic, "another pod");
        assert_eq!(to(kernel, "192.0.2.200:50000"), DropReason::NoRoute);
    });
}

#[test]
fn replies_to_probes_pass_while_they_stay_in() {
    scene::routed(|kernel| {
        let to = |kernel: &Kernel, destination: &str| {
            kernel.run(FromProxy, &frame(&segment("10.244.1.7:9901", destination, b""))).verdict
        };
        assert_eq!(to(kernel, "10.244.1.1:50000"), NEXT, "kubelet");
        assert_eq!(to(kernel, "10.244.1.9:50000"), NEXT, "a scraper's pod");
        assert_eq!(to(kernel, CLIENT), DROP, "the internet");
        assert_eq!(kernel.drops(), [(DropReason::ProxyNotAllowed, 1)].into());
        assert_eq!(kernel.events(), [(Event::PassedOps, 2)].into());
    });
}

#[test]
fn a_proxy_reaches_what_is_written_down_and_nothing_else() {
    let mut kernel = scene::node();
    let pass = |lb, address: &str, port, protocol| PassKey {
        lb,
        address: ip(address),
        port,
        protocol,
        _reserved: 0,
    };
    kernel.set("passes", pass(epic_abi::Lb::default(), "10.96.0.50", 18000, 6), 0u32);
    kernel.set("passes", pass(LB, "172.16.0.9", 8080, 6), 0u32);
    kernel.set("passes", pass(scene::OTHER_LB, "172.16.0.10", 8080, 6), 0u32);
    kernel.set("passes", pass(LB, "172.16.0.9", 53, 17), 0u32);
    let send = |packet: Vec<u8>| {
        let outcome = kernel.run(FromProxy, &frame(&packet));
        if outcome.verdict == NEXT {
            assert_eq!(outcome.frame, frame(&packet), "passed as it is");
        }
        outcome.verdict
    };
    let from = "10.244.1.7:41000";
    assert_eq!(send(segment(from, "10.96.0.50:18000", b"")), NEXT);
    assert_eq!(send(segment(from, "172.16.0.9:8080", b"")), NEXT);
    assert_eq!(send(udp(addr(from), addr("172.16.0.9:53"), b"")), NEXT);
    assert_eq!(send(segment(from, "10.96.0.50:443", b"")), DROP);
    assert_eq!(send(segment(from, "172.16.0.10:8080", b"")), DROP, "another LoadBalancer's");
    assert_eq!(send(udp(addr(from), addr("10.96.0.10:53"), b"")), DROP, "DNS");
    assert_eq!(send(segment(from, "169.254.169.254:80", b"")), DROP, "cloud metadata");
    assert_eq!(kernel.drops(), [(DropReason::ProxyNotAllowed, 4)].into());
}

#[test]
fn a_pod_sends_from_its_own_address_only() {
    let kernel = scene::node();
    let packet = frame(&segment("10.244.1.8:10001", CLIENT, b""));
    assert_eq!(kernel.dropped(FromProxy, &packet), DropReason::PodSource);
    let ping =
        frame(&ipv4(1, crate::frame::ip("10.244.1.7"), crate::frame::ip("100.127.0.7"), &[8, 0, 0, 0]));
    assert_eq!(kernel.dropped(FromProxy, &ping), DropReason::Protocol);
}

/// A node as hosts with several interfaces are set up: by default everything leaves by another one than the public, and
/// what has a VIP as its source is led to the public one by a rule.
const BY_SOURCE: &[&str] = &[
    "link add mgmt type veth peer name mgmtfar",
    "link set mgmt up",
    "link set mgmtfar up",
    "address add 172.16.0.2/24 dev mgmt",
    "route replace default via 172.16.0.1 dev mgmt",
    "route add default via 198.51.100.254 dev nic table 100",
    "rule add from 192.0.2.0/24 lookup 100",
];

#[test]
fn the_way_of_a_reply_is_that_of_its_vip() {
    let reply = frame(&segment(LISTENER, CLIENT, b""));
    scene::routed_by(BY_SOURCE, |kernel| {
        assert_eq!(kernel.run(FromProxy, &reply).verdict, REDIRECT, "{:?}", kernel.drops());
    });
    // As the CNI of AWS does for pods of a second interface.
    let by_pod =
        ["rule add from 10.244.1.7 lookup 101", "route add default via 172.16.0.1 dev mgmt table 101"];
    scene::routed_by(&[BY_SOURCE, &by_pod].concat(), |kernel| {
        assert_eq!(kernel.run(FromProxy, &reply).verdict, REDIRECT, "{:?}", kernel.drops());
    });
    // Without the rule it would leave by another interface than the public one.
    scene::routed_by(&BY_SOURCE[..BY_SOURCE.len() - 1], |kernel| {
        kernel.routes = None;
        assert_eq!(kernel.run(FromProxy, &reply).verdict, DROP);
        assert_eq!(kernel.drops(), [(DropReason::ReplyNotPublic, 1)].into());
    });
}

#[test]
fn a_rule_for_vips_leads_no_reply_to_a_pod_of_this_node_out() {
    scene::routed_by(BY_SOURCE, |kernel| {
        kernel.admit(SET_OWN_PODS, scene::ip("10.244.1.0"), 24);
        let reply = frame(&segment(LISTENER, "10.244.1.9:50000", b""));
        assert_eq!(kernel.dropped(FromProxy, &reply), DropReason::ReplyNotPublic);
        let reply = frame(&segment(LISTENER, "10.244.2.9:50000", b""));
        assert_eq!(
            kernel.run(FromProxy, &reply).verdict,
            REDIRECT,
            "a pod elsewhere may have called by the VIP"
        );
    });
}

#[test]
fn scrapers_in_the_networks_of_the_cluster_are_answered_whatever_interface_leads_there() {
    scene::routed(|kernel| {
        let to = |destination: &str| frame(&segment("10.244.1.7:9901", destination, b""));
        // Native routing: pods of other nodes are behind the interface of the tunnels.
        assert_eq!(kernel.dropped(FromProxy, &to("10.244.9.9:50000")), DropReason::ProxyNotAllowed);
        kernel.admit(SET_CLUSTER, scene::ip("10.244.8.0"), 21);
        assert_eq!(kernel.run(FromProxy, &to("10.244.9.9:50000")).verdict, NEXT);
        assert_eq!(kernel.dropped(FromProxy, &to("10.244.16.9:50000")), DropReason::ProxyNotAllowed);
        let other = frame(&segment("10.244.1.7:9902", "10.244.9.9:50000", b""));
        assert_eq!(kernel.dropped(FromProxy, &other), DropReason::ProxyNotAllowed, "from that port alone");
        let opening = frame(&tcp(addr("10.244.1.7:9901"), addr("10.244.9.9:50000"), SYN, &[], b""));
        assert_eq!(kernel.dropped(FromProxy, &opening), DropReason::ProxyNotAllowed, "and answers alone");
    });
}

#[test]
fn a_packet_bigger_than_its_link_goes_no_other_way() {
    scene::routed(|kernel| {
        // The route lookup of the kernel judges the length of the frame as well.
        let big = |from: &str, to: &str| frame(&segment(from, to, &[0x55; 3_000]));
        let scraped = big("10.244.1.7:9901", CLIENT);
        assert_eq!(kernel.dropped(FromProxy, &scraped), DropReason::ProxyNotAllowed, "to the internet");
        assert_eq!(kernel.run(FromProxy, &big("10.244.1.7:9901", "10.244.1.1:50000")).verdict, NEXT);
        assert_eq!(kernel.run(FromProxy, &big(LISTENER, CLIENT)).verdict, REDIRECT);
        assert_eq!(kernel.dropped(FromProxy, &big(LISTENER, "10.244.1.9:1")), DropReason::ReplyNotPublic);
    });
}
