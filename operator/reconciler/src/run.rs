//! The reconciler on a thread of its own: waits for tables, retries and full passes, and asks before a big removal.
//!
//! Map operations are system calls and a first fill is many of them: on a thread of its own they keep no runtime from its
//! other tasks. The question about a big removal is asked on the runtime of the caller, and polled beside the work:
//! however long its answer takes, nothing but the set asked about waits for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::engine::{Ask, Reconciler};
use crate::layout::Layout;
use crate::maps::Maps;
use crate::progress::Progress;
use crate::render::{Render, RowId};
use crate::settings::Settings;

/// Looks at the source again before more than half of all entries go.
///
/// An implementation lists at the API server what the tables were made of, and answers whether the tables still say the
/// same. `false` (also when the source cannot be reached) leaves the entries where they are; the question comes again.
pub trait ConfirmPrune<K>: Send + 'static {
    /// Whether these removals are meant.
    fn confirm_prune(&mut self, ask: Ask<K>) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;
}

/// A plain function that decides at once.
impl<K, F: FnMut(Ask<K>) -> bool + Send + 'static> ConfirmPrune<K> for F {
    fn confirm_prune(&mut self, ask: Ask<K>) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        let answer = self(ask);
        Box::pin(std::future::ready(answer))
    }
}

/// A view of a running reconciler. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle<I, S> {
    progress: watch::Receiver<Progress<I, S>>,
    wishes: Arc<Wishes>,
}

#[derive(Debug, Default)]
struct Wishes {
    refresh: Notify,
    prune: Notify,
}

impl<I, S> Handle<I, S>
where
    I: Ord + Copy + Send + Sync + 'static,
    S: Ord + Copy + Send + Sync + 'static,
{
    /// How far it is now.
    pub fn progress(&self) -> Progress<I, S> {
        self.progress.borrow().clone()
    }

    /// Wakes with every change of progress.
    pub fn watch(&self) -> watch::Receiver<Progress<I, S>> {
        self.progress.clone()
    }

    /// Waits until every change up to this revision was tried; tells how it stands then.
    pub async fn wait_until_attempted(&mut self, revision: u64) -> Progress<I, S> {
        self.wait_for(|p| p.has_attempted(revision)).await
    }

    /// Waits until the maps hold all changes up to this revision.
    pub async fn wait_until_reconciled(&mut self, revision: u64) -> Progress<I, S> {
        self.wait_for(|p| p.covers(revision)).await
    }

    /// Waits until the maps hold all changes of rows of this scope up to this revision.
    pub async fn wait_until_scope_reconciled(&mut self, scope: S, revision: u64) -> Progress<I, S> {
        self.wait_for(|p| p.covers_scope(scope, revision)).await
    }

    /// Asks for a full pass: the maps are read back and corrected.
    pub fn refresh(&self) {
        self.wishes.refresh.notify_one();
    }

    /// Asks to find and remove entries that no row wants.
    pub fn prune(&self) {
        self.wishes.prune.notify_one();
    }

    async fn wait_for(&mut self, done: impl FnMut(&Progress<I, S>) -> bool) -> Progress<I, S> {
        // Without a reconciler what it said last stands.
        let last = self.progress.wait_for(done).await.ok().map(|progress| progress.clone());
        last.unwrap_or_else(|| self.progress())
    }
}

/// A reconciler on its thread.
#[derive(Debug)]
pub struct Running<M> {
    thread: JoinHandle<()>,
    maps: oneshot::Receiver<M>,
}

impl<M> Running<M> {
    /// Waits until it has stopped; gives the maps back.
    ///
    /// # Panics
    /// As the thread did, if it did.
    pub async fn join(self) -> M {
        match self.maps.await {
            Ok(maps) => maps,
            Err(_) => match self.thread.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(()) => unreachable!("a thread that ends without a panic gives its maps back"),
            },
        }
    }

    /// Whether it has stopped.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// What [`run`] gives back.
pub type Started<L, M, R> = (Handle<RowId<L, R>, <R as Render<L>>::Scope>, Running<M>);

/// Starts reconciling on a thread of its own; it ends when `stop` becomes true or its sender is dropped.
///
/// # Errors
/// If no thread or no runtime can be made.
///
/// # Panics
/// Outside a tokio runtime: questions about big removals are asked on the current one.
pub fn run<L, M, R, C>(
    reconciler: Reconciler<L, M, R>,
    confirm: C,
    stop: watch::Receiver<bool>,
) -> std::io::Result<Started<L, M, R>>
where
    L: Layout,
    M: Maps<L> + 'static,
    R: Render<L>,
    C: ConfirmPrune<L::Key>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let (progress, receiver) = watch::channel(Progress::default());
    let wishes = Arc::new(Wishes::default());
    let handle = Handle { progress: receiver, wishes: Arc::clone(&wishes) };
    let (asking, questions) = mpsc::channel(1);
    let (answering, answers) = mpsc::channel(1);
    tokio::spawn(answer(confirm, questions, answering));
    let (give_back, maps) = oneshot::channel();
    let (changed, settings) = (reconciler.reader().watch_any(), *reconciler.settings());
    let thread = std::thread::Builder::new().name("reconciler".to_owned()).spawn(move || {
        let questions = Questions { asking, answers, open: None, next: Instant::now() };
        let work = Work { reconciler, settings, progress, wishes, questions };
        let reconciler = runtime.block_on(work.run(changed, stop));
        // Who gives up waiting has no use for the maps.
        let _ = give_back.send(reconciler.into_maps());
    })?;
    Ok((handle, Running { thread, maps }))
}

/// Asks one question after the other, until the reconciler has stopped.
async fn answer<K: Send + Sync + 'static, C: ConfirmPrune<K>>(
    mut confirm: C,
    mut questions: mpsc::Receiver<Ask<K>>,
    answers: mpsc::Sender<bool>,
) {
    while let Some(ask) = questions.recv().await {
        let answer = tokio::select! {
            answer = confirm.confirm_prune(ask) => answer,
            () = answers.closed() => return,
        };
        if answers.send(answer).await.is_err() {
            return;
        }
    }
}

/// The question that is open, if any.
struct Questions<K> {
    asking: mpsc::Sender<Ask<K>>,
    answers: mpsc::Receiver<bool>,
    open: Option<Ask<K>>,
    /// However busy the tables are, the source is not asked more often than that.
    next: Instant,
}

struct Work<L: Layout, M, R: Render<L>> {
    reconciler: Reconciler<L, M, R>,
    settings: Settings,
    progress: watch::Sender<Progress<RowId<L, R>, R::Scope>>,
    wishes: Arc<Wishes>,
    questions: Questions<L::Key>,
}

enum Wake {
    Again,
    Refresh,
    Prune,
    Answer(bool),
    Stop,
}

impl<L: Layout, M: Maps<L>, R: Render<L>> Work<L, M, R> {
    async fn run(
        mut self,
        mut changed: watch::Receiver<u64>,
        mut stop: watch::Receiver<bool>,
    ) -> Reconciler<L, M, R> {
        let mut next_refresh = Instant::now() + self.settings.refresh;
        while !*stop.borrow() {
            changed.mark_unchanged();
            let round = self.reconciler.round(Instant::now(), self.settings.budget);
            self.progress.send_replace(self.reconciler.progress());
            let mut wake = next_refresh;
            if round.ask.is_some() && self.questions.open.is_none() {
                self.ask_if_due(Instant::now());
                if self.questions.open.is_none() {
                    wake = wake.min(self.questions.next);
                }
            }
            if let Some(retry) = round.retry_at {
                wake = wake.min(retry);
            }
            let more = round.more || self.reconciler.is_refreshing();
            match self.wait(more, wake, next_refresh, &mut changed, &mut stop).await {
                Wake::Stop => break,
                Wake::Refresh => {
                    next_refresh = Instant::now() + self.settings.refresh;
                    self.reconciler.refresh();
                }
                Wake::Prune => self.reconciler.prune(),
                Wake::Answer(answer) => self.answered(answer),
                Wake::Again => {}
            }
            if let Err(error) = self.reconciler.read_back() {
                tracing::warn!(%error, "cannot read a map back; keeping what is known of it");
            }
        }
        self.reconciler
    }

    async fn wait(
        &mut self,
        more: bool,
        wake: Instant,
        next_refresh: Instant,
        changed: &mut watch::Receiver<u64>,
        stop: &mut watch::Receiver<bool>,
    ) -> Wake {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => Wake::Stop,
            Some(answer) = self.questions.answers.recv(), if self.questions.open.is_some() => Wake::Answer(answer),
            () = self.wishes.refresh.notified() => Wake::Refresh,
            () = self.wishes.prune.notified() => Wake::Prune,
            () = std::future::ready(()), if more => Wake::Again,
            change = changed.changed() => if change.is_err() { Wake::Stop } else { Wake::Again },
            () = tokio::time::sleep_until(wake.into()) => {
                if wake == next_refresh { Wake::Refresh } else { Wake::Again }
            }
        }
    }

    fn ask_if_due(&mut self, now: Instant) {
        if now < self.questions.next {
            return;
        }
        let Some(ask) = self.reconciler.question() else { return };
        tracing::info!(%ask, "asking whether a big removal is meant");
        if self.questions.asking.try_send(ask.clone()).is_ok() {
            self.questions.open = Some(ask);
        }
        self.questions.next = now + self.settings.ask_again;
    }

    fn answered(&mut self, answer: bool) {
        let Some(ask) = self.questions.open.take() else { return };
        self.questions.next = Instant::now() + self.settings.ask_again;
        if answer {
            self.reconciler.confirm(&ask);
        } else {
            tracing::warn!(%ask, "a removal of more than half of all map entries was not confirmed");
        }
    }
}
