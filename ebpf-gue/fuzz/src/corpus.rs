//! Packets of every kind, by name.
//!
//! What becomes of each on a busy host is written down in `tests/corpus.rs`: a change of behaviour shows
//! there by name.

use crate::{
    frame::{
        ACK, ETH, FROM_MAC, SYN, addr, arp, discovery, ethernet, frame, gue, ip, ipv4, ipv6, linux_options,
        mend, segment, syn, tcp, udp,
    },
    native::{
        Packet,
        Program::{self, ClientEgress, ClientIngress, FromPod, Ingress},
    },
    scene::{
        CLIENT, DATA_KEY, FAR_KEY, INTERNET, NEXT_KEY, NODE, NODE_KEY, NODE2, OLD_KEY, OTHER_KEY, POD,
        POD_V6, VIP, VIP_V6,
    },
};

/// A packet with a name.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Lower case, words joined by hyphens.
    pub name: &'static str,
    /// The packet.
    pub packet: Packet,
}

/// Where layers of a packet in GUE begin.
const UDP: usize = ETH + 20;
const GUE: usize = UDP + 8;
const INNER: usize = GUE + 24;
/// Where TCP begins in a bare packet.
const TCP: usize = ETH + 20;

/// From the internet to the VIP.
const BROWSER: &str = "203.0.113.10:40000";
const WEB: &str = "192.0.2.7:80";
/// To the VIP's service whose proxy runs on the other node.
const FAR: &str = "192.0.2.7:8080";
/// From the endpoint to the proxy, through the tunnel of this client.
const ENDPOINT: &str = "10.244.1.5:8080";
const PROXY: &str = "100.64.0.1:41000";
const FROM_CLIENT: &str = "198.51.100.2:50000";
const TO_NODE: &str = "198.51.100.1:6080";
/// The other way.
const FROM_NODE: &str = "198.51.100.1:50000";
const TO_CLIENT: &str = "198.51.100.2:6080";
/// From the proxy's pod.
const LISTENER: &str = "10.244.1.7:10001";
const UPSTREAM: &str = "10.244.1.7:41000";
const ALIAS: &str = "100.127.0.7:8080";

/// All packets.
pub fn corpus() -> Vec<Entry> {
    let mut list = List::default();
    from_internet(&mut list);
    malformed_to_vip(&mut list);
    not_for_epic(&mut list);
    from_client(&mut list);
    malformed_gue(&mut list);
    from_node(&mut list);
    to_endpoint(&mut list);
    clamped(&mut list);
    fenced(&mut list);
    neighbours(&mut list);
    to_client(&mut list);
    from_endpoint(&mut list);
    list.entries
}

#[derive(Default)]
struct List {
    entries: Vec<Entry>,
}

impl List {
    fn add(&mut self, name: &'static str, program: Program, frame: Vec<u8>) -> &mut Packet {
        self.entries.push(Entry { name, packet: Packet::new(program, frame) });
        let last = self.entries.len() - 1;
        &mut self.entries[last].packet
    }
}

/// The frame after a change, with its IPv4 header's sum mended.
fn with(mut frame: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut frame);
    if frame.len() >= ETH + 20 {
        mend(&mut frame, ETH);
    }
    frame
}

/// The packet with IP options, which say nothing.
fn with_options(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet.splice(20..20, [1, 1, 1, 0]);
    packet[0] = 0x46;
    packet[3] += 4;
    packet[10..12].fill(0);
    let check = crate::frame::checksum(&packet[..24]);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    packet
}

fn from_internet(list: &mut List) {
    let web = frame(&segment(BROWSER, WEB, b"GET /"));
    list.add("vip-local", Ingress, web.clone());
    list.add("vip-local-syn", Ingress, frame(&syn(BROWSER, WEB, 1460)));
    list.add("vip-local-padded", Ingress, {
        let mut padded = frame(&segment(BROWSER, WEB, b""));
        padded.resize(60, 0);
        padded
    });
    list.add("vip-local-super-packet", Ingress, frame(&segment(BROWSER, WEB, &[0x55; 2800]))).segment = 1400;
    list.add("vip-second-service-in-ranges", Ingress, frame(&segment(BROWSER, "192.0.2.7:443", b"hello")));
    list.add("vip-outside-ranges", Ingress, frame(&segment("203.0.113.16:40000", "192.0.2.7:443", b"")));
    list.add("vip-of-other-load-balancer", Ingress, frame(&segment(BROWSER, "192.0.2.8:80", b"x")));
    list.add("vip-draining-keeps-flow", Ingress, frame(&segment("203.0.113.10:40006", WEB, b"more")));
    list.add("vip-draining-syn-moves", Ingress, frame(&syn("203.0.113.10:40006", WEB, 1460)));
    list.add("vip-flow-of-gone-proxy-moves", Ingress, frame(&segment("203.0.113.10:40007", WEB, b"")));
    list.add("vip-to-other-node", Ingress, frame(&segment(BROWSER, FAR, b"GET /")));
    list.add("vip-to-other-node-padded", Ingress, {
        let mut padded = frame(&segment(BROWSER, FAR, b""));
        padded.resize(60, 0);
        padded
    });
    list.add("vip-to-other-node-biggest", Ingress, frame(&segment(BROWSER, FAR, &[0x55; 1408])));
    list.add("vip-to-other-node-too-big", Ingress, frame(&segment(BROWSER, FAR, &[0x55; 1409])));
    let big = frame(&segment(BROWSER, FAR, &[0x55; 2820]));
    list.add("vip-to-other-node-super-packet", Ingress, big.clone()).segment = 1408;
    list.add("vip-to-other-node-super-packet-too-big", Ingress, big).segment = 1410;
    list.add("vip-no-service", Ingress, frame(&segment(BROWSER, "192.0.2.7:82", b"")));
    list.add("vip-no-proxy", Ingress, frame(&segment(BROWSER, "192.0.2.7:81", b"")));
    list.add("vip-udp-configured", Ingress, frame(&udp(addr(BROWSER), addr("192.0.2.7:53"), b"?")));
    list.add("vip-udp-unconfigured", Ingress, frame(&udp(addr(BROWSER), addr("192.0.2.7:54"), b"?")));
    list.add("vip-echo", Ingress, frame(&ipv4(1, ip(INTERNET), ip(VIP), &[8, 0, 0xF7, 0xFF, 0, 0, 0, 0])));
    let unreachable = [&[3, 4, 0, 0, 0, 0, 5, 0xA8][..], &segment(WEB, BROWSER, b"")[..28]].concat();
    list.add("vip-icmp-error", Ingress, frame(&ipv4(1, ip(INTERNET), ip(VIP), &unreachable)));
    list.add("vip-sctp", Ingress, frame(&ipv4(132, ip(INTERNET), ip(VIP), &[0; 20])));
    list.add("vip-tagged", Ingress, web.clone()).is_tagged = true;
    list.add("vip-vlan-ethertype", Ingress, {
        let mut tagged = web.clone();
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        tagged
    });
    list.add(
        "vip-foreign-mac",
        Ingress,
        with(web.clone(), |f| f[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x77])),
    );
    list.add("vip-broadcast-mac", Ingress, with(web, |f| f[..6].fill(0xFF)));
    for (name, source) in [
        ("martian-this-network", "0.0.0.1:1"),
        ("martian-loopback", "127.0.0.1:1"),
        ("martian-multicast", "224.0.0.1:1"),
        ("martian-reserved", "240.0.0.1:1"),
        ("martian-broadcast", "255.255.255.255:1"),
        ("martian-alias", "100.127.0.7:8080"),
        ("martian-node", "198.51.100.1:1"),
        ("martian-vip-itself", "192.0.2.7:80"),
        ("spoofed-proxy-to-vip", "100.64.0.1:1"),
    ] {
        list.add(name, Ingress, frame(&segment(source, WEB, b"")));
    }
}

fn malformed_to_vip(list: &mut List) {
    let web = || frame(&segment(BROWSER, WEB, b"GET /"));
    list.add("vip-ip-options", Ingress, frame(&with_options(&segment(BROWSER, WEB, b""))));
    list.add("vip-udp-ip-options", Ingress, frame(&with_options(&udp(addr(BROWSER), addr(WEB), b""))));
    list.add("vip-first-fragment", Ingress, with(web(), |f| f[ETH + 6] = 0x20));
    list.add("vip-later-fragment", Ingress, with(web(), |f| f[ETH + 7] = 5));
    list.add("vip-header-too-short", Ingress, with(web(), |f| f[ETH] = 0x44));
    list.add("vip-version-6-in-ipv4", Ingress, with(web(), |f| f[ETH] = 0x65));
    list.add("vip-total-length-zero", Ingress, with(web(), |f| f[ETH + 2..ETH + 4].fill(0)));
    list.add("vip-total-length-beyond-frame", Ingress, with(web(), |f| f[ETH + 3] += 1));
    list.add("vip-total-length-below-headers", Ingress, with(web(), |f| f[ETH + 3] = 39));
    list.add("vip-tcp-offset-too-small", Ingress, with(web(), |f| f[TCP + 12] = 0x40));
    list.add("vip-tcp-offset-beyond-packet", Ingress, with(web(), |f| f[TCP + 12] = 0xF0));
    list.add("vip-tcp-sum-zero", Ingress, with(web(), |f| f[TCP + 16..TCP + 18].fill(0)));
    list.add("vip-header-sum-zero", Ingress, {
        let mut zero = web();
        zero[ETH + 10..ETH + 12].fill(0);
        zero
    });
    list.add("vip-cut-in-tcp", Ingress, with(web(), |f| f.truncate(TCP + 10)));
    list.add("cut-in-ipv4", Ingress, with(web(), |f| f.truncate(ETH + 19)));
    list.add("cut-in-ethernet", Ingress, web()[..13].to_vec());
    list.add("vip-udp-cut", Ingress, frame(&ipv4(17, ip(INTERNET), ip(VIP), &[1, 2, 0, 53])));
}

fn not_for_epic(list: &mut List) {
    list.add("ssh-to-node", Ingress, frame(&segment(BROWSER, "198.51.100.1:22", b"SSH")));
    list.add("other-ethertype", Ingress, ethernet(0x88CC, &[0; 46]));
    list.add("bare-to-proxy", Ingress, frame(&segment(ENDPOINT, PROXY, b"")));
    list.add("bare-from-proxy", Ingress, frame(&segment(PROXY, "10.244.1.7:10001", b"")));
    list.add(
        "bare-fragment-to-proxy",
        Ingress,
        with(frame(&segment(ENDPOINT, PROXY, b"")), |f| f[ETH + 7] = 1),
    );
    let martian = frame(&segment("127.0.0.1:8080", "198.51.100.1:22", b""));
    list.add("martian-not-to-vip", Ingress, martian);
    list.add("arp-request-vip", Ingress, arp(1, "192.0.2.1", VIP));
    list.add("arp-request-broadcast-padded", Ingress, {
        let mut request = arp(1, "192.0.2.1", VIP);
        request[..6].fill(0xFF);
        request.resize(60, 0);
        request
    });
    list.add("arp-probe-vip", Ingress, arp(1, "0.0.0.0", VIP));
    list.add("arp-gratuitous-vip", Ingress, arp(1, VIP, VIP));
    list.add("arp-reply-vip", Ingress, arp(2, "192.0.2.1", VIP));
    list.add("arp-request-vip-of-other-node", Ingress, arp(1, "192.0.2.1", "192.0.2.8"));
    list.add("arp-request-other-address", Ingress, arp(1, "192.0.2.1", "192.0.2.9"));
    list.add("arp-cut", Ingress, arp(1, "192.0.2.1", VIP)[..ETH + 27].to_vec());
    list.add("ipv6-to-vip", Ingress, ipv6(6, "2001:db8::1", VIP_V6, &[0; 20]));
    list.add("ipv6-extension-to-vip", Ingress, ipv6(0, "2001:db8::1", VIP_V6, &[6, 0, 1, 4, 0, 0, 0, 0]));
    list.add("ipv6-fragment-to-vip", Ingress, ipv6(44, "2001:db8::1", VIP_V6, &[6, 0, 0, 1, 0, 0, 0, 9]));
    list.add("ipv6-bare-from-proxy", Ingress, ipv6(6, "fd00:64::1", "2001:db8::1", &[0; 20]));
    list.add("ipv6-to-others", Ingress, ipv6(58, "2001:db8::1", "2001:db8::2", &discovery(135, "fe80::1")));
}

fn from_client(list: &mut List) {
    let pong = segment(ENDPOINT, PROXY, b"pong");
    let by = |key: &[u8; 16]| gue(FROM_CLIENT, TO_NODE, 3, 7, key, &pong);
    list.add("gue-from-client", Ingress, by(&DATA_KEY));
    list.add("gue-from-client-old-key", Ingress, by(&OLD_KEY));
    list.add("gue-from-client-next-key", Ingress, by(&NEXT_KEY));
    list.add("gue-from-client-wrong-key", Ingress, by(b"key of no-one ..."[..16].try_into().unwrap()));
    list.add("gue-from-client-empty-key", Ingress, by(&[0; 16]));
    list.add("gue-from-client-node-key", Ingress, by(&NODE_KEY));
    list.add("gue-from-client-padded", Ingress, [by(&DATA_KEY), vec![0; 7]].concat());
    list.add("gue-from-client-syn-ack", Ingress, {
        let answer = tcp(addr(ENDPOINT), addr(PROXY), SYN | ACK, &linux_options(1460), &[]);
        gue(FROM_CLIENT, TO_NODE, 3, 7, &DATA_KEY, &answer)
    });
    list.add("gue-from-client-super-packet", Ingress, {
        let big = segment(ENDPOINT, PROXY, &[0x55; 2800]);
        gue(FROM_CLIENT, TO_NODE, 3, 7, &DATA_KEY, &big)
    })
    .segment = 1400;
    list.add("gue-from-unknown-source", Ingress, gue("198.51.100.66:1", TO_NODE, 3, 7, &DATA_KEY, &pong));
    let narrow = segment("10.244.1.6:8081", PROXY, b"pong");
    list.add("gue-from-nat", Ingress, gue("198.51.100.4:40001", TO_NODE, 3, 7, &DATA_KEY, &narrow));
    list.add(
        "gue-from-nat-wrong-port",
        Ingress,
        gue("198.51.100.4:40002", TO_NODE, 3, 7, &DATA_KEY, &narrow),
    );
    list.add("gue-unknown-service", Ingress, gue(FROM_CLIENT, TO_NODE, 3, 70, &DATA_KEY, &pong));
    list.add("gue-key-of-other-service", Ingress, gue(FROM_CLIENT, TO_NODE, 4, 7, &DATA_KEY, &pong));
    list.add("gue-other-service", Ingress, gue(FROM_CLIENT, TO_NODE, 4, 7, &OTHER_KEY, &pong));
    let to_its_proxy = segment(ENDPOINT, "100.64.0.4:41000", b"");
    list.add("gue-other-service-to-its-proxy", Ingress, {
        gue(FROM_CLIENT, TO_NODE, 4, 7, &OTHER_KEY, &to_its_proxy)
    });
    let inner = |from: &str, to: &str| gue(FROM_CLIENT, TO_NODE, 3, 7, &DATA_KEY, &segment(from, to, b""));
    list.add("gue-inner-not-endpoint", Ingress, inner("10.244.1.6:8080", PROXY));
    list.add("gue-inner-other-port", Ingress, inner("10.244.1.5:8081", PROXY));
    list.add("gue-inner-spoofed-alias", Ingress, inner(ALIAS, PROXY));
    list.add("gue-inner-to-pod", Ingress, inner(ENDPOINT, "10.244.1.7:41000"));
    list.add("gue-inner-to-draining-proxy", Ingress, inner(ENDPOINT, "100.64.0.6:41000"));
    list.add("gue-inner-to-no-proxy", Ingress, inner(ENDPOINT, "100.64.0.200:41000"));
    list.add("gue-inner-to-proxy-of-others", Ingress, inner(ENDPOINT, "100.64.0.4:41000"));
    list.add("gue-inner-to-proxy-elsewhere", Ingress, inner(ENDPOINT, "100.64.0.3:41000"));
    list.add("gue-to-other-address", Ingress, gue(FROM_CLIENT, "198.51.100.9:6080", 3, 7, &DATA_KEY, &pong));
    list.add("gue-to-other-port", Ingress, gue(FROM_CLIENT, "198.51.100.1:6081", 3, 7, &DATA_KEY, &pong));
    list.add("gue-tagged", Ingress, by(&DATA_KEY)).is_tagged = true;
    list.add("gue-foreign-mac", Ingress, with(by(&DATA_KEY), |f| f[0] = 2));
    let control = |payload: &[u8]| frame(&udp(addr("203.0.113.66:4444"), addr(TO_NODE), payload));
    list.add("gue-control", Ingress, control(b"\x20\x48\x00\x00whatever"));
    list.add("gue-control-other-version", Ingress, control(b"\x60\x48\x00\x00whatever"));
    list.add("gue-control-cut", Ingress, control(b"\x20\x48\x00"));
    list.add("gue-empty", Ingress, control(b""));
}

/// What is changed in a good GUE packet, by name.
type Change = (&'static str, fn(&mut Vec<u8>));

fn malformed_gue(list: &mut List) {
    let good = || gue(FROM_CLIENT, TO_NODE, 3, 7, &DATA_KEY, &segment(ENDPOINT, PROXY, b"pong"));
    let changes: &[Change] = &[
        ("gue-version-1", |f| f[GUE] = 0x45),
        ("gue-length-too-short", |f| f[GUE] = 0x04),
        ("gue-length-too-long", |f| f[GUE] = 0x06),
        ("gue-no-flags", |f| f[GUE + 2] = 0),
        ("gue-one-flag-more", |f| f[GUE + 3] = 1),
        ("gue-ipv6-inside", |f| f[GUE + 1] = 41),
        ("gue-ethernet-inside", |f| f[GUE + 1] = 97),
        ("gue-cut-in-udp", |f| f.truncate(UDP + 7)),
        ("gue-cut-in-header", |f| f.truncate(GUE + 2)),
        ("gue-cut-in-inner-ip", |f| f.truncate(INNER + 12)),
        ("gue-cut-in-data", |f| f.truncate(INNER + 42)),
        ("gue-short-but-consistent", |f| {
            f.truncate(INNER + 12);
            (f[ETH + 3], f[UDP + 5]) = (64, 44);
        }),
        ("gue-udp-length-too-long", |f| f[UDP + 5] += 1),
        ("gue-udp-length-too-short", |f| f[UDP + 5] -= 1),
        ("gue-udp-length-zero", |f| f[UDP + 5] = 0),
        ("gue-udp-sum-set", |f| f[UDP + 6..UDP + 8].fill(0xFF)),
        ("gue-outer-total-too-short", |f| f[ETH + 3] -= 1),
        ("gue-outer-total-zero", |f| f[ETH + 2..ETH + 4].fill(0)),
        ("gue-outer-first-fragment", |f| f[ETH + 6] = 0x20),
        ("gue-outer-later-fragment", |f| f[ETH + 7] = 1),
        ("gue-outer-header-with-options", |f| f[ETH] = 0x46),
        ("gue-inner-version-6", |f| f[INNER] = 0x65),
        ("gue-inner-options", |f| f[INNER] = 0x46),
        ("gue-inner-total-beyond", |f| f[INNER + 3] += 1),
        ("gue-inner-bytes-behind", |f| f[INNER + 3] -= 1),
        ("gue-inner-total-zero", |f| f[INNER + 2..INNER + 4].fill(0)),
        ("gue-inner-first-fragment", |f| f[INNER + 6] = 0x20),
        ("gue-inner-later-fragment", |f| f[INNER + 7] = 1),
        ("gue-inner-udp", |f| f[INNER + 9] = 17),
        ("gue-inner-icmp-error", |f| (f[INNER + 9], f[INNER + 20]) = (1, 3)),
        ("gue-inner-echo", |f| (f[INNER + 9], f[INNER + 20]) = (1, 8)),
        ("gue-inner-tcp-offset-too-small", |f| f[INNER + 32] = 0x40),
        ("gue-inner-tcp-offset-beyond", |f| f[INNER + 32] = 0xF0),
        ("gue-inner-sums-zero", |f| {
            f[INNER + 10..INNER + 12].fill(0);
            f[INNER + 36..INNER + 38].fill(0);
        }),
    ];
    for (name, change) in changes {
        list.add(name, Ingress, with(good(), *change));
    }
    let twice = gue(FROM_CLIENT, TO_NODE, 3, 7, &DATA_KEY, &good()[ETH..]);
    list.add("gue-in-gue", Ingress, twice);
}

fn from_node(list: &mut List) {
    let from = "198.51.100.3:50000";
    let inner = |source: &str, to: &str| gue(from, TO_NODE, 3, 7, &NODE_KEY, &segment(source, to, b"GET /"));
    list.add("node-to-proxy", Ingress, inner(BROWSER, "100.64.0.1:10001"));
    list.add("node-to-draining-proxy", Ingress, inner(BROWSER, "100.64.0.6:10001"));
    list.add("node-to-proxy-elsewhere", Ingress, inner(BROWSER, "100.64.0.3:10001"));
    list.add("node-to-no-proxy", Ingress, inner(BROWSER, "100.64.0.200:10001"));
    list.add("node-to-vip", Ingress, inner(BROWSER, WEB));
    list.add("node-martian-alias", Ingress, inner(ALIAS, "100.64.0.1:10001"));
    list.add("node-martian-proxy", Ingress, inner(PROXY, "100.64.0.1:10001"));
    list.add("node-martian-loopback", Ingress, inner("127.0.0.1:1", "100.64.0.1:10001"));
    list.add("node-martian-this-node", Ingress, inner("198.51.100.1:1", "100.64.0.1:10001"));
    let web = segment(BROWSER, "100.64.0.1:10001", b"");
    list.add("node-unknown-source", Ingress, gue("198.51.100.66:1", TO_NODE, 3, 7, &NODE_KEY, &web));
    list.add("node-with-data-key", Ingress, gue(from, TO_NODE, 3, 7, &DATA_KEY, &web));
    list.add("node-key-of-far-service", Ingress, gue(from, TO_NODE, 3, 8, &FAR_KEY, &web));
}

fn to_endpoint(list: &mut List) {
    let ping = || frame(&segment(UPSTREAM, ALIAS, b"ping"));
    list.add("pod-to-alias", FromPod, ping());
    list.add("pod-to-alias-padded", FromPod, {
        let mut padded = frame(&segment(UPSTREAM, ALIAS, b""));
        padded.resize(60, 0xEE);
        padded
    });
    list.add("pod-to-alias-class-and-ecn", FromPod, with(ping(), |f| f[ETH + 1] = 0xBA));
    list.add("pod-to-alias-foreign-mac", FromPod, with(ping(), |f| f[0] = 2));
    list.add("pod-to-alias-tagged", FromPod, ping()).is_tagged = true;
    list.add("pod-to-alias-unlisted", FromPod, ping()).is_unlisted = true;
    list.add("pod-to-alias-biggest", FromPod, frame(&segment(UPSTREAM, ALIAS, &[0x55; 1408])));
    list.add("pod-to-alias-too-big", FromPod, frame(&segment(UPSTREAM, ALIAS, &[0x55; 1409])));
    let big = frame(&segment(UPSTREAM, ALIAS, &[0x55; 2820]));
    list.add("pod-to-alias-super-packet", FromPod, big.clone()).segment = 1408;
    list.add("pod-to-alias-super-packet-too-big", FromPod, big).segment = 1410;
    list.add("pod-to-narrow-alias", FromPod, frame(&segment(UPSTREAM, "100.127.0.10:8081", b"ping")));
    let big = segment(UPSTREAM, "100.127.0.10:8081", &[0x55; 1309]);
    list.add("pod-to-narrow-alias-too-big", FromPod, frame(&big));
    list.add("pod-to-alias-no-remote", FromPod, frame(&segment(UPSTREAM, "100.127.0.8:8081", b"ping")));
    list.add("pod-to-alias-no-tunnel", FromPod, frame(&segment(UPSTREAM, "100.127.0.9:8081", b"")));
    list.add("pod-to-alias-wrong-port", FromPod, frame(&segment(UPSTREAM, "100.127.0.7:8081", b"")));
    list.add("pod-to-unknown-alias", FromPod, frame(&segment(UPSTREAM, "100.127.9.9:8080", b"")));
    list.add("pod-to-alias-udp", FromPod, frame(&udp(addr(UPSTREAM), addr(ALIAS), b"")));
    list.add("pod-to-alias-options", FromPod, frame(&with_options(&segment(UPSTREAM, ALIAS, b""))));
    list.add("pod-to-alias-first-fragment", FromPod, with(ping(), |f| f[ETH + 6] = 0x20));
    list.add("pod-to-alias-later-fragment", FromPod, with(ping(), |f| f[ETH + 7] = 2));
    list.add("pod-to-alias-cut", FromPod, with(ping(), |f| f.truncate(TCP + 19)));
    list.add("pod-to-alias-total-zero", FromPod, with(ping(), |f| f[ETH + 2..ETH + 4].fill(0)));
    list.add("pod-to-alias-sums-zero", FromPod, {
        let mut zero = ping();
        zero[ETH + 10..ETH + 12].fill(0);
        zero[TCP + 16..TCP + 18].fill(0);
        zero
    });
    let echo = ipv4(1, ip(POD), ip("100.127.0.7"), &[8, 0, 0xF7, 0xFF, 0, 0, 0, 0]);
    list.add("pod-to-alias-echo", FromPod, frame(&echo));
}

fn clamped(list: &mut List) {
    let options: &[(&'static str, &[u8])] = &[
        ("pod-syn-linux", &[2, 4, 5, 0xB4, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7]),
        ("pod-syn-small-mss", &[2, 4, 3, 0xE8]),
        ("pod-syn-mss-behind-nops", &[1, 1, 2, 4, 5, 0xB4]),
        ("pod-syn-mss-odd", &[1, 2, 4, 5, 0xB4]),
        ("pod-syn-mss-odd-behind-sack", &[4, 2, 1, 2, 4, 0xFF, 0xFF]),
        ("pod-syn-mss-last", &[8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 4, 2, 2, 4, 5, 0xB4]),
        ("pod-syn-mss-twice", &[2, 4, 5, 0xB4, 2, 4, 5, 0xB4]),
        ("pod-syn-no-options", &[]),
        ("pod-syn-no-mss", &[4, 2]),
        ("pod-syn-mss-behind-end", &[0, 0, 0, 0, 2, 4, 5, 0xB4]),
        ("pod-syn-option-length-zero", &[5, 0, 0, 0, 2, 4, 5, 0xB4]),
        ("pod-syn-option-length-one", &[5, 1, 2, 4, 5, 0xB4]),
        ("pod-syn-option-too-long", &[5, 255, 2, 4, 5, 0xB4]),
        ("pod-syn-mss-length-three", &[2, 3, 5]),
        ("pod-syn-option-length-wraps", &[5, 66, 2, 4, 5, 0xB4]),
    ];
    for (name, options) in options {
        list.add(name, FromPod, frame(&tcp(addr(UPSTREAM), addr(ALIAS), SYN, options, &[])));
    }
    let mut full = vec![1; 36];
    full.extend([2, 4, 5, 0xB4]);
    list.add("pod-syn-mss-at-forty", FromPod, frame(&tcp(addr(UPSTREAM), addr(ALIAS), SYN, &full, &[])));
    let ack = tcp(addr(UPSTREAM), addr(ALIAS), ACK, &linux_options(1460), &[]);
    list.add("pod-mss-without-syn", FromPod, frame(&ack));
    let reply = tcp(addr(LISTENER), addr(BROWSER), SYN | ACK, &linux_options(1460), &[]);
    list.add("reply-syn-ack", FromPod, frame(&reply));
    let answer = tcp(addr(ENDPOINT), addr(PROXY), SYN | ACK, &linux_options(1460), &[]);
    list.add("endpoint-syn-ack", ClientEgress, frame(&answer));
    let narrow = tcp(addr(ENDPOINT), addr("100.64.0.6:41000"), SYN | ACK, &[1, 2, 4, 5, 0xB4], &[]);
    list.add("endpoint-syn-ack-narrow-odd", ClientEgress, frame(&narrow));
}

fn fenced(list: &mut List) {
    let send = |from: &str, to: &str| frame(&segment(from, to, b""));
    list.add("reply", FromPod, frame(&segment(LISTENER, BROWSER, b"200 OK")));
    list.add("reply-second-listener", FromPod, send("10.244.1.7:10002", BROWSER));
    list.add("reply-opens-connection", FromPod, frame(&syn(LISTENER, BROWSER, 1460)));
    list.add("reply-no-listener", FromPod, send("10.244.1.7:10009", BROWSER));
    list.add("reply-to-node", FromPod, send(LISTENER, "10.244.1.1:50000"));
    list.add("reply-to-pod", FromPod, send(LISTENER, "10.244.1.9:50000"));
    list.add("reply-no-route", FromPod, send(LISTENER, "192.0.2.200:50000"));
    list.add("reply-unlisted", FromPod, send(LISTENER, BROWSER)).is_unlisted = true;
    list.add("reply-super-packet", FromPod, frame(&segment(LISTENER, BROWSER, &[0x55; 2800]))).segment = 1400;
    list.add("ops-to-kubelet", FromPod, send("10.244.1.7:9901", "10.244.1.1:50000"));
    list.add("ops-to-scraper", FromPod, send("10.244.1.7:9901", "10.244.1.9:50000"));
    list.add("ops-to-scraper-elsewhere", FromPod, send("10.244.1.7:9901", "10.244.9.9:50000"));
    list.add("reply-to-pod-elsewhere", FromPod, send(LISTENER, "10.244.2.9:50000"));
    list.add("ops-to-internet", FromPod, send("10.244.1.7:9901", BROWSER));
    list.add("ops-opens-connection", FromPod, frame(&syn("10.244.1.7:9901", "10.244.1.1:10250", 1460)));
    list.add("ops-unlisted", FromPod, send("10.244.1.7:9901", "10.244.1.1:50000")).is_unlisted = true;
    list.add("pass-xds", FromPod, frame(&syn(UPSTREAM, "10.96.0.50:18000", 1460)));
    list.add("pass-xds-unlisted", FromPod, frame(&syn(UPSTREAM, "10.96.0.50:18000", 1460))).is_unlisted =
        true;
    list.add("pass-untunnelled", FromPod, send(UPSTREAM, "172.16.0.9:8080"));
    list.add("pass-untunnelled-unlisted", FromPod, send(UPSTREAM, "172.16.0.9:8080")).is_unlisted = true;
    list.add("pass-udp", FromPod, frame(&udp(addr(UPSTREAM), addr("172.16.0.9:53"), b"?")));
    list.add("pod-dns", FromPod, frame(&udp(addr(UPSTREAM), addr("10.96.0.10:53"), b"?")));
    list.add("pod-dns-unlisted", FromPod, frame(&udp(addr(UPSTREAM), addr("10.96.0.10:53"), b"?")))
        .is_unlisted = true;
    list.add("pod-udp-cut", FromPod, frame(&ipv4(17, ip(POD), ip("172.16.0.9"), &[1, 2, 0, 53])));
    list.add("pod-udp-fragment", FromPod, {
        with(frame(&udp(addr(UPSTREAM), addr("172.16.0.9:53"), b"?")), |f| f[ETH + 6] = 0x20)
    });
    list.add("pod-to-metadata", FromPod, send(UPSTREAM, "169.254.169.254:80"));
    list.add("pod-to-node", FromPod, frame(&syn(UPSTREAM, "198.51.100.1:10250", 1460)));
    list.add("pod-spoofed-source", FromPod, send("10.244.1.8:10001", BROWSER));
    list.add("pod-spoofed-vip", FromPod, send(WEB, BROWSER));
    list.add("pod-spoofed-proxy-address", FromPod, send(PROXY, ENDPOINT));
    list.add(
        "pod-gue",
        FromPod,
        gue("10.244.1.7:1", TO_CLIENT, 3, 7, &DATA_KEY, &segment(PROXY, ENDPOINT, b"")),
    );
    list.add("pod-echo", FromPod, frame(&ipv4(1, ip(POD), ip(INTERNET), &[8, 0, 0xF7, 0xFF, 0, 0, 0, 0])));
    let error = ipv4(1, ip(POD), ip(INTERNET), &[3, 1, 0xFC, 0xFE, 0, 0, 0, 0]);
    list.add("pod-icmp-error", FromPod, frame(&error));
    list.add("pod-lldp", FromPod, ethernet(0x88CC, &[0; 46]));
    list.add("pod-vlan-ethertype", FromPod, ethernet(0x8100, &[0, 5, 8, 0, 0x45, 0, 0, 20]));
    list.add("pod-cut-in-ethernet", FromPod, vec![0; 13]);
    list.add("pod-cut-in-ipv4", FromPod, send(UPSTREAM, ALIAS)[..ETH + 19].to_vec());
}

fn neighbours(list: &mut List) {
    list.add("pod-arp-request", FromPod, arp(1, POD, "10.244.1.1"));
    list.add("pod-arp-gratuitous", FromPod, arp(1, POD, POD));
    list.add("pod-arp-probe", FromPod, arp(1, "0.0.0.0", POD));
    list.add("pod-arp-reply", FromPod, arp(2, POD, "10.244.1.1"));
    list.add("pod-arp-spoofed-gateway", FromPod, arp(2, "10.244.1.1", "10.244.1.9"));
    list.add("pod-arp-spoofed-unlisted", FromPod, arp(2, "10.244.1.1", "10.244.1.9")).is_unlisted = true;
    list.add("pod-arp-token-ring", FromPod, {
        let mut ring = arp(1, POD, "10.244.1.1");
        ring[15] = 4;
        ring
    });
    list.add("pod-arp-cut", FromPod, arp(1, POD, "10.244.1.1")[..40].to_vec());
    let nd = |kind, source: &str, target: &str| ipv6(58, source, "ff02::1", &discovery(kind, target));
    list.add("pod-nd-solicitation", FromPod, nd(135, POD_V6, "fd00:10:244:1::1"));
    list.add("pod-nd-duplicate-detection", FromPod, nd(135, "::", POD_V6));
    list.add("pod-nd-solicitation-spoofed", FromPod, nd(135, "fd00:10:244:1::9", "fd00:10:244:1::1"));
    list.add("pod-nd-advertisement", FromPod, nd(136, POD_V6, POD_V6));
    list.add("pod-nd-advertisement-spoofed", FromPod, nd(136, POD_V6, "fd00:10:244:1::1"));
    let unlisted = list.add("pod-nd-advertisement-unlisted", FromPod, nd(136, "fe80::1", "fe80::1"));
    unlisted.is_unlisted = true;
    list.add("pod-nd-advertisement-cut", FromPod, nd(136, POD_V6, POD_V6)[..ETH + 63].to_vec());
    list.add("pod-nd-router-solicitation", FromPod, nd(133, "fe80::7", "::"));
    list.add("pod-nd-router-advertisement", FromPod, nd(134, "fe80::7", "::"));
    let report = [58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 0];
    list.add("pod-mld-report", FromPod, ipv6(0, "fe80::7", "ff02::16", &report));
    list.add("pod-hop-by-hop-to-node", FromPod, ipv6(0, "fe80::7", "fe80::1", &report));
    list.add("pod-ipv6-tcp", FromPod, ipv6(6, POD_V6, "2001:db8::1", &[0; 20]));
    list.add("pod-ipv6-fragment", FromPod, ipv6(44, POD_V6, "2001:db8::1", &[58, 0, 0, 1, 0, 0, 0, 1]));
    list.add("pod-ipv6-echo", FromPod, ipv6(58, POD_V6, "2001:db8::1", &[128, 0, 0, 0, 0, 0, 0, 0]));
    list.add("pod-ipv6-cut", FromPod, ipv6(58, POD_V6, "ff02::1", &[]));
}

fn to_client(list: &mut List) {
    let ping = segment(PROXY, ENDPOINT, b"ping");
    let by = |key: &[u8; 16]| gue(FROM_NODE, TO_CLIENT, 3, 7, key, &ping);
    list.add("client-in", ClientIngress, by(&DATA_KEY));
    list.add("client-in-old-key", ClientIngress, by(&OLD_KEY));
    list.add("client-in-next-key", ClientIngress, by(&NEXT_KEY));
    list.add("client-in-node-key", ClientIngress, by(&NODE_KEY));
    list.add("client-in-empty-key", ClientIngress, by(&[0; 16]));
    list.add("client-in-padded", ClientIngress, [by(&DATA_KEY), vec![0; 9]].concat());
    list.add("client-in-tagged", ClientIngress, by(&DATA_KEY)).is_tagged = true;
    list.add("client-in-foreign-mac", ClientIngress, with(by(&DATA_KEY), |f| f[0] = 2));
    list.add("client-in-super-packet", ClientIngress, {
        gue(FROM_NODE, TO_CLIENT, 3, 7, &DATA_KEY, &segment(PROXY, ENDPOINT, &[0x55; 2800]))
    })
    .segment = 1400;
    let inner = |from: &str, to: &str| gue(FROM_NODE, TO_CLIENT, 3, 7, &DATA_KEY, &segment(from, to, b""));
    list.add("client-in-learned-proxy", ClientIngress, inner("100.64.0.9:41000", ENDPOINT));
    list.add("client-in-proxy-of-other-tunnel", ClientIngress, inner("100.64.0.2:41000", ENDPOINT));
    list.add("client-in-proxy-of-others", ClientIngress, inner("100.64.0.4:41000", ENDPOINT));
    list.add("client-in-no-proxy", ClientIngress, inner("10.0.0.1:41000", ENDPOINT));
    list.add("client-in-no-endpoint", ClientIngress, inner(PROXY, "10.244.1.5:22"));
    list.add("client-in-second-endpoint", ClientIngress, inner(PROXY, "10.244.1.6:8081"));
    list.add("client-in-from-narrow", ClientIngress, {
        gue("198.51.100.3:1", TO_CLIENT, 3, 7, &DATA_KEY, &segment("100.64.0.2:1", ENDPOINT, b""))
    });
    let unknown = gue("198.51.100.66:1", TO_CLIENT, 3, 7, &DATA_KEY, &ping);
    list.add("client-in-unknown-source", ClientIngress, unknown);
    list.add("client-in-other-service", ClientIngress, gue(FROM_NODE, TO_CLIENT, 4, 7, &OTHER_KEY, &ping));
    list.add("client-in-unknown-service", ClientIngress, gue(FROM_NODE, TO_CLIENT, 3, 9, &DATA_KEY, &ping));
    let changes: &[Change] = &[
        ("client-in-gue-version-1", |f| f[GUE] = 0x45),
        ("client-in-udp-length-too-short", |f| f[UDP + 5] -= 1),
        ("client-in-outer-first-fragment", |f| f[ETH + 6] = 0x20),
        ("client-in-outer-later-fragment", |f| f[ETH + 7] = 1),
        ("client-in-inner-fragment", |f| f[INNER + 6] = 0x20),
        ("client-in-inner-options", |f| f[INNER] = 0x46),
        ("client-in-inner-udp", |f| f[INNER + 9] = 17),
        ("client-in-inner-total-zero", |f| f[INNER + 2..INNER + 4].fill(0)),
        ("client-in-inner-sums-zero", |f| {
            f[INNER + 10..INNER + 12].fill(0);
            f[INNER + 36..INNER + 38].fill(0);
        }),
        ("client-in-cut", |f| f.truncate(INNER + 30)),
    ];
    for (name, change) in changes {
        list.add(name, ClientIngress, with(by(&DATA_KEY), *change));
    }
    let control = |from: &str| frame(&udp(addr(from), addr(TO_CLIENT), b"\x20\x48\x00\x00whatever"));
    list.add("client-in-control", ClientIngress, control(&format!("{NODE}:6080")));
    list.add("client-in-control-second-node", ClientIngress, control(&format!("{NODE2}:6080")));
    list.add("client-in-control-from-others", ClientIngress, control("203.0.113.66:6080"));
    list.add("client-in-bare-from-proxy", ClientIngress, frame(&ping));
    list.add("client-in-bare-to-proxy", ClientIngress, frame(&segment(ENDPOINT, PROXY, b"")));
    list.add("client-in-others", ClientIngress, frame(&segment("192.0.2.1:1", ENDPOINT, b"")));
    list.add("client-in-arp", ClientIngress, arp(1, "198.51.100.254", CLIENT));
    list.add("client-in-ipv6", ClientIngress, ipv6(58, "fe80::1", "ff02::1", &discovery(135, "fe80::2")));
}

fn from_endpoint(list: &mut List) {
    let send = |to: &str, data: &[u8]| frame(&segment(ENDPOINT, to, data));
    list.add("client-out", ClientEgress, send(PROXY, b"pong"));
    list.add(
        "client-out-foreign-mac",
        ClientEgress,
        with(send(PROXY, b"pong"), |f| f[..6].copy_from_slice(&FROM_MAC)),
    );
    list.add("client-out-padded", ClientEgress, {
        let mut padded = send(PROXY, b"");
        padded.resize(60, 0);
        padded
    });
    list.add("client-out-narrow", ClientEgress, send("100.64.0.6:41000", b"pong"));
    list.add("client-out-biggest", ClientEgress, send(PROXY, &[0x55; 1408]));
    list.add("client-out-too-big", ClientEgress, send(PROXY, &[0x55; 1409]));
    list.add("client-out-narrow-too-big", ClientEgress, send("100.64.0.6:41000", &[0x55; 1309]));
    list.add("client-out-super-packet", ClientEgress, send(PROXY, &[0x55; 2816])).segment = 1408;
    list.add("client-out-super-packet-too-big", ClientEgress, send(PROXY, &[0x55; 2820])).segment = 1410;
    list.add("client-out-no-route", ClientEgress, send("100.64.0.99:1", b""));
    list.add("client-out-no-remote", ClientEgress, send("100.64.0.5:1", b""));
    list.add("client-out-no-tunnel", ClientEgress, send("100.64.0.7:1", b""));
    list.add("client-out-udp", ClientEgress, frame(&udp(addr(ENDPOINT), addr(PROXY), b"")));
    let error = ipv4(1, *addr(ENDPOINT).ip(), *addr(PROXY).ip(), &[3, 3, 0xFC, 0xFC, 0, 0, 0, 0]);
    list.add("client-out-icmp-error", ClientEgress, frame(&error));
    let echo = ipv4(1, *addr(ENDPOINT).ip(), *addr(PROXY).ip(), &[8, 0, 0xF7, 0xFF, 0, 0, 0, 0]);
    list.add("client-out-echo", ClientEgress, frame(&echo));
    list.add("client-out-options", ClientEgress, frame(&with_options(&segment(ENDPOINT, PROXY, b""))));
    list.add("client-out-fragment", ClientEgress, with(send(PROXY, b""), |f| f[ETH + 6] = 0x20));
    list.add("client-out-total-zero", ClientEgress, with(send(PROXY, b""), |f| f[ETH + 2..ETH + 4].fill(0)));
    list.add("client-out-cut", ClientEgress, with(send(PROXY, b""), |f| f.truncate(TCP + 12)));
    list.add("client-out-tcp-offset-beyond", ClientEgress, with(send(PROXY, b""), |f| f[TCP + 12] = 0xF0));
    list.add("client-out-sums-zero", ClientEgress, {
        let mut zero = send(PROXY, b"pong");
        zero[ETH + 10..ETH + 12].fill(0);
        zero[TCP + 16..TCP + 18].fill(0);
        zero
    });
    list.add("client-out-ipv6", ClientEgress, ipv6(58, "fe80::1", "ff02::2", &discovery(133, "::")));
    list.add("client-out-arp", ClientEgress, arp(1, CLIENT, "100.64.0.1"));
}
