//! The client node: into `epic0`, and back into the tunnel.

use epic_abi::{
    Lb,
    drop::DropReason,
    maps::{LearnedProxy, Remote, Route, Side, Tunnel},
    stats::Event,
};
use epic_datapath::Program::{ClientEgress, ClientIngress};
use epic_testnet::gue::decode;

use crate::{
    frame::{ETH, addr, ethernet, frame, gue, ipv4, read_tcp, segment, udp},
    kernel::{Kernel, NEXT, PASS, REDIRECT},
    scene::{self, DATA_KEY, LB, MAC, NEXT_KEY, NODE_KEY, OLD_KEY, TUNNEL, ip, source, tunnel},
};

const FROM: &str = "198.51.100.1:50000";
const TO: &str = "198.51.100.2:6080";
const PROXY: &str = "100.64.0.1:41000";
const ENDPOINT: &str = "10.244.1.5:8080";

fn request(key: &[u8; 16]) -> Vec<u8> {
    gue(FROM, TO, 3, 7, key, &segment(PROXY, ENDPOINT, b"ping"))
}

fn inner(kernel: &Kernel, source: &str, destination: &str) -> DropReason {
    let packet = gue(FROM, TO, 3, 7, &DATA_KEY, &segment(source, destination, b""));
    kernel.dropped(ClientIngress, &packet)
}

#[test]
fn a_proxy_s_packet_goes_into_the_device_as_it_is() {
    let kernel = scene::client();
    let outcome = kernel.run(ClientIngress, &request(&DATA_KEY));
    assert_eq!(outcome.verdict, REDIRECT);
    assert_eq!(outcome.frame[..6], MAC, "with the NIC's address the device would drop it");
    assert_eq!(outcome.frame[ETH..], segment(PROXY, ENDPOINT, b"ping"));
    let stats = kernel.tunnel_stats(TUNNEL);
    assert_eq!((stats.rx_packets, stats.rx_bytes), (1, 44));
}

#[test]
fn the_three_keys_are_accepted_and_no_other() {
    let kernel = scene::client();
    for key in [&OLD_KEY, &DATA_KEY, &NEXT_KEY] {
        assert_eq!(kernel.run(ClientIngress, &request(key)).verdict, REDIRECT);
    }
    assert_eq!(kernel.dropped(ClientIngress, &request(&NODE_KEY)), DropReason::Key);
    assert_eq!(kernel.dropped(ClientIngress, &request(&[0; 16])), DropReason::Key, "an empty slot is no key");
}

#[test]
fn the_outer_source_must_be_an_epic_node_of_the_load_balancer() {
    let kernel = scene::client();
    let packet = gue("198.51.100.66:50000", TO, 3, 7, &DATA_KEY, &segment(PROXY, ENDPOINT, b""));
    assert_eq!(kernel.dropped(ClientIngress, &packet), DropReason::OuterSource);
}

#[test]
fn only_endpoints_of_the_service_are_reached() {
    let kernel = scene::client();
    assert_eq!(inner(&kernel, PROXY, "10.244.1.6:8080"), DropReason::InnerDestination);
    assert_eq!(inner(&kernel, PROXY, "10.244.1.5:22"), DropReason::InnerDestination);
    assert_eq!(inner(&kernel, PROXY, "198.51.100.2:8080"), DropReason::InnerDestination);
}

#[test]
fn an_announced_proxy_speaks_through_its_own_tunnel_only() {
    let mut kernel = scene::client();
    kernel.set("routes", ip("100.64.0.2"), Route { tunnel: 10, lb: LB });
    kernel.set("routes", ip("100.64.0.3"), Route { tunnel: TUNNEL, lb: Lb::new(4, 7) });
    assert_eq!(inner(&kernel, "100.64.0.2:41000", ENDPOINT), DropReason::InnerSource);
    assert_eq!(inner(&kernel, "100.64.0.3:41000", ENDPOINT), DropReason::InnerSource);
    assert_eq!(inner(&kernel, "10.0.0.1:41000", ENDPOINT), DropReason::InnerSource, "no proxy address");
    assert!(kernel.get::<_, LearnedProxy>("learned_proxies", ip("100.64.0.2")).is_none());
}

#[test]
fn a_proxy_not_yet_announced_is_learned_and_answered() {
    let kernel = scene::client();
    let packet = gue(FROM, TO, 3, 7, &DATA_KEY, &segment("100.64.0.8:41000", ENDPOINT, b""));
    assert_eq!(kernel.run(ClientIngress, &packet).verdict, REDIRECT);
    let learned: LearnedProxy = kernel.get("learned_proxies", ip("100.64.0.8")).unwrap();
    assert_eq!((learned.tunnel, learned.lb), (TUNNEL, LB));
    assert_eq!(kernel.events()[&Event::ProxyLearned], 1);
    let answer = frame(&segment(ENDPOINT, "100.64.0.8:41000", b""));
    assert_eq!(kernel.run(ClientEgress, &answer).verdict, REDIRECT);
}

#[test]
fn a_learned_proxy_is_not_taken_over_before_it_expires() {
    let mut kernel = scene::client();
    let later = LearnedProxy { tunnel: 10, lb: LB, expires_nanos: u64::MAX };
    kernel.set("learned_proxies", ip("100.64.0.8"), later);
    assert_eq!(inner(&kernel, "100.64.0.8:41000", ENDPOINT), DropReason::InnerSource);
    kernel.set("learned_proxies", ip("100.64.0.8"), LearnedProxy { expires_nanos: 1, ..later });
    let answer = frame(&segment(ENDPOINT, "100.64.0.8:41000", b""));
    assert_eq!(kernel.dropped(ClientEgress, &answer), DropReason::NoProxyRoute, "expired");
    let packet = gue(FROM, TO, 3, 7, &DATA_KEY, &segment("100.64.0.8:41000", ENDPOINT, b""));
    assert_eq!(kernel.run(ClientIngress, &packet).verdict, REDIRECT);
}

#[test]
fn an_answer_goes_where_the_proxy_is_announced_whatever_was_learned_before() {
    let mut kernel = scene::client();
    kernel.count_tunnel(10);
    kernel.set("tunnels", 10u32, tunnel(scene::CLIENT));
    kernel.set("remotes", 10u32, scene::remote("198.51.100.66", 6080, 0));
    kernel.set(
        "learned_proxies",
        ip(scene::PROXY),
        LearnedProxy { tunnel: 10, lb: LB, expires_nanos: u64::MAX },
    );
    let outcome = kernel.run(ClientEgress, &frame(&segment(ENDPOINT, PROXY, b"")));
    let packet = decode(&outcome.frame[ETH..], 6080).unwrap().expect("a GUE packet");
    assert_eq!(packet.outer.destination.to_string(), scene::NODE);
}

#[test]
fn control_messages_of_epic_nodes_go_to_the_agent_and_others_nowhere() {
    let kernel = scene::client();
    let control = |from: &str| frame(&udp(addr(from), addr(TO), b"\x20\x48\x00\x00whatever"));
    assert_eq!(kernel.run(ClientIngress, &control("198.51.100.1:6080")).verdict, PASS);
    assert_eq!(kernel.dropped(ClientIngress, &control("203.0.113.66:6080")), DropReason::ControlSource);
}

#[test]
fn proxy_addresses_outside_a_tunnel_are_dropped_and_the_rest_is_not_ours() {
    let kernel = scene::client();
    let bare = |from, to| frame(&segment(from, to, b""));
    assert_eq!(kernel.dropped(ClientIngress, &bare(PROXY, ENDPOINT)), DropReason::BareProxyAddress);
    assert_eq!(kernel.dropped(ClientIngress, &bare(ENDPOINT, PROXY)), DropReason::BareProxyAddress);
    assert_eq!(kernel.run(ClientIngress, &bare("192.0.2.1:1", ENDPOINT)).verdict, NEXT);
}

#[test]
fn an_endpoint_s_answer_goes_to_the_node_of_its_proxy() {
    let kernel = scene::client();
    let outcome = kernel.run(ClientEgress, &frame(&segment(ENDPOINT, PROXY, b"pong")));
    assert_eq!(outcome.verdict, REDIRECT);
    let packet = decode(&outcome.frame[ETH..], 6080).unwrap().expect("a GUE packet");
    assert_eq!(packet.outer.source.to_string(), scene::CLIENT);
    assert_eq!(packet.outer.destination.to_string(), scene::NODE);
    assert_eq!(packet.gue.key(), Some(DATA_KEY));
    let inner = read_tcp(packet.gue.payload);
    assert_eq!((inner.source, inner.destination), (addr(ENDPOINT), addr(PROXY)));
    assert_eq!(kernel.tunnel_stats(TUNNEL).tx_bytes, 44);
}

#[test]
fn nothing_leaves_the_device_in_clear() {
    let mut kernel = scene::client();
    let to = |kernel: &Kernel, packet: &[u8]| kernel.dropped(ClientEgress, &frame(packet));
    assert_eq!(to(&kernel, &segment(ENDPOINT, "100.64.0.9:1", b"")), DropReason::NoProxyRoute);
    assert_eq!(to(&kernel, &udp(addr(ENDPOINT), addr(PROXY), b"")), DropReason::Protocol);
    let unreachable = ipv4(1, *addr(ENDPOINT).ip(), *addr(PROXY).ip(), &[3, 3, 0, 0, 0, 0, 0, 0]);
    assert_eq!(to(&kernel, &unreachable), DropReason::IcmpError);
    assert_eq!(kernel.dropped(ClientEgress, &ethernet(0x86DD, &[0x60; 40])), DropReason::Ipv6);
    kernel.remove::<_, Remote>("remotes", TUNNEL);
    assert_eq!(to(&kernel, &segment(ENDPOINT, PROXY, b"")), DropReason::NoRemote);
    kernel.remove::<_, Tunnel>("tunnels", TUNNEL);
    assert_eq!(to(&kernel, &segment(ENDPOINT, PROXY, b"")), DropReason::NoTunnel);
    let unconfigured = Kernel::load(Side::Client);
    assert_eq!(to(&unconfigured, &segment(ENDPOINT, PROXY, b"")), DropReason::NotConfigured);
}

#[test]
fn two_tunnels_at_one_node_are_told_apart_by_their_service() {
    let mut kernel = scene::client();
    let other = Lb::new(3, 8);
    kernel.set("sources", source(scene::NODE, 0, other), 10u32);
    kernel.set("tunnels", 10u32, Tunnel { lb: other, ..tunnel(scene::CLIENT) });
    let packet = gue(FROM, TO, 3, 8, &DATA_KEY, &segment(PROXY, ENDPOINT, b""));
    assert_eq!(kernel.dropped(ClientIngress, &packet), DropReason::UnknownService);
}
