//! ARP frames, in and out, through packet sockets.
//!
//! What arrives is read by a socket for the protocol alone, so it costs nothing for other packets. The programs take
//! requests for the node's own addresses off the wire before that; replies, announcements and requests for what the node
//! does not answer for arrive here.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

const ETHERTYPE_ARP: u16 = 0x0806;
/// An Ethernet header, then ARP for IPv4 over Ethernet.
const LEN: usize = 42;
/// Hardware type Ethernet, protocol type IPv4, address lengths 6 and 4.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];
/// Before a socket that could not be opened is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Frames that wait to be judged. Of a flood the rest is dropped: whoever has an address says so again.
pub const QUEUE: usize = 256;

/// A hardware address.
pub type Mac = [u8; 6];

/// A hardware address as EPIC writes it.
pub fn text(mac: Mac) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

/// What an ARP packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Whose hardware address it names.
    pub mac: Mac,
    /// Whose address that is; unspecified in a probe.
    pub sender: Ipv4Addr,
    /// Who is asked for.
    pub target: Ipv4Addr,
}

impl Arp {
    /// Reads a frame; `None` for what is no ARP for IPv4 over Ethernet.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let packet = frame.get(..LEN)?;
        let operation = &packet[20..22];
        let is_arp = packet[12..14] == ETHERTYPE_ARP.to_be_bytes() && packet[14..20] == ETHERNET_IPV4;
        if !is_arp || (operation != REQUEST && operation != REPLY) {
            return None;
        }
        let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
        Some(Self { mac: packet[22..28].try_into().ok()?, sender: address(28)?, target: address(38)? })
    }

    /// The address it is about: whose it says it is, or which one a probe asks for (RFC 5227 §1.1).
    pub fn about(&self) -> Ipv4Addr {
        if self.sender.is_unspecified() { self.target } else { self.sender }
    }

    /// A request for `target` by `sender`. By itself it is an announcement, which every neighbour that knows the address
    /// takes over; by nobody a probe, which none does (RFC 5227 §§2.1.1, 3).
    pub fn request(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> [u8; LEN] {
        let mut frame = [0; LEN];
        frame[..6].copy_from_slice(&[0xff; 6]);
        frame[6..12].copy_from_slice(&mac);
        frame[12..14].copy_from_slice(&ETHERTYPE_ARP.to_be_bytes());
        frame[14..20].copy_from_slice(&ETHERNET_IPV4);
        frame[20..22].copy_from_slice(&REQUEST);
        frame[22..28].copy_from_slice(&mac);
        frame[28..32].copy_from_slice(&sender.octets());
        frame[38..42].copy_from_slice(&target.octets());
        frame
    }
}

/// Sends frames on an interface.
#[derive(Debug)]
pub struct Sender {
    socket: Socket,
    to: SockAddr,
}

impl Sender {
    /// Opens a socket. `NET_RAW` is needed.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn open(ifindex: u32) -> io::Result<Self> {
        // Of protocol 0 it receives nothing.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        Ok(Self { socket, to: place(ifindex, [0xff; 6])? })
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// The kernel refused; the interface may be down.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send_to(frame, &self.to).map(|_| ())
    }
}

/// What is heard about the addresses that are listened for.
#[derive(Clone, Debug, Default)]
pub struct Ears {
    /// Addresses that something may be said about.
    pub addresses: Arc<Mutex<BTreeSet<Ipv4Addr>>>,
}

impl Ears {
    /// Listens on the interface of this index, which may change, until `shutdown`.
    pub async fn run(
        self,
        mut place: watch::Receiver<Option<u32>>,
        heard: mpsc::Sender<Arp>,
        shutdown: CancellationToken,
    ) {
        loop {
            let ifindex = *place.borrow_and_update();
            let listening = async {
                match ifindex.map(listen) {
                    None => std::future::pending::<io::Result<()>>().await,
                    Some(Ok(socket)) => self.listen(&socket, &heard).await,
                    Some(Err(error)) => Err(error),
                }
            };
            tokio::select! {
                ended = listening => {
                    if let Err(error) = ended {
                        tracing::warn!(?ifindex, %error, "ARP cannot be heard; trying again");
                    }
                    tokio::select! {
                        () = tokio::time::sleep(AGAIN) => {}
                        () = shutdown.cancelled() => return,
                    }
                }
                changed = place.changed() => if changed.is_err() { return },
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn listen(&self, socket: &AsyncFd<Socket>, heard: &mpsc::Sender<Arp>) -> io::Result<()> {
        let mut buffer = [0; 128];
        loop {
            let length = socket
                .async_io(Interest::READABLE, |socket| io::Read::read(&mut &*socket, &mut buffer))
                .await?;
            let Some(arp) = Arp::read(&buffer[..length]) else { continue };
            if self.addresses.lock().contains(&arp.about()) {
                let _ = heard.try_send(arp);
            }
        }
    }
}

fn listen(ifindex: u32) -> io::Result<AsyncFd<Socket>> {
    // Bound before it receives: a socket with a protocol hears all interfaces from the start.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&place(ifindex, [0; 6])?)?;
    // SAFETY: a socket has the same descriptor for as long as it lives, and the AsyncFd owns it until then.
    unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
}

fn place(ifindex: u32, mac: Mac) -> io::Result<SockAddr> {
    let index = i32::try_from(ifindex).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut sll_addr = [0; 8];
    sll_addr[..6].copy_from_slice(&mac);
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
        sll_addr,
    };
    // SAFETY: the storage holds an initialised sockaddr_ll of this length.
    Ok(unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 1];

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn an_announcement_asks_everybody_for_the_sender_s_own_address() {
        let frame = Arp::request(OWN, ip("192.0.2.7"), ip("192.0.2.7"));
        assert_eq!(frame[..14], [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6]);
        assert_eq!(frame[28..32], frame[38..42]);
        assert_eq!(frame[32..38], [0; 6]);
        assert_eq!(Arp::read(&frame).unwrap().about(), ip("192.0.2.7"));
    }

    #[test]
    fn a_probe_is_about_what_it_asks_for_and_says_nothing_of_its_sender() {
        let frame = Arp::request(OWN, Ipv4Addr::UNSPECIFIED, ip("192.0.2.7"));
        let read = Arp::read(&frame).unwrap();
        assert_eq!((read.mac, read.about()), (OWN, ip("192.0.2.7")));
    }

    #[test]
    fn what_is_no_arp_for_ipv4_is_not_read() {
        let good = Arp::request(OWN, ip("192.0.2.7"), ip("192.0.2.7"));
        assert_eq!(Arp::read(&good[..41]), None, "cut off");
        for at in [12, 15, 17, 18, 21] {
            let mut bad = good;
            bad[at] = 9;
            assert_eq!(Arp::read(&bad), None, "byte {at}");
        }
    }
}
