//! Frames as the tests make them: independent of the code under test.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

pub const ETH: usize = 14;
pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;

/// Whom every frame is for: the loopback device that it comes in by, whose address is this. Every other one would make
/// it another host's.
pub const TO_MAC: [u8; 6] = [0; 6];
/// Whom every frame is from.
pub const FROM_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xAA];

pub fn addr(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

pub fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

/// The sum of RFC 1071 over `bytes`, beginning with `start`.
pub fn sum(start: u32, bytes: &[u8]) -> u32 {
    let mut total = start;
    for pair in bytes.chunks(2) {
        total += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while total > 0xFFFF {
        total = (total & 0xFFFF) + (total >> 16);
    }
    total
}

/// The Internet checksum of `bytes`.
pub fn checksum(bytes: &[u8]) -> u16 {
    !sum(0, bytes) as u16
}

/// An Ethernet frame around `payload`.
pub fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    [&TO_MAC[..], &FROM_MAC, &kind.to_be_bytes(), payload].concat()
}

/// An IPv4 packet.
pub fn ipv4(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let check = checksum(&packet);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    packet.extend(payload);
    packet
}

/// A TCP segment in IPv4, with right checksums. `options` are padded to words.
pub fn tcp(from: SocketAddrV4, to: SocketAddrV4, flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
    let mut options = options.to_vec();
    options.resize(options.len().next_multiple_of(4), 0);
    let mut segment = Vec::new();
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 2]);
    segment.extend([((5 + options.len() / 4) as u8) << 4, flags, 0x20, 0, 0, 0, 0, 0]);
    segment.extend(&options);
    segment.extend(data);
    let pseudo = sum(sum(6 + segment.len() as u32, &from.ip().octets()), &to.ip().octets());
    let check = !sum(pseudo, &segment) as u16;
    segment[16..18].copy_from_slice(&check.to_be_bytes());
    ipv4(6, *from.ip(), *to.ip(), &segment)
}

/// The usual packet: data of an open connection.
pub fn segment(from: &str, to: &str, data: &[u8]) -> Vec<u8> {
    tcp(addr(from), addr(to), ACK, &[], data)
}

/// The usual first packet, with the options of Linux.
pub fn syn(from: &str, to: &str, mss: u16) -> Vec<u8> {
    tcp(addr(from), addr(to), SYN, &linux_options(mss), &[])
}

/// Options as Linux sends them: MSS, SACK permitted, timestamps, NOP, window scale.
pub fn linux_options(mss: u16) -> Vec<u8> {
    let [high, low] = mss.to_be_bytes();
    vec![2, 4, high, low, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7]
}

/// A UDP datagram in IPv4 without checksum.
pub fn udp(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(from.port().to_be_bytes());
    datagram.extend(to.port().to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    ipv4(17, *from.ip(), *to.ip(), &datagram)
}

/// An ARP frame for IPv4 over Ethernet: 1 asks, 2 answers.
pub fn arp(operation: u16, sender: &str, target: &str) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    packet.extend(FROM_MAC);
    packet.extend(ip(sender).octets());
    packet.extend([0; 6]);
    packet.extend(ip(target).octets());
    ethernet(0x0806, &packet)
}

/// An IPv6 frame.
pub fn ipv6(next: u8, source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    let address = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 255]);
    packet.extend(address(source));
    packet.extend(address(destination));
    packet.extend(payload);
    ethernet(0x86DD, &packet)
}

/// A message of neighbour discovery about `target`, or another payload that begins with `kind`.
pub fn discovery(kind: u8, target: &str) -> Vec<u8> {
    let mut payload = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    payload.extend(target.parse::<Ipv6Addr>().unwrap().octets());
    payload
}

/// An IPv4 frame.
pub fn frame(packet: &[u8]) -> Vec<u8> {
    ethernet(0x0800, packet)
}

/// An IPv4 frame with `inner` in GUE.
pub fn gue(from: &str, to: &str, group: u16, service: u16, key: &[u8; 16], inner: &[u8]) -> Vec<u8> {
    let mut payload = vec![0x05, 0x04, 0xA0, 0x00];
    payload.extend(group.to_be_bytes());
    payload.extend(service.to_be_bytes());
    payload.extend(key);
    payload.extend(inner);
    frame(&udp(addr(from), addr(to), &payload))
}

/// Mends the IPv4 header checksum of the packet at `at` after a test has changed a field.
pub fn mend(frame: &mut [u8], at: usize) {
    frame[at + 10..at + 12].fill(0);
    let check = checksum(&frame[at..at + 20]);
    frame[at + 10..at + 12].copy_from_slice(&check.to_be_bytes());
}

pub struct Segment {
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
    pub mss: Option<u16>,
    pub data: Vec<u8>,
}

/// Reads a TCP packet and checks all its checksums.
pub fn read_tcp(packet: &[u8]) -> Segment {
    use epic_testnet::gue::{Ipv4, Tcp};
    let ip = Ipv4::parse(packet).unwrap();
    assert_eq!(ip.protocol, 6, "this is TCP");
    assert_eq!(ip.transport_checksum_holds(), Some(true), "the TCP checksum is right");
    let tcp = Tcp::parse(ip.payload).unwrap();
    Segment {
        source: SocketAddrV4::new(ip.source, tcp.source),
        destination: SocketAddrV4::new(ip.destination, tcp.destination),
        mss: tcp.mss,
        data: tcp.payload.to_vec(),
    }
}
