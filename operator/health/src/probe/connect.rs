//! Connections for probes.

use std::io;
use std::net::SocketAddr;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpSocket, TcpStream};

use crate::target::{Origin, Place};
use crate::verdict::Failure;

/// A connection to the place. It ends with a reset when it is dropped.
pub(super) async fn connect(place: &Place) -> Result<TcpStream, Failure> {
    let address = place.address;
    let socket = socket(address).map_err(|error| not_made("open a socket", &error))?;
    if let Some(origin) = &place.origin {
        bind(&socket, address, origin)?;
    }
    socket.connect(address).await.map_err(|error| refused(&error))
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // An orderly end would leave a socket in TIME-WAIT for a minute: 120,000 of them at 10,000 targets and five seconds.
    socket.set_zero_linger()?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

fn bind(socket: &TcpSocket, address: SocketAddr, origin: &Origin) -> Result<(), Failure> {
    if let Some(interface) = &origin.interface {
        socket
            .bind_device(Some(interface.as_bytes()))
            .map_err(|error| not_made(&format!("use interface {interface:?}"), &error))?;
    }
    let Some(source) = origin.source else { return Ok(()) };
    if source.is_ipv4() != address.is_ipv4() {
        return Err(Failure::not_made(format!(
            "the probe of {address} was not made: source address {source} is of the other family; name one of its own"
        )));
    }
    // Otherwise each probe would take a port for itself alone when it is bound, and 28,000 are all there are.
    setsockopt(socket, sockopt::IpBindAddressNoPort, &true)
        .map_err(io::Error::from)
        .and_then(|()| socket.bind(SocketAddr::new(source, 0)))
        .map_err(|error| not_made(&format!("use source address {source}"), &error))
}

fn not_made(what: &str, error: &io::Error) -> Failure {
    Failure::not_made(format!("this node cannot {what}: {error}"))
}

/// What a failed connect says, and of whom.
fn refused(error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::EADDRNOTAVAIL) => not_made("find a free port to dial from", error),
        Some(libc::ENOBUFS | libc::ENOMEM) => not_made("dial", error),
        Some(libc::ECONNREFUSED) => Failure::silent("connection refused"),
        _ => Failure::silent(format!("cannot connect: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::state::Outcome;

    #[tokio::test]
    async fn a_source_address_takes_no_port_before_it_is_known_who_is_dialled() {
        for source in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            let address = SocketAddr::new(source, 9);
            let socket = socket(address).expect("a socket");
            let origin = Origin { source: Some(source), interface: None };
            bind(&socket, address, &origin).expect("its own address");
            assert_eq!(socket.local_addr().expect("bound"), SocketAddr::new(source, 0));
        }
    }

    #[test]
    fn what_this_node_lacks_is_not_held_against_the_target() {
        let of = |code| refused(&io::Error::from_raw_os_error(code)).outcome();
        assert_eq!(of(libc::EADDRNOTAVAIL), Outcome::NotMade);
        assert_eq!(of(libc::ENOBUFS), Outcome::NotMade);
        assert_eq!(of(libc::ECONNREFUSED), Outcome::Silent);
        assert_eq!(of(libc::EHOSTUNREACH), Outcome::Silent);
        assert_eq!(of(libc::ENETUNREACH), Outcome::Silent);
    }
}
