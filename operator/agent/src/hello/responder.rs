//! The EPIC node's side of the hello exchange: who may move a tunnel's remote, and which tunnels are up.
//!
//! Pure: messages, time and the directory of tunnels go in, answers and [`Learned`] remotes come out. The only
//! state is what was learned, which can be rebuilt from the `remotes` map after a restart; cookies need none.
//!
//! Every answer is at most as long as the message it answers, so the responder amplifies nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use epic_abi::hello::{Entry, Header, Kind, Message, Status, decode};
use epic_abi::keys::{CookieSecret, HELLO_KEY_LEN, verify_entry};
use epic_abi::maps::{REMOTE_FIXED_PORT, REMOTE_NAT, Remote, SourceKey};
use epic_abi::{Ip, Lb};
use epic_crds::SourcePorts;
use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;

use super::{Nanos, Outgoing, SECOND, SILENT_PERIODS, seal, split};

/// A cookie is good for this long at least, and for twice as long at most.
const EPOCH: Nanos = 60 * SECOND;

/// Sessions that are remembered after their end, per tunnel: more than a client can begin while a cookie is good.
const RETIRED: usize = 32;

/// What the responder has to know of a tunnel that ends on this node.
#[derive(Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// The LoadBalancer it belongs to.
    pub lb: Lb,
    /// Hello keys by generation: n−1, n, n+1.
    pub keys: Arc<BTreeMap<u32, [u8; HELLO_KEY_LEN]>>,
    /// Where the account's client nodes may lie; `None`: anywhere that is not protected.
    pub client_networks: Option<Arc<[IpNet]>>,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").field("lb", &self.lb).finish_non_exhaustive()
    }
}

/// Everything the responder is told: tunnels by id, and where no client may call from. Copies share what is equal, so that what
/// changed between two is found without looking at the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// Tunnels that end on this node.
    pub tunnels: OrdMap<u32, Tunnel>,
    /// What no client may call from.
    pub protected: Protected,
    /// UDP source ports of packets in tunnels.
    pub source_ports: SourcePorts,
}

/// Where no client may call from: a client there could have EPIC send to itself, or take over what is EPIC's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protected {
    /// EPIC nodes and VIPs: many, and looked up with every hello.
    pub hosts: OrdSet<IpAddr>,
    /// Proxy and alias ranges, `protected-addresses`.
    pub networks: Vec<IpNet>,
}

impl Protected {
    /// Whether the address is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.hosts.contains(&address) || self.networks.iter().any(|network| network.contains(&address))
    }
}

/// A remote that is to be written: first `source`, then `remote`, then `replaced` goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learned {
    /// Tunnel id.
    pub tunnel: u32,
    /// Entry of the `remotes` map.
    pub remote: Remote,
    /// Key of the `sources` map that stands for the tunnel from now on.
    pub source: SourceKey,
    /// Key that stood for it until now, when it is another one.
    pub replaced: Option<SourceKey>,
}

/// What came of one datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// To be sent back.
    pub answer: Option<Outgoing>,
    /// Remotes that moved or are new. A hello that changes nothing learns nothing.
    pub learned: Vec<Learned>,
    /// Why entries, or the whole message, were refused; for counters.
    pub refused: Vec<Refusal>,
}

/// Why something was refused: the label of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// The message does not decode.
    Malformed,
    /// Not a hello: only clients call.
    NotHello,
    /// No cookie, or one of another address or session, or an old one. Answered with a challenge.
    Cookie,
    /// Its sequence is not newer than the last one of its session.
    Replayed,
    /// No such tunnel here.
    UnknownTunnel,
    /// No key of that generation.
    UnknownGeneration,
    /// The MAC is wrong.
    WrongMac,
    /// The address is outside the account's client networks, or protected.
    AddressRefused,
    /// A live tunnel of the same LoadBalancer has this address and port.
    AddressTaken,
}

/// What is known of a tunnel's other end; for status and reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Observed address and port.
    pub remote: SocketAddr,
    /// Whether the client's own idea of its address differs.
    pub nat: bool,
    /// Last hello, CLOCK_BOOTTIME.
    pub last: Nanos,
    /// The client's period between two hellos.
    pub period: Nanos,
    /// Round trip as the client measured it, in microseconds; 0 = not yet.
    pub round_trip_micros: u32,
    session: u64,
    sequence: u32,
    source: SourceKey,
    /// The maps do not say so yet.
    unwritten: bool,
    /// The maps do not say so any more, as nothing was heard for long.
    is_forgotten: bool,
    /// Sessions before this one. Their cookies may still be good, so their recorded hellos could be played back.
    retired: Vec<u64>,
}

impl Heard {
    /// Whether the other end was heard recently enough.
    pub fn is_up(&self, now: Nanos) -> bool {
        now.saturating_sub(self.last) <= self.period.max(SECOND) * SILENT_PERIODS
    }

    /// Whether the maps do not say any more where it was.
    pub fn is_forgotten(&self) -> bool {
        self.is_forgotten
    }

    /// The LoadBalancer that its tunnel was of when it called.
    pub fn lb(&self) -> Lb {
        self.source.lb
    }

    /// Whether a hello of this session and sequence is an old one.
    fn has_seen(&self, session: u64, sequence: u32) -> bool {
        (self.session == session && sequence <= self.sequence) || self.retired.contains(&session)
    }

    /// The retired sessions once `session` speaks. A session whose cookies have ended drops out at the other end.
    fn retired_by(&self, session: u64) -> Vec<u64> {
        let mut retired = self.retired.clone();
        if self.session != session {
            retired.push(self.session);
            let surplus = retired.len().saturating_sub(RETIRED);
            retired.drain(..surplus);
        }
        retired
    }
}

/// The EPIC node's side.
#[derive(Debug)]
pub struct Responder {
    secret: CookieSecret,
    directory: Directory,
    heard: BTreeMap<u32, Heard>,
    /// Which tunnel each source stands for: that of the last hello from there.
    sources: BTreeMap<SourceKey, u32>,
}

impl Responder {
    /// A responder that knows no tunnel. `secret` is random for every process.
    pub fn new(secret: CookieSecret) -> Self {
        Self { secret, directory: Directory::default(), heard: BTreeMap::new(), sources: BTreeMap::new() }
    }

    /// Takes over what an earlier process learned, from the `remotes` map. Such a tunnel counts as up for the usual
    /// time after `learned_nanos`; its client is challenged at its next hello, which moves nothing.
    pub fn adopt(&mut self, tunnel: u32, lb: Lb, remote: &Remote) {
        let nat = remote.flags & REMOTE_NAT != 0;
        let heard = Heard {
            remote: super::join(remote.address, remote.port),
            nat,
            last: remote.learned_nanos,
            period: 5 * SECOND,
            round_trip_micros: 0,
            session: remote.session,
            sequence: remote.sequence,
            source: source_key(remote.address, remote.port, nat, lb),
            // An earlier version may have sent from other ports.
            unwritten: remote.flags != port_flags(nat, self.directory.source_ports),
            is_forgotten: false,
            // Cookies of an earlier process are good for nothing, so there is nothing to remember.
            retired: Vec::new(),
        };
        self.keep(tunnel, heard);
    }

    /// Takes down what was heard of a tunnel.
    fn keep(&mut self, tunnel: u32, heard: Heard) {
        let source = heard.source;
        if let Some(before) = self.heard.insert(tunnel, heard)
            && before.source != source
        {
            self.vacate(tunnel, &before.source);
        }
        self.sources.insert(source, tunnel);
    }

    /// The tunnel stands for this source no longer; another one may by now.
    fn vacate(&mut self, tunnel: u32, source: &SourceKey) {
        if self.sources.get(source) == Some(&tunnel) {
            self.sources.remove(source);
        }
    }

    /// Takes a tunnel into the directory, or takes note of a change of it.
    pub fn put(&mut self, id: u32, tunnel: Tunnel) {
        self.directory.tunnels.insert(id, tunnel);
    }

    /// Takes a tunnel out of the directory. Returns its source if it was heard, which the caller removes together with its
    /// remote.
    pub fn remove(&mut self, id: u32) -> Option<SourceKey> {
        self.directory.tunnels.remove(&id);
        let source = self.heard.remove(&id)?.source;
        self.vacate(id, &source);
        Some(source)
    }

    /// Forgets where the other end of a silent tunnel was. Returns its source, which the caller removes together with its
    /// remote. The next hello is learned again; hellos that were heard before stay old ones.
    pub fn forget(&mut self, id: u32) -> Option<SourceKey> {
        let heard = self.heard.get_mut(&id).filter(|heard| !heard.is_forgotten)?;
        (heard.is_forgotten, heard.unwritten) = (true, true);
        let source = heard.source;
        self.vacate(id, &source);
        Some(source)
    }

    /// Replaces what no client may call from.
    pub fn protect(&mut self, protected: Protected) {
        self.directory.protected = protected;
    }

    /// Says from which ports packets are sent. Where that is another than before, the next hello of each tunnel is learned
    /// again.
    pub fn send_from(&mut self, ports: SourcePorts) {
        if std::mem::replace(&mut self.directory.source_ports, ports) != ports {
            self.heard.values_mut().for_each(|heard| heard.unwritten = true);
        }
    }

    /// What was [`Learned`] could not be written: the next hello is to be learned again.
    pub fn not_written(&mut self, tunnel: u32) {
        if let Some(heard) = self.heard.get_mut(&tunnel) {
            heard.unwritten = true;
        }
    }

    /// What is known of each tunnel's other end.
    pub fn heard(&self) -> &BTreeMap<u32, Heard> {
        &self.heard
    }

    /// The tunnels of the directory.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Takes one control message (without its GUE header) that came from `from`.
    pub fn receive(&mut self, from: SocketAddr, bytes: &[u8], now: Nanos) -> Outcome {
        let Ok(message) = decode(bytes) else { return refused(Refusal::Malformed) };
        if message.header.kind != Kind::Hello {
            return refused(Refusal::NotHello);
        }
        let (address, port) = split(from);
        let epoch = u32::try_from(now / EPOCH).unwrap_or(0);
        let header = Header {
            kind: Kind::Challenge,
            address,
            port,
            period_millis: 0,
            cookie: self.secret.cookie(&address, port, message.header.session, epoch),
            ..message.header
        };
        if !self.secret.verify(&message.header.cookie, &address, port, message.header.session, epoch) {
            let answer = Some(Outgoing { to: from, bytes: seal(&header, &[]) });
            return Outcome { answer, refused: vec![Refusal::Cookie], ..Outcome::default() };
        }
        let mut outcome = Outcome::default();
        let mut entries = Vec::with_capacity(message.entries().len());
        for entry in message.entries() {
            match self.entry(&message, &entry, (address, port), now, &mut outcome.learned) {
                Ok(key) => entries.push((Entry { status: Status::Up, mac: [0; 16], ..entry }, Some(key))),
                Err((refusal, key)) => {
                    outcome.refused.push(refusal);
                    if let Some(status) = status_of(refusal) {
                        entries.push((Entry { status, mac: [0; 16], ..entry }, key));
                    }
                }
            }
        }
        if !entries.is_empty() {
            let header = Header { kind: Kind::Answer, ..header };
            outcome.answer = Some(Outgoing { to: from, bytes: seal(&header, &entries) });
        }
        outcome
    }

    /// Judges one entry whose message has a good cookie.
    fn entry(
        &mut self,
        message: &Message<'_>,
        entry: &Entry,
        (address, port): (Ip, u16),
        now: Nanos,
        learned: &mut Vec<Learned>,
    ) -> Result<[u8; HELLO_KEY_LEN], (Refusal, Option<[u8; HELLO_KEY_LEN]>)> {
        let Some(tunnel) = self.directory.tunnels.get(&entry.tunnel) else {
            return Err((Refusal::UnknownTunnel, None));
        };
        let Some(key) = tunnel.keys.get(&entry.generation).copied() else {
            return Err((Refusal::UnknownGeneration, None));
        };
        if !verify_entry(&key, message.header_bytes(), entry) {
            return Err((Refusal::WrongMac, None));
        }
        let before = self.heard.get(&entry.tunnel);
        let header = &message.header;
        if before.is_some_and(|b| b.has_seen(header.session, header.sequence)) {
            return Err((Refusal::Replayed, None));
        }
        if !self.admits(tunnel, IpAddr::from(address)) {
            return Err((Refusal::AddressRefused, Some(key)));
        }
        let nat = (header.address, header.port) != (address, port);
        let source = source_key(address, port, nat, tunnel.lb);
        let holder = self.sources.get(&source).filter(|id| **id != entry.tunnel);
        if holder.and_then(|id| self.heard.get(id)).is_some_and(|other| other.is_up(now)) {
            return Err((Refusal::AddressTaken, Some(key)));
        }
        let retired = before.map(|b| b.retired_by(header.session)).unwrap_or_default();
        let heard = Heard {
            remote: super::join(address, port),
            nat,
            last: now,
            period: u64::from(header.period_millis) * 1_000_000,
            round_trip_micros: header.round_trip_micros,
            session: header.session,
            sequence: header.sequence,
            source,
            unwritten: false,
            is_forgotten: false,
            retired,
        };
        let moved = before.is_none_or(|b| b.source != source || b.remote != heard.remote);
        // The sequence goes to the map too, so that a restarted agent still knows a replay; but not with every hello.
        let remember = before.is_none_or(|b| b.session != header.session || b.unwritten);
        if moved || remember {
            learned.push(Learned {
                tunnel: entry.tunnel,
                remote: Remote {
                    address,
                    port,
                    flags: port_flags(nat, self.directory.source_ports),
                    sequence: header.sequence,
                    session: header.session,
                    learned_nanos: now,
                },
                source,
                replaced: before.map(|b| b.source).filter(|old| *old != source),
            });
        }
        self.keep(entry.tunnel, heard);
        Ok(key)
    }

    fn admits(&self, tunnel: &Tunnel, address: IpAddr) -> bool {
        let within = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        let routable = !address.is_unspecified() && !address.is_loopback() && !address.is_multicast();
        routable
            && !self.directory.protected.contains(address)
            && tunnel.client_networks.as_deref().is_none_or(within)
    }
}

fn source_key(address: Ip, port: u16, nat: bool, lb: Lb) -> SourceKey {
    SourceKey { address, port: if nat { port } else { 0 }, _reserved: 0, lb }
}

/// Flags of a remote that say from which ports it is sent to.
pub(super) fn port_flags(nat: bool, ports: SourcePorts) -> u16 {
    match (nat, ports) {
        (true, _) => REMOTE_NAT,
        (false, SourcePorts::Fixed) => REMOTE_FIXED_PORT,
        (false, SourcePorts::Flow) => 0,
    }
}

fn refused(refusal: Refusal) -> Outcome {
    Outcome { refused: vec![refusal], ..Outcome::default() }
}

fn status_of(refusal: Refusal) -> Option<Status> {
    Some(match refusal {
        Refusal::UnknownTunnel => Status::UnknownTunnel,
        Refusal::UnknownGeneration => Status::UnknownGeneration,
        Refusal::WrongMac => Status::WrongMac,
        Refusal::AddressRefused => Status::AddressRefused,
        Refusal::AddressTaken => Status::AddressTaken,
        Refusal::Malformed | Refusal::NotHello | Refusal::Cookie | Refusal::Replayed => return None,
    })
}
