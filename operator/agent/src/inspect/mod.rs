//! What the agent shows to the commands beside it: `status`, `tunnels`, `maps dump`, `shell`.
//!
//! A running agent serves a Unix socket: whoever asks nothing gets one JSON document, whoever sends a line gets the answer
//! of the shell. Without an agent `status`, `tunnels` and `maps dump` read the pinned maps alone: everything but what only
//! hello messages tell.

mod command;
mod live;
mod prompt;
mod socket;
mod view;

use std::sync::OnceLock;

use sha2::{Digest, Sha256};

pub use command::{Command, Error, Form, Place, print};
pub use live::{Live, Parts};
pub use prompt::{ShellError, ask, read_lines};
pub use socket::{Served, serve};
pub use view::{Tunnel, View, ViewFn, client_view, from_pins, node_view};

/// A hash of the BPF object that this agent carries, in short.
pub fn object_tag() -> &'static str {
    static TAG: OnceLock<String> = OnceLock::new();
    TAG.get_or_init(|| {
        let digest = Sha256::digest(epic_datapath::object_bytes());
        digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    })
}
