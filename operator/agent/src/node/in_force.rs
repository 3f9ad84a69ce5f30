//! Public addresses that are in force on this node: it is to answer for them, and the maps hold their ports.
//!
//! An address comes into force when all its ports are in the maps, and stays while none of them fails: a row that is only
//! being rewritten takes nothing from its clients. What fails behind an address, an endpoint perhaps, does not count, nor
//! does anything of other addresses. The cost of following is that of what changed, and of what is late.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use epic_lb::{Address, Progress, RowId, Snapshot};
use epic_reconciler::{Failing, Status};
use imbl::ordmap::DiffItem as MapItem;
use imbl::ordset::DiffItem;
use imbl::{OrdMap, OrdSet};

/// The addresses, and what they were found from.
#[derive(Debug, Default)]
pub struct InForce {
    tables: Arc<Snapshot>,
    answering: OrdSet<IpAddr>,
    failing: OrdMap<RowId, Failing>,
    held: OrdSet<IpAddr>,
    /// To be answered for, and not in force.
    late: BTreeSet<IpAddr>,
}

impl InForce {
    /// Follows what is to be answered for and how far the maps are.
    pub fn follow(
        &mut self,
        answering: &OrdSet<IpAddr>,
        tables: &Arc<Snapshot>,
        progress: &Progress,
    ) -> &OrdSet<IpAddr> {
        let mut look = std::mem::take(&mut self.late);
        for change in self.answering.diff(answering) {
            match change {
                DiffItem::Add(address) => drop(look.insert(*address)),
                DiffItem::Remove(address) => {
                    look.remove(address);
                    self.held.remove(address);
                }
            }
        }
        let ports = tables.frontends.changes_since(&self.tables.frontends);
        let changed = ports.map(|change| change.row().key.address);
        let failing = self.failing.diff(&progress.failing).filter_map(|change| match change {
            MapItem::Add(row, _) | MapItem::Remove(row, _) | MapItem::Update { new: (row, _), .. } => {
                if let RowId::Frontend(key) = row {
                    Some(key.address)
                } else {
                    None
                }
            }
        });
        let touched = changed.chain(failing).map(|address| address.ip());
        look.extend(touched.filter(|address| answering.contains(address)));
        for address in look {
            match holds(address, tables, progress) {
                Some(true) => drop(self.held.insert(address)),
                None if self.held.contains(&address) => {}
                _ => {
                    self.held.remove(&address);
                    self.late.insert(address);
                }
            }
        }
        self.answering = answering.clone();
        self.failing = progress.failing.clone();
        self.tables = Arc::clone(tables);
        &self.held
    }
}

/// Whether the maps hold all ports of an address; `None` if one is being written and none fails.
fn holds(address: IpAddr, tables: &Snapshot, progress: &Progress) -> Option<bool> {
    let mut ports = tables.frontends.prefix(Address::from(address)).peekable();
    if ports.peek().is_none() {
        return Some(false);
    }
    let mut holds = Some(true);
    for row in ports {
        match progress.status(RowId::Frontend(row.key), row.revision) {
            Status::Error(_) => return Some(false),
            Status::Pending => holds = None,
            Status::Done => {}
        }
    }
    holds
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use epic_lb::render::NodeSide;
    use epic_lb::{
        Alias, DataKey, FakeMaps, Frontend, FrontendKey, GroupId, Link, MapId, Place, Protocol, Service,
        ServiceId, ServiceKeys, ServiceName, Tunnel, TunnelId, Writer,
    };
    use epic_reconciler::{Budget, Reconciler};
    use proptest::prelude::*;

    use super::*;

    /// A LoadBalancer with a port, a tunnel and an endpoint.
    fn put(writer: &Writer, id: u16) -> IpAddr {
        let name = ServiceName::new("epic-red", format!("web-{id}"));
        let vip = IpAddr::from([192, 0, 2, id as u8]);
        let keys = ServiceKeys { data: [DataKey([1; 16]); 3], node: None };
        let row =
            Service::new(name.clone(), "uid").granted(GroupId::new(1).unwrap(), ServiceId::new(id).unwrap());
        let mut txn = writer.write();
        let port = Frontend::proxied(FrontendKey::new(vip, 80, Protocol::Tcp), name.clone(), 0);
        txn.upsert_service_and_frontends(Service { keys: Some(keys.into()), ..row }, vec![port]).unwrap();
        let tunnel = TunnelId::new(id).unwrap();
        txn.upsert_tunnel(Tunnel {
            id: tunnel,
            service: name.clone(),
            client_node: [203, 0, 113, 9].into(),
            epic_node: "n1".into(),
            epic_address: [198, 51, 100, 1].into(),
            epic_port: 6080,
            link: Link { ifindex: 2, mtu: 1500, local: [198, 51, 100, 1].into() },
        });
        txn.upsert_alias(Alias {
            service: name,
            address: IpAddr::from([100, 127, 0, id as u8]).into(),
            tunnel: Some(tunnel),
            real: Place::new([10, 244, 1, 7].into(), 8080, Protocol::Tcp),
            endpoint: "e".into(),
        });
        txn.commit();
        vip
    }

    #[test]
    fn an_endpoint_that_finds_no_room_keeps_no_address_from_being_announced() {
        let writer = Writer::new();
        let vips = OrdSet::from_iter([put(&writer, 1), put(&writer, 2)]);
        let unknown = IpAddr::from([192, 0, 2, 99]);
        for (full, announced) in [(MapId::Aliases, 2), (MapId::Services, 1)] {
            let mut maps = FakeMaps::new();
            maps.set_room(MapId::ALL.iter().position(|map| *map == full).unwrap(), 1);
            let side = NodeSide::new("n1", 1);
            let mut reconciler = Reconciler::new(writer.reader(), maps, side, Default::default()).unwrap();
            reconciler.round(Instant::now(), Budget::UNLIMITED);
            let progress = reconciler.progress();
            let tables = writer.snapshot();
            assert!(!progress.covers(tables.revision()), "something finds no room");
            let wanted = vips.iter().copied().chain([unknown]).collect();
            let found = InForce::default().follow(&wanted, &tables, &progress).len();
            assert_eq!(found, announced, "{full:?}");
        }
    }

    type Engine = Reconciler<epic_lb::EpicLayout, FakeMaps, NodeSide>;

    fn engine(writer: &Writer) -> Engine {
        let side = NodeSide::new("n1", 1);
        Reconciler::new(writer.reader(), FakeMaps::new(), side, Default::default()).unwrap()
    }

    fn round(engine: &mut Engine) {
        while let Some(ask) = engine.round(Instant::now(), Budget::UNLIMITED).ask {
            engine.confirm(&ask);
        }
    }

    fn set_room(engine: &mut Engine, map: MapId, room: usize) {
        engine.maps_mut().set_room(MapId::ALL.iter().position(|other| *other == map).unwrap(), room);
    }

    #[test]
    fn an_address_that_is_in_force_stays_while_its_ports_are_rewritten_and_leaves_when_one_fails() {
        let writer = Writer::new();
        let mut engine = engine(&writer);
        let vip = put(&writer, 1);
        let (wanted, mut in_force) = (OrdSet::unit(vip), InForce::default());
        let mut held = |engine: &Engine, wanted: &OrdSet<IpAddr>| {
            in_force.follow(wanted, &writer.snapshot(), &engine.progress()).contains(&vip)
        };
        assert!(!held(&engine, &wanted), "nothing is written yet");
        round(&mut engine);
        assert!(held(&engine, &wanted));
        let name = ServiceName::new("epic-red", "web-1");
        let second = Frontend::proxied(FrontendKey::new(vip, 443, Protocol::Tcp), name.clone(), 1);
        let mut txn = writer.write();
        txn.upsert_frontend(second).unwrap();
        txn.commit();
        assert!(held(&engine, &wanted), "a port that comes takes nothing from the other");
        set_room(&mut engine, MapId::Services, 1);
        round(&mut engine);
        assert!(!held(&engine, &wanted), "a port that fails would be a hole");
        set_room(&mut engine, MapId::Services, 9);
        engine.refresh();
        while engine.read_back().unwrap() {}
        engine.round(Instant::now() + std::time::Duration::from_secs(99), Budget::UNLIMITED);
        assert!(held(&engine, &wanted));
        assert!(!held(&engine, &OrdSet::new()), "another node answers");
        assert!(held(&engine, &wanted));
        let mut txn = writer.write();
        txn.delete_service_and_frontends(&name);
        txn.commit();
        assert!(!held(&engine, &wanted), "it has no port");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u16),
        Delete(u16),
        Answer(u16, bool),
        Room(usize),
        Round,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1u16..5).prop_map(Step::Put),
            2 => (1u16..5).prop_map(Step::Delete),
            3 => (1u16..5, any::<bool>()).prop_map(|(id, answers)| Step::Answer(id, answers)),
            1 => (0usize..4).prop_map(Step::Room),
            5 => Just(Step::Round),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn following_what_changed_finds_what_looking_at_everything_finds(
            steps in prop::collection::vec(step(), 1..40),
        ) {
            let writer = Writer::new();
            let mut engine = engine(&writer);
            let (mut wanted, mut in_force) = (OrdSet::new(), InForce::default());
            let mut expected: BTreeSet<IpAddr> = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Put(id) => drop(put(&writer, id)),
                    Step::Delete(id) => {
                        let mut txn = writer.write();
                        txn.delete_service_and_frontends(&ServiceName::new("epic-red", format!("web-{id}")));
                        txn.commit();
                    }
                    Step::Answer(id, answers) => {
                        let vip = IpAddr::from([192, 0, 2, id as u8]);
                        let _ = if answers { wanted.insert(vip) } else { wanted.remove(&vip) };
                    }
                    Step::Room(room) => set_room(&mut engine, MapId::Services, room),
                    Step::Round => round(&mut engine),
                }
                let (tables, progress) = (writer.snapshot(), engine.progress());
                let before = std::mem::take(&mut expected);
                expected.extend(wanted.iter().filter(|vip| {
                    holds(**vip, &tables, &progress).unwrap_or_else(|| before.contains(*vip))
                }));
                let found = in_force.follow(&wanted, &tables, &progress);
                prop_assert_eq!(found.iter().copied().collect::<BTreeSet<_>>(), expected.clone());
            }
        }
    }
}
