//! The three clamps, and the options they have to find.

use epic_abi::stats::Event;
use epic_datapath::Program::{ClientEgress, FromProxy};
use epic_testnet::gue::decode;

use crate::{
    frame::{ACK, ETH, SYN, addr, frame, linux_options, read_tcp, syn, tcp},
    kernel::REDIRECT,
    scene::{self, TUNNEL, tunnel},
};

fn inner_mss(frame: &[u8]) -> Option<u16> {
    read_tcp(decode(&frame[ETH..], 6080).unwrap().unwrap().gue.payload).mss
}

fn from_proxy(options: &[u8]) -> Option<u16> {
    let packet = tcp(addr("10.244.1.7:41000"), addr("100.127.0.7:8080"), SYN, options, &[]);
    let kernel = scene::node();
    let outcome = kernel.run(FromProxy, &frame(&packet));
    assert_eq!(outcome.verdict, REDIRECT, "{options:?}");
    inner_mss(&outcome.frame)
}

#[test]
fn the_proxy_s_syn_is_clamped_to_the_tunnel() {
    assert_eq!(from_proxy(&linux_options(1460)), Some(1408));
    assert_eq!(from_proxy(&linux_options(1408)), Some(1408));
    assert_eq!(from_proxy(&linux_options(1000)), Some(1000), "a smaller one stays");
}

#[test]
fn the_option_is_found_wherever_it_is() {
    assert_eq!(from_proxy(&[1, 1, 2, 4, 0x05, 0xB4]), Some(1408), "behind NOPs");
    assert_eq!(from_proxy(&[1, 2, 4, 0x05, 0xB4]), Some(1408), "at an odd offset");
    assert_eq!(from_proxy(&[8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 4, 2, 2, 4, 0x05, 0xB4]), Some(1408), "the last");
    let mut full = vec![1; 36];
    full.extend([2, 4, 0x05, 0xB4]);
    assert_eq!(from_proxy(&full), Some(1408), "at the end of forty bytes");
}

#[test]
fn a_syn_without_the_option_or_with_nonsense_is_left_alone() {
    assert_eq!(from_proxy(&[]), None);
    assert_eq!(from_proxy(&[4, 2]), None);
    assert_eq!(from_proxy(&[0, 0, 0, 0, 2, 4, 0x05, 0xB4]), None, "behind the end of the list");
    for nonsense in
        [&[5u8, 0, 0, 0, 2, 4, 5, 0xB4][..], &[5, 1, 2, 4, 5, 0xB4], &[5, 255, 2, 4, 5, 0xB4], &[2, 3, 5]]
    {
        let packet = tcp(addr("10.244.1.7:41000"), addr("100.127.0.7:8080"), SYN, nonsense, &[]);
        let kernel = scene::node();
        assert_eq!(kernel.run(FromProxy, &frame(&packet)).verdict, REDIRECT, "{nonsense:?}");
        assert!(!kernel.events().contains_key(&Event::MssClamped), "{nonsense:?}");
    }
}

#[test]
fn the_clamp_follows_the_mtu_of_the_tunnel() {
    let mut kernel = scene::node();
    kernel.set("tunnels", TUNNEL, epic_abi::maps::Tunnel { mtu: 1400, ..tunnel(scene::NODE) });
    let outcome = kernel.run(FromProxy, &frame(&syn("10.244.1.7:41000", "100.127.0.7:8080", 1460)));
    assert_eq!(inner_mss(&outcome.frame), Some(1308));
    assert_eq!(kernel.events().get(&Event::MssClamped), Some(&1));
}

#[test]
fn packets_without_syn_are_never_clamped() {
    let packet = tcp(addr("10.244.1.7:41000"), addr("100.127.0.7:8080"), ACK, &linux_options(1460), &[]);
    let outcome = scene::node().run(FromProxy, &frame(&packet));
    assert_eq!(inner_mss(&outcome.frame), Some(1460));
}

#[test]
fn the_endpoint_s_syn_ack_is_clamped_to_the_tunnel() {
    let packet = tcp(addr("10.244.1.5:8080"), addr("100.64.0.1:41000"), SYN | ACK, &linux_options(1460), &[]);
    let outcome = scene::client().run(ClientEgress, &frame(&packet));
    assert_eq!(inner_mss(&outcome.frame), Some(1408));
}
