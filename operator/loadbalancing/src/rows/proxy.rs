//! The `proxies` table: the proxy pods of all services, on this node and on others.

use std::net::IpAddr;
use std::sync::Arc;

use epic_store::{Column, Index, Name, NonUnique, Row, optional, text};

use super::frontend::ByService;
use super::service::{ServiceName, ServiceRef};
use crate::ProxyId;

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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    pub node: Name,
    /// GUE address of that node.
    pub node_address: IpAddr,
    /// State.
    pub state: ProxyState,
    /// Its veth, if it runs on this node and was found.
    pub local: Option<Veth>,
}

impl Index<Proxy> for ByService {
    type Of = ServiceRef;
    type Kind = NonUnique;
    const NAME: &'static str = "service";

    fn of(row: &Proxy) -> impl IntoIterator<Item = ServiceRef> {
        [row.service.id()]
    }
}

impl Row for Proxy {
    type Key = ProxyId;
    type Indexes = (ByService,);

    fn key(&self) -> ProxyId {
        self.id
    }

    fn key_text(key: ProxyId) -> String {
        key.to_string()
    }

    fn columns() -> &'static [Column<Self>] {
        const {
            &[
                Column::new("proxy", |row| text(row.id)),
                Column::new("service", |row| text(&row.service)),
                Column::new("address", |row| text(row.address)),
                Column::new("pod", |row| text(&row.pod)),
                Column::new("node", |row| text(format!("{} ({})", row.node, row.node_address))),
                Column::new("state", |row| text(format!("{:?}", row.state))),
                Column::new("veth", |row| {
                    let veth = row.local.as_ref();
                    optional(veth.map(|veth| format!("{} ({}) {}", veth.ifname, veth.ifindex, veth.pod_ip)))
                }),
            ]
        }
    }
}
