//! `epic0`: the client node's own device, which owns the routes to the proxy addresses.
//!
//! Decapsulated packets enter the host through it and replies leave through it, so nothing leaves in the clear
//! whatever the host's other routes are, strict `rp_filter` holds, firewall rules can name it, and its MTU makes the
//! kernel itself send frag-needed. It never transmits: the program at its egress takes every packet.
//!
//! It is a dummy device, or where the kernel has none a bridge without ports. ARP is off, for nobody answers.
//! Its hardware address is fixed when it is made; the ingress program writes it as destination of what it delivers.

use ipnet::IpNet;
use rtnetlink::{LinkBridge, LinkDummy, LinkUnspec};

use crate::netlink::link::Link;
use crate::netlink::route::Conflict;
use crate::netlink::{Error as NetlinkError, Netlink};

/// Name of the device.
pub const NAME: &str = "epic0";

/// Locally administered; the last bytes spell the project.
const MAC: [u8; 6] = [0x02, 0x00, b'E', b'P', b'I', b'C'];

/// Why the device is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host already uses addresses that belong to proxies.
    #[error(
        "this host has routes that conflict with EPIC's proxy addresses: {}; \
         choose other proxy-addresses in the EPIC object or remove the routes",
        list(.0)
    )]
    Conflict(Vec<Conflict>),
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// What the programs and the agent have to know of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Index.
    pub ifindex: u32,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Largest inner packet in bytes: the underlay's MTU without the tunnel's overhead.
    pub mtu: u32,
    /// IPv6 ranges that the kernel would not route here, and why. It has no IPv6 where that is disabled, nor on a
    /// device of less than 1280 bytes; packets of IPv4 do not need it.
    pub unrouted: Vec<(IpNet, String)>,
}

/// Fails when a route of this host overlaps `ranges` and does not lead to our device.
///
/// # Errors
/// [`Error::Conflict`] names the routes.
pub async fn check_conflicts(netlink: &Netlink, ranges: &[IpNet]) -> Result<(), Error> {
    let own = find(netlink).await?.map(|link| link.ifindex);
    let conflicts = netlink.conflicts(ranges, own).await?;
    if conflicts.is_empty() { Ok(()) } else { Err(Error::Conflict(conflicts)) }
}

/// Makes the device, sets its MTU and its routes, and brings it up. What is right already is left alone; routes of
/// an earlier configuration are removed. A route of IPv6 that the kernel refuses is left out, and tried again the next
/// time. `look` says to look for conflicts, which is always done before the device is made.
///
/// # Errors
/// [`Error::Conflict`] before anything is touched; otherwise the kernel's refusal.
pub async fn ensure(netlink: &Netlink, mtu: u32, ranges: &[IpNet], look: bool) -> Result<Device, Error> {
    let found = find(netlink).await?;
    if look || found.is_none() {
        check_conflicts(netlink, ranges).await?;
    }
    let link = match found {
        Some(link) => link,
        None => {
            create(netlink).await?;
            netlink.link_by_name(NAME).await?
        }
    };
    if link.mtu != mtu || link.mac != MAC || !link.up {
        let change =
            LinkUnspec::new_with_index(link.ifindex).mtu(mtu).address(MAC.to_vec()).arp(false).up().build();
        netlink.change_link(NAME, change).await?;
    }
    let routes = netlink.routes_of_interface(link.ifindex).await?;
    for stale in routes.iter().filter(|route| !ranges.contains(route)) {
        netlink.unroute(*stale, link.ifindex).await?;
    }
    // Replacing an IPv6 route by itself is a change to the kernel: it tells everybody who follows routes, this agent
    // among them, which would look again, and so on for ever.
    let mut unrouted = Vec::new();
    for missing in ranges.iter().filter(|range| !routes.contains(range)) {
        match netlink.route_to_interface(*missing, link.ifindex).await {
            Err(error) if missing.addr().is_ipv6() => unrouted.push((*missing, error.to_string())),
            done => done?,
        }
    }
    Ok(Device { ifindex: link.ifindex, mac: MAC, mtu, unrouted })
}

/// Removes the device, and its routes with it. Repeating it is harmless.
///
/// # Errors
/// The kernel refused.
pub async fn remove(netlink: &Netlink) -> Result<(), Error> {
    if let Some(link) = find(netlink).await? {
        netlink.delete_link(NAME, link.ifindex).await?;
    }
    Ok(())
}

async fn find(netlink: &Netlink) -> Result<Option<Link>, NetlinkError> {
    match netlink.link_by_name(NAME).await {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn create(netlink: &Netlink) -> Result<(), NetlinkError> {
    let dummy = LinkDummy::new(NAME).address(MAC.to_vec()).arp(false).build();
    match netlink.add_link(NAME, dummy).await {
        Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => {
            tracing::info!(
                device = NAME,
                "the kernel has no dummy devices, a bridge without ports stands in"
            );
            // With snooping a bridge joins groups, and says so into a device where nobody listens.
            let bridge = LinkBridge::new(NAME).mcast_snooping(false).address(MAC.to_vec()).arp(false).build();
            netlink.add_link(NAME, bridge).await
        }
        done => done,
    }
}

fn list(conflicts: &[Conflict]) -> String {
    conflicts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
