//! The document on the socket, made of tables, maps and hello states.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use epic_abi::maps::{REMOTE_NAT, TunnelStats};
use epic_datapath::Maps;
use epic_lb::{Handle, TunnelId, Writer};
use epic_ops::Readiness;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::hello::{self, caller::Caller};
use crate::node::answering::Answering;

/// Makes a view now.
pub type ViewFn = Arc<dyn Fn() -> View + Send + Sync>;

/// The state of an agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct View {
    /// `node` or `client`.
    pub side: String,
    /// Name of the node, or the client's node address.
    pub name: String,
    /// Whether the agent runs; false when this was read from pins.
    pub running: bool,
    /// What it waits for, by name.
    pub pending: BTreeMap<String, String>,
    /// The reconciler, for people.
    pub maps: String,
    /// Tunnels that end here.
    pub tunnels: Vec<Tunnel>,
}

/// One tunnel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tunnel {
    /// Tunnel id.
    pub id: u32,
    /// Group id of the account.
    pub group_id: u16,
    /// Service id of the LoadBalancer.
    pub service_id: u16,
    /// Namespace and name of the LoadBalancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<String>,
    /// Identity of the client node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_node: Option<IpAddr>,
    /// GUE address of the EPIC node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epic_address: Option<IpAddr>,
    /// Where packets are sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// Whether the other end is heard; unknown without a running agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<bool>,
    /// Whether a NAT lies between.
    pub nat: bool,
    /// Last round trip in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_micros: Option<u32>,
    /// Hellos sent, on a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hellos_sent: Option<u64>,
    /// Hellos answered, on a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hellos_answered: Option<u64>,
    /// Why the other end refuses, on a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Inner packets sent.
    pub transmitted_packets: u64,
    /// Bytes of them.
    pub transmitted_bytes: u64,
    /// Inner packets received.
    pub received_packets: u64,
    /// Bytes of them.
    pub received_bytes: u64,
}

/// Tunnels as the maps alone show them.
///
/// # Errors
/// The kernel refused.
pub(super) fn from_maps(maps: &Maps) -> Result<BTreeMap<u32, Tunnel>, epic_datapath::Error> {
    let (remotes, counts) = (maps.remotes.entries()?, maps.tunnel_counts()?);
    let tunnels = maps.tunnels.entries()?.into_iter().map(|(id, held)| {
        let remote = remotes.get(&id);
        let stats = counts.get(&id).copied().unwrap_or_default();
        let TunnelStats { tx_packets, tx_bytes, rx_packets, rx_bytes } = stats;
        let tunnel = Tunnel {
            id,
            group_id: held.lb.group,
            service_id: held.lb.service,
            remote: remote.map(|r| std::net::SocketAddr::new(r.address.into(), r.port).to_string()),
            nat: remote.is_some_and(|r| r.flags & REMOTE_NAT != 0),
            transmitted_packets: tx_packets,
            transmitted_bytes: tx_bytes,
            received_packets: rx_packets,
            received_bytes: rx_bytes,
            ..Tunnel::default()
        };
        (id, tunnel)
    });
    Ok(tunnels.collect())
}

/// The view without an agent.
///
/// # Errors
/// The kernel refused.
pub fn from_pins(maps: &Maps) -> Result<View, epic_datapath::Error> {
    let side = match maps.side() {
        epic_abi::maps::Side::Client => "client",
        _ => "node",
    };
    let tunnels = from_maps(maps)?.into_values().collect();
    Ok(View {
        side: side.to_owned(),
        maps: "read from pins; the agent does not run".to_owned(),
        tunnels,
        ..View::default()
    })
}

/// Adds what the tables know.
fn named(tunnels: &mut BTreeMap<u32, Tunnel>, writer: &Writer) {
    let tables = writer.snapshot();
    for tunnel in tunnels.values_mut() {
        let Ok(id) = TunnelId::new(tunnel.id) else { continue };
        let Some(row) = tables.tunnels.get(id) else { continue };
        tunnel.load_balancer = Some(row.service.to_string());
        tunnel.client_node = Some(row.client_node);
        tunnel.epic_address = Some(row.epic_address);
    }
}

fn health(handle: &Handle) -> String {
    handle.progress().health.to_string()
}

/// The view of a node's agent.
pub fn node_view(
    name: String,
    maps: Arc<Maps>,
    answering: Arc<Answering>,
    writer: Writer,
    handle: Handle,
    readiness: Readiness,
) -> ViewFn {
    Arc::new(move || {
        let mut tunnels = from_maps(&maps).unwrap_or_default();
        named(&mut tunnels, &writer);
        let now = hello::now();
        answering.heard(|heard| {
            for tunnel in tunnels.values_mut() {
                let heard = heard.get(&tunnel.id);
                tunnel.up = Some(heard.is_some_and(|heard| heard.is_up(now)));
                if let Some(heard) = heard {
                    tunnel.nat = heard.nat;
                    tunnel.round_trip_micros = Some(heard.round_trip_micros).filter(|micros| *micros != 0);
                }
            }
        });
        View {
            side: "node".to_owned(),
            name: name.clone(),
            running: true,
            pending: readiness.pending(),
            maps: health(&handle),
            tunnels: tunnels.into_values().collect(),
        }
    })
}

/// The view of a client's agent.
pub fn client_view(
    name: String,
    maps: Arc<Maps>,
    caller: Arc<Mutex<Caller>>,
    writer: Writer,
    handle: Handle,
    readiness: Readiness,
) -> ViewFn {
    Arc::new(move || {
        let mut tunnels = from_maps(&maps).unwrap_or_default();
        named(&mut tunnels, &writer);
        let now = hello::now();
        let caller = caller.lock();
        for tunnel in tunnels.values_mut() {
            let Some(state) = caller.states().get(&tunnel.id) else { continue };
            tunnel.up = Some(state.is_up(now));
            tunnel.nat = state.nat;
            tunnel.round_trip_micros = Some(state.round_trip_micros).filter(|_| state.answered != 0);
            tunnel.hellos_sent = Some(state.sent);
            tunnel.hellos_answered = Some(state.received);
            tunnel.refusal = state.refusal.map(|refusal| format!("{refusal:?}"));
        }
        View {
            side: "client".to_owned(),
            name: name.clone(),
            running: true,
            pending: readiness.pending(),
            maps: health(&handle),
            tunnels: tunnels.into_values().collect(),
        }
    })
}
