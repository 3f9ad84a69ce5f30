//! Random rows, faults and crashes: whatever happens, no entry ever names one that is not there, and in the end the maps
//! are those of a run in which nothing went wrong.

use std::time::{Duration, Instant};

use epic_lb::{
    AliasKey, BackendState, FakeMaps, FrontendKey, MapId, Protocol, ProxyId, ProxyState, TunnelId, WriteTxn,
    Writer,
};
use epic_reconciler::{Faults, FaultyMaps};
use proptest::prelude::*;

use crate::support::{
    CheckedMaps, Node, alias, alias_address, frontend, ip, name, node_reconciler, numbered, proxy,
    proxy_backend, round, service, settle, tunnel,
};

const SERVICES: [&str; 2] = ["acme/web", "other/api"];
const VIPS: [&str; 2] = ["192.0.2.7", "192.0.2.8"];

#[derive(Clone, Debug)]
enum Change {
    Service { of: usize, generation: u32, keys: bool },
    DeleteService { of: usize },
    Frontend { of: usize, vip: usize, port: u16, owner: bool },
    DeleteFrontend { of: usize, vip: usize, port: u16 },
    Proxy { of: usize, id: u32, here: bool, veth: bool, state: u8 },
    DeleteProxy { of: usize, id: u32 },
    Tunnel { of: usize, id: u32 },
    DeleteTunnel { id: u32 },
    Alias { of: usize, id: u32, tunnel: u32, real: u8 },
    DeleteAlias { of: usize, id: u32 },
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Change>),
    Round,
    Restart,
    /// After so many writes every operation fails, until the process starts again.
    CrashAfter(u64),
}

fn change() -> impl Strategy<Value = Change> {
    let of = || 0..SERVICES.len();
    prop_oneof![
        (of(), 1u32..4, prop::bool::weighted(0.9)).prop_map(|(of, generation, keys)| Change::Service {
            of,
            generation,
            keys
        }),
        of().prop_map(|of| Change::DeleteService { of }),
        (of(), 0..VIPS.len(), 80u16..83, any::<bool>()).prop_map(|(of, vip, port, owner)| Change::Frontend {
            of,
            vip,
            port,
            owner
        }),
        (of(), 0..VIPS.len(), 80u16..83).prop_map(|(of, vip, port)| Change::DeleteFrontend { of, vip, port }),
        (of(), 1u32..5, any::<bool>(), prop::bool::weighted(0.8), 0u8..4)
            .prop_map(|(of, id, here, veth, state)| Change::Proxy { of, id, here, veth, state }),
        (of(), 1u32..5).prop_map(|(of, id)| Change::DeleteProxy { of, id }),
        (of(), 1u32..4).prop_map(|(of, id)| Change::Tunnel { of, id }),
        (1u32..4).prop_map(|id| Change::DeleteTunnel { id }),
        (of(), 1u32..4, 1u32..4, 1u8..3).prop_map(|(of, id, tunnel, real)| Change::Alias {
            of,
            id,
            tunnel,
            real
        }),
        (of(), 1u32..4).prop_map(|(of, id)| Change::DeleteAlias { of, id }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(change(), 1..8).prop_map(Step::Commit),
        4 => Just(Step::Round),
        1 => Just(Step::Restart),
        1 => (0u64..12).prop_map(Step::CrashAfter),
    ]
}

fn apply(txn: &mut WriteTxn<'_>, change: &Change) {
    match *change {
        Change::Service { of, generation, keys } => {
            let mut row = service(SERVICES[of], 1 + of as u16, 1, generation);
            row.keys = row.keys.filter(|_| keys);
            txn.upsert_service(row);
        }
        Change::DeleteService { of } => {
            txn.delete_service_and_frontends(&name(SERVICES[of]));
        }
        Change::Frontend { of, vip, port, owner } => {
            let mut row = frontend(SERVICES[of], VIPS[vip], port, port - 80 + 10 * vip as u16);
            row.announced = owner;
            // A service that is missing: refused, and nothing of it is written. An address that another has: it waits.
            let _ = txn.upsert_frontend(row);
        }
        Change::DeleteFrontend { of, vip, port } => {
            txn.delete_frontend(&name(SERVICES[of]), FrontendKey::new(ip(VIPS[vip]), port, Protocol::Tcp));
        }
        Change::Proxy { of, id, here, veth, state } => {
            let (state, backend_state) = [
                (ProxyState::Pending, BackendState::Maintenance),
                (ProxyState::Ready, BackendState::Active),
                (ProxyState::Draining, BackendState::Draining),
                (ProxyState::OutOfService, BackendState::Terminating),
            ][usize::from(state)];
            let mut row = proxy(SERVICES[of], id, if here { "node1" } else { "node2" }, state);
            row.local = row.local.filter(|_| veth);
            let mut backend = proxy_backend(SERVICES[of], id);
            backend.state = backend_state;
            txn.upsert_proxy(row);
            txn.upsert_backends(&name(SERVICES[of]), [backend]);
        }
        Change::DeleteProxy { of, id } => {
            txn.delete_proxy(ProxyId::new(id).unwrap());
            txn.release_backend(&name(SERVICES[of]), proxy_backend(SERVICES[of], id).place);
        }
        Change::Tunnel { of, id } => {
            txn.upsert_tunnel(tunnel(SERVICES[of], id, "203.0.113.9", "node1"));
        }
        Change::DeleteTunnel { id } => {
            txn.delete_tunnel(TunnelId::new(id).unwrap());
        }
        Change::Alias { of, id, tunnel, real } => {
            txn.upsert_alias(alias(SERVICES[of], id, Some(tunnel), &format!("10.244.1.{real}"), 8080));
        }
        Change::DeleteAlias { of, id } => {
            let address = alias_address(id).into();
            txn.delete_alias(AliasKey { service: name(SERVICES[of]).id(), address });
        }
    }
}

struct World {
    writer: Writer,
    reconciler: Option<Node<FaultyMaps<CheckedMaps>>>,
    faults: Faults,
    now: Instant,
    seed: u64,
}

impl World {
    fn new(maps: FakeMaps, faults: Faults) -> Self {
        let writer = Writer::new();
        let maps = FaultyMaps::new(CheckedMaps(maps), faults, 1);
        let reconciler = Some(node_reconciler(&writer, maps));
        Self { writer, reconciler, faults, now: Instant::now(), seed: 1 }
    }

    fn reconciler(&mut self) -> &mut Node<FaultyMaps<CheckedMaps>> {
        self.reconciler.as_mut().unwrap()
    }

    fn restart(&mut self) {
        self.seed += 1;
        let maps = self.reconciler.take().unwrap().into_maps().into_inner();
        self.reconciler = Some(node_reconciler(&self.writer, FaultyMaps::new(maps, self.faults, self.seed)));
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Commit(changes) => {
                let writer = self.writer.clone();
                let mut txn = writer.write();
                for change in changes {
                    apply(&mut txn, change);
                }
                txn.commit();
            }
            Step::Round => {
                let now = self.now;
                if let Some(ask) = round(self.reconciler(), now).ask {
                    self.reconciler().confirm(&ask);
                }
                self.now += Duration::from_millis(70);
            }
            Step::Restart => self.restart(),
            Step::CrashAfter(writes) => {
                let faults = Faults { writes_left: Some(*writes), ..self.faults };
                self.reconciler().maps_mut().set_faults(faults);
                let now = self.now;
                if let Some(ask) = round(self.reconciler(), now).ask {
                    self.reconciler().confirm(&ask);
                    round(self.reconciler(), now);
                }
                self.restart();
            }
        }
    }

    /// The maps once nothing fails any more.
    fn end(&mut self) -> String {
        self.reconciler().maps_mut().set_faults(Faults::default());
        let now = self.now;
        settle(self.reconciler(), now);
        self.reconciler().maps().inner().dump()
    }

    /// The maps that a process would make which starts with empty ones.
    fn clean(&self) -> String {
        let mut fresh = node_reconciler(&self.writer, CheckedMaps(FakeMaps::new()));
        settle(&mut fresh, self.now);
        fresh.into_maps().dump()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn faults_and_crashes_change_nothing_in_the_end(
        steps in prop::collection::vec(step(), 1..40),
        probability in prop_oneof![Just(0.0), 0.1f64..0.5],
        order in Just(SERVICES).prop_shuffle(),
    ) {
        let _names = numbered(order);
        let mut world = World::new(FakeMaps::new(), Faults { probability, writes_left: None });
        for s in &steps {
            world.step(s);
        }
        prop_assert_eq!(world.end(), world.clean());
    }

    #[test]
    fn a_restart_writes_nothing_when_nothing_changed(steps in prop::collection::vec(step(), 1..20)) {
        let mut world = World::new(FakeMaps::new(), Faults::default());
        for s in &steps {
            world.step(s);
        }
        world.end();
        let writes = world.reconciler().maps().inner().0.writes();
        world.restart();
        world.end();
        prop_assert_eq!(world.reconciler().maps().inner().0.writes(), writes);
    }

    #[test]
    fn full_maps_heal_when_they_get_room(
        steps in prop::collection::vec(step(), 1..30),
        room in prop::sample::subsequence((0..MapId::ALL.len()).collect::<Vec<_>>(), 1..6),
    ) {
        let mut maps = FakeMaps::new();
        for map in &room {
            maps.set_room(*map, 1);
        }
        let mut world = World::new(maps, Faults::default());
        for s in &steps {
            world.step(s);
        }
        let mut maps = world.reconciler.take().unwrap().into_maps().into_inner();
        for map in room {
            maps.0.set_room(map, 1000);
        }
        let maps = FaultyMaps::new(maps, Faults::default(), 1);
        world.reconciler = Some(node_reconciler(&world.writer, maps));
        prop_assert_eq!(world.end(), world.clean());
    }
}
