//! The core beside the kernel: packets, and hosts in the memory of a process that they arrive at.

use std::{fmt, rc::Rc};

use epic_abi::Ip;
use epic_core::{Act, Bytes, Tables, Way, client_egress, client_ingress, finish, from_pod, ingress};

use crate::{
    oracle::judge,
    scene::{self, IFINDEX, Routes},
};

/// The programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// `epic_ingress`.
    Ingress,
    /// `epic_from_proxy`.
    FromPod,
    /// `epic_client_ingress`.
    ClientIngress,
    /// `epic_client_egress`.
    ClientEgress,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ingress, Self::FromPod, Self::ClientIngress, Self::ClientEgress];

    /// Whether it runs on EPIC nodes, else on clients.
    pub const fn is_of_node(self) -> bool {
        matches!(self, Self::Ingress | Self::FromPod)
    }

    /// What becomes of a frame, which is counted. Compiled here, so that it is fast in tests as well.
    pub fn run(self, frame: &mut Bytes, tables: &Tables) -> Act {
        let step = match self {
            Self::Ingress => ingress::run(frame, tables),
            Self::FromPod => from_pod::run(frame, tables),
            Self::ClientIngress => client_ingress::run(frame, tables),
            Self::ClientEgress => client_egress::run(frame, tables),
        };
        finish(tables, step)
    }
}

/// A frame, and what its host knows about it.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet {
    /// The program it is for.
    pub program: Program,
    /// The frame.
    pub frame: Vec<u8>,
    /// Payload bytes of the segments of a super-packet; 0 for none.
    pub segment: u32,
    /// Whether a tag of a VLAN was taken off.
    pub is_tagged: bool,
    /// Whether it comes from a pod that is no listed proxy; nothing elsewhere.
    pub is_unlisted: bool,
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, segment, is_tagged, is_unlisted, .. } = self;
        write!(f, "{program:?}, segment {segment}, tagged {is_tagged}, unlisted {is_unlisted}, frame ")?;
        self.frame.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Packet {
    /// A plain packet.
    pub fn new(program: Program, frame: Vec<u8>) -> Self {
        Self { program, frame, segment: 0, is_tagged: false, is_unlisted: false }
    }

    /// The packet that a fuzzer means: what is said about it, two bytes of the segment, the frame.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let [what, high, low, frame @ ..] = bytes else { return None };
        Some(Self {
            program: Program::ALL[usize::from(what & 3)],
            frame: frame.to_vec(),
            segment: u16::from_be_bytes([*high, *low]).into(),
            is_tagged: what & 4 != 0,
            is_unlisted: what & 8 != 0,
        })
    }

    /// The bytes that [`Self::from_bytes`] reads.
    pub fn to_bytes(&self) -> Vec<u8> {
        let what = self.program as u8 | u8::from(self.is_tagged) << 2 | u8::from(self.is_unlisted) << 3;
        let [high, low] = (self.segment as u16).to_be_bytes();
        [&[what, high, low], &self.frame[..]].concat()
    }

    /// The packets of a sequence, each behind two bytes of its length.
    pub fn sequence(mut bytes: &[u8]) -> Vec<Self> {
        let mut packets = Vec::new();
        while let [high, low, rest @ ..] = bytes {
            let (packet, behind) = rest.split_at(rest.len().min(u16::from_be_bytes([*high, *low]).into()));
            packets.extend(Self::from_bytes(packet));
            bytes = behind;
        }
        packets
    }

    /// The bytes that [`Self::sequence`] reads.
    pub fn to_sequence(packets: &[Self]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for packet in packets.iter().map(Self::to_bytes) {
            bytes.extend((packet.len() as u16).to_be_bytes());
            bytes.extend(packet);
        }
        bytes
    }

    /// Index of the interface that it comes by, on a host with these.
    pub fn ifindex(&self, routes: Routes) -> u32 {
        if self.is_unlisted && self.program == Program::FromPod { routes.cni } else { IFINDEX }
    }

    /// Whether the kernel can make this packet for a test: it gives none a tag, and none an IP ethertype
    /// without a header.
    pub fn can_be_made(&self) -> bool {
        let header = match self.frame.get(12..14) {
            None => return false,
            Some([0x08, 0x00]) => 20,
            Some([0x86, 0xDD]) => 40,
            Some(_) => 0,
        };
        !self.is_tagged && self.frame.len() >= 14 + header
    }
}

/// Interfaces of a node that is in no kernel.
pub const ROUTES: Routes = Routes { nic: 3, cni: 5 };

/// A node and a client in no kernel.
pub struct Hosts([Host; 2]);

impl Hosts {
    /// Both of them.
    pub fn new() -> Self {
        Self([Host::node(ROUTES), Host::client(ROUTES)])
    }

    /// Runs the packet on the host whose program it is for, and has judged what becomes of it; an error says
    /// what must not be.
    pub fn run(&mut self, packet: &Packet, now: u64) -> Result<Act, String> {
        let host = &mut self.0[usize::from(!packet.program.is_of_node())];
        let (act, drops) = host.run(packet, now);
        match judge(packet, act, host.frame(), drops, ROUTES) {
            Ok(()) => Ok(act),
            Err(what) => Err(format!("{what} ({act:?}): {packet:?}")),
        }
    }

    /// Forgets what packets have taught them.
    pub fn forget(&mut self) {
        self.0.iter_mut().for_each(Host::forget);
    }
}

impl Default for Hosts {
    fn default() -> Self {
        Self::new()
    }
}

/// A busy host.
pub struct Host {
    /// Its maps.
    pub tables: Tables,
    is_node: bool,
    routes: Routes,
    frame: Bytes,
    program: Option<Program>,
}

impl Host {
    /// An EPIC node with these interfaces.
    pub fn node(routes: Routes) -> Self {
        Self::with(true, routes, scene::busy_node)
    }

    /// A client node.
    pub fn client(routes: Routes) -> Self {
        Self::with(false, routes, scene::busy_client)
    }

    fn with(is_node: bool, routes: Routes, fill: impl FnOnce(&mut Tables)) -> Self {
        let mut tables = Tables::default();
        fill(&mut tables);
        let route = move |[_, destination]: [Ip; 2], _, _| -> Way { routes.way(destination) };
        let frame = Bytes { route: Rc::new(route), ..Bytes::new(Vec::new(), IFINDEX) };
        Self { tables, is_node, routes, frame, program: None }
    }

    /// Runs the packet's program on it at the time `now`; what it has become is [`Self::frame`]. Says besides
    /// how many packets were counted as dropped.
    pub fn run(&mut self, packet: &Packet, now: u64) -> (Act, u64) {
        if self.program != Some(packet.program) {
            self.program = Some(packet.program);
            scene::configure(&mut self.tables, packet.program, self.routes);
        }
        self.frame.bytes.clear();
        self.frame.bytes.extend_from_slice(&packet.frame);
        self.frame.segment = packet.segment;
        self.frame.is_rigid = packet.segment != 0;
        self.frame.is_tagged = packet.is_tagged;
        self.frame.ifindex = packet.ifindex(self.routes);
        self.frame.now = now;
        let before = self.tables.dropped_in_all();
        let act = packet.program.run(&mut self.frame, &self.tables);
        (act, self.tables.dropped_in_all() - before)
    }

    /// The frame as the last packet has become.
    pub fn frame(&self) -> &[u8] {
        &self.frame.bytes
    }

    /// Whether it is an EPIC node.
    pub fn is_node(&self) -> bool {
        self.is_node
    }

    /// Forgets what packets have taught the host.
    pub fn forget(&mut self) {
        self.tables.forget();
        if self.is_node {
            scene::busy_flows(&mut self.tables);
        }
    }
}
