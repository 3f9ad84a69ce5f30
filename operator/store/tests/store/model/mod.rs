//! Random transactions over three tables against maps of the standard library, with readers of every kind beside them.
//!
//! After every commit tables, revisions and every query must be those of the model; iterators must give the difference of
//! two models, watches must be due exactly if a row of theirs differs, and snapshots taken earlier must stay as they were.

mod check;
mod readers;
mod rows;
mod steps;

use std::collections::BTreeMap;
use std::sync::Arc;

use check::check;
use epic_store::{Conflict, Initializer, Since, Snapshot, Store};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use readers::{Iterating, Of, Watching, each};
use rows::{Model, put};
use steps::{Expected, Op, SOURCES, Step, Wanted, steps};

use crate::support::{Backend, Node, Service, Tables, node, store};

struct World {
    store: Store<Tables>,
    model: Model,
    initializers: BTreeMap<usize, Initializer>,
    registered: usize,
    iterating: Vec<Of<Iterating<Service>, Iterating<Backend>, Iterating<Node>>>,
    watching: Vec<Of<Watching<Service>, Watching<Backend>, Watching<Node>>>,
    kept: Vec<(Arc<Snapshot<Tables>>, Model)>,
}

impl World {
    fn new() -> Self {
        Self {
            store: store(),
            model: Model::default(),
            initializers: BTreeMap::new(),
            registered: 0,
            iterating: Vec::new(),
            watching: Vec::new(),
            kept: Vec::new(),
        }
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Write { ops, commit } => self.write(ops, *commit),
            Step::Register(source) => self.register(SOURCES[*source]),
            Step::Abandon(at) => {
                if let Some(number) = self.nth_held(*at) {
                    self.initializers.remove(&number);
                    self.model.abandoned.extend(self.model.held.remove(&number));
                }
            }
            Step::Iterate { table, since } => self.iterate(*table, *since),
            Step::Poll(at) => {
                if let Some(of) = nth(&mut self.iterating, *at) {
                    each!(of, one => one.poll(&self.model));
                }
            }
            Step::StopIterating(at) => remove(&mut self.iterating, *at),
            Step::Watch(wanted) => self.watching.push(match *wanted {
                Wanted::Service(of) => Of::Service(Watching { watch: self.store.watch(of), due: false }),
                Wanted::Backend(of) => Of::Backend(Watching { watch: self.store.watch(of), due: false }),
                Wanted::Node(of) => Of::Node(Watching { watch: self.store.watch(of), due: false }),
            }),
            Step::Look(at) => {
                if let Some(of) = nth(&mut self.watching, *at) {
                    each!(of, one => one.look(self.model.revision));
                }
            }
            Step::StopWatching(at) => remove(&mut self.watching, *at),
            Step::Keep => self.kept.push((self.store.snapshot(), self.model.clone())),
        }
        check(&self.store.snapshot(), &self.model);
        self.check_pending();
    }

    fn nth_held(&self, at: usize) -> Option<usize> {
        let held: Vec<usize> = self.initializers.keys().copied().collect();
        held.get(at % held.len().max(1)).copied()
    }

    fn register(&mut self, name: &'static str) {
        let number = self.registered;
        self.registered += 1;
        self.initializers.insert(number, self.store.register_initializer(name));
        if let Some(at) = self.model.abandoned.iter().position(|known| *known == name) {
            self.model.abandoned.swap_remove(at);
        } else {
            self.model.revision += 1;
        }
        self.model.held.insert(number, name);
    }

    fn iterate(&mut self, table: u8, since: Since) {
        let seen = if since == Since::Start { Model::default() } else { self.model.clone() };
        self.iterating.push(match table {
            0 => Of::Service(Iterating { changes: self.store.changes(since), seen }),
            1 => Of::Backend(Iterating { changes: self.store.changes(since), seen }),
            _ => Of::Node(Iterating { changes: self.store.changes(since), seen }),
        });
    }

    fn write(&mut self, ops: &[Op], commit: bool) {
        let before = self.model.clone();
        let mut after = before.clone();
        let revision = before.revision + 1;
        let mut changed = false;
        let completing: Vec<Option<usize>> =
            ops.iter().map(|op| if let Op::Complete(at) = op { self.nth_held(*at) } else { None }).collect();
        let mut txn = self.store.write();
        for (op, completing) in ops.iter().zip(completing) {
            // Whether the operation wrote, and in which table.
            let wrote: Option<(bool, usize)> = match op {
                Op::Service(row) => {
                    let wanted = match after.refusal(row) {
                        Some(refusal) => Err(refusal),
                        None => Ok(put(&mut after.services, row, revision)),
                    };
                    assert_eq!(txn.try_put(row.clone()), wanted);
                    Some((wanted == Ok(true), 0))
                }
                Op::ServiceIf(row, expected) => {
                    let expected = after.expect(row.name, *expected);
                    let found = after.expect(row.name, Expected::Stored);
                    let wanted = if expected != found {
                        Err(Conflict::Moved { key: row.name, expected, found })
                    } else if let Some(refusal) = after.refusal(row) {
                        Err(refusal)
                    } else {
                        Ok(put(&mut after.services, row, revision))
                    };
                    assert_eq!(txn.put_if(row.clone(), expected), wanted);
                    Some((wanted == Ok(true), 0))
                }
                Op::RemoveService(name) => {
                    let removed = after.services.remove(name).is_some();
                    assert_eq!(txn.remove::<Service>(*name).is_some(), removed);
                    Some((removed, 0))
                }
                Op::RemoveServiceIf(name, expected) => {
                    let expected = after.expect(*name, *expected);
                    let fits = expected == after.expect(*name, Expected::Stored);
                    assert_eq!(txn.remove_if::<Service>(*name, expected).is_ok(), fits);
                    Some((fits && after.services.remove(name).is_some(), 0))
                }
                Op::Backend(row) => {
                    let written = put(&mut after.backends, row, revision);
                    assert_eq!(txn.put(row.clone()), written);
                    Some((written, 1))
                }
                Op::RemoveBackend(key) => {
                    let removed = after.backends.remove(key).is_some();
                    assert_eq!(txn.remove::<Backend>(*key).is_some(), removed);
                    Some((removed, 1))
                }
                Op::Nodes { from, count, value } => {
                    let mut any = false;
                    for id in *from..from + count {
                        let written = put(&mut after.nodes, &node(id, *value), revision);
                        assert_eq!(txn.put(node(id, *value)), written);
                        any |= written;
                    }
                    Some((any, 2))
                }
                Op::RemoveNodes { from, count } => {
                    let mut any = false;
                    for id in *from..from + count {
                        let removed = after.nodes.remove(&id).map(|(row, _)| row);
                        assert_eq!(txn.remove::<Node>(id).map(|stored| stored.row.clone()), removed);
                        any |= removed.is_some();
                    }
                    Some((any, 2))
                }
                Op::Complete(_) => {
                    if let Some(number) = completing {
                        let pending = after.held.remove(&number).is_some();
                        assert_eq!(txn.complete(&self.initializers[&number]), pending);
                        changed |= pending;
                    }
                    None
                }
            };
            if let Some((true, table)) = wrote {
                after.revisions[table] = revision;
                changed = true;
            }
        }
        if !commit {
            txn.abort();
            return;
        }
        if changed {
            after.revision = revision;
        }
        assert_eq!(txn.commit(), after.revision);
        for of in &mut self.watching {
            each!(of, one => one.committed(&before, &after));
        }
        self.initializers.retain(|number, _| after.held.contains_key(number));
        self.model = after;
    }

    fn check_pending(&self) {
        let snapshot = self.store.snapshot();
        let found: Vec<(&str, bool)> =
            snapshot.pending().map(|pending| (pending.name, pending.abandoned)).collect();
        assert!(found.is_sorted_by_key(|(name, _)| *name));
        let held = self.model.held.values().map(|name| (*name, false));
        let mut wanted: Vec<(&str, bool)> =
            held.chain(self.model.abandoned.iter().map(|name| (*name, true))).collect();
        wanted.sort_unstable();
        let mut found = found;
        found.sort_unstable();
        assert_eq!(found, wanted);
        assert_eq!(snapshot.initialized(), wanted.is_empty());
    }

    fn end(mut self) {
        for of in &mut self.iterating {
            each!(of, one => one.poll(&self.model));
        }
        for of in &mut self.watching {
            each!(of, one => one.look(self.model.revision));
        }
        for (snapshot, model) in &self.kept {
            check(snapshot, model);
        }
        (self.iterating, self.watching) = (Vec::new(), Vec::new());
        let registered =
            self.store.watches::<Service>() + self.store.watches::<Backend>() + self.store.watches::<Node>();
        assert_eq!(registered, 0);
    }
}

fn nth<T>(all: &mut [T], at: usize) -> Option<&mut T> {
    let at = at % all.len().max(1);
    all.get_mut(at)
}

fn remove<T>(all: &mut Vec<T>, at: usize) {
    if !all.is_empty() {
        all.swap_remove(at % all.len());
    }
}

/// A case has twenty steps, each of which compares everything, so of a sweep it takes a share.
fn cases() -> u32 {
    let asked = std::env::var("EPIC_PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(300).min(20_000)
}

/// The same walks every time, so that a failure can be looked at again; another number gives others.
fn seed() -> RngSeed {
    RngSeed::Fixed(std::env::var("EPIC_PROPTEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(), rng_seed: seed(), failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_is_written_readers_iterators_and_watches_see_what_the_model_sees(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
        }
        world.end();
    }
}
