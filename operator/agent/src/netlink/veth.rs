//! From a pod's address to the host side of its veth.
//!
//! The agent knows from the API which pod has which address, and needs the interface to attach a program to. Any CNI
//! that gives pods a veth pair will do: the host's end names the namespace of its peer, and the kernel lists the
//! addresses in there when asked with that id.
//!
//! An address may be found behind several veths (a second container network of the host with the same range, or a
//! pod of the same address that is about to go). The caller decides by what it knows; nothing is guessed here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

use super::link::{Link, own_address};
use super::{Error, Netlink, one};

/// The veth pair of a pod, seen from the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Veth {
    /// Index of the host's end, in this namespace.
    pub ifindex: u32,
    /// Name of the host's end.
    pub name: String,
    /// Largest packet of the host's end, in bytes.
    pub mtu: u32,
    /// Index of the pod's end, in the pod's namespace.
    pub peer_ifindex: u32,
    /// Hardware address of the pod's end.
    pub peer_mac: [u8; 6],
    /// Id of the pod's namespace, valid in this namespace only.
    pub netnsid: i32,
}

/// The host's end of a pair whose other end lies in another namespace.
#[derive(Debug)]
struct HostEnd {
    link: Link,
    peer_ifindex: u32,
    netnsid: i32,
}

impl HostEnd {
    fn of(message: &LinkMessage) -> Option<Self> {
        let mut veth = false;
        let (mut peer_ifindex, mut netnsid) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::LinkInfo(infos) => veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth)),
                LinkAttribute::Link(index) => peer_ifindex = Some(*index),
                LinkAttribute::LinkNetNsId(id) => netnsid = Some(*id),
                _ => {}
            }
        }
        if !veth {
            return None;
        }
        Some(Self { link: Link::of(message)?, peer_ifindex: peer_ifindex?, netnsid: netnsid? })
    }
}

impl Netlink {
    /// The veths behind which `wanted` addresses are found. Addresses that are found nowhere are absent.
    ///
    /// Costs one dump of this namespace's interfaces, one dump of addresses for every pod namespace, and one request
    /// for every address found; so ask for all addresses at once, and only when an interface or a pod changed.
    ///
    /// # Errors
    /// The kernel refused a request. A namespace or interface that goes away meanwhile is not an error.
    pub async fn pod_veths(&self, wanted: &BTreeSet<IpAddr>) -> Result<BTreeMap<IpAddr, Vec<Veth>>, Error> {
        let mut found: BTreeMap<IpAddr, Vec<Veth>> = BTreeMap::new();
        if wanted.is_empty() {
            return Ok(found);
        }
        let messages = self.link_messages().await?;
        let mut by_namespace: BTreeMap<i32, Vec<HostEnd>> = BTreeMap::new();
        for end in messages.iter().filter_map(HostEnd::of) {
            by_namespace.entry(end.netnsid).or_default().push(end);
        }
        for (netnsid, ends) in by_namespace {
            let held = match self.addresses_of_namespace(netnsid).await {
                Ok(held) => held,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error),
            };
            for (peer_ifindex, address) in held {
                let Some(end) = ends.iter().find(|end| end.peer_ifindex == peer_ifindex) else { continue };
                if !wanted.contains(&address) {
                    continue;
                }
                let peer_mac = match self.mac_in_namespace(netnsid, peer_ifindex).await {
                    Ok(mac) => mac,
                    Err(error) if is_gone(&error) => continue,
                    Err(error) => return Err(error),
                };
                found.entry(address).or_default().push(Veth {
                    ifindex: end.link.ifindex,
                    name: end.link.name.clone(),
                    mtu: end.link.mtu,
                    peer_ifindex,
                    peer_mac,
                    netnsid,
                });
            }
        }
        Ok(found)
    }

    async fn addresses_of_namespace(&self, netnsid: i32) -> Result<Vec<(u32, IpAddr)>, Error> {
        let mut request = AddressMessage::default();
        request.attributes.push(AddressAttribute::TargetNetNsId(netnsid));
        let action = format!("list the addresses of namespace {netnsid}");
        let messages = self.address_messages(&action, request).await?;
        Ok(messages
            .iter()
            // The kernel repeats the id in its answer. An answer without it speaks of this namespace.
            .filter(|message| message.attributes.contains(&AddressAttribute::TargetNetNsId(netnsid)))
            .filter_map(|message| Some((message.header.index, own_address(&message.attributes)?)))
            .collect())
    }

    async fn mac_in_namespace(&self, netnsid: i32, ifindex: u32) -> Result<[u8; 6], Error> {
        let mut request = self.handle().link().get().match_index(ifindex);
        request.message_mut().attributes.push(LinkAttribute::IfNetnsId(netnsid));
        let action = format!("read interface {ifindex} of namespace {netnsid}");
        let message = one(&action, request.execute()).await?;
        let link = Link::of(&message).ok_or_else(|| Error::answer(&action, "the interface has no name"))?;
        Ok(link.mac)
    }
}

/// The namespace or the interface vanished between two requests. The kernel answers `EINVAL` to an id it no longer
/// knows.
fn is_gone(error: &Error) -> bool {
    error.is_absent() || error.errno() == Some(libc::EINVAL)
}
