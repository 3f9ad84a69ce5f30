//! Packets that are not what they say: each is dropped under its reason, or not touched at all.

use epic_abi::drop::DropReason;
use epic_datapath::Program::{self, ClientEgress, ClientIngress, FromProxy, Ingress};

use crate::{
    frame::{ETH, frame, gue, mend, segment},
    kernel::{DROP, NEXT},
    scene::{self, DATA_KEY},
};

const OUTER: usize = ETH;
const UDP: usize = ETH + 20;
const GUE: usize = UDP + 8;
const INNER: usize = GUE + 24;

/// The kernel makes no shorter test packet with this ethertype.
const SHORTEST: usize = ETH + 20;

fn good() -> Vec<u8> {
    let inner = segment("10.244.1.5:8080", "100.64.0.1:41000", b"pong");
    gue("198.51.100.2:50000", "198.51.100.1:6080", 3, 7, &DATA_KEY, &inner)
}

/// A datagram without content; what stands behind it looks like a control message.
fn end_behind_udp(frame: &mut [u8]) {
    (frame[OUTER + 2], frame[OUTER + 3]) = (0, 28);
    (frame[UDP + 4], frame[UDP + 5]) = (0, 8);
    frame[GUE] = 0x20;
}

/// What is changed, how, and the reason it is dropped for.
type Case = (&'static str, fn(&mut Vec<u8>), DropReason);

const CASES: &[Case] = &[
    ("version 1", |f| f[GUE] = 0x45, DropReason::GueHeader),
    ("hlen too short", |f| f[GUE] = 0x04, DropReason::GueHeader),
    ("hlen too long", |f| f[GUE] = 0x06, DropReason::GueHeader),
    ("hlen of the original's malformed header", |f| f[GUE] = 0x01, DropReason::GueHeader),
    ("no flags", |f| f[GUE + 2] = 0, DropReason::GueHeader),
    ("one flag more", |f| f[GUE + 3] = 1, DropReason::GueHeader),
    ("IPv6 inside", |f| f[GUE + 1] = 41, DropReason::Ipv6),
    ("Ethernet inside", |f| f[GUE + 1] = 97, DropReason::GueHeader),
    ("cut in the GUE header", |f| f.truncate(GUE + 2), DropReason::Malformed),
    ("cut in the inner IP header", |f| f.truncate(INNER + 12), DropReason::Malformed),
    ("cut in the inner TCP header", |f| f.truncate(INNER + 30), DropReason::Malformed),
    ("cut in the data", |f| f.truncate(INNER + 42), DropReason::Malformed),
    ("UDP length too long", |f| f[UDP + 5] += 1, DropReason::Malformed),
    ("UDP length too short", |f| f[UDP + 5] -= 1, DropReason::Malformed),
    ("outer total length too short", |f| f[OUTER + 3] -= 1, DropReason::Malformed),
    ("padding where the GUE header would be", |f| end_behind_udp(f), DropReason::Malformed),
    ("outer first fragment", |f| f[OUTER + 6] = 0x20, DropReason::OuterFragment),
    ("inner version 6", |f| f[INNER] = 0x65, DropReason::Malformed),
    ("inner header with options", |f| f[INNER] = 0x46, DropReason::IpOptions),
    ("inner header too short", |f| f[INNER] = 0x44, DropReason::IpOptions),
    ("inner total length beyond the packet", |f| f[INNER + 3] += 1, DropReason::Malformed),
    ("bytes behind the inner packet", |f| f[INNER + 3] -= 1, DropReason::Malformed),
    ("inner total length below the headers", |f| f[INNER + 3] = 39, DropReason::Malformed),
    ("inner first fragment", |f| f[INNER + 6] = 0x20, DropReason::Fragment),
    ("inner later fragment", |f| f[INNER + 7] = 1, DropReason::Fragment),
    ("UDP inside", |f| f[INNER + 9] = 17, DropReason::Protocol),
    ("SCTP inside", |f| f[INNER + 9] = 132, DropReason::Protocol),
    ("TCP data offset too small", |f| f[INNER + 32] = 0x40, DropReason::Malformed),
    ("TCP data offset beyond the packet", |f| f[INNER + 32] = 0xF0, DropReason::Malformed),
    ("ICMP error inside", |f| (f[INNER + 9], f[INNER + 20]) = (1, 3), DropReason::IcmpError),
    ("ICMP echo inside", |f| (f[INNER + 9], f[INNER + 20]) = (1, 8), DropReason::Protocol),
];

#[test]
fn every_malformed_packet_is_dropped_for_its_reason() {
    let kernel = scene::node();
    for (what, change, reason) in CASES {
        let mut packet = good();
        change(&mut packet);
        mend(&mut packet, OUTER);
        assert_eq!(kernel.dropped(Ingress, &packet), *reason, "{what}");
    }
    assert_eq!(kernel.run(Ingress, &good()).verdict, crate::kernel::REDIRECT, "the packet itself is fine");
}

#[test]
fn a_later_outer_fragment_and_one_with_options_are_left_to_the_stack() {
    let kernel = scene::node();
    let mut packet = good();
    packet[OUTER + 7] = 1;
    assert_eq!(kernel.run(Ingress, &packet).verdict, NEXT);
    let mut packet = good();
    packet[OUTER] = 0x46;
    assert_eq!(kernel.run(Ingress, &packet).verdict, NEXT);
}

/// Deterministic noise.
fn noise(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn no_noise_in_the_headers_makes_a_program_pass_or_answer_what_it_should_not() {
    let (node, client) = (scene::node(), scene::client());
    let mut state = 0x9E37_79B9_7F4A_7C15;
    for round in 0..3000 {
        let mut packet = good();
        for _ in 0..=noise(&mut state) % 3 {
            let at = ETH + noise(&mut state) as usize % (packet.len() - ETH - 4);
            packet[at] = noise(&mut state) as u8;
        }
        if round % 3 == 0 {
            packet.truncate(SHORTEST + noise(&mut state) as usize % (packet.len() - SHORTEST));
        }
        for (kernel, program) in [(&node, Ingress), (&client, ClientIngress)] {
            let verdict = kernel.run(program, &packet).verdict;
            assert!([NEXT, 0, DROP, 7].contains(&verdict), "{program:?} says {verdict} in round {round}");
        }
        // What a pod or an endpoint sends never goes on in clear.
        for (kernel, program) in [(&node, FromProxy), (&client, ClientEgress)] {
            let verdict = kernel.run(program, &packet).verdict;
            assert_eq!(verdict, DROP, "{program:?} in round {round}");
        }
    }
}

#[test]
fn frames_of_every_short_length_are_survived() {
    let (node, client) = (scene::node(), scene::client());
    let runs: [(_, Program, i32); 4] = [
        (&node, Ingress, NEXT),
        (&node, FromProxy, DROP),
        (&client, ClientIngress, NEXT),
        (&client, ClientEgress, DROP),
    ];
    let packet = frame(&segment("10.244.9.9:1", "10.244.9.8:2", b""));
    for len in SHORTEST..packet.len() {
        for (kernel, program, verdict) in &runs {
            assert_eq!(kernel.run(*program, &packet[..len]).verdict, *verdict, "{program:?}, {len} bytes");
        }
    }
}
