//! The map of Maglev tables: an array of proxy ids for every LoadBalancer, replaced as a whole.
//!
//! A new table is filled before it is put in place, so no packet meets half of one. The kernel gives an inner map
//! back by id only, and from an id to a descriptor needs `CAP_SYS_ADMIN`; so every table is pinned too, and a pinned
//! table counts only if its id is the one in the outer map. A crash between the two writes therefore shows as
//! "unknown" and the table is written again.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, OwnedFd};

use epic_abi::Lb;
use epic_abi::maps::{MAGLEV, MAGLEV_SLOTS};

use crate::error::Error;
use crate::pins::{self, Layout};
use crate::sys;
use crate::table::{bytes_of, read};

/// The tables of all LoadBalancers.
#[derive(Debug)]
pub struct Maglev {
    layout: Layout,
    outer: OwnedFd,
    capacity: u32,
}

impl Maglev {
    pub(crate) fn new(layout: Layout, outer: OwnedFd) -> Result<Self, Error> {
        let capacity = crate::table::capacity(MAGLEV.name, &outer)?;
        Ok(Self { layout, outer, capacity })
    }

    /// How many LoadBalancers may have a table.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Puts a table in place: slot by slot a proxy id, 0 for none. Slots beyond `slots` stay 0.
    ///
    /// # Errors
    /// There are more slots than a table has, or the kernel refused.
    pub fn set(&self, lb: Lb, slots: &[u32]) -> Result<(), Error> {
        let refused = || Error::refused(format!("write the Maglev table of {}/{}", lb.group, lb.service));
        if slots.len() > MAGLEV_SLOTS as usize {
            return Err(refused()(std::io::ErrorKind::InvalidInput.into()));
        }
        let table =
            sys::map_create("maglev_table", sys::MAP_TYPE_ARRAY, 4, 4, MAGLEV_SLOTS).map_err(refused())?;
        for (index, proxy) in (0u32..).zip(slots) {
            sys::map_update(&table, &index.to_ne_bytes(), &proxy.to_ne_bytes()).map_err(refused())?;
        }
        // What can fail comes before the packets see the new table.
        let next = pins::prepare(&table, &self.layout.maglev(&name(lb)))?;
        let descriptor = table.as_raw_fd() as u32;
        sys::map_update(&self.outer, bytes_of(&lb), &descriptor.to_ne_bytes()).map_err(refused())?;
        next.commit()
    }

    /// The table of a LoadBalancer; `None` when it has none or nobody knows what is in it.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn get(&self, lb: Lb) -> Result<Option<Vec<u32>>, Error> {
        let refused = || Error::refused(format!("read the Maglev table of {}/{}", lb.group, lb.service));
        let mut id = [0; 4];
        if !sys::map_lookup(&self.outer, bytes_of(&lb), &mut id).map_err(refused())? {
            return Ok(None);
        }
        let Some(table) = pins::open(&self.layout.maglev(&name(lb)))? else { return Ok(None) };
        if sys::map_info(&table).map_err(refused())?.id != u32::from_ne_bytes(id) {
            return Ok(None);
        }
        let mut slots = vec![0; MAGLEV_SLOTS as usize];
        crate::table::each(&table, size_of::<u32>(), size_of::<u32>(), |index, proxy| {
            if let Some(slot) = slots.get_mut(read::<u32>(index) as usize) {
                *slot = read(proxy);
            }
        })
        .map_err(refused())?;
        Ok(Some(slots))
    }

    /// Removes the table of a LoadBalancer; says whether there was one.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove(&self, lb: Lb) -> Result<bool, Error> {
        let removed = sys::map_delete(&self.outer, bytes_of(&lb))
            .map_err(Error::refused(format!("remove the Maglev table of {}/{}", lb.group, lb.service)))?;
        pins::unpin(&self.layout.maglev(&name(lb)))?;
        Ok(removed)
    }

    /// The LoadBalancers that have a table, with its content where it is known.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn entries(&self) -> Result<BTreeMap<Lb, Option<Vec<u32>>>, Error> {
        let mut entries = BTreeMap::new();
        for lb in self.keys()? {
            entries.insert(lb, self.get(lb)?);
        }
        Ok(entries)
    }

    /// How many LoadBalancers have a table.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn count(&self) -> Result<usize, Error> {
        let counted = crate::table::count(&self.outer, size_of::<Lb>(), size_of::<u32>());
        counted.map_err(Error::refused("count the map maglev"))
    }

    /// The LoadBalancers that have a table.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn keys(&self) -> Result<Vec<Lb>, Error> {
        let mut keys = Vec::new();
        crate::table::each(&self.outer, size_of::<Lb>(), size_of::<u32>(), |key, _| {
            keys.push(read::<Lb>(key))
        })
        .map_err(Error::refused("list the map maglev"))?;
        keys.sort_unstable();
        Ok(keys)
    }

    /// Removes pins of tables that are not in the map any more, as a crash may leave them.
    pub(crate) fn sweep(&self) -> Result<(), Error> {
        let known: Vec<_> = self.keys()?.into_iter().map(name).collect();
        for pinned in self.layout.maglev_names()? {
            if !known.contains(&pinned) {
                pins::unpin(&self.layout.maglev(&pinned))?;
            }
        }
        Ok(())
    }
}

fn name(lb: Lb) -> String {
    format!("{}-{}", lb.group, lb.service)
}
