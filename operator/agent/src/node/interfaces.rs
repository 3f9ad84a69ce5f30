//! Which interfaces of this node are EPIC's, and what the programs have to know of them.

use std::net::IpAddr;

use epic_abi::maps::Config;
use epic_abi::{Ip, IpRange};
use epic_crds::{EPIC, EPICNodeReason};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;

use crate::desired::node::{alias_ranges, internal_addresses, proxy_ranges};
use crate::netlink::link::Link;
use crate::netlink::{Error as NetlinkError, Netlink};

/// TCP port of a proxy's readiness and stats listener, fixed by its bootstrap.
const OPS_PORT: u16 = 9901;
/// Flows a CPU may enter into the flow table within a second. More are served by Maglev alone, which only matters
/// when proxies come or go.
const NEW_FLOWS_PER_SECOND: u32 = 50_000;
/// Seed of flow hashes and Maglev tables. The same on all nodes and in all versions.
pub const MAGLEV_SEED: u32 = 0x4550_4943;

/// The interfaces of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interfaces {
    /// Towards the internet.
    pub public: Link,
    /// Towards clients and other EPIC nodes; may be the same.
    pub underlay: Link,
    /// The address at which this node receives GUE.
    pub address: IpAddr,
}

/// Why they are not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Named in the EPIC object, but not there.
    #[error("interface {0:?}, which gue.interfaces of the EPIC object names, does not exist on this node")]
    NotFound(String),
    /// Nothing has the node's address.
    #[error(
        "no interface of this node has its InternalIP ({0}); name the interfaces in gue.interfaces of the EPIC object"
    )]
    NoInternalAddress(String),
    /// The programs could not read what it carries.
    #[error(
        "frames of interface {0:?} have no Ethernet header (as those of tun, WireGuard and PPP devices), so EPIC cannot \
         attach there; name an Ethernet interface in gue.interfaces of the EPIC object"
    )]
    NotEthernet(String),
    /// Tunnels need an IPv4 address.
    #[error("interface {0:?} has no IPv4 address for tunnels")]
    NoAddress(String),
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl Error {
    /// The reason of the node's condition.
    pub fn reason(&self) -> EPICNodeReason {
        match self {
            Self::NotEthernet(_) => EPICNodeReason::InterfaceNotSupported,
            _ => EPICNodeReason::InterfaceNotFound,
        }
    }
}

/// Finds them.
///
/// # Errors
/// [`Error`]; nothing is guessed.
pub async fn find(netlink: &Netlink, epic: &EPIC, node: &Node) -> Result<Interfaces, Error> {
    let internal: Vec<IpAddr> = internal_addresses(node).into_iter().filter(IpAddr::is_ipv4).collect();
    let public = one(netlink, epic.spec.public_interface(), &internal).await?;
    let underlay = one(netlink, epic.spec.underlay_interface(), &internal).await?;
    if let Some(link) = [&public, &underlay].into_iter().find(|link| !link.ethernet) {
        return Err(Error::NotEthernet(link.name.clone()));
    }
    let held: Vec<IpAddr> = netlink
        .addresses()
        .await?
        .into_iter()
        .filter(|(ifindex, address)| *ifindex == underlay.ifindex && address.is_ipv4())
        .map(|(_, address)| address)
        .collect();
    let address = internal.iter().find(|address| held.contains(address)).or(held.first());
    let address = *address.ok_or_else(|| Error::NoAddress(underlay.name.clone()))?;
    Ok(Interfaces { public, underlay, address })
}

async fn one(netlink: &Netlink, name: Option<&str>, internal: &[IpAddr]) -> Result<Link, Error> {
    if let Some(name) = name {
        return netlink.link_by_name(name).await.map_err(|error| match error.is_absent() {
            true => Error::NotFound(name.to_owned()),
            false => error.into(),
        });
    }
    for address in internal {
        if let Some(link) = netlink.link_with_address(*address).await? {
            return Ok(link);
        }
    }
    let listed: Vec<String> = internal.iter().map(ToString::to_string).collect();
    Err(Error::NoInternalAddress(listed.join(", ")))
}

/// What the programs have to know.
pub fn config(interfaces: &Interfaces, epic: &EPIC) -> Config {
    let (proxies_v4, proxies_v6) = by_family(&proxy_ranges(epic));
    let (aliases_v4, aliases_v6) = by_family(&alias_ranges(epic));
    Config {
        gue_port: epic.spec.gue_port(),
        ops_port: OPS_PORT,
        public_ifindex: interfaces.public.ifindex,
        underlay_ifindex: interfaces.underlay.ifindex,
        underlay_mtu: interfaces.underlay.mtu,
        new_flows_per_second: NEW_FLOWS_PER_SECOND,
        maglev_seed: MAGLEV_SEED,
        mac: interfaces.public.mac,
        proxies_v4,
        proxies_v6,
        aliases_v4,
        aliases_v6,
        underlay: interfaces.address.into(),
        ..Config::default()
    }
}

/// The first range of each family as programs have it.
pub fn by_family(ranges: &[IpNet]) -> (IpRange, IpRange) {
    let range = |network: Option<&IpNet>| {
        network.map_or_else(IpRange::default, |n| IpRange::new(Ip::from(n.network()), n.prefix_len()))
    };
    let v4 = ranges.iter().find(|range| matches!(range, IpNet::V4(_)));
    let v6 = ranges.iter().find(|range| matches!(range, IpNet::V6(_)));
    (range(v4), range(v6))
}
