//! The reconciler as a task: waits for tables, retries and full passes, and asks before a big removal.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::engine::{PruneRequest, Reconciler};
use super::progress::{Handle, Progress};
use crate::maps::LbMaps;
use crate::render::Render;
use crate::store::Tables;

/// Looks at the source again before more than half of all entries go.
///
/// An implementation lists at the API server what the tables were made of, and answers whether the tables still say the
/// same. `false` (also when the source cannot be reached) leaves the entries where they are; the question comes again.
pub trait ConfirmPrune: Send {
    /// Whether these removals are meant.
    fn confirm_prune(&mut self, request: PruneRequest) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;
}

/// A plain function that decides at once.
impl<F: FnMut(PruneRequest) -> bool + Send> ConfirmPrune for F {
    fn confirm_prune(&mut self, request: PruneRequest) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        let answer = self(request);
        Box::pin(std::future::ready(answer))
    }
}

/// How often things happen that nothing triggers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Between full passes that read the maps back.
    pub refresh: Duration,
    /// Between two questions whether a big removal is meant.
    pub ask_again: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { refresh: Duration::from_secs(300), ask_again: Duration::from_secs(5) }
    }
}

/// Starts reconciling on a task of its own; it ends when `stop` becomes true or its sender goes.
///
/// Map operations are system calls of microseconds and run on the task itself.
pub fn run<M, R, C>(
    mut reconciler: Reconciler<M, R>,
    tables: Arc<Tables>,
    mut confirm: C,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) -> (Handle, tokio::task::JoinHandle<M>)
where
    M: LbMaps + 'static,
    R: Render + 'static,
    C: ConfirmPrune + 'static,
{
    let (progress, receiver) = watch::channel(Progress::default());
    let refresh = Arc::new(Notify::new());
    let handle = Handle { progress: receiver, refresh: Arc::clone(&refresh) };
    let task = tokio::spawn(async move {
        let mut changed = tables.watch_any();
        let mut next_refresh = Instant::now() + limits.refresh;
        let mut next_question = Instant::now();
        while !*stop.borrow() {
            changed.mark_unchanged();
            let mut round = reconciler.round(Instant::now());
            publish(&progress, reconciler.progress());
            if let Some(request) = round.ask {
                if Instant::now() >= next_question {
                    let answer = tokio::select! {
                        answer = confirm.confirm_prune(request) => answer,
                        _ = stop.wait_for(|stop| *stop) => break,
                    };
                    if answer {
                        reconciler.confirm_prune(request);
                        continue;
                    }
                    tracing::warn!(
                        removals = request.removals,
                        entries = request.entries,
                        "a removal of more than half of all map entries was not confirmed"
                    );
                    next_question = Instant::now() + limits.ask_again;
                }
                // However busy the tables are, the source is not asked more often than that.
                round.retry_at = earlier(round.retry_at, next_question);
            }
            let wake = earlier(round.retry_at, next_refresh).unwrap_or(next_refresh);
            let read_back = tokio::select! {
                change = changed.changed() => {
                    if change.is_err() {
                        break;
                    }
                    false
                }
                () = refresh.notified() => true,
                () = tokio::time::sleep_until(wake.into()) => wake == next_refresh,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            if read_back {
                next_refresh = Instant::now() + limits.refresh;
                if let Err(error) = reconciler.refresh() {
                    tracing::warn!(%error, "cannot read the maps back; keeping what is known of them");
                }
            }
        }
        reconciler.into_maps()
    });
    (handle, task)
}

fn earlier(a: Option<Instant>, b: Instant) -> Option<Instant> {
    Some(a.map_or(b, |a| a.min(b)))
}

fn publish(sender: &watch::Sender<Progress>, now: Progress) {
    sender.send_if_modified(|old| {
        let changed = *old != now;
        *old = now;
        changed
    });
}
