//! Maps of services without a proxy: from a public port to a backend, and back. See [`DirectLayout`] for what they are; no
//! BPF programs read them yet.
//!
//! Backends and frontends are named by numbers of this node. Those that the maps hold are adopted at a restart, so nothing
//! is written when nothing changed. Tables do not depend on the numbers: all nodes choose alike.
//!
//! Every backend with an address and a port has an entry, whether a frontend leads to it or not: a redirect of another
//! service may. Frontends that go through a proxy have none here.

use std::cell::RefCell;
use std::sync::Arc;

use epic_reconciler::{Render, Unready};
use epic_store::{Row, Sources};
use hashbrown::HashMap;

use super::numbers::Numbers;
use super::recent::Recent;
use crate::maglev::{MaglevTable, Member, mix};
use crate::maps::{
    Cells, DirectBackend, DirectKey, DirectLayout, DirectReverse, DirectService, DirectTable, DirectValue,
    set_of,
};
use crate::rows::{
    Backend, BackendKind, ByTarget, Forwarding, Frontend, FrontendKey, Place, Protocol, ServiceRef,
};
use crate::selection::{Here, Selection};
use crate::tables::{RowId, Snapshot, Tables};

/// Sizes of tables: primes, so that every member's order visits every cell.
const SIZES: [u32; 10] = [251, 509, 1_021, 2_039, 4_093, 8_191, 16_381, 32_749, 65_521, 131_071];

/// So many cells a member has the busiest one little more than its share.
const CELLS_PER_MEMBER: usize = 100;

type Members = Vec<(Member, u64)>;

type Entries = Vec<(DirectKey, DirectValue)>;

/// Renders services without a proxy.
#[derive(Clone, Debug)]
pub struct DirectSide {
    node: Arc<str>,
    zone: Option<Arc<str>>,
    cluster: Option<Arc<str>>,
    seed: u64,
    cells: Option<u32>,
    /// Given while rendering, taken back when rows are seen to be gone.
    numbers: RefCell<Both>,
    recent: Recent<(Member, u64)>,
}

#[derive(Clone, Debug)]
struct Both {
    backends: Numbers<Place>,
    frontends: Numbers<FrontendKey>,
    /// Whose the numbers of frontends were in an earlier run.
    sources: HashMap<u32, Sources>,
    /// Whether anybody was refused a number.
    starved: bool,
}

impl DirectSide {
    /// Backends and frontends for which the maps have room, each.
    pub const ROOM: u32 = 65_536;

    /// For the node of this name; `seed` is the same on all nodes.
    pub fn new(node: impl Into<Arc<str>>, seed: u32) -> Self {
        Self {
            node: node.into(),
            zone: None,
            cluster: None,
            seed: u64::from(seed),
            cells: None,
            numbers: RefCell::new(Both {
                backends: Numbers::new(Self::ROOM),
                frontends: Numbers::new(Self::ROOM),
                sources: HashMap::new(),
                starved: false,
            }),
            recent: Recent::default(),
        }
    }

    /// With room for so many backends and so many frontends.
    #[must_use]
    pub fn with_room(self, room: u32) -> Self {
        let (backends, frontends) = (Numbers::new(room), Numbers::new(room));
        Self {
            numbers: RefCell::new(Both { backends, frontends, sources: HashMap::new(), starved: false }),
            ..self
        }
    }

    /// With tables of so many cells, a prime, whatever the number of members is.
    #[must_use]
    pub fn with_cells(self, cells: u32) -> Self {
        Self { cells: Some(cells), ..self }
    }

    /// In this zone and cluster, which services may prefer.
    #[must_use]
    pub fn at(self, zone: Option<Arc<str>>, cluster: Option<Arc<str>>) -> Self {
        Self { zone, cluster, ..self }
    }

    fn backend(&mut self, tables: &Tables, backend: &Backend, out: &mut Entries) -> Result<(), Unready> {
        if !has_place(backend) {
            return Ok(());
        }
        let numbers = self.numbers.get_mut();
        let Some(reference) = numbers.backends.of(&backend.service, backend.place) else {
            return Err(numbers.refuse("backend", numbers.backends.room()));
        };
        // Several sources may have it there: all of them want the same entry.
        let same = tables.backends.prefix((backend.service.id(), backend.place));
        let sources: Sources = same.map(|row| Sources::from(row.source)).collect();
        let Place { address, port, protocol } = backend.place;
        let set = set_of(&backend.service);
        let value = DirectBackend { reference, set, address, port, protocol, sources: byte_of(sources) };
        out.push((DirectKey::Backend(reference.number()), DirectValue::Backend(value)));
        Ok(())
    }

    fn frontend(&mut self, tables: &Tables, frontend: &Frontend, out: &mut Entries) -> Result<(), Unready> {
        if frontend.forwarding != Forwarding::Direct {
            return Ok(());
        }
        let numbers = self.numbers.get_mut();
        let Some(reference) = numbers.frontends.of(&frontend.service, frontend.key) else {
            return Err(numbers.refuse("frontend", numbers.frontends.room()));
        };
        let number = reference.number();
        let reverse = DirectReverse { reference, set: set_of(&frontend.service), frontend: frontend.key };
        let table = self.table(tables, frontend);
        let row = tables.service(frontend.service.id());
        let (affinity, ranges) = row
            .and_then(|row| row.traffic.as_deref())
            .map_or((None, &[][..]), |traffic| (traffic.session_affinity, traffic.source_ranges.as_slice()));
        // Less than a second is not nothing.
        let seconds = |affinity: std::time::Duration| affinity.as_secs().clamp(1, u64::from(u32::MAX)) as u32;
        let service = DirectService {
            reference,
            members: table.as_ref().map_or(0, |(_, _, members)| *members),
            affinity_seconds: affinity.map_or(0, seconds),
            ranges: !ranges.is_empty(),
            sources: byte_of(frontend.source.into()),
        };
        out.push((DirectKey::Reverse(number), DirectValue::Reverse(reverse)));
        if let Some((set, cells, _)) = table {
            out.push((DirectKey::Table(number), DirectValue::Table(DirectTable { reference, set, cells })));
        }
        out.extend(ranges.iter().map(|network| (DirectKey::Range(number, *network), DirectValue::Range)));
        out.push((DirectKey::Service(frontend.key), DirectValue::Service(service)));
        Ok(())
    }

    /// Whose backends take new flows, which of them in which cells, and how many they are; `None` if nothing serves.
    fn table(&mut self, tables: &Tables, frontend: &Frontend) -> Option<(u32, Cells, u32)> {
        let here =
            Here { node: Some(&self.node), zone: self.zone.as_deref(), cluster: self.cluster.as_deref() };
        let selection = Selection::of(tables, frontend, here);
        let numbers = self.numbers.get_mut();
        let mut serving = selection.serving().filter(|backend| has_place(backend));
        // One without a number waits for it, and the others take its share.
        let mut member = |backend: &Backend| {
            let reference = numbers.backends.of(&backend.service, backend.place)?;
            Some((Member { id: reference.word(), weight: backend.weight }, order(backend.place)))
        };
        let (first, only) = serving.by_ref().find_map(|backend| Some((backend, member(backend)?)))?;
        let set = set_of(&first.service);
        // Rows come by place, which is the same order on all nodes.
        let rest = serving.filter_map(|backend| member(backend));
        let mut members: Members = Vec::new();
        for other in rest {
            if members.is_empty() {
                members.push(only);
            }
            members.push(other);
        }
        if members.is_empty() {
            return Some((set, Cells::One(crate::maps::Reference::of_word(only.0.id)), 1));
        }
        let count = members.len() as u32;
        Some((set, Cells::Many(self.maglev(members)), count))
    }

    fn maglev(&mut self, members: Members) -> Arc<MaglevTable> {
        let cells = self.cells.unwrap_or_else(|| size(members.len()));
        let seed = self.seed;
        self.recent.table(members, |members| MaglevTable::ordered(members, cells, seed))
    }
}

impl Both {
    fn refuse(&mut self, what: &str, room: u32) -> Unready {
        self.starved = true;
        Unready(format!("the maps have room for {room} {what}s, and all are in use"))
    }

    /// Whoever was there in an earlier run and is there now keeps its number; all others are free.
    fn settle_adopted(&mut self, tables: &Tables) {
        for row in tables.backends.iter().filter(|row| has_place(row)) {
            self.starved |= self.backends.of(&row.service, row.place).is_none();
        }
        for row in tables.frontends.iter().filter(|row| row.forwarding == Forwarding::Direct) {
            self.starved |= self.frontends.of(&row.service, row.key).is_none();
        }
        self.backends.forget_adopted();
        self.frontends.forget_adopted();
        self.sources = HashMap::new();
    }
}

impl Render<DirectLayout> for DirectSide {
    type Tables = Tables;
    type Scope = ServiceRef;

    fn adopt(&mut self, held: &[(DirectKey, DirectValue)]) {
        let numbers = self.numbers.get_mut();
        numbers.backends.adopt(held.iter().filter_map(|(_, value)| match value {
            DirectValue::Backend(backend) => Some((backend.set, backend.place(), backend.reference)),
            _ => None,
        }));
        numbers.frontends.adopt(held.iter().filter_map(|(_, value)| match value {
            DirectValue::Reverse(reverse) => Some((reverse.set, reverse.frontend, reverse.reference)),
            _ => None,
        }));
        numbers.sources = held
            .iter()
            .filter_map(|(_, value)| match value {
                DirectValue::Service(service) => {
                    Some((service.reference.number(), sources_of_byte(service.sources)))
                }
                _ => None,
            })
            .collect();
    }

    fn affected(&self, old: &Snapshot, new: &Snapshot, each: &mut dyn FnMut(RowId)) {
        let mut numbers = self.numbers.borrow_mut();
        let mut released = false;
        let mut chosen: Vec<ServiceRef> = Vec::new();
        for change in new.backends.changes_since(&old.backends) {
            let key = change.row().key();
            each(RowId::Backend(key));
            chosen.push(key.service);
            if change.old().is_some() && change.current().is_some() {
                continue;
            }
            // Each source's row says who else has it there.
            let others = new.backends.prefix((key.service, key.place)).filter(|row| row.source != key.source);
            others.for_each(|row| each(RowId::Backend(row.key())));
            let is_named = || new.backends.prefix((key.service, key.place)).next().is_some();
            if change.current().is_none() && !is_named() {
                released |= numbers.backends.release(key.service, key.place);
            }
        }
        chosen.extend(new.services.changes_since(&old.services).map(|change| change.row().name.id()));
        chosen.extend(new.verdicts.changes_since(&old.verdicts).map(|change| change.row().service.id()));
        chosen.extend(new.redirects.changes_since(&old.redirects).map(|change| change.row().service.id()));
        chosen.sort_unstable();
        chosen.dedup();
        for service in &chosen {
            let sent_there = new.redirects.by(ByTarget, *service).map(|redirect| redirect.service.id());
            for service in std::iter::once(*service).chain(sent_there) {
                new.frontends_of(service).for_each(|row| each(RowId::Frontend(row.key)));
            }
        }
        for change in new.frontends.changes_since(&old.frontends) {
            let key = change.row().key;
            each(RowId::Frontend(key));
            if let Some(row) = change.old()
                && change.current().is_none_or(|current| current.service != row.service)
            {
                released |= numbers.frontends.release(row.service.id(), key);
            }
        }
        if (numbers.backends.is_adopting() || numbers.frontends.is_adopting()) && new.initialized() {
            numbers.settle_adopted(new);
            released = true;
        }
        if released && std::mem::take(&mut numbers.starved) {
            new.backends.iter().for_each(|row| each(RowId::Backend(row.key())));
            new.frontends.iter().for_each(|row| each(RowId::Frontend(row.key)));
        }
    }

    fn scope(&self, now: &Snapshot, row: RowId) -> Option<ServiceRef> {
        now.service_of(row)
    }

    fn sources_of(&self, now: &Snapshot, row: RowId) -> Sources {
        match row {
            RowId::Backend(key) => key.source.into(),
            RowId::Frontend(key) => now.frontends.get(key).map_or(Sources::ALL, |row| row.source.into()),
            _ => Sources::ALL,
        }
    }

    fn sources_of_held(&self, key: &DirectKey, value: &DirectValue) -> Sources {
        match (key, value) {
            (_, DirectValue::Backend(backend)) => sources_of_byte(backend.sources),
            (_, DirectValue::Service(service)) => sources_of_byte(service.sources),
            (DirectKey::Reverse(number) | DirectKey::Table(number) | DirectKey::Range(number, _), _) => {
                self.numbers.borrow().sources.get(number).copied().unwrap_or(Sources::ALL)
            }
            _ => Sources::ALL,
        }
    }

    fn render(&mut self, now: &Snapshot, row: RowId, out: &mut Entries) -> Result<(), Unready> {
        match row {
            RowId::Backend(key) => now.backends.get(key).map_or(Ok(()), |row| self.backend(now, row, out)),
            RowId::Frontend(key) => now.frontends.get(key).map_or(Ok(()), |row| self.frontend(now, row, out)),
            _ => Ok(()),
        }
    }
}

/// As entries have them: a bit for each of [`Source::ALL`](crate::Source::ALL), of which there are at most eight.
fn byte_of(sources: Sources) -> u8 {
    sources.bits() as u8
}

fn sources_of_byte(byte: u8) -> Sources {
    Sources::from_bits(byte.into())
}

/// Whether packets can be sent to a backend itself.
fn has_place(backend: &Backend) -> bool {
    let Place { port, protocol, .. } = backend.place;
    port != 0 && protocol != Protocol::Any && !matches!(backend.kind, BackendKind::Proxy(_))
}

/// A number for a place that all nodes have alike: what its order of cells follows from.
fn order(Place { address, port, protocol }: Place) -> u64 {
    let octets = u128::from_be_bytes(address.octets());
    let rest = u64::from(port) << 8 | u64::from(protocol.number());
    mix((octets >> 64) as u64 ^ mix(octets as u64 ^ mix(rest)))
}

/// Cells for so many members.
fn size(members: usize) -> u32 {
    let wanted = members.saturating_mul(CELLS_PER_MEMBER);
    SIZES.into_iter().find(|size| *size as usize >= wanted).unwrap_or(SIZES[SIZES.len() - 1])
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use epic_reconciler::{Budget, Reconciler, Settings};

    use super::*;
    use crate::rows::{Service, ServiceName, Source};

    #[test]
    fn tables_have_a_hundred_cells_a_member_as_long_as_there_are_so_many() {
        assert_eq!(
            [2, 3, 10, 100, 1_000, 1_310, 5_000].map(size),
            [251, 509, 1_021, 16_381, 131_071, 131_071, 131_071]
        );
        let is_prime = |n: u32| (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d));
        assert!(SIZES.into_iter().all(is_prime));
    }

    #[test]
    fn numbers_of_what_was_deleted_are_free() {
        let writer = crate::Writer::new();
        let side = DirectSide::new("here", 7);
        let maps = crate::maps::DirectMaps::new();
        let mut engine = Reconciler::new(writer.reader(), maps, side, Settings::default()).unwrap();
        let given = |engine: &Reconciler<DirectLayout, _, DirectSide>| {
            let numbers = engine.renderer().numbers.borrow();
            (numbers.backends.given(), numbers.frontends.given())
        };
        let name = ServiceName::new("acme", "web");
        let vip = |port| FrontendKey::new([192, 0, 2, 7].into(), port, Protocol::Tcp);
        let mut txn = writer.write();
        let rows = vec![Frontend::direct(vip(80), name.clone()), Frontend::direct(vip(443), name.clone())];
        txn.upsert_service_and_frontends(Service::new(name.clone(), "uid"), rows).unwrap();
        txn.set_backends(&name, [Backend::new(name.clone(), [10, 0, 0, 1].into(), 80, Protocol::Tcp)]);
        txn.commit();
        engine.round(Instant::now(), Budget::UNLIMITED);
        assert_eq!(given(&engine), (1, 2));

        // A second source names the same place, and the first lets go of it.
        let other = writer.for_source(Source::File);
        let mut txn = other.write();
        txn.set_backends(&name, [Backend::new(name.clone(), [10, 0, 0, 1].into(), 80, Protocol::Tcp)]);
        txn.commit();
        let mut txn = writer.write();
        txn.delete_service_and_frontends(&name);
        txn.commit();
        engine.round(Instant::now(), Budget::UNLIMITED);
        assert_eq!(given(&engine), (1, 0));

        let mut txn = other.write();
        txn.delete_backends();
        txn.commit();
        engine.round(Instant::now(), Budget::UNLIMITED);
        assert_eq!(given(&engine), (0, 0));
    }

    #[test]
    fn two_places_have_two_orders() {
        let place = |port, protocol| Place::new([10, 0, 0, 1].into(), port, protocol);
        let orders =
            [place(80, Protocol::Tcp), place(80, Protocol::Udp), place(81, Protocol::Tcp)].map(order);
        assert!(orders[0] != orders[1] && orders[0] != orders[2] && orders[1] != orders[2]);
    }
}
