//! Maps of what was learned on the wire: layouts share them, or copy them where their sizes differ.
//!
//! While one layout serves and another is being filled, the hello handler writes both maps (see [`Table::mirror`]) and the
//! programs write what serves. So flows are copied three times: most of them before, what came meanwhile just before the
//! switch, and what came during it afterwards. An entry that is there already is newer and stays.
//!
//! [`Table::mirror`]: crate::table::Table::mirror

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use epic_abi::maps::{MapKind, MapSpec, REMOTES, SOURCES};

use crate::error::Error;
use crate::identity::Identity;
use crate::pins::{self, Layout, Pins};
use crate::sys;
use crate::table;

/// What is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// All entries, before anybody writes the new maps.
    Entries,
    /// What only programs write. What the hello handler writes is in both maps since, and what it has removed stays away.
    Flows,
    /// What is counted, just before the switch: until then nobody counts in the new maps, afterwards nobody in the old.
    Counters,
}

/// Maps that the hello handler writes.
const MIRRORED: [&str; 2] = [REMOTES.name, SOURCES.name];

/// Forgets shared maps of an earlier try to fill this layout, which the one that serves does not use: nobody has written
/// them since, and what they say of far ends may be of somebody else by now.
pub(crate) fn forget(pins: &Pins, current: Option<&Layout>, identity: &Identity) -> Result<(), Error> {
    for (spec, name) in identity.learned() {
        let id = |map: &OwnedFd| {
            let info = sys::map_info(map).map_err(Error::refused(format!("read the map {}", spec.name)));
            info.map(|info| info.id)
        };
        let shared = pins::open(&pins.learned(&name))?.as_ref().map(id).transpose()?;
        let serving = match current {
            Some(current) => pins::open(&current.map(spec.name))?.as_ref().map(id).transpose()?,
            None => None,
        };
        if shared != serving {
            pins::unpin(&pins.learned(&name))?;
        }
    }
    Ok(())
}

/// Gives a layout the shared maps that are there.
pub(crate) fn lend(pins: &Pins, layout: &Layout, identity: &Identity) -> Result<(), Error> {
    for (spec, name) in identity.learned() {
        let at = layout.map(spec.name);
        if let Some(shared) = pins::open(&pins.learned(&name))?
            && pins::open(&at)?.is_none()
        {
            pins::pin(&shared, &at)?;
        }
    }
    Ok(())
}

/// Shares the maps that a layout has made.
pub(crate) fn share(pins: &Pins, layout: &Layout, identity: &Identity) -> Result<(), Error> {
    for (spec, name) in identity.learned() {
        let at = pins.learned(&name);
        if pins::open(&at)?.is_none()
            && let Some(map) = pins::open(&layout.map(spec.name))?
        {
            pins::pin(&map, &at)?;
        }
    }
    Ok(())
}

/// The maps of two layouts for the same thing, if they are two and their entries mean the same.
pub(crate) fn apart(
    spec: &MapSpec,
    one: &Layout,
    other: &Layout,
) -> Result<Option<(OwnedFd, OwnedFd)>, Error> {
    let (Some(one), Some(other)) = (pins::open(&one.map(spec.name))?, pins::open(&other.map(spec.name))?)
    else {
        return Ok(None);
    };
    let info = |map| sys::map_info(map).map_err(Error::refused(format!("read the map {}", spec.name)));
    let (a, b) = (info(&one)?, info(&other)?);
    let form = |info: sys::MapInfo| (info.kind, info.key_size, info.value_size);
    Ok((a.id != b.id && form(a) == form(b)).then_some((one, other)))
}

/// Copies what another layout learned, where it has maps of its own for it and of the same form.
pub(crate) fn copy(from: &Layout, to: &Layout, identity: &Identity, pass: Pass) -> Result<(), Error> {
    for (spec, _) in identity.learned() {
        if let Some((old, new)) = apart(spec, from, to)? {
            copy_map(spec, &old, &new, pass)
                .map_err(Error::refused(format!("copy the map {}", spec.name)))?;
        }
    }
    Ok(())
}

/// Removes the shared pins of maps that no layout uses but those of `identity`.
pub(crate) fn sweep(pins: &Pins, identity: &Identity) -> Result<(), Error> {
    let known: BTreeSet<String> = identity.learned().map(|(_, name)| name).collect();
    for stray in pins.learned_names()?.into_iter().filter(|name| !known.contains(name)) {
        pins::unpin(&pins.learned(&stray))?;
    }
    Ok(())
}

fn copy_map(spec: &MapSpec, old: &OwnedFd, new: &OwnedFd, pass: Pass) -> std::io::Result<()> {
    let counts = matches!(spec.kind, MapKind::PerCpuArray | MapKind::PerCpuHash);
    let (value_size, mode) = match pass {
        Pass::Counters if counts => (table::per_cpu(spec.value_size as usize)?, sys::Update::Replace),
        Pass::Entries if !counts => (spec.value_size as usize, sys::Update::Create),
        Pass::Flows if !counts && !MIRRORED.contains(&spec.name) => {
            (spec.value_size as usize, sys::Update::Create)
        }
        _ => return Ok(()),
    };
    let mut result = Ok(());
    table::each(old, spec.key_size as usize, value_size, |key, value| {
        let written = sys::map_write(new, key, value, mode);
        let error = written.as_ref().err().and_then(std::io::Error::raw_os_error);
        // It is there already, or not any more; or the new map is smaller, and what does not fit is learned again.
        if !matches!(error, None | Some(libc::EEXIST | libc::ENOENT | libc::E2BIG)) && result.is_ok() {
            result = written;
        }
    })?;
    result
}
