//! The pinned Envoy's listener for probes and scrapes: what it shows, and what whoever reaches it can take.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use epic_xds::bootstrap::{Level, Sizes};
use epic_xds::{Limits, sync};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::envoy::{Proxy, Scene, answers, endpoints, eventually, free_port, scene};
use crate::harness::{DEADLINE, Running, Site};
use crate::rows::{Ep, World, service};

/// What GET says.
async fn get(proxy: &Proxy, path: &str) -> String {
    let mut socket = TcpStream::connect(proxy.ops).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(DEADLINE, socket.read_to_string(&mut text)).await.expect("an answer").unwrap();
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_proxy_s_memory_are_closed_and_the_scrape_says_so() {
    // A server that keeps what it gets.
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 11), 0)).await.unwrap();
    let all = [Ep::new("one", [127, 0, 0, 11], [10, 0, 0, 11], listener.local_addr().unwrap().port())];
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            if socket.write_all(b"x").await.is_ok() {
                kept.push(socket);
            }
        }
    });
    let sizes = Sizes { memory: 64 << 20, concurrency: 1 };
    let (_site, _world, _server, proxy, port) = sized(Level::Basic, sizes, &all).await;
    let mut open = Vec::new();
    let mut byte = [0];
    for n in 0..sizes.max_connections() {
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let read = tokio::time::timeout(DEADLINE, client.read_exact(&mut byte)).await.expect("an answer");
        read.unwrap_or_else(|error| panic!("connection {n} of {}: {error}", sizes.max_connections()));
        open.push(client);
    }
    let mut beyond = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let end = tokio::time::timeout(DEADLINE, beyond.read(&mut byte)).await.expect("it is closed at once");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    let text = get(&proxy, "/stats/prometheus").await;
    let counted = |name: &str| {
        text.lines()
            .any(|line| line.starts_with(name) && line.contains(&format!("_{port}")) && line.ends_with(" 1"))
    };
    assert!(counted("envoy_listener_downstream_global_cx_overflow{"), "{text}");
    assert!(text.contains("envoy_overload_"), "{text}");
    // It still says that it is ready, and serves those it has.
    proxy.ready().await;
}

/// A proxy that counts so much, with one port.
async fn counting(level: Level, all: &[Ep]) -> (Site, World, Running, Proxy, u16) {
    sized(level, Sizes { concurrency: 1, ..Sizes::default() }, all).await
}

/// The same, of this size.
pub(crate) async fn sized(level: Level, sizes: Sizes, all: &[Ep]) -> (Site, World, Running, Proxy, u16) {
    let (site, world, port) = (Site::new(), World::new(), free_port(10_400));
    world.load_balancer(&service("web"), &[(80, port - 10_000, all[0].port)]);
    world.endpoints("web", all);
    tokio::spawn(sync::run(world.tables.clone(), site.views.clone()));
    let server = site.serve(Limits::default(), 0).await;
    let proxy =
        Proxy::start_with(&site, server.address, "web", |bootstrap| bootstrap.counting(level).sized(sizes));
    site.report("the proxy configured", |r| r.progress.configured.is_some()).await;
    proxy.ready().await;
    (site, world, server, proxy, port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_of_a_basic_proxy_has_what_dashboards_need_and_little_else() {
    let mut all = endpoints(&["one"]).await;
    all.push(Ep::new("dead", [127, 0, 0, 12], [10, 0, 0, 12], all[0].port));
    let (_site, world, _server, proxy, port) = counting(Level::Basic, &all).await;
    assert_eq!(answers(port, 10).await, ["one"]);
    world.endpoints("web", &[]);
    eventually("nobody is there", || async { (answers(port, 1).await == [""]).then_some(()) }).await;
    // What a scraper asks for beside it changes nothing.
    for path in ["/stats/prometheus", "/stats/prometheus?usedonly", "/stats/prometheus?filter=.*&type=All"] {
        let text = get(&proxy, path).await;
        assert!(text.starts_with("HTTP/1.1 200"), "{path}: {text}");
        for name in [
            "envoy_cluster_membership_total{envoy_cluster_name=\"web-tcp-80\"} 0",
            "envoy_cluster_upstream_cx_total{",
            "envoy_cluster_upstream_cx_connect_fail{",
            "envoy_cluster_upstream_cx_none_healthy{",
            "envoy_cluster_outlier_detection_ejections_enforced_total{",
            "envoy_listener_downstream_cx_total{",
            "envoy_tcp_downstream_cx_total{",
            "envoy_server_live{} 1",
        ] {
            assert!(text.contains(name), "{path}: no {name} in\n{text}");
        }
        assert!(!text.contains("_endpoint_"), "{path}: one line for each endpoint is too many");
        let values = text.lines().filter(|line| !line.starts_with('#')).count();
        assert!(values < 300, "{values} values");
    }
    for path in ["/stats", "/config_dump", "/stats/prometheus/", "/quitquitquit"] {
        assert!(get(&proxy, path).await.starts_with("HTTP/1.1 404"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_of_a_full_proxy_has_all() {
    let all = endpoints(&["one"]).await;
    let Scene { proxy, port, .. } = &scene(&all).await;
    assert_eq!(answers(*port, 3).await, ["one"]);
    let (text, used) =
        (get(proxy, "/stats/prometheus").await, get(proxy, "/stats/prometheus?usedonly").await);
    assert!(text.contains("envoy_cluster_lb_healthy_panic{envoy_cluster_name=\"web-tcp-80\"} 0"), "{text}");
    assert!(text.contains("_endpoint_"), "{text}");
    assert!(used.len() < text.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reaches_the_ops_listener_can_hold_little_of_it() {
    let all = endpoints(&["one"]).await;
    let scene = scene(&all).await;
    let ops = scene.proxy.ops;
    // Who begins a request and does not go on is sent away.
    let begun = Instant::now();
    let mut slow = TcpStream::connect(ops).await.unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ").await.unwrap();
    let mut rest = String::new();
    tokio::time::timeout(DEADLINE, slow.read_to_string(&mut rest)).await.expect("it is closed").unwrap();
    assert!(rest.starts_with("HTTP/1.1 408"), "{rest}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    // So many connections and no more; nobody keeps them without asking for something.
    let mut silent = Vec::new();
    for _ in 0..128 {
        silent.push(TcpStream::connect(ops).await.unwrap());
    }
    eventually("there is no room", || async {
        (scene.proxy.stat("connection_limit.ops.active_connections").await == 128).then_some(())
    })
    .await;
    let mut one_more = TcpStream::connect(ops).await.unwrap();
    let mut byte = [0];
    let end = tokio::time::timeout(DEADLINE, one_more.read(&mut byte)).await.expect("it is closed at once");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    scene.proxy.ready().await;
    assert_eq!(answers(scene.port, 3).await, ["one"], "clients notice nothing");
}
