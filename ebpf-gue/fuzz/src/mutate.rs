//! Other packets out of those of the corpus: the same for the same seed, on every machine.
//!
//! A mutant begins as an entry of the corpus and is changed a few times. Most are made consistent again
//! (lengths, checksums), so that they get past the checks of a header and into what comes behind them.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{
    corpus::{Entry, corpus},
    frame::{ETH, sum},
    native::{Packet, Program},
    scene,
};

/// Longer frames are cut: the kernel makes no test packet that does not fit a page beside what it needs
/// itself.
pub const LONGEST: usize = 3_200;

/// Random numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The sequence of the `index`-th packet of a seed: each can be made alone.
    pub fn of(seed: u64, index: u64) -> Self {
        Self(Self(seed ^ Self(index).number()).number())
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 when that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.number()) * end as u128) >> 64) as usize
    }

    fn byte(&mut self) -> u8 {
        self.number() as u8
    }

    /// Whether one of so many cases is here.
    fn one_in(&mut self, cases: usize) -> bool {
        self.below(cases) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Makes mutants.
pub struct Mutator {
    entries: Vec<Entry>,
    of_program: [Vec<usize>; 4],
    addresses: Vec<[u8; 4]>,
    addresses_v6: Vec<[u8; 16]>,
}

const PORTS: [u16; 19] = [
    0, 22, 53, 80, 81, 443, 6080, 6081, 8080, 8081, 9901, 10001, 10002, 18000, 40000, 40001, 40006, 40007,
    0xFFFF,
];
const KEYS: [[u8; 16]; 8] = [
    scene::DATA_KEY,
    scene::OLD_KEY,
    scene::NEXT_KEY,
    scene::NODE_KEY,
    scene::OTHER_KEY,
    scene::FAR_KEY,
    [0; 16],
    [0xFF; 16],
];
const ADDRESSES: [&str; 43] = [
    scene::NODE,
    scene::NODE2,
    scene::CLIENT,
    scene::NAT_CLIENT,
    scene::VIP,
    scene::OTHER_VIP,
    scene::POD,
    scene::DRAINING_POD,
    scene::PROXY,
    scene::PROXY_ELSEWHERE,
    "100.64.0.3",
    scene::PROXY_OF_OTHERS,
    scene::PROXY_SILENT,
    scene::DRAINING_PROXY,
    scene::PROXY_ABSENT,
    "100.64.0.9",
    "100.64.0.0",
    "100.95.255.255",
    "100.96.0.0",
    scene::ALIAS,
    scene::SILENT_ALIAS,
    scene::ABSENT_ALIAS,
    scene::NARROW_ALIAS,
    "100.127.255.255",
    "100.128.0.0",
    scene::ENDPOINT,
    scene::NARROW_ENDPOINT,
    scene::INTERNET,
    "203.0.113.16",
    scene::XDS,
    scene::UNTUNNELLED,
    "10.244.1.1",
    "10.244.1.9",
    "10.244.9.9",
    "10.244.1.255",
    "192.0.2.200",
    "198.51.100.255",
    "0.0.0.0",
    "127.0.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "169.254.169.254",
];
const ADDRESSES_V6: [&str; 9] = [
    scene::VIP_V6,
    scene::POD_V6,
    "fd00:64::1",
    "fd00:10:244:1::1",
    "fe80::1",
    "ff02::1",
    "ff02::16",
    "::",
    "::ffff:192.0.2.7",
];
const PROTOCOLS: [u8; 12] = [0, 1, 4, 6, 6, 17, 17, 41, 47, 58, 132, 255];
const FRAGMENTS: [u16; 7] = [0, 0x4000, 0x2000, 1, 0x1FFF, 0x8000, 0x3FFF];
const SEGMENTS: [u32; 9] = [0, 0, 1, 536, 1308, 1400, 1408, 1409, 65_535];
const ETHERTYPES: [u16; 7] = [0x0800, 0x0800, 0x86DD, 0x0806, 0x8100, 0x88A8, 0x88CC];
const MACS: [[u8; 6]; 5] = [[0; 6], [0xFF; 6], scene::MAC, [2, 0, 0, 0, 0, 0x77], [1, 0, 0x5E, 0, 0, 1]];
const LENGTHS: [u16; 14] = [0, 1, 7, 8, 19, 20, 21, 28, 39, 40, 41, 52, 1448, 0xFFFF];
const FIRST_OF_GUE: [u8; 9] = [0x05, 0x05, 0x20, 0x00, 0x04, 0x06, 0x45, 0x25, 0x85];
const INSIDE: [u8; 6] = [4, 4, 41, 97, 0, 6];
const GUE_FLAGS: [u16; 6] = [0xA000, 0xA000, 0, 0x2000, 0x8000, 0xA001];
const SERVICES: [[u16; 2]; 6] = [[3, 7], [3, 8], [3, 9], [4, 7], [0, 0], [3, 70]];
/// From and to, of tunnels' ends.
const ENDS: [[&str; 2]; 5] = [
    [scene::CLIENT, scene::NODE],
    [scene::NAT_CLIENT, scene::NODE],
    [scene::NODE2, scene::NODE],
    [scene::NODE, scene::CLIENT],
    [scene::NODE2, scene::CLIENT],
];

impl Mutator {
    /// One that knows the whole corpus.
    pub fn new() -> Self {
        let entries = corpus();
        let of = |program: Program| {
            let of = |at: &usize| entries[*at].packet.program == program;
            (0..entries.len()).filter(of).collect()
        };
        Self {
            of_program: Program::ALL.map(of),
            addresses: ADDRESSES.map(|text| text.parse::<Ipv4Addr>().unwrap().octets()).to_vec(),
            addresses_v6: ADDRESSES_V6.map(|text| text.parse::<Ipv6Addr>().unwrap().octets()).to_vec(),
            entries,
        }
    }

    /// Makes `packet` the next mutant for `program`, and says which entry it was.
    pub fn mutate(&self, random: &mut Random, program: Program, packet: &mut Packet) -> &'static str {
        let entry = self.entry(random, program);
        packet.program = program;
        packet.frame.clear();
        packet.frame.extend_from_slice(&entry.packet.frame);
        packet.segment = entry.packet.segment;
        packet.is_tagged = entry.packet.is_tagged;
        packet.is_unlisted = entry.packet.is_unlisted;
        // Some are what they were.
        if !random.one_in(8) {
            self.alter(random, packet);
        }
        entry.name
    }

    /// Changes `packet` a few times, and makes most of what comes out consistent.
    pub fn alter(&self, random: &mut Random, packet: &mut Packet) {
        for _ in 0..[1, 1, 1, 2, 2, 3, 5][random.below(7)] {
            self.change(random, packet.program, packet);
        }
        if packet.frame.len() > LONGEST {
            packet.frame.truncate(LONGEST);
        }
        match random.below(8) {
            0..=4 => mend(&mut packet.frame, true),
            5 => mend(&mut packet.frame, false),
            _ => {}
        }
    }

    /// An entry, mostly of this program.
    fn entry(&self, random: &mut Random, program: Program) -> &Entry {
        let own = &self.of_program[program as usize];
        let at = if random.one_in(12) { random.below(self.entries.len()) } else { random.pick(own) };
        &self.entries[at]
    }

    /// Changes one thing.
    fn change(&self, random: &mut Random, program: Program, packet: &mut Packet) {
        let frame = &mut packet.frame;
        // Most of what is read lies in the headers.
        let reach = if random.one_in(4) { frame.len() } else { frame.len().min(ETH + 52 + 60) };
        let at = random.below(reach);
        match random.below(20) {
            0 | 1 => {
                if let Some(byte) = frame.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            2 => {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = random.byte();
                }
            }
            3..=11 => self.set_field(random, frame),
            12 => frame.truncate(at),
            13 => {
                let (room, byte) = (random.below(64) + 1, if random.one_in(2) { 0 } else { random.byte() });
                frame.resize(frame.len() + room, byte);
            }
            14 => {
                let tail = &self.entry(random, program).packet.frame;
                let from = if random.one_in(2) { at } else { random.below(tail.len()) };
                frame.truncate(at);
                frame.extend_from_slice(tail.get(from..).unwrap_or_default());
            }
            15 => {
                if random.one_in(2) {
                    self.wrap(random, frame);
                } else {
                    unwrap(frame);
                }
            }
            16 => packet.segment = random.pick(&SEGMENTS),
            17 => options(random, frame),
            18 => {
                // Around the limits of tunnels and links.
                let length = ETH + [1348, 1400, 1448, 1500, 3000][random.below(5)] + random.below(5) - 2;
                frame.resize(length, 0x55);
                mend(frame, true);
            }
            _ => match random.below(3) {
                0 => packet.is_unlisted ^= true,
                1 => packet.is_tagged = random.one_in(2),
                _ => {
                    let end = frame.len().max(at + 1);
                    frame.resize(end, 0);
                    frame[at..].rotate_left(1);
                }
            },
        }
    }

    /// Gives a field another value that means something.
    fn set_field(&self, random: &mut Random, frame: &mut [u8]) {
        match frame.get(12..14) {
            Some([8, 0]) if !random.one_in(16) => {
                let inner = inner_at(frame);
                match inner {
                    Some(inner) if random.one_in(2) => self.set_ipv4(random, frame, inner),
                    Some(inner) if random.one_in(2) => set_gue(random, frame, inner - 24),
                    _ => self.set_ipv4(random, frame, ETH),
                }
            }
            Some([0x86, 0xDD]) if !random.one_in(16) => self.set_ipv6(random, frame),
            Some([8, 6]) if !random.one_in(16) => {
                let address = random.pick(&self.addresses);
                match random.below(4) {
                    0 => put(frame, ETH + 14, &address),
                    1 => put(frame, ETH + 24, &address),
                    2 => put(frame, ETH + 6, &(random.below(4) as u16).to_be_bytes()),
                    _ => put(frame, ETH + random.below(6), &[random.pick(&[0, 1, 4, 6, 8, 0x86])]),
                }
            }
            _ => match random.below(3) {
                0 => put(frame, 12, &random.pick(&ETHERTYPES).to_be_bytes()),
                1 => put(frame, 0, &random.pick(&MACS)),
                _ => put(frame, 6, &random.pick(&MACS)),
            },
        }
    }

    fn set_ipv4(&self, random: &mut Random, frame: &mut [u8], at: usize) {
        let address = random.pick(&self.addresses);
        let port = random.pick(&PORTS).to_be_bytes();
        let length = around(random, frame.len().saturating_sub(at));
        let behind = at + frame.get(at).map_or(20, |first| usize::from(first & 0xF) * 4);
        match random.below(20) {
            0 => put(frame, at, &[random.pick(&[0x45, 0x46, 0x4F, 0x44, 0x40, 0x55, 0x65])]),
            1 => put(frame, at + 1, &[random.byte()]),
            2 => put(frame, at + 2, &length),
            3 => put(frame, at + 6, &random.pick(&FRAGMENTS).to_be_bytes()),
            4 => put(frame, at + 9, &[random.pick(&PROTOCOLS)]),
            5 => put(frame, at + 10, &random.pick(&[[0, 0], [0xFF, 0xFF], [0xFF, 0xFE]])),
            6..=8 => put(frame, at + 12, &address),
            9..=11 => put(frame, at + 16, &address),
            12 | 13 => put(frame, behind, &port),
            14 | 15 => put(frame, behind + 2, &port),
            16 => {
                put(frame, behind + 12, &[random.pick(&[0, 0x40, 0x50, 0x51, 0x60, 0xA0, 0xF0])]);
            }
            17 => put(frame, behind + 13, &[random.pick(&[0, 2, 4, 0x10, 0x12, 0x18, 0xFF])]),
            18 => put(frame, behind + 16, &random.pick(&[[0, 0], [0xFF, 0xFF], [0, 1]])),
            _ => put(frame, behind + 4, &around(random, frame.len().saturating_sub(behind))),
        }
    }

    fn set_ipv6(&self, random: &mut Random, frame: &mut [u8]) {
        let address = random.pick(&self.addresses_v6);
        match random.below(6) {
            0 => put(frame, ETH + 6, &[random.pick(&[0, 6, 17, 43, 44, 58, 59, 60])]),
            1 => put(frame, ETH + 8, &address),
            2 => put(frame, ETH + 24, &address),
            3 => put(frame, ETH + 40, &[random.pick(&[0, 1, 128, 133, 134, 135, 136, 137, 143])]),
            4 => put(frame, ETH + 48, &address),
            _ => put(frame, ETH + 4, &random.pick(&LENGTHS).to_be_bytes()),
        }
    }

    /// Puts the packet of the frame into GUE, as some host would.
    fn wrap(&self, random: &mut Random, frame: &mut Vec<u8>) {
        if frame.len() < ETH {
            return;
        }
        let [from, to] = random.pick(&ENDS).map(|text| text.parse::<Ipv4Addr>().unwrap().octets());
        let port = random.pick(&[50_000, scene::NAT_PORT, 6080]);
        let mut outer = [0; 52];
        outer[0] = 0x45;
        put(&mut outer, 6, &[0x40, 0, 64, 17]);
        put(&mut outer, 12, &from);
        put(&mut outer, 16, &to);
        put(&mut outer, 20, &port.to_be_bytes());
        put(&mut outer, 22, &6080u16.to_be_bytes());
        put(&mut outer, 28, &[5, 4, 0xA0, 0, 0, 3, 0, 7]);
        put(&mut outer, 36, &random.pick(&KEYS));
        frame.splice(ETH..ETH, outer);
        put(frame, 12, &[8, 0]);
        mend(frame, true);
    }
}

impl Default for Mutator {
    fn default() -> Self {
        Self::new()
    }
}

fn set_gue(random: &mut Random, frame: &mut [u8], at: usize) {
    let [group, service] = random.pick(&SERVICES).map(u16::to_be_bytes);
    match random.below(5) {
        0 => put(frame, at, &[random.pick(&FIRST_OF_GUE)]),
        1 => put(frame, at + 1, &[random.pick(&INSIDE)]),
        2 => put(frame, at + 2, &random.pick(&GUE_FLAGS).to_be_bytes()),
        3 => put(frame, at + 4, &[group, service].concat()),
        _ => put(frame, at + 8, &random.pick(&KEYS)),
    }
}

/// Takes a packet out of GUE.
fn unwrap(frame: &mut Vec<u8>) {
    if let Some(inner) = inner_at(frame)
        && inner <= frame.len()
    {
        frame.drain(ETH..inner);
    }
}

/// Puts options into the packet: of TCP, where the MSS may lie at any offset, or of IP.
fn options(random: &mut Random, frame: &mut Vec<u8>) {
    let at = match inner_at(frame) {
        Some(inner) if random.one_in(2) => inner,
        _ => ETH,
    };
    let behind = at + 20;
    let words = random.below(10) + 1;
    if frame.len() < behind + 20 {
        return;
    }
    let mut list = [1u8; 40];
    for _ in 0..random.below(3) {
        let kind = random.pick(&[0, 2, 3, 4, 5, 8, 254]);
        let length = random.pick(&[0, 1, 2, 3, 4, 8, 10, 40, 63, 64, 65, 66, 128, 255]);
        put(&mut list, random.below(40), &[kind, length]);
    }
    let [high, low] = random.pick(&[0u16, 535, 1308, 1309, 1408, 1409, 1460, 8960, 0xFFFF]).to_be_bytes();
    put(&mut list, random.below(words * 4), &[2, 4, high, low]);
    if random.one_in(8) {
        frame.splice(behind..behind, list[..words * 4].iter().copied());
        frame[at] = 0x40 | (5 + words as u8);
    } else {
        let old = usize::from(frame[behind + 12] >> 4).saturating_sub(5) * 4;
        let end = (behind + 20 + old).min(frame.len());
        frame.splice(behind + 20..end, list[..words * 4].iter().copied());
        frame[behind + 12] = (5 + words as u8) << 4;
        if random.one_in(2) {
            frame[behind + 13] |= 2;
        }
    }
    mend(frame, true);
}

/// A length that is this one, nearly this one, or one that means something.
fn around(random: &mut Random, length: usize) -> [u8; 2] {
    let length = length as u16;
    match random.below(4) {
        0 => random.pick(&LENGTHS),
        1 => length.wrapping_add(1),
        2 => length.wrapping_sub(1),
        _ => length,
    }
    .to_be_bytes()
}

/// Writes as much of `bytes` at `at` as there is room for.
fn put(frame: &mut [u8], at: usize, bytes: &[u8]) {
    for (place, byte) in frame.iter_mut().skip(at).zip(bytes) {
        *place = *byte;
    }
}

/// Where a packet in GUE begins, if the frame has one.
fn inner_at(frame: &[u8]) -> Option<usize> {
    let is_gue = frame.get(12..15)? == [8, 0, 0x45]
        && *frame.get(ETH + 9)? == 17
        && frame.get(ETH + 22..ETH + 24)? == [0x17, 0xC0];
    is_gue.then_some(ETH + 52)
}

/// Makes lengths (of a frame without padding) and checksums right, as far as headers are there.
pub fn mend(frame: &mut [u8], lengths: bool) {
    if frame.get(12..14) != Some(&[8, 0]) {
        return;
    }
    if let Some(inner) = inner_at(frame) {
        mend_packet(frame, inner, lengths);
    }
    mend_packet(frame, ETH, lengths);
}

fn mend_packet(frame: &mut [u8], at: usize, lengths: bool) {
    let Some(packet) = frame.get_mut(at..).filter(|packet| packet.len() >= 20) else { return };
    let behind = usize::from(packet[0] & 0xF) * 4;
    if behind < 20 || behind > packet.len() {
        return;
    }
    if lengths {
        let total = (packet.len() as u16).to_be_bytes();
        packet[2..4].copy_from_slice(&total);
    }
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    packet[10..12].fill(0);
    let check = !sum(0, &packet[..behind]) as u16;
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    let pseudo = sum(0, &packet[12..20]);
    let protocol = packet[9];
    if total > packet.len() || total < behind {
        return;
    }
    let payload = &mut packet[behind..total];
    match protocol {
        6 if payload.len() >= 20 => {
            payload[16..18].fill(0);
            let check = !sum(pseudo + 6 + payload.len() as u32, payload) as u16;
            payload[16..18].copy_from_slice(&check.to_be_bytes());
        }
        17 if payload.len() >= 8 && lengths => {
            let length = (payload.len() as u16).to_be_bytes();
            payload[4..6].copy_from_slice(&length);
        }
        1 if payload.len() >= 8 => {
            payload[2..4].fill(0);
            let check = !sum(0, payload) as u16;
            payload[2..4].copy_from_slice(&check.to_be_bytes());
        }
        _ => {}
    }
}
