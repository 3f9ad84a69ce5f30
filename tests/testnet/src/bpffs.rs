//! A BPF file system of a test's own, mounted nowhere: it is reached through a file descriptor and gone with it.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::PathBuf;

use crate::require_root;

const FSCONFIG_CMD_CREATE: libc::c_long = 6;

/// A mounted file system without a mount point.
pub struct Bpffs {
    mount: OwnedFd,
}

impl Bpffs {
    /// Makes one.
    pub fn new() -> Self {
        require_root();
        Self { mount: mount().unwrap_or_else(|error| panic!("mount a BPF file system: {error}")) }
    }

    /// A path by which this process and its children reach `name` in it.
    pub fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}/{name}", std::process::id(), self.mount.as_raw_fd()))
    }
}

impl Default for Bpffs {
    fn default() -> Self {
        Self::new()
    }
}

fn mount() -> io::Result<OwnedFd> {
    let call = |result: libc::c_long| {
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
    };
    let null = std::ptr::null::<libc::c_char>();
    // SAFETY: system calls with values, C strings and null; new descriptors are owned at once.
    unsafe {
        let context = call(libc::syscall(libc::SYS_fsopen, c"bpf".as_ptr(), 1 as libc::c_long))?;
        let context = OwnedFd::from_raw_fd(context);
        let fd = libc::c_long::from(context.as_raw_fd());
        call(libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, null, null, 0 as libc::c_long))?;
        let mount = call(libc::syscall(libc::SYS_fsmount, fd, 1 as libc::c_long, 0 as libc::c_long))?;
        Ok(OwnedFd::from_raw_fd(mount))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_can_be_made_in_it_and_are_not_seen_elsewhere() {
        let (one, two) = (Bpffs::new(), Bpffs::new());
        std::fs::create_dir(one.path("epic")).unwrap();
        assert!(one.path("epic").exists());
        assert!(!two.path("epic").exists());
    }
}
