//! What a ServiceGroup says to Envoy, tried on the pinned one: each feature does what the reference promises.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use epic_model::edge::{
    AccessLog, Check, ConnectionLimit, Edge, Limits, Listen, Passive, Probe, ProxyProtocol, RateLimit, Reach,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::envoy::{Scene, answer, answers, endpoints, eventually, scene_of};
use crate::harness::DEADLINE;
use crate::rows::{Ep, edged};

fn listen(listen: Listen) -> Edge {
    Edge { listen, ..Edge::default() }
}

fn reach(reach: Reach) -> Edge {
    Edge { reach, ..Edge::default() }
}

fn ep(name: &str, last: u8, port: u16) -> Ep {
    Ep::new(name, [127, 0, 0, last], [10, 0, 0, last], port)
}

/// An endpoint that answers with the first bytes it gets, or keeps still if none come.
async fn echo() -> Ep {
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 11), 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    ep("echo", 11, port)
}

async fn connect(scene: &Scene) -> TcpStream {
    TcpStream::connect((Ipv4Addr::LOCALHOST, scene.port)).await.unwrap()
}

/// A connection that has reached its endpoint.
async fn established(scene: &Scene) -> TcpStream {
    let mut socket = connect(scene).await;
    assert_eq!(asked(&mut socket, b"a").await.as_deref(), Some("a"), "the endpoint answers");
    socket
}

/// What comes back for these bytes: as many, or nothing when the connection is closed.
async fn asked(socket: &mut TcpStream, bytes: &[u8]) -> Option<String> {
    socket.write_all(bytes).await.ok()?;
    let mut back = vec![0; bytes.len()];
    let read = tokio::time::timeout(DEADLINE, socket.read_exact(&mut back)).await;
    read.expect("an answer or the end").ok()?;
    Some(String::from_utf8_lossy(&back).into_owned())
}

/// Waits for the end of a connection.
async fn closed(socket: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut rest)).await.expect("it is closed");
    assert!(rest.is_empty(), "{rest:?}");
}

async fn stat_is(scene: &Scene, name: &str, wanted: impl Fn(u64) -> bool) {
    eventually(name, || async { wanted(scene.proxy.stat(name).await).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_to_an_endpoint_takes_no_longer_than_the_group_says() {
    // An endpoint whose queue of connections is full: packets to it are answered by nothing.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, 11), 0).into()).unwrap();
    let deaf = socket.listen(1).unwrap();
    let address = deaf.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(Ok(one)) =
        tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
    {
        queued.push(one);
    }
    let edge = reach(Reach { connect: Duration::from_millis(100), ..Reach::default() });
    let scene = scene_of(&edged(edge), &[ep("deaf", 11, address.port())]).await;
    let begun = Instant::now();
    assert_eq!(answer(scene.port).await, None);
    let took = begun.elapsed();
    assert_eq!(scene.proxy.stat("cluster.web-tcp-80.upstream_cx_connect_timeout").await, 3, "three attempts");
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert!(took < Duration::from_secs(3), "{took:?} is more than three attempts of 100 ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_on_which_nothing_happens_ends_after_the_idle_time() {
    let edge = listen(Listen { idle: Some(Duration::from_secs(1)), ..Listen::default() });
    let scene = scene_of(&edged(edge), &[echo().await]).await;
    let mut socket = established(&scene).await;
    let begun = Instant::now();
    closed(&mut socket).await;
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    assert_eq!(scene.proxy.stat("tcp.web-tcp-80.idle_timeout").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_get_a_proxy_header_of_the_wanted_version() {
    let port = echo().await;
    let mut generation = 1;
    let scene = scene_of(&edged(Edge::default()), std::slice::from_ref(&port)).await;
    for (version, expected) in [
        (ProxyProtocol::V1, &b"PROXY TCP4 127.0.0.1 127.0.0.1 "[..]),
        (ProxyProtocol::V2, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01"),
    ] {
        generation += 1;
        let edge = reach(Reach { proxy_protocol: Some(version), ..Reach::default() });
        let mut txn = scene.world.writer.write();
        txn.upsert_service(epic_lb::Service { generation, ..edged(edge) });
        txn.commit();
        let what = "the generation";
        scene.site.report(what, |r| r.progress.configured.is_some_and(|c| c.generation == generation)).await;
        // The header comes back, since the endpoint echoes what it gets.
        let mut socket = connect(&scene).await;
        let mut header = vec![0; expected.len()];
        tokio::time::timeout(DEADLINE, socket.read_exact(&mut header)).await.expect("a header").unwrap();
        assert_eq!(header, expected, "{version:?}");
    }
    assert_eq!(
        scene.proxy.stat("listener_manager.listener_in_place_updated").await,
        0,
        "no connection was cut"
    );
}

const TRUSTED: [u8; 4] = [127, 0, 0, 21];
const STRANGER: [u8; 4] = [127, 0, 0, 22];
const CLAIM: &[u8] = b"PROXY TCP4 198.51.100.7 203.0.113.9 4711 443\r\n";

async fn connect_from(scene: &Scene, source: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    socket.connect((Ipv4Addr::LOCALHOST, scene.port).into()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_header_is_believed_from_trusted_networks_and_closes_the_door_to_all_others() {
    let edge = Edge {
        listen: Listen {
            trusted_networks: Some(vec!["127.0.0.21/32".parse().unwrap()]),
            ..Listen::default()
        },
        // The endpoint shows what it is told.
        reach: Reach { proxy_protocol: Some(ProxyProtocol::V1), ..Reach::default() },
    };
    let scene = scene_of(&edged(edge), &[echo().await]).await;
    let mut trusted = connect_from(&scene, TRUSTED).await;
    let mut back = vec![0; CLAIM.len() + 5];
    trusted.write_all(&[CLAIM, b"hello"].concat()).await.unwrap();
    tokio::time::timeout(DEADLINE, trusted.read_exact(&mut back)).await.expect("an answer").unwrap();
    assert_eq!(back, [CLAIM, b"hello"].concat(), "the client of the header, and what follows it");
    drop(trusted);
    eventually("the log names the client of the header", || async {
        scene.proxy.log().contains("\"client\":\"198.51.100.7:4711\"").then_some(())
    })
    .await;

    // The header of a stranger is worth nothing; neither is one that a trusted proxy forgot.
    for (source, bytes) in
        [(STRANGER, CLAIM), (STRANGER, b"GET / HTTP/1.1\r\n\r\n"), (TRUSTED, b"GET / HTTP/1.1\r\n\r\n")]
    {
        let mut socket = connect_from(&scene, source).await;
        let _ = socket.write_all(bytes).await;
        closed(&mut socket).await;
    }
    assert_eq!(
        scene.proxy.stat("cluster.web-tcp-80.upstream_cx_total").await,
        1,
        "none of them reached an endpoint"
    );
    let listener = format!("listener.0.0.0.0_{}.no_filter_chain_match", scene.port);
    assert_eq!(scene.proxy.stat(&listener).await, 1, "the stranger with a header");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_of_a_port_are_closed() {
    let limit = ConnectionLimit { value: 2, close_delay: Duration::ZERO };
    let edge = listen(Listen { connection_limit: Some(limit), ..Listen::default() });
    let scene = scene_of(&edged(edge), &[echo().await]).await;
    let (first, _second) = (established(&scene).await, established(&scene).await);
    closed(&mut connect(&scene).await).await;
    assert_eq!(scene.proxy.stat("connection_limit.web-tcp-80.limited_connections").await, 1);
    drop(first);
    stat_is(&scene, "connection_limit.web-tcp-80.active_connections", |active| active == 1).await;
    established(&scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_come_too_fast_are_closed() {
    let limit = RateLimit { per_second: 1, burst: 3 };
    let edge = listen(Listen { rate_limit: Some(limit), ..Listen::default() });
    let all = endpoints(&["one"]).await;
    let scene = scene_of(&edged(edge), &all).await;
    let begun = Instant::now();
    let mut served = 0;
    for _ in 0..10 {
        served += u64::from(answer(scene.port).await.is_some());
    }
    let most = 3 + begun.elapsed().as_secs() + 1;
    assert!((3..=most).contains(&served), "{served} of 10 in {:?}", begun.elapsed());
    assert_eq!(scene.proxy.stat("local_rate_limit.web-tcp-80.rate_limited").await, 10 - served);
    eventually("there is room again", || async { answer(scene.port).await }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn circuit_breakers_close_what_is_beyond_them() {
    let limits = Limits { connections: Some(2), ..Limits::default() };
    let edge = reach(Reach { limits, ..Reach::default() });
    let one = echo().await;
    let scene = scene_of(&edged(edge), std::slice::from_ref(&one)).await;
    let _two = (established(&scene).await, established(&scene).await);
    closed(&mut connect(&scene).await).await;
    assert!(scene.proxy.stat("cluster.web-tcp-80.upstream_cx_overflow").await >= 1);

    // Those beyond the limit of an endpoint wait for it, as many as may wait.
    let limits = Limits { pending: Some(1), connections_per_endpoint: Some(1), ..Limits::default() };
    let edge = reach(Reach { limits, ..Reach::default() });
    let scene = scene_of(&edged(edge), std::slice::from_ref(&one)).await;
    let first = established(&scene).await;
    let mut waits = connect(&scene).await;
    stat_is(&scene, "cluster.web-tcp-80.upstream_rq_pending_active", |waiting| waiting == 1).await;
    closed(&mut connect(&scene).await).await;
    drop(first);
    assert_eq!(asked(&mut waits, b"b").await.as_deref(), Some("b"), "it has its turn");
}

/// Lines of the access log that name a result.
fn logged(scene: &Scene) -> Vec<String> {
    scene.proxy.log().lines().filter(|line| line.contains("\"log\":\"access\"")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_holds_failures_alone_or_nothing_as_the_group_says() {
    let all = endpoints(&["one"]).await;
    let logging = |access_log| edged(listen(Listen { access_log, ..Listen::default() }));
    let scene = scene_of(&logging(AccessLog::Off), &all).await;
    assert_eq!(answers(scene.port, 3).await, ["one"]);

    let mut txn = scene.world.writer.write();
    txn.upsert_service(epic_lb::Service { generation: 2, ..logging(AccessLog::Sampled(0)) });
    txn.commit();
    scene.site.report("the filter", |r| r.progress.configured.is_some_and(|c| c.generation == 2)).await;
    assert_eq!(answers(scene.port, 3).await, ["one"]);
    scene.world.endpoints("web", &[]);
    scene.site.report("no endpoint", |r| r.progress.endpoints.is_empty()).await;
    assert_eq!(answers(scene.port, 2).await, [""]);
    // Lines are written in their order, so those of the connections before would be there too.
    eventually("the failures are logged", || async { (logged(&scene).len() >= 2).then_some(()) }).await;
    let lines = logged(&scene);
    assert!(lines.len() == 2 && lines.iter().all(|line| line.contains("\"flags\":\"UH\"")), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sample_of_the_good_connections_is_logged() {
    let edge = listen(Listen { access_log: AccessLog::Sampled(50), ..Listen::default() });
    let all = endpoints(&["one"]).await;
    let scene = scene_of(&edged(edge), &all).await;
    for _ in 0..200 {
        assert_eq!(answer(scene.port).await.as_deref(), Some("one"));
    }
    // 200 throws of a coin: fewer than 60 or more than 140 heads come once in a hundred million runs.
    eventually("some of them are logged", || async { (logged(&scene).len() >= 60).then_some(()) }).await;
    assert!(logged(&scene).len() <= 140, "{}", logged(&scene).len());
}

/// A check that decides after one answer, every second.
fn check(probe: Probe) -> Option<Check> {
    Some(Check {
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        unhealthy_threshold: 1,
        ..Check::new(probe)
    })
}

async fn healthy(scene: &Scene, count: u64) {
    stat_is(scene, "cluster.web-tcp-80.membership_healthy", |healthy| healthy == count).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tcp_check_takes_out_an_endpoint_that_accepts_no_connection_and_back_in() {
    let all = endpoints(&["one", "two"]).await;
    let address: SocketAddr = (Ipv4Addr::new(127, 0, 0, 13), all[0].port).into();
    let third = TcpListener::bind(address).await.unwrap();
    let edge = reach(Reach { check: check(Probe::Tcp), ..Reach::default() });
    let listed = [&all[..], &[ep("three", 13, address.port())]].concat();
    let scene = scene_of(&edged(edge), &listed).await;
    healthy(&scene, 3).await;
    drop(third);
    healthy(&scene, 2).await;
    assert_eq!(answers(scene.port, 20).await, ["one", "two"]);
    // One that leaves is gone at once, whatever its checks say.
    scene.world.endpoints("web", &listed[1..]);
    stat_is(&scene, "cluster.web-tcp-80.membership_total", |total| total == 2).await;
    let _back = TcpListener::bind(address).await.unwrap();
    healthy(&scene, 2).await;
}

/// An endpoint that answers every HTTP/1.1 request with this status.
async fn http(last: u8, port: u16, status: u16) -> Ep {
    answering(last, port, vec![status]).await
}

/// A web server that answers every request with the next of these statuses.
async fn answering(last: u8, port: u16, statuses: Vec<u16>) -> Ep {
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), port)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut next = statuses.into_iter().cycle();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let status = next.next().unwrap();
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let read = socket.read(&mut request).await.unwrap_or(0);
                // The host is the LoadBalancer's name, where the group gives none.
                let is_right = request[..read].starts_with(b"GET /ok HTTP/1.1\r\nhost: web\r\n");
                let status = if is_right { status } else { 500 };
                let text = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                socket.write_all(text.as_bytes()).await
            });
        }
    });
    ep(&format!("http-{last}"), last, port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_check_wants_one_of_the_listed_statuses() {
    let first = http(11, 0, 204).await;
    let all = [http(12, first.port, 200).await, http(13, first.port, 503).await, first];
    let probe = Probe::Http { path: "/ok".into(), host: None, statuses: vec![204, 503] };
    let scene = scene_of(&edged(reach(Reach { check: check(probe), ..Reach::default() })), &all).await;
    healthy(&scene, 2).await;
    assert!(scene.proxy.stat("cluster.web-tcp-80.health_check.failure").await >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_wrong_answer_of_a_web_server_takes_out_nothing_before_the_threshold() {
    let all = [answering(11, 0, vec![200, 500]).await];
    let probe = Probe::Http { path: "/ok".into(), host: None, statuses: vec![200] };
    let check = check(probe).map(|check| Check { unhealthy_threshold: 2, ..check });
    let scene = scene_of(&edged(reach(Reach { check, ..Reach::default() })), &all).await;
    healthy(&scene, 1).await;
    // Every second answer is wrong, and no two of them follow each other.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while scene.proxy.stat("cluster.web-tcp-80.health_check.failure").await < 3 {
        assert_eq!(scene.proxy.stat("cluster.web-tcp-80.membership_healthy").await, 1);
        assert!(tokio::time::Instant::now() < deadline, "three checks do not fail");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(scene.proxy.stat("cluster.web-tcp-80.membership_healthy").await, 1);
}

/// A server of the gRPC health protocol that says SERVING (1) or NOT_SERVING (2).
async fn grpc(last: u8, port: u16, status: u8) -> Ep {
    use http_body_util::StreamBody;
    use hyper::body::{Bytes, Frame, Incoming};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), port)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| async move {
                let status = if request.uri().path() == "/grpc.health.v1.Health/Check" { status } else { 0 };
                let message = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]);
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                let frames =
                    [Ok::<_, std::convert::Infallible>(Frame::data(message)), Ok(Frame::trailers(trailers))];
                let body = StreamBody::new(futures::stream::iter(frames));
                hyper::Response::builder().header("content-type", "application/grpc").body(body)
            });
            let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(served.serve_connection(TokioIo::new(socket), service));
        }
    });
    ep(&format!("grpc-{last}"), last, port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_check_wants_a_server_that_says_serving() {
    let first = grpc(11, 0, 1).await;
    let all = [grpc(12, first.port, 2).await, first];
    let probe = Probe::Grpc { service: String::new() };
    let scene = scene_of(&edged(reach(Reach { check: check(probe), ..Reach::default() })), &all).await;
    healthy(&scene, 1).await;
    stat_is(&scene, "cluster.web-tcp-80.health_check.success", |good| good >= 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_the_panic_threshold_all_endpoints_are_tried_and_with_zero_never() {
    // It takes connections and says its name, which no HTTP client calls an answer.
    let all = endpoints(&["one"]).await;
    let probe = || Probe::Http { path: "/".into(), host: None, statuses: vec![200] };
    let panicking =
        |panic_threshold| reach(Reach { panic_threshold, check: check(probe()), ..Reach::default() });
    let scene = scene_of(&edged(panicking(30)), &all).await;
    healthy(&scene, 0).await;
    assert_eq!(answers(scene.port, 5).await, ["one"]);
    assert!(scene.proxy.stat("cluster.web-tcp-80.lb_healthy_panic").await >= 5);

    let scene = scene_of(&edged(panicking(0)), &all).await;
    healthy(&scene, 0).await;
    assert_eq!(answers(scene.port, 5).await, [""]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passive_checks_eject_after_as_many_failures_as_the_group_says_and_none_at_zero_percent() {
    let ejected = "cluster.web-tcp-80.outlier_detection.ejections_enforced_total";
    for (max_ejection_percent, expected) in [(50, 1), (0, 0)] {
        let mut all = endpoints(&["one"]).await;
        all.push(ep("dead", 12, all[0].port));
        let passive =
            Passive { consecutive_failures: 1, base_ejection: Duration::from_secs(60), max_ejection_percent };
        let scene = scene_of(&edged(reach(Reach { passive, ..Reach::default() })), &all).await;
        assert_eq!(answers(scene.port, 10).await, ["one"]);
        assert_eq!(scene.proxy.stat(ejected).await, expected, "{max_ejection_percent} %");
        let failed = scene.proxy.stat("cluster.web-tcp-80.upstream_cx_connect_fail").await;
        assert!(if expected == 1 { failed == 1 } else { failed >= 5 }, "{failed} failed connects");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_told_which_endpoints_envoy_finds_unhealthy_and_when_they_are_well_again() {
    let all = endpoints(&["one"]).await;
    let address: SocketAddr = (Ipv4Addr::new(127, 0, 0, 12), all[0].port).into();
    let edge = reach(Reach { check: check(Probe::Tcp), ..Reach::default() });
    let scene = scene_of(&edged(edge), &[&all[..], &[ep("two", 12, address.port())]].concat()).await;
    let found = |wanted: Vec<SocketAddr>| {
        let findings = &scene.site.findings;
        eventually("the finding", move || {
            let row = findings.rows().into_iter().next();
            let wanted = wanted.clone();
            async move {
                let row = row?;
                assert_eq!((&*row.node.pod, &*row.identity.load_balancer), ("pod-1", "web"));
                row.unhealthy.iter().copied().eq(wanted).then_some(())
            }
        })
    };
    found(vec![address]).await;
    let _well = TcpListener::bind(address).await.unwrap();
    found(vec![]).await;
}
