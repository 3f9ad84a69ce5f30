//! The `proxies` table: the proxy pods of all services, on this node and on others.

use std::net::IpAddr;
use std::sync::Arc;

use super::service::ServiceName;
use crate::ProxyId;
use crate::store::{Row, Snapshot, Table, TableId};

/// `proxies[].state` of a LoadBalancer's status, and what is known of its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProxyState {
    /// Not yet taking flows.
    #[default]
    Pending,
    /// Takes new flows.
    Ready,
    /// Would take new flows, but its node is out of service: it gets them only if there is no other.
    OutOfService,
    /// Keeps the flows it has.
    Draining,
}

/// Where a proxy pod hangs on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Veth {
    /// ifindex of the host side.
    pub ifindex: u32,
    /// Name of the host side.
    pub ifname: Arc<str>,
    /// MAC of the pod's side.
    pub pod_mac: [u8; 6],
    /// MAC of the host side.
    pub host_mac: [u8; 6],
    /// Address of the pod.
    pub pod_ip: IpAddr,
}

/// One proxy pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Proxy {
    /// Primary key.
    pub id: ProxyId,
    /// LoadBalancer it serves.
    pub service: ServiceName,
    /// Its address on EPIC's legs and in tunnels (`proxy-addresses` base + id).
    pub address: IpAddr,
    /// Name of the pod.
    pub pod: Arc<str>,
    /// uid of the pod.
    pub pod_uid: Arc<str>,
    /// EPIC node it runs on.
    pub node: Arc<str>,
    /// GUE address of that node.
    pub node_address: IpAddr,
    /// State.
    pub state: ProxyState,
    /// Its veth, if it runs on this node and was found.
    pub local: Option<Veth>,
}

impl Row for Proxy {
    type Key = ProxyId;
    type Group = ServiceName;

    fn key(&self) -> ProxyId {
        self.id
    }

    fn group(&self) -> ServiceName {
        self.service.clone()
    }

    fn table_id() -> TableId {
        TableId::Proxies
    }

    fn table(snapshot: &Snapshot) -> &Table<Self> {
        &snapshot.proxies
    }
}
