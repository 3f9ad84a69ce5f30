//! The pinned Envoy as a process on loopback, configured by the server over its real bootstrap.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use epic_lb::LbPolicy;
use epic_xds::bootstrap::{Level, Paths, Sizes};
use epic_xds::engine::{Kind, Resource, View};
use epic_xds::{Bootstrap, Limits, pki, sync};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::harness::{DEADLINE, Running, Site, credentials};
use crate::rows::{Ep, World, identity, service};

/// The pinned Envoy, or a failure that says how to get it.
pub(crate) fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("EPIC_ENVOY") {
        return existing(PathBuf::from(path), "EPIC_ENVOY names it");
    }
    let output = Command::new(Path::new(env!("EPIC_CHECKOUT")).join("hack/tools/bin")).output();
    let folder = match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        other => panic!("hack/tools/bin does not say where the lab's programs are: {other:?}"),
    };
    existing(Path::new(&folder).join("envoy"), "hack/tools/bin names its folder")
}

fn existing(path: PathBuf, why: &str) -> PathBuf {
    assert!(
        path.is_file(),
        "these tests need Envoy and there is none at {} ({why}): run hack/tools/build, or set EPIC_ENVOY",
        path.display()
    );
    path
}

/// A port below the ephemeral range that nothing uses now. Each call in this process gives another.
pub(crate) fn free_port(from: u16) -> u16 {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    // Processes that run at the same time start at different places.
    let start = u16::try_from(std::process::id() % 40).unwrap() * 10;
    for _ in 0..400 {
        let offset = (start + NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) % 400;
        if std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, from + offset)).is_ok() {
            return from + offset;
        }
    }
    panic!("no free port from {from}")
}

/// A running Envoy with its files.
pub(crate) struct Proxy {
    pub(crate) folder: TempDir,
    child: Child,
    pub(crate) ops: SocketAddr,
}

impl Proxy {
    /// Tests look at more than dashboards do.
    pub(crate) fn start(site: &Site, server: SocketAddr, load_balancer: &str) -> Self {
        Self::start_with(site, server, load_balancer, |bootstrap| bootstrap.counting(Level::Full))
    }

    pub(crate) fn start_with(
        site: &Site,
        server: SocketAddr,
        load_balancer: &str,
        change: impl FnOnce(Bootstrap) -> Bootstrap,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ops_port = free_port(9_300);
        let bootstrap = change(bootstrap(folder.path(), server, load_balancer, ops_port));
        write_files(folder.path(), site, &bootstrap, load_balancer);
        let log = std::fs::File::create(folder.path().join("envoy.log")).unwrap();
        let child = Command::new(binary())
            .args(bootstrap.args())
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        Self { folder, child, ops: (Ipv4Addr::LOCALHOST, ops_port).into() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("envoy.log")).unwrap_or_default()
    }

    /// GET over the admin socket.
    pub(crate) async fn admin(&self, path: &str) -> String {
        let mut socket = UnixStream::connect(self.folder.path().join("run/admin.sock")).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        text
    }

    pub(crate) async fn stat(&self, name: &str) -> u64 {
        let text = self.admin(&format!("/stats?filter=^{name}$")).await;
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        value.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    pub(crate) async fn ready(&self) {
        eventually("the proxy is ready", || async {
            let mut socket = TcpStream::connect(self.ops).await.ok()?;
            socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ok()?;
            let mut text = String::new();
            socket.read_to_string(&mut text).await.ok()?;
            text.starts_with("HTTP/1.1 200").then_some(())
        })
        .await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the last lines of Envoy:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
    }
}

pub(crate) fn bootstrap(folder: &Path, server: SocketAddr, load_balancer: &str, ops_port: u16) -> Bootstrap {
    let within = |name: &str| folder.join(name).display().to_string();
    Bootstrap {
        xds_port: server.port(),
        ops_port,
        sizes: Sizes { concurrency: 1, ..Sizes::default() },
        paths: Paths { config: within("config"), tls: within("tls"), run: within("run") },
        ..Bootstrap::new("epic-red/pod-1", format!("epic-red/{load_balancer}"), server.ip())
    }
}

pub(crate) fn write_files(folder: &Path, site: &Site, bootstrap: &Bootstrap, load_balancer: &str) {
    for name in ["config", "tls", "run"] {
        std::fs::create_dir_all(folder.join(name)).unwrap();
    }
    for (name, content) in bootstrap.files().entries() {
        std::fs::write(folder.join("config").join(name), content).unwrap();
    }
    let certificate = site.client_certificate(&identity(load_balancer));
    for (name, content) in [
        ("ca.crt", &site.authority.certificate),
        ("tls.crt", &certificate.certificate),
        ("tls.key", &certificate.key),
    ] {
        std::fs::write(folder.join("tls").join(name), content).unwrap();
    }
}

pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, check: impl Fn() -> F) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a client gets through the proxy: the name of an endpoint, or nothing.
pub(crate) async fn answer(port: u16) -> Option<String> {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    let mut text = String::new();
    let read = tokio::time::timeout(Duration::from_secs(5), socket.read_to_string(&mut text)).await;
    read.expect("the connection is closed, not left hanging").ok()?;
    (!text.is_empty()).then_some(text)
}

pub(crate) async fn answers(port: u16, times: usize) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..times {
        names.push(answer(port).await.unwrap_or_default());
    }
    names.sort();
    names.dedup();
    names
}

/// LoadBalancer `web` on a free port with a proxy in front of it.
pub(crate) struct Scene {
    pub(crate) site: Site,
    pub(crate) world: World,
    pub(crate) server: Running,
    pub(crate) proxy: Proxy,
    pub(crate) port: u16,
}

/// Servers in a tenant's pods that say their name to whoever connects, and close. They share a port, because a public
/// port selects by it, and differ in their loopback address.
pub(crate) async fn endpoints(names: &[&str]) -> Vec<Ep> {
    let mut list: Vec<Ep> = Vec::new();
    for (octet, name) in (11..).zip(names) {
        let address = Ipv4Addr::new(127, 0, 0, octet);
        let port = list.first().map_or(0, |first| first.port);
        let listener = TcpListener::bind((address, port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = (*name).to_owned();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let answer = answer.clone();
                tokio::spawn(async move { socket.write_all(answer.as_bytes()).await });
            }
        });
        list.push(Ep::new(name, address.octets(), [10, 0, 0, octet], port));
    }
    list
}

pub(crate) async fn scene(all: &[Ep]) -> Scene {
    scene_of(&service("web"), all).await
}

pub(crate) async fn scene_of(service: &epic_lb::Service, all: &[Ep]) -> Scene {
    let site = Site::new();
    let world = World::new();
    let port = free_port(10_400);
    world.load_balancer(service, &[(80, port - 10_000, all[0].port)]);
    world.endpoints("web", all);
    tokio::spawn(sync::run(world.tables.clone(), site.views.clone()));
    let server = site.serve(Limits::default(), 0).await;
    let proxy = Proxy::start(&site, server.address, "web");
    site.report("the proxy configured", |r| r.progress.configured.is_some()).await;
    proxy.ready().await;
    Scene { site, world, server, proxy, port }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_follows_the_endpoints_from_three_to_one_to_none_to_two() {
    let all = endpoints(&["one", "two", "three"]).await;
    let scene = scene(&all).await;
    scene
        .site
        .report("three endpoints", |r| r.progress.endpoints.len() == 3 && r.progress.rejections.is_empty())
        .await;
    assert_eq!(answers(scene.port, 30).await, ["one", "three", "two"]);

    scene.world.endpoints("web", &all[..1]);
    scene.site.report("one endpoint", |r| r.progress.endpoints.len() == 1).await;
    assert_eq!(answers(scene.port, 30).await, ["one"]);

    scene.world.endpoints("web", &[]);
    scene.site.report("no endpoint", |r| r.progress.endpoints.is_empty()).await;
    assert_eq!(answers(scene.port, 10).await, [""], "connections are closed, without an answer");

    scene.world.endpoints("web", &all[1..]);
    scene.site.report("two endpoints", |r| r.progress.endpoints.len() == 2).await;
    assert_eq!(answers(scene.port, 30).await, ["three", "two"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_names_the_real_endpoint() {
    let all = endpoints(&["one"]).await;
    let scene = scene(&all).await;
    assert_eq!(answers(scene.port, 1).await, ["one"]);
    let line = eventually("the connection is logged", || async {
        scene.proxy.log().lines().find(|line| line.contains("\"log\":\"access\"")).map(str::to_owned)
    })
    .await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["endpoint"], format!("10.0.0.11:{}", all[0].port));
    assert_eq!(line["name"], line["endpoint"]);
    assert_eq!(line["alias"], format!("127.0.0.11:{}", all[0].port));
    assert_eq!(line["cluster"], "web-tcp-80");
    assert_eq!(line["client"].as_str().unwrap().split(':').next(), Some("127.0.0.1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_of_weight_zero_gets_no_new_connections() {
    let mut all = endpoints(&["one", "two"]).await;
    all[0].weight = 0;
    let scene = scene(&all).await;
    assert_eq!(answers(scene.port, 20).await, ["two"]);
    all[1].weight = 0;
    let before = scene.proxy.stat("cluster.web-tcp-80.update_success").await;
    scene.world.endpoints("web", &all);
    eventually("the update arrives", || async {
        (scene.proxy.stat("cluster.web-tcp-80.update_success").await > before).then_some(())
    })
    .await;
    assert_eq!(answers(scene.port, 5).await, [""]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_cluster_is_acknowledged_without_the_warming_timeout() {
    let all = endpoints(&["one"]).await;
    let scene = scene(&all).await;
    for (generation, policy) in
        [(2, LbPolicy::LeastRequest), (3, LbPolicy::Random), (4, LbPolicy::RoundRobin)]
    {
        let mut txn = scene.world.writer.write();
        txn.upsert_service(epic_lb::Service { lb_policy: policy, generation, ..service("web") });
        txn.commit();
        scene
            .site
            .report("the generation", |r| r.progress.configured.is_some_and(|c| c.generation == generation))
            .await;
        // Counts the assignments that Envoy has waited for in vain.
        assert_eq!(scene.proxy.stat("cluster.web-tcp-80.init_fetch_timeout").await, 0);
        assert_eq!(answers(scene.port, 3).await, ["one"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_policy_carries_traffic() {
    let all = endpoints(&["one", "two"]).await;
    let scene = scene(&all).await;
    for (generation, policy) in (2..).zip([
        LbPolicy::RoundRobin,
        LbPolicy::LeastRequest,
        LbPolicy::Random,
        LbPolicy::RingHash,
        LbPolicy::Maglev,
    ]) {
        let mut txn = scene.world.writer.write();
        txn.upsert_service(epic_lb::Service { lb_policy: policy, generation, ..service("web") });
        txn.commit();
        scene
            .site
            .report("the generation", |r| r.progress.configured.is_some_and(|c| c.generation == generation))
            .await;
        let names = answers(scene.port, 6).await;
        assert!(!names.contains(&String::new()), "{policy:?}: {names:?}");
    }
    // None of them has touched the listener, which would cut its connections after the drain time.
    for change in ["listener_modified", "listener_in_place_updated", "total_listeners_draining"] {
        assert_eq!(scene.proxy.stat(&format!("listener_manager.{change}")).await, 0, "{change}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_server_sends_nothing_and_traffic_goes_on() {
    let all = endpoints(&["one"]).await;
    let Scene { site, world: _world, server, proxy, port } = scene(&all).await;
    let sent_before = proxy.stat("cluster_manager.cds.update_success").await;
    let address = server.address;
    server.stop().await;
    assert_eq!(answers(port, 3).await, ["one"]);
    // Another process: nothing is remembered, the tables are read again.
    let fresh = Site {
        views: epic_xds::Views::new(),
        reports: epic_xds::Reports::new(),
        metrics: epic_xds::Metrics::default(),
        ..site
    };
    tokio::spawn(sync::run(_world.tables.clone(), fresh.views.clone()));
    let server = fresh.serve(Limits::default(), address.port()).await;
    let report = fresh
        .report("the proxy", |r| r.progress.configured.is_some() && !r.progress.endpoints.is_empty())
        .await;
    assert_eq!(&*report.node.pod, "pod-1");
    let mut registry = prometheus_client::registry::Registry::default();
    let text = metrics_text(&mut registry, &fresh);
    assert!(!text.contains("xds_resources_total{"), "something was sent:\n{text}");
    assert_eq!(proxy.stat("cluster_manager.cds.update_success").await, sent_before);
    assert_eq!(answers(port, 3).await, ["one"]);
    server.stop().await;
}

fn metrics_text(registry: &mut prometheus_client::registry::Registry, site: &Site) -> String {
    site.metrics.show(registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text
}

/// What the server would send, with one listener on a port that somebody else has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_listener_is_reported_and_the_others_carry_traffic() {
    let all = endpoints(&["one"]).await;
    let site = Site::new();
    let world = World::new();
    let (good, taken) = (free_port(10_400), free_port(10_400));
    let _holder = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, taken)).unwrap();
    let target = all[0].port;
    world.load_balancer(&service("web"), &[(80, good - 10_000, target), (81, taken - 10_000, target)]);
    world.endpoints("web", &all);
    tokio::spawn(sync::run(world.tables.clone(), site.views.clone()));
    let server = site.serve(Limits::default(), 0).await;
    let proxy = Proxy::start(&site, server.address, "web");
    let report = site
        .report("the rejection", |r| {
            r.progress.rejections.contains_key(&(Kind::Listener, "web-tcp-81".into()))
        })
        .await;
    assert_eq!(report.progress.rejections.len(), 1);
    assert_eq!(report.progress.configured, None);
    proxy.ready().await;
    assert_eq!(answers(good, 3).await, ["one"]);
    // When it changes it is tried again, and heals.
    let healed = free_port(10_400);
    let changed = epic_lb::Service { generation: 2, ..service("web") };
    world.load_balancer(&changed, &[(80, good - 10_000, target), (81, healed - 10_000, target)]);
    let report =
        site.report("generation 2", |r| r.progress.configured.is_some_and(|c| c.generation == 2)).await;
    assert!(report.progress.rejections.is_empty());
    assert_eq!(answers(healed, 3).await, ["one"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_cluster_of_a_hundred_leaves_ninety_nine_alive() {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use prost::Message;
    let all = endpoints(&["one"]).await;
    let scene = scene(&all).await;
    let view = scene.site.views.current(&identity("web")).unwrap();
    let cluster = view.of(Kind::Cluster).next().unwrap();
    let cluster = Cluster::decode(&cluster.body[..]).unwrap();
    let mut resources: Vec<Resource> =
        Kind::MAKE.into_iter().flat_map(|kind| view.of(kind)).map(|r| (**r).clone()).collect();
    for n in 0..100 {
        let mut cluster = cluster.clone();
        cluster.name = format!("c{n}");
        if n == 57 {
            // Refused by validation, and with it the whole response.
            cluster.lb_policy = 99;
        }
        resources.push(
            Resource::new(Kind::Cluster, format!("c{n}"), cluster.encode_to_vec()).needing(format!("c{n}")),
        );
        resources.push(Resource::new(Kind::Assignment, format!("c{n}"), assignment(&format!("c{n}"))));
    }
    scene.site.views.publish(&identity("web"), View::new(2, resources));
    let report = scene.site.report("the rejection", |r| !r.progress.rejections.is_empty()).await;
    let rejected: Vec<_> = report.progress.rejections.keys().map(|(_, name)| name.to_string()).collect();
    assert_eq!(rejected, ["c57"]);
    eventually("the others are there", || async {
        // With web-tcp-80, xds, admin and ops.
        (scene.proxy.stat("cluster_manager.active_clusters").await == 103).then_some(())
    })
    .await;
    assert_eq!(answers(scene.port, 3).await, ["one"]);
}

fn assignment(name: &str) -> Vec<u8> {
    use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
    use prost::Message;
    ClusterLoadAssignment { cluster_name: name.to_owned(), ..ClusterLoadAssignment::default() }
        .encode_to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchanged_client_certificate_is_used_by_the_next_connection() {
    let all = endpoints(&["one"]).await;
    let Scene { site, world: _world, server, proxy, port } = scene(&all).await;
    // From now on the server trusts only certificates of another authority; its own is still the old one.
    let next = pki::create_authority(SystemTime::now()).unwrap();
    let certificate = pki::issue_client(&next, &identity("web"), SystemTime::now()).unwrap();
    site.tls.replace(&credentials(&site.authority, &next.certificate)).unwrap();
    // New files, then a rename, in two steps: in between key and certificate do not fit.
    let folder = proxy.folder.path();
    for (name, content) in [("tls.crt", &certificate.certificate), ("tls.key", &certificate.key)] {
        std::fs::write(folder.join("next"), content).unwrap();
        std::fs::rename(folder.join("next"), folder.join("tls").join(name)).unwrap();
    }
    assert_eq!(answers(port, 3).await, ["one"]);
    let address = server.address;
    server.stop().await;
    let server = site.serve(Limits::default(), address.port()).await;
    site.report("the proxy again", |r| r.connected && r.progress.configured.is_some()).await;
    assert_eq!(answers(port, 3).await, ["one"]);
    server.stop().await;
}

#[tokio::test]
async fn the_bootstrap_and_all_resources_validate() {
    let site = Site::new();
    let folder = tempfile::tempdir().unwrap();
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 17)), 18_000);
    let bootstrap = bootstrap(folder.path(), address, "web", 9_901);
    write_files(folder.path(), &site, &bootstrap, "web");
    let mut child = Command::new(binary())
        .args(bootstrap.args())
        .args(["--mode", "validate"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
    for word in ["deprecated", "Deprecated", "Unknown field"] {
        assert!(!text.contains(word), "{text}");
    }
}

/// What a proxy's own listener answers.
async fn asked(proxy: &Proxy, path: &str, header: &str) -> String {
    let mut socket = TcpStream::connect(proxy.ops).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{header}connection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    let read = tokio::time::timeout(Duration::from_secs(60), socket.read_to_string(&mut text)).await;
    read.expect("an answer long before the end of its time").unwrap();
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_drains_may_end_when_no_connection_is_left_or_its_time_is_over() {
    // An endpoint that says nothing and never closes.
    let silent = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 11), 0)).await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let scene = scene(&[Ep::new("one", [127, 0, 0, 11], [10, 0, 0, 11], port)]).await;
    let client = TcpStream::connect((Ipv4Addr::LOCALHOST, scene.port)).await.unwrap();
    let (held, _) = silent.accept().await.unwrap();
    let begun = Instant::now();
    let answer = asked(&scene.proxy, "/drain?seconds=18", "").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(begun.elapsed() >= Duration::from_secs(18), "with a connection it takes all of its time");

    drop((client, held));
    let begun = Instant::now();
    let answer = asked(&scene.proxy, "/drain?seconds=3600", "").await;
    assert!(answer.contains("drained"), "{answer}");
    assert!(begun.elapsed() >= Duration::from_secs(15), "another node may not know yet");

    // Where it cannot tell, the request is held for as long as its header says.
    let begun = Instant::now();
    let answer = asked(&scene.proxy, "/drain?seconds=many", "x-envoy-fault-delay-request: 2000\r\n").await;
    // Envoy counts from the time at which it began with what its loop had to do.
    assert!(answer.starts_with("HTTP/1.1 200") && begun.elapsed() >= Duration::from_secs(1), "{answer}");
}
