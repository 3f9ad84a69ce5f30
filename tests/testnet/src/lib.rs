//! What tests of packets need: namespaces that vanish with the test, captures, and a decoder that owes nothing to
//! the code under test.
//!
//! Everything here panics with a sentence when it cannot do its work: a test that cannot have its network fails,
//! it is never skipped.

mod bpffs;
mod capture;
mod conntrack;
pub mod gue;
mod inject;
mod netns;
mod offload;

pub use bpffs::Bpffs;
pub use capture::{Capture, Frame};
pub use conntrack::forget_connections;
pub use inject::inject;
pub use netns::{Netns, require_root, veth};
pub use offload::{Offloads, set_offloads};
