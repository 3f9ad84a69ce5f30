//! Whose maps are looked into: which rows become entries, how entries read, which of them are of a public address.

mod direct;
mod epic;

use std::collections::BTreeMap;
use std::net::IpAddr;

use epic_lb::{Here, RowId, Snapshot, Tables};
use epic_reconciler::{Layout, Render};
use epic_store::Schema as _;

pub use direct::Direct;
pub use epic::Side;

/// Entries of all maps, in any order.
pub type Entries<L> = Vec<(<L as Layout>::Key, <L as Layout>::Value)>;

/// What each row wants, entry by entry; the first of several for one entry has it.
pub type Wanted<L> = BTreeMap<<L as Layout>::Key, Vec<(RowId, <L as Layout>::Value)>>;

/// Which rows become entries, and how.
pub trait MapSide {
    /// The maps.
    type Layout: Layout;
    /// What an entry belongs to, for people.
    const HOLDER: &'static str;

    /// Where selection takes place.
    fn here(&self) -> Here<'_>;
    /// What the rows want. `held` is what the maps hold, for layouts that number their entries.
    fn wanted(
        &self,
        tables: &Snapshot,
        held: &BTreeMap<<Self::Layout as Layout>::Key, <Self::Layout as Layout>::Value>,
    ) -> Wanted<Self::Layout>;
    /// Entries as text, one a line, sorted: `MAP KEY -> VALUE`.
    fn dump(entries: Entries<Self::Layout>) -> String;
    /// What packets to this address (and port) meet on their way, and what the answers meet.
    fn of_vip(entries: Entries<Self::Layout>, address: IpAddr, port: Option<u16>) -> Entries<Self::Layout>;
}

/// What a renderer makes of all rows.
fn rendered<L: Layout, R: Render<L, Tables = Tables>>(mut side: R, tables: &Snapshot) -> Wanted<L> {
    let (mut wanted, mut rows) = (Wanted::<L>::new(), Vec::new());
    tables.changed_rows(&Tables::default(), &mut |row| rows.push(row));
    for row in rows {
        let mut entries = Vec::new();
        // A row that is not ready wants nothing yet; `reconciler status` says why.
        if side.render(tables, row, &mut entries).is_ok() {
            for (key, value) in entries {
                wanted.entry(key).or_default().push((row, value));
            }
        }
    }
    wanted
}
