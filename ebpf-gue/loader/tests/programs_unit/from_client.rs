//! From a client's tunnel to a proxy: keys, sources, endpoints, NAT.

use epic_abi::{
    Lb,
    drop::DropReason,
    maps::{LbKeys, Side},
    stats::Event,
};
use epic_datapath::Program::Ingress;

use crate::{
    frame::{ETH, addr, frame, gue, read_tcp, segment, udp},
    kernel::{Kernel, NEXT, PASS, REDIRECT},
    scene::{self, DATA_KEY, LB, NEXT_KEY, NODE_KEY, OLD_KEY, OTHER_LB, TUNNEL, key, source},
};

const ENDPOINT: &str = "10.244.1.5:8080";
const PROXY: &str = "100.64.0.1:41000";
const FROM: &str = "198.51.100.2:50000";
const TO: &str = "198.51.100.1:6080";

fn answer(key: &[u8; 16]) -> Vec<u8> {
    gue(FROM, TO, 3, 7, key, &segment(ENDPOINT, PROXY, b"pong"))
}

fn inner(kernel: &Kernel, source: &str, destination: &str) -> DropReason {
    kernel.dropped(Ingress, &gue(FROM, TO, 3, 7, &DATA_KEY, &segment(source, destination, b"")))
}

#[test]
fn an_endpoint_s_packet_reaches_the_pod_from_its_alias() {
    let kernel = scene::node();
    let outcome = kernel.run(Ingress, &answer(&DATA_KEY));
    assert_eq!(outcome.verdict, REDIRECT);
    let packet = read_tcp(&outcome.frame[ETH..]);
    assert_eq!(packet.source, addr("100.127.0.7:8080"));
    assert_eq!(packet.destination, addr("10.244.1.7:41000"));
    assert_eq!(packet.data, b"pong");
    let stats = kernel.tunnel_stats(TUNNEL);
    assert_eq!((stats.rx_packets, stats.rx_bytes), (1, 44));
}

#[test]
fn keys_before_now_and_next_are_accepted_and_no_others() {
    let kernel = scene::node();
    for key in [&OLD_KEY, &DATA_KEY, &NEXT_KEY] {
        assert_eq!(kernel.run(Ingress, &answer(key)).verdict, REDIRECT);
    }
    for at in 0..16 {
        for bit in [1, 0x80] {
            let mut wrong = DATA_KEY;
            wrong[at] ^= bit;
            assert_eq!(kernel.dropped(Ingress, &answer(&wrong)), DropReason::Key, "byte {at}");
        }
    }
}

#[test]
fn an_empty_key_slot_matches_nothing() {
    let mut kernel = scene::node();
    let data = [key(2, &DATA_KEY), key(0, &OLD_KEY), key(0, &[0; 16])];
    kernel.set("keys", LB, LbKeys { data, ..LbKeys::default() });
    assert_eq!(kernel.run(Ingress, &answer(&DATA_KEY)).verdict, REDIRECT);
    assert_eq!(kernel.dropped(Ingress, &answer(&OLD_KEY)), DropReason::Key);
    assert_eq!(kernel.dropped(Ingress, &answer(&[0; 16])), DropReason::Key);
}

#[test]
fn a_client_with_a_node_key_is_taken_for_no_client() {
    assert_eq!(scene::node().dropped(Ingress, &answer(&NODE_KEY)), DropReason::OuterSource);
}

#[test]
fn a_service_nobody_knows_is_dropped() {
    let packet = gue(FROM, TO, 3, 8, &DATA_KEY, &segment(ENDPOINT, PROXY, b""));
    assert_eq!(scene::node().dropped(Ingress, &packet), DropReason::UnknownService);
}

#[test]
fn the_right_key_from_another_address_is_dropped() {
    let packet = gue("198.51.100.66:50000", TO, 3, 7, &DATA_KEY, &segment(ENDPOINT, PROXY, b""));
    assert_eq!(scene::node().dropped(Ingress, &packet), DropReason::OuterSource);
}

#[test]
fn behind_nat_only_the_learned_port_counts() {
    let mut kernel = scene::node();
    kernel.remove::<_, u32>("sources", source(scene::CLIENT, 0, LB));
    kernel.set("sources", source(scene::CLIENT, 50000, LB), TUNNEL);
    assert_eq!(kernel.run(Ingress, &answer(&DATA_KEY)).verdict, REDIRECT);
    let packet = gue("198.51.100.2:50001", TO, 3, 7, &DATA_KEY, &segment(ENDPOINT, PROXY, b""));
    assert_eq!(kernel.dropped(Ingress, &packet), DropReason::OuterSource);
}

#[test]
fn an_exact_port_comes_before_any_port() {
    let mut kernel = scene::node();
    kernel.count_tunnel(77);
    kernel.set("sources", source(scene::CLIENT, 50000, LB), 77u32);
    assert_eq!(inner(&kernel, ENDPOINT, PROXY), DropReason::InnerSource, "tunnel 77 has no such endpoint");
}

#[test]
fn another_service_s_tunnel_at_the_same_address_is_not_this_one() {
    let mut kernel = scene::node();
    let data = [key(2, &DATA_KEY), key(0, &[0; 16]), key(0, &[0; 16])];
    kernel.set("keys", OTHER_LB, LbKeys { data, ..LbKeys::default() });
    let Lb { group, service } = OTHER_LB;
    let packet = gue(FROM, TO, group, service, &DATA_KEY, &segment(ENDPOINT, PROXY, b""));
    assert_eq!(kernel.dropped(Ingress, &packet), DropReason::OuterSource);
}

#[test]
fn only_an_endpoint_of_the_tunnel_may_speak() {
    let kernel = scene::node();
    assert_eq!(inner(&kernel, "10.244.1.6:8080", PROXY), DropReason::InnerSource);
    assert_eq!(inner(&kernel, "10.244.1.5:8081", PROXY), DropReason::InnerSource);
    assert_eq!(inner(&kernel, "100.127.0.7:8080", PROXY), DropReason::InnerSource);
}

#[test]
fn only_a_proxy_of_the_service_on_this_node_is_spoken_to() {
    let kernel = scene::node();
    assert_eq!(inner(&kernel, ENDPOINT, "10.244.1.7:41000"), DropReason::InnerDestination);
    assert_eq!(inner(&kernel, ENDPOINT, "100.64.0.2:41000"), DropReason::InnerDestination);
    assert_eq!(inner(&kernel, ENDPOINT, "100.64.0.4:41000"), DropReason::InnerDestination);
    assert_eq!(inner(&kernel, ENDPOINT, "100.64.0.3:41000"), DropReason::ProxyElsewhere);
}

#[test]
fn a_proxy_address_outside_a_tunnel_is_dropped_as_source_and_destination() {
    let kernel = scene::node();
    let bare = |from, to| kernel.dropped(Ingress, &frame(&segment(from, to, b"")));
    assert_eq!(bare(ENDPOINT, PROXY), DropReason::BareProxyAddress);
    assert_eq!(bare(PROXY, "10.244.1.7:10001"), DropReason::BareProxyAddress);
}

#[test]
fn control_messages_to_this_node_go_to_the_agent() {
    let kernel = scene::node();
    let control = |to: &str| frame(&udp(addr("203.0.113.66:4444"), addr(to), b"\x20\x48\x00\x00whatever"));
    assert_eq!(kernel.run(Ingress, &control(TO)).verdict, PASS);
    assert_eq!(kernel.events(), [(Event::Control, 1)].into());
    assert_eq!(kernel.run(Ingress, &control("198.51.100.9:6080")).verdict, NEXT, "not our address");
}

#[test]
fn gue_to_another_address_or_port_is_not_ours() {
    let kernel = scene::node();
    for to in ["198.51.100.9:6080", "198.51.100.1:6081"] {
        let packet = gue(FROM, to, 3, 7, &[9; 16], &segment(ENDPOINT, PROXY, b""));
        assert_eq!(kernel.run(Ingress, &packet).verdict, NEXT);
    }
    assert!(kernel.drops().is_empty());
}

#[test]
fn before_it_is_configured_the_node_touches_nothing() {
    let kernel = Kernel::load(Side::Node);
    let outcome = kernel.run(Ingress, &answer(&DATA_KEY));
    assert_eq!((outcome.verdict, outcome.frame), (NEXT, answer(&DATA_KEY)));
    assert_eq!(
        kernel.dropped(epic_datapath::Program::FromProxy, &frame(&segment(ENDPOINT, PROXY, b""))),
        DropReason::NotConfigured
    );
}
