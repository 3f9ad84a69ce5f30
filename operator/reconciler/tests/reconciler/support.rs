//! Stores, reconcilers and maps that look after each write whether anything dangles.

use std::time::{Duration, Instant};

use epic_reconciler::{
    Ask, Backoff, Budget, FakeMaps, Footprint, Layout, MapError, Maps, Op, Progress, Reconciler, Round,
    Settings, Status,
};
use epic_store::{Store, WriteTxn};

use crate::toy::{Backend, Frontend, Key, Node, Place, Renderer, RowId, Service, Tables, Toy, Value};

pub(crate) type Engine<M> = Reconciler<Toy, M, Renderer>;
pub(crate) type ToyProgress = Progress<RowId, u32>;

/// Maps that panic as soon as an entry names one that is not there or is somebody else's.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    pub(crate) maps: FakeMaps<Toy>,
    /// Keys that cannot be written or removed.
    pub(crate) refuse: Vec<Key>,
    /// A service none of whose entries can be written; they can be removed.
    pub(crate) unlucky: Option<u32>,
    /// Removals that were tried so far.
    pub(crate) removals: usize,
    /// Sizes of the batches so far.
    pub(crate) batches: Vec<usize>,
}

impl Checked {
    pub(crate) fn new(maps: FakeMaps<Toy>) -> Self {
        Self { maps, refuse: Vec::new(), unlucky: None, removals: 0, batches: Vec::new() }
    }
}

impl Maps<Toy> for Checked {
    fn read(&self, map: usize, each: &mut dyn FnMut(Key, Value)) -> Result<(), MapError> {
        self.maps.read(map, each)
    }

    fn apply(&mut self, map: usize, batch: &[Op<Toy>], done: &mut dyn FnMut(usize, Result<(), MapError>)) {
        assert!(batch.iter().all(|op| Toy::map(&op.key) == map), "of one map");
        assert!(batch.iter().all(|op| op.value.is_some() == batch[0].value.is_some()), "of one direction");
        self.batches.push(batch.len());
        self.removals += batch.iter().filter(|op| op.value.is_none()).count();
        // Backwards: no operation of a batch may need another.
        for (at, op) in batch.iter().enumerate().rev() {
            let scope = op.value.as_ref().and_then(crate::history::scope_of);
            if self.refuse.contains(&op.key) || (scope.is_some() && scope == self.unlucky) {
                done(at, Err(MapError::Failed("refused".to_owned())));
                continue;
            }
            let result = self.maps.write(op.clone());
            let dangling = self.maps.dangling();
            assert!(dangling.is_empty(), "after {op:?}: {dangling:?}");
            done(at, result);
        }
    }
}

pub(crate) fn settings() -> Settings {
    Settings {
        backoff: Backoff { min: Duration::from_millis(50), max: Duration::from_secs(1) },
        ..Settings::default()
    }
}

pub(crate) fn engine<M: Maps<Toy>>(store: &Store<Tables>, maps: M) -> Engine<M> {
    Reconciler::new(store.reader(), maps, Renderer::default(), settings()).unwrap()
}

pub(crate) fn checked(store: &Store<Tables>) -> Engine<Checked> {
    engine(store, Checked::new(FakeMaps::new()))
}

pub(crate) fn service(id: u32) -> Service {
    Service { id, nat: id, generation: 1 }
}

pub(crate) fn frontend(service: u32, vip: u32) -> Frontend {
    Frontend { vip, service }
}

pub(crate) fn backend(service: u32, place: u32, id: u32) -> Backend {
    Backend { key: Place { service, place }, id, weight: 1 }
}

pub(crate) fn node(id: u32, value: u32) -> Node {
    Node { id, value }
}

/// A service with one frontend and one backend: four entries, whose ids are those of the service.
pub(crate) fn put_whole(txn: &mut WriteTxn<'_, Tables>, id: u32) {
    txn.put(service(id));
    txn.put(frontend(id, id));
    txn.put(backend(id, 0, id));
}

pub(crate) fn remove_whole(txn: &mut WriteTxn<'_, Tables>, id: u32) {
    txn.remove::<Service>(id);
    txn.remove::<Frontend>(crate::toy::Vip { service: id, vip: id });
    txn.remove::<Backend>(Place { service: id, place: 0 });
}

pub(crate) fn commit(store: &Store<Tables>, change: impl FnOnce(&mut WriteTxn<'_, Tables>)) -> u64 {
    let mut txn = store.write();
    change(&mut txn);
    txn.commit()
}

/// Rounds until nothing is left to do at once; what is asked about is confirmed if `confirm`.
pub(crate) fn settle<M: Maps<Toy>>(engine: &mut Engine<M>, now: Instant, confirm: bool) -> Round<Key> {
    for _ in 0..100_000 {
        let round = engine.round(now, Budget::default());
        match &round.ask {
            Some(ask) if confirm => engine.confirm(&ask.clone()),
            _ if !round.more => return round,
            _ => {}
        }
    }
    panic!("rounds without end: {:?}, {}", engine.footprint(), engine.progress().health);
}

/// Rounds, and time that passes, until the maps are as they should be.
pub(crate) fn settle_for_good<M: Maps<Toy>>(engine: &mut Engine<M>, mut now: Instant) -> Instant {
    for _ in 0..10_000 {
        let round = settle(engine, now, true);
        let Some(retry) = round.retry_at else { return now };
        now = now.max(retry);
    }
    panic!("never done: {}", engine.progress().health);
}

pub(crate) fn confirmed(ask: Option<Ask<Key>>) -> Ask<Key> {
    ask.expect("a question")
}

pub(crate) const NOTHING: Footprint = Footprint { entries: 0, rows: 0, failures: 0, waiting: 0, named: 0 };

/// How a row of the tables stands.
pub(crate) fn status(engine: &Engine<Checked>, row: RowId) -> Status {
    let revision = epic_store::Schema::row_revision(&**engine.reader().snapshot(), row).unwrap();
    engine.progress().status(row, revision)
}

/// Why a row fails.
pub(crate) fn error(engine: &Engine<Checked>, row: RowId) -> String {
    match status(engine, row) {
        Status::Error(text) => text.to_string(),
        other => panic!("{row} is {other:?}"),
    }
}
