//! By which interface an EPIC node is reached.

use std::net::IpAddr;

use epic_lb::Link;

use crate::desired::client::{NoWay, Ways};
use crate::device;
use crate::netlink::{Error, Netlink};

/// The way to an EPIC node as the routes are now.
///
/// # Errors
/// [`NoWay`].
pub async fn find(netlink: &Netlink, address: IpAddr) -> Result<Link, NoWay> {
    let refused = |error: Error| NoWay::Route(error.to_string());
    let path = netlink.path_to(address).await.map_err(refused)?;
    let link = netlink.link_by_index(path.ifindex).await.map_err(refused)?;
    if link.name == device::NAME || path.local {
        return Err(NoWay::Route("the route leads back to this host".to_owned()));
    }
    if !link.ethernet {
        return Err(NoWay::NotEthernet(link.name));
    }
    let local = path.source.ok_or_else(|| NoWay::Route("the route has no source address".to_owned()))?;
    Ok(Link { ifindex: path.ifindex, mtu: link.mtu, local })
}

/// The ways to use once `found` is known. One that is lost stays: without a route nothing leaves anyhow, and when it is
/// back everything goes on. One that leads to an interface where EPIC cannot attach is not replaced by the one before,
/// for that would lead around what the host's routes say.
pub fn after(mut before: Ways, mut found: Ways) -> Ways {
    for (address, way) in &mut found {
        if let Err(NoWay::Route(why)) = way
            && let Some(Ok(held)) = before.remove(address)
        {
            tracing::debug!(%address, why, "the way to an EPIC node is lost");
            *way = Ok(held);
        }
    }
    found
}

/// What an administrator has to change, if anything.
pub fn unsupported(ways: &Ways) -> Option<String> {
    ways.iter().find_map(|(address, way)| match way {
        Err(why @ NoWay::NotEthernet(_)) => Some(format!("EPIC node {address}: {why}")),
        _ => None,
    })
}
