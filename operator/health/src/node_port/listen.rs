//! Listeners, and what to do when there is none to be had.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket};

const BACKLOG: u32 = 128;

/// Listens on the port on all of the addresses, or says why not.
pub(super) fn listen(addresses: &[IpAddr], port: u16, retry: Duration) -> Result<Vec<TcpListener>, String> {
    addresses
        .iter()
        .map(|address| {
            listen_on(*address, port).map_err(|error| why_not(&error, SocketAddr::new(*address, port), retry))
        })
        .collect()
}

fn listen_on(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    match bind(SocketAddr::new(address, port)) {
        // A host without IPv6.
        Err(error)
            if address == Ipv6Addr::UNSPECIFIED
                && matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) =>
        {
            bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))
        }
        result => result,
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if address.is_ipv6() {
        // "All addresses" means those of IPv4 too, whatever the host's default is.
        setsockopt(&socket, sockopt::Ipv6V6Only, &!address.ip().is_unspecified())?;
    }
    // What was closed a moment ago may be opened again.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn why_not(error: &io::Error, address: SocketAddr, retry: Duration) -> String {
    let port = address.port();
    let cure = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "another process listens there, `ss -ltnp 'sport = :{port}'` names it; end it or take another port"
            )
        }
        io::ErrorKind::AddrNotAvailable => "this node does not have that address".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE; take one above".to_owned()
        }
        _ => format!("{error}"),
    };
    format!("cannot listen on {address} for health checks: {cure}; tried again every {retry:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_port_and_what_to_do() {
        let address = SocketAddr::from(([192, 0, 2, 1], 30_100));
        let text = |kind| why_not(&io::Error::from(kind), address, Duration::from_secs(5));
        assert_eq!(
            text(io::ErrorKind::AddrInUse),
            "cannot listen on 192.0.2.1:30100 for health checks: another process listens there, \
             `ss -ltnp 'sport = :30100'` names it; end it or take another port; tried again every 5s"
        );
        assert!(text(io::ErrorKind::PermissionDenied).contains("CAP_NET_BIND_SERVICE"));
        assert!(text(io::ErrorKind::AddrNotAvailable).contains("does not have that address"));
    }
}
