//! The end of a process: one token, cancelled by SIGTERM or SIGINT.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled when the process is asked to end. A second signal ends it at once, so a
/// hanging drain can be cut short by hand.
///
/// # Errors
/// The kernel refuses a signal handler.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let cancel = token.clone();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("asked to end; draining");
        cancel.cancel();
        tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
        tracing::warn!("asked twice; ending at once");
        std::process::exit(130);
    });
    Ok(token)
}
