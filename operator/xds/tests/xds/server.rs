//! The server over real TLS on loopback.

use std::time::{Duration, SystemTime};

use epic_lb::LbPolicy;
use epic_xds::engine::{Kind, Resource, View};
use epic_xds::{Identity, Limits, pki, sync};
use tokio::io::AsyncReadExt;
use tonic::Code;

use crate::harness::{Client, DEADLINE, Site, channel, credentials, eventually, node, request, shown, tls};
use crate::rows::{Ep, UID, World, identity, service};

fn endpoint(n: u8) -> Ep {
    Ep::new(&format!("web-{n}"), [100, 127, 0, n], [192, 168, 10, n], 8080)
}

/// A world with LoadBalancer `web`, synced into the views of `site`.
fn world(site: &Site) -> World {
    let world = World::new();
    world.load_balancer(&service("web"), &[(80, 0, 8080)]);
    world.endpoints("web", &[endpoint(1)]);
    tokio::spawn(sync::run(world.tables.clone(), site.views.clone()));
    world
}

async fn open(site: &Site, address: std::net::SocketAddr, load_balancer: &str) -> Client {
    let certificate = site.client_certificate(&identity(load_balancer));
    let channel = channel(address, &site.authority.certificate, Some(&certificate)).await.unwrap();
    Client::open(channel, node("epic-red/pod-1", &format!("epic-red/{load_balancer}"))).await.unwrap()
}

async fn configure(client: &mut Client) {
    client.ask(Kind::Cluster, &[]).await;
    assert_eq!(client.take().await, "cluster +web-tcp-80");
    client.ask(Kind::Assignment, &["web-tcp-80"]).await;
    assert_eq!(client.take().await, "assignment +web-tcp-80");
    client.ask(Kind::Listener, &[]).await;
    assert_eq!(client.take().await, "listener +web-tcp-80");
}

#[tokio::test]
async fn a_proxy_is_configured_and_reported() {
    let site = Site::new();
    let world = world(&site);
    let server = site.serve(Limits::default(), 0).await;
    let mut client = open(&site, server.address, "web").await;
    configure(&mut client).await;
    let report = site.report("generation 1", |r| r.progress.configured.is_some()).await;
    assert_eq!(report.identity, identity("web"));
    assert_eq!(&*report.node.pod, "pod-1");
    assert_eq!(report.progress.configured.map(|r| r.generation), Some(1));
    site.report("the endpoint", |r| r.progress.endpoints.iter().any(|e| &*e.object == "epic-red/web-1"))
        .await;
    world.policy("web", LbPolicy::Maglev);
    assert_eq!(client.take().await, "cluster +web-tcp-80");
    assert_eq!(client.take().await, "assignment +web-tcp-80");
    site.report("generation 2", |r| r.progress.configured.is_some_and(|r| r.generation == 2)).await;
    let end = site.report("the end", |r| !r.connected);
    let ((), end) = tokio::join!(server.stop(), end);
    assert_eq!(end.stream, report.stream);
}

#[tokio::test]
async fn nothing_is_served_before_the_tables_are_initialized() {
    let site = Site::new();
    let world = World::new();
    let initializer = world.writer.register_initializer("load-balancers");
    tokio::spawn(sync::run(world.tables.clone(), site.views.clone()));
    world.load_balancer(&service("web"), &[(80, 0, 8080)]);
    let server = site.serve(Limits::default(), 0).await;
    let mut client = open(&site, server.address, "web").await;
    client.ask(Kind::Cluster, &[]).await;
    client.ask(Kind::Assignment, &["web-tcp-80", "ghost"]).await;
    site.report("the stream", |r| r.connected).await;
    let quiet = tokio::time::timeout(Duration::from_millis(100), client.responses.message()).await;
    assert!(quiet.is_err(), "served too early: {quiet:?}");
    let mut txn = world.writer.write();
    txn.complete(&initializer);
    txn.commit();
    assert_eq!(client.take().await, "cluster +web-tcp-80");
    assert_eq!(client.take().await, "assignment +web-tcp-80");
    assert_eq!(client.take().await, "assignment -ghost");
}

#[tokio::test]
async fn a_proxy_sees_its_own_load_balancer_and_nothing_of_others() {
    let site = Site::new();
    let world = world(&site);
    world.load_balancer(&service("other"), &[(80, 0, 8080)]);
    let server = site.serve(Limits::default(), 0).await;
    let mut client = open(&site, server.address, "web").await;
    configure(&mut client).await;
    // Asked for by name, what is somebody else's is missing like what does not exist.
    client.ask(Kind::Assignment, &["other-tcp-80", "ghost"]).await;
    assert_eq!(client.take().await, "assignment -ghost -other-tcp-80");
    world.endpoints("other", &[endpoint(9)]);
    client.expect_nothing().await;
}

#[tokio::test]
async fn a_recreated_load_balancer_is_another_identity() {
    let site = Site::new();
    let _world = world(&site);
    let server = site.serve(Limits::default(), 0).await;
    let old = Identity::new("epic-red", "web", "00000000-0000-0000-0000-000000000000");
    let certificate = site.client_certificate(&old);
    let channel = channel(server.address, &site.authority.certificate, Some(&certificate)).await.unwrap();
    let mut client = Client::open(channel, node("epic-red/pod-1", "epic-red/web")).await.unwrap();
    client.ask(Kind::Cluster, &[]).await;
    site.report("the stream", |r| r.identity == old).await;
    let quiet = tokio::time::timeout(Duration::from_millis(100), client.responses.message()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

#[tokio::test]
async fn a_node_that_does_not_agree_with_its_certificate_is_refused() {
    let site = Site::new();
    let _world = world(&site);
    let server = site.serve(Limits::default(), 0).await;
    let certificate = site.client_certificate(&identity("web"));
    let channel = channel(server.address, &site.authority.certificate, Some(&certificate)).await.unwrap();
    for (id, cluster) in [
        ("epic-blue/pod-1", "epic-red/web"),
        ("epic-red/pod-1", "epic-red/other"),
        ("", ""),
        ("pod-1", "web"),
    ] {
        let mut client = Client::open(channel.clone(), node(id, cluster)).await.unwrap();
        client.ask(Kind::Cluster, &[]).await;
        assert_eq!(client.read().await.unwrap_err().code(), Code::PermissionDenied, "{id} {cluster}");
    }
    assert!(site.reports.rows().is_empty());
}

#[tokio::test]
async fn a_bad_request_ends_its_own_stream_and_no_other() {
    let site = Site::new();
    let world = world(&site);
    let server = site.serve(Limits::default(), 0).await;
    let certificate = site.client_certificate(&identity("web"));
    let channel = channel(server.address, &site.authority.certificate, Some(&certificate)).await.unwrap();
    let us = || node("epic-red/pod-1", "epic-red/web");
    let mut good = Client::open(channel.clone(), us()).await.unwrap();
    configure(&mut good).await;

    let mut without_node = Client::open(channel.clone(), us()).await.unwrap();
    without_node.send(request(Kind::Cluster, &[])).await;
    without_node.take().await;
    without_node.ask(Kind::Assignment, &[&"x".repeat(2_000)]).await;
    assert_eq!(without_node.read().await.unwrap_err().code(), Code::InvalidArgument);

    world.endpoints("web", &[endpoint(1), endpoint(2)]);
    assert_eq!(good.take().await, "assignment +web-tcp-80");
}

#[tokio::test]
async fn a_type_that_is_not_served_is_counted_and_ends_nothing() {
    let site = Site::new();
    let _world = world(&site);
    let server = site.serve(Limits::default(), 0).await;
    let mut client = open(&site, server.address, "web").await;
    configure(&mut client).await;
    let mut routes = request(Kind::Cluster, &["a"]);
    routes.type_url = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration".into();
    client.send(routes.clone()).await;
    client.send(routes).await;
    client.expect_nothing().await;
    assert_eq!(site.metric("xds_unknown_types_total"), 2.0);
}

#[tokio::test]
async fn silent_connections_from_one_address_keep_nobody_else_out() {
    let site = Site::new();
    let _world = world(&site);
    let server = site.serve(Limits::default(), 0).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        silent.push(socket.connect(server.address).await.unwrap());
    }
    let busy = || site.metric("xds_ended_total{reason=\"Busy\"}");
    eventually("the others are turned away", || busy() >= 292.0).await;
    let start = tokio::time::Instant::now();
    let mut client = open(&site, server.address, "web").await;
    configure(&mut client).await;
    assert!(start.elapsed() < Duration::from_secs(10), "not after the silent ones timed out");
    assert_eq!(busy(), 292.0, "eight of one address may try, and the proxy is not turned away");
}

#[tokio::test]
async fn a_connection_without_a_stream_is_ended_and_leaves_its_place() {
    let site = Site::new();
    let _world = world(&site);
    let limits =
        Limits { idle_timeout: Duration::from_millis(200), max_identity_connections: 1, ..Limits::default() };
    let server = site.serve(limits, 0).await;
    let certificate = site.client_certificate(&identity("web"));
    // It shakes hands and says nothing, not even that it speaks HTTP/2.
    let mut silent = tls(server.address, &site.authority.certificate, &certificate).await;
    let mut text = Vec::new();
    let end = tokio::time::timeout(DEADLINE, silent.read_to_end(&mut text)).await;
    assert!(end.is_ok(), "the connection ends");
    let room = async { while answered(&site, server.address, "web").await.is_none() {} };
    tokio::time::timeout(DEADLINE, room).await.expect("there is room again");
    assert_eq!(site.metric("xds_ended_total{reason=\"Idle\"}"), 1.0);
    // One with a stream stays, however quiet it is.
    let mut client = open(&site, server.address, "web").await;
    configure(&mut client).await;
    let age = tokio::time::timeout(Duration::from_millis(600), client.responses.message()).await;
    assert!(age.is_err(), "{age:?}");
    client.expect_nothing().await;
}

#[tokio::test]
async fn a_stream_that_the_server_ends_has_been_sent_the_assignment_behind_its_cluster() {
    let site = Site::new();
    let server = site.serve(Limits::default(), 0).await;
    // Large enough that the transport takes one and then no more.
    let publish = |cluster: u8, assignment: u8| {
        let name = "web-tcp-80";
        let resources = [
            Resource::new(Kind::Cluster, name, vec![cluster; 1 << 17]).needing(name),
            Resource::new(Kind::Assignment, name, vec![assignment; 1 << 17]),
        ];
        site.views.publish(&identity("web"), View::new(1, resources));
    };
    publish(1, 1);
    let mut client = open(&site, server.address, "web").await;
    client.ask(Kind::Cluster, &[]).await;
    assert_eq!(client.take().await, "cluster +web-tcp-80");
    client.ask(Kind::Assignment, &["web-tcp-80"]).await;
    assert_eq!(client.take().await, "assignment +web-tcp-80");
    // One response is on its way, one waits in the channel, and the cluster with its assignment behind them.
    let sent = || site.metric("xds_responses_total{kind=\"Assignment\"}");
    for n in 2..=3 {
        publish(1, n);
        eventually("an assignment is under way", || sent() >= f64::from(n)).await;
    }
    publish(2, 3);
    let read = async {
        let mut all = Vec::new();
        while let Ok(Some(response)) = client.read().await {
            all.push(shown(&response));
        }
        all
    };
    let ((), read) = tokio::join!(server.stop(), read);
    let [.., cluster, assignment] = &read[..] else { panic!("{read:?}") };
    assert_eq!([cluster, assignment], ["cluster +web-tcp-80", "assignment +web-tcp-80"], "{read:?}");
}

#[tokio::test]
async fn first_responses_go_out_in_turn_and_a_client_that_has_them_waits_for_nobody() {
    let site = Site::new();
    let world = world(&site);
    let limits = Limits { first_responses_per_second: 5, max_source_handshakes: 64, ..Limits::default() };
    let server = site.serve(limits, 0).await;
    let mut early = open(&site, server.address, "web").await;
    configure(&mut early).await;
    let start = tokio::time::Instant::now();
    let crowd = (0..10).map(|_| async {
        let mut client = open(&site, server.address, "web").await;
        client.ask(Kind::Cluster, &[]).await;
        assert_eq!(client.take().await, "cluster +web-tcp-80");
    });
    let crowd = futures::future::join_all(crowd);
    let update = async {
        eventually("somebody waits", || site.metric("xds_waiting_streams") >= 1.0).await;
        world.endpoints("web", &[endpoint(1), endpoint(2)]);
        assert_eq!(early.take().await, "assignment +web-tcp-80");
        // One that comes back to what it has gets no response and takes no turn.
        let view = site.views.current(&identity("web")).unwrap();
        let mut again = open(&site, server.address, "web").await;
        for kind in [Kind::Cluster, Kind::Listener] {
            let mut first = request(kind, &[]);
            let versions = view.of(kind).map(|r| (r.name.to_string(), r.version.to_string()));
            first.initial_resource_versions = versions.collect();
            again.send(first).await;
        }
        site.report("the one that came back", |r| r.progress.configured.is_some()).await;
    };
    let (_, ()) = tokio::join!(crowd, update);
    // Five at once, then one each 200 ms.
    assert!(start.elapsed() > Duration::from_millis(800), "{:?}", start.elapsed());
    assert_eq!(site.metric("xds_waiting_streams"), 0.0);
}

#[tokio::test]
async fn a_proxy_that_keeps_old_endpoints_by_not_answering_pays_for_them_with_its_share() {
    let site = Site::new();
    let world = world(&site);
    let limits = Limits { max_identity_bytes: 64 << 10, ..Limits::default() };
    let server = site.serve(limits, 0).await;
    let mut client = open(&site, server.address, "web").await;
    configure(&mut client).await;
    let many = |round: u8| -> Vec<Ep> {
        (0..200)
            .map(|n| Ep::new(&format!("e{round}-{n}"), [100, 127, round, n], [10, 0, round, n], 8080))
            .collect()
    };
    for round in 1..=60 {
        world.endpoints("web", &many(round));
        match client.read().await {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                return;
            }
        }
    }
    panic!("it keeps more than its share");
}

#[tokio::test]
async fn what_a_proxy_says_of_its_version_is_kept_with_its_stream_and_counted() {
    use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
    let site = Site::new();
    let _world = world(&site);
    let server = site.serve(Limits::default(), 0).await;
    let certificate = site.client_certificate(&identity("web"));
    let channel = channel(server.address, &site.authority.certificate, Some(&certificate)).await.unwrap();
    let mut us = node("epic-red/pod-1", "epic-red/web");
    us.user_agent_name = "envoy".into();
    us.user_agent_version_type = Some(UserAgentVersionType::UserAgentVersion("1.39.1".into()));
    let mut client = Client::open(channel, us).await.unwrap();
    client.ask(Kind::Cluster, &[]).await;
    client.take().await;
    assert_eq!(site.reports.rows()[0].software.to_string(), "envoy 1.39.1");
    assert_eq!(site.metric("xds_proxies{version=\"1.39.1\"}"), 1.0);
    drop(client);
    eventually("it is counted no more", || site.metric("xds_proxies{version=\"1.39.1\"}") == 0.0).await;
}

#[tokio::test]
async fn certificates_of_others_get_no_stream() {
    let site = Site::new();
    let _world = world(&site);
    let server = site.serve(Limits::default(), 0).await;
    let stranger = pki::create_authority(SystemTime::now()).unwrap();
    let forged = pki::issue_client(&stranger, &identity("web"), SystemTime::now()).unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(48 * 3600);
    let expired = pki::issue_client(&site.authority, &identity("web"), long_ago).unwrap();
    let no_identity = pki::issue_server(&site.authority, SystemTime::now()).unwrap();
    for certificate in [None, Some(&forged), Some(&expired), Some(&no_identity)] {
        // With TLS 1.3 the client learns of it only when it uses the connection.
        let refused = match channel(server.address, &site.authority.certificate, certificate).await {
            Err(_) => true,
            Ok(channel) => match Client::open(channel, node("epic-red/pod-1", "epic-red/web")).await {
                Err(_) => true,
                Ok(mut client) => {
                    client.ask(Kind::Cluster, &[]).await;
                    client.read().await.is_err()
                }
            },
        };
        assert!(refused);
    }
    assert!(site.reports.rows().is_empty());
}

#[tokio::test]
async fn certificates_are_exchanged_while_serving() {
    let site = Site::new();
    let _world = world(&site);
    let server = site.serve(Limits::default(), 0).await;
    let mut before = open(&site, server.address, "web").await;
    configure(&mut before).await;
    // A new authority: trusted beside the old one, then it signs the server's certificate too.
    let next = pki::create_authority(SystemTime::now()).unwrap();
    let both = pki::bundle([site.authority.certificate.as_str(), next.certificate.as_str()]);
    site.tls.replace(&credentials(&next, &both)).unwrap();
    let certificate = pki::issue_client(&next, &identity("web"), SystemTime::now()).unwrap();
    let channel = channel(server.address, &next.certificate, Some(&certificate)).await.unwrap();
    let mut after = Client::open(channel, node("epic-red/pod-2", "epic-red/web")).await.unwrap();
    configure(&mut after).await;
    before.expect_nothing().await;
    // What cannot be used leaves what is there.
    let mut broken = credentials(&next, &both);
    broken.key = credentials(&site.authority, &both).key;
    assert!(site.tls.replace(&broken).is_err());
    let certificate = site.client_certificate(&identity("web"));
    let channel = crate::harness::channel(server.address, &both, Some(&certificate)).await.unwrap();
    let mut still = Client::open(channel, node("epic-red/pod-3", "epic-red/web")).await.unwrap();
    configure(&mut still).await;
}

#[tokio::test]
async fn a_connection_ends_by_its_age_and_the_client_comes_back_to_nothing_new() {
    let site = Site::new();
    let _world = world(&site);
    let limits = Limits { max_connection_age: Duration::from_millis(300), ..Limits::default() };
    let server = site.serve(limits, 0).await;
    let mut client = open(&site, server.address, "web").await;
    configure(&mut client).await;
    assert!(matches!(client.read().await, Ok(None) | Err(_)), "the stream ends");
    let mut again = open(&site, server.address, "web").await;
    for kind in [Kind::Cluster, Kind::Listener] {
        let view = site.views.current(&identity("web")).unwrap();
        let mut first = request(kind, &[]);
        let versions = view.of(kind).map(|r| (r.name.to_string(), r.version.to_string()));
        first.initial_resource_versions = versions.collect();
        again.send(first).await;
    }
    again.expect_nothing().await;
}

#[tokio::test]
async fn a_connection_does_not_outlive_its_certificate() {
    let site = Site::new();
    let _world = world(&site);
    let server = site.serve(Limits::default(), 0).await;
    // Two seconds are left of this one.
    let then = SystemTime::now() - pki::LEAF_LIFETIME + Duration::from_secs(2);
    let certificate = pki::issue_client(&site.authority, &identity("web"), then).unwrap();
    let channel = channel(server.address, &site.authority.certificate, Some(&certificate)).await.unwrap();
    let mut client = Client::open(channel, node("epic-red/pod-1", "epic-red/web")).await.unwrap();
    configure(&mut client).await;
    assert!(matches!(client.read().await, Ok(None) | Err(_)), "the stream ends");
}

#[tokio::test]
async fn a_client_that_does_not_read_gets_the_latest_when_it_does_and_delays_nobody() {
    let site = Site::new();
    let world = world(&site);
    let server = site.serve(Limits::default(), 0).await;
    let mut slow = open(&site, server.address, "web").await;
    configure(&mut slow).await;
    let mut quick = open(&site, server.address, "web").await;
    configure(&mut quick).await;
    let many = |round: u8| -> Vec<Ep> {
        (0..200)
            .map(|n| Ep::new(&format!("e{round}-{n}"), [100, 127, round, n], [10, 0, round, n], 8080))
            .collect()
    };
    for round in 1..=200 {
        world.endpoints("web", &many(round));
        assert_eq!(quick.take().await, "assignment +web-tcp-80");
    }
    let last = site.views.current(&identity("web")).unwrap();
    let last = last.get(Kind::Assignment, "web-tcp-80").unwrap().version.to_string();
    let mut read = 0;
    let newest = async {
        loop {
            let response = slow.responses.message().await.unwrap().unwrap();
            read += 1;
            if response.resources[0].version == last {
                break;
            }
            let mut answer = request(Kind::Assignment, &[]);
            answer.response_nonce = response.nonce;
            slow.send(answer).await;
        }
    };
    tokio::time::timeout(DEADLINE, newest).await.expect("the latest arrives");
    assert!(read < 100, "{read} of 200 were kept for a client that did not read");
}

#[tokio::test]
async fn a_hundred_thousand_names_at_reconnect_fit_into_a_request() {
    let site = Site::new();
    let _world = world(&site);
    let server = site.serve(Limits::default(), 0).await;
    let mut client = open(&site, server.address, "web").await;
    let mut first = request(Kind::Cluster, &[]);
    first.initial_resource_versions = (0..100_000)
        .map(|n| (format!("a-cluster-with-a-name-of-usual-length-{n}"), "0123456789abcdef".to_owned()))
        .collect();
    client.send(first).await;
    assert_eq!(client.take().await, "cluster +web-tcp-80");
    let gone = client.read().await.unwrap().unwrap();
    assert_eq!(gone.removed_resources.len(), 100_000);
}

/// A client on a connection of its own, once it was answered; nothing if the server closed the connection.
async fn answered(site: &Site, address: std::net::SocketAddr, load_balancer: &str) -> Option<Client> {
    let certificate = site.client_certificate(&identity(load_balancer));
    let channel = channel(address, &site.authority.certificate, Some(&certificate)).await.ok()?;
    let us = node("epic-red/pod-1", &format!("epic-red/{load_balancer}"));
    let mut client = Client::open(channel, us).await.ok()?;
    client.ask(Kind::Cluster, &[]).await;
    client.read().await.ok()??;
    Some(client)
}

#[tokio::test]
async fn a_load_balancer_has_so_many_connections_and_one_that_ends_makes_room() {
    let site = Site::new();
    let world = world(&site);
    world.load_balancer(&service("other"), &[(80, 0, 8080)]);
    let limits = Limits { max_identity_connections: 2, ..Limits::default() };
    let server = site.serve(limits, 0).await;
    let first = answered(&site, server.address, "web").await.expect("the first has room");
    let _second = answered(&site, server.address, "web").await.expect("the second has room");
    assert!(answered(&site, server.address, "web").await.is_none(), "the third is refused");
    assert!(answered(&site, server.address, "other").await.is_some(), "others are not concerned");
    drop(first);
    let room = async { while answered(&site, server.address, "web").await.is_none() {} };
    tokio::time::timeout(DEADLINE, room).await.expect("an end makes room");
}

#[tokio::test]
async fn the_names_of_a_load_balancer_s_proxies_take_so_much_memory_together() {
    let site = Site::new();
    let world = world(&site);
    world.load_balancer(&service("other"), &[(80, 0, 8080)]);
    let limits = Limits { max_identity_bytes: 1 << 20, ..Limits::default() };
    let server = site.serve(limits, 0).await;
    let names = |n: usize| {
        let mut request = request(Kind::Assignment, &[]);
        request.resource_names_subscribe = (0..n).map(|n| format!("{n:0200}")).collect();
        request
    };
    // What is kept counts.
    let mut one = answered(&site, server.address, "web").await.unwrap();
    let mut two = answered(&site, server.address, "web").await.unwrap();
    one.send(names(2_000)).await;
    assert_eq!(one.read().await.unwrap().unwrap().removed_resources.len(), 2_000);
    two.send(names(2_000)).await;
    assert_eq!(two.read().await.unwrap_err().code(), Code::ResourceExhausted);
    let mut other = answered(&site, server.address, "other").await.unwrap();
    other.send(names(2_000)).await;
    assert_eq!(other.read().await.unwrap().unwrap().removed_resources.len(), 2_000);
    // What is not complete yet does, too.
    let mut three = answered(&site, server.address, "other").await.unwrap();
    three.send(names(10_000)).await;
    assert_eq!(three.read().await.unwrap_err().code(), Code::ResourceExhausted);
    // What ended counts no more.
    drop(one);
    let room = async {
        loop {
            let mut again = answered(&site, server.address, "web").await.unwrap();
            again.send(names(2_000)).await;
            if again.read().await.is_ok() {
                break;
            }
        }
    };
    tokio::time::timeout(DEADLINE, room).await.expect("an end makes room");
}

#[tokio::test]
async fn the_other_variant_is_refused_with_a_reason() {
    use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
    let site = Site::new();
    let server = site.serve(Limits::default(), 0).await;
    let certificate = site.client_certificate(&Identity::new("epic-red", "web", UID));
    let channel = channel(server.address, &site.authority.certificate, Some(&certificate)).await.unwrap();
    let refused = AggregatedDiscoveryServiceClient::new(channel)
        .stream_aggregated_resources(tokio_stream::pending())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("DELTA_GRPC"));
}
