//! Packets that somebody else made.
//!
//! Their sender knows more than an attacker should, a right key among it; only one thing at a time is wrong.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use epic_abi::gue::{CONTROL_TYPE_HELLO, encode_control};
use epic_abi::hello::{Entry, HEADER_LEN, Header, Kind, encode, encode_header};
use epic_abi::keys::entry_mac;
use epic_e2e::lab::{Lab, load_balancer};
use serde_json::Value;

use crate::wire::key;

const COPIES: u64 = 10;

/// A tunnelled TCP SYN.
#[derive(Clone, Copy)]
struct Forged {
    group: u16,
    service: u16,
    key: [u8; 16],
    source: (Ipv4Addr, u16),
    destination: (Ipv4Addr, u16),
}

impl Forged {
    fn bytes(&self) -> Vec<u8> {
        let mut packet = vec![0x05, 0x04, 0xa0, 0x00];
        packet.extend(self.group.to_be_bytes());
        packet.extend(self.service.to_be_bytes());
        packet.extend(self.key);
        let mut ip = vec![0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0];
        ip.extend(self.source.0.octets());
        ip.extend(self.destination.0.octets());
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(ip);
        packet.extend(self.source.1.to_be_bytes());
        packet.extend(self.destination.1.to_be_bytes());
        packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x12, 0xff, 0xff, 0, 0, 0, 0]);
        packet
    }
}

fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn send(lab: &Lab, from: &str, to: SocketAddr, bytes: &[u8]) {
    lab.host(from).run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a UDP socket");
        for _ in 0..COPIES {
            socket.send_to(bytes, to).expect("a datagram is sent");
        }
    });
}

fn remotes(lab: &Lab, node: &str) -> Vec<(Value, Value)> {
    let mut all: Vec<_> = lab
        .tunnels(node)
        .into_iter()
        .map(|tunnel| (tunnel["id"].clone(), tunnel["remote"].clone()))
        .collect();
    all.sort_by_key(|(id, _)| id.as_u64());
    all
}

pub(crate) fn forged_packets_are_dropped_and_counted_and_move_no_tunnel(lab: &Lab) {
    let node = "node1";
    let to = SocketAddr::from(([192, 168, 77, 101], 6080));
    let (group, service, data, hello) = key(lab, "epic-sample", "sample-acnodal");
    let proxy = |namespace: &str, name: &str| {
        let object = lab.get(&load_balancer(namespace, name));
        let proxies = object["status"]["proxies"].as_array().cloned().unwrap_or_default();
        let here = proxies.iter().find(|proxy| proxy["node"] == node).expect("a proxy on node1");
        here["proxy-address"]
            .as_str()
            .and_then(|text| text.parse::<Ipv4Addr>().ok())
            .expect("a proxy address")
    };
    let (own, others) = (proxy("epic-sample", "sample-acnodal"), proxy("epic-other", "web"));
    let endpoint = (Ipv4Addr::new(10, 244, 1, 5), 8080);
    let right = Forged { group, service, key: data, source: endpoint, destination: (own, 40_000) };
    let mut wrong_key = right;
    wrong_key.key[15] ^= 1;

    let before = remotes(lab, node);
    let forgeries = [
        ("a wrong key", "key", "client1", wrong_key),
        ("a wrong outer source", "outer_source", "internet", right),
        (
            "an inner source that is no endpoint",
            "inner_source",
            "client1",
            Forged { source: (Ipv4Addr::new(10, 244, 1, 77), 8080), ..right },
        ),
        (
            "an inner source port that is no endpoint's",
            "inner_source",
            "client1",
            Forged { source: (endpoint.0, 22), ..right },
        ),
        (
            "an inner destination of another service",
            "inner_destination",
            "client1",
            Forged { destination: (others, 40_000), ..right },
        ),
    ];
    for (what, reason, from, forged) in forgeries {
        let label = format!("reason=\"{reason}\"");
        let counted = lab.counter(node, "epic_drops_total", &label);
        send(lab, from, to, &forged.bytes());
        lab.until(&format!("{what}: {COPIES} packets are counted as {reason}"), || {
            let now = lab.counter(node, "epic_drops_total", &label);
            if now >= counted + COPIES { Ok(()) } else { Err(now - counted) }
        });
    }

    let refused = lab.counter(node, "epic_hello_refused_total", "reason=\"cookie\"");
    let tunnel = before.iter().filter_map(|(id, _)| id.as_u64()).find(|id| {
        let tunnels = lab.tunnels(node);
        tunnels.iter().any(|t| t["id"] == *id && t["load-balancer"] == "epic-sample/sample-acnodal")
    });
    send(lab, "internet", to, &hello_without_cookie(tunnel.expect("a tunnel of sample") as u32, &hello));
    lab.until("hellos without a cookie are counted as refused", || {
        let now = lab.counter(node, "epic_hello_refused_total", "reason=\"cookie\"");
        if now >= refused + COPIES { Ok(()) } else { Err(now - refused) }
    });
    assert_eq!(remotes(lab, node), before, "no tunnel has moved");
    lab.stage(&["ready"]);
}

/// Everything is right about it, the MAC too, but its sender has not shown that it receives where it sends from.
fn hello_without_cookie(tunnel: u32, key: &[u8; 32]) -> Vec<u8> {
    let header = Header {
        kind: Kind::Hello,
        sequence: 1,
        session: 0x1234_5678_9abc_def0,
        address: IpAddr::from([192, 168, 77, 200]).into(),
        port: 6080,
        period_millis: 5_000,
        round_trip_micros: 0,
        cookie: [0; 16],
    };
    let mut entry = Entry { tunnel, generation: 1, ..Entry::default() };
    let head: [u8; HEADER_LEN] = encode_header(&header, 1);
    entry.mac = entry_mac(key, &head, &entry);
    let mut message = vec![0; 256];
    let length = encode(&header, &[entry], &mut message).expect("a hello");
    let mut packet = encode_control(CONTROL_TYPE_HELLO).to_vec();
    packet.extend(&message[..length]);
    packet
}
