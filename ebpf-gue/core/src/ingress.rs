//! `epic_ingress`: everything that arrives at an EPIC node.

use epic_abi::{
    Lb,
    drop::DropReason,
    maps::{CONFIG_KEY, Config, EndpointAliasKey},
    stats::Event,
};

use crate::{
    Act, Bare, Carried, Family, Frame, Header, Maps, Step, V4, V6, Verdict, arp, choose,
    gue::{self, Arrived, Data, Proof},
    nat,
    packet::{Behind, ETH, Ethernet, Packet, header},
};

/// The program.
///
/// # Errors
/// The reason for which the packet is dropped.
#[inline(always)]
pub fn run<F: Frame, M: Maps>(frame: &mut F, maps: &M) -> Step<Verdict> {
    if frame.is_tagged() || frame.is_foreign() {
        return Ok(Verdict::NEXT);
    }
    let Some(config) = maps.config(&CONFIG_KEY) else { return Ok(Verdict::NEXT) };
    let Some(window) = frame.window::<Ethernet>() else { return Ok(Verdict::NEXT) };
    match window.get::<u16>(12) {
        V4::ETHERTYPE => carried::<V4, F, M>(frame, maps, config),
        V6::ETHERTYPE => recognised::<V6, F, M>(frame, maps, config),
        arp::ETHERTYPE => Ok(arp::answer(frame, maps, config)),
        _ => Ok(Verdict::NEXT),
    }
}

/// A packet of a family that is carried.
#[inline(always)]
fn carried<I: Carried, F: Frame, M: Maps>(frame: &mut F, maps: &M, config: &Config) -> Step<Verdict> {
    let Some(ip) = header::<Bare, I, F>(frame) else { return Ok(Verdict::NEXT) };
    if gue::is_addressed_to_us(frame, maps, config, &ip) {
        return tunnelled::<I, F, M>(frame, maps, config, &ip);
    }
    // To a VIP, too: a proxy's own packets come out of a tunnel or a veth, never from the network.
    let proxies = I::proxies(config);
    if I::is_in(proxies, ip.source) || I::is_in(proxies, ip.destination) {
        return Err(DropReason::BareProxyAddress);
    }
    if maps.vips(&I::ip(ip.destination)).is_some() {
        return choose::forward::<V4, I, F, M>(frame, maps, config, &ip);
    }
    Ok(Verdict::NEXT)
}

/// A packet of a family that a later version carries; what is EPIC's must not reach the stack even so.
#[inline(always)]
fn recognised<I: Family, F: Frame, M: Maps>(frame: &mut F, maps: &M, config: &Config) -> Step<Verdict> {
    let Some(window) = frame.window::<Behind<Bare, I, 0>>() else { return Ok(Verdict::NEXT) };
    let [source, destination] = I::addresses(&window, ETH);
    if maps.vips(&I::ip(destination)).is_some() {
        return Err(DropReason::Ipv6);
    }
    let proxies = I::proxies(config);
    if I::is_in(proxies, source) || I::is_in(proxies, destination) {
        return Err(DropReason::BareProxyAddress);
    }
    Ok(Verdict::NEXT)
}

/// GUE to this node.
#[inline(always)]
fn tunnelled<O: Carried, F: Frame, M: Maps>(
    frame: &mut F,
    maps: &M,
    config: &Config,
    ip: &Header<O>,
) -> Step<Verdict> {
    let data = match gue::read(frame, ip)? {
        // To the agent's socket. It believes nothing without a cookie and a MAC.
        Arrived::Control => return Ok(Verdict::counted(Act::Pass, Event::Control, 1)),
        Arrived::Data(data) => data,
    };
    match data.prove(maps)? {
        Proof::Data => from_client::<O, V4, F, M>(frame, maps, config, &data),
        Proof::Node => from_node::<O, V4, F, M>(frame, maps, config, &data),
    }
}

/// From an endpoint to a proxy: the source becomes the endpoint's alias.
#[inline(always)]
fn from_client<O: Carried, I: Carried, F: Frame, M: Maps>(
    frame: &mut F,
    maps: &M,
    config: &Config,
    data: &Data<O>,
) -> Step<Verdict> {
    let tunnel = data.tunnel(maps)?;
    let packet = data.inner::<I, F>(frame)?;
    let key = EndpointAliasKey {
        tunnel,
        address: I::ip(packet.source),
        port: packet.source_port,
        protocol: packet.protocol,
        _reserved: 0,
    };
    let Some(alias) = maps.endpoint_aliases(&key) else { return Err(DropReason::InnerSource) };
    let Some(source) = I::of(alias) else { return Err(DropReason::InnerSource) };
    let (ifindex, destination) = local_proxy::<I, M>(maps, config, data.lb, packet.destination)?;
    let (packets, bytes) = packet.on_the_wire(frame);
    maps.received(tunnel, packets, bytes);
    deliver::<O, I, F>(frame, &packet, source, destination)?;
    Ok(Verdict { act: Act::Peer(ifindex), ..Verdict::NEXT })
}

/// From another node, which has chosen the proxy: deliver or drop.
#[inline(always)]
fn from_node<O: Carried, I: Carried, F: Frame, M: Maps>(
    frame: &mut F,
    maps: &M,
    config: &Config,
    data: &Data<O>,
) -> Step<Verdict> {
    if maps.nodes(&O::ip(data.source)).is_none() {
        return Err(DropReason::OuterSource);
    }
    let packet = data.inner::<I, F>(frame)?;
    // The other node has asked the same of a client's packet, but for this node's address, which it cannot tell.
    if I::is_in(I::proxies(config), packet.source) || I::is_martian(config, packet.source) {
        return Err(DropReason::Martian);
    }
    let (ifindex, destination) = local_proxy::<I, M>(maps, config, data.lb, packet.destination)?;
    let packets = frame.packets();
    deliver::<O, I, F>(frame, &packet, packet.source, destination)?;
    Ok(Verdict::counted(Act::Peer(ifindex), Event::FromNode, packets))
}

/// Where the proxy with this proxy address runs on this node, if it does and serves `lb`: the host side of its pod's veth,
/// and the address of the pod.
#[inline(always)]
fn local_proxy<I: Carried, M: Maps>(
    maps: &M,
    config: &Config,
    lb: Lb,
    address: I::Address,
) -> Step<(u32, I::Address)> {
    let proxies = I::proxies(config);
    if !I::is_in(proxies, address) {
        return Err(DropReason::InnerDestination);
    }
    let Some(proxy) = maps.proxies(&proxies.index(&I::ip(address))) else {
        return Err(DropReason::InnerDestination);
    };
    if proxy.lb != lb {
        return Err(DropReason::InnerDestination);
    }
    match I::of(I::pod(proxy)) {
        Some(pod) if proxy.ifindex != 0 => Ok((proxy.ifindex, pod)),
        _ => Err(DropReason::ProxyElsewhere),
    }
}

/// Out of the tunnel, with these addresses.
#[inline(always)]
fn deliver<O: Carried, I: Carried, F: Frame>(
    frame: &mut F,
    packet: &Packet<I>,
    source: I::Address,
    destination: I::Address,
) -> Step<()> {
    let to = Packet { source, destination, ..*packet };
    frame.pull::<O>()?;
    nat::rewrite(frame, packet, &to)
}
