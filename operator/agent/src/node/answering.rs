//! The hello responder of an EPIC node as a task: socket in, maps `sources` and `remotes` out.
//!
//! It runs without the API server: what it needs is in its directory. A tunnel enters the directory when the maps
//! hold it, never before, and leaves it before its map entries go; so no source ever stands for a tunnel that is not
//! there. A tunnel whose row is only being rewritten stays.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use epic_abi::keys::CookieSecret;
use epic_datapath::Maps;
use epic_lb::{RowId, TunnelId};
use epic_reconciler::Status;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::hello::responder::{Directory, Heard, Refusal, Responder};
use crate::hello::{self, socket::Socket};
use crate::remotes;

/// Between two tries to bind the port.
const BIND_AGAIN: Duration = Duration::from_secs(1);

/// Label of the counter of refused hello entries.
#[derive(Clone, Debug, PartialEq, Eq, Hash, prometheus_client::encoding::EncodeLabelSet)]
pub struct RefusedLabels {
    /// Why.
    pub reason: &'static str,
}

/// The responder and its maps.
#[derive(Debug)]
pub struct Answering {
    responder: Mutex<Responder>,
    maps: Arc<Maps>,
    /// Hello entries refused, by reason.
    pub refused: Family<RefusedLabels, Counter>,
}

/// Why the responder cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No random bytes for cookies.
    #[error("the kernel gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// Maps cannot be read.
    #[error(transparent)]
    Maps(#[from] epic_datapath::Error),
}

impl Answering {
    /// Takes over what an earlier agent learned.
    ///
    /// # Errors
    /// The maps cannot be read, or there is no randomness.
    pub fn adopt(maps: Arc<Maps>) -> Result<Arc<Self>, Error> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(Error::Random)?;
        let mut responder = Responder::new(CookieSecret::new(random));
        for (id, remote) in maps.remotes.entries()? {
            match maps.tunnels.get(&id)? {
                Some(tunnel) => responder.adopt(id, tunnel.lb, &remote),
                None => {
                    maps.remotes.remove(&id)?;
                }
            }
        }
        let swept = remotes::sweep(&maps)?;
        tracing::info!(remotes = responder.heard().len(), swept, "adopted learned remotes");
        Ok(Arc::new(Self { responder: Mutex::new(responder), maps, refused: Family::default() }))
    }

    /// Narrows the directory to what is wanted, before the rows of other tunnels go.
    pub fn shrink(&self, wanted: &Directory) {
        self.update(wanted, |_| false);
    }

    /// Gives the directory what is wanted and in the maps.
    pub fn grow(&self, wanted: &Directory, tables: &epic_lb::Snapshot, progress: &epic_lb::Progress) {
        self.update(wanted, |id| {
            let id = TunnelId::new(id).ok();
            id.and_then(|id| tables.status(RowId::Tunnel(id), progress)) == Some(Status::Done)
        });
    }

    fn update(&self, wanted: &Directory, is_done: impl Fn(u32) -> bool) {
        let mut responder = self.responder.lock();
        let held = responder.directory();
        let known =
            |id: &u32| held.tunnels.contains_key(id) || responder.heard().contains_key(id) || is_done(*id);
        let next = || wanted.tunnels.iter().filter(|(id, _)| known(id));
        if next().eq(held.tunnels.iter())
            && wanted.protected == held.protected
            && responder.heard().keys().all(|id| held.tunnels.contains_key(id))
        {
            return;
        }
        let tunnels = next().map(|(id, tunnel)| (*id, tunnel.clone())).collect();
        let next = Directory { tunnels, protected: wanted.protected.clone() };
        for (tunnel, source) in responder.set_directory(next) {
            if let Err(error) = remotes::forget(&self.maps, tunnel, &source) {
                tracing::warn!(tunnel, %error, "the remote of a tunnel that went stays in the maps");
            }
        }
    }

    /// What is known of the other ends, for those tunnels that are in the directory.
    pub fn heard(&self) -> std::collections::BTreeMap<u32, Heard> {
        self.responder.lock().heard().clone()
    }

    /// Answers until `shutdown`, at this node's GUE address and port, which may change.
    pub async fn run(
        self: Arc<Self>,
        mut place: watch::Receiver<Option<SocketAddr>>,
        shutdown: CancellationToken,
    ) {
        loop {
            let Some(at) = *place.borrow_and_update() else {
                tokio::select! {
                    changed = place.changed() => if changed.is_err() { return },
                    () = shutdown.cancelled() => return,
                }
                continue;
            };
            let socket = match Socket::bind(at).await {
                Ok(socket) => socket,
                Err(error) => {
                    tracing::error!(%at, %error, "cannot bind the GUE port; is another agent running?");
                    tokio::select! {
                        () = tokio::time::sleep(BIND_AGAIN) => continue,
                        () = shutdown.cancelled() => return,
                    }
                }
            };
            tracing::info!(%at, "answering hello messages");
            tokio::select! {
                () = self.serve(&socket) => {}
                changed = place.changed() => if changed.is_err() { return },
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn serve(&self, socket: &Socket) {
        loop {
            let (from, bytes) = match socket.receive().await {
                Ok(received) => received,
                Err(error) => {
                    tracing::warn!(%error, "the hello socket broke; opening another");
                    return;
                }
            };
            if let Some(answer) = self.take(from, &bytes) {
                socket.send(&answer).await;
            }
        }
    }

    fn take(&self, from: SocketAddr, bytes: &[u8]) -> Option<hello::Outgoing> {
        // Held over the writes: a tunnel must not leave the directory between its judgement and them.
        let mut responder = self.responder.lock();
        let outcome = responder.receive(from, bytes, hello::now());
        for refusal in outcome.refused {
            self.refused.get_or_create(&RefusedLabels { reason: label(refusal) }).inc();
        }
        for learned in outcome.learned {
            let written = remotes::write(
                &self.maps,
                learned.tunnel,
                &learned.remote,
                &learned.source,
                learned.replaced.as_ref(),
            );
            match written {
                Ok(()) => tracing::info!(tunnel = learned.tunnel, remote = %from, "learned a remote"),
                Err(error) => {
                    tracing::warn!(tunnel = learned.tunnel, %error, "a remote was not written; the next hello repeats it");
                    responder.not_written(learned.tunnel);
                }
            }
        }
        outcome.answer
    }
}

fn label(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Malformed => "malformed",
        Refusal::NotHello => "not_hello",
        Refusal::Cookie => "cookie",
        Refusal::Replayed => "replayed",
        Refusal::UnknownTunnel => "unknown_tunnel",
        Refusal::UnknownGeneration => "unknown_generation",
        Refusal::WrongMac => "wrong_mac",
        Refusal::AddressRefused => "address_refused",
        Refusal::AddressTaken => "address_taken",
    }
}
