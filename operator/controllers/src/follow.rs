//! Passes over everything: with every change of what is watched, and at least once in a full pass.
//!
//! For work that belongs to no single object. A pass trusts the snapshot only to say what is worth asking for.

use std::time::Duration;

use kates::Error;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::context::Shared;

/// Wait after a pass that the API server kept from ending.
const AGAIN: Duration = Duration::from_secs(2);

/// Runs `pass` until `shutdown`, whenever this replica leads. `failed` says what has not been done when it fails.
pub async fn changes(
    context: Shared,
    shutdown: CancellationToken,
    failed: &'static str,
    pass: impl AsyncFn(&Shared) -> Result<(), Error>,
) {
    let mut updates = context.watches.updates();
    let mut leadership = context.leadership.clone();
    let mut wait = Duration::ZERO;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = updates.changed() => {}
            () = sleep(wait) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = leadership.acquired() => {}
        }
        updates.update();
        wait = match pass(&context).await {
            Ok(()) => context.settings.full_pass,
            Err(error) => {
                tracing::warn!(%error, source = ?std::error::Error::source(&error), "{failed}");
                AGAIN
            }
        };
    }
}
