//! The same commands on maps of services without a proxy, whose entries have numbers of this node.

use std::sync::Arc;
use std::time::Instant;

use epic_lb::maps::{DirectKey, DirectLayout, DirectMaps, DirectValue};
use epic_lb::render::DirectSide;
use epic_lb::{
    Backend, Frontend, FrontendKey, Location, Progress, Protocol, Service, ServiceName, Snapshot, Writer,
};
use epic_reconciler::{Budget, MapError, Op, Reconciler, Settings, SharedMaps};
use epic_shell::{Direct, Part, Request, Subject, answer};

use crate::scene::name;

type Engine = Reconciler<DirectLayout, SharedMaps<DirectMaps>, DirectSide>;

struct Scene {
    writer: Writer,
    engine: Engine,
    maps: SharedMaps<DirectMaps>,
    side: Direct,
}

impl Subject for Scene {
    type Side = Direct;
    fn tables(&self) -> Arc<Snapshot> {
        self.writer.snapshot()
    }
    fn progress(&self) -> Progress {
        self.engine.progress()
    }
    fn entries(&self) -> Result<Vec<(DirectKey, DirectValue)>, MapError> {
        Ok(self.maps.lock().content().map(|(key, value)| (*key, value.clone())).collect())
    }
    fn side(&self) -> &Direct {
        &self.side
    }
    fn parts(&self) -> Vec<Part> {
        vec![Part { name: "file".to_owned(), ok: false, says: "it is broken; mend it".to_owned() }]
    }
}

impl Scene {
    fn new() -> Self {
        let (writer, maps) = (Writer::new(), SharedMaps::new(DirectMaps::new()));
        let location = Location { node: Some("here".into()), ..Location::default() };
        let side = Direct { location, seed: 7, room: 100 };
        let engine =
            Reconciler::new(writer.reader(), maps.clone(), side.renderer(), Settings::default()).unwrap();
        Self { writer, engine, maps, side }
    }

    fn round(&mut self) {
        loop {
            let round = self.engine.round(Instant::now(), Budget::UNLIMITED);
            match round.ask {
                Some(ask) => self.engine.confirm(&ask),
                None if !round.more => return,
                None => {}
            }
        }
    }

    /// A service with port 80 of an address, and these backends; none: it is deleted.
    fn put(&mut self, of: &ServiceName, vip: u8, backends: &[u8]) {
        let mut txn = self.writer.write();
        if backends.is_empty() {
            txn.delete_service_and_frontends(of);
        } else {
            let key = FrontendKey::new([192, 0, 2, vip].into(), 80, Protocol::Tcp);
            let frontends = vec![Frontend::direct(key, of.clone())];
            txn.upsert_service_and_frontends(Service::new(of.clone(), "uid"), frontends).unwrap();
            let place = |last: &u8| Backend::new(of.clone(), [10, 0, 0, *last].into(), 8080, Protocol::Tcp);
            txn.set_backends(of, backends.iter().map(place));
        }
        txn.commit();
        self.round();
    }

    fn say(&self, line: &str) -> String {
        answer(self, &Request::parse(line).unwrap()).unwrap()
    }
}

#[test]
fn maps_whose_numbers_tell_their_history_are_as_the_rows_want_them() {
    let mut scene = Scene::new();
    scene.put(&name("acme/first"), 1, &[1, 2]);
    scene.put(&name("acme/second"), 2, &[3]);
    scene.put(&name("acme/first"), 1, &[]);
    scene.put(&name("acme/third"), 3, &[4, 5, 1]);
    // A renderer that begins anew would give other numbers.
    assert_eq!(scene.say("lb-maps check"), "10 entries, all as the rows want them\n");
    insta::assert_snapshot!(scene.say("lb-maps dump 192.0.2.2:80"), @r"
    backends 3 -> 3.1 10.0.0.3:8080/TCP set 3d9435de
    reverse 2 -> 2.1 192.0.2.2:80/TCP set 3d9435de
    tables 2 -> 2.1 set 3d9435de 3.1×1
    services 192.0.2.2:80/TCP -> 2.1 members 1
    ");
    assert_eq!(scene.say("lb-maps dump 192.0.2.2:81"), "");
}

#[test]
fn entries_that_somebody_else_changed_are_found_out() {
    let mut scene = Scene::new();
    scene.put(&name("acme/web"), 1, &[1]);
    let table = DirectKey::Table(1);
    for (key, value) in [
        (DirectKey::Backend(1), None),
        (DirectKey::Range(9, "0.0.0.0/0".parse().unwrap()), Some(DirectValue::Range)),
    ] {
        scene.maps.lock().write(Op { key, value }).unwrap();
    }
    assert!(scene.maps.lock().get(&table).is_some());
    insta::assert_snapshot!(scene.say("lb-maps check"), @r"
    dangling  tables 1: it names backends 1, which is not there
    missing   backends 1: wanted by backends acme/web 10.0.0.1:8080/TCP: somebody else changed it; the next full pass corrects it
    stray     ranges 9 0.0.0.0/0: no row wants it; it is removed by the next round or full pass
    ");
}

#[test]
fn health_names_the_parts_of_the_process() {
    let mut scene = Scene::new();
    scene.put(&name("acme/web"), 1, &[1]);
    insta::assert_snapshot!(scene.say("health"), @r"
    maps    OK, 4 entries
    tables  revision 1, the maps hold all of it
    writes  4
    file    it is broken; mend it
    ");
    assert!(scene.say("health -o json").contains("\"says\": \"it is broken; mend it\""));
}
