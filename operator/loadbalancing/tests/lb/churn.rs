//! Random changes of services without a proxy, with maps that are looked at after every single write. Tests run some
//! thousand of them, the bench many more.
//!
//! There are few names, places and numbers, so that numbers are used again all the time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use epic_lb::maps::{DirectKey, DirectLayout, DirectMaps, DirectValue, Reference};
use epic_lb::render::DirectSide;
use epic_lb::rows::RedirectWhen;
use epic_lb::{
    Backend, BackendState, Frontend, FrontendKey, Place, Protocol, Redirect, Service, ServiceName, Source,
    Traffic, WriteTxn, Writer,
};
use epic_reconciler::{Budget, Faults, FaultyMaps, MapError, Maps, Op, Reconciler, Settings};

const SERVICES: u64 = 8;
const PLACES: u64 = 5;
const VIPS: u64 = 6;
/// Just enough numbers for all that there can be at once.
pub(crate) const ENOUGH: u32 = (SERVICES * PLACES) as u32;
/// Too few: whatever is released is given to another at once.
pub(crate) const SCARCE: u32 = 8;

/// Fake maps that count how often a write left an entry which names one that is not there, or is another's.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) maps: DirectMaps,
    pub(crate) writes: u64,
    pub(crate) dangling: u64,
    /// What was wrong first.
    pub(crate) first: Option<String>,
}

impl Checked {
    fn check(&mut self, key: &DirectKey) {
        self.writes += 1;
        let wrong = self.maps.dangling().first().map(|entry| format!("{entry:?}")).or_else(|| self.foreign());
        if let Some(wrong) = wrong {
            self.dangling += 1;
            self.first.get_or_insert_with(|| format!("after writing {key}: {wrong}"));
        }
    }

    /// A cell that leads to a backend of another service than the table says.
    fn foreign(&self) -> Option<String> {
        self.maps.content().find_map(|(key, value)| {
            let DirectValue::Table(table) = value else { return None };
            let foreign = table.members().iter().find(|word| match self.backend(**word) {
                Some(DirectValue::Backend(backend)) => backend.set != table.set,
                _ => true,
            });
            foreign.map(|word| format!("{key} leads to {word:x}, which is of another service"))
        })
    }

    fn backend(&self, word: u32) -> Option<&DirectValue> {
        self.maps.get(&DirectKey::Backend(word & Reference::GREATEST))
    }

    /// What flows see, whatever the numbers are: of each public port the places of its cells, in turn.
    pub(crate) fn seen(&self) -> BTreeMap<FrontendKey, String> {
        let mut out = BTreeMap::new();
        for (key, value) in self.maps.content() {
            let (DirectKey::Service(frontend), DirectValue::Service(service)) = (key, value) else {
                continue;
            };
            let number = service.reference.number();
            let mut text = format!("{} members, {}s", service.members, service.affinity_seconds);
            if let Some(DirectValue::Reverse(back)) = self.maps.get(&DirectKey::Reverse(number)) {
                text += &format!(", back to {} of {:x}", back.frontend, back.set);
            }
            if let Some(DirectValue::Table(table)) = self.maps.get(&DirectKey::Table(number)) {
                let places = table.cells().iter().map(|word| match self.backend(*word) {
                    Some(DirectValue::Backend(backend)) => format!(" {}", backend.place()),
                    _ => " none".to_owned(),
                });
                text.extend(places);
            }
            out.insert(*frontend, text);
        }
        out
    }
}

impl Maps<DirectLayout> for Checked {
    fn read(&self, map: usize, each: &mut dyn FnMut(DirectKey, DirectValue)) -> Result<(), MapError> {
        self.maps.read(map, each)
    }

    fn apply(
        &mut self,
        _: usize,
        batch: &[Op<DirectLayout>],
        done: &mut dyn FnMut(usize, Result<(), MapError>),
    ) {
        for (at, op) in batch.iter().enumerate() {
            done(at, self.maps.write(op.clone()));
            self.check(&op.key);
        }
    }
}

type Engine = Reconciler<DirectLayout, FaultyMaps<Checked>, DirectSide>;

/// A world that changes at random, the same with every run of one seed.
pub(crate) struct Churn {
    writer: Writer,
    engine: Option<Engine>,
    faults: Faults,
    room: u32,
    random: u64,
    now: Instant,
    pub(crate) changes: u64,
}

impl Churn {
    pub(crate) fn new(seed: u64, failing: f64, room: u32) -> Self {
        let faults = Faults { probability: failing, writes_left: None };
        let mut this = Self {
            writer: Writer::new(),
            engine: None,
            faults,
            room,
            random: seed,
            now: Instant::now(),
            changes: 0,
        };
        this.start(Checked::default());
        this
    }

    fn start(&mut self, maps: Checked) {
        let maps = FaultyMaps::new(maps, self.faults, self.random);
        let side = DirectSide::new("here", 7).with_room(self.room);
        let engine = Reconciler::new(self.writer.reader(), maps, side, Settings::default());
        self.engine = Some(engine.expect("maps in memory can be read"));
    }

    fn engine(&mut self) -> &mut Engine {
        self.engine.as_mut().expect("it was started")
    }

    /// A number below `n`.
    fn below(&mut self, n: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 29)) % n
    }

    /// A few changes in one transaction, and a part of the work that follows from them.
    pub(crate) fn step(&mut self) {
        let writer = self.writer.clone();
        let mut txn = writer.write();
        for _ in 0..=self.below(4) {
            self.change(&mut txn);
            self.changes += 1;
        }
        txn.commit();
        let most = if self.below(4) == 0 { 1_000 } else { 12 };
        let budget =
            Budget { rows: 1 + self.below(most) as usize, operations: 1 + self.below(most) as usize };
        self.now += Duration::from_millis(70);
        let now = self.now;
        if let Some(ask) = self.engine().round(now, budget).ask {
            self.engine().confirm(&ask);
        }
        if self.below(100) == 0 {
            self.restart();
        }
    }

    fn change(&mut self, txn: &mut WriteTxn<'_>) {
        let name = self.service();
        let place = Place::new([10, 0, 0, 1 + self.below(PLACES) as u8].into(), 8080, Protocol::Tcp);
        let vip: IpAddr = [192, 0, 2, 1 + self.below(VIPS) as u8].into();
        let vip = FrontendKey::new(vip, 80, Protocol::Tcp);
        match self.below(16) {
            0 => {
                let affinity = (self.below(2) == 0).then(|| Duration::from_secs(10));
                let traffic = Traffic { session_affinity: affinity, ..Traffic::default() };
                txn.upsert_service(Service { traffic: Some(traffic.into()), ..Service::new(name, "uid") });
            }
            1 => {
                txn.delete_service_and_frontends(&name);
            }
            2..=4 => {
                if txn.tables().service(name.id()).is_none() {
                    txn.upsert_service(Service::new(name.clone(), "uid"));
                }
                // It waits for an address that another has.
                let _ = txn.upsert_frontend(Frontend::direct(vip, name));
            }
            5 => {
                txn.delete_frontend(&name, vip);
            }
            6..=10 => {
                let state = [BackendState::Active, BackendState::Terminating, BackendState::Draining];
                let state = state[[0, 0, 0, 1, 2][self.below(5) as usize]];
                let weight = 1 + self.below(3) as u16;
                let new = Backend::new(name.clone(), place.address.ip(), place.port, place.protocol);
                txn.upsert_backends(&name, [Backend { state, weight, ..new }]);
            }
            11..=13 => {
                txn.release_backend(&name, place);
            }
            14 => {
                let healthy = self.below(2) == 0;
                txn.set_backend_health(&name, place, healthy, None);
            }
            _ => {
                let to = self.service();
                let redirect = Redirect {
                    service: name.clone(),
                    source: Source::default(),
                    to,
                    when: RedirectWhen::NothingServes,
                    port: None,
                };
                let redirect = (self.below(2) == 0).then_some(redirect);
                txn.set_redirect(&name, redirect);
            }
        }
    }

    fn service(&mut self) -> ServiceName {
        ServiceName::new("acme", format!("web-{}", self.below(SERVICES)))
    }

    /// The process ends and another one begins with the maps as they are.
    pub(crate) fn restart(&mut self) {
        if let Some(engine) = self.engine.take() {
            self.start(engine.into_maps().into_inner());
        }
    }

    /// The maps once nothing fails any more.
    pub(crate) fn settle(&mut self) -> &Checked {
        self.engine().maps_mut().set_faults(Faults::default());
        for _ in 0..10_000 {
            let now = self.now;
            let round = self.engine().round(now, Budget::UNLIMITED);
            if let Some(ask) = round.ask {
                self.engine().confirm(&ask);
            } else if round.retry_at.is_none() && !round.more {
                break;
            }
            self.now += Duration::from_secs(61);
        }
        let is_enough = self.room >= ENOUGH;
        let engine = self.engine();
        assert!(engine.is_idle() || !is_enough, "{}", engine.progress().health);
        engine.maps().inner()
    }

    /// The same tables in a process that begins with empty maps.
    pub(crate) fn afresh(&self) -> Self {
        let writer = self.writer.clone();
        let mut fresh =
            Self { writer, engine: None, faults: Faults::default(), ..Self::new(1, 0.0, self.room) };
        fresh.start(Checked::default());
        fresh
    }

    /// Removes everything.
    pub(crate) fn clear(&mut self) {
        let mut txn = self.writer.write();
        txn.delete_services();
        txn.delete_backends();
        txn.commit();
    }
}
