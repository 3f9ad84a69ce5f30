//! By which interface replies leave, and which ports get through.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use epic_abi::gue::{CONTROL_TYPE_HELLO, DEFAULT_PORT, encode_control};
use epic_abi::maps::{REMOTE_FIXED_PORT, Remote, SourceKey};
use epic_datapath::Datapath;
use epic_testnet::{Capture, forget_connections};

use crate::support::lab::{INTERNET, NIC, ROUTER};
use crate::support::program::{Epic, all_drops, proxy_address};
use crate::support::scene::{Plan, Scene};
use crate::support::traffic::request;

/// Somebody behind the internet's host, so that no node has him on its link.
const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// Two interfaces, as administrators set them up: management has the default route, and a rule leads what has a VIP as its
/// source out by the public one. Reverse paths are checked strictly.
#[test]
fn replies_leave_by_the_interface_to_which_a_rule_leads_their_vip() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    let vip = scene.tenant.vip;
    let (internet, node) = (&epic.site.internet, &epic.site.nodes[0].netns);
    internet.ip_batch(&format!(
        "addr add {FAR}/32 dev lo\n\
         link set lo up\n\
         route add {vip}/32 dev {NIC} src {FAR}\n"
    ));
    node.ip_batch(&format!(
        "link add mgmt type veth peer name mgmtfar\n\
         addr add 172.16.0.2/24 dev mgmt\n\
         link set mgmt up\n\
         link set mgmtfar up\n\
         route add default via 172.16.0.1 dev mgmt\n\
         route add default via {INTERNET} dev {NIC} table 100\n"
    ));
    let refused = request(internet, scene.tenant.public(), 10, 1000);
    assert!(refused.is_err(), "without the rule replies would leave by management: {refused:?}");

    node.ip(&format!("rule add from {vip} lookup 100"));
    let management = Capture::start(node, "mgmt");
    for size in [1_000, 100_000] {
        let answer = request(internet, scene.tenant.public(), 10, size)
            .unwrap_or_else(|error| panic!("{error}; {:?}", all_drops(&epic.nodes[0])));
        assert_eq!(answer.peer.ip(), IpAddr::V4(proxy_address(1)));
    }
    let left: Vec<_> = management.finish().into_iter().filter(|frame| frame.ipv4().is_some()).collect();
    assert!(left.is_empty(), "nothing leaves by management: {left:?}");
}

/// The far ends of all tunnels, as hello handlers write them where nothing translates addresses.
fn write_remotes(datapath: &Datapath, far: Ipv4Addr, flags: u16) {
    let maps = datapath.maps();
    for (id, tunnel) in maps.tunnels.entries().expect("read tunnels") {
        let remote = Remote { address: far.into(), port: DEFAULT_PORT, flags, ..Remote::default() };
        let source = SourceKey { address: far.into(), port: 0, _reserved: 0, lb: tunnel.lb };
        maps.sources.set(&source, &id).expect("write sources");
        maps.remotes.set(&id, &remote).expect("write remotes");
    }
}

/// The usual firewall in front of hosts in clouds: they may call, and what belongs to a call may come.
#[test]
fn a_firewall_that_follows_connections_lets_tunnels_with_fixed_ports_through() {
    let mut epic = Epic::new();
    let plan = Plan::simple().with_endpoints(&[(1, 1, [10, 244, 1, 5])]);
    let scene = Scene::start(&mut epic, &plan);
    let (node, client) = (&epic.site.nodes[0], &epic.site.clients[1]);
    node.netns.ip(&format!("route add {}/32 via {ROUTER}", client.address));
    epic.site.router.feed(
        "nft",
        &["-f", "-"],
        "flush ruleset\n\
         table ip filter {\n chain forward {\n type filter hook forward priority 0; policy drop;\n \
         ct state established,related accept\n iifname lan0 accept\n }\n}\n",
    );
    forget_connections(&epic.site.router);
    // The hello that makes the connection in the firewall.
    let caller = client.netns.run(|| UdpSocket::bind((client.address, DEFAULT_PORT)).unwrap());
    caller.send_to(&encode_control(CONTROL_TYPE_HELLO), (node.address, DEFAULT_PORT)).unwrap();
    for (flags, passes) in [(0, false), (REMOTE_FIXED_PORT, true)] {
        write_remotes(&epic.nodes[0], client.address, flags);
        write_remotes(&epic.clients[1], node.address, flags);
        for size in [1_000, 1_000_000] {
            let answer = request(&epic.site.internet, scene.tenant.public(), 10, size);
            let drops = [&epic.nodes[0], &epic.clients[1]].map(all_drops);
            assert_eq!(answer.is_ok(), passes, "flags {flags}, {size} bytes: {answer:?}; {drops:?}");
            if !passes {
                break;
            }
        }
    }
}
