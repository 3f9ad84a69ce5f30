//! What may become of a packet, judged by its own fields: written apart from the core, from what the design
//! says.
//!
//! It knows the busy hosts of [`scene`](crate::scene) by heart, and says nothing about why a packet is
//! dropped: a packet may always be dropped, but under one reason, and nothing goes on that has no right to.

use std::net::Ipv4Addr;

use epic_abi::Lb;
use epic_core::Act;

use crate::{
    frame::{ETH, sum},
    native::{Packet, Program},
    scene::{self, IFINDEX, Routes},
};

/// What is wrong.
pub type Judgement = Result<(), String>;

/// Bytes in front of an inner packet.
const OVERHEAD: usize = 52;
/// Where inner packets begin.
const INNER: usize = ETH + OVERHEAD;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const GUE: u16 = 6080;
const OPS: u16 = 9901;
const SYN: u8 = 2;
const ACK: u8 = 16;
/// Bytes of an ICMP error with its Ethernet header: 28 in front of a quote of 40.
const ANSWER: usize = ETH + 68;

fn ensure(holds: bool, what: &str) -> Judgement {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// An IPv4 header and the ports behind it, at an offset of a frame.
#[derive(Clone, Copy)]
struct View<'a> {
    /// From the header to the end of the frame.
    bytes: &'a [u8],
}

impl<'a> View<'a> {
    fn at(frame: &'a [u8], at: usize) -> Option<Self> {
        frame.get(at..).filter(|bytes| bytes.len() >= 20).map(|bytes| Self { bytes })
    }

    /// Of a frame whose ethertype is IPv4's.
    fn of(frame: &'a [u8]) -> Option<Self> {
        if frame.get(12..14) == Some(&[8, 0]) { Self::at(frame, ETH) } else { None }
    }

    fn protocol(self) -> u8 {
        self.bytes[9]
    }

    fn total(self) -> usize {
        be16(self.bytes, 2).into()
    }

    fn source(self) -> Ipv4Addr {
        Ipv4Addr::new(self.bytes[12], self.bytes[13], self.bytes[14], self.bytes[15])
    }

    fn destination(self) -> Ipv4Addr {
        Ipv4Addr::new(self.bytes[16], self.bytes[17], self.bytes[18], self.bytes[19])
    }

    /// Neither options nor a fragment.
    fn is_plain(self) -> bool {
        self.bytes[0] == 0x45 && be16(self.bytes, 6) & 0x3FFF == 0
    }

    fn ports(self) -> Option<[u16; 2]> {
        (self.bytes.len() >= 24).then(|| [be16(self.bytes, 20), be16(self.bytes, 22)])
    }

    /// Whether this is a whole TCP packet that may be translated.
    fn is_whole_tcp(self) -> bool {
        self.is_plain()
            && self.protocol() == TCP
            && self.bytes.len() >= 40
            && self.total() <= self.bytes.len()
            && self.bytes[32] >= 0x50
            && 20 + usize::from(self.bytes[32] >> 4) * 4 <= self.total()
    }

    fn flags(self) -> u8 {
        self.bytes[33]
    }

    fn is_opening(self) -> bool {
        self.flags() & (SYN | ACK) == SYN
    }

    /// Bytes of IP and TCP header.
    fn headers(self) -> usize {
        20 + usize::from(self.bytes[32] >> 4) * 4
    }

    /// Bytes of the biggest IP packet that this is on the wire.
    fn biggest(self, segment: u32) -> usize {
        if segment == 0 { self.total() } else { segment as usize + self.headers() }
    }

    fn header_sum_holds(self) -> bool {
        sum(0, &self.bytes[..20]) == 0xFFFF
    }

    fn tcp_sum_holds(self) -> bool {
        let Some(segment) = self.bytes.get(20..self.total()) else { return false };
        let pseudo = sum(u32::from(TCP) + segment.len() as u32, &self.bytes[12..20]);
        sum(pseudo, segment) == 0xFFFF
    }

    /// The MSS, and where it lies in the packet.
    fn mss(self) -> Option<(usize, u16)> {
        let mut at = 40;
        while at + 4 <= self.headers() {
            match (self.bytes[at], self.bytes[at + 1]) {
                (0, _) => return None,
                (1, _) => at += 1,
                (2, 4) => return Some((at + 2, be16(self.bytes, at + 2))),
                (2, _) | (_, 0 | 1) => return None,
                (_, length) => at += usize::from(length),
            }
        }
        None
    }
}

/// A GUE packet to this host.
struct Tunnelled {
    source: Ipv4Addr,
    source_port: u16,
    is_control: bool,
    lb: Lb,
    key: [u8; 16],
}

/// Whether the frame is UDP to the GUE port of `local`; a later fragment has no ports.
fn is_gue_to(view: View<'_>, local: &str) -> bool {
    view.bytes[0] == 0x45
        && view.protocol() == UDP
        && be16(view.bytes, 6) & 0x1FFF == 0
        && view.bytes.len() >= 28
        && view.ports().is_some_and(|[_, to]| to == GUE)
        && is(view.destination(), local)
}

/// Reads it; an error if nothing that claims to be this may be believed.
fn tunnelled(view: View<'_>) -> Result<Tunnelled, String> {
    ensure(view.is_plain(), "the outer packet is a fragment")?;
    ensure(view.total() <= view.bytes.len(), "the outer packet is cut")?;
    ensure(usize::from(be16(view.bytes, 24)) + 20 == view.total(), "the UDP length is another")?;
    ensure(view.total() >= 28 + 4, "there is no GUE header")?;
    let gue = &view.bytes[28..];
    ensure(gue[0] & 0xC0 == 0, "GUE of another version")?;
    let is_control = gue[0] & 0x20 != 0;
    let mut key = [0; 16];
    let mut lb = Lb::default();
    if !is_control {
        ensure(gue[..4] == [5, 4, 0xA0, 0], "the GUE header is another")?;
        ensure(view.total() >= OVERHEAD + 20, "there is no inner header")?;
        lb = Lb::new(be16(gue, 4), be16(gue, 6));
        key.copy_from_slice(&gue[8..24]);
    }
    let source_port = be16(view.bytes, 20);
    Ok(Tunnelled { source: view.source(), source_port, is_control, lb, key })
}

/// The packet inside, which fills the outer one.
fn inside<'a>(outer: View<'a>, frame: &'a [u8]) -> Result<View<'a>, String> {
    let inner = View::at(&frame[..ETH + outer.total()], INNER).ok_or("there is no inner header")?;
    ensure(inner.is_whole_tcp(), "the inner packet is no whole TCP")?;
    ensure(inner.total() == inner.bytes.len(), "the inner packet does not fill the outer one")?;
    Ok(inner)
}

fn is(address: Ipv4Addr, text: &str) -> bool {
    text.parse() == Ok(address)
}

fn is_proxy(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    a == 100 && (64..96).contains(&b)
}

fn is_alias(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    a == 100 && b == 127
}

/// Whether nobody out there has the address.
fn is_martian(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first == 0 || first == 127 || first >= 224 || is_alias(address) || is(address, scene::NODE)
}

fn is_vip(address: Ipv4Addr) -> bool {
    is(address, scene::VIP) || is(address, scene::OTHER_VIP)
}

fn is_foreign(frame: &[u8]) -> bool {
    frame.len() >= ETH && frame[0] & 1 == 0 && frame[..6] != [0; 6]
}

/// Judges what has become of `packet`: `act`, and the frame `after`. `drops` is how many packets were counted
/// as dropped.
pub fn judge(packet: &Packet, act: Act, after: &[u8], drops: u64, routes: Routes) -> Judgement {
    let before = &packet.frame[..];
    match act {
        Act::Next | Act::Pass => ensure(after == before, "a packet that goes on was changed")?,
        Act::Drop => return ensure(drops == 1, "a drop is counted once"),
        _ => {
            ensure(after.len() <= before.len() + OVERHEAD, "the frame grew by more than a tunnel's headers")?
        }
    }
    let is_refusal = match act {
        Act::Back(_) | Act::Into(_) => after.get(ETH + 9) == Some(&ICMP) && after.len() == ANSWER,
        _ => false,
    };
    // What is not dropped may still be: an answer stands for the packet that was refused.
    let is_arp = before.get(12..14) == Some(&[8, 6]);
    let is_delivery = packet.program == Program::ClientIngress;
    let counted = u64::from(is_refusal && !is_arp && !is_delivery);
    ensure(drops == counted, "what is not dropped is counted as dropped, or an answer is not")?;
    match packet.program {
        Program::Ingress => ingress(packet, act, after),
        Program::FromPod => from_pod(packet, act, after, routes),
        Program::ClientIngress => client_ingress(packet, act, after),
        Program::ClientEgress => client_egress(packet, act, after),
    }
}

fn ingress(packet: &Packet, act: Act, after: &[u8]) -> Judgement {
    let before = &packet.frame[..];
    let view = View::of(before);
    if packet.is_tagged || is_foreign(before) {
        return ensure(act == Act::Next, "another's frame was touched");
    }
    let gue = view.filter(|view| is_gue_to(*view, scene::NODE));
    match act {
        Act::Next => {
            if let Some(view) = view {
                ensure(gue.is_none(), "GUE to this node goes on")?;
                let [from, to] = [view.source(), view.destination()];
                ensure(!is_proxy(from) && !is_proxy(to), "a bare proxy address goes on")?;
                ensure(!is_vip(to), "a packet to a VIP goes on")?;
            }
            let v6 = before.get(12..14) == Some(&[0x86, 0xDD]) && before.len() >= ETH + 40;
            let address = |at: usize| &before[ETH + at..ETH + at + 16];
            let is_proxy_v6 = |at| address(at)[..8] == [0xFD, 0, 0, 0x64, 0, 0, 0, 0];
            ensure(!v6 || !is_proxy_v6(8) && !is_proxy_v6(24), "a bare proxy address goes on")?;
            let vip: std::net::Ipv6Addr = scene::VIP_V6.parse().map_err(|_| "no address")?;
            ensure(!v6 || address(24) != vip.octets(), "a packet to a VIP goes on")
        }
        Act::Pass => {
            let view = gue.ok_or("something else than GUE is passed to the agent")?;
            ensure(tunnelled(view)?.is_control, "data is passed to the agent")
        }
        Act::Peer(ifindex) => {
            ensure(ifindex == IFINDEX, "to a veth of no proxy")?;
            match gue {
                Some(outer) => out_of_tunnel(before, outer, after),
                None => to_proxy_here(before, view.ok_or("a frame without IPv4 is delivered")?, after),
            }
        }
        Act::Neighbour(ifindex) => {
            ensure(ifindex == IFINDEX, "not by the underlay")?;
            to_other_node(packet, view.ok_or("a frame without IPv4 is sent on")?, after)
        }
        Act::Back(ifindex) => {
            ensure(ifindex == IFINDEX, "an answer goes elsewhere")?;
            if before[12..14] == [8, 6] {
                return answers_arp(before, after);
            }
            let view = from_internet(view.ok_or("a frame without IPv4 is answered")?)?;
            ensure(is(view.destination(), scene::VIP), "answered for a VIP of others")?;
            ensure(view.ports().is_some_and(|[_, to]| to == 8080), "no service elsewhere")?;
            ensure(view.biggest(packet.segment) > 1448, "refused though it fits")?;
            answers(before, after, 4, 1448)
        }
        Act::Hop(_) | Act::Into(_) | Act::Drop => Err("this program does no such thing".to_owned()),
    }
}

/// A packet that came by GUE is delivered: it has proven itself.
fn out_of_tunnel(before: &[u8], outer: View<'_>, after: &[u8]) -> Judgement {
    let data = tunnelled(outer)?;
    ensure(!data.is_control, "a control message is delivered")?;
    let inner = inside(outer, before)?;
    let [from, to] = inner.ports().ok_or("there are no ports")?;
    ensure(data.lb == scene::LB, "for a LoadBalancer without a proxy here that tunnels lead to")?;
    let pod = match () {
        () if is(inner.destination(), scene::PROXY) => scene::POD,
        () if is(inner.destination(), scene::DRAINING_PROXY) => scene::DRAINING_POD,
        () => return Err("not for a proxy of this node".to_owned()),
    };
    let source = if [scene::DATA_KEY, scene::OLD_KEY, scene::NEXT_KEY].contains(&data.key) {
        let endpoint = inner.source();
        if is(data.source, scene::CLIENT) {
            ensure(is(endpoint, scene::ENDPOINT) && from == 8080, "from no endpoint of this tunnel")?;
            scene::ALIAS.parse().map_err(|_| "no address")?
        } else {
            let is_known = is(data.source, scene::NAT_CLIENT) && data.source_port == scene::NAT_PORT;
            ensure(is_known, "from an outer source that is not known")?;
            ensure(is(endpoint, scene::NARROW_ENDPOINT) && from == 8081, "from no endpoint of this tunnel")?;
            scene::NARROW_ALIAS.parse().map_err(|_| "no address")?
        }
    } else {
        ensure(data.key == scene::NODE_KEY, "by a key that nobody has")?;
        ensure(is(data.source, scene::NODE2), "a node's key from elsewhere")?;
        let client = inner.source();
        ensure(!is_proxy(client) && !is_martian(client), "from a source that nobody has")?;
        client
    };
    let pod = pod.parse().map_err(|_| "no address")?;
    // What lies behind the outer packet stays there.
    let inner = View::at(before, INNER).ok_or("there is no inner header")?;
    translated(before, inner, after, ETH, [source, pod], [from, to], None)
}

/// The packet if it is one from the internet that a service may take.
fn from_internet(view: View<'_>) -> Result<View<'_>, String> {
    ensure(view.is_whole_tcp(), "no whole TCP")?;
    let [from, to] = [view.source(), view.destination()];
    ensure(is_vip(to), "to no VIP")?;
    ensure(from != to && !is_martian(from) && !is_proxy(from), "from a source that nobody has")?;
    Ok(view)
}

fn to_proxy_here(before: &[u8], view: View<'_>, after: &[u8]) -> Judgement {
    let view = from_internet(view)?;
    let [from, to] = view.ports().ok_or("there are no ports")?;
    let listener = match to {
        80 => 10001,
        443 if is(view.destination(), scene::VIP) => {
            let [a, b, c, d] = view.source().octets();
            ensure([a, b, c] == [203, 0, 113] && d < 16, "from outside the source ranges")?;
            10002
        }
        _ => return Err("no service with a proxy here".to_owned()),
    };
    let now = View::of(after).ok_or("there is no packet left")?;
    let keeps = is(view.source(), scene::INTERNET) && from == scene::DRAINING_PORT && to == 80;
    let pod = now.destination();
    let is_right = is(pod, scene::POD) || (keeps && is(pod, scene::DRAINING_POD));
    ensure(is_right, "to no proxy of the service")?;
    translated(before, view, after, ETH, [view.source(), pod], [from, listener], None)
}

fn to_other_node(packet: &Packet, view: View<'_>, after: &[u8]) -> Judgement {
    let view = from_internet(view)?;
    let [from, to] = view.ports().ok_or("there are no ports")?;
    ensure(is(view.destination(), scene::VIP) && to == 8080, "no service whose proxy is elsewhere")?;
    ensure(view.biggest(packet.segment) <= 1448, "too big for the leg")?;
    let ends = [scene::NODE, scene::NODE2];
    in_tunnel(view, after, ends, None, scene::FAR_LB, scene::FAR_KEY)?;
    let proxy = Ipv4Addr::new(100, 64, 0, 5);
    translated(&packet.frame, view, after, INNER, [view.source(), proxy], [from, 10001], None)
}

/// The headers in front of an inner packet are those of a tunnel: from and to, ports where they are fixed,
/// LoadBalancer, key.
fn in_tunnel(
    inner: View<'_>,
    after: &[u8],
    ends: [&str; 2],
    ports: Option<[u16; 2]>,
    lb: Lb,
    key: [u8; 16],
) -> Judgement {
    let outer = View::of(after).ok_or("there is no outer packet")?;
    let total = inner.total() + OVERHEAD;
    ensure(outer.is_plain() && outer.protocol() == UDP, "the outer packet is no UDP")?;
    ensure(outer.header_sum_holds(), "the outer header sum is wrong")?;
    ensure(outer.total() == total && after.len() == ETH + total, "the outer packet is as long")?;
    ensure(is(outer.source(), ends[0]) && is(outer.destination(), ends[1]), "the outer addresses")?;
    ensure(outer.bytes[1] == inner.bytes[1] & 0xFC && outer.bytes[8] == 64, "the outer class and TTL")?;
    ensure(usize::from(be16(outer.bytes, 24)) == total - 20, "the UDP length")?;
    let [from, to] = [be16(outer.bytes, 20), be16(outer.bytes, 22)];
    match ports {
        Some(ports) => ensure([from, to] == ports, "the fixed ports")?,
        None => ensure(from >= 0xC000 && to == GUE, "the ports of a flow")?,
    }
    let gue = &outer.bytes[28..OVERHEAD];
    ensure(gue[..4] == [5, 4, 0xA0, 0] && gue[8..] == key, "the GUE header")?;
    ensure(Lb::new(be16(gue, 4), be16(gue, 6)) == lb, "the LoadBalancer")
}

/// The packet `view` of the frame `before` stands at `at` of `after`, with these addresses and ports, else as
/// it was; sums that held hold again. A `limit` is where its MSS has to be lowered to.
fn translated(
    before: &[u8],
    view: View<'_>,
    after: &[u8],
    at: usize,
    addresses: [Ipv4Addr; 2],
    ports: [u16; 2],
    limit: Option<u16>,
) -> Judgement {
    let now = View::at(after, at).ok_or("there is no packet left")?;
    let (old, new) = (view.bytes, now.bytes);
    ensure(after[..12] == before[..12] && after[12..14] == [8, 0], "the Ethernet header")?;
    ensure([now.source(), now.destination()] == addresses, "the addresses")?;
    ensure(now.ports() == Some(ports), "the ports")?;
    ensure(new.len() == old.len() || new.len() == view.total(), "the length")?;
    ensure(new[..10] == old[..10] && new[24..36] == old[24..36], "the headers")?;
    let mut rest = [38, new.len()];
    if let Some(limit) = limit.filter(|_| view.flags() & SYN != 0) {
        if let Some((place, mss)) = view.mss() {
            ensure(new[38..place] == old[38..place], "the options before the MSS")?;
            ensure(be16(new, place) == mss.min(limit), "the MSS")?;
            rest[0] = place + 2;
        } else {
            // Options that say nothing are nobody's to read.
            rest[0] = view.headers();
        }
    }
    ensure(new[rest[0]..rest[1]] == old[rest[0]..rest[1]], "the contents")?;
    ensure(!view.header_sum_holds() || now.header_sum_holds(), "the header sum")?;
    ensure(!view.tcp_sum_holds() || now.tcp_sum_holds(), "the TCP sum")
}

fn answers_arp(before: &[u8], after: &[u8]) -> Judgement {
    ensure(before.len() >= ETH + 28, "a cut ARP packet is answered")?;
    ensure(before[ETH..ETH + 8] == [0, 1, 8, 0, 6, 4, 0, 1], "what is no request is answered")?;
    let vip: Ipv4Addr = scene::VIP.parse().map_err(|_| "no address")?;
    ensure(before[ETH + 24..ETH + 28] == vip.octets(), "answered for another's address")?;
    ensure(before[ETH + 14..ETH + 18] != vip.octets(), "an announcement is answered")?;
    let asker = &before[ETH + 8..ETH + 14];
    let mut expected = before.to_vec();
    expected[..6].copy_from_slice(asker);
    expected[6..12].copy_from_slice(&scene::MAC);
    expected[ETH + 7] = 2;
    expected[ETH + 8..ETH + 14].copy_from_slice(&scene::MAC);
    expected[ETH + 14..ETH + 18].copy_from_slice(&vip.octets());
    expected[ETH + 18..ETH + 24].copy_from_slice(asker);
    expected[ETH + 24..ETH + 28].copy_from_slice(&before[ETH + 14..ETH + 18]);
    ensure(after == expected, "the answer")
}

/// The frame `after` tells the sender of `before` that its destination cannot be reached: this code, this
/// MTU.
fn answers(before: &[u8], after: &[u8], code: u8, mtu: u16) -> Judgement {
    ensure(after.len() == ANSWER, "the answer's length")?;
    ensure(after[..6] == before[6..12] && after[6..12] == before[..6], "the answer's way")?;
    let [asked, answer] = [before, after].map(|frame| View { bytes: &frame[ETH..] });
    ensure(answer.is_plain() && answer.protocol() == ICMP && answer.total() == 68, "the answer's header")?;
    ensure(answer.header_sum_holds(), "the answer's header sum")?;
    let turned = [answer.destination(), answer.source()];
    ensure(turned == [asked.source(), asked.destination()], "the answer's addresses")?;
    let icmp = &answer.bytes[20..];
    ensure(icmp[..2] == [3, code] && be16(icmp, 6) == mtu, "what the answer says")?;
    ensure(sum(0, icmp) == 0xFFFF, "the answer's sum")?;
    ensure(icmp[8..44] == asked.bytes[..36], "what the answer quotes")
}

fn from_pod(packet: &Packet, act: Act, after: &[u8], routes: Routes) -> Judgement {
    let before = &packet.frame[..];
    ensure(!packet.is_tagged, "a pod's VLAN goes on")?;
    match act {
        Act::Next => match before.get(12..14) {
            Some([8, 0]) => stays(packet, View::of(before).ok_or("a cut packet goes on")?, routes),
            Some([8, 6]) => says_by_arp(packet),
            Some([0x86, 0xDD]) => discovers(packet),
            _ => Err("an unknown ethertype goes on".to_owned()),
        },
        Act::Neighbour(ifindex) => {
            ensure(ifindex == IFINDEX, "not by the tunnel's interface")?;
            to_endpoint(packet, of_proxy(packet)?, after)
        }
        Act::Hop(ifindex) => {
            let view = of_proxy(packet)?;
            ensure(!is_alias(view.destination()), "a reply to an alias")?;
            ensure(ifindex == routes.nic, "a reply leaves elsewhere")?;
            let [from, to] = view.ports().ok_or("there are no ports")?;
            let port = match from {
                10001 => 80,
                10002 => 443,
                _ => return Err("from a port of no listener".to_owned()),
            };
            ensure(!view.is_opening(), "a proxy opens a connection")?;
            let way = routes.way(view.destination().into());
            let is_out = way == epic_core::Way::Interface(routes.nic);
            ensure(is_out && !is_in_cluster(view.destination(), true), "a reply to the inside")?;
            let vip = scene::VIP.parse().map_err(|_| "no address")?;
            translated(before, view, after, ETH, [vip, view.destination()], [port, to], Some(1408))
        }
        Act::Back(ifindex) => {
            ensure(ifindex == IFINDEX, "an answer goes elsewhere")?;
            let view = View::of(before).ok_or("a frame without IPv4 is answered")?;
            ensure(view.is_whole_tcp() && is(view.source(), scene::POD), "no packet of the proxy")?;
            let (limit, silent) = alias_of(view)?;
            if silent {
                return answers(before, after, 1, 0);
            }
            ensure(view.biggest(packet.segment) > usize::from(limit), "refused though it fits")?;
            answers(before, after, 4, limit)
        }
        Act::Pass | Act::Peer(_) | Act::Into(_) | Act::Drop => {
            Err("this program does no such thing".to_owned())
        }
    }
}

/// The packet of the proxy in its own pod, if it may be sent on.
fn of_proxy(packet: &Packet) -> Result<View<'_>, String> {
    let view = View::of(&packet.frame).ok_or("a frame without IPv4 leaves")?;
    ensure(!packet.is_unlisted, "a pod that is not listed sends")?;
    ensure(view.is_whole_tcp(), "no whole TCP")?;
    ensure(is(view.source(), scene::POD), "from another's address")?;
    Ok(view)
}

/// Whether the address is in a pod network of the cluster, or of this node.
fn is_in_cluster(address: Ipv4Addr, of_node: bool) -> bool {
    let [a, b, c, _] = address.octets();
    a == 10 && b == 244 && (c == 1 || !of_node)
}

/// The most bytes that the tunnel of an alias takes, and whether nobody is known at its end.
fn alias_of(view: View<'_>) -> Result<(u16, bool), String> {
    let [_, port] = view.ports().ok_or("there are no ports")?;
    match () {
        () if is(view.destination(), scene::ALIAS) && port == 8080 => Ok((1448, false)),
        () if is(view.destination(), scene::NARROW_ALIAS) && port == 8081 => Ok((1348, false)),
        () if is(view.destination(), scene::SILENT_ALIAS) && port == 8081 => Ok((1448, true)),
        () => Err("to no alias with a tunnel".to_owned()),
    }
}

fn to_endpoint(packet: &Packet, view: View<'_>, after: &[u8]) -> Judgement {
    let (limit, silent) = alias_of(view)?;
    ensure(!silent, "to nobody")?;
    ensure(view.biggest(packet.segment) <= usize::from(limit), "too big for the tunnel")?;
    let (client, ports, endpoint) = if is(view.destination(), scene::ALIAS) {
        (scene::CLIENT, None, scene::ENDPOINT)
    } else {
        (scene::NAT_CLIENT, Some([GUE, scene::NAT_PORT]), scene::NARROW_ENDPOINT)
    };
    in_tunnel(view, after, [scene::NODE, client], ports, scene::LB, scene::DATA_KEY)?;
    let [proxy, endpoint] = [scene::PROXY, endpoint].map(|text| text.parse());
    let to = [proxy.map_err(|_| "no address")?, endpoint.map_err(|_| "no address")?];
    let ports = view.ports().ok_or("there are no ports")?;
    translated(&packet.frame, view, after, INNER, to, ports, Some(limit - 40))
}

/// IPv4 of a pod that the node's stack gets.
fn stays(packet: &Packet, view: View<'_>, routes: Routes) -> Judgement {
    ensure(view.is_plain(), "a fragment or options go on")?;
    ensure(packet.is_unlisted || is(view.source(), scene::POD), "from another's address")?;
    let [from, port] = view.ports().ok_or("a packet without ports goes on")?;
    let to = view.destination();
    if view.protocol() == UDP {
        let is_written = is(to, scene::UNTUNNELLED) && port == 53;
        return ensure(is_written && !packet.is_unlisted, "UDP to what is not written down");
    }
    ensure(view.is_whole_tcp(), "no whole TCP goes on")?;
    let is_written = is(to, scene::XDS) && port == 18000
        || !packet.is_unlisted && is(to, scene::UNTUNNELLED) && port == 8080;
    let is_inside = is_in_cluster(to, false)
        || routes.way(to.into()) == epic_core::Way::Inside
        || routes.way(to.into()) == epic_core::Way::Interface(routes.cni);
    let is_probe = from == OPS && !view.is_opening() && is_inside;
    ensure(is_written || is_probe, "TCP to what is not written down")
}

fn says_by_arp(packet: &Packet) -> Judgement {
    let before = &packet.frame[..];
    ensure(before.len() >= ETH + 28 && before[ETH..ETH + 4] == [0, 1, 8, 0], "ARP of another kind")?;
    let sender = Ipv4Addr::new(before[ETH + 14], before[ETH + 15], before[ETH + 16], before[ETH + 17]);
    let is_own = sender.is_unspecified() || is(sender, scene::POD);
    ensure(packet.is_unlisted || is_own, "it claims another's address by ARP")
}

fn discovers(packet: &Packet) -> Judgement {
    let before = &packet.frame[..];
    ensure(before.len() >= ETH + 48, "a cut IPv6 packet goes on")?;
    let address = |at: usize| -> [u8; 16] { std::array::from_fn(|byte| before[ETH + at + byte]) };
    let pod: std::net::Ipv6Addr = scene::POD_V6.parse().map_err(|_| "no address")?;
    let (source, pod) = (address(8), pod.octets());
    match (before[ETH + 6], before[ETH + 40]) {
        (0, _) => {
            let routers = [0xFF, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16];
            ensure(address(24) == routers, "options to somebody else go on")
        }
        (58, 133) => Ok(()),
        (58, 135 | 136) if packet.is_unlisted => Ok(()),
        (58, 135) => ensure(source == [0; 16] || source == pod, "it solicits as another"),
        (58, 136) => {
            ensure(before.len() >= ETH + 64, "a cut advertisement goes on")?;
            ensure(source == pod && address(48) == pod, "it advertises another's address")
        }
        _ => Err("IPv6 goes on".to_owned()),
    }
}

fn client_ingress(packet: &Packet, act: Act, after: &[u8]) -> Judgement {
    let before = &packet.frame[..];
    let view = View::of(before);
    if packet.is_tagged || is_foreign(before) {
        return ensure(act == Act::Next, "another's frame was touched");
    }
    let gue = view.filter(|view| is_gue_to(*view, scene::CLIENT));
    match act {
        Act::Next => {
            ensure(gue.is_none(), "GUE to this client goes on")?;
            let Some(view) = view else { return Ok(()) };
            let [from, to] = [view.source(), view.destination()];
            ensure(!is_proxy(from) && !is_proxy(to), "a bare proxy address goes on")
        }
        Act::Pass => {
            let data = tunnelled(gue.ok_or("something else than GUE is passed to the agent")?)?;
            ensure(data.is_control, "data is passed to the agent")?;
            let is_node = is(data.source, scene::NODE) || is(data.source, scene::NODE2);
            ensure(is_node, "a control message from anybody")
        }
        Act::Into(ifindex) => {
            ensure(ifindex == IFINDEX, "not into epic0")?;
            let outer = gue.ok_or("something else than GUE is delivered")?;
            let data = tunnelled(outer)?;
            ensure(!data.is_control, "a control message is delivered")?;
            let keys = [scene::DATA_KEY, scene::OLD_KEY, scene::NEXT_KEY];
            ensure(data.lb == scene::LB && keys.contains(&data.key), "by a key that nobody has")?;
            let inner = inside(outer, before)?;
            let [_, port] = inner.ports().ok_or("there are no ports")?;
            let to = inner.destination();
            let is_endpoint =
                is(to, scene::ENDPOINT) && port == 8080 || is(to, scene::NARROW_ENDPOINT) && port == 8081;
            ensure(is_endpoint, "to no endpoint")?;
            let from = inner.source();
            ensure(is_proxy(from), "from no proxy address")?;
            let others: &[&str] = if is(data.source, scene::NODE) {
                &[scene::PROXY_ELSEWHERE, scene::PROXY_OF_OTHERS, scene::PROXY_SILENT, scene::PROXY_NARROW]
            } else {
                ensure(is(data.source, scene::NODE2), "from an outer source that is not known")?;
                &[scene::PROXY, scene::PROXY_OF_OTHERS, scene::PROXY_SILENT]
            };
            let is_others = others.iter().chain(&[scene::PROXY_ABSENT]).any(|proxy| is(from, proxy));
            ensure(!is_others, "from a proxy behind another tunnel")?;
            ensure(after[..6] == scene::MAC && after[6..ETH] == before[6..ETH], "the Ethernet header")?;
            ensure(after[ETH..] == before[INNER..before.len()], "the packet")
        }
        Act::Peer(_) | Act::Neighbour(_) | Act::Back(_) | Act::Hop(_) | Act::Drop => {
            Err("this program does no such thing".to_owned())
        }
    }
}

fn client_egress(packet: &Packet, act: Act, after: &[u8]) -> Judgement {
    let before = &packet.frame[..];
    let view = View::of(before).ok_or("a frame without IPv4 is more than dropped")?;
    ensure(view.is_whole_tcp(), "no whole TCP")?;
    let to = view.destination();
    ensure(is_proxy(to), "to no proxy address")?;
    let is_narrow = [scene::PROXY_ELSEWHERE, scene::PROXY_NARROW].iter().any(|proxy| is(to, proxy));
    match act {
        Act::Neighbour(ifindex) => {
            ensure(ifindex == IFINDEX, "not by the tunnel's interface")?;
            let lost = [scene::PROXY_SILENT, scene::PROXY_ABSENT];
            ensure(!lost.iter().any(|proxy| is(to, proxy)), "to a proxy without a way")?;
            // One that is not announced may have been learned behind either.
            let is_narrow =
                is_narrow || View::of(after).is_some_and(|outer| is(outer.destination(), scene::NODE2));
            let is_wide = [scene::PROXY, scene::PROXY_OF_OTHERS].iter().any(|proxy| is(to, proxy));
            ensure(!is_narrow || !is_wide, "by another proxy's tunnel")?;
            let (node, ports, limit) =
                if is_narrow { (scene::NODE2, Some([GUE, GUE]), 1348) } else { (scene::NODE, None, 1448) };
            ensure(view.biggest(packet.segment) <= limit, "too big for the tunnel")?;
            in_tunnel(view, after, [scene::CLIENT, node], ports, scene::LB, scene::DATA_KEY)?;
            let (addresses, ports) = ([view.source(), to], view.ports().ok_or("there are no ports")?);
            translated(before, view, after, INNER, addresses, ports, Some(limit as u16 - 40))
        }
        Act::Into(ifindex) => {
            ensure(ifindex == IFINDEX, "an answer goes elsewhere")?;
            let said = be16(after.get(ETH + 26..ETH + 28).unwrap_or(&[0, 0]), 0);
            let limit = if is_narrow { 1348 } else { 1448 };
            let is_known = [scene::PROXY, scene::PROXY_OF_OTHERS].iter().any(|proxy| is(to, proxy));
            ensure(said == limit || !is_narrow && !is_known && said == 1348, "what the answer says")?;
            ensure(view.biggest(packet.segment) > usize::from(said), "refused though it fits")?;
            answers(before, after, 4, said)
        }
        Act::Next | Act::Pass | Act::Peer(_) | Act::Back(_) | Act::Hop(_) | Act::Drop => {
            Err("this program does no such thing".to_owned())
        }
    }
}
