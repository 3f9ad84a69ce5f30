//! Packets made by hand, as the payload of a UDP socket: what no host of the lab would send by itself.

use std::net::SocketAddrV4;

use epic_abi::gue::{Header, Inner, Key, encode};
use epic_abi::{Lb, PROTOCOL_TCP};

const SYN: u8 = 0x02;
const RST: u8 = 0x04;

/// A SYN from `source` to `destination`.
pub(crate) fn syn(source: SocketAddrV4, destination: SocketAddrV4) -> Vec<u8> {
    segment(source, destination, SYN)
}

/// A RST from `source` to `destination`: nobody answers it.
pub(crate) fn rst(source: SocketAddrV4, destination: SocketAddrV4) -> Vec<u8> {
    segment(source, destination, RST)
}

fn segment(source: SocketAddrV4, destination: SocketAddrV4, flags: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, PROTOCOL_TCP, 0, 0];
    packet.extend(source.ip().octets());
    packet.extend(destination.ip().octets());
    let check = checksum(0, &packet);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    let mut tcp = Vec::new();
    tcp.extend(source.port().to_be_bytes());
    tcp.extend(destination.port().to_be_bytes());
    tcp.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    let mut pseudo = 0u32;
    for pair in packet[12..20].chunks(2) {
        pseudo += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    let check = checksum(pseudo + u32::from(PROTOCOL_TCP) + 20, &tcp);
    tcp[16..18].copy_from_slice(&check.to_be_bytes());
    packet.extend(tcp);
    packet
}

fn checksum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A GUE packet, as the payload of UDP.
pub(crate) fn data(lb: Lb, key: Key, inner: &[u8]) -> Vec<u8> {
    let mut packet = encode(&Header { inner: Inner::V4, lb, key }).to_vec();
    packet.extend(inner);
    packet
}
