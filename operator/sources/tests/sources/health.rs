//! Between tables and the health checker: who is probed, and what becomes of verdicts.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use epic_health::node_port::{Answers as _, NodePorts, Settings as PortSettings};
use epic_health::{Failure, Probe, Prober, Settings};
use epic_lb::rows::VerdictKey;
use epic_lb::{
    Backend, BackendState, Edge, Frontend, FrontendKey, Location, Name, Place, Protocol, Service,
    ServiceName, Snapshot, Source, Traffic, Writer,
};
use epic_model::edge;
use epic_sources::health::{Health, NodeAnswers, Probed};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

const LONG: Duration = Duration::from_secs(60);

/// Who answers how; and how often each was asked.
#[derive(Clone, Default)]
struct World(Arc<Mutex<Asked>>);

#[derive(Default)]
struct Asked {
    dead: Vec<SocketAddr>,
    asked: BTreeMap<SocketAddr, usize>,
}

impl Prober for World {
    async fn probe(&self, place: &epic_health::Place, _: &Probe) -> Result<(), Failure> {
        let mut world = self.0.lock();
        *world.asked.entry(place.address).or_default() += 1;
        if world.dead.contains(&place.address) { Err(Failure::silent("dead")) } else { Ok(()) }
    }
}

struct Scene {
    writer: Writer,
    world: World,
    probed: Probed,
    stop: CancellationToken,
}

fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).unwrap()
}

fn address(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

fn backend(of: &str, last: u8) -> Backend {
    Backend::new(name(of), address(last), 80, Protocol::Tcp)
}

/// A service whose backends are probed.
fn checked(of: &str) -> Service {
    let check = edge::Check { interval: Duration::from_millis(10), ..edge::Check::new(edge::Probe::Tcp) };
    let reach = edge::Reach { check: Some(check), ..edge::Reach::default() };
    Service { edge: Arc::new(Edge { reach, ..Edge::default() }), ..Service::new(name(of), "uid") }
}

impl Scene {
    fn new(dead: &[u8]) -> Self {
        let (writer, world, stop) = (Writer::new(), World::default(), CancellationToken::new());
        world.0.lock().dead = dead.iter().map(|last| SocketAddr::new(address(*last), 80)).collect();
        let (health, probed) = Health::new(&writer, Settings { seed: Some(1), ..Settings::default() });
        tokio::spawn(health.run(world.clone(), stop.clone()));
        Self { writer, world, probed, stop }
    }

    fn put(&self, rows: impl IntoIterator<Item = Backend>) {
        let mut txn = self.writer.write();
        for row in rows {
            let service = row.service.clone();
            txn.upsert_backends(&service, [row]);
        }
        txn.commit();
    }

    fn serve(&self, service: Service) {
        let mut txn = self.writer.write();
        txn.upsert_service(service);
        txn.commit();
    }

    async fn until(&self, wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let reader = self.writer.reader();
        let mut any = reader.watch_any();
        let reached = async {
            loop {
                any.mark_unchanged();
                let now = reader.snapshot();
                if wanted(&now) {
                    return now;
                }
                any.changed().await.expect("the tables are there");
            }
        };
        tokio::time::timeout(LONG, reached).await.expect("it comes to that")
    }

    fn asked(&self, last: u8) -> usize {
        self.world.0.lock().asked.get(&SocketAddr::new(address(last), 80)).copied().unwrap_or(0)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn verdict(tables: &Snapshot, of: &str, last: u8) -> Option<bool> {
    let place = Place::new(address(last), 80, Protocol::Tcp);
    tables.verdicts.get(VerdictKey { service: name(of).id(), place }).map(|row| row.healthy)
}

#[tokio::test]
async fn backends_of_services_with_a_check_are_judged_and_no_others() {
    let scene = Scene::new(&[2]);
    // Backends may be there before their service is.
    scene.put([backend("shop/web", 1), backend("shop/web", 2), backend("shop/api", 3)]);
    scene.serve(checked("shop/web"));
    scene.serve(Service::new(name("shop/api"), "uid"));
    let tables = scene.until(|tables| tables.verdicts.len() == 2).await;
    assert_eq!((verdict(&tables, "shop/web", 1), verdict(&tables, "shop/web", 2)), (Some(true), Some(false)));
    assert_eq!(scene.asked(3), 0);
    scene.world.0.lock().dead.clear();
    scene.until(|tables| verdict(tables, "shop/web", 2) == Some(true)).await;
}

#[tokio::test]
async fn a_check_with_a_port_asks_there_whatever_the_protocol_of_the_backend() {
    let scene = Scene::new(&[2]);
    let udp = |last| Backend::new(name("shop/dns"), address(last), 53, Protocol::Udp);
    scene.put([udp(1), udp(2)]);
    let verdict = |tables: &Snapshot, last| {
        let place = Place::new(address(last), 53, Protocol::Udp);
        tables.verdicts.get(VerdictKey { service: name("shop/dns").id(), place }).map(|row| row.healthy)
    };
    let mut service = checked("shop/dns");
    let mut edge = (*service.edge).clone();
    edge.reach.check.as_mut().unwrap().port = Some(80);
    service.edge = Arc::new(edge);
    scene.serve(service);
    scene.until(|tables| (verdict(tables, 1), verdict(tables, 2)) == (Some(true), Some(false))).await;
    assert!(scene.probed.unasked().is_empty());
}

#[tokio::test]
async fn a_verdict_goes_with_its_check_and_in_maintenance() {
    let scene = Scene::new(&[1]);
    scene.put([backend("shop/web", 1)]);
    scene.serve(checked("shop/web"));
    scene.until(|tables| verdict(tables, "shop/web", 1) == Some(false)).await;
    scene.serve(Service::new(name("shop/web"), "uid"));
    scene.until(|tables| tables.verdicts.is_empty()).await;
    scene.serve(checked("shop/web"));
    scene.until(|tables| verdict(tables, "shop/web", 1) == Some(false)).await;
    scene.put([Backend { state: BackendState::Maintenance, ..backend("shop/web", 1) }]);
    scene.until(|tables| tables.verdicts.is_empty()).await;
    assert_eq!(scene.probed.stats().targets, 0);
}

#[tokio::test]
async fn a_verdict_that_went_with_a_backend_comes_back_with_it() {
    let scene = Scene::new(&[1]);
    scene.put([backend("shop/web", 1)]);
    scene.serve(checked("shop/web"));
    scene.until(|tables| verdict(tables, "shop/web", 1) == Some(false)).await;
    // Both before anybody looks: the checker never hears of it, and would not say again what it said.
    let mut txn = scene.writer.write();
    txn.delete_backends();
    txn.commit();
    assert!(scene.writer.snapshot().verdicts.is_empty());
    scene.put([backend("shop/web", 1)]);
    scene.until(|tables| verdict(tables, "shop/web", 1) == Some(false)).await;
}

#[tokio::test]
async fn the_row_of_a_place_that_selection_goes_by_says_whether_it_is_probed() {
    let scene = Scene::new(&[]);
    scene.serve(checked("shop/web"));
    scene.put([Backend { state: BackendState::Maintenance, ..backend("shop/web", 1) }]);
    let other = scene.writer.for_source(Source::File);
    let mut txn = other.write();
    txn.upsert_backends(&name("shop/web"), [backend("shop/web", 1)]);
    txn.commit();
    scene.until(|tables| verdict(tables, "shop/web", 1) == Some(true)).await;
    let mut txn = other.write();
    txn.delete_backends();
    txn.commit();
    scene.until(|tables| tables.verdicts.is_empty()).await;
}

#[tokio::test]
async fn what_cannot_be_probed_is_named_until_it_can() {
    let scene = Scene::new(&[]);
    let place = |address: IpAddr, port, protocol| Place::new(address, port, protocol);
    let udp = Backend { place: place(address(1), 53, Protocol::Udp), ..backend("shop/dns", 1) };
    let any = Backend { place: place(address(2), 0, Protocol::Any), ..backend("shop/dns", 2) };
    let nowhere = Backend { place: place([0, 0, 0, 0].into(), 80, Protocol::Tcp), ..backend("shop/dns", 3) };
    scene.put([udp, any, nowhere, backend("shop/dns", 4)]);
    scene.serve(checked("shop/dns"));
    let tables = scene.until(|tables| !tables.verdicts.is_empty()).await;
    assert_eq!(tables.verdicts.len(), 1);
    let whys: Vec<String> = scene.probed.unasked().into_iter().map(|unasked| unasked.why).collect();
    assert_eq!(whys.len(), 3, "{whys:?}");
    for text in ["10.0.0.1:53/UDP is not TCP", "10.0.0.2:0/ANY has no port", "0.0.0.0:80/TCP is no address"] {
        assert!(whys.iter().any(|why| why.starts_with(text)), "{text}: {whys:?}");
    }
    let mut txn = scene.writer.write();
    txn.release_backends(&name("shop/dns"));
    txn.commit();
    scene.until(|tables| tables.verdicts.is_empty()).await;
    let cleared = async {
        while !scene.probed.unasked().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, cleared).await.expect("nobody is named any more");
}

/// What the answers are made of: a service of this node and of another, on port 30100.
fn local(of: &str, port: u16) -> Service {
    let traffic = Traffic { health_check_node_port: Some(port), ..Traffic::default() };
    Service { traffic: Some(traffic.into()), ..Service::new(name(of), "uid") }
}

#[tokio::test]
async fn answers_follow_the_tables_and_of_two_services_with_one_port_the_first_has_it() {
    let writer = Writer::new();
    let location = Location { node: Some("n1".into()), ..Location::default() };
    let answers = Arc::new(NodeAnswers::new(writer.reader(), location, |_, _| true));
    let (ports, _server) = NodePorts::new(Arc::clone(&answers), PortSettings::default());
    let stop = CancellationToken::new();
    let following = tokio::spawn(Arc::clone(&answers).follow(ports, stop.clone()));
    let until = async |wanted: &dyn Fn() -> bool| {
        let reached = async {
            while !wanted() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, reached).await.expect("it comes to that");
    };
    let on = |last: u8, node: &str| {
        let mut row = backend("shop/web", last);
        row.locality.node = Some(Name::new(node));
        row
    };
    let mut txn = writer.write();
    txn.upsert_service_and_frontends(
        local("shop/web", 30100),
        vec![Frontend::direct(FrontendKey::new([192, 0, 2, 7].into(), 80, Protocol::Tcp), name("shop/web"))],
    )
    .unwrap();
    let leaving = Backend { state: BackendState::Terminating, ..on(3, "n1") };
    txn.set_backends(&name("shop/web"), [on(1, "n1"), on(2, "n2"), leaving]);
    txn.upsert_service(local("shop/zoo", 30100));
    txn.commit();
    until(&|| answers.service(30100).is_some()).await;
    let health = answers.service(30100).unwrap();
    assert_eq!((health.name.as_str(), health.local_endpoints, health.proxy_healthy), ("web", 1, true));
    assert_eq!(answers.conflicts().len(), 1, "{:?}", answers.conflicts());
    assert!(answers.conflicts()[0].contains("give shop/zoo another port"));
    let vip = answers.vip([192, 0, 2, 7].into()).unwrap();
    assert_eq!((vip.served, vip.backends), (true, 2));
    assert_eq!(answers.vip([192, 0, 2, 8].into()), None);

    let place = Place::new(address(1), 80, Protocol::Tcp);
    let mut txn = writer.write();
    txn.set_backend_health(&name("shop/web"), place, false, None);
    txn.commit();
    assert_eq!(answers.service(30100).unwrap().local_endpoints, 0);

    let mut txn = writer.write();
    txn.delete_service_and_frontends(&name("shop/web"));
    txn.upsert_service(local("shop/zoo", 30101));
    txn.commit();
    until(&|| answers.service(30101).is_some()).await;
    assert_eq!((answers.service(30100), answers.conflicts()), (None, Vec::new()));
    stop.cancel();
    tokio::time::timeout(LONG, following).await.unwrap().unwrap();
}
