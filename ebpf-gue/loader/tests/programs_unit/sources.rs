//! Sources that nobody out there has: of packets to a VIP, and of packets that another node sends on.

use std::net::Ipv4Addr;

use epic_abi::{
    PROTOCOL_TCP,
    drop::DropReason,
    maps::{Flow, FlowKey},
};
use epic_datapath::Program::Ingress;

use crate::{
    frame::{ACK, addr, frame, gue, ip, ipv4, segment, tcp, udp},
    kernel::{Kernel, NEXT, REDIRECT},
    scene::{self, INTERNET, NODE, NODE_KEY, VIP},
};

const ALIASES: [&str; 3] = ["100.127.0.0", "100.127.0.7", "100.127.255.255"];
const PROXIES: [&str; 3] = ["100.64.0.0", "100.64.0.1", "100.95.255.255"];
/// The first and the last of each range.
const NO_HOST: [&str; 8] = [
    "0.0.0.0",
    "0.255.255.255",
    "127.0.0.0",
    "127.255.255.255",
    "224.0.0.0",
    "239.255.255.255",
    "240.0.0.0",
    "255.255.255.255",
];
/// Next to every range, and networks that may be somebody's.
const FINE: [&str; 13] = [
    INTERNET,
    "1.0.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "223.255.255.255",
    "100.63.255.255",
    "100.96.0.0",
    "100.126.255.255",
    "100.128.0.0",
    "192.0.2.8",
    "198.51.100.2",
    "10.244.1.5",
    "169.254.1.1",
];

fn to_vip(source: &str) -> Vec<u8> {
    frame(&segment(&format!("{source}:8080"), "192.0.2.7:80", b"GET /"))
}

/// What another node sends on to the proxy here.
fn from_node(source: &str) -> Vec<u8> {
    let inner = segment(&format!("{source}:8080"), "100.64.0.1:10001", b"GET /");
    gue("198.51.100.3:50000", "198.51.100.1:6080", 3, 7, &NODE_KEY, &inner)
}

fn flow_key(client: &str) -> FlowKey {
    FlowKey {
        client: scene::ip(client),
        vip: scene::ip(VIP),
        client_port: 8080,
        vip_port: 80,
        protocol: PROTOCOL_TCP,
        _reserved: [0; 3],
    }
}

fn is_remembered(kernel: &Kernel, client: &str) -> bool {
    kernel.get::<_, Flow>("flows", flow_key(client)).is_some()
}

#[test]
fn a_packet_to_a_vip_from_nobody_out_there_is_dropped_and_not_remembered() {
    let kernel = scene::node();
    for source in [&ALIASES[..], &NO_HOST, &[VIP, NODE]].concat() {
        assert_eq!(kernel.dropped(Ingress, &to_vip(source)), DropReason::Martian, "{source}");
        assert!(!is_remembered(&kernel, source), "{source}");
    }
    for source in PROXIES {
        assert_eq!(kernel.dropped(Ingress, &to_vip(source)), DropReason::BareProxyAddress, "{source}");
        assert!(!is_remembered(&kernel, source), "{source}");
    }
    assert!(kernel.events().is_empty());
}

#[test]
fn sources_next_to_those_are_served() {
    let kernel = scene::node();
    for source in FINE {
        assert_eq!(kernel.run(Ingress, &to_vip(source)).verdict, REDIRECT, "{source}");
        assert!(is_remembered(&kernel, source), "{source}");
    }
    assert!(kernel.drops().is_empty());
}

#[test]
fn a_flow_that_is_known_does_not_help_such_a_source() {
    let mut kernel = scene::node();
    let alias = ALIASES[1];
    kernel.set("flows", flow_key(alias), Flow { proxy: 1, lb: scene::LB, created_nanos: 1 });
    assert_eq!(kernel.dropped(Ingress, &to_vip(alias)), DropReason::Martian);
}

#[test]
fn the_source_is_judged_before_everything_else_of_the_packet() {
    let kernel = scene::node();
    let (alias, vip) = (ip(ALIASES[1]), ip(VIP));
    let datagram = udp(addr("127.0.0.1:53"), addr("192.0.2.7:53"), b"");
    let echo = ipv4(1, alias, vip, &[8, 0, 0, 0, 0, 0, 0, 0]);
    let nothing = ipv4(6, Ipv4Addr::BROADCAST, vip, &[]);
    let no_service = tcp(addr("0.0.0.1:1"), addr("192.0.2.7:81"), ACK, &[], &[]);
    for packet in [datagram, echo, nothing, no_service] {
        assert_eq!(kernel.dropped(Ingress, &frame(&packet)), DropReason::Martian);
    }
}

#[test]
fn what_another_node_sends_on_has_a_client_s_source_as_well() {
    let kernel = scene::node();
    for source in [&ALIASES[..], &PROXIES, &NO_HOST, &[NODE]].concat() {
        assert_eq!(kernel.dropped(Ingress, &from_node(source)), DropReason::Martian, "{source}");
    }
    assert!(kernel.events().is_empty());
    for source in FINE {
        assert_eq!(kernel.run(Ingress, &from_node(source)).verdict, REDIRECT, "{source}");
    }
}

#[test]
fn packets_that_are_not_for_epic_keep_their_sources() {
    let kernel = scene::node();
    for source in [&ALIASES[..], &NO_HOST, &[VIP, NODE]].concat() {
        let packet = frame(&segment(&format!("{source}:8080"), "198.51.100.1:22", b""));
        let outcome = kernel.run(Ingress, &packet);
        assert_eq!((outcome.verdict, outcome.frame), (NEXT, packet), "{source}");
    }
    assert!(kernel.drops().is_empty());
}
