//! The checker: its handle, the task that drives it, and the verdicts that come out.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{AbortRegistration, Abortable};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use crate::prober::Prober;
use crate::schedule::{Limits, Schedule, Start, Stats, Ticket};
use crate::state::Health;
use crate::target::Target;
use crate::verdict::{Failure, Verdict};

/// How a checker works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// How many probes there are at once.
    pub limits: Limits,
    /// Of the jitter, so that a test repeats; `None`: random.
    pub seed: Option<u64>,
}

/// Handle of a checker. What it does is done when the call returns; probing is up to the [`Driver`].
#[derive(Debug)]
pub struct Checker<K, G>(Arc<Shared<K, G>>);

/// What probes. Without somebody who polls [`Driver::run`] nothing is asked.
#[derive(Debug)]
#[must_use = "nothing is probed unless `run` is polled"]
pub struct Driver<K, G>(Arc<Shared<K, G>>);

/// What was found out and not taken yet: at most one verdict a target, the last. So a slow reader costs no memory.
#[derive(Debug)]
pub struct Verdicts<K, G>(Arc<Shared<K, G>>);

#[derive(Debug)]
struct Shared<K, G> {
    inner: Mutex<Inner<K, G>>,
    /// Somebody changed targets.
    changed: Notify,
    /// There are verdicts, or there will be none any more.
    found: Notify,
}

#[derive(Debug)]
struct Inner<K, G> {
    schedule: Schedule<K, G>,
    driven: bool,
}

impl<K, G> Clone for Checker<K, G> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, G> Checker<K, G>
where
    K: Copy + Ord + Hash + Debug + Send + Sync + 'static,
    G: Clone + Eq + Hash + Debug + Send + Sync + 'static,
{
    /// A checker without targets, what drives it, and what it finds.
    pub fn new(settings: Settings) -> (Self, Driver<K, G>, Verdicts<K, G>) {
        let schedule = Schedule::new(settings.limits, settings.seed, Instant::now());
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner { schedule, driven: true }),
            changed: Notify::new(),
            found: Notify::new(),
        });
        (Self(Arc::clone(&shared)), Driver(Arc::clone(&shared)), Verdicts(shared))
    }

    /// These targets and no others; costs in proportion to all of them.
    pub fn set(&self, targets: impl IntoIterator<Item = (K, Target<G>)>) {
        self.edit(|schedule, now| schedule.set(targets, now));
    }

    /// This target. One that asks what it asked before, where it asked before, keeps its state; any other is asked at
    /// once, and until its first verdict the former one is the last word.
    pub fn upsert(&self, key: K, target: Target<G>) {
        self.edit(|schedule, now| schedule.upsert(key, target, now));
    }

    /// No such target. No verdict of it is handed out once this has returned.
    pub fn remove(&self, key: K) {
        self.edit(|schedule, _| schedule.remove(key));
    }

    /// Asks this target now and not when its interval is over, because something else has changed: its tunnel is up
    /// again, say. Thresholds are as ever.
    pub fn ask_now(&self, key: K) {
        self.edit(|schedule, now| schedule.hurry(key, now));
    }

    /// What is known of a target; `None` without such a target.
    pub fn health(&self, key: K) -> Option<Health> {
        self.0.inner.lock().schedule.health(key)
    }

    /// What the checker is doing.
    pub fn stats(&self) -> Stats {
        self.0.inner.lock().schedule.stats(Instant::now())
    }

    fn edit(&self, change: impl FnOnce(&mut Schedule<K, G>, Instant)) {
        change(&mut self.0.inner.lock().schedule, Instant::now());
        self.0.changed.notify_one();
    }
}

impl<K, G> Driver<K, G>
where
    K: Copy + Ord + Hash + Debug + Send + Sync + 'static,
    G: Clone + Eq + Hash + Debug + Send + Sync + 'static,
{
    /// Probes until it is dropped. One task drives all targets: what waits for its time is an entry of a set, what is
    /// under way one future.
    pub async fn run(self, prober: impl Prober) {
        let shared = &*self.0;
        let mut under_way = FuturesUnordered::new();
        let mut starts = Vec::new();
        loop {
            let next = {
                let schedule = &mut shared.inner.lock().schedule;
                schedule.begin(Instant::now(), &mut starts);
                schedule.next_due()
            };
            under_way.extend(starts.drain(..).map(|start| probe(&prober, start)));
            let due = async {
                match next {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(ended) = under_way.next() => {
                    let more = std::iter::from_fn(|| under_way.next().now_or_never().flatten());
                    shared.end(std::iter::once(ended).chain(more));
                }
                () = due => {}
                () = shared.changed.notified() => {}
            }
        }
    }
}

impl<K, G> Drop for Driver<K, G> {
    fn drop(&mut self) {
        self.0.inner.lock().driven = false;
        self.0.found.notify_one();
    }
}

impl<K, G> Shared<K, G>
where
    K: Copy + Ord + Hash + Debug,
    G: Clone + Eq + Hash,
{
    fn end(&self, ended: impl Iterator<Item = (Ticket, Option<Result<(), Failure>>)>) {
        let mut inner = self.inner.lock();
        let now = Instant::now();
        for (ticket, result) in ended {
            inner.schedule.end(ticket, result, now);
        }
        let found = inner.schedule.has_verdicts();
        drop(inner);
        if found {
            self.found.notify_one();
        }
    }
}

impl<K, G> Verdicts<K, G>
where
    K: Copy + Ord + Hash + Debug + Send + Sync + 'static,
    G: Clone + Eq + Hash + Debug + Send + Sync + 'static,
{
    /// The next verdicts, in the order of their keys, as soon as there is one; `None` when the driver is gone and all
    /// are taken. Dropping the future loses nothing.
    ///
    /// A target's first verdict is always told, later ones when they differ. Whoever removes a target after it has taken
    /// a batch, and before it has applied it, must not apply what the batch says of it.
    pub async fn next(&mut self) -> Option<Vec<Verdict<K>>> {
        loop {
            {
                let mut inner = self.0.inner.lock();
                let batch = inner.schedule.take_verdicts();
                if !batch.is_empty() {
                    return Some(batch);
                }
                if !inner.driven {
                    return None;
                }
            }
            self.0.found.notified().await;
        }
    }
}

async fn probe<P: Prober>(prober: &P, start: Start) -> (Ticket, Option<Result<(), Failure>>) {
    let Start { ticket, place, check, abort } = start;
    let result = within(check.timeout, abort, prober.probe(&place, &check.probe)).await;
    (ticket, result)
}

async fn within(
    limit: Duration,
    abort: AbortRegistration,
    probe: impl Future<Output = Result<(), Failure>>,
) -> Option<Result<(), Failure>> {
    let limited = async {
        let late = |_| Err(Failure::silent(format!("no answer within {limit:?}")));
        timeout(limit, probe).await.unwrap_or_else(late)
    };
    Abortable::new(limited, abort).await.ok()
}
