//! Gratuitous ARP: tells the link that a public address is here now.
//!
//! Sent when this node becomes the owner of an address, after its maps say so, and for all its addresses when the public
//! interface is another one or has another MAC (a bond fails over, a card is replaced); switches and neighbours then learn
//! the new place at once instead of when their entries age. Lost frames only cost that time, so each is sent three times.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use imbl::OrdSet;
use imbl::ordset::DiffItem;

use super::arp::{Arp, Sender};
use crate::netlink::link::Link;

const TIMES: u32 = 3;
const BETWEEN: Duration = Duration::from_millis(300);

/// What was announced, and as being where.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// Index and MAC of the interface.
    place: (u32, [u8; 6]),
    addresses: OrdSet<IpAddr>,
}

impl Announced {
    /// Takes down that this node's addresses are announced on the interface; returns those that have to be now.
    pub fn take_up(&mut self, link: &Link, owned: &OrdSet<IpAddr>) -> Vec<IpAddr> {
        let place = (link.ifindex, link.mac);
        if self.place != place {
            *self = Self { place, addresses: OrdSet::new() };
        }
        let new = self.addresses.diff(owned).filter_map(|change| match change {
            DiffItem::Add(address) => Some(*address),
            _ => None,
        });
        let new = new.collect();
        self.addresses.clone_from(owned);
        new
    }

    /// These could not be announced there: they have to be the next time.
    pub fn put_back(&mut self, link: &Link, failed: &[IpAddr]) {
        if self.place == (link.ifindex, link.mac) {
            for address in failed {
                self.addresses.remove(address);
            }
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
            IpAddr::V4(address) => Some(Arp::request(link.mac, *address, *address)),
            IpAddr::V6(_) => None,
        })
        .collect();
    if frames.is_empty() {
        return Ok(());
    }
    let sender = Sender::open(link.ifindex)?;
    for round in 0..TIMES {
        if round > 0 {
            tokio::time::sleep(BETWEEN).await;
        }
        for frame in &frames {
            sender.send(frame)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [IpAddr; 0] = [];

    fn link(ifindex: u32, last: u8) -> Link {
        let mac = [2, 0, 0, 0, 0, last];
        Link { ifindex, name: "bond0".to_owned(), mac, mtu: 1_500, ..Link::default() }
    }

    #[test]
    fn an_address_is_announced_when_it_comes_and_when_its_place_changes() {
        let [a, b]: [IpAddr; 2] = ["192.0.2.7".parse().unwrap(), "192.0.2.8".parse().unwrap()];
        let mut announced = Announced::default();
        assert_eq!(announced.take_up(&link(2, 1), &OrdSet::unit(a)), [a]);
        assert_eq!(announced.take_up(&link(2, 1), &OrdSet::unit(a)), NONE);
        assert_eq!(announced.take_up(&link(2, 1), &OrdSet::from_iter([a, b])), [b]);
        assert_eq!(announced.take_up(&link(2, 2), &OrdSet::from_iter([a, b])), [a, b], "a bond failed over");
        assert_eq!(announced.take_up(&link(3, 2), &OrdSet::from_iter([a, b])), [a, b], "another interface");
        assert_eq!(announced.take_up(&link(3, 2), &OrdSet::unit(a)), NONE);
        assert_eq!(announced.take_up(&link(3, 2), &OrdSet::from_iter([a, b])), [b], "it came back");
    }

    #[test]
    fn what_could_not_be_announced_is_announced_again() {
        let [a, b]: [IpAddr; 2] = ["192.0.2.7".parse().unwrap(), "192.0.2.8".parse().unwrap()];
        let mut announced = Announced::default();
        announced.take_up(&link(2, 1), &OrdSet::unit(a));
        announced.take_up(&link(2, 1), &OrdSet::from_iter([a, b]));
        announced.put_back(&link(2, 1), &[b]);
        assert_eq!(announced.take_up(&link(2, 1), &OrdSet::from_iter([a, b])), [b]);
        announced.take_up(&link(2, 2), &OrdSet::from_iter([a, b]));
        announced.put_back(&link(2, 1), &[b]);
        assert_eq!(
            announced.take_up(&link(2, 2), &OrdSet::from_iter([a, b])),
            NONE,
            "it has been since, elsewhere"
        );
    }
}
