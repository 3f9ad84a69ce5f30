//! LoadBalancers that are not in the maps as they should be, by name.
//!
//! A node reports a revision up to which its maps are complete *but for these*, so that what fails of one LoadBalancer
//! delays neither the condition `Programmed` nor the release of an address of any other. One that was deleted is behind too
//! while entries of it cannot be removed: its address must not be given away.

use std::collections::BTreeMap;
use std::sync::Arc;

use epic_crds::{EPICNodeStatus, NodeBehind};
use epic_lb::{Progress, ServiceName, ServiceRef, Snapshot, Tables};

/// LoadBalancers of a namespace that are listed one by one; beyond that one row stands for the namespace, so that no tenant
/// fills the list.
const MOST_OF_NAMESPACE: usize = 16;
/// Characters of a message.
const MOST_WORDS: usize = 512;

/// What an EPICNode lists.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Behind {
    /// The LoadBalancers, by namespace and name.
    pub rows: Vec<NodeBehind>,
    /// Whether there are more.
    pub truncated: bool,
}

/// A LoadBalancer that left the tables.
#[derive(Clone, Debug)]
struct Gone {
    name: ServiceName,
    /// Revision of the tables without it.
    revision: u64,
}

/// Names of those that left the tables while the maps still hold something of them.
#[derive(Debug, Default)]
pub struct Leaving {
    seen: Arc<Snapshot>,
    /// By service and uid: one that is recreated does not speak for the one before.
    gone: BTreeMap<(ServiceRef, Arc<str>), Gone>,
}

impl Leaving {
    /// Follows the tables.
    pub fn follow(&mut self, tables: &Arc<Snapshot>, progress: &Progress) {
        for change in tables.services.changes_since(&self.seen.services) {
            let Some(old) = change.old().filter(|old| old.ids.is_some()) else { continue };
            let id = old.name.id();
            if tables.service(id).is_none_or(|row| row.uid != old.uid) {
                let gone = Gone { name: old.name.clone(), revision: tables.revision() };
                self.gone.insert((id, Arc::clone(&old.uid)), gone);
            }
        }
        self.seen = Arc::clone(tables);
        self.gone.retain(|(id, _), gone| !progress.covers_scope(*id, gone.revision));
    }

    /// What the maps do not hold of this revision of the tables, once all of it was tried.
    pub fn behind(&self, progress: &Progress, revision: u64) -> Behind {
        let late = progress.behind.iter().filter(|(_, behind)| behind.lowest <= revision);
        let late: Vec<ServiceRef> = late.filter_map(|(scope, _)| *scope).collect();
        if late.is_empty() {
            return Behind::default();
        }
        let why = reasons(&self.seen, progress);
        let mut by_namespace: BTreeMap<String, Vec<NodeBehind>> = BTreeMap::new();
        for id in late {
            // What other sources name is no LoadBalancer.
            let known = self.seen.service(id).filter(|row| row.ids.is_some());
            let known = known.map(|row| (&row.name, &row.uid));
            let least: Arc<str> = Arc::default();
            let gone = self.gone.range((id, least)..).take_while(|((of, _), _)| *of == id);
            for (name, uid) in known.into_iter().chain(gone.map(|((_, uid), gone)| (&gone.name, uid))) {
                let message = why.get(&id).map_or("its entries are not in the maps yet", |text| text);
                let row = NodeBehind {
                    namespace: name.namespace().to_owned(),
                    name: Some(name.name().to_owned()),
                    uid: Some(uid.to_string()),
                    message: message.chars().take(MOST_WORDS).collect(),
                    ..NodeBehind::default()
                };
                by_namespace.entry(row.namespace.clone()).or_default().push(row);
            }
        }
        let rows: Vec<NodeBehind> =
            by_namespace.into_iter().flat_map(|(namespace, rows)| list(namespace, rows)).collect();
        let truncated = rows.len() > EPICNodeStatus::MOST_BEHIND;
        Behind { rows: rows.into_iter().take(EPICNodeStatus::MOST_BEHIND).collect(), truncated }
    }
}

/// The rows of a namespace, or one for all of them.
fn list(namespace: String, mut rows: Vec<NodeBehind>) -> Vec<NodeBehind> {
    rows.sort_by(|a, b| (&a.name, &a.uid).cmp(&(&b.name, &b.uid)));
    if rows.len() <= MOST_OF_NAMESPACE {
        return rows;
    }
    let first = rows.first().map_or("", |row| row.message.as_str());
    let message = format!("{} LoadBalancers are behind, the first: {first}", rows.len());
    let message = message.chars().take(MOST_WORDS).collect();
    vec![NodeBehind { namespace, message, ..NodeBehind::default() }]
}

/// Why each fails: the first row of it that does.
fn reasons<'a>(tables: &Tables, progress: &'a Progress) -> BTreeMap<ServiceRef, &'a str> {
    let mut reasons = BTreeMap::new();
    for (row, failing) in &progress.failing {
        if let Some(service) = tables.service_of(*row) {
            reasons.entry(service).or_insert(&*failing.text);
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use epic_lb::render::NodeSide;
    use epic_lb::{FakeMaps, GroupId, MapId, Place, Protocol, Service, ServiceId, Writer};
    use epic_reconciler::{Budget, Reconciler, Settings};

    use super::*;

    fn name(namespace: &str, name: &str) -> ServiceName {
        ServiceName::new(namespace, name)
    }

    /// A LoadBalancer with an endpoint past the tunnels.
    fn put(writer: &Writer, of: &ServiceName, id: u16) {
        let mut txn = writer.write();
        let keys = epic_lb::ServiceKeys { data: [epic_lb::DataKey([1; 16]); 3], node: None };
        let row = Service::new(of.clone(), format!("uid-{id}"))
            .granted(GroupId::new(1).unwrap(), ServiceId::new(id).unwrap());
        txn.upsert_service(Service { keys: Some(keys.into()), ..row });
        let place = Place::new([10, 0, 0, 1].into(), 80, Protocol::Tcp);
        txn.upsert_pass(epic_lb::Pass { service: Some(of.clone()), place, purpose: "e".into() });
        txn.commit();
    }

    type Side = Reconciler<epic_lb::EpicLayout, FakeMaps, NodeSide>;

    fn side(writer: &Writer, passes: usize) -> Side {
        let mut maps = FakeMaps::new();
        let map = MapId::ALL.iter().position(|map| *map == MapId::Passes).unwrap();
        maps.set_room(map, passes);
        Reconciler::new(writer.reader(), maps, NodeSide::new("n1", 1), Settings::default()).unwrap()
    }

    fn listed(behind: &Behind) -> Vec<(String, Option<String>)> {
        behind.rows.iter().map(|row| (row.namespace.clone(), row.uid.clone())).collect()
    }

    #[test]
    fn what_fails_is_named_with_its_reason_and_what_holds_is_not() {
        let writer = Writer::new();
        let mut leaving = Leaving::default();
        put(&writer, &name("epic-red", "web"), 1);
        put(&writer, &name("epic-blue", "api"), 2);
        let mut side = side(&writer, 1);
        side.round(Instant::now(), Budget::UNLIMITED);
        let (tables, progress) = (writer.snapshot(), side.progress());
        leaving.follow(&tables, &progress);
        let behind = leaving.behind(&progress, tables.revision());
        assert_eq!(behind.rows.len(), 1);
        assert!(behind.rows[0].message.contains("the map is full"), "{:?}", behind.rows);
        let status = EPICNodeStatus { behind: behind.rows, ..EPICNodeStatus::default() };
        let told =
            [("epic-red", "uid-1"), ("epic-blue", "uid-2")].map(|(ns, uid)| status.behind(ns, uid).is_some());
        assert_eq!(told.iter().filter(|told| **told).count(), 1);
    }

    #[test]
    fn one_that_was_deleted_is_behind_until_the_maps_forget_it() {
        let writer = Writer::new();
        let mut leaving = Leaving::default();
        let (web, api) = (name("epic-red", "web"), name("epic-blue", "api"));
        put(&writer, &web, 1);
        put(&writer, &api, 2);
        let mut side = side(&writer, 9);
        let now = Instant::now();
        side.round(now, Budget::UNLIMITED);
        leaving.follow(&writer.snapshot(), &side.progress());
        for name in [&web, &api] {
            let mut txn = writer.write();
            txn.delete_service_and_frontends(name);
            txn.delete_paths(name);
            txn.commit();
        }
        // So much at once is asked about first.
        let ask = side.round(now, Budget::UNLIMITED).ask.unwrap();
        let (tables, progress) = (writer.snapshot(), side.progress());
        leaving.follow(&tables, &progress);
        let behind = leaving.behind(&progress, tables.revision());
        assert_eq!(
            listed(&behind),
            [
                ("epic-blue".to_owned(), Some("uid-2".to_owned())),
                ("epic-red".to_owned(), Some("uid-1".to_owned()))
            ]
        );
        side.confirm(&ask);
        side.round(now, Budget::UNLIMITED);
        leaving.follow(&writer.snapshot(), &side.progress());
        assert_eq!(leaving.behind(&side.progress(), tables.revision()), Behind::default());
        assert!(leaving.gone.is_empty());
    }

    #[test]
    fn a_tenant_that_is_behind_with_many_takes_one_row() {
        let writer = Writer::new();
        let mut leaving = Leaving::default();
        for id in 1..=20 {
            put(&writer, &name("epic-red", &format!("web-{id}")), id);
        }
        put(&writer, &name("epic-blue", "api"), 30);
        let mut side = side(&writer, 0);
        side.round(Instant::now(), Budget::UNLIMITED);
        let (tables, progress) = (writer.snapshot(), side.progress());
        leaving.follow(&tables, &progress);
        let behind = leaving.behind(&progress, tables.revision());
        let uids: Vec<_> = listed(&behind);
        assert_eq!(
            uids,
            [("epic-blue".to_owned(), Some("uid-30".to_owned())), ("epic-red".to_owned(), None)]
        );
        let status = EPICNodeStatus { behind: behind.rows, ..EPICNodeStatus::default() };
        assert!(status.behind("epic-red", "any").unwrap().starts_with("20 LoadBalancers are behind"));
        assert!(status.is_behind_in(Some("epic-red")) && !status.is_behind_in(Some("epic-green")));
    }
}
