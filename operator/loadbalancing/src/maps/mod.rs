//! What is reconciled: entries of EPIC's BPF maps as values, and their text form.
//!
//! Keys and values are those of [`epic_abi::maps`]. Only maps made of desired state are here; what programs or the hello
//! handler write (flows, remotes, sources, learned proxies, counters), and what the agent writes once (layout, config,
//! locals), is not. An implementation of [`Maps`] must keep `tunnel_stats` entries that are there as they are: they are
//! created with zeros if absent, and never written otherwise, so counters survive. For `maglev` it fills a new inner array
//! first and puts it in place with one update.
//!
//! [`DirectLayout`] is another layout, of services without a proxy, which no BPF program reads yet: it is in memory in `epic-lb`.

mod direct;
mod dump;
mod entry;

pub use direct::{
    Cells, DirectBackend, DirectKey, DirectLayout, DirectMaps, DirectReverse, DirectService, DirectTable,
    DirectValue, Reference, dump_direct, set_of,
};
pub use dump::dump;
pub(crate) use entry::family as entry_family;
pub use entry::{EpicLayout, MapId, MapKey, MapValue};
pub use epic_reconciler::{MapError, Maps, Op};

/// Maps in memory, with EPIC's entries.
pub type FakeMaps = epic_reconciler::FakeMaps<EpicLayout>;
