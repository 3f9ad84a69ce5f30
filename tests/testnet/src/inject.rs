//! Frames put on a wire as they are: what no host would send by itself.

use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use crate::Netns;

const ETHERTYPE: usize = 12;

/// Sends a frame, Ethernet header and all, out of an interface of `netns`.
pub fn inject(netns: &Netns, interface: &str, frame: &[u8]) {
    netns.run(|| send(interface, frame).unwrap_or_else(|e| panic!("send a frame out of {interface}: {e}")));
}

fn send(interface: &str, frame: &[u8]) -> io::Result<()> {
    let name = CString::new(interface)?;
    // SAFETY: the name is a C string; the address is a whole `sockaddr_ll` of which all other fields may be zero; frame
    // and address are as long as said. The new descriptor is owned at once.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(fd);
        let index = libc::if_nametoindex(name.as_ptr());
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        let mut address: libc::sockaddr_ll = zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        address.sll_protocol = u16::from_ne_bytes([frame[ETHERTYPE], frame[ETHERTYPE + 1]]);
        let length = size_of::<libc::sockaddr_ll>() as u32;
        let (bytes, to) = (frame.as_ptr().cast(), (&raw const address).cast());
        if libc::sendto(socket.as_raw_fd(), bytes, frame.len(), 0, to, length) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
