//! `epic_from_proxy`: everything a tenant's pod sends.
//!
//! A proxy may reach the endpoints of its LoadBalancer, the clients of its listeners and what is written down for it;
//! everything else it may try ends here. A pod without an entry, because it is not listed as a proxy yet or no more,
//! answers its probes and reaches xDS.

use epic_abi::{
    Lb, PROTOCOL_TCP, PROTOCOL_UDP,
    drop::DropReason,
    maps::{
        AliasKey, CONFIG_KEY, Config, Listener, ListenerKey, LocalProxy, PassKey, SET_CLUSTER, SET_OWN_PODS,
    },
    stats::Event,
};

use crate::{
    Act, Bare, Carried, Family, Frame, Header, Maps, Step, V4, V6, Verdict, Way, arp,
    encapsulate::{self, inner_mtu},
    icmp::{self, Message, Sender},
    mss, nat, neighbour,
    packet::{Ethernet, Packet, header, udp_port},
};

/// The LoadBalancer of entries that are written for every proxy.
const FOR_ALL: Lb = Lb::new(0, 0);

/// The program.
///
/// # Errors
/// The reason for which the packet is dropped.
#[inline(always)]
pub fn run<F: Frame, M: Maps>(frame: &mut F, maps: &M) -> Step<Verdict> {
    // A tag would stay on what goes into a tunnel or to the internet: the pod would choose a VLAN of the node's link.
    if frame.is_tagged() {
        return Err(DropReason::Protocol);
    }
    let Some(config) = maps.config(&CONFIG_KEY) else { return Err(DropReason::NotConfigured) };
    let proxy = maps.local_proxies(&frame.ifindex());
    let Some(window) = frame.window::<Ethernet>() else { return Err(DropReason::Malformed) };
    match window.get::<u16>(12) {
        V4::ETHERTYPE => carried::<V4, F, M>(frame, maps, config, proxy),
        V6::ETHERTYPE => neighbour::from_pod(frame, proxy),
        arp::ETHERTYPE => arp::from_pod(frame, proxy),
        _ => Err(DropReason::Protocol),
    }
}

/// A packet of a family that is carried.
#[inline(always)]
fn carried<I: Carried, F: Frame, M: Maps>(
    frame: &mut F,
    maps: &M,
    config: &Config,
    proxy: Option<&LocalProxy>,
) -> Step<Verdict> {
    let Some(ip) = header::<Bare, I, F>(frame) else { return Err(DropReason::Malformed) };
    let end = frame.length();
    let Some(proxy) = proxy else {
        let packet = Packet::read::<Bare, F>(frame, &ip, end)?;
        return not_listed(frame, maps, config, &packet);
    };
    let [pod, _] = I::own(proxy);
    if I::of(pod) != Some(ip.source) {
        return Err(DropReason::PodSource);
    }
    if ip.protocol == PROTOCOL_UDP && ip.is_plain && !ip.is_fragment {
        return udp(frame, maps, config, proxy, &ip);
    }
    let packet = Packet::read::<Bare, F>(frame, &ip, end)?;
    if I::is_in(I::aliases(config), packet.destination) {
        return to_endpoint::<V4, I, F, M>(frame, maps, config, proxy, &packet);
    }
    if is_passed::<I, M>(maps, proxy, packet.destination, packet.destination_port, PROTOCOL_TCP) {
        return Ok(passed(Event::Passed));
    }
    // What is left are replies. Whoever takes over a proxy may bind any port, but a reply opens no connection.
    if packet.is_opening() {
        return Err(DropReason::ProxyNotAllowed);
    }
    if packet.source_port == config.ops_port {
        return from_ops(frame, maps, config, &packet);
    }
    let key =
        ListenerKey { lb: proxy.lb, port: packet.source_port, protocol: packet.protocol, family: I::NUMBER };
    match maps.listeners(&key) {
        Some(listener) => reply::<V4, I, F, M>(frame, maps, config, listener, &packet),
        None => Err(DropReason::ProxyNotAllowed),
    }
}

/// On to the node's stack, counted.
#[inline(always)]
const fn passed(event: Event) -> Verdict {
    Verdict::counted(Act::Next, event, 1)
}

/// A tenant's pod that is not listed as a proxy: xDS, and answers to its probes.
#[inline(always)]
fn not_listed<I: Carried, F: Frame, M: Maps>(
    frame: &mut F,
    maps: &M,
    config: &Config,
    packet: &Packet<I>,
) -> Step<Verdict> {
    if is_written::<I, M>(maps, FOR_ALL, packet.destination, packet.destination_port, PROTOCOL_TCP) {
        return Ok(passed(Event::Passed));
    }
    if packet.source_port == config.ops_port && !packet.is_opening() {
        return from_ops(frame, maps, config, packet);
    }
    Err(DropReason::NotListed)
}

/// UDP goes where it is explicitly allowed, and nowhere else yet.
#[inline(always)]
fn udp<I: Carried, F: Frame, M: Maps>(
    frame: &mut F,
    maps: &M,
    config: &Config,
    proxy: &LocalProxy,
    ip: &Header<I>,
) -> Step<Verdict> {
    let Some(port) = udp_port::<I, F>(frame) else { return Err(DropReason::Malformed) };
    if I::is_in(I::aliases(config), ip.destination) {
        return Err(DropReason::Protocol);
    }
    if is_passed::<I, M>(maps, proxy, ip.destination, port, PROTOCOL_UDP) {
        return Ok(passed(Event::Passed));
    }
    Err(DropReason::ProxyNotAllowed)
}

/// Whether the destination is written down for this proxy's LoadBalancer or for all.
#[inline(always)]
fn is_passed<I: Family, M: Maps>(
    maps: &M,
    proxy: &LocalProxy,
    address: I::Address,
    port: u16,
    protocol: u8,
) -> bool {
    is_written::<I, M>(maps, proxy.lb, address, port, protocol)
        || is_written::<I, M>(maps, FOR_ALL, address, port, protocol)
}

#[inline(always)]
fn is_written<I: Family, M: Maps>(maps: &M, lb: Lb, address: I::Address, port: u16, protocol: u8) -> bool {
    let key = PassKey { lb, address: I::ip(address), port, protocol, _reserved: 0 };
    maps.passes(&key).is_some()
}

/// To an alias: through the tunnel to the endpoint behind it.
#[inline(always)]
fn to_endpoint<O: Carried, I: Carried, F: Frame, M: Maps>(
    frame: &mut F,
    maps: &M,
    config: &Config,
    proxy: &LocalProxy,
    packet: &Packet<I>,
) -> Step<Verdict> {
    let key = AliasKey { lb: proxy.lb, address: I::ip(packet.destination) };
    let alias = match maps.aliases(&key) {
        Some(alias) if alias.port == packet.destination_port && alias.protocol == packet.protocol => alias,
        _ => return Err(DropReason::UnknownAlias),
    };
    let [_, address] = I::own(proxy);
    let (Some(source), Some(destination)) = (I::of(address), I::of(&alias.address)) else {
        return Err(DropReason::Ipv6);
    };
    let Some(tunnel) = maps.tunnels(&alias.tunnel) else { return Err(DropReason::NoTunnel) };
    // Both refusals before any NAT: they quote the packet, and the proxy must recognise it.
    let Some(remote) = maps.remotes(&alias.tunnel) else {
        return icmp::answer(frame, Message::HostUnreachable, DropReason::NoRemote, Sender::Outside);
    };
    let limit = inner_mtu::<O>(tunnel.mtu);
    if packet.biggest(frame) > limit {
        return icmp::answer(frame, Message::FragNeeded(limit), DropReason::TooBigForTunnel, Sender::Outside);
    }
    let to = Packet { source, destination, ..*packet };
    nat::rewrite(frame, packet, &to)?;
    mss::clamp(frame, maps, &to, limit)?;
    let act = encapsulate::send::<O, I, F, M>(frame, maps, config, (alias.tunnel, tunnel, remote), &to)?;
    Ok(Verdict { act, ..Verdict::NEXT })
}

/// From the bootstrap's readiness and stats listener: kubelet and scrapers are on a node or in a pod network of the cluster,
/// which with native routing may lie behind the interface of the tunnels.
#[inline(always)]
fn from_ops<I: Carried, F: Frame, M: Maps>(
    frame: &mut F,
    maps: &M,
    config: &Config,
    packet: &Packet<I>,
) -> Step<Verdict> {
    if maps.is_admitted(SET_CLUSTER, &I::ip(packet.destination)) {
        return Ok(passed(Event::PassedOps));
    }
    match frame.route::<I>(packet.addresses(), packet.protocol, config.public_ifindex) {
        Way::Inside => Ok(passed(Event::PassedOps)),
        Way::Interface(ifindex) if ifindex != config.public_ifindex && ifindex != config.underlay_ifindex => {
            Ok(passed(Event::PassedOps))
        }
        _ => Err(DropReason::ProxyNotAllowed),
    }
}

/// The reply of a listener, to a client out there. Sent on directly: the stack would see a source that is not ours on
/// the way out and, half a connection, call it invalid.
///
/// The way is that of the VIP, as the reply leaves with it: rules by source are how hosts with several interfaces are set
/// up. Such a rule would lead replies out to the pods of this node, too, which is why those are asked for first.
#[inline(always)]
fn reply<O: Carried, I: Carried, F: Frame, M: Maps>(
    frame: &mut F,
    maps: &M,
    config: &Config,
    listener: &Listener,
    packet: &Packet<I>,
) -> Step<Verdict> {
    // A client of the pod's own address does not know the VIP.
    if maps.is_admitted(SET_OWN_PODS, &I::ip(packet.destination)) {
        return Err(DropReason::ReplyNotPublic);
    }
    let Some(source) = I::of(&listener.address) else { return Err(DropReason::Ipv6) };
    let to = Packet { source, source_port: listener.port, ..*packet };
    match frame.route::<I>(to.addresses(), to.protocol, config.public_ifindex) {
        Way::Interface(ifindex) if ifindex == config.public_ifindex => {}
        Way::Refused => return Err(DropReason::NoRoute),
        _ => return Err(DropReason::ReplyNotPublic),
    }
    let packets = frame.packets();
    nat::rewrite(frame, packet, &to)?;
    // The client's packets may arrive at another node and have to come here in GUE.
    mss::clamp(frame, maps, &to, inner_mtu::<O>(config.underlay_mtu))?;
    Ok(Verdict::counted(Act::Hop(config.public_ifindex), Event::Reply, packets))
}
