//! Frames of a trunk, as the parent interface of its VLANs gets them, and frames that a switch floods to everybody.
//!
//! What must not happen is sent first and what must happen last, on one thread: when the last has had its effect, the
//! first has had its chance.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;

use epic_abi::drop::DropReason;
use epic_abi::gue::Key;
use epic_abi::stats::Event;
use epic_testnet::{Capture, Frame, inject};

use crate::support::forge::{ARP, BROADCAST, Ethernet, IPV4, data, syn, udp, who_has};
use crate::support::lab::{Host, INTERNET, NIC, mac};
use crate::support::program::{Epic, GUE_PORT, SERVICE, alias_address, all_drops, drops};
use crate::support::scene::{FIRST, Plan, Scene};
use crate::support::{DEADLINE, eventually};

/// A tag of VLAN 100.
const VLAN_100: Option<u16> = Some(100);
/// A tag that is a priority and no VLAN.
const PRIORITY: Option<u16> = Some(3 << 13);

/// Sends a SYN from the internet to the VIP, in a frame to `to`.
fn call(epic: &Epic, scene: &Scene, port: u16, to: [u8; 6], tag: Option<u16>) {
    let internet = &epic.site.internet;
    let header = Ethernet { from: mac(internet, NIC), to, tag };
    let packet = syn(SocketAddrV4::new(INTERNET, port), SocketAddrV4::new(scene.tenant.vip, 80));
    inject(internet, NIC, &header.frame(IPV4, &packet));
}

/// Whether the VIP has answered the client on `port`.
fn is_answered(frames: &[Frame], scene: &Scene, port: u16) -> bool {
    let (vip, port) = (scene.tenant.vip.octets(), port.to_be_bytes());
    let mut packets = frames.iter().filter(|frame| !frame.outgoing).filter_map(Frame::ipv4);
    packets.any(|packet| packet[12..16] == vip && packet[22..24] == port)
}

/// Ports of clients whose flows node `n` has taken.
fn flows(epic: &Epic, n: usize) -> BTreeSet<u16> {
    let flows = epic.nodes[n].maps().flows.entries().expect("read flows");
    flows.keys().map(|flow| flow.client_port).collect()
}

#[test]
fn a_request_for_a_vip_is_answered_untagged_or_with_a_priority_and_not_on_a_vlan() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    let internet = &epic.site.internet;
    let from = mac(internet, NIC);
    let mut capture = Capture::start(internet, NIC);
    let answered = || epic.nodes[0].maps().event_counts().unwrap()[&Event::ArpAnswered];
    let before = answered();
    for tag in [VLAN_100, Some((3 << 13) | 100), PRIORITY, None] {
        let header = Ethernet { from, to: BROADCAST, tag };
        inject(internet, NIC, &header.frame(ARP, &who_has((from, INTERNET), scene.tenant.vip)));
    }
    let vip = scene.tenant.vip.octets();
    let is_answer = |frame: &&Frame| {
        !frame.outgoing && frame.bytes[12..14] == ARP.to_be_bytes() && frame.bytes[28..32] == vip
    };
    capture.wait(DEADLINE, "two answers", |frames| frames.iter().filter(is_answer).count() == 2);
    assert_eq!(answered() - before, 2, "no other request was answered");
}

#[test]
fn a_packet_to_a_vip_is_delivered_untagged_or_with_a_priority_and_not_out_of_a_vlan() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    let mut capture = Capture::start(&epic.site.internet, NIC);
    let node = epic.site.nodes[0].mac(NIC);
    call(&epic, &scene, 50_001, node, VLAN_100);
    call(&epic, &scene, 50_002, node, PRIORITY);
    call(&epic, &scene, 50_003, node, None);
    let seen = capture.wait(DEADLINE, "answers of the pod to both", |frames| {
        is_answered(frames, &scene, 50_002) && is_answered(frames, &scene, 50_003)
    });
    assert!(!is_answered(seen, &scene, 50_001));
    assert_eq!(flows(&epic, 0), BTreeSet::from([50_002, 50_003]), "nothing is remembered of the other");
    assert_eq!(all_drops(&epic.nodes[0]), [], "it is left to the stack");
}

#[test]
fn a_tunnel_s_packet_out_of_a_vlan_is_not_read() {
    let mut epic = Epic::new();
    let _scene = Scene::start(&mut epic, &Plan::simple());
    let (node, client) = (&epic.site.nodes[0], &epic.site.clients[0]);
    let at = |host: &Host, port| SocketAddrV4::new(host.address, port);
    for (from, to, datapath) in [(client, node, &epic.nodes[0]), (node, client, &epic.clients[0])] {
        let packet = udp(at(from, 50_000), at(to, GUE_PORT), &data(FIRST, Key([9; 16]), &[0; 40]));
        let before = drops(datapath, DropReason::Key);
        for tag in [VLAN_100, PRIORITY, None] {
            let header = Ethernet { from: from.mac(NIC), to: to.mac(NIC), tag };
            inject(&from.netns, NIC, &header.frame(IPV4, &packet));
        }
        eventually("the wrong key is counted", || drops(datapath, DropReason::Key) >= before + 2);
        assert_eq!(drops(datapath, DropReason::Key), before + 2);
    }
}

#[test]
fn a_frame_that_a_switch_floods_is_not_taken_by_a_promiscuous_node() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple().with_proxies(&[(1, 0, 7), (3, 1, 9)]));
    for host in &epic.site.nodes {
        host.netns.ip(&format!("link set {NIC} promisc on"));
    }
    let mut capture = Capture::start(&epic.site.internet, NIC);
    let flooded = Capture::start(&epic.site.nodes[0].netns, NIC);
    let nobody = [2, 0, 0, 0, 0, 0x77];
    call(&epic, &scene, 50_001, nobody, None);
    call(&epic, &scene, 50_002, epic.site.nodes[0].mac(NIC), None);
    let seen = capture.wait(DEADLINE, "an answer of the pod", |frames| is_answered(frames, &scene, 50_002));
    assert!(!is_answered(seen, &scene, 50_001));
    assert!(flooded.finish().iter().any(|frame| frame.bytes[..6] == nobody), "the node has got it");
    assert_eq!((flows(&epic, 0), flows(&epic, 1)), (BTreeSet::from([50_002]), BTreeSet::new()));
}

#[test]
fn a_pod_s_frame_of_a_vlan_goes_nowhere() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    let (pod, node) = (&scene.proxy_pods[0], &epic.nodes[0]);
    let from = SocketAddrV4::new(pod.address, 41_000);
    let sent = || node.maps().tunnel_counts().unwrap()[&1].tx_packets;
    let dropped = || drops(node, DropReason::Protocol);
    let (before, refused) = (sent(), dropped());
    for tag in [VLAN_100, None] {
        let header = Ethernet { from: mac(&pod.netns, "eth0"), to: epic.site.nodes[0].mac("cni0"), tag };
        let packet = syn(from, SocketAddrV4::new(alias_address(1), SERVICE));
        inject(&pod.netns, "eth0", &header.frame(IPV4, &packet));
    }
    eventually("the untagged one is in the tunnel", || sent() > before);
    assert_eq!(dropped() - refused, 1, "{:?}", all_drops(node));
}
