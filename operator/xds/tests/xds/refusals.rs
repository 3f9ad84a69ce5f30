//! What the pinned Envoy refuses for a while, and what it says of itself.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use epic_xds::engine::Kind;
use epic_xds::{Limits, sync};

use crate::envoy::{Proxy, answers, endpoints, free_port};
use crate::harness::Site;
use crate::rows::{World, service};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_whose_port_somebody_had_is_served_within_ten_seconds_of_its_release() {
    let all = endpoints(&["one"]).await;
    let site = Site::new();
    let world = World::new();
    let (good, taken) = (free_port(10_400), free_port(10_400));
    let holder = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, taken)).unwrap();
    let target = all[0].port;
    world.load_balancer(&service("web"), &[(80, good - 10_000, target), (81, taken - 10_000, target)]);
    world.endpoints("web", &all);
    tokio::spawn(sync::run(world.tables.clone(), site.views.clone()));
    let server = site.serve(Limits::default(), 0).await;
    let proxy = Proxy::start(&site, server.address, "web");
    let refused = (Kind::Listener, "web-tcp-81".into());
    let report = site.report("the rejection", |r| r.progress.rejections.contains_key(&refused)).await;
    assert_eq!((&*report.software.name, report.software.version.is_empty()), ("envoy", false));
    assert!(report.software.extensions.contains("envoy.filters.network.tcp_proxy"));
    proxy.ready().await;
    drop(holder);
    let released = Instant::now();
    let healed = site.report("all of it", |r| r.progress.configured.is_some()).await;
    assert!(released.elapsed() < Duration::from_secs(10), "{:?}", released.elapsed());
    // What freed slots wait for: this generation, and nothing refused.
    assert!(healed.progress.rejections.is_empty());
    assert_eq!(answers(taken, 3).await, ["one"]);
    assert_eq!(answers(good, 3).await, ["one"]);
    assert_eq!(site.metric("xds_offers_total{kind=\"Listener\"}"), 1.0);
}
