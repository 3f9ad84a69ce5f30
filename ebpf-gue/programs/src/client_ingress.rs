//! `epic_client_ingress`: what arrives at a client node through its tunnels.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_INGRESS},
    helpers::generated::{bpf_ktime_get_ns, bpf_redirect},
    programs::TcContext,
};
use epic_abi::{
    Ip, PROTOCOL_TCP,
    drop::DropReason,
    maps::{Config, EndpointKey, LearnedProxy},
    stats::Event,
};

use crate::{
    arp::write_mac,
    count, frame,
    gue::{self, Arrived, Data, Proof},
    maps,
    packet::{ETH, ETH_IPV4, IP, Ipv4, linear, read},
    tunnel,
    verdict::{NEXT, PASS, Step, drop, refuse},
};

/// A second.
const SECOND_NANOS: u64 = 1_000_000_000;

/// The program.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    if frame::is_tagged(ctx) || frame::is_foreign(ctx) {
        return NEXT;
    }
    let Some(config) = maps::config() else { return NEXT };
    let Some(base) = linear(ctx, ETH + IP) else { return NEXT };
    // SAFETY: linear covers Ethernet and IP header.
    let (kind, ip) = unsafe { (read::<u16>(base, 12), Ipv4::read(base, ETH)) };
    if kind != ETH_IPV4 {
        return NEXT;
    }
    if gue::addressed_to_us(ctx, config, &ip) {
        return match tunnelled(ctx, config, &ip) {
            Ok(verdict) | Err(verdict) => verdict,
        };
    }
    // Proxies exist behind tunnels only. Bare, such a source is forged, and such a destination has lost its way.
    if config.proxies_v4.contains_v4(ip.source) || config.proxies_v4.contains_v4(ip.destination) {
        return drop(DropReason::BareProxyAddress);
    }
    NEXT
}

/// GUE to this host.
#[inline(always)]
fn tunnelled(ctx: &TcContext, config: &Config, ip: &Ipv4) -> Step<i32> {
    let data = match gue::read_packet(ctx, ip)? {
        Arrived::Control => {
            if maps::get(&maps::NODES, &Ip::from_v4_word(ip.source)).is_none() {
                return refuse(DropReason::ControlSource);
            }
            count::event(Event::Control, 1);
            return Ok(PASS);
        }
        Arrived::Data(data) => data,
    };
    if data.prove()? != Proof::Data {
        return refuse(DropReason::Key);
    }
    let tunnel = data.tunnel()?;
    let tcp = data.inner(ctx)?;
    let key = EndpointKey {
        lb: data.lb,
        address: Ip::from_v4_word(tcp.destination),
        port: tcp.destination_port,
        protocol: PROTOCOL_TCP,
        _reserved: 0,
    };
    if maps::get(&maps::ENDPOINTS, &key).is_none() {
        return refuse(DropReason::InnerDestination);
    }
    check_proxy(config, &data, tunnel, tcp.source)?;
    count::received(ctx, tunnel, &tcp);
    tunnel::decapsulate(ctx)?;
    into_device(ctx, config)
}

/// The inner source must be a proxy of this LoadBalancer behind this tunnel: announced by the API, or, where the API
/// says nothing about it, the first to be seen there until that is forgotten.
#[inline(always)]
fn check_proxy(config: &Config, data: &Data, tunnel: u32, source: u32) -> Step<()> {
    let address = Ip::from_v4_word(source);
    if let Some(route) = maps::get(&maps::ROUTES, &address) {
        if route.tunnel == tunnel && route.lb == data.lb {
            return Ok(());
        }
        return refuse(DropReason::InnerSource);
    }
    if config.learned_seconds == 0 || !config.proxies_v4.contains_v4(source) {
        return refuse(DropReason::InnerSource);
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let lasts = config.learned_seconds as u64 * SECOND_NANOS;
    // SAFETY: the value is copied before anything else happens to the map.
    let known = unsafe { maps::LEARNED_PROXIES.get(&address) }.copied();
    if let Some(known) = known
        && known.expires_nanos > now
    {
        if known.tunnel != tunnel || known.lb != data.lb {
            return refuse(DropReason::InnerSource);
        }
        // Writing costs more than everything else here: only when half the time is over.
        if known.expires_nanos - now > lasts / 2 {
            return Ok(());
        }
    } else {
        count::event(Event::ProxyLearned, 1);
    }
    let learned = LearnedProxy { tunnel, lb: data.lb, expires_nanos: now + lasts };
    // Failure costs the way back of this packet; the next one tries again.
    let _ = maps::LEARNED_PROXIES.insert(&address, &learned, BPF_ANY as u64);
    Ok(())
}

/// Into `epic0`, as if it had arrived there: strict reverse path filters find the proxy addresses routed to it.
#[inline(always)]
fn into_device(ctx: &TcContext, config: &Config) -> Step<i32> {
    let Some(base) = linear(ctx, ETH) else { return refuse(DropReason::Malformed) };
    let mac = config.mac;
    // SAFETY: linear covers the Ethernet header.
    unsafe {
        // With the NIC's address on it, the device would take the frame for somebody else's and drop it.
        write_mac(
            base,
            0,
            [
                u16::from_ne_bytes([mac[0], mac[1]]),
                u16::from_ne_bytes([mac[2], mac[3]]),
                u16::from_ne_bytes([mac[4], mac[5]]),
            ],
        );
        Ok(bpf_redirect(config.device_ifindex, BPF_F_INGRESS as u64) as i32)
    }
}
