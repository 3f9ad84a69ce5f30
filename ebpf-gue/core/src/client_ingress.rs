//! `epic_client_ingress`: what arrives at a client node through its tunnels.

use epic_abi::{
    drop::DropReason,
    maps::{CONFIG_KEY, Config, EndpointKey, LearnedProxy},
    stats::Event,
};

use crate::{
    Act, Bare, Carried, Family, Frame, Header, Maps, Step, V4, Verdict, arp,
    frame::SECOND_NANOS,
    gue::{self, Arrived, Data, Proof},
    packet::{Ethernet, header},
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
        _ => Ok(Verdict::NEXT),
    }
}

/// A packet of a family that is carried.
#[inline(always)]
fn carried<I: Carried, F: Frame, M: Maps>(frame: &mut F, maps: &M, config: &Config) -> Step<Verdict> {
    let Some(ip) = header::<Bare, I, F>(frame) else { return Ok(Verdict::NEXT) };
    if gue::is_addressed_to_us(frame, maps, config, &ip) {
        return tunnelled::<I, V4, F, M>(frame, maps, config, &ip);
    }
    // Proxies exist behind tunnels only. Bare, such a source is forged, and such a destination has lost its way.
    let proxies = I::proxies(config);
    if I::is_in(proxies, ip.source) || I::is_in(proxies, ip.destination) {
        return Err(DropReason::BareProxyAddress);
    }
    Ok(Verdict::NEXT)
}

/// GUE to this host.
#[inline(always)]
fn tunnelled<O: Carried, I: Carried, F: Frame, M: Maps>(
    frame: &mut F,
    maps: &M,
    config: &Config,
    ip: &Header<O>,
) -> Step<Verdict> {
    let data = match gue::read(frame, ip)? {
        Arrived::Control => {
            if maps.nodes(&O::ip(ip.source)).is_none() {
                return Err(DropReason::ControlSource);
            }
            return Ok(Verdict::counted(Act::Pass, Event::Control, 1));
        }
        Arrived::Data(data) => data,
    };
    if data.prove(maps)? != Proof::Data {
        return Err(DropReason::Key);
    }
    let tunnel = data.tunnel(maps)?;
    let packet = data.inner::<I, F>(frame)?;
    let key = EndpointKey {
        lb: data.lb,
        address: I::ip(packet.destination),
        port: packet.destination_port,
        protocol: packet.protocol,
        _reserved: 0,
    };
    if maps.endpoints(&key).is_none() {
        return Err(DropReason::InnerDestination);
    }
    check_proxy::<O, I, F, M>(frame, maps, config, &data, tunnel, packet.source)?;
    let (packets, bytes) = packet.on_the_wire(frame);
    maps.received(tunnel, packets, bytes);
    frame.pull::<O>()?;
    // Into `epic0`, as if it had arrived there: strict reverse path filters find the proxy addresses routed to it. With
    // the NIC's address on it, the device would take the frame for somebody else's and drop it.
    let Some(mut window) = frame.window::<Ethernet>() else { return Err(DropReason::Malformed) };
    window.set(0, arp::mac(config));
    Ok(Verdict { act: Act::Into(config.device_ifindex), ..Verdict::NEXT })
}

/// The inner source must be a proxy of this LoadBalancer behind this tunnel: announced by the API, or, where the API
/// says nothing about it, the first to be seen there until that is forgotten.
#[inline(always)]
fn check_proxy<O: Carried, I: Carried, F: Frame, M: Maps>(
    frame: &F,
    maps: &M,
    config: &Config,
    data: &Data<O>,
    tunnel: u32,
    source: I::Address,
) -> Step<()> {
    let address = I::ip(source);
    if let Some(route) = maps.routes(&address) {
        if route.tunnel == tunnel && route.lb == data.lb {
            return Ok(());
        }
        return Err(DropReason::InnerSource);
    }
    if config.learned_seconds == 0 || !I::is_in(I::proxies(config), source) {
        return Err(DropReason::InnerSource);
    }
    let now = frame.now();
    let lasts = config.learned_seconds as u64 * SECOND_NANOS;
    if let Some(known) = maps.learned_proxy(&address)
        && known.expires_nanos > now
    {
        if known.tunnel != tunnel || known.lb != data.lb {
            return Err(DropReason::InnerSource);
        }
        // Writing costs more than everything else here: only when half the time is over.
        if known.expires_nanos - now > lasts / 2 {
            return Ok(());
        }
    } else {
        maps.count(Event::ProxyLearned, 1);
    }
    maps.learn_proxy(&address, &LearnedProxy { tunnel, lb: data.lb, expires_nanos: now + lasts });
    Ok(())
}
