//! The client's side of the hello exchange: call, answer challenges, know which tunnels are up.
//!
//! Pure: time, received messages and the list of wanted tunnels go in, messages to send and [`Reached`] remotes
//! come out. Tunnels to the same EPIC node share messages and one cookie.
//!
//! An answer counts only when its MAC is right. An answer without one (the node does not know the tunnel) is kept
//! as a reason for people and changes nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use epic_abi::hello::{COOKIE_LEN, Entry, Header, Kind, MAX_ENTRIES, Status, decode};
use epic_abi::keys::{HELLO_KEY_LEN, verify_entry};
use epic_abi::maps::{Remote, SourceKey};
use epic_abi::{Ip, Lb};
use epic_crds::SourcePorts;

use super::responder::port_flags;
use super::{Nanos, Outgoing, SECOND, SILENT_PERIODS, seal, split};

/// Time between two hellos of a tunnel that is up.
pub const PERIOD: Nanos = 3 * SECOND;
/// Time between two hellos while some tunnel of the node is not up yet.
pub const EAGER: Nanos = SECOND / 2;
/// The first such time after a tunnel became wanted; it doubles up to [`EAGER`]. Node and client learn of a new tunnel
/// at about the same time, and a client that is first would wait for long.
pub const FIRST: Nanos = SECOND / 20;
/// Hellos whose answers are still awaited, per EPIC node.
const AWAITED: usize = 64;

/// A tunnel this client node wants to have up.
#[derive(Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The LoadBalancer.
    pub lb: Lb,
    /// GUE address and port of the EPIC node.
    pub node: SocketAddr,
    /// Own address on the way there.
    pub local: SocketAddr,
    /// Generation of `key`.
    pub generation: u32,
    /// Hello key of that generation.
    pub key: [u8; HELLO_KEY_LEN],
    /// UDP source ports of packets in the tunnel.
    pub source_ports: SourcePorts,
}

impl Wanted {
    /// What a confirmation is about.
    fn place(&self) -> (Lb, SocketAddr, SocketAddr) {
        (self.lb, self.node, self.local)
    }
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wanted").field("lb", &self.lb).field("node", &self.node).finish_non_exhaustive()
    }
}

/// What the client knows of a tunnel; for status and reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Last authenticated answer, CLOCK_BOOTTIME; 0 = never.
    pub answered: Nanos,
    /// Round trip of that answer in microseconds.
    pub round_trip_micros: u32,
    /// Hellos sent.
    pub sent: u64,
    /// Hellos answered; the difference to `sent` is what was lost, or refused, or is under way.
    pub received: u64,
    /// Whether the EPIC node sees another address than this host has.
    pub nat: bool,
    /// UDP source ports that were written.
    pub source_ports: SourcePorts,
    /// What the EPIC node said last, when that was not "up".
    pub refusal: Option<Status>,
}

impl State {
    /// Whether the EPIC node answered recently enough.
    pub fn is_up(&self, now: Nanos) -> bool {
        self.answered != 0 && now.saturating_sub(self.answered) <= PERIOD * SILENT_PERIODS
    }
}

/// The EPIC node confirmed a tunnel: what the client writes to `remotes` and `sources`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Tunnel id.
    pub tunnel: u32,
    /// Entry of the `remotes` map.
    pub remote: Remote,
    /// Key of the `sources` map.
    pub source: SourceKey,
}

/// One EPIC node that is called.
#[derive(Debug, Default)]
struct Peer {
    cookie: [u8; COOKIE_LEN],
    next: Nanos,
    /// Calls since a tunnel became wanted.
    calls: u32,
    round_trip_micros: u32,
    awaited: BTreeMap<u32, Nanos>,
}

/// The client's side.
#[derive(Debug)]
pub struct Caller {
    session: u64,
    sequence: u32,
    wanted: BTreeMap<u32, Wanted>,
    states: BTreeMap<u32, State>,
    peers: BTreeMap<SocketAddr, Peer>,
}

impl Caller {
    /// A caller without tunnels. `session` is random for every process.
    pub fn new(session: u64) -> Self {
        Self {
            session,
            sequence: 0,
            wanted: BTreeMap::new(),
            states: BTreeMap::new(),
            peers: BTreeMap::new(),
        }
    }

    /// Replaces the tunnels by id. What is known of those that stay where they are is kept, whatever their keys; nodes
    /// with a new tunnel are called at once.
    pub fn set_wanted(&mut self, wanted: BTreeMap<u32, Wanted>) {
        self.states.retain(|id, _| wanted.contains_key(id));
        let nodes: BTreeSet<SocketAddr> = wanted.values().map(|w| w.node).collect();
        self.peers.retain(|node, _| nodes.contains(node));
        for (id, tunnel) in &wanted {
            let before = self.wanted.get(id);
            let peer = self.peers.entry(tunnel.node).or_default();
            if before != Some(tunnel) {
                peer.next = 0;
                peer.calls = 0;
                let state = self.states.entry(*id).or_default();
                if before.is_none_or(|before| before.place() != tunnel.place()) {
                    // What was confirmed, and written to the maps, was about another place.
                    *state = State::default();
                }
            }
        }
        self.wanted = wanted;
    }

    /// What was [`Reached`] could not be written: the tunnel is not up, and its next answer confirms it again.
    pub fn not_written(&mut self, tunnel: u32) {
        if let Some(state) = self.states.get_mut(&tunnel) {
            state.answered = 0;
        }
    }

    /// What is known of each tunnel.
    pub fn states(&self) -> &BTreeMap<u32, State> {
        &self.states
    }

    /// The tunnels that are called for.
    pub fn wanted(&self) -> &BTreeMap<u32, Wanted> {
        &self.wanted
    }

    /// When [`Self::poll`] next has something to send; `None` without tunnels.
    pub fn deadline(&self) -> Option<Nanos> {
        self.peers.values().map(|peer| peer.next).min()
    }

    /// The hellos that are due.
    pub fn poll(&mut self, now: Nanos) -> Vec<Outgoing> {
        let due: Vec<SocketAddr> =
            self.peers.iter().filter(|(_, peer)| peer.next <= now).map(|(node, _)| *node).collect();
        let mut messages = Vec::new();
        for node in due {
            self.call(node, now, &mut messages);
        }
        messages
    }

    fn call(&mut self, node: SocketAddr, now: Nanos, messages: &mut Vec<Outgoing>) {
        let tunnels: Vec<(u32, Wanted)> = self
            .wanted
            .iter()
            .filter(|(_, tunnel)| tunnel.node == node)
            .map(|(id, tunnel)| (*id, tunnel.clone()))
            .collect();
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let all_up = tunnels.iter().all(|(id, _)| self.states.get(id).is_some_and(|s| s.is_up(now)));
        peer.next = now + if all_up { PERIOD } else { eager(peer.calls) };
        peer.calls = peer.calls.saturating_add(1);
        for chunk in tunnels.chunks(MAX_ENTRIES) {
            let Some((_, first)) = chunk.first() else { continue };
            self.sequence = self.sequence.wrapping_add(1);
            let (address, port) = split(first.local);
            let header = Header {
                kind: Kind::Hello,
                sequence: self.sequence,
                session: self.session,
                address,
                port,
                period_millis: u16::try_from(PERIOD / 1_000_000).unwrap_or(u16::MAX),
                round_trip_micros: peer.round_trip_micros,
                cookie: peer.cookie,
            };
            let entries: Vec<_> = chunk
                .iter()
                .map(|(id, tunnel)| {
                    let entry = Entry { tunnel: *id, generation: tunnel.generation, ..Entry::default() };
                    (entry, Some(tunnel.key))
                })
                .collect();
            for (id, _) in chunk {
                self.states.entry(*id).or_default().sent += 1;
            }
            peer.awaited.insert(self.sequence, now);
            if peer.awaited.len() > AWAITED {
                peer.awaited.pop_first();
            }
            messages.push(Outgoing { to: node, bytes: seal(&header, &entries) });
        }
    }

    /// Takes one control message (without its GUE header) from `from`. Returns what has to be sent at once and
    /// which tunnels were confirmed, the confirmed ones only when their entry in the maps would change.
    pub fn receive(&mut self, from: SocketAddr, bytes: &[u8], now: Nanos) -> (Vec<Outgoing>, Vec<Reached>) {
        let nothing = (Vec::new(), Vec::new());
        let Ok(message) = decode(bytes) else { return nothing };
        let header = message.header;
        let Some(peer) = self.peers.get_mut(&from) else { return nothing };
        // Only an answer to a hello of this very process counts; so an old cookie cannot be played back.
        let Some(sent) = peer.awaited.get(&header.sequence).copied() else { return nothing };
        if header.session != self.session {
            return nothing;
        }
        match header.kind {
            Kind::Hello => nothing,
            Kind::Challenge => {
                peer.awaited.remove(&header.sequence);
                if peer.cookie == header.cookie {
                    // Refused although it was returned: the node's secret or our address changed in between.
                    // The next regular hello settles it; answering at once could turn into a loop.
                    return nothing;
                }
                peer.cookie = header.cookie;
                let mut messages = Vec::new();
                self.call(from, now, &mut messages);
                (messages, Vec::new())
            }
            Kind::Answer => {
                peer.awaited.remove(&header.sequence);
                let round_trip = u32::try_from(now.saturating_sub(sent) / 1_000).unwrap_or(u32::MAX);
                let mut authentic = false;
                let mut reached = Vec::new();
                for entry in message.entries() {
                    let Some(tunnel) = self.wanted.get(&entry.tunnel).filter(|t| t.node == from) else {
                        continue;
                    };
                    let state = self.states.entry(entry.tunnel).or_default();
                    let proven = entry.generation == tunnel.generation
                        && verify_entry(&tunnel.key, message.header_bytes(), &entry);
                    authentic |= proven;
                    if entry.status != Status::Up || !proven {
                        state.refusal = Some(entry.status).filter(|s| *s != Status::Up).or(state.refusal);
                        continue;
                    }
                    let nat = (header.address, header.port) != split(tunnel.local);
                    let first = !state.is_up(now);
                    if first || (state.nat, state.source_ports) != (nat, tunnel.source_ports) {
                        reached.push(confirm(entry.tunnel, tunnel, nat, &header, now));
                    }
                    *state = State {
                        answered: now,
                        round_trip_micros: round_trip,
                        received: state.received + 1,
                        sent: state.sent,
                        nat,
                        source_ports: tunnel.source_ports,
                        refusal: None,
                    };
                }
                if authentic {
                    peer.cookie = header.cookie;
                    peer.round_trip_micros = round_trip;
                    let up = |id: &u32| self.states.get(id).is_some_and(|s| s.is_up(now));
                    if self.wanted.iter().filter(|(_, t)| t.node == from).all(|(id, _)| up(id)) {
                        peer.next = sent + PERIOD;
                    }
                }
                (Vec::new(), reached)
            }
        }
    }
}

/// Until the next call, after so many without success.
fn eager(calls: u32) -> Nanos {
    FIRST.saturating_mul(1 << calls.min(10)).min(EAGER)
}

fn confirm(id: u32, tunnel: &Wanted, nat: bool, header: &Header, now: Nanos) -> Reached {
    let (address, port) = split(tunnel.node);
    Reached {
        tunnel: id,
        remote: Remote {
            address,
            port,
            flags: port_flags(nat, tunnel.source_ports),
            sequence: header.sequence,
            session: header.session,
            learned_nanos: now,
        },
        // The EPIC node sends from its GUE port towards a NAT, from any port otherwise.
        source: SourceKey {
            address: Ip::from(tunnel.node.ip()),
            port: if nat { port } else { 0 },
            _reserved: 0,
            lb: tunnel.lb,
        },
    }
}
