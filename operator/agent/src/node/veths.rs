//! Veths of proxies, by pod address, as rows have them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use epic_lb::Veth;

use crate::netlink::{Error, Netlink};

/// Finds the host sides of the pods with these addresses.
///
/// # Errors
/// The kernel refused. Then nothing is known, which is not the same as nothing found.
pub(super) async fn find(
    netlink: &Netlink,
    wanted: &BTreeSet<IpAddr>,
) -> Result<BTreeMap<IpAddr, Vec<Veth>>, Error> {
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    let macs: BTreeMap<u32, [u8; 6]> =
        netlink.links().await?.into_iter().map(|link| (link.ifindex, link.mac)).collect();
    let found = netlink.pod_veths(wanted).await?;
    let rows = found.into_iter().map(|(address, veths)| {
        let row = |veth: crate::netlink::veth::Veth| Veth {
            ifindex: veth.ifindex,
            ifname: veth.name.into(),
            pod_mac: veth.peer_mac,
            host_mac: macs.get(&veth.ifindex).copied().unwrap_or_default(),
            pod_ip: address,
        };
        (address, veths.into_iter().map(row).collect())
    });
    Ok(rows.collect())
}
