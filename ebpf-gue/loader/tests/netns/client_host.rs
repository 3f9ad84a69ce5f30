//! The client's host as administrators leave it: routes, reverse path filters, firewalls, masquerades.

use epic_abi::drop::DropReason;
use epic_testnet::{Capture, forget_connections};

use crate::support::lab::NIC;
use crate::support::program::{Epic, SERVICE, all_drops, drops};
use crate::support::scene::{Plan, Scene};
use crate::support::traffic::{Gate, endpoint_with_gate, request, requests};

fn works(epic: &Epic, scene: &Scene, what: &str) {
    for answer in requests(&epic.site.internet, scene.tenant.public(), 12, 4, 20_000) {
        answer.unwrap_or_else(|error| panic!("{what}: {error}; client {:?}", all_drops(&epic.clients[0])));
    }
}

#[test]
fn strict_reverse_path_filters_and_no_default_route_do_not_matter() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    let host = &epic.site.clients[0].netns;
    assert!(!host.ip("route").contains("default"), "this client has no default route");
    for interface in ["all", NIC, "epic0"] {
        host.sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "1");
    }
    works(&epic, &scene, "strict");
    for interface in ["all", NIC, "epic0"] {
        host.sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "0");
    }
    works(&epic, &scene, "without");
}

#[test]
fn nothing_leaves_in_the_clear_whatever_the_default_route_is() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    let host = &epic.site.clients[0].netns;
    let other = epic_testnet::Netns::new("other-router");
    epic_testnet::veth(host, "nic1", &other, "lan0");
    host.ip_batch("addr add 192.168.79.2/24 dev nic1\nroute add default via 192.168.79.1\n");
    let (leak, wire) = (Capture::start(host, "nic1"), Capture::start(host, NIC));
    works(&epic, &scene, "with a default route elsewhere");

    // A proxy that is not known (any more) is not reached either, neither in a tunnel nor outside of one.
    let before = drops(&epic.clients[0], DropReason::NoProxyRoute);
    let lost = host.run(|| {
        let to = std::net::SocketAddr::from(([100, 64, 0, 99], 80));
        std::net::TcpStream::connect_timeout(&to, std::time::Duration::from_millis(300))
    });
    assert!(lost.is_err());
    assert!(drops(&epic.clients[0], DropReason::NoProxyRoute) > before);

    let inner = |frames: Vec<epic_testnet::Frame>| {
        frames
            .iter()
            .filter(|frame| frame.outgoing)
            .filter_map(|frame| epic_testnet::gue::Ipv4::parse(frame.ipv4()?).ok().map(|ip| ip.destination))
            .filter(|destination| destination.octets()[0] == 100)
            .count()
    };
    assert_eq!((inner(leak.finish()), inner(wire.finish())), (0, 0), "packets to proxies outside a tunnel");
}

#[test]
fn the_kernel_itself_tells_the_endpoint_the_size_of_the_device() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    let pod = &scene.endpoint_pods[0].netns;
    let pinged = pod.run(|| {
        let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).expect("a socket");
        socket.connect(("100.64.0.1", 9)).expect("connect");
        socket2::SockRef::from(&socket).set_mtu_discover().and_then(|()| socket.send(&[0; 1_460]).map(drop))
    });
    pinged.expect("the first packet is sent");
    crate::support::eventually("the endpoint knows the size", || {
        pod.ip("route get 100.64.0.1").contains("mtu 1448")
    });
}

trait MtuDiscover {
    fn set_mtu_discover(&self) -> std::io::Result<()>;
}

impl MtuDiscover for socket2::SockRef<'_> {
    /// Sends with don't-fragment whatever the route says.
    fn set_mtu_discover(&self) -> std::io::Result<()> {
        use std::os::fd::AsRawFd as _;
        let value = libc::IP_PMTUDISC_DO;
        // SAFETY: pointer and length describe `value`.
        let done = unsafe {
            libc::setsockopt(
                self.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                (&raw const value).cast(),
                size_of_val(&value) as u32,
            )
        };
        if done < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// The client's table as the agent writes it (`epic_agent::nft::rules`).
const NULL_BINDING: &str = "table inet epic_client {\n\
    chain postrouting {\ntype nat hook postrouting priority 99\nip daddr 100.64.0.0/11 snat ip to ip saddr\n}\n\
    }\n";
const MASQUERADE: &str = "table ip cni {\n\
    chain post {\ntype nat hook postrouting priority 100\n\
    ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade\n}\n\
    }\n";

/// One answer of an endpoint whose host forgets the connection before the endpoint speaks: the first packet then
/// counts as new and meets the rules of new connections.
fn answer_after_forgetting(
    epic: &Epic,
    scene: &mut Scene,
) -> std::io::Result<crate::support::traffic::Answer> {
    let gate = Gate::closed();
    scene.endpoints.clear();
    scene.endpoints.push(endpoint_with_gate(&scene.endpoint_pods[0].netns, SERVICE, "late", gate.clone()));
    let public = scene.tenant.public();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| request(&epic.site.internet, public, 1, 5_000));
        crate::support::eventually("the endpoint was asked", || gate.waiting() == 1);
        forget_connections(&epic.site.clients[0].netns);
        gate.release();
        asked.join().expect("the client")
    })
}

#[test]
fn a_reply_whose_connection_the_host_has_forgotten_keeps_its_address() {
    let mut epic = Epic::new();
    let mut scene = Scene::start(&mut epic, &Plan::simple());
    let host = &epic.site.clients[0].netns;
    host.feed("nft", &["-f", "-"], MASQUERADE);
    works(&epic, &scene, "with a masquerade");

    // Without our table the masquerade catches the reply, and EPIC refuses a source that is no endpoint.
    answer_after_forgetting(&epic, &mut scene).expect_err("a masqueraded reply");
    assert!(drops(&epic.nodes[0], DropReason::InnerSource) > 0, "{:?}", all_drops(&epic.nodes[0]));

    epic.site.clients[0].netns.feed("nft", &["-f", "-"], NULL_BINDING);
    let before = drops(&epic.nodes[0], DropReason::InnerSource);
    let answer = answer_after_forgetting(&epic, &mut scene).expect("a reply with its own address");
    assert_eq!(answer.name, "late");
    assert!(
        drops(&epic.nodes[0], DropReason::InnerSource) <= before + 5,
        "only what the first peer still repeats"
    );
}

#[test]
fn a_forward_policy_of_drop_is_opened_by_the_name_of_the_device() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    let host = &epic.site.clients[0].netns;
    host.feed(
        "nft",
        &["-f", "-"],
        "table ip filter {\nchain FORWARD {\ntype filter hook forward priority 0; policy drop\n}\n}\n",
    );
    assert!(request(&epic.site.internet, scene.tenant.public(), 1, 100).is_err(), "Docker's policy drops");
    host.feed(
        "nft",
        &["-f", "-"],
        "insert rule ip filter FORWARD iifname epic0 accept\ninsert rule ip filter FORWARD oifname epic0 accept\n",
    );
    works(&epic, &scene, "with accept rules for the device");
}
