//! Loads, pins, attaches, adopts and reads EPIC's BPF programs and maps.
//!
//! - [`Datapath`]: the agent's handle: programs on maps, at interfaces.
//! - [`Maps`]: maps by name and type; also for commands beside a running agent.
//! - [`BpfMaps`]: the same maps as the reconciler of `epic-lb` writes them.
//! - [`dump`]: the content of the maps as text.
//!
//! Needs the capabilities `BPF`, `NET_ADMIN` and `PERFMON`, a kernel with tcx links, and a BPF file system.

mod attach;
mod counters;
mod datapath;
pub mod dump;
mod error;
mod flat;
mod former;
mod identity;
pub mod kernel;
mod lb_maps;
mod learned;
mod maglev;
mod maps;
mod object;
mod pins;
mod sizes;
mod sys;
mod table;

pub use attach::{Attached, Attachment, LinkStatus, Program};
pub use datapath::{Adopted, Datapath, Kept, Options, Step, links, remove};
pub use error::Error;
pub use former::Serving;
pub use lb_maps::{BpfMaps, Usage};
pub use maglev::Maglev;
pub use maps::{Maps, SourcePrefix};
pub use object::bytes as object_bytes;
pub use sizes::Sizes;
pub use table::{PerCpuTable, Table};
