//! By which interface replies leave.

use std::net::{IpAddr, Ipv4Addr};

use epic_testnet::Capture;

use crate::support::lab::{INTERNET, NIC};
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
