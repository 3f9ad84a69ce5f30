//! What the prompt looks into.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use epic_health::node_port::NodePorts;
use epic_lb::maps::{DirectKey, DirectMaps, DirectValue};
use epic_lb::{Handle, Progress, Reader, Snapshot};
use epic_reconciler::{MapError, SharedMaps};
use epic_shell::{Direct, Part, Subject};
use epic_sources::etcd;
use epic_sources::file::State;
use epic_sources::health::{NodeAnswers, Probed};
use epic_sources::kubernetes;
use epic_sources::socket::{self, Presence};
use tokio::sync::watch;

/// So many things that are wrong are told in one line.
const NAMED: usize = 3;

/// The running program.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) reader: Reader,
    pub(crate) handle: Handle,
    pub(crate) maps: SharedMaps<DirectMaps>,
    pub(crate) side: Direct,
    /// The state file and how it stands.
    pub(crate) file: Option<(PathBuf, watch::Receiver<State>)>,
    /// The socket and how it stands.
    pub(crate) socket: Option<(PathBuf, watch::Receiver<socket::State>)>,
    /// How the etcd stands.
    pub(crate) etcd: Option<watch::Receiver<etcd::State>>,
    /// How the cluster stands.
    pub(crate) kubernetes: Option<watch::Receiver<kubernetes::State>>,
    /// Names of the initializers of other clusters.
    pub(crate) clusters: Vec<String>,
    pub(crate) probed: Probed,
    pub(crate) answers: Arc<NodeAnswers>,
    pub(crate) ports: NodePorts,
}

impl Live {
    /// Waits until every source has listed, and every change until then was tried. `Ok` with a note if some of it is not in the
    /// maps.
    ///
    /// # Errors
    /// If that takes longer than `limit`: who or what is waited for, and why.
    pub(crate) async fn wait_until_ready(&self, limit: Duration) -> Result<Option<String>, String> {
        let mut handle = self.handle.clone();
        let ready = async {
            let snapshot = self.reader.wait_until_initialized().await;
            if let Some((_, state)) = &self.file {
                // It says so a moment after its rows are there. One that has ended says nothing more.
                let _ = state.clone().wait_for(|state| state.services.is_some()).await;
            }
            let progress = handle.wait_until_attempted(snapshot.revision()).await;
            (!progress.covers(snapshot.revision())).then(|| format!("the maps: {}", progress.health))
        };
        tokio::time::timeout(limit, ready).await.map_err(|_| self.why_not_ready(limit))
    }

    fn why_not_ready(&self, limit: Duration) -> String {
        let pending: Vec<String> =
            self.reader.snapshot().pending().map(|source| source.to_string()).collect();
        if pending.is_empty() {
            return format!("the maps were not written within {limit:?}: {}", self.progress().health);
        }
        let broken = self.sources().into_iter().filter(|part| !part.ok).map(|part| part.says);
        let why: Vec<String> = broken.collect();
        format!("not ready within {limit:?}: waiting for {}; {}", pending.join(", "), why.join("; "))
    }

    fn sources(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        if let Some((path, state)) = &self.file {
            let State { services, error } = state.borrow().clone();
            let path = path.display();
            let in_force = match services {
                Some(services) => format!("{path} is in force, services: {services}"),
                None => format!("{path} is not in force yet"),
            };
            let says = match &error {
                Some(error) => format!("{in_force}; {}", one_line(error)),
                None => in_force,
            };
            parts.push(Part { name: "file".to_owned(), ok: error.is_none() && services.is_some(), says });
        }
        if let Some((path, state)) = &self.socket {
            let state = state.borrow().clone();
            let path = path.display();
            let stale = state.clients.values().filter(|client| client.presence != Presence::Listed).count();
            let known = format!("clients: {}, of them not here or not listed: {stale}", state.clients.len());
            let says = match (&state.error, state.listening) {
                (Some(error), _) => format!("{path}: {}; {known}", one_line(error)),
                (None, true) => format!("{path} is served; {known}"),
                (None, false) => format!("{path} is not served yet"),
            };
            let ok = state.error.is_none() && state.listening && stale == 0;
            parts.push(Part { name: "socket".to_owned(), ok, says });
        }
        if let Some(state) = &self.etcd {
            let state = state.borrow().clone();
            let mut says = match state.revision {
                Some(revision) => format!("in force as of revision {revision}"),
                None => "not listed yet".to_owned(),
            };
            for (key, why) in state.refused.iter().take(NAMED) {
                says += &format!("; {key}: {}", one_line(why));
            }
            if let Some(error) = &state.error {
                says += &format!("; {}", one_line(error));
            }
            let ok = state.revision.is_some() && state.refused.is_empty() && state.error.is_none();
            parts.push(Part { name: "etcd".to_owned(), ok, says });
        }
        if let Some(state) = &self.kubernetes {
            let state = state.borrow().clone();
            let mut says = match state.listed {
                true => "kubernetes is listed".to_owned(),
                false => {
                    "kubernetes is not listed yet; if that stays so, see the warnings in the log".to_owned()
                }
            };
            for (service, why) in state.refused.iter().take(NAMED) {
                says += &format!("; {service}: {}", one_line(why));
            }
            if state.refused.len() > NAMED {
                says +=
                    &format!("; and {} more of which a part is not in force", state.refused.len() - NAMED);
            }
            let ok = state.listed && state.refused.is_empty();
            parts.push(Part { name: "kubernetes".to_owned(), ok, says });
        }
        for name in &self.clusters {
            let pending = self.reader.snapshot().is_pending(name);
            let says = if pending {
                format!(
                    "{name} has not listed its Services yet; if that stays so, see the warnings in the log"
                )
            } else {
                format!("{name} has listed its Services")
            };
            parts.push(Part { name: "cluster".to_owned(), ok: !pending, says });
        }
        parts
    }

    fn checks(&self) -> Part {
        let (stats, unasked) = (self.probed.stats(), self.probed.unasked());
        let mut says = format!("{} backends are probed, {} not judged yet", stats.targets, stats.unknown);
        if stats.unknown > 0
            && let Some(trouble) = &stats.trouble
        {
            says += &format!("; {trouble}");
        }
        for unasked in unasked.iter().take(NAMED) {
            says += &format!("; {}: {}", unasked.service, unasked.why);
        }
        if unasked.len() > NAMED {
            says += &format!("; and {} more that cannot be probed", unasked.len() - NAMED);
        }
        let ok = unasked.is_empty() && (stats.unknown == 0 || stats.trouble.is_none());
        Part { name: "checks".to_owned(), ok, says }
    }

    fn node_ports(&self) -> Part {
        let mut wrong: Vec<String> = self.ports.problems().into_values().collect();
        wrong.extend(self.answers.conflicts());
        let ok = wrong.is_empty();
        let says = if ok { "every health check node port is served".to_owned() } else { wrong.join("; ") };
        Part { name: "ports".to_owned(), ok, says }
    }
}

/// Errors of YAML may have several.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Subject for Live {
    type Side = Direct;

    fn tables(&self) -> Arc<Snapshot> {
        self.reader.snapshot()
    }

    fn progress(&self) -> Progress {
        self.handle.progress()
    }

    fn entries(&self) -> Result<Vec<(DirectKey, DirectValue)>, MapError> {
        Ok(self.maps.lock().content().map(|(key, value)| (*key, value.clone())).collect())
    }

    fn side(&self) -> &Direct {
        &self.side
    }

    fn parts(&self) -> Vec<Part> {
        self.sources().into_iter().chain([self.checks(), self.node_ports()]).collect()
    }
}
