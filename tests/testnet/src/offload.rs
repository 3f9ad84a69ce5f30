//! Switches offloads of an interface: what `ethtool -K` does.
//!
//! On a veth with offloads a "packet" may be 64 KiB without a checksum, which hides most faults of MTU and checksum.
//! A test of the data plane therefore runs with them on and with them off.

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use crate::Netns;

/// What a sender leaves to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offloads {
    /// Segmentation and checksums are left to the device, as veth does by default.
    On,
    /// Every packet has its final size on the wire; checksums are left to the device.
    NoSegmentation,
    /// Every packet has its final size and its checksums.
    Off,
}

const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGSO: u32 = 0x24;
const ETHTOOL_SGRO: u32 = 0x2c;
const SIOCETHTOOL: libc::c_ulong = 0x8946;

#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Sets the offloads of an interface of `netns`.
pub fn set_offloads(netns: &Netns, interface: &str, offloads: Offloads) {
    let segmentation = u32::from(offloads == Offloads::On);
    let checksum = u32::from(offloads != Offloads::Off);
    netns.run(|| {
        // Checksum first when switched on and last when switched off: segmentation needs it.
        let mut steps = vec![
            (ETHTOOL_STXCSUM, checksum),
            (ETHTOOL_STSO, segmentation),
            (ETHTOOL_SGSO, segmentation),
            (ETHTOOL_SGRO, segmentation),
        ];
        if checksum == 0 {
            steps.rotate_left(1);
        }
        for (command, data) in steps {
            set(interface, command, data)
                .unwrap_or_else(|error| panic!("set offload {command:#x} of {interface} to {data}: {error}"));
        }
    });
}

fn set(interface: &str, command: u32, data: u32) -> io::Result<()> {
    let mut value = Value { command, data };
    // SAFETY: the request is a whole `ifreq` with a terminated name, and its pointer is to a live `Value`, which is
    // what these commands read.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(fd);
        let mut request: libc::ifreq = zeroed();
        let room = request.ifr_name.len() - 1;
        for (to, from) in request.ifr_name[..room].iter_mut().zip(interface.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        if libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
