//! The layout that serves while another is being filled.
//!
//! Its programs run at every interface until the switch, so an interface that comes meanwhile gets them too. What is in its
//! maps is read only as far as no layout may change it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use epic_abi::maps::{TUNNELS, VIP_OWNED, VIPS};
use epic_abi::{Ip, Lb};

use crate::attach::{Attachment, Program};
use crate::error::Error;
use crate::pins::{self, Layout};
use crate::{sys, table};

/// That layout, and how far the switch away from it is.
#[derive(Debug)]
pub(crate) struct Former {
    pub(crate) layout: Layout,
    pub(crate) programs: BTreeMap<Program, OwnedFd>,
    pub(crate) at: At,
}

/// How far a switch is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// The new maps are being filled.
    Filling,
    /// What was learned is in the new maps.
    Copied,
    /// The new layout serves, but for these links.
    Current(BTreeSet<Attachment>),
}

impl Former {
    pub(crate) fn open(layout: Layout) -> Result<Self, Error> {
        let mut programs = BTreeMap::new();
        for program in Program::ALL {
            if let Some(fd) = pins::open(&layout.program(program.name()))? {
                programs.insert(program, fd);
            }
        }
        Ok(Self { layout, programs, at: At::Filling })
    }
}

/// What serves, as far as it can be read of every layout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Serving {
    /// Addresses that this node answers for.
    pub owned: BTreeSet<Ip>,
    /// Tunnels, and whose they are.
    pub tunnels: BTreeMap<u32, Lb>,
}

impl Serving {
    pub(crate) fn read(layout: &Layout) -> Result<Self, Error> {
        let mut serving = Self::default();
        heads(layout, VIPS.name, |address: Ip, flags: u32| {
            if flags & VIP_OWNED != 0 {
                serving.owned.insert(address);
            }
        })?;
        heads(layout, TUNNELS.name, |id: u32, lb: Lb| {
            serving.tunnels.insert(id, lb);
        })?;
        Ok(serving)
    }
}

/// Reads the keys of a map, and what its values begin with. A map that is not there or has other keys has none.
fn heads<K: aya::Pod, H: aya::Pod>(
    layout: &Layout,
    name: &'static str,
    mut take: impl FnMut(K, H),
) -> Result<(), Error> {
    let refused = || Error::refused(format!("read the map {name}"));
    let Some(map) = pins::open(&layout.map(name))? else { return Ok(()) };
    let info = sys::map_info(&map).map_err(refused())?;
    let (key_size, value_size) = (info.key_size as usize, info.value_size as usize);
    if key_size != size_of::<K>() || value_size < size_of::<H>() {
        return Ok(());
    }
    let each = |key: &[u8], value: &[u8]| take(table::read(key), table::read(&value[..size_of::<H>()]));
    table::each(&map, key_size, value_size, each).map_err(refused())
}
