//! What each row becomes in the maps. Pure but for a memory of Maglev tables, and deterministic: equal rows give equal
//! entries on every node and in every run.
//!
//! The two sides render the same tables into different maps. A row whose prerequisites are not there yet renders into
//! nothing and says why; it is rendered again when they come.

mod client;
mod dependents;
mod node;

use epic_abi::Lb;
use epic_abi::maps::{KeySlot, LbKeys};

pub use client::ClientSide;
pub use node::NodeSide;

pub(crate) use dependents::affected;

use crate::maps::{MapKey, MapValue};
use crate::rows::{DataKey, Service, ServiceName};
use crate::store::Snapshot;
use crate::writer::RowKey;

/// Why a row cannot be rendered yet, for its status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unready(pub String);

/// Map entries of a row.
pub type Entries = Vec<(MapKey, MapValue)>;

/// Turns rows into map entries.
///
/// Whatever an entry names must be rendered from the same snapshot by this or another row, else the row is [`Unready`]:
/// an entry whose target nobody wants could never be written.
pub trait Render: Send {
    /// Entries that this row wants; none if it is of no concern to this side or not in the snapshot.
    ///
    /// # Errors
    /// [`Unready`] when something the row needs is not there yet.
    fn render(&mut self, snapshot: &Snapshot, row: &RowKey) -> Result<Entries, Unready>;
}

fn lb_of(service: &Service) -> Lb {
    Lb::new(service.group_id.get(), service.service_id.get())
}

fn service_of<'a>(snapshot: &'a Snapshot, name: &ServiceName) -> Result<&'a Service, Unready> {
    match snapshot.services.get(name) {
        Some(service) => Ok(service),
        None => Err(Unready(format!("service {name} is not there yet"))),
    }
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
    let keys =
        service.keys.ok_or_else(|| Unready(format!("the keys of {} are not known yet", service.name)))?;
    let node = match keys.node {
        Some(node) if with_node_keys => slots(&node, service.key_generation),
        _ => <[KeySlot; 3]>::default(),
    };
    Ok(LbKeys { data: slots(&keys.data, service.key_generation), node, node_current: CURRENT as u32 })
}

/// The tunnel of this id if it is one of this service and can be rendered.
fn tunnel_of(snapshot: &Snapshot, id: crate::TunnelId, service: &ServiceName) -> Result<u32, Unready> {
    let tunnel = snapshot.tunnels.get(&id).ok_or_else(|| Unready(format!("tunnel {id} is not there yet")))?;
    if tunnel.service != *service {
        return Err(Unready(format!("tunnel {id} belongs to {}", tunnel.service)));
    }
    tunnel_entries(snapshot, tunnel)?;
    Ok(id.get())
}

fn tunnel_entries(snapshot: &Snapshot, tunnel: &crate::rows::Tunnel) -> Result<Entries, Unready> {
    let service = service_of(snapshot, &tunnel.service)?;
    let current = keys_of(service, false)?.data[CURRENT];
    let value = epic_abi::maps::Tunnel {
        lb: lb_of(service),
        flags: 0,
        ifindex: tunnel.link.ifindex,
        mtu: tunnel.link.mtu,
        generation: current.generation,
        key: current.key,
        local: tunnel.link.local.into(),
    };
    let id = tunnel.id.get();
    Ok(vec![(MapKey::TunnelStats(id), MapValue::TunnelStats), (MapKey::Tunnel(id), MapValue::Tunnel(value))])
}
