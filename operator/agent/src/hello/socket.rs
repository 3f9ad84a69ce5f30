//! The UDP socket on the GUE port: control messages only.
//!
//! The BPF programs take every data packet before it gets here; what the kernel delivers to this socket is GUE
//! control addressed to this host (and whatever the programs pass on, which is counted and dropped). The socket
//! also keeps the port: without it the kernel would answer with port-unreachable.

use std::io;
use std::net::SocketAddr;

use epic_abi::gue::{CONTROL_HEADER_LEN, CONTROL_TYPE_HELLO, Packet, decode, encode_control};
use epic_abi::hello::MAX_LEN;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use tokio::net::UdpSocket;

use super::Outgoing;

/// Bytes of messages that may wait. All clients call at once after their EPIC node was away, and anybody may send made-up
/// messages in between: the kernel's usual buffer holds some 250 of them.
const WAITING: usize = 4 << 20;

/// The socket.
#[derive(Debug)]
pub struct Socket {
    udp: UdpSocket,
}

impl Socket {
    /// Binds the GUE port. On one address where the other side knows that one alone, as clients know an EPIC node's: an
    /// answer then leaves with it, whatever other addresses the host has and whatever its routes would choose.
    ///
    /// # Errors
    /// Somebody else has the port: a second agent on this host, or a kernel GUE listener. Or the host has not the
    /// address.
    pub async fn bind(at: SocketAddr) -> io::Result<Self> {
        let udp = UdpSocket::bind(at).await?;
        if let Err(error) = setsockopt(&udp, RcvBufForce, &WAITING) {
            tracing::debug!(%error, "the hello socket has the usual buffer");
        }
        Ok(Self { udp })
    }

    /// The next hello message (without its GUE header) and where it came from. Anything else is skipped.
    ///
    /// # Errors
    /// The socket broke.
    pub async fn receive(&self) -> io::Result<(SocketAddr, Vec<u8>)> {
        let mut buffer = [0; CONTROL_HEADER_LEN + MAX_LEN + 1];
        loop {
            let (length, from) = match self.udp.recv_from(&mut buffer).await {
                Ok(received) => received,
                // An ICMP error of an earlier send shows up here; it says nothing about the socket.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error),
            };
            let Some(bytes) = buffer.get(..length) else { continue };
            if let Ok(Packet::Control(CONTROL_TYPE_HELLO)) = decode(bytes) {
                return Ok((from, bytes[CONTROL_HEADER_LEN..].to_vec()));
            }
        }
    }

    /// Sends one message. A full buffer or an unreachable network loses it, as any network may: hellos repeat.
    pub async fn send(&self, message: &Outgoing) {
        if message.bytes.is_empty() {
            return;
        }
        let mut datagram = encode_control(CONTROL_TYPE_HELLO).to_vec();
        datagram.extend_from_slice(&message.bytes);
        if let Err(error) = self.udp.send_to(&datagram, message.to).await {
            tracing::debug!(to = %message.to, %error, "hello message not sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;
    use nix::sys::socket::sockopt::RcvBuf;

    use super::*;

    #[test]
    fn many_messages_may_wait_while_the_agent_is_busy() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let socket = Socket::bind(SocketAddr::from(([0, 0, 0, 0], 0))).await.unwrap();
            let held = getsockopt(&socket.udp, RcvBuf).unwrap();
            assert!(held >= WAITING, "{held} bytes: NET_ADMIN is needed, as the agent has it");
        });
    }
}
