//! Map entries as text: one entry a line, sorted, stable for equal content. The one form for golden files, for
//! `epic-agent maps dump` and for people.
//!
//! Keys of tunnels are shown by generation only. A Maglev table is shown by the share of each proxy and a digest of the
//! whole, so that a line stays a line and still differs when a cell does.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use epic_abi::maps::{KeySlot, PROXY_DRAINING, VIP_OWNED};
use epic_abi::{Ip, Lb};

use super::entry::{MapKey, MapValue};

/// The entries as text.
pub fn dump(entries: impl IntoIterator<Item = (MapKey, MapValue)>) -> String {
    let sorted: BTreeMap<MapKey, MapValue> = entries.into_iter().collect();
    let mut out = String::new();
    for (key, value) in &sorted {
        // Writing to a String does not fail.
        let _ = line(key, value, &mut out);
    }
    out
}

impl fmt::Display for MapKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.map().name())?;
        match self {
            MapKey::TunnelStats(id) | MapKey::Tunnel(id) | MapKey::Proxy(id) => write!(f, "{id}"),
            MapKey::LocalProxy(ifindex) => write!(f, "if{ifindex}"),
            MapKey::Node(ip) | MapKey::Vip(ip) | MapKey::Route(ip) => write!(f, "{ip}"),
            MapKey::Keys(lb) | MapKey::Maglev(lb) => write!(f, "{}", name(*lb)),
            MapKey::EndpointAlias(k) => {
                write!(f, "tunnel {} {}", k.tunnel, place(&k.address, k.port, k.protocol))
            }
            MapKey::Alias(k) => write!(f, "{} {}", name(k.lb), k.address),
            MapKey::Pass(k) => write!(f, "{} {}", name(k.lb), place(&k.address, k.port, k.protocol)),
            MapKey::Listener(k) => write!(f, "{} {}/{} v{}", name(k.lb), k.port, k.protocol, k.family),
            MapKey::Service(k) => write!(f, "{}", place(&k.address, k.port, k.protocol)),
            MapKey::Endpoint(k) => write!(f, "{} {}", name(k.lb), place(&k.address, k.port, k.protocol)),
        }
    }
}

fn line(key: &MapKey, value: &MapValue, out: &mut String) -> fmt::Result {
    write!(out, "{key}")?;
    match value {
        MapValue::TunnelStats | MapValue::Node(_) | MapValue::Pass(_) | MapValue::Endpoint(_) => {}
        MapValue::Tunnel(t) => write!(
            out,
            " -> {} if{} mtu {} from {} key {}",
            name(t.lb),
            t.ifindex,
            t.mtu,
            t.local,
            t.generation
        )?,
        MapValue::Keys(k) => {
            write!(out, " -> data {}", generations(&k.data))?;
            if k.node.iter().any(|slot| slot.generation != 0) {
                let current = k.node.get(k.node_current as usize).map_or(0, |slot| slot.generation);
                write!(out, " node {} send {current}", generations(&k.node))?;
            }
        }
        MapValue::EndpointAlias(alias) => write!(out, " -> {alias}")?,
        MapValue::Proxy(p) => {
            write!(out, " -> {}", name(p.lb))?;
            if p.ifindex == 0 {
                write!(out, " node {}", p.node)?;
            } else {
                write!(out, " if{} pod {}", p.ifindex, either(p.pod_v4, p.pod_v6))?;
            }
            if p.flags & PROXY_DRAINING != 0 {
                write!(out, " draining")?;
            }
        }
        MapValue::LocalProxy(p) => write!(
            out,
            " -> proxy {} {} pod {} address {}",
            p.proxy,
            name(p.lb),
            either(p.pod_v4, p.pod_v6),
            either(p.address_v4, p.address_v6)
        )?,
        MapValue::Alias(a) => {
            write!(out, " -> tunnel {} {}", a.tunnel, place(&a.address, a.port, a.protocol))?;
        }
        MapValue::Maglev(table) => {
            let cells = table.cells();
            let mut shares: BTreeMap<u32, usize> = BTreeMap::new();
            for id in cells.iter() {
                *shares.entry(*id).or_default() += 1;
            }
            write!(out, " ->")?;
            for (id, n) in shares {
                write!(out, " {id}×{n}")?;
            }
            write!(out, " digest {:08x}", digest(cells))?;
        }
        MapValue::Listener(l) => write!(out, " -> {} {}", l.address, l.port)?,
        MapValue::Service(s) => {
            write!(out, " -> {} listener {}", name(s.lb), s.listener_port)?;
            if s.source_ranges != 0 {
                write!(out, " source-ranges {}", s.source_ranges)?;
            }
        }
        MapValue::Vip(v) => {
            if v.flags & VIP_OWNED != 0 {
                write!(out, " -> owned")?;
            }
        }
        MapValue::Route(r) => write!(out, " -> tunnel {} {}", r.tunnel, name(r.lb))?,
    }
    writeln!(out)
}

fn name(lb: Lb) -> String {
    if lb == Lb::default() { "all".to_owned() } else { format!("lb {}/{}", lb.group, lb.service) }
}

fn place(address: &Ip, port: u16, protocol: u8) -> String {
    if address.is_v4() {
        format!("{address}:{port}/{protocol}")
    } else {
        format!("[{address}]:{port}/{protocol}")
    }
}

fn either(v4: Ip, v6: Ip) -> Ip {
    if v4.is_unspecified() { v6 } else { v4 }
}

fn generations(slots: &[KeySlot; 3]) -> String {
    let known: Vec<String> =
        slots.iter().filter(|s| s.generation != 0).map(|s| s.generation.to_string()).collect();
    known.join(",")
}

/// FNV-1a over the cells.
pub(super) fn digest(cells: &[u32]) -> u32 {
    cells
        .iter()
        .flat_map(|c| c.to_le_bytes())
        .fold(0x811c_9dc5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}
