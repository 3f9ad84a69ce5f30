//! What each row becomes in EPIC's maps. Pure but for a memory of Maglev tables, and deterministic: equal rows give equal
//! entries on every node and in every run.
//!
//! The sides of a node and of a client render the same tables into different maps; [`DirectSide`] renders services without a
//! proxy into a layout of their own. A row whose prerequisites are not there yet renders into
//! nothing and says why; it is rendered again when they come.
//!
//! No row of one service renders into an entry of another: of two services with the same IDs the one that precedes has
//! them, and every row of the other is [`Unready`]. So whatever objects say, a packet of one tenant never meets an entry of
//! another.

mod client;
mod dependents;
mod direct;
mod node;
mod numbers;
mod recent;

use std::sync::Arc;

use epic_abi::Lb;
use epic_abi::maps::{KeySlot, LbKeys};
use epic_reconciler::Unready;
use epic_store::{Sources, Stored};

pub use client::ClientSide;
pub use direct::DirectSide;
pub use node::NodeSide;

use crate::maps::{MapKey, MapValue};
use crate::rows::{DataKey, Service, ServiceRef, Source};
use crate::tables::Tables;

/// Map entries of a row.
pub type Entries = Vec<(MapKey, MapValue)>;

/// A service with the IDs that are its own.
fn service_of(tables: &Tables, service: ServiceRef) -> Result<(&Arc<Stored<Service>>, Lb), Unready> {
    let Some(row) = tables.service(service) else {
        return Err(Unready(format!("service {service} is not there yet")));
    };
    let Some(ids) = row.ids else {
        return Err(Unready(format!(
            "{service} is no LoadBalancer of EPIC: these programs have no packets for it; epic-lb serves it in memory"
        )));
    };
    if let Err(owner) = tables.owns_ids(row) {
        return Err(Unready(format!("the IDs {ids} of {service} are those of {} as well", owner.name)));
    }
    Ok((row, Lb::new(ids.group.get(), ids.service.get())))
}

/// Slots of generations n−1, n, n+1; generation 0 does not exist.
fn slots(keys: &[DataKey; 3], generation: u32) -> [KeySlot; 3] {
    std::array::from_fn(|i| {
        let generation = (generation + i as u32).saturating_sub(1);
        if generation == 0 { KeySlot::default() } else { KeySlot { generation, key: keys[i] } }
    })
}

/// Index of generation n in such slots.
const CURRENT: usize = 1;

fn keys_of(service: &Service, with_node_keys: bool) -> Result<LbKeys, Unready> {
    let Some(keys) = &service.keys else {
        return Err(Unready(format!("the keys of {} are not known yet", service.name)));
    };
    let node = match keys.node {
        Some(node) if with_node_keys => slots(&node, service.key_generation),
        _ => <[KeySlot; 3]>::default(),
    };
    Ok(LbKeys { data: slots(&keys.data, service.key_generation), node, node_current: CURRENT as u32 })
}

/// The keys of a service, unless another source of it counts.
fn keys_entry(
    tables: &Tables,
    key: crate::rows::ServiceKey,
    with_node_keys: bool,
    out: &mut Entries,
) -> Result<(), Unready> {
    if tables.service(key.service).is_none_or(|row| row.source != key.source) {
        return Ok(());
    }
    let (row, lb) = service_of(tables, key.service)?;
    out.push((MapKey::Keys(lb), MapValue::Keys(keys_of(row, with_node_keys)?)));
    Ok(())
}

/// The tunnel of this id if it is one of this service and can be rendered.
fn tunnel_of(tables: &Tables, id: crate::TunnelId, service: ServiceRef) -> Result<u32, Unready> {
    let Some(tunnel) = tables.tunnels.get(id) else {
        return Err(Unready(format!("tunnel {id} is not there yet")));
    };
    if tunnel.service.id() != service {
        return Err(Unready(format!("tunnel {id} belongs to {}", tunnel.service)));
    }
    tunnel_value(tables, tunnel)?;
    Ok(id.get())
}

fn tunnel_value(tables: &Tables, tunnel: &crate::rows::Tunnel) -> Result<epic_abi::maps::Tunnel, Unready> {
    let (service, lb) = service_of(tables, tunnel.service.id())?;
    let current = keys_of(service, false)?.data[CURRENT];
    Ok(epic_abi::maps::Tunnel {
        lb,
        flags: 0,
        ifindex: tunnel.link.ifindex,
        mtu: tunnel.link.mtu,
        generation: current.generation,
        key: current.key,
        local: tunnel.link.local.into(),
    })
}

fn tunnel_entries(tables: &Tables, id: crate::TunnelId, out: &mut Entries) -> Result<(), Unready> {
    let Some(tunnel) = tables.tunnels.get(id) else { return Ok(()) };
    let value = tunnel_value(tables, tunnel)?;
    out.push((MapKey::TunnelStats(id.get()), MapValue::TunnelStats));
    out.push((MapKey::Tunnel(id.get()), MapValue::Tunnel(value)));
    Ok(())
}

fn node_entry(tables: &Tables, address: crate::rows::Address, out: &mut Entries) {
    if tables.nodes.contains(address) {
        out.push((MapKey::Node(address.into()), MapValue::Node(epic_abi::maps::Node { flags: 0 })));
    }
}

fn sources_of_epic() -> Sources {
    Sources::from(Source::Resource) | Sources::from(Source::Local)
}

/// Rows that this side renders.
macro_rules! render {
    ($side:ty, |$this:ident, $tables:ident, $row:ident, $out:ident| $body:expr) => {
        impl epic_reconciler::Render<crate::maps::EpicLayout> for $side {
            type Tables = Tables;
            type Scope = ServiceRef;

            fn affected(&self, before: &Snapshot, now: &Snapshot, each: &mut dyn FnMut(RowId)) {
                super::dependents::affected(before, now, each);
            }

            fn scope(&self, now: &Snapshot, row: RowId) -> Option<ServiceRef> {
                now.service_of(row)
            }

            // Nothing but EPIC's objects and what a process knows itself reaches these maps.
            fn sources_of(&self, _: &Snapshot, _: RowId) -> epic_store::Sources {
                super::sources_of_epic()
            }

            fn sources_of_held(&self, _: &MapKey, _: &MapValue) -> epic_store::Sources {
                super::sources_of_epic()
            }

            fn render(&mut self, now: &Snapshot, row: RowId, $out: &mut Entries) -> Result<(), Unready> {
                let ($this, $tables, $row) = (self, &**now, row);
                $body
            }
        }
    };
}
use render;
