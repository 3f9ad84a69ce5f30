//! From the internet to a proxy: services, flows, Maglev.

use epic_abi::{
    Ip, PROTOCOL_TCP,
    drop::DropReason,
    maps::{CONFIG_KEY, Config, Flow, FlowKey, PROXY_DRAINING, Proxy, Service},
    stats::Event,
};
use epic_datapath::Program::Ingress;

use crate::{
    frame::{ETH, addr, ethernet, frame, ipv4, read_tcp, segment, syn, udp},
    kernel::{Kernel, REDIRECT},
    scene::{self, LB, OTHER_LB, VIP, config, local_proxy, service, service_key},
};

const CLIENT: &str = "203.0.113.10:40000";
const TO: &str = "192.0.2.7:80";

fn flow_key(port: u16) -> FlowKey {
    FlowKey {
        client: scene::ip("203.0.113.10"),
        vip: scene::ip(VIP),
        client_port: port,
        vip_port: 80,
        protocol: PROTOCOL_TCP,
        _reserved: [0; 3],
    }
}

/// The pod a packet of `port` is given to.
fn pod(kernel: &Kernel, packet: &[u8]) -> String {
    let outcome = kernel.run(Ingress, &frame(packet));
    assert_eq!(outcome.verdict, REDIRECT);
    read_tcp(&outcome.frame[ETH..]).destination.to_string()
}

#[test]
fn a_packet_to_a_vip_reaches_a_proxy_with_the_client_s_own_address() {
    let kernel = scene::node();
    let outcome = kernel.run(Ingress, &frame(&segment(CLIENT, TO, b"GET /")));
    assert_eq!(outcome.verdict, REDIRECT);
    let packet = read_tcp(&outcome.frame[ETH..]);
    assert_eq!(packet.source, addr(CLIENT));
    assert_eq!(packet.destination, addr("10.244.1.7:10001"));
    assert_eq!(packet.data, b"GET /");
    assert_eq!(kernel.events(), [(Event::VipLocal, 1), (Event::FlowNew, 1)].into());
}

#[test]
fn a_vip_without_that_service_is_a_dead_end() {
    let kernel = scene::node();
    let to = |packet: Vec<u8>| kernel.dropped(Ingress, &frame(&packet));
    assert_eq!(to(segment(CLIENT, "192.0.2.7:81", b"")), DropReason::VipNoService);
    assert_eq!(to(udp(addr(CLIENT), addr(TO), b"")), DropReason::VipNoService);
    let (client, vip) = (*addr(CLIENT).ip(), *addr(TO).ip());
    assert_eq!(to(ipv4(1, client, vip, &[8, 0, 0, 0, 0, 0, 0, 0])), DropReason::Protocol);
    assert_eq!(to(ipv4(1, client, vip, &[3, 4, 0, 0, 0, 0, 0, 0])), DropReason::IcmpError);
    assert_eq!(to(ipv4(132, client, vip, &[0; 20])), DropReason::Protocol);
}

#[test]
fn fragments_and_options_to_a_vip_do_not_go_on_to_the_stack() {
    let kernel = scene::node();
    for (at, byte, reason) in
        [(6, 0x20, DropReason::Fragment), (7, 1, DropReason::Fragment), (0, 0x46, DropReason::IpOptions)]
    {
        let mut packet = frame(&segment(CLIENT, TO, b"data"));
        packet[ETH + at] = byte;
        assert_eq!(kernel.dropped(Ingress, &packet), reason);
    }
}

#[test]
fn an_ipv6_vip_and_ipv6_proxy_addresses_are_not_passed_in_clear() {
    let mut kernel = scene::node();
    let vip: std::net::Ipv6Addr = "2001:db8::7".parse().unwrap();
    kernel.set("vips", Ip::from(vip), epic_abi::maps::Vip { flags: 0 });
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, 59, 64];
    packet.extend("2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    packet.extend(vip.octets());
    assert_eq!(kernel.dropped(Ingress, &ethernet(0x86DD, &packet)), DropReason::Ipv6);
    packet[39] = 8;
    assert_eq!(kernel.run(Ingress, &ethernet(0x86DD, &packet)).verdict, crate::kernel::NEXT);
}

#[test]
fn source_ranges_admit_whom_they_name() {
    let mut kernel = scene::node();
    kernel.set("services", service_key(80), Service { source_ranges: 5, ..service() });
    kernel.admit(5, scene::ip("203.0.113.0"), 28);
    kernel.admit(6, scene::ip("0.0.0.0"), 0);
    assert_eq!(kernel.run(Ingress, &frame(&segment(CLIENT, TO, b""))).verdict, REDIRECT);
    let outside = frame(&segment("203.0.113.16:40000", TO, b""));
    assert_eq!(kernel.dropped(Ingress, &outside), DropReason::SourceRange);
}

#[test]
fn a_flow_keeps_its_proxy_when_the_table_changes() {
    let mut kernel = scene::node();
    let (first, second) = ("10.244.1.7:10001", "10.244.1.8:10001");
    kernel.set("proxies", 2u32, Proxy { pod_v4: scene::ip("10.244.1.8"), ..local_proxy() });
    assert_eq!(pod(&kernel, &segment(CLIENT, TO, b"")), first);
    kernel.set_maglev(LB, &[2]);
    assert_eq!(pod(&kernel, &segment(CLIENT, TO, b"")), first);
    assert_eq!(pod(&kernel, &segment("203.0.113.10:40001", TO, b"")), second);
}

#[test]
fn a_draining_proxy_keeps_its_flows_and_gets_no_new_connection() {
    let mut kernel = scene::node();
    kernel.set("proxies", 2u32, Proxy { pod_v4: scene::ip("10.244.1.8"), ..local_proxy() });
    assert_eq!(pod(&kernel, &syn(CLIENT, TO, 1460)), "10.244.1.7:10001");
    kernel.set("proxies", 1u32, Proxy { flags: PROXY_DRAINING, ..local_proxy() });
    kernel.set_maglev(LB, &[2]);
    assert_eq!(pod(&kernel, &segment(CLIENT, TO, b"")), "10.244.1.7:10001");
    assert_eq!(pod(&kernel, &syn(CLIENT, TO, 1460)), "10.244.1.7:10001", "the SYN again");
    // The same port long after: another connection.
    kernel.set("flows", flow_key(40000), Flow { proxy: 1, lb: LB, created_nanos: 1 });
    assert_eq!(pod(&kernel, &segment(CLIENT, TO, b"")), "10.244.1.7:10001");
    assert_eq!(pod(&kernel, &syn(CLIENT, TO, 1460)), "10.244.1.8:10001");
    assert_eq!(pod(&kernel, &segment(CLIENT, TO, b"")), "10.244.1.8:10001");
}

#[test]
fn a_flow_whose_proxy_is_gone_or_another_s_is_given_a_new_one() {
    let mut kernel = scene::node();
    kernel.set("flows", flow_key(40000), Flow { proxy: 77, lb: LB, created_nanos: 1 });
    assert_eq!(pod(&kernel, &segment(CLIENT, TO, b"")), "10.244.1.7:10001");
    kernel.set("flows", flow_key(40000), Flow { proxy: 4, lb: OTHER_LB, created_nanos: 1 });
    assert_eq!(pod(&kernel, &segment(CLIENT, TO, b"")), "10.244.1.7:10001");
    kernel.set("flows", flow_key(40000), Flow { proxy: 4, lb: LB, created_nanos: 1 });
    assert_eq!(
        pod(&kernel, &segment(CLIENT, TO, b"")),
        "10.244.1.7:10001",
        "the id is another LoadBalancer's now"
    );
    assert_eq!(kernel.events()[&Event::FlowMoved], 3);
    assert_eq!(kernel.get::<_, Flow>("flows", flow_key(40000)).unwrap().proxy, 1);
}

#[test]
fn without_a_proxy_that_takes_flows_the_packet_is_dropped() {
    let mut kernel = scene::node();
    let packet = frame(&segment(CLIENT, TO, b""));
    kernel.set_maglev(LB, &[0]);
    assert_eq!(kernel.dropped(Ingress, &packet), DropReason::NoProxy);
    kernel.set_maglev(LB, &[77]);
    assert_eq!(kernel.dropped(Ingress, &packet), DropReason::NoProxy);
    kernel.set_maglev(LB, &[4]);
    assert_eq!(kernel.dropped(Ingress, &packet), DropReason::NoProxy, "a proxy of another LoadBalancer");
    kernel.set("services", service_key(80), Service { lb: OTHER_LB, ..service() });
    assert_eq!(kernel.dropped(Ingress, &packet), DropReason::NoProxy, "no table at all");
}

#[test]
fn new_flows_above_the_cap_are_served_and_not_written_down() {
    let mut kernel = scene::node();
    // The cap is per CPU and second; with more than five in a row, some are above it on any CPU within one second.
    kernel.set("config", CONFIG_KEY, Config { new_flows_per_second: 5, ..config() });
    for port in 20000..21000 {
        assert_eq!(pod(&kernel, &segment(&format!("203.0.113.10:{port}"), TO, b"")), "10.244.1.7:10001");
    }
    let events = kernel.events();
    assert_eq!(events[&Event::VipLocal], 1000);
    assert_eq!(events[&Event::FlowNew] + events[&Event::FlowCapped], 1000);
    assert!(events[&Event::FlowCapped] > 500, "{events:?}");
}

#[test]
fn flows_spread_over_all_proxies_of_the_table() {
    let mut kernel = scene::node();
    kernel.set("proxies", 2u32, Proxy { pod_v4: scene::ip("10.244.1.8"), ..local_proxy() });
    kernel.set_maglev(LB, &[1, 2]);
    let mut first = 0;
    for port in 20000..21000 {
        let packet = segment(&format!("203.0.113.10:{port}"), TO, b"");
        first += u32::from(pod(&kernel, &packet) == "10.244.1.7:10001");
    }
    assert!((400..=600).contains(&first), "{first} of 1000");
}
