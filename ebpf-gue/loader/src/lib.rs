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
pub mod kernel;
mod lb_maps;
mod maglev;
mod maps;
mod object;
mod pins;
mod sys;
mod table;

pub use attach::{Attached, Attachment, LinkStatus, Program};
pub use datapath::{Adopted, Datapath, Kept, Options, links, remove};
pub use error::Error;
pub use lb_maps::BpfMaps;
pub use maglev::Maglev;
pub use maps::{Maps, SourcePrefix};
pub use object::bytes as object_bytes;
pub use table::{PerCpuTable, Table};
