//! From a proxy into the tunnel: NAT and encapsulation, to the byte.

use epic_abi::{maps::REMOTE_NAT, stats::Event};
use epic_datapath::Program::FromProxy;
use epic_testnet::gue::decode;

use crate::{
    frame::{ETH, addr, frame, read_tcp, segment},
    kernel::REDIRECT,
    scene::{self, CLIENT, DATA_KEY, NODE, TUNNEL, remote},
};

/// The outer headers of the golden packet, computed by hand: 44 bytes inside, source port of that flow.
const GOLDEN: [u8; 52] = *b"\x45\x00\x00\x60\x00\x00\x40\x00\x40\x11\xe6\x22\xc6\x33\x64\x01\xc6\x33\x64\x02\
    \xe1\x39\x17\xc0\x00\x4c\x00\x00\
    \x05\x04\xa0\x00\x00\x03\x00\x07data key of now!";

fn request() -> Vec<u8> {
    segment("10.244.1.7:41000", "100.127.0.7:8080", b"ping")
}

#[test]
fn a_packet_to_an_alias_leaves_as_its_golden_bytes() {
    let outcome = scene::node().run(FromProxy, &frame(&request()));
    assert_eq!(outcome.verdict, REDIRECT);
    let packet = &outcome.frame[ETH..];
    let mut expected = GOLDEN.to_vec();
    expected.extend(segment("100.64.0.1:41000", "10.244.1.5:8080", b"ping"));
    assert_eq!(packet, expected);
}

#[test]
fn an_independent_decoder_finds_the_packet_as_the_drafts_want_it() {
    let outcome = scene::node().run(FromProxy, &frame(&request()));
    let packet = decode(&outcome.frame[ETH..], 6080).unwrap().expect("a GUE packet");
    assert!(packet.outer.dont_fragment && packet.outer.ttl == 64 && packet.udp_checksum == 0);
    assert_eq!(packet.outer.source.to_string(), NODE);
    assert_eq!(packet.outer.destination.to_string(), CLIENT);
    assert_eq!((packet.gue.group(), packet.gue.service()), (Some(3), Some(7)));
    assert_eq!(packet.gue.key(), Some(DATA_KEY));
    assert!(packet.gue.private.is_empty() && !packet.gue.control);
    let inner = read_tcp(packet.gue.payload);
    assert_eq!(inner.source, addr("100.64.0.1:41000"));
    assert_eq!(inner.destination, addr("10.244.1.5:8080"));
    assert_eq!(inner.data, b"ping");
}

#[test]
fn the_source_port_is_of_the_flow_or_fixed_behind_nat() {
    let mut kernel = scene::node();
    let ports = |kernel: &crate::kernel::Kernel, port: u16| {
        let packet = segment(&format!("10.244.1.7:{port}"), "100.127.0.7:8080", b"");
        let outcome = kernel.run(FromProxy, &frame(&packet));
        let packet = decode(&outcome.frame[ETH..], 6080);
        packet.unwrap().map(|p| (p.source_port, p.destination_port))
    };
    let (first, again, other) = (ports(&kernel, 41000), ports(&kernel, 41000), ports(&kernel, 41001));
    assert_eq!(first, again);
    assert_ne!(first, other);
    assert!(first.unwrap().0 >= 0xC000);

    kernel.set("remotes", TUNNEL, remote(CLIENT, 40001, REMOTE_NAT));
    let outcome = kernel.run(FromProxy, &frame(&request()));
    let packet = decode(&outcome.frame[ETH..], 40001).unwrap().expect("to the port the NAT shows");
    assert_eq!(packet.source_port, 6080);
}

#[test]
fn the_class_of_service_is_copied_and_congestion_marks_are_not() {
    let mut packet = frame(&request());
    packet[ETH + 1] = 0xB8 | 0x02;
    crate::frame::mend(&mut packet, ETH);
    let outcome = scene::node().run(FromProxy, &packet);
    let packet = decode(&outcome.frame[ETH..], 6080).unwrap().unwrap();
    assert_eq!(packet.outer.tos, 0xB8);
    assert_eq!(packet.inner.unwrap().tos, 0xBA);
}

#[test]
fn padding_of_a_short_frame_stays_out_of_the_tunnel() {
    let mut packet = frame(&segment("10.244.1.7:41000", "100.127.0.7:8080", b""));
    packet.resize(60, 0xEE);
    let outcome = scene::node().run(FromProxy, &packet);
    let decoded = decode(&outcome.frame[ETH..], 6080).unwrap().unwrap();
    assert_eq!(decoded.outer.total_length, 92);
    assert_eq!(outcome.frame.len(), ETH + 92);
}

#[test]
fn packets_and_bytes_are_those_of_the_inner_packets() {
    let kernel = scene::node();
    for _ in 0..3 {
        kernel.run(FromProxy, &frame(&request()));
    }
    let stats = kernel.tunnel_stats(TUNNEL);
    assert_eq!((stats.tx_packets, stats.tx_bytes), (3, 3 * 44));
    assert_eq!((stats.rx_packets, stats.rx_bytes), (0, 0));
    assert!(kernel.drops().is_empty() && !kernel.events().contains_key(&Event::MssClamped));
}
