//! Maps of services without a proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use epic_lb::maps::{DirectKey, DirectLayout, DirectValue, dump_direct};
use epic_lb::render::DirectSide;
use epic_lb::{Here, Location, Snapshot};
use epic_reconciler::{Layout as _, Render as _};

use super::{Entries, MapSide, Wanted, rendered};

/// Maps of services without a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direct {
    /// Where they are.
    pub location: Location,
    /// Seed of the Maglev tables.
    pub seed: u32,
    /// Backends, and frontends, for which they have room.
    pub room: u32,
}

impl Direct {
    /// What renders rows into them.
    pub fn renderer(&self) -> DirectSide {
        let Location { node, zone, cluster } = self.location.clone();
        DirectSide::new(node.unwrap_or_default(), self.seed).at(zone, cluster).with_room(self.room)
    }
}

impl MapSide for Direct {
    type Layout = DirectLayout;
    const HOLDER: &'static str = "holder of that number";

    fn here(&self) -> Here<'_> {
        self.location.here()
    }

    fn wanted(&self, tables: &Snapshot, held: &BTreeMap<DirectKey, DirectValue>) -> Wanted<DirectLayout> {
        // Numbers are given by whoever renders: those that the maps hold are taken over, as at a restart.
        let mut side = self.renderer();
        let held: Entries<DirectLayout> = held.iter().map(|(key, value)| (*key, value.clone())).collect();
        side.adopt(&held);
        // Whoever holds a number of something that is gone lets go of it here, as the reconciler does.
        side.affected(&Snapshot::default(), tables, &mut |_| {});
        rendered(side, tables)
    }

    fn dump(entries: Entries<DirectLayout>) -> String {
        dump_direct(entries)
    }

    fn of_vip(entries: Entries<DirectLayout>, address: IpAddr, port: Option<u16>) -> Entries<DirectLayout> {
        let (mut frontends, mut backends) = (BTreeSet::new(), BTreeSet::new());
        for (_, value) in &entries {
            if let DirectValue::Reverse(reverse) = value
                && reverse.frontend.address.ip() == address
                && port.is_none_or(|port| reverse.frontend.port == port)
            {
                frontends.insert(reverse.reference.number());
            }
        }
        for (key, value) in &entries {
            if let DirectKey::Table(number) = key
                && frontends.contains(number)
            {
                DirectLayout::targets(key, value, &mut |to, _| {
                    backends.insert(to);
                });
            }
        }
        let concerned = |(key, _): &(DirectKey, DirectValue)| match key {
            DirectKey::Backend(_) => backends.contains(key),
            DirectKey::Reverse(number) | DirectKey::Table(number) | DirectKey::Range(number, _) => {
                frontends.contains(number)
            }
            DirectKey::Service(frontend) => {
                frontend.address.ip() == address && port.is_none_or(|port| frontend.port == port)
            }
        };
        entries.into_iter().filter(concerned).collect()
    }
}
