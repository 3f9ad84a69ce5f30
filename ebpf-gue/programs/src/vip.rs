//! From a VIP to a proxy: flow table, then Maglev.

use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::generated::{bpf_ktime_get_ns, bpf_redirect_peer},
    programs::TcContext,
};
use epic_abi::{
    Ip, PROTOCOL_TCP, PROTOCOL_UDP,
    drop::DropReason,
    flow,
    maps::{Config, Flow, FlowKey, MAGLEV_SLOTS, PROXY_DRAINING, Proxy, Service, ServiceKey, SourceRangeKey},
    stats::Event,
};

use crate::{
    count, icmp, maps, nat,
    packet::{ETH, IP, Ipv4, Tcp, linear, read},
    source,
    tunnel::{self, Outer},
    verdict::{Step, drop, refuse},
};

/// A SYN within this time of the flow's first packet is that packet again, later it is a new connection.
const RETRANSMISSION_NANOS: u64 = 3_000_000_000;
/// A second.
const SECOND_NANOS: u64 = 1_000_000_000;
/// Bits of a source range key before those of an IPv4 address: the set, and the v4-mapped prefix.
const SOURCE_RANGE_BITS: u32 = 32 + 128;

/// A packet to a VIP. It never goes on to the stack: nobody there has the address, it would be routed back.
#[inline(always)]
pub fn arrive(ctx: &TcContext, config: &Config, ip: &Ipv4) -> i32 {
    match forward(ctx, config, ip) {
        Ok(verdict) | Err(verdict) => verdict,
    }
}

#[inline(always)]
fn forward(ctx: &TcContext, config: &Config, ip: &Ipv4) -> Step<i32> {
    // Before anything is looked up or remembered for them.
    if ip.source == ip.destination || source::is_martian(config, ip.source) {
        return refuse(DropReason::Martian);
    }
    // SAFETY: a field of the context, read only.
    let frame = unsafe { (*ctx.skb.skb).len } as usize;
    if ip.protocol == PROTOCOL_UDP && ip.is_plain() && !ip.is_fragment() {
        return Err(udp(ctx, ip));
    }
    let tcp = Tcp::read::<ETH>(ctx, ip, frame)?;
    let key = ServiceKey {
        address: Ip::from_v4_word(tcp.destination),
        port: tcp.destination_port,
        protocol: PROTOCOL_TCP,
        _reserved: 0,
    };
    let Some(service) = maps::get(&maps::SERVICES, &key) else { return refuse(DropReason::VipNoService) };
    if service.source_ranges != 0 && !is_admitted(service.source_ranges, tcp.source) {
        return refuse(DropReason::SourceRange);
    }
    let hash = tcp.hash(config.maglev_seed);
    let (id, proxy) = choose(config, service, &tcp, hash)?;
    if proxy.ifindex != 0 {
        to_local(ctx, service, &tcp, proxy)
    } else {
        to_node(ctx, config, service, &tcp, id, proxy, hash)
    }
}

/// UDP is for a later version: a configured port is told apart from one that nobody has.
#[inline(always)]
fn udp(ctx: &TcContext, ip: &Ipv4) -> i32 {
    let Some(base) = linear(ctx, ETH + IP + 8) else { return drop(DropReason::Malformed) };
    // SAFETY: linear covers the UDP header.
    let port = u16::from_be(unsafe { read(base, ETH + IP + 2) });
    let key =
        ServiceKey { address: Ip::from_v4_word(ip.destination), port, protocol: PROTOCOL_UDP, _reserved: 0 };
    drop(match maps::get(&maps::SERVICES, &key) {
        Some(_) => DropReason::Protocol,
        None => DropReason::VipNoService,
    })
}

/// Whether the client is in the set.
#[inline(always)]
fn is_admitted(set: u32, client: u32) -> bool {
    let key = SourceRangeKey { set, address: Ip::from_v4_word(client) };
    let key = aya_ebpf::btf_maps::lpm_trie::Key::new(SOURCE_RANGE_BITS, key);
    maps::SOURCE_RANGES.get(&key).is_some()
}

/// The proxy of the flow: the one it has, else the one Maglev says, which is then written down.
#[inline(always)]
fn choose(config: &Config, service: &Service, tcp: &Tcp, hash: u32) -> Step<(u32, &'static Proxy)> {
    let key = FlowKey {
        client: Ip::from_v4_word(tcp.source),
        vip: Ip::from_v4_word(tcp.destination),
        client_port: tcp.source_port,
        vip_port: tcp.destination_port,
        protocol: PROTOCOL_TCP,
        _reserved: [0; 3],
    };
    // SAFETY: the value is copied before anything else happens to the map.
    let known = unsafe { maps::FLOWS.get(&key) }.copied();
    if let Some(flow) = known {
        if flow.lb == service.lb
            && let Some(proxy) = maps::get(&maps::PROXIES, &flow.proxy)
            && proxy.lb == service.lb
            && !is_over(&flow, proxy, tcp)
        {
            return Ok((flow.proxy, proxy));
        }
        count::event(Event::FlowMoved, 1);
    }
    let slot = flow::slot(hash, MAGLEV_SLOTS);
    // SAFETY: inner maps are arrays of words, replaced as a whole; a word is read at once.
    let id = match unsafe { maps::MAGLEV.get_value(&service.lb, &slot) } {
        Some(id) => *id,
        None => 0,
    };
    let Some(proxy) = maps::get(&maps::PROXIES, &id) else { return refuse(DropReason::NoProxy) };
    if proxy.lb != service.lb {
        return refuse(DropReason::NoProxy);
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if is_within_budget(config, now) {
        let flow = Flow { proxy: id, lb: service.lb, created_nanos: now };
        // Failure leaves the flow to Maglev, as the cap does.
        let _ = maps::FLOWS.insert(&key, &flow, BPF_ANY as u64);
        count::event(Event::FlowNew, 1);
    } else {
        count::event(Event::FlowCapped, 1);
    }
    Ok((id, proxy))
}

/// Whether a known flow has ended and `tcp` begins another one from the same port, which a draining proxy shall not
/// get. (A SYN to a proxy that is Ready goes there in any case.)
#[inline(always)]
fn is_over(flow: &Flow, proxy: &Proxy, tcp: &Tcp) -> bool {
    proxy.flags & PROXY_DRAINING != 0
        && tcp.is_opening()
        // SAFETY: no arguments.
        && unsafe { bpf_ktime_get_ns() }.wrapping_sub(flow.created_nanos) > RETRANSMISSION_NANOS
}

/// Whether this CPU may enter another flow in this second. A flood of SYNs may fill its share of the table, and no
/// more: flows in use stay.
#[inline(always)]
fn is_within_budget(config: &Config, now: u64) -> bool {
    if config.new_flows_per_second == 0 {
        return true;
    }
    let Some(budget) = maps::FLOW_BUDGET.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's own value.
    unsafe {
        if now.wrapping_sub((*budget).window_nanos) >= SECOND_NANOS {
            (*budget).window_nanos = now;
            (*budget).used = 0;
        }
        (*budget).used += 1;
        (*budget).used <= config.new_flows_per_second as u64
    }
}

/// To a proxy on this node.
#[inline(always)]
fn to_local(ctx: &TcContext, service: &Service, tcp: &Tcp, proxy: &Proxy) -> Step<i32> {
    if !proxy.pod_v4.is_v4() {
        return refuse(DropReason::NoProxy);
    }
    let to = Tcp { destination: proxy.pod_v4.v4_word(), destination_port: service.listener_port, ..*tcp };
    let packets = count::packets(ctx);
    nat::rewrite(ctx, tcp, &to)?;
    count::event(Event::VipLocal, packets);
    Ok(into_pod(proxy.ifindex))
}

/// Into the pod behind the host side of a veth. The peer's side gets the packet as if it had come over the wire:
/// no MAC is needed, no bridge and no netfilter of the node sees it.
#[inline(always)]
pub fn into_pod(ifindex: u32) -> i32 {
    // SAFETY: no pointers.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

/// To a proxy on another node: addressed to the proxy, so that the receiver has nothing to choose.
#[inline(always)]
fn to_node(
    ctx: &TcContext,
    config: &Config,
    service: &Service,
    tcp: &Tcp,
    id: u32,
    proxy: &Proxy,
    hash: u32,
) -> Step<i32> {
    let Some(keys) = maps::get(&maps::KEYS, &service.lb) else { return refuse(DropReason::UnknownService) };
    let index = keys.node_current as usize;
    if index > 2 || keys.node[index].generation == 0 {
        return refuse(DropReason::UnknownService);
    }
    let limit = tunnel::inner_mtu(config.underlay_mtu);
    if tcp.on_the_wire(ctx) > limit {
        let message = icmp::Message::FragNeeded(limit);
        return Err(icmp::answer(ctx, message, DropReason::TooBigForNode, 0));
    }
    let address = config.proxies_v4.base.offset(id);
    let to = Tcp { destination: address.v4_word(), destination_port: service.listener_port, ..*tcp };
    let packets = count::packets(ctx);
    nat::rewrite(ctx, tcp, &to)?;
    tunnel::encapsulate(
        ctx,
        &to,
        &Outer {
            source: &config.underlay,
            destination: &proxy.node,
            source_port: flow::source_port(hash),
            destination_port: config.gue_port,
            lb: service.lb,
            key: &keys.node[index].key,
        },
    )?;
    count::event(Event::VipToNode, packets);
    Ok(tunnel::leave(config.underlay_ifindex))
}
