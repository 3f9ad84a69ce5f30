//! The `bpf` system call, as far as aya does not wrap it.
//!
//! aya parses the object, creates maps and loads programs. Links by interface index, reading where a link hangs,
//! the order of programs at a hook, and whole-map reads are not in its interface, and two ways through it need
//! `CAP_SYS_ADMIN` (everything that goes from an id to a descriptor). So these calls are made here, each with the
//! fields that `include/uapi/linux/bpf.h` gives its command. The kernel takes missing trailing fields as zero.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const MAP_CREATE: u32 = 0;
const MAP_LOOKUP: u32 = 1;
const MAP_UPDATE: u32 = 2;
const MAP_DELETE: u32 = 3;
const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;
const OBJ_INFO: u32 = 15;
const PROG_QUERY: u32 = 16;
const MAP_LOOKUP_BATCH: u32 = 24;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;

/// `BPF_TCX_INGRESS`.
pub(crate) const TCX_INGRESS: u32 = 46;
/// `BPF_TCX_EGRESS`.
pub(crate) const TCX_EGRESS: u32 = 47;
/// `BPF_F_BEFORE`; without a relative it means "first".
const F_BEFORE: u32 = 1 << 3;

/// `BPF_MAP_TYPE_ARRAY`.
pub(crate) const MAP_TYPE_ARRAY: u32 = 2;

fn bpf<T>(command: u32, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: `attributes` is a live, initialised struct of the given size; pointers within are made by the callers
    // below from buffers that outlive the call and are as long as the kernel will read or write.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            libc::c_long::from(command),
            std::ptr::from_mut(attributes),
            size_of::<T>() as libc::c_long,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn pointer<T: ?Sized>(to: *const T) -> u64 {
    to.cast::<()>() as u64
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Creates a map. The name is cut to what the kernel keeps.
pub(crate) fn map_create(
    name: &str,
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        kind: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
        inner: u32,
        numa: u32,
        name: [u8; 16],
    }
    let mut kept = [0; 16];
    for (to, from) in kept[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    let mut attributes =
        Attributes { kind, key_size, value_size, max_entries, flags: 0, inner: 0, numa: 0, name: kept };
    bpf(MAP_CREATE, &mut attributes).map(owned)
}

#[repr(C)]
struct Element {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn element(map: impl AsFd, key: &[u8], value: u64) -> Element {
    Element { map: map.as_fd().as_raw_fd() as u32, _pad: 0, key: pointer(key.as_ptr()), value, flags: 0 }
}

/// Reads a value into `value`. `Ok(false)` when the key is not there. The slices must have the map's sizes.
pub(crate) fn map_lookup(map: impl AsFd, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    match bpf(MAP_LOOKUP, &mut element(map, key, pointer(value.as_mut_ptr()))) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What may be there before a write; numbers of `BPF_ANY`, `BPF_NOEXIST`, `BPF_EXIST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Update {
    /// Anything.
    Any = 0,
    /// Nothing; else `EEXIST`.
    Create = 1,
    /// A value; else `ENOENT`.
    Replace = 2,
}

/// Writes a value. The slices must have the map's sizes.
pub(crate) fn map_write(map: impl AsFd, key: &[u8], value: &[u8], update: Update) -> io::Result<()> {
    let mut attributes = element(map, key, pointer(value.as_ptr()));
    attributes.flags = update as u64;
    bpf(MAP_UPDATE, &mut attributes).map(drop)
}

/// Writes a value, whatever is there.
pub(crate) fn map_update(map: impl AsFd, key: &[u8], value: &[u8]) -> io::Result<()> {
    map_write(map, key, value, Update::Any)
}

/// Removes a key. `Ok(false)` when it was not there.
pub(crate) fn map_delete(map: impl AsFd, key: &[u8]) -> io::Result<bool> {
    match bpf(MAP_DELETE, &mut element(map, key, 0)) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads up to `count` entries after the position `after` (`None`: from the beginning) into `keys` and `values`.
/// Returns how many were read and whether that was the end. `position` receives where to go on.
pub(crate) fn map_lookup_batch(
    map: impl AsFd,
    after: Option<&[u8]>,
    position: &mut [u8],
    keys: &mut [u8],
    values: &mut [u8],
    count: u32,
) -> io::Result<(u32, bool)> {
    #[repr(C)]
    struct Attributes {
        in_batch: u64,
        out_batch: u64,
        keys: u64,
        values: u64,
        count: u32,
        map: u32,
        element_flags: u64,
        flags: u64,
    }
    let mut attributes = Attributes {
        in_batch: after.map_or(0, |after| pointer(after.as_ptr())),
        out_batch: pointer(position.as_mut_ptr()),
        keys: pointer(keys.as_mut_ptr()),
        values: pointer(values.as_mut_ptr()),
        count,
        map: map.as_fd().as_raw_fd() as u32,
        element_flags: 0,
        flags: 0,
    };
    match bpf(MAP_LOOKUP_BATCH, &mut attributes) {
        Ok(_) => Ok((attributes.count, false)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((attributes.count, true)),
        Err(error) => Err(error),
    }
}

#[repr(C)]
struct Pin {
    path: u64,
    object: u32,
    flags: u32,
}

/// Pins an object (map, program or link) at `path`.
pub(crate) fn pin(object: impl AsFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attributes =
        Pin { path: pointer(path.as_ptr()), object: object.as_fd().as_raw_fd() as u32, flags: 0 };
    bpf(OBJ_PIN, &mut attributes).map(drop)
}

/// What a map may be opened for; numbers of the file flags of `BPF_OBJ_GET`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everything.
    Full = 0,
    /// `BPF_F_RDONLY`.
    Read = 1 << 3,
}

/// Opens the object that is pinned at `path`.
pub(crate) fn open_pin(path: &Path, access: Access) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attributes = Pin { path: pointer(path.as_ptr()), object: 0, flags: access as u32 };
    bpf(OBJ_GET, &mut attributes).map(owned)
}

fn object_info<T>(object: impl AsFd, info: &mut T) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        object: u32,
        length: u32,
        info: u64,
    }
    let mut attributes = Attributes {
        object: object.as_fd().as_raw_fd() as u32,
        length: size_of::<T>() as u32,
        info: pointer(std::ptr::from_mut(info)),
    };
    bpf(OBJ_INFO, &mut attributes).map(drop)
}

/// Head of `struct bpf_map_info`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MapInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
}

/// What the kernel says of a map.
pub(crate) fn map_info(map: impl AsFd) -> io::Result<MapInfo> {
    let mut info = MapInfo::default();
    object_info(map, &mut info)?;
    Ok(info)
}

/// Head of `struct bpf_link_info`, with the part of tcx links.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) program_id: u32,
    _pad: u32,
    /// Zero when the interface is gone.
    pub(crate) ifindex: u32,
    pub(crate) attach_type: u32,
}

/// What the kernel says of a link.
pub(crate) fn link_info(link: impl AsFd) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    object_info(link, &mut info)?;
    Ok(info)
}

/// Attaches a program to an interface by a tcx link, before all that are there.
pub(crate) fn link_create_first(program: impl AsFd, ifindex: u32, attach_type: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        program: u32,
        ifindex: u32,
        attach_type: u32,
        flags: u32,
        relative: u32,
        _pad: u32,
        expected_revision: u64,
    }
    let mut attributes = Attributes {
        program: program.as_fd().as_raw_fd() as u32,
        ifindex,
        attach_type,
        flags: F_BEFORE,
        relative: 0,
        _pad: 0,
        expected_revision: 0,
    };
    bpf(LINK_CREATE, &mut attributes).map(owned)
}

/// Replaces the program of a link; no packet meets the link without one.
pub(crate) fn link_update(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut attributes = [link.as_fd().as_raw_fd() as u32, program.as_fd().as_raw_fd() as u32, 0, 0];
    bpf(LINK_UPDATE, &mut attributes).map(drop)
}

/// Ids of the programs at a hook of an interface, in the order they run. Needs no more than `CAP_NET_ADMIN`.
pub(crate) fn programs_at(ifindex: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    /// The kernel allows 63 programs at a hook.
    const MOST: usize = 64;
    #[repr(C)]
    struct Attributes {
        ifindex: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        program_ids: u64,
        count: u32,
        _pad: u32,
        program_attach_flags: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }
    let mut ids = vec![0u32; MOST];
    let mut attributes = Attributes {
        ifindex,
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        program_ids: pointer(ids.as_mut_ptr()),
        count: MOST as u32,
        _pad: 0,
        program_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    match bpf(PROG_QUERY, &mut attributes) {
        Ok(_) => {
            ids.truncate(attributes.count as usize);
            Ok(ids)
        }
        // Nothing was ever attached there.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
