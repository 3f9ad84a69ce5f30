//! The one task that decides: it takes requests from all connections, in turn, and what many ask at once goes into one
//! transaction. What is to be kept is written beside it; only the answers of that client wait for it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use epic_lb::{Initializer, Writer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::connection::{Answer, Link, Message, attend, refused, turn_away};
use super::kept::{Found, Kept};
use super::protocol::{ClientName, Reply, Request};
use super::refusal::Refusal;
use super::registry::{Bounds, Change, ConnectionId, Effects, Registry};
use super::{Settings, State};

/// Requests that are carried out together.
const BATCH: usize = 64;
/// After how long something is tried again that failed.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// What the server has of a connection.
#[derive(Debug)]
struct Open {
    process: Option<i32>,
    ask: Arc<Notify>,
    over: CancellationToken,
}

/// Answers, and to whom.
type Answers = Vec<(oneshot::Sender<Answer>, Answer)>;

/// What came of keeping a client's services, and the answers that waited for it.
type Written = (ClientName, Answers, io::Result<()>);

pub(super) struct Server<'a> {
    settings: &'a Settings,
    state: &'a watch::Sender<State>,
    writer: Writer,
    initializer: Option<Initializer>,
    registry: Registry,
    kept: Kept,
    /// Clients of which something else is to be kept than is.
    unkept: BTreeSet<ClientName>,
    /// Answers that wait until what they say is kept. Clients wait each for their own, however much another has.
    waiting: BTreeMap<ClientName, Answers>,
    /// What is being written, one task a client.
    writing: JoinSet<Written>,
    writers: BTreeMap<Id, ClientName>,
    /// What could not be written, and why; tried again with the next tick.
    failed: BTreeMap<ClientName, Arc<str>>,
    open: BTreeMap<ConnectionId, Open>,
    last: ConnectionId,
}

impl<'a> Server<'a> {
    /// Makes the tables what was kept.
    pub(super) fn new(
        settings: &'a Settings,
        state: &'a watch::Sender<State>,
        writer: Writer,
        initializer: Initializer,
        (kept, found): (Kept, Vec<Found>),
    ) -> Self {
        let bounds =
            Bounds { names: settings.clients, rows: settings.rows, namespaces: settings.namespaces.clone() };
        let mut registry = Registry::new(bounds);
        let mut effects = Effects::default();
        for Found { name, document } in found {
            if let Err(error) = &document {
                tracing::error!(%name, %error, "nothing is pruned until this client lists its services or is forgotten");
            }
            registry.restore(name, document, now(), &mut effects);
        }
        let mut this = Self {
            settings,
            state,
            writer,
            initializer: Some(initializer),
            registry,
            kept,
            unkept: BTreeSet::new(),
            waiting: BTreeMap::new(),
            writing: JoinSet::new(),
            writers: BTreeMap::new(),
            failed: BTreeMap::new(),
            open: BTreeMap::new(),
            last: 0,
        };
        this.apply(effects.changes);
        this
    }

    /// Serves until `stop`.
    pub(super) async fn serve(mut self, listener: UnixListener, stop: CancellationToken) {
        let (requests, mut received) = mpsc::channel(BATCH);
        let (over, mut gone) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let mut batch = Vec::new();
        let mut tick = tokio::time::interval(RETRY);
        let mut accepts = true;
        self.say();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(id) = gone.recv() => self.leave(id),
                received = received.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        break;
                    }
                    let answers = self.carry_out(&mut batch);
                    self.keep();
                    self.say();
                    answer(answers);
                }
                accepted = listener.accept(), if accepts => match accepted {
                    Ok((stream, _)) => self.accept(stream, &requests, &over, &mut tasks),
                    // Too many files are open, say: until one is closed each attempt fails at once.
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a client");
                        accepts = false;
                    }
                },
                _ = tick.tick() => {
                    accepts = true;
                    self.unkept.extend(self.failed.keys().cloned());
                    self.keep();
                }
                Some(written) = self.writing.join_next_with_id() => self.written(written),
                Some(_) = tasks.join_next() => {}
            }
        }
        while let Some(written) = self.writing.join_next_with_id().await {
            self.written(written);
        }
        // While the folder is locked nobody else has put another in its place.
        let _ = std::fs::remove_file(&self.settings.path);
    }

    fn accept(
        &mut self,
        stream: UnixStream,
        requests: &mpsc::Sender<Message>,
        over: &mpsc::UnboundedSender<ConnectionId>,
        tasks: &mut JoinSet<()>,
    ) {
        let (limit, patience) = (self.settings.connections, self.settings.patience);
        // Those that are turned away are bounded as well: beyond that they hear nothing.
        if tasks.len() >= 2 * limit {
            return;
        }
        if self.open.len() >= limit {
            tasks.spawn(turn_away(stream, Refusal::TooManyConnections { limit }, patience));
            return;
        }
        self.last += 1;
        let ask = Arc::new(Notify::new());
        let process = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let link = Link {
            id: self.last,
            requests: requests.clone(),
            over: over.clone(),
            ask: Arc::clone(&ask),
            line: self.settings.line,
            rows: self.settings.rows,
            patience,
        };
        self.open.insert(self.last, Open { process, ask, over: CancellationToken::new() });
        tasks.spawn(async move {
            let id = link.id;
            if let Err(error) = attend(stream, link).await {
                tracing::info!(connection = id, %error, "a client is dropped");
            }
        });
    }

    fn leave(&mut self, id: ConnectionId) {
        let had_name = self.registry.leave(id, now());
        if let Some(open) = self.open.remove(&id) {
            open.over.cancel();
        }
        if had_name {
            self.say();
        }
    }

    /// Carries requests out in one transaction. Returns the answers that need not wait until something is kept.
    fn carry_out(&mut self, batch: &mut Vec<Message>) -> Answers {
        let mut effects = Effects::default();
        let mut answers = Vec::new();
        for Message { connection, request, answer } in batch.drain(..) {
            let decided = self.decide(connection, request, &mut effects);
            let until = match &decided {
                Err(Refusal::Taken { name, .. }) => self.registry.connection_of(name),
                _ => None,
            };
            let until = until.and_then(|id| self.open.get(&id)).map(|open| open.over.clone());
            let answered = (answer, Answer { reply: decided.unwrap_or_else(|why| refused(&why)), until });
            // A request concerns one client at most.
            match effects.touched.take() {
                Some(name) => {
                    self.unkept.insert(name.clone());
                    self.waiting.entry(name).or_default().push(answered);
                }
                None => answers.push(answered),
            }
        }
        self.apply(effects.changes);
        for id in self.registry.take_freed() {
            self.ask(id);
        }
        answers
    }

    fn decide(
        &mut self,
        connection: ConnectionId,
        request: Request,
        effects: &mut Effects,
    ) -> Result<Reply, Refusal> {
        let registry = &mut self.registry;
        match request {
            Request::Register { name } => {
                let process = self.open.get(&connection).and_then(|open| open.process);
                registry.register(connection, process, &name, now())?;
                tracing::info!(name, process, "a client registered, and is asked for its services");
                self.ask(connection);
            }
            Request::List { services, .. } => registry.list(connection, services, now(), effects)?,
            Request::Put(entry) => registry.put(connection, *entry, effects)?,
            Request::Delete(key) => registry.delete(connection, key, effects)?,
            Request::Forget { name } => {
                registry.forget(connection, &name, effects)?;
                tracing::info!(name, "a client was forgotten, with its services");
            }
            Request::Status {} => return Ok(Reply::Status { clients: registry.standings() }),
        }
        Ok(Reply::OK)
    }

    fn ask(&self, connection: ConnectionId) {
        if let Some(open) = self.open.get(&connection) {
            open.ask.notify_one();
        }
    }

    fn apply(&mut self, changes: Vec<Change>) {
        let completes = self.initializer.is_some() && self.registry.is_complete();
        if changes.is_empty() && !completes {
            return;
        }
        let mut txn = self.writer.write();
        // Whoever served these tables before may have left more. While something cannot be read, nothing is known to be gone.
        if completes {
            txn.retain_services(|name| self.registry.has(name));
        }
        for change in changes {
            match change {
                Change::Put(rows) => rows.write(&mut txn),
                Change::Delete(service) => {
                    txn.delete_service_and_frontends(&service);
                }
            }
        }
        if let Some(initializer) = self.initializer.take_if(|_| completes) {
            txn.complete(&initializer);
        }
        txn.commit();
    }

    /// Writes what is to be kept, beside everything else; of one client one thing at a time.
    fn keep(&mut self) {
        let busy: BTreeSet<&ClientName> = self.writers.values().collect();
        let (later, now) = std::mem::take(&mut self.unkept).into_iter().partition(|name| busy.contains(name));
        self.unkept = later;
        let now: BTreeSet<ClientName> = now;
        for name in now {
            let (kept, document) = (self.kept.clone(), self.registry.document(&name));
            let answers = self.waiting.remove(&name).unwrap_or_default();
            let of = name.clone();
            let task = self.writing.spawn_blocking(move || {
                let written = kept.keep(&of, document.as_ref());
                (of, answers, written)
            });
            self.writers.insert(task.id(), name);
        }
    }

    fn written(&mut self, written: Result<(Id, Written), JoinError>) {
        // Whoever waited for one that panicked is dropped with it.
        let (id, answers, result) = match written {
            Ok((id, (_, answers, result))) => (id, answers, result),
            Err(error) => (error.id(), Answers::new(), Err(io::Error::other(error.to_string()))),
        };
        let Some(name) = self.writers.remove(&id) else { return };
        let warning = result.err().map(|error| {
            let folder = self.settings.kept.display();
            format!(
                "the services of {name} are in force but would not outlive a restart: cannot write to {folder}: {error}; make room or make it writable"
            )
        });
        match &warning {
            Some(error) => {
                tracing::error!(%error, "not kept");
                self.failed.insert(name, error.as_str().into());
            }
            None => drop(self.failed.remove(&name)),
        }
        let warned = |(to, mut answer): (oneshot::Sender<Answer>, Answer)| {
            if let Reply::Ok { warning: none } = &mut answer.reply {
                none.clone_from(&warning);
            }
            (to, answer)
        };
        self.say();
        answer(answers.into_iter().map(warned).collect());
        self.keep();
    }

    fn say(&self) {
        let error = self.failed.values().next().cloned();
        let next = State { listening: true, error, clients: self.registry.standings() };
        self.state.send_if_modified(|state| {
            let changed = *state != next;
            *state = next;
            changed
        });
    }
}

fn answer(answers: Answers) {
    for (to, answer) in answers {
        // Whoever left wants no answer.
        let _ = to.send(answer);
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
