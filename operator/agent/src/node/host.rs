//! Facts of the running kernel.

use std::fs;

use crate::desired::node::UNKNOWN_BOOT;

/// The boot id: another one means that all maps and programs were lost.
pub(super) fn boot_id() -> String {
    let read = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    // Without /proc every start counts as the same boot, and pinned maps tell otherwise.
    read.map(|text| text.trim().to_owned()).unwrap_or_else(|_| UNKNOWN_BOOT.to_owned())
}

/// The kernel's release, as `uname -r` prints it.
pub(super) fn kernel() -> String {
    nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}
