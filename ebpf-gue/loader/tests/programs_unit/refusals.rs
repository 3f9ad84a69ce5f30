//! Frag-needed and host-unreachable: what the sender is told, and that it recognises its own packet.

use epic_abi::{
    drop::DropReason,
    maps::{AliasKey, Remote, Tunnel},
    stats::Event,
};
use epic_datapath::Program::{ClientEgress, FromProxy, Ingress};
use epic_testnet::gue::Ipv4;

use crate::{
    frame::{ETH, FROM_MAC, TO_MAC, checksum, frame, segment},
    kernel::{Kernel, Outcome, REDIRECT},
    scene::{self, LB, NODE, TUNNEL, tunnel},
};

const FROM: &str = "10.244.1.7:41000";
const TO: &str = "100.127.0.7:8080";

struct Refusal {
    source: String,
    destination: String,
    code: u8,
    mtu: u16,
    quote: Vec<u8>,
}

/// Reads the answer and checks everything a receiver would.
fn refusal(outcome: &Outcome) -> Refusal {
    assert_eq!(outcome.verdict, REDIRECT);
    assert_eq!(outcome.frame[..6], FROM_MAC, "back to the sender");
    assert_eq!(outcome.frame[6..12], TO_MAC);
    let packet = Ipv4::parse(&outcome.frame[ETH..]).unwrap();
    assert_eq!(packet.protocol, 1);
    assert_eq!(checksum(packet.payload), 0, "the ICMP checksum is right");
    assert_eq!(packet.payload[0], 3, "destination unreachable");
    assert_eq!(outcome.frame.len(), ETH + usize::from(packet.total_length));
    Refusal {
        source: packet.source.to_string(),
        destination: packet.destination.to_string(),
        code: packet.payload[1],
        mtu: u16::from_be_bytes([packet.payload[6], packet.payload[7]]),
        quote: packet.payload[8..].to_vec(),
    }
}

/// The quote is the packet as its sender made it, but for the TCP checksum, which nobody reads in a quote.
fn assert_quotes(refusal: &Refusal, packet: &[u8]) {
    assert_eq!(refusal.quote.len(), 40);
    assert_eq!(refusal.quote[..36], packet[..36]);
    assert_eq!(refusal.quote[38..], packet[38..40]);
}

#[test]
fn a_packet_too_big_for_the_tunnel_is_answered_with_its_mtu() {
    let kernel = scene::node();
    let fits = segment(FROM, TO, &[0x55; 1448 - 40]);
    assert_eq!(kernel.run(FromProxy, &frame(&fits)).frame.len(), ETH + 1500);
    let big = segment(FROM, TO, &[0x55; 1449 - 40]);
    let refusal = refusal(&kernel.run(FromProxy, &frame(&big)));
    assert_eq!((refusal.code, refusal.mtu), (4, 1448));
    assert_eq!(refusal.source, scene::ALIAS, "from the address the proxy spoke to");
    assert_eq!(refusal.destination, scene::POD);
    assert_quotes(&refusal, &big);
    assert_eq!(kernel.drops(), [(DropReason::TooBigForTunnel, 1)].into());
    assert_eq!(kernel.events(), [(Event::FragNeeded, 1)].into());
    assert_eq!(kernel.tunnel_stats(TUNNEL).tx_packets, 1);
}

#[test]
fn packets_without_dont_fragment_are_answered_too() {
    let mut big = frame(&segment(FROM, TO, &[0x55; 1449 - 40]));
    big[ETH + 6] = 0;
    crate::frame::mend(&mut big, ETH);
    assert_eq!(refusal(&scene::node().run(FromProxy, &big)).mtu, 1448);
}

#[test]
fn of_a_super_packet_the_segments_are_measured() {
    let kernel = scene::node();
    let packet = frame(&segment(FROM, TO, &[0x55; 2820]));
    let refusal = refusal(&kernel.run_segmented(FromProxy, &packet, 1410));
    assert_eq!((refusal.code, refusal.mtu), (4, 1448));
    assert_eq!(kernel.drops(), [(DropReason::TooBigForTunnel, 1)].into());
    // A test packet has no GSO type, so the kernel refuses to encapsulate it; it was not found too big.
    assert_eq!(kernel.run_segmented(FromProxy, &packet, 1408).verdict, crate::kernel::DROP);
    assert_eq!(kernel.drops()[&DropReason::TooBigForTunnel], 1);
}

#[test]
fn the_mtu_is_the_tunnel_s() {
    let mut kernel = scene::node();
    kernel.set("tunnels", TUNNEL, Tunnel { mtu: 1400, ..tunnel(NODE) });
    let outcome = kernel.run(FromProxy, &frame(&segment(FROM, TO, &[0x55; 1400])));
    assert_eq!(refusal(&outcome).mtu, 1348);
}

#[test]
fn a_tunnel_without_remote_is_an_unreachable_host() {
    let mut kernel = scene::node();
    kernel.remove::<_, Remote>("remotes", TUNNEL);
    let packet = segment(FROM, TO, b"");
    let refusal = refusal(&kernel.run(FromProxy, &frame(&packet)));
    assert_eq!((refusal.code, refusal.mtu), (1, 0));
    assert_eq!((refusal.source.as_str(), refusal.destination.as_str()), (scene::ALIAS, scene::POD));
    assert_quotes(&refusal, &packet);
    assert_eq!(kernel.drops(), [(DropReason::NoRemote, 1)].into());
    assert_eq!(kernel.events(), [(Event::HostUnreachable, 1)].into());
}

#[test]
fn an_alias_without_tunnel_or_of_others_is_dropped() {
    let mut kernel = scene::node();
    let to = |kernel: &Kernel, destination: &str| {
        kernel.dropped(FromProxy, &frame(&segment(FROM, destination, b"")))
    };
    assert_eq!(to(&kernel, "100.127.0.8:8080"), DropReason::UnknownAlias);
    assert_eq!(to(&kernel, "100.127.0.7:8081"), DropReason::UnknownAlias, "another port of the endpoint");
    let foreign = AliasKey { lb: scene::OTHER_LB, address: scene::ip("100.127.0.8") };
    let alias = epic_abi::maps::Alias {
        tunnel: TUNNEL,
        port: 8080,
        protocol: 6,
        flags: 0,
        address: scene::ip("10.0.0.1"),
    };
    kernel.set("aliases", foreign, alias);
    assert_eq!(to(&kernel, "100.127.0.8:8080"), DropReason::UnknownAlias, "another LoadBalancer's");
    kernel.remove::<_, Tunnel>("tunnels", TUNNEL);
    assert_eq!(to(&kernel, TO), DropReason::NoTunnel);
}

#[test]
fn a_client_s_packet_too_big_for_the_leg_to_another_node_is_answered_from_the_vip() {
    let mut kernel = scene::node();
    kernel.set_maglev(LB, &[3]);
    let big = segment("203.0.113.10:40000", "192.0.2.7:80", &[0x55; 1449 - 40]);
    let refusal = refusal(&kernel.run(Ingress, &frame(&big)));
    assert_eq!((refusal.code, refusal.mtu), (4, 1448));
    assert_eq!((refusal.source.as_str(), refusal.destination.as_str()), (scene::VIP, scene::INTERNET));
    assert_quotes(&refusal, &big);
    assert_eq!(kernel.drops(), [(DropReason::TooBigForNode, 1)].into());
}

#[test]
fn an_endpoint_learns_a_tunnel_narrower_than_the_device() {
    let mut kernel = scene::client();
    kernel.set("tunnels", TUNNEL, Tunnel { mtu: 1400, ..tunnel(scene::CLIENT) });
    let big = segment("10.244.1.5:8080", "100.64.0.1:41000", &[0x55; 1400]);
    let refusal = refusal(&kernel.run(ClientEgress, &frame(&big)));
    assert_eq!((refusal.code, refusal.mtu), (4, 1348));
    assert_eq!((refusal.source.as_str(), refusal.destination.as_str()), (scene::PROXY, scene::ENDPOINT));
}
