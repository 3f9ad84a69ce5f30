//! By which interface EPIC nodes are reached, on real interfaces.

use std::net::IpAddr;
use std::time::Duration;

use epic_agent::client::ways;
use epic_agent::desired::client::NoWay;
use epic_agent::netlink::Netlink;
use epic_testnet::{Netns, veth};

const DEADLINE: Duration = Duration::from_secs(10);

#[test]
fn a_way_by_a_device_without_ethernet_is_told_from_none() {
    let (host, router) = (Netns::new("client"), Netns::new("router"));
    veth(&host, "nic0", &router, "lan0");
    host.ip("addr add 192.168.77.20/24 dev nic0");
    host.ip("tuntap add tun0 mode tun");
    host.ip("link set tun0 up");
    host.ip("addr add 172.16.0.9/32 dev tun0");
    let index: u32 = host.ip("-o link show nic0").split(':').next().unwrap().trim().parse().unwrap();
    let changed = host.clone();
    let epic: IpAddr = "203.0.113.7".parse().unwrap();
    host.run_async(DEADLINE, || async move {
        let netlink = Netlink::connect().unwrap();
        assert!(matches!(ways::find(&netlink, epic).await, Err(NoWay::Route(_))), "no route");
        changed.ip("route add 203.0.113.7 via 192.168.77.1");
        let way = ways::find(&netlink, epic).await.unwrap();
        assert_eq!((way.ifindex, way.mtu, way.local), (index, 1500, "192.168.77.20".parse().unwrap()));
        // As when a VPN comes up.
        changed.ip("route replace 203.0.113.7 dev tun0");
        assert_eq!(ways::find(&netlink, epic).await, Err(NoWay::NotEthernet("tun0".to_owned())));
        let own: IpAddr = "192.168.77.20".parse().unwrap();
        assert!(matches!(ways::find(&netlink, own).await, Err(NoWay::Route(_))), "this host itself");
    });
}
