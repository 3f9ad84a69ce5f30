//! Packets made by hand, as the payload of a UDP socket or of a whole frame: what no host of the lab would send by
//! itself.

use std::net::{Ipv4Addr, SocketAddrV4};

use epic_abi::gue::{Header, Inner, Key, encode};
use epic_abi::{Lb, PROTOCOL_TCP, PROTOCOL_UDP};

const SYN: u8 = 0x02;
const RST: u8 = 0x04;

/// Ethertype of IPv4.
pub(crate) const IPV4: u16 = 0x0800;
/// Ethertype of ARP.
pub(crate) const ARP: u16 = 0x0806;
/// Ethertype of a tag of IEEE 802.1Q.
const VLAN: u16 = 0x8100;
/// The MAC address of everybody.
pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];

/// Who sends a frame to whom, and the control information of its tag, if it has one.
#[derive(Clone, Copy)]
pub(crate) struct Ethernet {
    /// Source.
    pub(crate) from: [u8; 6],
    /// Destination.
    pub(crate) to: [u8; 6],
    /// Priority in the three bits at the top, VLAN id in the twelve at the bottom.
    pub(crate) tag: Option<u16>,
}

impl Ethernet {
    /// A frame around `payload`.
    pub(crate) fn frame(self, kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = [self.to, self.from].concat();
        if let Some(tag) = self.tag {
            frame.extend([VLAN.to_be_bytes(), tag.to_be_bytes()].concat());
        }
        frame.extend(kind.to_be_bytes());
        frame.extend(payload);
        frame
    }
}

/// An ARP request of `asker` for `target`.
pub(crate) fn who_has(asker: ([u8; 6], Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
    packet.extend(asker.0);
    packet.extend(asker.1.octets());
    packet.extend([0; 6]);
    packet.extend(target.octets());
    packet
}

/// A UDP datagram without checksum.
pub(crate) fn udp(source: SocketAddrV4, destination: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let mut packet = ipv4(PROTOCOL_UDP, *source.ip(), *destination.ip(), length);
    packet.extend([source.port(), destination.port(), length, 0].map(u16::to_be_bytes).concat());
    packet.extend(payload);
    packet
}

/// An IPv4 header before `length` bytes.
fn ipv4(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr, length: u16) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((20 + length).to_be_bytes());
    header.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    let check = checksum(0, &header);
    header[10..12].copy_from_slice(&check.to_be_bytes());
    header
}

/// A SYN from `source` to `destination`.
pub(crate) fn syn(source: SocketAddrV4, destination: SocketAddrV4) -> Vec<u8> {
    segment(source, destination, SYN)
}

/// A RST from `source` to `destination`: nobody answers it.
pub(crate) fn rst(source: SocketAddrV4, destination: SocketAddrV4) -> Vec<u8> {
    segment(source, destination, RST)
}

fn segment(source: SocketAddrV4, destination: SocketAddrV4, flags: u8) -> Vec<u8> {
    let mut packet = ipv4(PROTOCOL_TCP, *source.ip(), *destination.ip(), 20);
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
