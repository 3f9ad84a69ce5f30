//! The maps of a host by name and type, opened from their pins.
//!
//! The agent, its commands (`maps dump`, `status`, `tunnels`) and the tests use the same handles. Opening needs
//! neither the object nor the hold of an agent; who has no hold opens them to read alone, and is refused a write.

use std::os::fd::OwnedFd;
use std::path::Path;

use epic_abi::maps::{self as abi, *};
use epic_abi::{Ip, Lb};

use crate::error::Error;
use crate::learned;
use crate::maglev::Maglev;
use crate::pins::{self, Layout, Pins};
use crate::sys::{self, Access, MapInfo};
use crate::table::{PerCpuTable, Table};

macro_rules! handles {
    ($($(#[$doc:meta])* $spec:ident $name:ident $pin:literal: $kind:ident<$key:ty, $value:ty>[$entries:expr], $side:ident
        $(, learned $version:literal)? $(, room $room:ident)?;)+) => {
        /// Every map of `epic-abi`. Maps of the other side exist with room for one entry.
        #[derive(Debug)]
        pub struct Maps {
            $($(#[$doc])* pub $name: handles!(@type $kind $key, $value),)+
            side: Side,
        }

        impl Maps {
            pub(crate) fn of(layout: &Layout, dir: &Path, access: Access) -> Result<Self, Error> {
                let fd = |spec: &MapSpec| {
                    let fd = pins::open_for(&layout.map(spec.name), access)?;
                    fd.ok_or_else(|| Error::NoMaps(dir.to_owned()))
                };
                let vips = fd(&abi::VIPS)?;
                let side = match sys::map_info(&vips).map_err(Error::refused("read the map vips"))?.max_entries {
                    1 => Side::Client,
                    _ => Side::Node,
                };
                Ok(Self { $($name: handles!(@open $kind layout, &abi::$spec, fd(&abi::$spec)?),)+ side })
            }
        }
    };
    (@type PerCpuArray $key:ty, $value:ty) => { PerCpuTable<$key, $value> };
    (@type PerCpuHash $key:ty, $value:ty) => { PerCpuTable<$key, $value> };
    (@type HashOfArrays $key:ty, $value:ty) => { Maglev };
    (@type LpmTrie $key:ty, $value:ty) => { Table<SourcePrefix, $value> };
    (@type $kind:ident $key:ty, $value:ty) => { Table<$key, $value> };
    (@open PerCpuArray $layout:ident, $spec:expr, $fd:expr) => { PerCpuTable::new($spec, $fd)? };
    (@open PerCpuHash $layout:ident, $spec:expr, $fd:expr) => { PerCpuTable::new($spec, $fd)? };
    (@open HashOfArrays $layout:ident, $spec:expr, $fd:expr) => { Maglev::new($layout.clone(), $fd)? };
    (@open $kind:ident $layout:ident, $spec:expr, $fd:expr) => { Table::new($spec, $fd)? };
}

epic_abi::maps!(handles);

/// A key of `source_ranges` as the trie wants it: how many bits count, then the bits.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourcePrefix {
    /// 32 for the set and those of the network, 96 more for IPv4.
    pub bits: u32,
    /// The set and the network.
    pub key: abi::SourceRangeKey,
}

// SAFETY: repr(C), an integer and a struct of integers without padding, none between them.
unsafe impl aya::Pod for SourcePrefix {}

impl Maps {
    /// Opens the maps that serve in `dir`, where an agent has pinned them, to read them.
    ///
    /// # Errors
    /// There are none, or they are of another layout.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let no_maps = || Error::NoMaps(dir.to_owned());
        let layout = Pins::new(dir).current()?.ok_or_else(no_maps)?;
        let number = pins::open(&layout.map(abi::LAYOUT.name))?.ok_or_else(no_maps)?;
        match read_layout(&number)? {
            abi::LAYOUT_VERSION => Self::of(&layout, dir, Access::Read),
            found => Err(Error::Layout { dir: dir.to_owned(), found, known: abi::LAYOUT_VERSION }),
        }
    }

    /// What is learned from now on goes into the maps of the layout that serves, too, if it has its own; `None` ends that.
    pub(crate) fn mirror(&self, serving: Option<(&Layout, &Layout)>) -> Result<(), Error> {
        let other = |spec: &MapSpec| match serving {
            Some((serving, own)) => learned::apart(spec, serving, own),
            None => Ok(None),
        };
        self.remotes.mirror(other(&abi::REMOTES)?.map(|(serving, _)| serving));
        self.sources.mirror(other(&abi::SOURCES)?.map(|(serving, _)| serving));
        Ok(())
    }

    /// Which agent these maps belong to.
    pub fn side(&self) -> Side {
        self.side
    }
}

/// Fails unless a map that is pinned in `dir` has the form that `spec` says.
pub(crate) fn check_shape(dir: &Path, spec: &MapSpec, map: &OwnedFd) -> Result<(), Error> {
    let info = sys::map_info(map).map_err(Error::refused(format!("read the map {}", spec.name)))?;
    let shape = |kind, key, value| format!("kind {kind}, keys of {key}, values of {value} bytes");
    let found = shape(info.kind, info.key_size, info.value_size);
    let expected = shape(kind_number(spec.kind), spec.key_size, spec.value_size);
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape { dir: dir.to_owned(), name: spec.name, found, expected })
}

/// Creates the map that says of which layout the others are, before any of them.
pub(crate) fn write_layout(layout: &Layout, number: u32) -> Result<(), Error> {
    let spec = &abi::LAYOUT;
    let make = || {
        let fd = sys::map_create(
            spec.name,
            kind_number(spec.kind),
            spec.key_size,
            spec.value_size,
            spec.max_entries,
        )?;
        sys::map_update(&fd, &0u32.to_ne_bytes(), &number.to_ne_bytes())?;
        sys::pin(&fd, &layout.map(spec.name))
    };
    make().map_err(Error::refused("create the map layout"))
}

/// The number of a layout, out of its map.
pub(crate) fn read_layout(map: &OwnedFd) -> Result<u32, Error> {
    let read = || {
        let MapInfo { kind, key_size, value_size, .. } = sys::map_info(map)?;
        let mut value = [0; 4];
        // Whatever has another shape is of a layout that nobody knows.
        if (kind, key_size, value_size) == (sys::MAP_TYPE_ARRAY, 4, 4) {
            sys::map_lookup(map, &0u32.to_ne_bytes(), &mut value)?;
        }
        Ok(u32::from_ne_bytes(value))
    };
    read().map_err(Error::refused("read the map layout"))
}

/// Numbers of `enum bpf_map_type`.
pub(crate) fn kind_number(kind: MapKind) -> u32 {
    match kind {
        MapKind::Hash => 1,
        MapKind::Array => sys::MAP_TYPE_ARRAY,
        MapKind::PerCpuHash => 5,
        MapKind::PerCpuArray => 6,
        MapKind::LruHash => 9,
        MapKind::LpmTrie => 11,
        MapKind::HashOfArrays => 13,
    }
}
