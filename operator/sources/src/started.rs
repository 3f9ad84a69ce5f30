//! The sources of one process: started one after another, and how each stands, for people.

use std::path::PathBuf;
use std::sync::Arc;

use epic_lb::{Snapshot, Writer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::etcd::{self, AddressError, Etcd};
use crate::file::{self, StateFile};
use crate::kubernetes::{self, Kubernetes, Scope, cluster::Cluster};
use crate::socket::{self, Presence, Socket};
use crate::{Origin, start};

/// So many things that are wrong are told in one line.
pub(crate) const NAMED: usize = 3;

/// How a part of the process stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// In words, one line.
    pub says: String,
}

/// A source that runs.
#[derive(Debug)]
enum Started {
    File {
        path: PathBuf,
        state: watch::Receiver<file::State>,
    },
    Socket {
        path: PathBuf,
        state: watch::Receiver<socket::State>,
    },
    Etcd(watch::Receiver<etcd::State>),
    Kubernetes(watch::Receiver<kubernetes::State>),
    /// By the name of its initializer.
    Cluster(String),
}

/// Sources that write one set of tables until they are stopped.
///
/// Expected flow: one of these in a process, all sources started on it, then the reconciler. Each is pending from the moment it
/// is started, so nothing is pruned for want of one of them. Must be used inside a tokio runtime.
#[derive(Debug)]
pub struct Sources {
    writer: Writer,
    stop: CancellationToken,
    started: Vec<Started>,
}

impl Sources {
    /// None yet. They end with `stop`.
    pub fn new(writer: &Writer, stop: CancellationToken) -> Self {
        Self { writer: writer.clone(), stop, started: Vec::new() }
    }

    /// Follows a state file.
    pub fn file(&mut self, path: PathBuf) {
        let (source, state) = StateFile::new(&path);
        self.run(source);
        self.started.push(Started::File { path, state });
    }

    /// Opens a socket for other processes of the host.
    pub fn socket(&mut self, settings: socket::Settings) {
        let path = settings.path.clone();
        let (source, state) = Socket::new(settings);
        self.run(source);
        self.started.push(Started::Socket { path, state });
    }

    /// Follows the keys of an etcd under a prefix.
    ///
    /// # Errors
    /// [`AddressError`]; then nothing is started.
    pub fn etcd(&mut self, address: &str, prefix: &str) -> Result<(), AddressError> {
        let (source, state) = Etcd::new(address, prefix)?;
        self.run(source);
        self.started.push(Started::Etcd(state));
        Ok(())
    }

    /// Follows the own cluster.
    pub fn kubernetes(&mut self, client: &kates::Client, scope: Scope) {
        let (source, state) = Kubernetes::new(client, scope);
        self.run(source);
        self.started.push(Started::Kubernetes(state));
    }

    /// Takes what another cluster shares.
    pub fn cluster(&mut self, name: &str, client: &kates::Client) {
        let source = Cluster::new(name, client);
        self.started.push(Started::Cluster(source.name()));
        self.run(source);
    }

    fn run(&self, source: impl Origin) {
        start(source, &self.writer, self.stop.clone());
    }

    /// Waits until every source has listed and says so; the tables of then.
    pub async fn listed(&self) -> Arc<Snapshot> {
        let snapshot = self.writer.reader().wait_until_initialized().await;
        for started in &self.started {
            // It says so a moment after its rows are there. One that has ended says nothing more.
            match started {
                Started::File { state, .. } => {
                    drop(state.clone().wait_for(|state| state.services.is_some()).await);
                }
                Started::Socket { state, .. } => {
                    drop(state.clone().wait_for(|state| state.listening).await);
                }
                Started::Etcd(state) => drop(state.clone().wait_for(|state| state.revision.is_some()).await),
                Started::Kubernetes(state) => drop(state.clone().wait_for(|state| state.listed).await),
                Started::Cluster(_) => {}
            }
        }
        snapshot
    }

    /// How each stands.
    pub fn standing(&self) -> Vec<Standing> {
        self.started.iter().map(|started| self.standing_of(started)).collect()
    }

    fn standing_of(&self, started: &Started) -> Standing {
        match started {
            Started::File { path, state } => {
                let file::State { services, error } = state.borrow().clone();
                let path = path.display();
                let in_force = match services {
                    Some(services) => format!("{path} is in force, services: {services}"),
                    None => format!("{path} is not in force yet"),
                };
                let says = match &error {
                    Some(error) => format!("{in_force}; {}", one_line(error)),
                    None => in_force,
                };
                Standing { name: "file", ok: error.is_none() && services.is_some(), says }
            }
            Started::Socket { path, state } => {
                let state = state.borrow().clone();
                let path = path.display();
                let stale =
                    state.clients.values().filter(|client| client.presence != Presence::Listed).count();
                let known =
                    format!("clients: {}, of them not here or not listed: {stale}", state.clients.len());
                let says = match (&state.error, state.listening) {
                    (Some(error), _) => format!("{path}: {}; {known}", one_line(error)),
                    (None, true) => format!("{path} is served; {known}"),
                    (None, false) => format!("{path} is not served yet"),
                };
                Standing { name: "socket", ok: state.error.is_none() && state.listening && stale == 0, says }
            }
            Started::Etcd(state) => {
                let state = state.borrow().clone();
                let mut says = match state.revision {
                    Some(revision) => format!("in force as of revision {revision}"),
                    None => "not listed yet".to_owned(),
                };
                says += &several(state.refused.iter());
                if let Some(error) = &state.error {
                    says += &format!("; {}", one_line(error));
                }
                let ok = state.revision.is_some() && state.refused.is_empty() && state.error.is_none();
                Standing { name: "etcd", ok, says }
            }
            Started::Kubernetes(state) => {
                let state = state.borrow().clone();
                let mut says = listed("kubernetes", state.listed);
                says += &several(state.refused.iter());
                Standing { name: "kubernetes", ok: state.listed && state.refused.is_empty(), says }
            }
            Started::Cluster(name) => {
                let ok = !self.writer.snapshot().is_pending(name);
                Standing { name: "cluster", ok, says: listed(name, ok) }
            }
        }
    }
}

fn listed(name: &str, is: bool) -> String {
    match is {
        true => format!("{name} is listed"),
        false => format!("{name} is not listed yet; if that stays so, see the warnings in the log"),
    }
}

/// The first of several things that are not in force, and how many more there are.
fn several<K: std::fmt::Display, V: AsRef<str>>(all: impl ExactSizeIterator<Item = (K, V)>) -> String {
    let more = all.len().saturating_sub(NAMED);
    let mut says: String =
        all.take(NAMED).map(|(what, why)| format!("; {what}: {}", one_line(why.as_ref()))).collect();
    if more > 0 {
        says += &format!("; and {more} more that are not in force");
    }
    says
}

/// Errors of YAML may have several.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
