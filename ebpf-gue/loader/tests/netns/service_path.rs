//! From the internet to an endpoint and back: VIP, proxy here or there, alias, tunnel.

use std::collections::BTreeSet;
use std::net::IpAddr;

use epic_abi::drop::DropReason;
use epic_abi::stats::Event;

use crate::support::lab::{INTERNET, NIC};
use crate::support::program::{Epic, Tenant, all_drops, drops, proxy_address};
use crate::support::scene::{Plan, Scene};
use crate::support::traffic::{Conversation, Dialling, request, requests};

fn state(epic: &Epic) -> String {
    let of = |datapath| format!("{:?}", all_drops(datapath));
    format!(
        "drops: nodes {:?}, clients {:?}",
        epic.nodes.iter().map(of).collect::<Vec<_>>(),
        epic.clients.iter().map(of).collect::<Vec<_>>()
    )
}

fn ask_one(epic: &Epic, tenant: &Tenant) -> crate::support::traffic::Answer {
    request(&epic.site.internet, tenant.public(), 10, 1000)
        .unwrap_or_else(|error| panic!("a request to the VIP: {error}; {}", state(epic)))
}

#[test]
fn a_request_to_the_vip_reaches_the_endpoint_through_a_local_proxy() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    let answer = ask_one(&epic, &scene.tenant);
    assert_eq!(answer.name, "1e1");
    assert_eq!(answer.peer.ip(), IpAddr::V4(proxy_address(1)), "the endpoint sees the proxy's own address");
    assert_eq!(all_drops(&epic.nodes[0]), []);
    assert_eq!(all_drops(&epic.clients[0]), []);
}

#[test]
fn only_the_owner_of_a_vip_answers_who_has_it() {
    let mut epic = Epic::new();
    let mut plan = Plan::simple();
    plan.owner = 1;
    let scene = Scene::start(&mut epic, &plan);
    ask_one(&epic, &scene.tenant);
    let answered = |n: usize| epic.nodes[n].maps().event_counts().unwrap()[&Event::ArpAnswered];
    assert_eq!(answered(0), 0);
    assert!(answered(1) > 0);
    let known = epic.site.internet.ip(&format!("neigh show {}", scene.tenant.vip));
    let [a, b, c, d, e, f] = epic.site.nodes[1].mac(NIC);
    assert!(known.contains(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")), "{known}");
}

#[test]
fn a_request_reaches_a_proxy_on_another_node_and_its_reply_leaves_from_there() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple().with_proxies(&[(3, 1, 9)]));
    let answer = ask_one(&epic, &scene.tenant);
    assert_eq!((answer.name.as_str(), answer.peer.ip()), ("1e1", IpAddr::V4(proxy_address(3))));
    let events = |n: usize| epic.nodes[n].maps().event_counts().unwrap();
    assert!(events(0)[&Event::VipToNode] > 0, "node 0 sends on");
    assert_eq!(events(0)[&Event::Reply], 0, "and sees no reply");
    assert!(events(1)[&Event::FromNode] > 0 && events(1)[&Event::Reply] > 0, "node 1 answers the internet");
}

#[test]
fn an_endpoint_behind_a_nat_is_reached_and_replies_by_the_same_ports() {
    let mut epic = Epic::new();
    let plan =
        Plan::simple().with_proxies(&[(1, 0, 7), (3, 1, 9)]).with_endpoints(&[(1, 1, [10, 244, 1, 5])]);
    let scene = Scene::start(&mut epic, &plan);
    for answer in requests(&epic.site.internet, scene.tenant.public(), 20, 4, 5_000) {
        let answer = answer.unwrap_or_else(|error| panic!("{error}; {}", state(&epic)));
        assert_eq!(answer.name, "1e1");
    }
}

#[test]
fn two_hundred_connections_at_once_are_spread_over_proxies_and_endpoints_and_all_answered() {
    let mut epic = Epic::new();
    let plan = Plan::simple()
        .with_proxies(&[(1, 0, 7), (2, 0, 8), (3, 1, 9)])
        .with_endpoints(&[(1, 0, [10, 244, 1, 5]), (2, 1, [10, 244, 1, 5])]);
    let scene = Scene::start(&mut epic, &plan);
    let answers = requests(&epic.site.internet, scene.tenant.public(), 200, 40, 100_000);
    let failed: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} of 200 failed, first {}; {}", failed.len(), failed[0], state(&epic));
    let names: BTreeSet<_> = answers.iter().flatten().map(|answer| answer.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["1e1", "1e2"]));
    for (proxy, server) in scene.tenant.proxies.iter().zip(&scene.forwarders) {
        assert!(server.accepted() > 20, "proxy {} got {} of 200", proxy.id, server.accepted());
    }
}

#[test]
fn equal_source_ports_of_three_proxies_to_one_endpoint_do_not_collide() {
    let mut epic = Epic::new();
    let plan = Plan::simple().with_proxies(&[(1, 0, 7), (2, 0, 8), (3, 1, 9)]);
    let scene = Scene::start_dialling(&mut epic, &plan, Dialling { source_port: 41_000 });
    // Conversations stay open until all three stand, so all three ports are in use at once.
    let mut open = Vec::new();
    for proxy in &scene.tenant.proxies {
        for n in 0..epic.nodes.len() {
            epic.choose(&scene.tenant, n, &[proxy.id]);
        }
        open.push(Conversation::open(&epic.site.internet, scene.tenant.public()).unwrap());
    }
    let mut peers = BTreeSet::new();
    for conversation in open {
        let answer =
            conversation.finish(10, 2_000).unwrap_or_else(|error| panic!("{error}; {}", state(&epic)));
        assert_eq!(answer.peer.port(), 41_000);
        peers.insert(answer.peer.ip());
    }
    assert_eq!(peers, [1, 2, 3].map(|id| IpAddr::V4(proxy_address(id))).into());
}

#[test]
fn the_proxy_sees_the_real_client_and_a_flow_stays_with_its_proxy() {
    let mut epic = Epic::new();
    let plan = Plan::simple().with_proxies(&[(1, 0, 7), (3, 1, 9)]);
    let scene = Scene::start(&mut epic, &plan);
    for n in 0..2 {
        epic.choose(&scene.tenant, n, &[3]);
    }
    let conversation = Conversation::open(&epic.site.internet, scene.tenant.public()).unwrap();
    // Proxy 3 takes no new flows any more; the one that stands must not notice.
    for n in 0..2 {
        epic.choose(&scene.tenant, n, &[1]);
    }
    let answer = conversation.finish(200_000, 200_000).unwrap();
    assert_eq!(answer.peer.ip(), IpAddr::V4(proxy_address(3)));
    assert_eq!(ask_one(&epic, &scene.tenant).peer.ip(), IpAddr::V4(proxy_address(1)));
    let flows = epic.nodes[0].maps().flows.entries().unwrap();
    assert!(flows.keys().all(|flow| IpAddr::from(flow.client) == IpAddr::V4(INTERNET)));
    let of_proxies: BTreeSet<_> = flows.values().map(|flow| flow.proxy).collect();
    assert_eq!(of_proxies, BTreeSet::from([1, 3]));
}

#[test]
fn netfilter_and_routing_of_the_node_have_no_part_in_the_path() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple().with_proxies(&[(1, 0, 7), (3, 1, 9)]));
    for host in &epic.site.nodes {
        host.netns.sysctl("net/ipv4/ip_forward", "0");
        host.netns.feed(
            "nft",
            &["-f", "-"],
            "table ip hostile {\n\
             chain forward {\ntype filter hook forward priority 0; policy drop\nct state invalid drop\n}\n\
             chain post {\ntype nat hook postrouting priority 100\nip saddr 10.244.0.0/16 masquerade\n}\n\
             }\n",
        );
    }
    for answer in requests(&epic.site.internet, scene.tenant.public(), 40, 8, 20_000) {
        answer.unwrap_or_else(|error| panic!("{error}; {}", state(&epic)));
    }
}

#[test]
fn a_vip_packet_without_a_service_is_dropped_once_and_does_not_loop() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    // As a router would: the VIP's packets go to the node, whose own default route leads back.
    epic.site.nodes[0].netns.ip("route add default via 192.168.77.100");
    let before = drops(&epic.nodes[0], DropReason::VipNoService);
    let other_port = std::net::SocketAddr::from((scene.tenant.vip, 81));
    let refused = epic
        .site
        .internet
        .run(|| std::net::TcpStream::connect_timeout(&other_port, std::time::Duration::from_millis(500)));
    assert!(refused.is_err());
    let dropped = drops(&epic.nodes[0], DropReason::VipNoService) - before;
    assert_eq!(dropped, 1, "one SYN within half a second, seen once");
}

#[test]
fn probes_of_the_proxy_s_readiness_port_are_answered_and_its_listener_is_not_reachable_from_the_node() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    let pod = &scene.proxy_pods[0];
    let _ops = crate::support::traffic::endpoint(&pod.netns, 9901, "ready");
    let node = &epic.site.nodes[0].netns;
    let answer = request(node, (pod.address, 9901).into(), 1, 100).unwrap();
    assert_eq!(answer.name, "ready");
    let before = drops(&epic.nodes[0], DropReason::ReplyNotPublic);
    assert!(request(node, (pod.address, 10_000).into(), 1, 100).is_err());
    assert!(drops(&epic.nodes[0], DropReason::ReplyNotPublic) > before);
}
