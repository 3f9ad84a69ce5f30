//! Frames for the MAC address of another host.

use epic_abi::drop::DropReason;
use epic_datapath::Program::{ClientIngress, FromProxy, Ingress};

use crate::{
    frame::{addr, arp, ethernet, frame, gue, segment, udp},
    kernel::{NEXT, REDIRECT},
    scene::{self, DATA_KEY, VIP},
};

/// The same frame for another host.
fn foreign(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x77]);
    frame
}

#[test]
fn a_node_leaves_frames_for_other_hosts_to_the_stack() {
    let kernel = scene::node();
    let vip = frame(&segment("203.0.113.10:40000", "192.0.2.7:80", b"GET /"));
    let answer = segment("10.244.1.5:8080", "100.64.0.1:41000", b"pong");
    let tunnel = gue("198.51.100.2:50000", "198.51.100.1:6080", 3, 7, &DATA_KEY, &answer);
    let wrong_key = gue("198.51.100.2:50000", "198.51.100.1:6080", 3, 7, &[9; 16], &answer);
    let control = frame(&udp(addr("203.0.113.66:4444"), addr("198.51.100.1:6080"), b"\x20\x48\x00\x00"));
    let bare = frame(&segment("100.64.0.1:41000", "10.244.1.5:8080", b""));
    for packet in [vip, tunnel, wrong_key, control, bare, arp(1, "192.0.2.1", VIP)] {
        let packet = foreign(packet);
        let outcome = kernel.run(Ingress, &packet);
        assert_eq!((outcome.verdict, outcome.frame), (NEXT, packet));
    }
    assert!(kernel.drops().is_empty() && kernel.events().is_empty());
}

#[test]
fn a_client_leaves_frames_for_other_hosts_to_the_stack() {
    let kernel = scene::client();
    let request = segment("100.64.0.1:41000", "10.244.1.5:8080", b"ping");
    let tunnel = gue("198.51.100.1:50000", "198.51.100.2:6080", 3, 7, &DATA_KEY, &request);
    for packet in [tunnel, frame(&request)] {
        let packet = foreign(packet);
        let outcome = kernel.run(ClientIngress, &packet);
        assert_eq!((outcome.verdict, outcome.frame), (NEXT, packet));
    }
    assert!(kernel.drops().is_empty() && kernel.events().is_empty());
}

#[test]
fn a_request_to_everybody_is_for_this_host_too() {
    let mut request = arp(1, "192.0.2.1", VIP);
    request[..6].fill(0xFF);
    assert_eq!(scene::node().run(Ingress, &request).verdict, REDIRECT);
}

#[test]
fn the_fence_judges_what_a_pod_sends_to_whomever() {
    // Behind a bridge a frame is for the bridge or for another pod, never for the host's side of the veth.
    let kernel = scene::node();
    let to_alias = foreign(frame(&segment("10.244.1.7:41000", "100.127.0.7:8080", b"ping")));
    assert_eq!(kernel.run(FromProxy, &to_alias).verdict, REDIRECT);
    let to_pod = foreign(frame(&segment("10.244.1.7:41000", "10.244.1.9:80", b"")));
    assert_eq!(kernel.dropped(FromProxy, &to_pod), DropReason::ProxyNotAllowed);
    let lldp = foreign(ethernet(0x88CC, &[0; 46]));
    assert_eq!(kernel.dropped(FromProxy, &lldp), DropReason::Protocol);
}
