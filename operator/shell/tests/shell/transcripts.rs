//! What each command answers.

use std::time::Duration;

use epic_lb::{BackendState, FakeMaps, MapId, MapKey, MapValue, Redirect, RedirectWhen, Source};
use epic_reconciler::Op;
use epic_shell::{Form, Subject as _, Watching};

use crate::scene::{self, KEY_BYTE, Scene, name};

fn map(id: MapId) -> usize {
    MapId::ALL.iter().position(|map| *map == id).unwrap()
}

#[test]
fn tables_are_listed_whole_and_by_key() {
    let scene = Scene::new();
    insta::assert_snapshot!(scene.transcript(&[
        "help",
        "db tables",
        "db show frontends",
        "db get services acme/web",
        "db get services acme/none",
        "db prefix backends acme/web",
        "db lowerbound proxies 3",
        "db get proxies 2 -o json",
        "db initialized",
        "db watch services",
    ]));
}

#[test]
fn the_maps_are_dumped_whole_by_text_and_by_vip() {
    let scene = Scene::new();
    insta::assert_snapshot!(scene.transcript(&[
        "lb-maps dump",
        "lb-maps dump VIPS",
        "lb-maps dump 192.0.2.7",
        "lb-maps dump 192.0.2.7:443",
        "lb-maps dump 192.0.2.8 -o json",
        "lb-maps dump 192.0.2.99",
    ]));
}

#[test]
fn a_selection_says_who_serves_and_why_others_do_not() {
    let mut scene = Scene::new();
    let mut txn = scene.writer.write();
    txn.set_backend_health(&name("acme/web"), scene::place(2), false, Some("HTTP 503".into()));
    txn.upsert_service(scene::service("acme/late", 3));
    txn.upsert_frontend(scene::vip("acme/late", "192.0.2.8", 80)).unwrap();
    txn.commit();
    let kubernetes = scene.writer.for_source(Source::Kubernetes);
    let mut txn = kubernetes.write();
    txn.upsert_backends(&name("acme/web"), [scene::backend("acme/web", 1, BackendState::Quarantined)]);
    txn.commit();
    scene.round();
    let mut transcript = scene.transcript(&[
        "selection 192.0.2.7:80",
        "selection 192.0.2.7:80/UDP",
        "selection 192.0.2.8:80/tcp",
    ]);
    let mut txn = scene.writer.write();
    let to = name("acme/api");
    let (source, when) = (Source::Resource, RedirectWhen::NothingServes);
    let redirect = Redirect { service: name("acme/web"), source, to, when, port: None };
    txn.set_redirect(&name("acme/web"), Some(redirect));
    txn.commit();
    scene.round();
    transcript += &scene.transcript(&["selection 192.0.2.7:80"]);
    let mut txn = scene.writer.write();
    txn.upsert_backends(&name("acme/web"), [scene::backend("acme/web", 1, BackendState::Maintenance)]);
    txn.commit();
    let mut txn = kubernetes.write();
    txn.release_backends(&name("acme/web"));
    txn.commit();
    scene.round();
    transcript += &scene.transcript(&["selection 192.0.2.7:80", "selection 192.0.2.7:80 -o json"]);
    insta::assert_snapshot!(transcript);
}

#[test]
fn what_is_behind_is_named_with_the_reason_and_since_when() {
    let mut scene = Scene::new();
    let mut transcript = scene.transcript(&["health", "reconciler status", "reconciler status tunnels"]);
    let mut maps = FakeMaps::new();
    maps.set_room(map(MapId::Tunnels), 0);
    scene.with_maps(maps);
    scene.round();
    scene.wait(Duration::from_secs(9));
    let mut txn = scene.writer.write();
    txn.upsert_proxy(scene::proxy("acme/web", 6, "node2"));
    txn.commit();
    transcript += &scene.transcript(&[
        "health",
        "health -o json",
        "reconciler status",
        "reconciler status tunnels -o json",
        "reconciler status passes",
    ]);
    insta::assert_snapshot!(transcript);
}

#[test]
fn maps_that_somebody_else_changed_are_found_out() {
    let mut scene = Scene::new();
    let mut transcript = scene.transcript(&["lb-maps check"]);
    let mut maps = scene.reconciler.take().unwrap().into_maps();
    scene.with_maps(maps.clone());
    scene.round();
    // Behind the reconciler's back: the keys of a service and a proxy go, a VIP is there that nobody wants, another is
    // owned that is not.
    let keys = *maps.content().map(|(key, _)| key).find(|key| matches!(key, MapKey::Keys(_))).unwrap();
    let owned = MapValue::Vip(epic_abi::maps::Vip { flags: epic_abi::maps::VIP_OWNED });
    for (key, value) in [
        (keys, None),
        (MapKey::Proxy(2), None),
        (MapKey::Vip("192.0.2.99".parse::<std::net::IpAddr>().unwrap().into()), Some(owned.clone())),
        (MapKey::Vip("192.0.2.8".parse::<std::net::IpAddr>().unwrap().into()), Some(owned)),
    ] {
        maps.write(Op { key, value }).unwrap();
    }
    let changed = Changed { scene: &scene, maps };
    for line in ["lb-maps check", "lb-maps check -o json"] {
        let request = epic_shell::Request::parse(line).unwrap();
        transcript += &format!("> {line}\n{}", epic_shell::answer(&changed, &request).unwrap());
    }
    insta::assert_snapshot!(transcript);
}

/// A scene whose maps are others.
struct Changed<'a> {
    scene: &'a Scene,
    maps: FakeMaps,
}

impl epic_shell::Subject for Changed<'_> {
    type Side = epic_shell::Side;
    fn tables(&self) -> std::sync::Arc<epic_lb::Snapshot> {
        self.scene.tables()
    }
    fn progress(&self) -> epic_lb::Progress {
        self.scene.progress()
    }
    fn entries(&self) -> Result<Vec<(MapKey, MapValue)>, epic_reconciler::MapError> {
        Ok(self.maps.content().map(|(key, value)| (*key, value.clone())).collect())
    }
    fn side(&self) -> &epic_shell::Side {
        self.scene.side()
    }
}

#[test]
fn a_watched_table_comes_whole_then_change_by_change() {
    let scene = Scene::new();
    let service = epic_lb::TableId::Service;
    let (mut text, mut json) = (Watching::new(service, Form::Text), Watching::new(service, Form::Json));
    let mut seen = text.poll(scene.tables());
    json.poll(scene.tables());
    assert_eq!(text.poll(scene.tables()), "");
    let mut txn = scene.writer.write();
    txn.upsert_service(scene::service("acme/new", 3));
    txn.upsert_service(epic_lb::Service { generation: 2, ..scene::service("acme/web", 1) });
    txn.delete_service_and_frontends(&name("acme/api"));
    txn.commit();
    seen += &text.poll(scene.tables());
    seen += &json.poll(scene.tables());
    // What does not concern the table is nothing.
    let mut txn = scene.writer.write();
    txn.upsert_node(epic_lb::EpicNode::new([198, 51, 100, 9].into(), "node9"));
    txn.commit();
    assert_eq!(text.poll(scene.tables()) + &json.poll(scene.tables()), "");
    insta::assert_snapshot!(seen);
}

#[test]
fn keys_of_tunnels_never_appear() {
    let scene = Scene::new();
    let tables = epic_lb::TableId::ALL
        .iter()
        .flat_map(|table| [format!("db show {table}"), format!("db show {table} -o json")]);
    let maps = ["lb-maps dump", "lb-maps dump -o json", "lb-maps check", "selection 192.0.2.7:80 -o json"];
    for line in tables.chain(maps.map(str::to_owned)) {
        let text = scene.say(&line).to_lowercase();
        for form in [format!("{KEY_BYTE:x}{KEY_BYTE:x}"), format!("{KEY_BYTE}, {KEY_BYTE}")] {
            assert!(!text.contains(&form), "{line}:\n{text}");
        }
    }
}
