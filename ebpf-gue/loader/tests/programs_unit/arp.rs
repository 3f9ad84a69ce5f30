//! ARP for VIPs.

use epic_abi::{maps::Vip, stats::Event};
use epic_datapath::Program::Ingress;

use crate::{
    frame::{FROM_MAC, arp, ip},
    kernel::{NEXT, REDIRECT},
    scene::{self, MAC, VIP},
};

#[test]
fn a_request_for_an_owned_vip_is_answered() {
    let kernel = scene::node();
    let outcome = kernel.run(Ingress, &arp(1, "192.0.2.1", VIP));
    assert_eq!(outcome.verdict, REDIRECT);
    let mut answer = Vec::new();
    answer.extend(FROM_MAC);
    answer.extend(MAC);
    answer.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    answer.extend(MAC);
    answer.extend(ip(VIP).octets());
    answer.extend(FROM_MAC);
    answer.extend(ip("192.0.2.1").octets());
    assert_eq!(outcome.frame, answer);
    assert_eq!(kernel.events(), [(Event::ArpAnswered, 1)].into());
}

#[test]
fn everything_else_is_left_to_the_stack() {
    let mut kernel = scene::node();
    let untouched = |what: &str, packet: Vec<u8>| {
        let outcome = kernel.run(Ingress, &packet);
        assert_eq!((outcome.verdict, outcome.frame), (NEXT, packet), "{what}");
    };
    untouched("another address", arp(1, "192.0.2.1", "192.0.2.8"));
    untouched("an answer", arp(2, "192.0.2.1", VIP));
    untouched("the announcement of the node that takes over", arp(1, VIP, VIP));
    let mut token_ring = arp(1, "192.0.2.1", VIP);
    token_ring[15] = 4;
    untouched("another kind of hardware", token_ring);
    kernel.set("vips", scene::ip(VIP), Vip { flags: 0 });
    let packet = arp(1, "192.0.2.1", VIP);
    assert_eq!(kernel.run(Ingress, &packet).verdict, NEXT, "owned by another node");
}

#[test]
fn a_probe_from_nowhere_is_answered_as_a_conflict() {
    // RFC 5227: a host that wants the address asks with an empty sender.
    let kernel = scene::node();
    assert_eq!(kernel.run(Ingress, &arp(1, "0.0.0.0", VIP)).verdict, REDIRECT);
}
