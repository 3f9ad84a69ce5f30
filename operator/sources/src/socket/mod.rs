//! Services that any process of this host gives through a Unix socket, the successor of Cilium's REST `/service`.
//!
//! A client connects, registers under a name and *is asked* for its services: it lists them, and from then on sends what
//! changes. So nothing has to be restored but by asking: after a restart of the server each client connects, registers and
//! is asked again. Addresses are keys: each is of one service, and a service is deleted by any of its addresses.
//!
//! The protocol: one JSON object a line, each way. Services have the form of the state file ([`Entry`](crate::file::Entry)).
//!
//! ```text
//! client                                                          server
//! {"register":{"name":"edge"}}                                    {"ok":{}}
//!                                                                 {"list":{}}
//! {"list":{"services":[{"name":"shop/web",
//!   "frontends":[{"address":"192.0.2.11","port":80}],
//!   "backends":[{"address":"10.0.0.1","port":8080}]}]}}           {"ok":{}}
//! {"put":{"name":"shop/api","frontends":[…],"backends":[…]}}      {"ok":{}}
//! {"delete":{"address":"192.0.2.11","port":80}}                   {"ok":{}}
//! {"delete":{"name":"shop/sorry"}}                                {"ok":{}}
//! {"put":{"name":"shop/web","colour":"red"}}                      {"refused":{"why":"…"}}
//! {"status":{}}                                                   {"status":{"clients":{"edge":{"presence":"listed",…}}}}
//! {"forget":{"name":"old"}}                                       {"ok":{}}
//! ```
//!
//! | line | what it does |
//! | --- | --- |
//! | `register` | gives the connection a name ([`ClientName`]); of two with one name the second is refused |
//! | `list` | makes the given services all that the client has. In parts: `part` from 0, and `more` in all but the last. A client may list at any time |
//! | `put` | makes one service what is given |
//! | `delete` | deletes the service with this `address`, `port` and `protocol`, or this `name` |
//! | `status` | who is known, and how each stands ([`Standing`]); without a registration |
//! | `forget` | drops a client that is gone, with its services; without a registration. A connected one may forget itself |
//!
//! Every line gets one answer, in order, `ok` or `refused`; `list` comes between answers. What is refused is refused as a
//! whole, in words ([`Refusal`]), and concerns nobody else; the connection goes on. A client that was refused what another
//! has is asked to list again as soon as that is free.
//!
//! Guarantees:
//! - `ok` means: in the tables, and kept over a restart (or the answer has a `warning`).
//! - A client that is gone keeps its services, *stale*, until it returns and lists, or somebody forgets it. Whose a service is,
//!   stands in its row (`client=NAME` in `db show services`); who is stale, in `status` and in [`State`], not in the rows: a
//!   client that comes and goes must not rewrite thousands of rows, which the maps do not depend on.
//! - Services are kept in a folder, a state file a client ([`Settings::kept`]). After a restart they are in the tables before
//!   anything is pruned, so a client that does not return holds nothing back and loses nothing. One whose file cannot be read
//!   holds the prune back until it lists or is forgotten; the file stays as it is until then.
//! - A client that does not read its answers is not read from, and dropped after [`Settings::patience`].
//! - One server has a socket: a file that a dead one left is replaced, beside a living one the start fails, and is tried
//!   again every second.
//!
//! What it does not do: tell processes from each other. Who may open the socket may register any name, so it is for root
//! alone unless [`Settings::mode`] says otherwise. Two sources that want one address are ranked as everywhere
//! ([`Source`]): the services of the socket then wait in `wishes`.

mod connection;
mod kept;
mod listen;
mod protocol;
mod refusal;
mod registry;
mod server;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use epic_lb::{Initializer, Source, Writer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use kept::KeptError;
pub use listen::ListenError;
pub use protocol::{ClientName, Key, Presence, Reply, Request, Standing};
pub use refusal::Refusal;

use crate::Origin;
use kept::Kept;
use server::{RETRY, Server};

/// Where the socket is, and what clients may do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The socket.
    pub path: PathBuf,
    /// Permissions of the socket: who may write to it may do everything.
    pub mode: u32,
    /// Folder that keeps the services of known clients, `NAME.yaml` each, for one server. It is to last as long as the maps.
    pub kept: PathBuf,
    /// Connections at a time.
    pub connections: usize,
    /// Names that may be known.
    pub clients: usize,
    /// Bytes a line.
    pub line: usize,
    /// Services, frontends, backends, source ranges and names of ports and clusters of one client, together.
    pub rows: usize,
    /// How long a client may take to register, and to read an answer.
    pub patience: Duration,
    /// Namespaces that only the given client may have services in. All others are anybody's.
    pub namespaces: BTreeMap<String, ClientName>,
}

impl Settings {
    /// With a socket at this path, for its owner alone, and the folder `PATH.kept` beside it.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let mut kept = path.clone().into_os_string();
        kept.push(".kept");
        Self {
            path,
            mode: 0o600,
            kept: kept.into(),
            connections: 64,
            clients: 64,
            line: 1 << 20,
            rows: 100_000,
            patience: Duration::from_secs(10),
            namespaces: BTreeMap::new(),
        }
    }
}

/// How the socket stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Whether clients can connect.
    pub listening: bool,
    /// What is not as it should be, and what to do.
    pub error: Option<Arc<str>>,
    /// Clients that are known.
    pub clients: BTreeMap<ClientName, Standing>,
}

/// Serves the socket.
#[derive(Debug)]
pub struct Socket {
    settings: Settings,
    state: watch::Sender<State>,
}

/// Why the socket is not served.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Kept(#[from] KeptError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("reading what was kept failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Socket {
    /// With these settings; the receiver tells how it stands.
    pub fn new(settings: Settings) -> (Self, watch::Receiver<State>) {
        let (state, receiver) = watch::channel(State::default());
        (Self { settings, state }, receiver)
    }

    async fn open(&self) -> Result<((Kept, Vec<kept::Found>), tokio::net::UnixListener), OpenError> {
        let folder = self.settings.kept.clone();
        // First the lock: whoever has it may replace the socket.
        let kept = tokio::task::spawn_blocking(move || Kept::open(&folder)).await??;
        let listener = listen::listen(&self.settings.path, self.settings.mode).await?;
        Ok((kept, listener))
    }
}

impl Origin for Socket {
    const SOURCE: Source = Source::Api;

    fn name(&self) -> String {
        format!("socket {}", self.settings.path.display())
    }

    async fn run(self, writer: Writer, listed: Initializer, stop: CancellationToken) {
        let (kept, listener) = loop {
            match self.open().await {
                Ok(opened) => break opened,
                Err(error) => self.state.send_if_modified(|state| {
                    let error: Option<Arc<str>> = Some(error.to_string().into());
                    let changed = state.error != error;
                    if changed {
                        tracing::warn!(error = error.as_deref(), "the socket is not served");
                        state.error = error;
                    }
                    changed
                }),
            };
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = stop.cancelled() => return,
            }
        };
        Server::new(&self.settings, &self.state, writer, listed, kept).serve(listener, stop).await;
        self.state.send_modify(|state| state.listening = false);
    }
}
