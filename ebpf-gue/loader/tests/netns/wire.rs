//! What is really on the wire, read by a decoder that shares nothing with the programs.

use std::collections::BTreeSet;

use epic_testnet::{Capture, Frame, Offloads, gue};

use crate::support::lab::NIC;
use crate::support::program::{Epic, GUE_PORT};
use crate::support::scene::{Plan, Scene};
use crate::support::traffic::requests;

fn check(frames: &[Frame], keys: &[[u8; 16]], group: u16, service: u16) -> (usize, BTreeSet<u16>) {
    let (mut seen, mut ports) = (0, BTreeSet::new());
    for frame in frames {
        let Some(packet) = frame.ipv4() else { continue };
        let read = gue::decode(packet, GUE_PORT).unwrap_or_else(|fault| panic!("{fault}: {packet:02x?}"));
        let Some(read) = read else { continue };
        let Some(inner) = read.inner.as_ref() else { continue };
        seen += 1;
        ports.insert(read.source_port);
        assert!(read.outer.dont_fragment, "outer DF always");
        assert!(read.outer.ttl == 64 || !frame.outgoing, "TTL {} where it leaves", read.outer.ttl);
        assert!(read.outer.total_length <= 1500, "{} bytes on the wire", read.outer.total_length);
        assert_eq!(read.outer.total_length, inner.total_length + 52, "52 bytes of overhead");
        assert_eq!((read.gue.flags, read.gue.extension_length, read.gue.protocol), (0xa000, 20, 4));
        assert_eq!((read.gue.group(), read.gue.service()), (Some(group), Some(service)));
        assert!(read.gue.private.is_empty());
        assert!(keys.contains(&read.gue.key().expect("a key")), "a key of this tenant");
        assert_eq!(read.udp_checksum, 0);
        assert_eq!(inner.transport_checksum_holds(), Some(true), "the inner checksum");
    }
    (seen, ports)
}

#[test]
fn every_packet_of_real_traffic_is_as_the_draft_and_the_design_say() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple().with_proxies(&[(1, 0, 7), (3, 1, 9)]));
    // Otherwise a capture shows large packets whose checksums a device would fill in.
    scene.offloads(&epic, Offloads::Off);
    let captures: Vec<_> = epic
        .site
        .nodes
        .iter()
        .chain(&epic.site.clients[..1])
        .map(|host| Capture::start(&host.netns, NIC))
        .collect();
    for answer in requests(&epic.site.internet, scene.tenant.public(), 60, 10, 20_000) {
        answer.expect("an answer");
    }
    let keys = [scene.tenant.data_key().0, scene.tenant.node_key().0];
    for (capture, what) in captures.into_iter().zip(["node 0", "node 1", "client 0"]) {
        let (seen, ports) = check(&capture.finish(), &keys, 1, 1);
        assert!(seen > 100, "{what}: {seen} tunnelled packets");
        assert!(ports.len() > 20, "{what}: source ports spread over {} values", ports.len());
        assert!(ports.iter().all(|port| *port >= 0xc000), "{what}: within the dynamic range");
    }
}

#[test]
fn behind_a_nat_both_ports_are_the_ones_of_the_messages() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple().with_endpoints(&[(1, 1, [10, 244, 1, 5])]));
    scene.offloads(&epic, Offloads::Off);
    let capture = Capture::start(&epic.site.clients[1].netns, NIC);
    for answer in requests(&epic.site.internet, scene.tenant.public(), 10, 2, 5_000) {
        answer.expect("an answer");
    }
    let frames = capture.finish();
    let keys = [scene.tenant.data_key().0];
    let (seen, ports) = check(&frames, &keys, 1, 1);
    assert!(seen > 50);
    assert_eq!(ports, BTreeSet::from([GUE_PORT]), "no packet leaves or comes by another port");
}

#[test]
fn tunnels_count_the_packets_and_bytes_that_a_capture_sees() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    scene.offloads(&epic, Offloads::Off);
    let capture = Capture::start(&epic.site.nodes[0].netns, NIC);
    for answer in requests(&epic.site.internet, scene.tenant.public(), 10, 2, 30_000) {
        answer.expect("an answer");
    }
    crate::support::eventually("the connections are closed", || {
        let before = epic.nodes[0].maps().tunnel_counts().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
        before == epic.nodes[0].maps().tunnel_counts().unwrap()
    });
    let (mut sent, mut received) = ((0, 0), (0, 0));
    for frame in capture.finish() {
        let Some(read) = frame.ipv4().and_then(|packet| gue::decode(packet, GUE_PORT).unwrap()) else {
            continue;
        };
        let Some(inner) = read.inner else { continue };
        let count = if frame.outgoing { &mut sent } else { &mut received };
        *count = (count.0 + 1, count.1 + u64::from(inner.total_length));
    }
    let at_node = epic.nodes[0].maps().tunnel_counts().unwrap()[&1];
    assert_eq!((at_node.tx_packets, at_node.tx_bytes), sent);
    assert_eq!((at_node.rx_packets, at_node.rx_bytes), received);
    let at_client = epic.clients[0].maps().tunnel_counts().unwrap()[&1];
    assert_eq!((at_client.rx_packets, at_client.rx_bytes), sent, "what one end sent the other received");
}
