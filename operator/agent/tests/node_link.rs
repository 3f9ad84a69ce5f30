//! The interfaces of an EPIC node on the real kernel: carrier, names, gateways, and who else has an address.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use epic_agent::desired::node::Claim;
use epic_agent::netlink::Netlink;
use epic_agent::netlink::watch::{Interest, Watch};
use epic_agent::node::announce;
use epic_agent::node::arp::{Arp, Ears, Sender};
use epic_agent::node::guard::Guard;
use epic_agent::node::inputs::Inputs;
use epic_agent::node::interfaces::Interfaces;
use epic_crds::EPIC;
use epic_testnet::{Netns, veth};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(10);
/// Within this time of an interface going down its node is out: half a second of it is for the report, the rest for this.
const NOTICED: Duration = Duration::from_millis(4_500);
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// A node and whoever shares its network.
fn two() -> (Netns, Netns) {
    let (node, lan) = (Netns::new("node"), Netns::new("lan"));
    veth(&node, "eth0", &lan, "eth0");
    node.ip("addr add 192.0.2.4/24 dev eth0");
    lan.ip("link set eth0 address 02:00:00:00:00:09");
    lan.ip("addr add 192.0.2.254/24 dev eth0");
    (node, lan)
}

async fn found(netlink: &Netlink, interfaces: &str) -> Interfaces {
    let epic: EPIC = serde_yaml::from_str(&format!(
        "{{metadata: {{name: epic}}, spec: {{gue: {{interfaces: {{{interfaces}}}}}}}}}"
    ))
    .unwrap();
    let addresses = "{addresses: [{type: InternalIP, address: 192.0.2.4}]}";
    let node: Node =
        serde_yaml::from_str(&format!("{{metadata: {{name: n1}}, status: {addresses}}}")).unwrap();
    Inputs::default().interfaces(netlink, &Arc::new(epic), &node, Instant::now()).await.unwrap()
}

/// Waits for an event of the kernel after which the interfaces are as wanted. Nothing is polled.
async fn until(netlink: &Netlink, watch: &mut Watch, is_right: impl Fn(Option<String>) -> bool) {
    let begun = Instant::now();
    let right = async {
        while !is_right(found(netlink, "").await.down()) {
            watch.changed().await.unwrap();
        }
    };
    tokio::time::timeout(NOTICED, right).await.expect("the interface's state is noticed in time");
    println!("noticed after {:?}", begun.elapsed());
}

async fn ip(netns: &Netns, arguments: &'static str) {
    let netns = netns.clone();
    tokio::task::spawn_blocking(move || netns.ip(arguments)).await.unwrap();
}

#[test]
fn an_interface_that_loses_its_carrier_or_is_set_down_is_noticed_by_an_event_and_so_is_its_return() {
    let (node, lan) = two();
    let inside = node.clone();
    node.run_async(DEADLINE, || async move {
        let (netlink, mut watch) = (Netlink::connect().unwrap(), Watch::open(Interest::Interfaces).unwrap());
        until(&netlink, &mut watch, |down| down.is_none()).await;
        ip(&lan, "link set eth0 down").await;
        let says =
            |what: &'static str| move |down: Option<String>| down.is_some_and(|why| why.contains(what));
        until(&netlink, &mut watch, says("no carrier")).await;
        ip(&lan, "link set eth0 up").await;
        until(&netlink, &mut watch, |down| down.is_none()).await;
        ip(&inside, "link set eth0 down").await;
        until(&netlink, &mut watch, says("is down")).await;
        ip(&inside, "link set eth0 up").await;
        until(&netlink, &mut watch, |down| down.is_none()).await;
    });
}

#[test]
fn routes_wake_no_agent_of_a_node() {
    let (node, _lan) = two();
    let inside = node.clone();
    node.run_async(DEADLINE, || async move {
        let mut watch = Watch::open(Interest::Interfaces).unwrap();
        ip(&inside, "route add 198.51.100.0/24 via 192.0.2.254").await;
        ip(&inside, "link add marker type bridge").await;
        let changed = watch.changed().await.unwrap();
        assert!(changed.links, "messages of one socket keep their order: {changed:?}");
        ip(&inside, "addr add 192.0.2.5/24 dev eth0").await;
        while !watch.changed().await.unwrap().addresses {}
    });
}

#[test]
fn an_interface_is_found_by_an_alternative_name_and_by_a_pattern_of_one() {
    let (node, _lan) = two();
    node.ip("link property add dev eth0 altname public0 altname a-name-longer-than-fifteen");
    node.run_async(DEADLINE, || async move {
        let netlink = Netlink::connect().unwrap();
        assert_eq!(found(&netlink, "public: public0").await.public.name, "eth0");
        assert_eq!(found(&netlink, "public-match: {names: ['a-name*']}").await.public.name, "eth0");
    });
}

#[test]
fn gateways_are_those_of_all_default_routes() {
    let (node, _lan) = two();
    node.ip("route add default via 192.0.2.254");
    node.ip("route add default metric 9 nexthop via 192.0.2.253 nexthop via 192.0.2.252");
    node.ip("route add 198.51.100.0/24 via 192.0.2.251");
    node.ip("addr add 2001:db8::4/64 dev eth0");
    node.ip("-6 route add default via 2001:db8::1");
    node.run_async(DEADLINE, || async move {
        let gateways = Netlink::connect().unwrap().default_gateways().await.unwrap();
        let wanted = ["192.0.2.252", "192.0.2.253", "192.0.2.254", "2001:db8::1"];
        let wanted: BTreeSet<IpAddr> = wanted.iter().map(|address| address.parse().unwrap()).collect();
        assert_eq!(gateways, wanted);
    });
}

/// What the agent does with its addresses, on this interface: asks when it is due, and takes what it hears, until so.
async fn tend(guard: &mut Guard, heard: &mut mpsc::Receiver<Arp>, until: impl Fn(&Guard) -> bool) {
    let netlink = Netlink::connect().unwrap();
    let link = netlink.link_by_name("eth0").await.unwrap();
    let sender = Sender::open(link.ifindex).unwrap();
    loop {
        for address in guard.due(Instant::now()).probes {
            sender.send(&Arp::request(link.mac, Ipv4Addr::UNSPECIFIED, address)).unwrap();
        }
        if until(guard) {
            return;
        }
        let next = guard.next().unwrap_or_else(|| Instant::now() + DEADLINE);
        tokio::select! {
            Some(arp) = heard.recv() => {
                guard.hear(&arp, Instant::now(), &Time(Timestamp::now()));
            }
            () = tokio::time::sleep_until(next.into()) => {}
        }
    }
}

fn listen(ifindex: u32) -> (mpsc::Receiver<Arp>, watch::Sender<Option<u32>>) {
    let (speak, heard) = mpsc::channel(16);
    let (place, changes) = watch::channel(Some(ifindex));
    let ears = Ears::default();
    ears.addresses.lock().insert(VIP);
    tokio::spawn(ears.run(changes, speak, CancellationToken::new()));
    (heard, place)
}

#[test]
fn an_address_that_a_machine_on_the_link_has_is_not_answered_for_and_a_free_one_is() {
    let (node, lan) = two();
    lan.ip("addr add 192.0.2.7/32 dev eth0");
    node.run_async(DEADLINE, || async move {
        let index = Netlink::connect().unwrap().link_by_name("eth0").await.unwrap().ifindex;
        let (mut heard, _place) = listen(index);
        let claim = Claim { uid: "u".into(), gateway: false };
        let time = Time(Timestamp::now());
        let may = |guard: &mut Guard, address: Ipv4Addr| {
            guard.may_answer(address.into(), &claim, false, Instant::now(), &time)
        };
        let (mut guard_of, free) = (Guard::default(), Ipv4Addr::new(192, 0, 2, 8));
        may(&mut guard_of, VIP);
        may(&mut guard_of, free);
        let is_known = |guard: &Guard| {
            !guard.conflicts().is_empty() && guard.next().is_some_and(|at| at > Instant::now() + DEADLINE)
        };
        tend(&mut guard_of, &mut heard, is_known).await;
        assert_eq!(guard_of.conflicts()[&VIP.into()].mac, Some(STRANGER));
        assert!(!may(&mut guard_of, VIP));
        assert!(may(&mut guard_of, free));
    });
}

#[test]
fn a_machine_that_announces_an_address_of_ours_later_is_heard() {
    let (node, lan) = two();
    node.run_async(DEADLINE, || async move {
        let index = Netlink::connect().unwrap().link_by_name("eth0").await.unwrap().ifindex;
        let (mut heard, _place) = listen(index);
        let mut guard_of = Guard::default();
        let claim = Claim { uid: "u".into(), gateway: false };
        assert!(guard_of.may_answer(VIP.into(), &claim, true, Instant::now(), &Time(Timestamp::now())));
        let announcing = tokio::task::spawn_blocking(move || {
            lan.run_async(DEADLINE, || async {
                let link = Netlink::connect().unwrap().link_by_name("eth0").await.unwrap();
                announce::announce(&link, &[VIP.into()]).await.unwrap();
            });
        });
        tend(&mut guard_of, &mut heard, |guard| !guard.conflicts().is_empty()).await;
        assert_eq!(guard_of.conflicts()[&VIP.into()].mac, Some(STRANGER));
        announcing.await.unwrap();
    });
}
