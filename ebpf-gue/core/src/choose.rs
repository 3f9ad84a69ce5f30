//! From a VIP to a proxy: flow table, then Maglev.

use epic_abi::{
    Ip, PROTOCOL_UDP,
    drop::DropReason,
    flow,
    maps::{Config, Flow, FlowKey, MAGLEV_SLOTS, PROXY_DRAINING, Proxy, Service, ServiceKey},
    stats::Event,
};

use crate::{
    Act, Bare, Carried, Frame, Header, Maps, Step, Verdict,
    encapsulate::{self, encapsulate, inner_mtu},
    family::Outer,
    frame::SECOND_NANOS,
    icmp::{self, Message, Sender},
    nat,
    packet::{Packet, udp_port},
};

/// A SYN within this time of the flow's first packet is that packet again, later it is a new connection.
const RETRANSMISSION_NANOS: u64 = 3_000_000_000;

/// A packet of family `I` to a VIP. It never goes on to the stack: nobody there has the address, it would be routed back.
/// Other nodes are reached by outer packets of family `O`.
#[inline(always)]
pub(crate) fn forward<O: Carried, I: Carried, F: Frame, M: Maps>(
    frame: &mut F,
    maps: &M,
    config: &Config,
    ip: &Header<I>,
) -> Step<Verdict> {
    // Before anything is looked up or remembered for them.
    if ip.source == ip.destination || I::is_martian(config, ip.source) {
        return Err(DropReason::Martian);
    }
    if ip.protocol == PROTOCOL_UDP && ip.is_plain && !ip.is_fragment {
        return Err(udp(frame, maps, ip));
    }
    let end = frame.length();
    let packet = Packet::read::<Bare, F>(frame, ip, end)?;
    let key = ServiceKey {
        address: I::ip(packet.destination),
        port: packet.destination_port,
        protocol: packet.protocol,
        _reserved: 0,
    };
    let Some(service) = maps.services(&key) else { return Err(DropReason::VipNoService) };
    if service.source_ranges != 0 && !maps.is_admitted(service.source_ranges, &I::ip(packet.source)) {
        return Err(DropReason::SourceRange);
    }
    let hash = packet.hash(config.maglev_seed);
    let (id, proxy) = choose(frame, maps, config, service, &packet, hash)?;
    if proxy.ifindex != 0 {
        to_local(frame, service, &packet, proxy)
    } else {
        to_node::<O, I, F, M>(frame, maps, config, service, &packet, (id, proxy), hash)
    }
}

/// UDP is for a later version: a configured port is told apart from one that nobody has.
#[inline(always)]
fn udp<I: Carried, F: Frame, M: Maps>(frame: &mut F, maps: &M, ip: &Header<I>) -> DropReason {
    let Some(port) = udp_port::<I, F>(frame) else { return DropReason::Malformed };
    let key = ServiceKey { address: I::ip(ip.destination), port, protocol: PROTOCOL_UDP, _reserved: 0 };
    match maps.services(&key) {
        Some(_) => DropReason::Protocol,
        None => DropReason::VipNoService,
    }
}

/// The proxy of the flow: the one it has, else the one Maglev says, which is then written down.
#[inline(always)]
fn choose<'m, I: Carried, F: Frame, M: Maps>(
    frame: &F,
    maps: &'m M,
    config: &Config,
    service: &Service,
    packet: &Packet<I>,
    hash: u32,
) -> Step<(u32, &'m Proxy)> {
    let key = FlowKey {
        client: I::ip(packet.source),
        vip: I::ip(packet.destination),
        client_port: packet.source_port,
        vip_port: packet.destination_port,
        protocol: packet.protocol,
        _reserved: [0; 3],
    };
    if let Some(flow) = maps.flow(&key) {
        if flow.lb == service.lb
            && let Some(proxy) = maps.proxies(&flow.proxy)
            && proxy.lb == service.lb
            && !is_over(frame, &flow, proxy, packet)
        {
            return Ok((flow.proxy, proxy));
        }
        maps.count(Event::FlowMoved, 1);
    }
    let id = maps.slot(&service.lb, flow::slot(hash, MAGLEV_SLOTS));
    let Some(proxy) = maps.proxies(&id) else { return Err(DropReason::NoProxy) };
    if proxy.lb != service.lb {
        return Err(DropReason::NoProxy);
    }
    let now = frame.now();
    if is_within_budget(maps, config, now) {
        maps.enter_flow(&key, &Flow { proxy: id, lb: service.lb, created_nanos: now });
        maps.count(Event::FlowNew, 1);
    } else {
        maps.count(Event::FlowCapped, 1);
    }
    Ok((id, proxy))
}

/// Whether a known flow has ended and `packet` begins another one from the same port, which a draining proxy shall not
/// get. (A SYN to a proxy that is Ready goes there in any case.)
#[inline(always)]
fn is_over<I: Carried, F: Frame>(frame: &F, flow: &Flow, proxy: &Proxy, packet: &Packet<I>) -> bool {
    proxy.flags & PROXY_DRAINING != 0
        && packet.is_opening()
        && frame.now().wrapping_sub(flow.created_nanos) > RETRANSMISSION_NANOS
}

/// Whether this CPU may enter another flow in this second. A flood of SYNs may fill its share of the table, and no
/// more: flows in use stay.
#[inline(always)]
fn is_within_budget<M: Maps>(maps: &M, config: &Config, now: u64) -> bool {
    if config.new_flows_per_second == 0 {
        return true;
    }
    maps.with_flow_budget(|budget| {
        if now.wrapping_sub(budget.window_nanos) >= SECOND_NANOS {
            budget.window_nanos = now;
            budget.used = 0;
        }
        budget.used += 1;
        budget.used <= config.new_flows_per_second as u64
    })
}

/// To a proxy on this node.
#[inline(always)]
fn to_local<I: Carried, F: Frame>(
    frame: &mut F,
    service: &Service,
    packet: &Packet<I>,
    proxy: &Proxy,
) -> Step<Verdict> {
    let Some(destination) = I::of(I::pod(proxy)) else { return Err(DropReason::NoProxy) };
    let to = Packet { destination, destination_port: service.listener_port, ..*packet };
    let packets = frame.packets();
    nat::rewrite(frame, packet, &to)?;
    Ok(Verdict::counted(Act::Peer(proxy.ifindex), Event::VipLocal, packets))
}

/// To a proxy on another node: addressed to the proxy, so that the receiver has nothing to choose.
#[inline(always)]
fn to_node<O: Carried, I: Carried, F: Frame, M: Maps>(
    frame: &mut F,
    maps: &M,
    config: &Config,
    service: &Service,
    packet: &Packet<I>,
    (id, proxy): (u32, &Proxy),
    hash: u32,
) -> Step<Verdict> {
    let Some(keys) = maps.keys(&service.lb) else { return Err(DropReason::UnknownService) };
    // Copied, as the map may change it between the check and the use.
    let index = keys.node_current as usize;
    if index > 2 || keys.node[index].generation == 0 {
        return Err(DropReason::UnknownService);
    }
    let limit = inner_mtu::<O>(config.underlay_mtu);
    if packet.biggest(frame) > limit {
        return icmp::answer(frame, Message::FragNeeded(limit), DropReason::TooBigForNode, Sender::Outside);
    }
    let address: Ip = I::proxies(config).base.offset(id);
    let Some(destination) = I::of(&address) else { return Err(DropReason::Ipv6) };
    let to = Packet { destination, destination_port: service.listener_port, ..*packet };
    let packets = frame.packets();
    nat::rewrite(frame, packet, &to)?;
    let (Some(from), Some(node)) = (O::of(&config.underlay), O::of(&proxy.node)) else {
        return Err(DropReason::Ipv6);
    };
    let outer = Outer::<O> {
        addresses: [from, node],
        ports: [flow::source_port(hash), config.gue_port],
        total: encapsulate::total::<O, I>(&to)?,
        tos: encapsulate::tos(&to),
        inside: I::INSIDE,
        lb: service.lb,
        key: &keys.node[index].key,
    };
    encapsulate(frame, &to, &outer)?;
    Ok(Verdict::counted(Act::Neighbour(config.underlay_ifindex), Event::VipToNode, packets))
}
