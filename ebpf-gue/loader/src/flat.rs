//! The form of pins before layouts had directories: every map beside the others in the directory of pins.
//!
//! They become the directory of the layout they are of, by renames: nothing is loaded, no program notices, and one that
//! ends half-way is gone on with. The map `layout` goes last, since it says that there is something to move.

use std::collections::BTreeMap;

use epic_abi::maps::{self as abi, MAPS};

use crate::error::Error;
use crate::identity::Identity;
use crate::maps::{check_shape, read_layout};
use crate::pins::{self, Layout, Pins};
use crate::sys;

/// The only layout that was ever pinned flat.
const FLAT: u32 = 1;

/// Moves what an earlier version pinned into a directory, which serves from then on.
///
/// # Errors
/// The pins are of no layout that was ever flat, and nothing is touched then; or the file system refused.
pub(crate) fn take_up(pins: &Pins) -> Result<(), Error> {
    let names = pins.flat_names()?;
    let Some(layout) = pins::open(&pins.flat(abi::LAYOUT.name))? else {
        return match names.into_iter().next() {
            None => Ok(()),
            Some(example) => Err(Error::Foreign { dir: pins.dir().to_owned(), example }),
        };
    };
    let known = FLAT;
    let found = read_layout(&layout)?;
    if found != known {
        return Err(Error::Layout { dir: pins.dir().to_owned(), found, known });
    }
    // Some may have been moved already, by one that was ended.
    let begun = pins.current()?;
    let mut entries = BTreeMap::new();
    for spec in MAPS {
        let flat = pins::open(&pins.flat(spec.name))?;
        let moved = match &begun {
            Some(layout) if flat.is_none() => pins::open(&layout.map(spec.name))?,
            _ => None,
        };
        let Some(map) = flat.or(moved) else { continue };
        check_shape(pins.dir(), spec, &map)?;
        let info = sys::map_info(&map).map_err(Error::refused(format!("read the map {}", spec.name)))?;
        entries.insert(spec.name, info.max_entries);
    }
    let identity = Identity::new(found, |spec| entries.get(spec.name).copied().unwrap_or(spec.max_entries));
    let layout = pins.layout(&identity.name());
    layout.make()?;
    pins.set_current(&layout)?;
    share(pins, &layout, &identity)?;
    tables(pins, &layout)?;
    for name in names.iter().filter(|name| **name != abi::LAYOUT.name) {
        pins::rename(&pins.flat(name), &layout.map(name))?;
    }
    pins::rename(&pins.flat(abi::LAYOUT.name), &layout.map(abi::LAYOUT.name))
}

/// Gives maps of what is learned the names that layouts share them by.
fn share(pins: &Pins, layout: &Layout, identity: &Identity) -> Result<(), Error> {
    for (spec, name) in identity.learned() {
        let map = match pins::open(&pins.flat(spec.name))? {
            Some(map) => map,
            None => match pins::open(&layout.map(spec.name))? {
                Some(map) => map,
                None => continue,
            },
        };
        pins::replace(&map, &pins.learned(&name))?;
    }
    Ok(())
}

fn tables(pins: &Pins, layout: &Layout) -> Result<(), Error> {
    let flat = pins.layout(pins::MAGLEV);
    for name in flat.flat_names()? {
        pins::rename(&flat.flat(&name), &layout.maglev(&name))?;
    }
    flat.remove()
}
