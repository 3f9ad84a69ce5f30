//! Makes a namespace forget its connections: what a timeout, a restarted firewall or `conntrack -F` does.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use crate::Netns;

const NETLINK_NETFILTER: libc::c_int = 12;
const SUBSYSTEM_CONNTRACK: u16 = 1;
const DELETE: u16 = 2;
const NETLINK_ERROR: u16 = 2;

/// Empties the table of connections of `netns`.
pub fn forget_connections(netns: &Netns) {
    netns.run(|| flush().unwrap_or_else(|error| panic!("empty the table of connections: {error}")));
}

fn flush() -> io::Result<()> {
    // SAFETY: plain system calls; the new descriptor is owned at once.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, NETLINK_NETFILTER);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // A header, and the family "any" with version 0: a deletion that names no connection means all.
    let mut message = Vec::new();
    message.extend(20u32.to_ne_bytes());
    message.extend((SUBSYSTEM_CONNTRACK << 8 | DELETE).to_ne_bytes());
    message.extend(((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    message.extend([0; 12]);
    let mut answer = [0u8; 256];
    // SAFETY: the buffers are as long as said.
    let received = unsafe {
        let fd = socket.as_raw_fd();
        if libc::send(fd, message.as_ptr().cast(), message.len(), 0) < 0 {
            return Err(io::Error::last_os_error());
        }
        libc::recv(fd, answer.as_mut_ptr().cast(), answer.len(), 0)
    };
    if received < 20 {
        return Err(io::Error::last_os_error());
    }
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    match (kind, code) {
        (NETLINK_ERROR, 0) => Ok(()),
        (_, code) => Err(io::Error::from_raw_os_error(-code)),
    }
}
