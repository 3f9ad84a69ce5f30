//! What the agent shows to the commands beside it: `status`, `tunnels`, `maps dump`.
//!
//! A running agent serves one JSON document on a Unix socket, closed behind it. Without an agent the commands read the
//! pinned maps alone: everything but what only hello messages tell.

mod command;
mod view;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

pub use command::{Command, Error, Form, Place, print};
pub use view::{Tunnel, View, ViewFn, client_view, from_pins, node_view};

/// A hash of the BPF object that this agent carries, in short.
pub fn object_tag() -> &'static str {
    static TAG: OnceLock<String> = OnceLock::new();
    TAG.get_or_init(|| {
        let digest = Sha256::digest(epic_datapath::object_bytes());
        digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    })
}

/// Serves the view until `shutdown`. Without the socket only the commands know less, so a failure is logged.
pub async fn serve(path: PathBuf, view: ViewFn, shutdown: CancellationToken) {
    let listener = match listen(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "no socket for epic-agent status and tunnels");
            return;
        }
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let Ok((mut stream, _)) = accepted else { continue };
        let view = Arc::clone(&view);
        tokio::spawn(async move {
            let text = serde_json::to_vec(&view()).unwrap_or_default();
            // A reader that went away wants nothing more.
            let _ = stream.write_all(&text).await;
        });
    }
    let _ = std::fs::remove_file(&path);
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // The view names tenants and addresses: for root, as the maps are.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, mode)?;
    Ok(listener)
}
