//! The maps as text: one line an entry, sorted, in one form that does not change from run to run.
//!
//! `epic-agent maps dump` prints it, tests compare it, people read it. Keys of tunnels are never printed, only their
//! generations. Empty maps print nothing; flows and counters are left out unless asked for. A counter's line ends with what
//! it means.

use std::fmt::{self, Display, Write as _};

use epic_abi::maps::{self as abi, KeySlot, LbKeys, Side};
use epic_abi::{Ip, IpRange, Lb, PROTOCOL_TCP, PROTOCOL_UDP};

use crate::error::Error;
use crate::maps::{Maps, SourcePrefix};

/// What to print beside the entries that an agent writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// The flow table and learned proxies.
    pub flows: bool,
    /// Counters that are not zero.
    pub counters: bool,
}

/// The maps as text.
///
/// # Errors
/// A map could not be read.
pub fn dump(maps: &Maps, extent: Extent) -> Result<String, Error> {
    let mut out = Lines(String::new());
    out.line("layout", format_args!("{} {}", abi::LAYOUT_VERSION, side(maps.side())));
    for config in maps.config.entries()?.values() {
        config_lines(&mut out, config);
    }
    for (ip, local) in maps.locals.entries()? {
        out.line("local", format_args!("{ip} ifindex={}", local.ifindex));
    }
    for ip in maps.nodes.entries()?.keys() {
        out.line("node", format_args!("{ip}"));
    }
    for (lb, keys) in maps.keys.entries()? {
        out.line("keys", format_args!("{} {}", of(lb), generations(&keys)));
    }
    for (id, t) in maps.tunnels.entries()? {
        out.line(
            "tunnel",
            format_args!(
                "{id} lb={} ifindex={} mtu={} generation={} local={}",
                of(t.lb),
                t.ifindex,
                t.mtu,
                t.generation,
                t.local
            ),
        );
    }
    for (id, r) in maps.remotes.entries()? {
        let fixed =
            if r.flags & (abi::REMOTE_NAT | abi::REMOTE_FIXED_PORT) != 0 { " fixed-ports" } else { "" };
        out.line("remote", format_args!("{id} {}{fixed}", At(r.address, r.port)));
    }
    for (key, tunnel) in maps.sources.entries()? {
        out.line("source", format_args!("{} lb={} tunnel={tunnel}", At(key.address, key.port), of(key.lb)));
    }
    node_lines(&mut out, maps)?;
    client_lines(&mut out, maps)?;
    if extent.flows {
        flow_lines(&mut out, maps)?;
    }
    if extent.counters {
        counter_lines(&mut out, maps)?;
    }
    Ok(out.0)
}

fn config_lines(out: &mut Lines, c: &abi::Config) {
    let [a, b, d, e, f, g] = c.mac;
    out.line(
        "config",
        format_args!(
            "gue-port={} ops-port={} public-ifindex={} underlay-ifindex={} underlay-mtu={} underlay={} \
             device-ifindex={} mac={a:02x}:{b:02x}:{d:02x}:{e:02x}:{f:02x}:{g:02x} new-flows={}/s \
             learned={}s",
            c.gue_port,
            c.ops_port,
            c.public_ifindex,
            c.underlay_ifindex,
            c.underlay_mtu,
            c.underlay,
            c.device_ifindex,
            c.new_flows_per_second,
            c.learned_seconds,
        ),
    );
    for (name, range) in [
        ("proxies", c.proxies_v4),
        ("proxies", c.proxies_v6),
        ("aliases", c.aliases_v4),
        ("aliases", c.aliases_v6),
    ] {
        if range != IpRange::default() {
            out.line("range", format_args!("{name} {}", prefix(range)));
        }
    }
}

fn node_lines(out: &mut Lines, maps: &Maps) -> Result<(), Error> {
    for (ip, vip) in maps.vips.entries()? {
        out.line("vip", format_args!("{ip}{}", if vip.flags & abi::VIP_OWNED != 0 { " owned" } else { "" }));
    }
    for (key, s) in maps.services.entries()? {
        out.line(
            "service",
            format_args!(
                "{}/{} lb={} listener={} source-ranges={} affinity={}s",
                At(key.address, key.port),
                protocol(key.protocol),
                of(s.lb),
                s.listener_port,
                s.source_ranges,
                s.affinity_seconds,
            ),
        );
    }
    for SourcePrefix { bits, key } in maps.source_ranges.entries()?.into_keys() {
        let bits = bits.saturating_sub(if key.address.is_v4() { 128 } else { 32 });
        out.line("source-range", format_args!("{} {}/{bits}", key.set, key.address));
    }
    for (lb, slots) in maps.maglev.entries()? {
        out.line("maglev", format_args!("{} {}", of(lb), shares(slots.as_deref())));
    }
    for (id, p) in maps.proxies.entries()? {
        let place =
            if p.ifindex == 0 { format!("node={}", p.node) } else { format!("ifindex={}", p.ifindex) };
        let pods = [p.pod_v4, p.pod_v6].into_iter().filter(|ip| !ip.is_unspecified());
        let draining = if p.flags & abi::PROXY_DRAINING != 0 { " draining" } else { "" };
        out.line("proxy", format_args!("{id} lb={} {place}{}{draining}", of(p.lb), List(" pod=", pods)));
    }
    for (ifindex, p) in maps.local_proxies.entries()? {
        let pods = [p.pod_v4, p.pod_v6].into_iter().filter(|ip| !ip.is_unspecified());
        let own = [p.address_v4, p.address_v6].into_iter().filter(|ip| !ip.is_unspecified());
        out.line(
            "local-proxy",
            format_args!(
                "ifindex={ifindex} proxy={} lb={}{}{}",
                p.proxy,
                of(p.lb),
                List(" pod=", pods),
                List(" address=", own)
            ),
        );
    }
    for (key, l) in maps.listeners.entries()? {
        out.line(
            "listener",
            format_args!(
                "lb={} ipv{} {}/{} vip={}",
                of(key.lb),
                key.family,
                key.port,
                protocol(key.protocol),
                At(l.address, l.port)
            ),
        );
    }
    for (key, a) in maps.aliases.entries()? {
        out.line(
            "alias",
            format_args!(
                "lb={} {} tunnel={} endpoint={}/{}",
                of(key.lb),
                key.address,
                a.tunnel,
                At(a.address, a.port),
                protocol(a.protocol)
            ),
        );
    }
    for (key, alias) in maps.endpoint_aliases.entries()? {
        out.line(
            "endpoint-alias",
            format_args!(
                "tunnel={} {}/{} alias={alias}",
                key.tunnel,
                At(key.address, key.port),
                protocol(key.protocol)
            ),
        );
    }
    for key in maps.passes.entries()?.keys() {
        out.line(
            "pass",
            format_args!("lb={} {}/{}", of(key.lb), At(key.address, key.port), protocol(key.protocol)),
        );
    }
    Ok(())
}

fn client_lines(out: &mut Lines, maps: &Maps) -> Result<(), Error> {
    for (proxy, route) in maps.routes.entries()? {
        out.line("route", format_args!("{proxy} lb={} tunnel={}", of(route.lb), route.tunnel));
    }
    for key in maps.endpoints.entries()?.keys() {
        out.line(
            "endpoint",
            format_args!("lb={} {}/{}", of(key.lb), At(key.address, key.port), protocol(key.protocol)),
        );
    }
    Ok(())
}

fn flow_lines(out: &mut Lines, maps: &Maps) -> Result<(), Error> {
    for (key, flow) in maps.flows.entries()? {
        out.line(
            "flow",
            format_args!(
                "{} to {}/{} proxy={} lb={}",
                At(key.client, key.client_port),
                At(key.vip, key.vip_port),
                protocol(key.protocol),
                flow.proxy,
                of(flow.lb)
            ),
        );
    }
    for (proxy, learned) in maps.learned_proxies.entries()? {
        out.line("learned-proxy", format_args!("{proxy} lb={} tunnel={}", of(learned.lb), learned.tunnel));
    }
    Ok(())
}

fn counter_lines(out: &mut Lines, maps: &Maps) -> Result<(), Error> {
    for (tunnel, t) in maps.tunnel_counts()? {
        out.line(
            "traffic",
            format_args!(
                "tunnel={tunnel} sent={}/{}B received={}/{}B",
                t.tx_packets, t.tx_bytes, t.rx_packets, t.rx_bytes
            ),
        );
    }
    for (event, count) in maps.event_counts()? {
        if count != 0 {
            out.line("event", format_args!("{} {count}  {}", event.name(), event.meaning()));
        }
    }
    for (reason, count) in maps.drop_counts()? {
        if count != 0 {
            out.line("drop", format_args!("{} {count}  {}", reason.name(), reason.meaning()));
        }
    }
    Ok(())
}

struct Lines(String);

impl Lines {
    fn line(&mut self, kind: &str, rest: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{kind} {rest}");
    }
}

/// `address:port`, in brackets for IPv6.
struct At(Ip, u16);

impl Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::net::SocketAddr::new(self.0.into(), self.1).fmt(f)
    }
}

struct List<I>(&'static str, I);

impl<I: Iterator<Item = Ip> + Clone> Display for List<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.1.clone().try_for_each(|ip| write!(f, "{}{ip}", self.0))
    }
}

fn side(side: Side) -> &'static str {
    match side {
        Side::Client => "client",
        Side::Node | Side::Both => "node",
    }
}

fn of(lb: Lb) -> String {
    format!("{}/{}", lb.group, lb.service)
}

fn protocol(number: u8) -> String {
    match number {
        PROTOCOL_TCP => "tcp".to_owned(),
        PROTOCOL_UDP => "udp".to_owned(),
        other => other.to_string(),
    }
}

fn prefix(range: IpRange) -> String {
    let ones = range.mask.words.iter().map(|word| word.count_ones()).sum::<u32>();
    let bits = if range.base.is_v4() { ones.saturating_sub(96) } else { ones };
    format!("{}/{bits}", range.base)
}

/// Generations that are accepted, the one that is sent with marked.
fn generations(keys: &LbKeys) -> String {
    let list = |slots: &[KeySlot; 3]| {
        let mut held: Vec<_> = slots.iter().map(|slot| slot.generation).filter(|g| *g != 0).collect();
        held.sort_unstable();
        held.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    };
    let mut text = format!("data={}", list(&keys.data));
    let node = list(&keys.node);
    if !node.is_empty() {
        let current = keys.node.get(keys.node_current as usize).map_or(0, |slot| slot.generation);
        let _ = write!(text, " node={node} node-sends={current}");
    }
    text
}

/// How many slots each proxy has.
fn shares(slots: Option<&[u32]>) -> String {
    let Some(slots) = slots else { return "unknown".to_owned() };
    let mut counts = std::collections::BTreeMap::<u32, u32>::new();
    for proxy in slots {
        *counts.entry(*proxy).or_default() += 1;
    }
    counts
        .iter()
        .map(|(proxy, count)| if *proxy == 0 { format!("none:{count}") } else { format!("{proxy}:{count}") })
        .collect::<Vec<_>>()
        .join(" ")
}
