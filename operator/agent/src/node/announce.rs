//! Gratuitous ARP: tells the link that a public address is here now.
//!
//! Sent when this node becomes the owner of an address, after its maps say so, and for all its addresses when the public
//! interface is another one or has another MAC (a bond fails over, a card is replaced); switches and neighbours then learn
//! the new place at once instead of when their entries age. Lost frames only cost that time, so each is sent three times.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::netlink::link::Link;

const ETHERTYPE_ARP: u16 = 0x0806;
const TIMES: u32 = 3;
const BETWEEN: Duration = Duration::from_millis(300);

/// What was announced, and as being where.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// Index and MAC of the interface.
    place: (u32, [u8; 6]),
    addresses: BTreeSet<IpAddr>,
}

impl Announced {
    /// Takes down that this node's addresses are announced on the interface; returns those that have to be now.
    pub fn take_up(&mut self, link: &Link, owned: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
        let place = (link.ifindex, link.mac);
        if self.place != place {
            *self = Self { place, addresses: BTreeSet::new() };
        }
        let new = owned.difference(&self.addresses).copied().collect();
        self.addresses.clone_from(owned);
        new
    }

    /// These could not be announced there: they have to be the next time.
    pub fn put_back(&mut self, link: &Link, failed: &[IpAddr]) {
        if self.place == (link.ifindex, link.mac) {
            self.addresses.retain(|address| !failed.contains(address));
        }
    }
}

/// Announces the IPv4 ones of these addresses on the interface.
///
/// # Errors
/// The kernel refused; `NET_RAW` is needed.
pub async fn announce(link: &Link, addresses: &[IpAddr]) -> io::Result<()> {
    let frames: Vec<[u8; 42]> = addresses
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(address) => Some(frame(link.mac, *address)),
            IpAddr::V6(_) => None,
        })
        .collect();
    if frames.is_empty() {
        return Ok(());
    }
    let protocol = Protocol::from(i32::from(ETHERTYPE_ARP.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
    let to = destination(link.ifindex)?;
    for round in 0..TIMES {
        if round > 0 {
            tokio::time::sleep(BETWEEN).await;
        }
        for frame in &frames {
            socket.send_to(frame, &to)?;
        }
    }
    Ok(())
}

/// An ARP request for the address by the address, which every neighbour that knows it takes over (RFC 5227 §3).
fn frame(mac: [u8; 6], address: Ipv4Addr) -> [u8; 42] {
    let mut frame = [0; 42];
    frame[..6].copy_from_slice(&[0xff; 6]);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETHERTYPE_ARP.to_be_bytes());
    // Ethernet, IPv4, lengths 6 and 4, request.
    frame[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&address.octets());
    frame[38..42].copy_from_slice(&address.octets());
    frame
}

fn destination(ifindex: u32) -> io::Result<SockAddr> {
    let index = i32::try_from(ifindex).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is plain data and fits into sockaddr_storage, which is what view_as asks for.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    *address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ETHERTYPE_ARP.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    };
    // SAFETY: the storage holds an initialised sockaddr_ll of this length.
    Ok(unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [IpAddr; 0] = [];

    fn link(ifindex: u32, last: u8) -> Link {
        let mac = [2, 0, 0, 0, 0, last];
        Link { ifindex, name: "bond0".to_owned(), mac, mtu: 1_500, up: true, ethernet: true }
    }

    #[test]
    fn an_address_is_announced_when_it_comes_and_when_its_place_changes() {
        let [a, b]: [IpAddr; 2] = ["192.0.2.7".parse().unwrap(), "192.0.2.8".parse().unwrap()];
        let mut announced = Announced::default();
        assert_eq!(announced.take_up(&link(2, 1), &[a].into()), [a]);
        assert_eq!(announced.take_up(&link(2, 1), &[a].into()), NONE);
        assert_eq!(announced.take_up(&link(2, 1), &[a, b].into()), [b]);
        assert_eq!(announced.take_up(&link(2, 2), &[a, b].into()), [a, b], "a bond failed over");
        assert_eq!(announced.take_up(&link(3, 2), &[a, b].into()), [a, b], "another interface");
        assert_eq!(announced.take_up(&link(3, 2), &[a].into()), NONE);
        assert_eq!(announced.take_up(&link(3, 2), &[a, b].into()), [b], "it came back");
    }

    #[test]
    fn what_could_not_be_announced_is_announced_again() {
        let [a, b]: [IpAddr; 2] = ["192.0.2.7".parse().unwrap(), "192.0.2.8".parse().unwrap()];
        let mut announced = Announced::default();
        announced.take_up(&link(2, 1), &[a].into());
        announced.take_up(&link(2, 1), &[a, b].into());
        announced.put_back(&link(2, 1), &[b]);
        assert_eq!(announced.take_up(&link(2, 1), &[a, b].into()), [b]);
        announced.take_up(&link(2, 2), &[a, b].into());
        announced.put_back(&link(2, 1), &[b]);
        assert_eq!(announced.take_up(&link(2, 2), &[a, b].into()), NONE, "it has been since, elsewhere");
    }

    #[test]
    fn the_frame_asks_everybody_for_the_sender_s_own_address() {
        let frame = frame([2, 0, 0, 0, 0, 1], Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!(frame[..14], [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6]);
        assert_eq!(frame[28..32], frame[38..42]);
        assert_eq!(frame[32..38], [0; 6]);
    }
}
