//! The one task that decides: it takes requests from all connections, in turn, and what many ask at once goes into one
//! transaction and one replacement of what is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use epic_lb::{Initializer, Writer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connection::{Answer, Link, Message, attend, refused, turn_away};
use super::kept::{Found, Kept};
use super::protocol::{ClientName, Reply, Request};
use super::refusal::Refusal;
use super::registry::{Bounds, Change, ConnectionId, Effects, Registry};
use super::{Settings, State};
use crate::file::Document;

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

/// Requests, and the answers that wait until what they say is kept.
type Answers = Vec<(oneshot::Sender<Answer>, Answer)>;

pub(super) struct Server<'a> {
    settings: &'a Settings,
    state: &'a watch::Sender<State>,
    writer: Writer,
    initializer: Option<Initializer>,
    registry: Registry,
    kept: Kept,
    /// Clients of which something else is to be kept than is.
    unkept: BTreeSet<ClientName>,
    unkept_why: Option<Arc<str>>,
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
            unkept_why: None,
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
                    self.keep().await;
                    self.say();
                    self.answer(answers);
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
                    self.keep().await;
                    self.say();
                }
                Some(_) = tasks.join_next() => {}
            }
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

    /// Carries requests out in one transaction.
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
            answers.push((answer, Answer { reply: decided.unwrap_or_else(|why| refused(&why)), until }));
        }
        self.apply(effects.changes);
        self.unkept.extend(effects.touched);
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

    /// Writes what is to be kept. What fails is tried again.
    async fn keep(&mut self) {
        if self.unkept.is_empty() {
            return;
        }
        let documents = std::mem::take(&mut self.unkept).into_iter();
        let documents: Vec<(ClientName, Option<Document>)> = documents
            .map(|name| {
                let document = self.registry.document(&name);
                (name, document)
            })
            .collect();
        let names: Vec<ClientName> = documents.iter().map(|(name, _)| name.clone()).collect();
        let kept = self.kept.clone();
        let write = move || {
            let mut failed: Vec<(ClientName, io::Error)> = Vec::new();
            for (name, document) in documents {
                if let Err(error) = kept.keep(&name, document.as_ref()) {
                    failed.push((name, error));
                }
            }
            failed
        };
        let failed = match tokio::task::spawn_blocking(write).await {
            Ok(failed) => failed,
            Err(error) => names.into_iter().map(|name| (name, io::Error::other(error.to_string()))).collect(),
        };
        let why = failed.first().map(|(name, error)| {
            let folder = self.settings.kept.display();
            format!(
                "the services of {name} are in force but would not outlive a restart: cannot write to {folder}: {error}; make room or make it writable"
            )
        });
        if let Some(error) = &why {
            tracing::error!(%error, "not kept");
        }
        self.unkept_why = why.map(Arc::from);
        self.unkept.extend(failed.into_iter().map(|(name, _)| name));
    }

    fn answer(&self, answers: Answers) {
        for (to, mut answer) in answers {
            if let (Reply::Ok { warning }, Some(why)) = (&mut answer.reply, &self.unkept_why) {
                *warning = Some(why.to_string());
            }
            // Whoever left wants no answer.
            let _ = to.send(answer);
        }
    }

    fn say(&self) {
        let next =
            State { listening: true, error: self.unkept_why.clone(), clients: self.registry.standings() };
        self.state.send_if_modified(|state| {
            let changed = *state != next;
            *state = next;
            changed
        });
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
