//! All tables as text, stable for equal content; for people and for golden files.

use std::fmt::{self, Write};

use crate::rows::{Alias, Backend, EpicNode, Frontend, Pass, Proxy, Role, Service, Tunnel};
use crate::store::{Row, Snapshot, TableId};

/// Writes every table, one row a line, by key. Keys of services are not shown.
///
/// # Errors
/// Those of `out`.
pub fn debug_dump(snapshot: &Snapshot, out: &mut impl Write) -> fmt::Result {
    for table in TableId::ALL {
        writeln!(out, "== {table}")?;
        match table {
            TableId::Services => rows(&snapshot.services, out, service)?,
            TableId::Frontends => rows(&snapshot.frontends, out, frontend)?,
            TableId::Backends => rows(&snapshot.backends, out, backend)?,
            TableId::Tunnels => rows(&snapshot.tunnels, out, tunnel)?,
            TableId::Proxies => rows(&snapshot.proxies, out, proxy)?,
            TableId::Aliases => rows(&snapshot.aliases, out, alias)?,
            TableId::Passes => rows(&snapshot.passes, out, pass)?,
            TableId::Nodes => rows(&snapshot.nodes, out, node)?,
        }
    }
    for name in snapshot.pending_initializers() {
        writeln!(out, "waiting for {name}")?;
    }
    Ok(())
}

fn rows<R: Row, W: Write>(
    table: &crate::store::Table<R>,
    out: &mut W,
    row: fn(&R, &mut W) -> fmt::Result,
) -> fmt::Result {
    for (_, entry) in table.entries() {
        row(&entry.row, out)?;
        // Backends reach the maps inside their frontends.
        if R::table_id() != TableId::Backends {
            write!(out, " [{}]", entry.status)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn service<W: Write>(s: &Service, out: &mut W) -> fmt::Result {
    let keys = if s.keys.is_some() { "known" } else { "none" };
    write!(
        out,
        "{} uid={} group={} service={} source={:?} policy={:?} key-generation={} keys={keys}",
        s.name, s.uid, s.group_id, s.service_id, s.source, s.lb_policy, s.key_generation
    )
}

fn frontend<W: Write>(f: &Frontend, out: &mut W) -> fmt::Result {
    let p = &f.params;
    write!(out, "{} service={} slot={} listener={}", p.key, p.service, p.slot, p.listener_port)?;
    if let Some(name) = &p.port_name {
        write!(out, " port-name={name}")?;
    }
    if p.vip_owner {
        write!(out, " owner")?;
    }
    write!(out, " backends=")?;
    for (i, s) in f.backends.iter().enumerate() {
        let mark = if s.role == Role::Serving { "" } else { "~" };
        let key = &s.backend.key;
        write!(out, "{}{mark}{}", if i == 0 { "" } else { "," }, key.address)?;
        if key.port != 0 {
            write!(out, ":{}", key.port)?;
        }
    }
    Ok(())
}

fn backend<W: Write>(b: &Backend, out: &mut W) -> fmt::Result {
    write!(out, "{} source={:?} state={:?} weight={}", b.key, b.key.source, b.state, b.weight)?;
    if b.unhealthy {
        write!(out, " unhealthy")?;
    }
    if let Some(real) = b.real_address {
        write!(out, " real={real}")?;
    }
    if let Some(node) = &b.node {
        write!(out, " node={node}")?;
    }
    if let Some(id) = b.proxy {
        write!(out, " proxy={id}")?;
    }
    Ok(())
}

fn tunnel<W: Write>(t: &Tunnel, out: &mut W) -> fmt::Result {
    write!(
        out,
        "{} service={} client={} epic={}({}:{}) link={} mtu={} local={}",
        t.id,
        t.service,
        t.client_node,
        t.epic_node,
        t.epic_address,
        t.epic_port,
        t.link.ifindex,
        t.link.mtu,
        t.link.local
    )
}

fn proxy<W: Write>(p: &Proxy, out: &mut W) -> fmt::Result {
    write!(
        out,
        "{} service={} address={} pod={} node={}({}) state={:?}",
        p.id, p.service, p.address, p.pod, p.node, p.node_address, p.state
    )?;
    if let Some(veth) = &p.local {
        write!(out, " veth={}({}) pod-ip={}", veth.ifname, veth.ifindex, veth.pod_ip)?;
    }
    Ok(())
}

fn alias<W: Write>(a: &Alias, out: &mut W) -> fmt::Result {
    write!(out, "{} -> {}:{}/{}", a.key, a.real_address, a.port, a.protocol)?;
    if let Some(id) = a.tunnel {
        write!(out, " tunnel={id}")?;
    }
    write!(out, " endpoint={}", a.endpoint)
}

fn pass<W: Write>(p: &Pass, out: &mut W) -> fmt::Result {
    write!(out, "{} purpose={}", p.key, p.purpose)
}

fn node<W: Write>(n: &EpicNode, out: &mut W) -> fmt::Result {
    write!(out, "{} name={}", n.address, n.name)
}
