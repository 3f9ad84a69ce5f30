//! Routes of this namespace: by which interface an address is reached, and what lies in the way of our ranges.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType, RouteVia,
};

use super::{Error, Netlink, all, one};

/// Prefixes shorter than this stand for "everything" (a default route, or a VPN's two halves of one), which ours
/// overrides by being longer.
const SHORTEST_SPECIFIC_PREFIX: u8 = 8;

/// How a packet to some address would leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// Index of the interface it leaves by.
    pub ifindex: u32,
    /// The source address the kernel would choose.
    pub source: Option<IpAddr>,
    /// The next hop; absent when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The destination is an address of this host.
    pub local: bool,
}

/// A route of this host inside or around one of our ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The destination of the route.
    pub destination: IpNet,
    /// Our range that it overlaps.
    pub range: IpNet,
    /// The interface it leads to, if it has one.
    pub ifindex: Option<u32>,
    /// Its routing table.
    pub table: u32,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {} (table {}", self.destination, self.table)?;
        if let Some(ifindex) = self.ifindex {
            write!(f, ", interface {ifindex}")?;
        }
        write!(f, ") overlaps {}", self.range)
    }
}

impl Netlink {
    /// The path to `destination`, rules and all tables considered.
    ///
    /// # Errors
    /// [`Error::errno`] is `ENETUNREACH` or `EHOSTUNREACH` when there is no route.
    pub async fn path_to(&self, destination: IpAddr) -> Result<Path, Error> {
        let mut request = RouteMessage::default();
        request.header.address_family = family(destination);
        request.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
        request.attributes.push(RouteAttribute::Destination(destination.into()));
        let action = format!("find the route to {destination}");
        let message = one(&action, self.handle().route().get(request).execute()).await?;
        let mut path =
            Path { ifindex: 0, source: None, gateway: None, local: message.header.kind == RouteType::Local };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => path.ifindex = *index,
                RouteAttribute::PrefSource(address) => path.source = plain(address),
                RouteAttribute::Gateway(address) => path.gateway = plain(address),
                _ => {}
            }
        }
        if path.ifindex == 0 {
            return Err(Error::answer(action, "the route names no interface"));
        }
        Ok(path)
    }

    /// The gateways of the default routes in the main table.
    ///
    /// # Errors
    /// The kernel refused the dump.
    pub async fn default_gateways(&self) -> Result<BTreeSet<IpAddr>, Error> {
        let mut found = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            request.header.table = RouteHeader::RT_TABLE_MAIN;
            let messages = all("list default routes", self.handle().route().get(request).execute()).await?;
            let default = messages.iter().filter(|message| {
                message.header.destination_prefix_length == 0 && message.header.kind == RouteType::Unicast
            });
            found.extend(default.flat_map(|message| gateways(&message.attributes)));
        }
        Ok(found)
    }

    /// Routes in any table that overlap one of `ranges` and do not lead to `own` (the interface that holds ours).
    ///
    /// A route within a range always conflicts. One around it does when somebody could be living there: it names
    /// an interface and is not a default route.
    ///
    /// # Errors
    /// The kernel refused the dump.
    pub async fn conflicts(&self, ranges: &[IpNet], own: Option<u32>) -> Result<Vec<Conflict>, Error> {
        let mut conflicts = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let messages = all("list routes", self.handle().route().get(request).execute()).await?;
            for message in &messages {
                conflicts.extend(ranges.iter().filter_map(|range| conflict(message, *range, own)));
            }
        }
        Ok(conflicts)
    }

    /// Makes `range` be routed to the interface, in the main table. Repeating it is harmless.
    ///
    /// # Errors
    /// The kernel refused the route, for example because the interface is down.
    pub async fn route_to_interface(&self, range: IpNet, ifindex: u32) -> Result<(), Error> {
        let request = own_route(range, ifindex);
        let action = format!("route {range} to interface {ifindex}");
        let added = self.handle().route().add(request).replace().execute().await;
        added.map_err(|source| Error::new(action, source))
    }

    /// Takes away what [`Self::route_to_interface`] made. Repeating it is harmless.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn unroute(&self, range: IpNet, ifindex: u32) -> Result<(), Error> {
        let action = format!("remove the route {range} to interface {ifindex}");
        match self.handle().route().del(own_route(range, ifindex)).execute().await {
            Ok(()) => Ok(()),
            Err(source) => {
                let error = Error::new(action, source);
                if error.is_absent() { Ok(()) } else { Err(error) }
            }
        }
    }

    /// The destinations in the main table that lead to the interface and were put there by an administrator or an
    /// agent, not by the kernel.
    ///
    /// # Errors
    /// The kernel refused the dump.
    pub async fn routes_of_interface(&self, ifindex: u32) -> Result<Vec<IpNet>, Error> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            // The kernel leaves out all others, of which there may be very many.
            request.attributes.push(RouteAttribute::Oif(ifindex));
            let messages = all("list routes", self.handle().route().get(request).execute()).await?;
            found.extend(
                messages
                    .iter()
                    .filter(|message| message.header.protocol == RouteProtocol::Static)
                    .filter(|message| message.attributes.contains(&RouteAttribute::Oif(ifindex)))
                    .filter_map(destination),
            );
        }
        Ok(found)
    }
}

fn own_route(range: IpNet, ifindex: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(range.network());
    message.header.destination_prefix_length = range.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    message.header.scope = if range.network().is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    message.attributes.push(RouteAttribute::Destination(range.network().into()));
    message.attributes.push(RouteAttribute::Oif(ifindex));
    message
}

fn conflict(message: &RouteMessage, range: IpNet, own: Option<u32>) -> Option<Conflict> {
    let destination = destination(message)?;
    let ifindex = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    if own.is_some() && ifindex == own {
        return None;
    }
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let inside = range.contains(&destination);
    let around = destination.contains(&range)
        && destination.prefix_len() >= SHORTEST_SPECIFIC_PREFIX
        && ifindex.is_some()
        && matches!(message.header.kind, RouteType::Unicast | RouteType::Local);
    (inside || around).then_some(Conflict {
        destination,
        range,
        ifindex,
        table: table.unwrap_or(u32::from(message.header.table)),
    })
}

/// Next hops of a route, of which it may have several. An IPv4 route may have one with an IPv6 address.
fn gateways(attributes: &[RouteAttribute]) -> Vec<IpAddr> {
    attributes
        .iter()
        .flat_map(|attribute| match attribute {
            RouteAttribute::Gateway(address) => plain(address).into_iter().collect(),
            RouteAttribute::Via(RouteVia::Inet(address)) => vec![(*address).into()],
            RouteAttribute::Via(RouteVia::Inet6(address)) => vec![(*address).into()],
            RouteAttribute::MultiPath(hops) => {
                hops.iter().flat_map(|hop| gateways(&hop.attributes)).collect()
            }
            _ => Vec::new(),
        })
        .collect()
}

fn destination(message: &RouteMessage) -> Option<IpNet> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => plain(address),
        _ => None,
    })?;
    IpNet::new(address, message.header.destination_prefix_length).ok()
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
