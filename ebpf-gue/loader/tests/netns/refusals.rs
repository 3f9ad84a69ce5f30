//! Packets that are almost right: each is dropped, counted under its reason, and moves nothing.
//!
//! They are sent from raw sockets by hosts that could send them, built from the parts of `epic-abi`.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use epic_abi::Lb;
use epic_abi::drop::DropReason;
use epic_abi::gue::Key;
use epic_abi::maps::Side;
use epic_datapath::Datapath;
use epic_testnet::{Netns, inject};

use crate::support::eventually;
use crate::support::forge::{Ethernet, IPV4, data, syn};
use crate::support::lab::{NIC, mac};
use crate::support::program::{Epic, GUE_PORT, SERVICE, alias_address, all_drops, drops, proxy_address};
use crate::support::scene::{FIRST, Plan, Scene};
use crate::support::traffic::request;

const ENDPOINT: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 5);

fn send(from: &Netns, to: Ipv4Addr, payload: &[u8]) {
    from.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
        socket.send_to(payload, (to, GUE_PORT)).expect("send a forged packet");
    });
}

/// Sends and waits for the count.
fn counted(from: &Netns, to: Ipv4Addr, at: &Datapath, payload: &[u8], reason: DropReason, what: &str) {
    let before = drops(at, reason);
    send(from, to, payload);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(2);
    while drops(at, reason) == before {
        assert!(std::time::Instant::now() < end, "{what}: expected {}; {:?}", reason.name(), all_drops(at));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert_eq!(drops(at, reason), before + 1, "{what}");
}

#[test]
fn what_a_client_might_forge_is_dropped_by_the_node_and_counted() {
    let mut epic = Epic::new();
    let plan = Plan::simple().with_endpoints(&[(1, 0, [10, 244, 1, 5]), (2, 1, [10, 244, 1, 6])]);
    let scene = Scene::start(&mut epic, &plan);
    let tenant = &scene.tenant;
    let (node, to) = (&epic.nodes[0], epic.site.nodes[0].address);
    let client = &epic.site.clients[0].netns;
    let remotes = node.maps().remotes.entries().unwrap();
    let endpoint = SocketAddrV4::new(ENDPOINT, SERVICE);
    let proxy = SocketAddrV4::new(proxy_address(1), 40_000);
    let good = syn(endpoint, proxy);
    let key = tenant.data_key();
    let deny = |from: &Netns, payload: &[u8], reason, what| counted(from, to, node, payload, reason, what);

    deny(client, &data(FIRST, Key([9; 16]), &good), DropReason::Key, "a wrong key");
    deny(client, &data(Lb::new(7, 7), key, &good), DropReason::UnknownService, "a service nobody has");
    deny(
        &epic.site.internet,
        &data(FIRST, key, &good),
        DropReason::OuterSource,
        "the right key from elsewhere",
    );
    let foreign = syn(SocketAddrV4::new(Ipv4Addr::new(10, 244, 1, 99), SERVICE), proxy);
    deny(client, &data(FIRST, key, &foreign), DropReason::InnerSource, "an address that is no endpoint");
    let other_port = syn(SocketAddrV4::new(ENDPOINT, SERVICE + 1), proxy);
    deny(client, &data(FIRST, key, &other_port), DropReason::InnerSource, "another port of the endpoint");
    let other_client = syn(SocketAddrV4::new(Ipv4Addr::new(10, 244, 1, 6), SERVICE), proxy);
    deny(
        client,
        &data(FIRST, key, &other_client),
        DropReason::InnerSource,
        "an endpoint of another client node",
    );
    let elsewhere = syn(endpoint, SocketAddrV4::new(Ipv4Addr::new(10, 244, 1, 7), 40_000));
    deny(
        client,
        &data(FIRST, key, &elsewhere),
        DropReason::InnerDestination,
        "a pod's address, not a proxy's",
    );
    let no_proxy = syn(endpoint, SocketAddrV4::new(proxy_address(77), 40_000));
    deny(client, &data(FIRST, key, &no_proxy), DropReason::InnerDestination, "a proxy nobody has");
    let mut cut = data(FIRST, key, &good);
    cut.truncate(40);
    deny(client, &cut, DropReason::Malformed, "an inner packet that ends early");
    let mut variant = data(FIRST, key, &good);
    variant[0] |= 0x40;
    deny(client, &variant, DropReason::GueHeader, "another variant of GUE");
    let mut flags = data(FIRST, key, &good);
    flags[3] |= 1;
    deny(client, &flags, DropReason::GueHeader, "a flag of a later version");
    let node_leg = data(FIRST, tenant.node_key(), &good);
    deny(client, &node_leg, DropReason::OuterSource, "the key between nodes from a client");

    assert_eq!(node.maps().remotes.entries().unwrap(), remotes, "no packet moves a tunnel");
    request(&epic.site.internet, tenant.public(), 1, 100).expect("the service goes on");
}

#[test]
fn what_a_stranger_might_forge_is_dropped_by_the_client_and_counted() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    let tenant = &scene.tenant;
    let (client, to) = (&epic.clients[0], epic.site.clients[0].address);
    let node = &epic.site.nodes[0].netns;
    let proxy = SocketAddrV4::new(proxy_address(1), 40_000);
    let endpoint = SocketAddrV4::new(ENDPOINT, SERVICE);
    let good = syn(proxy, endpoint);
    let key = tenant.data_key();
    let deny = |from: &Netns, payload: &[u8], reason, what| counted(from, to, client, payload, reason, what);

    deny(
        &epic.site.internet,
        &data(FIRST, key, &good),
        DropReason::OuterSource,
        "the right key from elsewhere",
    );
    deny(node, &data(FIRST, Key([9; 16]), &good), DropReason::Key, "a wrong key");
    let ssh = syn(proxy, SocketAddrV4::new(to, 22));
    deny(node, &data(FIRST, key, &ssh), DropReason::InnerDestination, "the client node itself");
    let pod = syn(proxy, SocketAddrV4::new(Ipv4Addr::new(10, 244, 1, 6), SERVICE));
    deny(node, &data(FIRST, key, &pod), DropReason::InnerDestination, "a pod that is no endpoint");
    let foreign = syn(SocketAddrV4::new(Ipv4Addr::new(8, 8, 8, 8), 53), endpoint);
    deny(node, &data(FIRST, key, &foreign), DropReason::InnerSource, "a source that is no proxy");
    deny(&epic.site.internet, &[0x20, 0x48, 0, 0], DropReason::ControlSource, "a message from no EPIC node");
    request(&epic.site.internet, tenant.public(), 1, 100).expect("the service goes on");
}

#[test]
fn bare_packets_from_or_to_proxy_addresses_are_dropped_on_both_sides() {
    let mut epic = Epic::new();
    let _scene = Scene::start(&mut epic, &Plan::simple());
    let internet = &epic.site.internet;
    internet.ip("addr add 100.64.0.1/32 dev lo");
    for (datapath, host) in [(&epic.nodes[0], &epic.site.nodes[0]), (&epic.clients[0], &epic.site.clients[0])]
    {
        let reason = DropReason::BareProxyAddress;
        // The neighbour is known before: with the forged source a strict host would not answer for itself.
        let closed = internet.run(|| std::net::TcpStream::connect((host.address, 1)));
        assert_eq!(
            closed.map(drop).map_err(|error| error.kind()),
            Err(std::io::ErrorKind::ConnectionRefused)
        );
        let before = drops(datapath, reason);
        internet.run(|| {
            let forged = UdpSocket::bind((Ipv4Addr::new(100, 64, 0, 1), 0)).expect("a socket");
            forged.send_to(b"from", (host.address, 4_000)).expect("send");
        });
        eventually("a bare source is counted", || drops(datapath, reason) > before);
        let before = drops(datapath, reason);
        internet.ip(&format!("route replace 100.64.0.9/32 via {}", host.address));
        internet.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
            socket.send_to(b"to", (Ipv4Addr::new(100, 64, 0, 9), 4_000)).expect("send");
        });
        eventually("a bare destination is counted", || drops(datapath, reason) > before);
    }
    let sides = [epic.nodes[0].maps().side(), epic.clients[0].maps().side()];
    assert_eq!(sides, [Side::Node, Side::Client]);
}

#[test]
fn a_packet_to_a_vip_from_an_alias_puts_nothing_into_the_tunnel() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    let (node, internet) = (&epic.nodes[0], &epic.site.internet);
    let counts = || (node.maps().tunnel_counts().unwrap(), node.maps().event_counts().unwrap());
    let before = counts();
    let header = Ethernet { from: mac(internet, NIC), to: epic.site.nodes[0].mac(NIC), tag: None };
    // The endpoint's alias and port: what a proxy sends back to them goes through the tunnel, to the endpoint.
    let alias = SocketAddrV4::new(alias_address(1), SERVICE);
    let proxy = SocketAddrV4::new(proxy_address(1), SERVICE);
    for (source, reason) in [(proxy, DropReason::BareProxyAddress), (alias, DropReason::Martian)] {
        inject(internet, NIC, &header.frame(IPV4, &syn(source, SocketAddrV4::new(scene.tenant.vip, 80))));
        eventually("the forged source is counted", || drops(node, reason) == 1);
    }
    assert_eq!(counts(), before, "no proxy and no tunnel has got anything");
    assert!(node.maps().flows.entries().unwrap().is_empty());
    request(internet, scene.tenant.public(), 1, 100).expect("the service goes on");
}

#[test]
fn a_pod_that_borrows_an_address_is_not_heard() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    let pod = &scene.proxy_pods[0];
    pod.netns.ip("addr add 10.244.1.66/32 dev lo");
    let before = drops(&epic.nodes[0], DropReason::PodSource);
    pod.netns.run(|| {
        let forged = UdpSocket::bind((Ipv4Addr::new(10, 244, 1, 66), 0)).expect("a socket");
        forged.send_to(b"x", (crate::support::lab::INTERNET, 53)).expect("send");
    });
    eventually("a borrowed source is counted", || drops(&epic.nodes[0], DropReason::PodSource) > before);
}

#[test]
fn an_outer_fragment_is_counted_and_not_reassembled_into_a_tunnel() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    let key = scene.tenant.data_key();
    let mut large =
        data(FIRST, key, &syn(SocketAddrV4::new(ENDPOINT, SERVICE), SocketAddrV4::new(proxy_address(1), 1)));
    large.resize(3_000, 0);
    let before = drops(&epic.nodes[0], DropReason::OuterFragment);
    let client = &epic.site.clients[0].netns;
    client.sysctl("net/ipv4/ip_no_pmtu_disc", "1");
    send(client, epic.site.nodes[0].address, &large);
    eventually("the first fragment is counted", || drops(&epic.nodes[0], DropReason::OuterFragment) > before);
    assert!(epic.site.clients[0].ifindex(NIC) > 0);
}
