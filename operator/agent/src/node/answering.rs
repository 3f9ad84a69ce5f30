//! The hello responder of an EPIC node as a task: socket in, maps `sources` and `remotes` out.
//!
//! It runs without the API server: what it needs is in its directory. A tunnel enters the directory when the maps
//! hold it, never before, and leaves it before its map entries go; so no source ever stands for a tunnel that is not
//! there. A tunnel whose row is only being rewritten stays.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use epic_abi::keys::CookieSecret;
use epic_abi::maps::SourceKey;
use epic_datapath::Maps;
use epic_lb::{RowId, TunnelId};
use epic_reconciler::Status;
use imbl::ordmap::DiffItem;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::hello::responder::{Directory, Heard, Refusal, Responder};
use crate::hello::silence::{BETWEEN_LOOKS, Silence};
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
    state: Mutex<State>,
    maps: Arc<Maps>,
    /// Hello entries refused, by reason.
    pub refused: Family<RefusedLabels, Counter>,
}

/// The responder, and what it is to know.
#[derive(Debug)]
struct State {
    responder: Responder,
    /// What was wanted last; `None` at first.
    wanted: Option<Directory>,
    /// Tunnels of that which the maps did not hold.
    late: BTreeSet<u32>,
    silence: Silence,
}

impl State {
    /// Follows what is wanted: the cost is that of the change. Returns the sources of tunnels that are gone.
    fn follow(&mut self, wanted: &Directory, is_done: impl Fn(u32) -> bool) -> Vec<(u32, SourceKey)> {
        let responder = &mut self.responder;
        let mut gone = Vec::new();
        let before = match self.wanted.replace(wanted.clone()) {
            Some(before) => before,
            None => {
                // An earlier agent heard of tunnels that are no more, or another's now.
                let is_wanted = |(id, heard): &(&u32, &Heard)| {
                    wanted.tunnels.get(*id).is_some_and(|tunnel| tunnel.lb == heard.lb())
                };
                gone.extend(responder.heard().iter().filter(|heard| !is_wanted(heard)).map(|(id, _)| *id));
                Directory::default()
            }
        };
        for change in before.tunnels.diff(&wanted.tunnels) {
            match change {
                DiffItem::Add(id, _) => drop(self.late.insert(*id)),
                // Whoever had the id called for itself alone.
                DiffItem::Update { old: (_, old), new: (id, tunnel) } if old.lb != tunnel.lb => {
                    self.late.insert(*id);
                    gone.push(*id);
                }
                DiffItem::Update { new: (id, tunnel), .. } => {
                    if !self.late.contains(id) {
                        responder.put(*id, tunnel.clone());
                    }
                }
                DiffItem::Remove(id, _) => {
                    self.late.remove(id);
                    gone.push(*id);
                }
            }
        }
        let forgotten = gone.into_iter().filter_map(|id| Some((id, responder.remove(id)?))).collect();
        let heard = responder.heard();
        let come: Vec<u32> =
            self.late.iter().copied().filter(|id| heard.contains_key(id) || is_done(*id)).collect();
        for id in come {
            self.late.remove(&id);
            if let Some(tunnel) = wanted.tunnels.get(&id) {
                responder.put(id, tunnel.clone());
            }
        }
        if responder.directory().protected != wanted.protected {
            responder.protect(wanted.protected.clone());
        }
        responder.send_from(wanted.source_ports);
        forgotten
    }
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
    /// Takes over what an earlier agent learned of these tunnels.
    ///
    /// # Errors
    /// The maps cannot be read, or there is no randomness.
    pub fn adopt(maps: Arc<Maps>, tunnels: &BTreeMap<u32, epic_abi::Lb>) -> Result<Arc<Self>, Error> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(Error::Random)?;
        let mut responder = Responder::new(CookieSecret::new(random));
        for (id, remote) in maps.remotes.entries()? {
            match tunnels.get(&id) {
                Some(lb) => responder.adopt(id, *lb, &remote),
                None => {
                    maps.remotes.remove(&id)?;
                }
            }
        }
        let swept = remotes::sweep(&maps)?;
        tracing::info!(remotes = responder.heard().len(), swept, "adopted learned remotes");
        let state =
            Mutex::new(State { responder, wanted: None, late: BTreeSet::new(), silence: Silence::default() });
        Ok(Arc::new(Self { state, maps, refused: Family::default() }))
    }

    /// Narrows the directory to what is wanted, before the rows of other tunnels go.
    pub fn shrink(&self, wanted: &Directory) {
        self.follow(wanted, |_| false);
    }

    /// Gives the directory what is wanted and in the maps.
    pub fn grow(&self, wanted: &Directory, tables: &epic_lb::Snapshot, progress: &epic_lb::Progress) {
        self.follow(wanted, |id| {
            let id = TunnelId::new(id).ok();
            id.and_then(|id| tables.status(RowId::Tunnel(id), progress)) == Some(Status::Done)
        });
    }

    fn follow(&self, wanted: &Directory, is_done: impl Fn(u32) -> bool) {
        // Held over the writes, as in `take`.
        let mut state = self.state.lock();
        for (tunnel, source) in state.follow(wanted, is_done) {
            if let Err(error) = remotes::forget(&self.maps, tunnel, &source) {
                tracing::warn!(tunnel, %error, "the remote of a tunnel that went stays in the maps");
            }
        }
    }

    /// Looks at what is known of the other ends of those tunnels that are in the directory.
    pub fn heard<T>(&self, look: impl FnOnce(&BTreeMap<u32, Heard>) -> T) -> T {
        look(self.state.lock().responder.heard())
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
        self.state.lock().silence.begin();
        let mut looks = tokio::time::interval(BETWEEN_LOOKS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let received = tokio::select! {
                received = socket.receive() => received,
                _ = looks.tick() => {
                    self.forget_silent(hello::now());
                    continue;
                }
            };
            let (from, bytes) = match received {
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

    /// Forgets where the other ends of tunnels were that have been silent for long.
    fn forget_silent(&self, now: hello::Nanos) {
        let mut state = self.state.lock();
        let State { responder, silence, .. } = &mut *state;
        let packets = |id| match self.maps.tunnel_stats.get(&id) {
            Ok(counted) => Some(counted.iter().flatten().map(|stats| stats.rx_packets).sum()),
            Err(_) => None,
        };
        for tunnel in silence.look(responder.heard(), now, packets) {
            let Some(source) = responder.forget(tunnel) else { continue };
            match remotes::forget(&self.maps, tunnel, &source) {
                Ok(()) => tracing::info!(tunnel, "forgot a remote that has been silent"),
                Err(error) => {
                    tracing::warn!(tunnel, %error, "the remote of a silent tunnel stays in the maps")
                }
            }
        }
    }

    fn take(&self, from: SocketAddr, bytes: &[u8]) -> Option<hello::Outgoing> {
        // Held over the writes: a tunnel must not leave the directory between its judgement and them.
        let mut state = self.state.lock();
        let responder = &mut state.responder;
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

#[cfg(test)]
mod tests {
    use epic_abi::Lb;
    use proptest::prelude::*;

    use super::*;
    use crate::hello::responder::Tunnel;

    fn tunnel(service: u16) -> Tunnel {
        Tunnel { lb: Lb::new(1, service), keys: Arc::default(), client_networks: None }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// It holds what is wanted as soon as the maps do, or it was heard of, and forgets what is not wanted at once.
        #[test]
        fn the_directory_follows_what_is_wanted_and_what_the_maps_hold(
            adopted in prop::collection::btree_set(0u32..6, 0..4),
            steps in prop::collection::vec(
                (prop::collection::btree_map(0u32..6, 1u16..3, 0..6), prop::collection::btree_set(0u32..6, 0..6), any::<bool>()),
                1..20,
            ),
        ) {
            let mut responder = Responder::new(CookieSecret::new([9; 32]));
            for id in &adopted {
                let remote = epic_abi::maps::Remote { port: *id as u16 + 1, ..Default::default() };
                responder.adopt(*id, Lb::new(1, 1), &remote);
            }
            let mut state = State { responder, wanted: None, late: BTreeSet::new(), silence: Silence::default() };
            let mut held = BTreeMap::new();
            let mut heard: BTreeMap<u32, u16> = adopted.into_iter().map(|id| (id, 1)).collect();
            let mut wanted = Directory::default();
            for (tunnels, done, anew) in steps {
                if anew {
                    wanted = Directory::default();
                }
                let gone: Vec<u32> =
                    wanted.tunnels.keys().filter(|id| !tunnels.contains_key(*id)).copied().collect();
                gone.iter().for_each(|id| drop(wanted.tunnels.remove(id)));
                wanted.tunnels.extend(tunnels.iter().map(|(id, service)| (*id, tunnel(*service))));
                let forgotten = state.follow(&wanted, |id| done.contains(&id));
                // What was heard of, or held, for whom. An id that is another's now is as one that came.
                let is_same = |id: &u32, of: &u16| tunnels.get(id) == Some(of);
                let expected: BTreeSet<u32> =
                    heard.iter().filter(|(id, of)| !is_same(id, of)).map(|(id, _)| *id).collect();
                prop_assert_eq!(forgotten.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>(), expected);
                heard.retain(|id, of| is_same(id, of));
                held.retain(|id, of| is_same(id, of));
                let come = |id: &u32| heard.contains_key(id) || done.contains(id);
                held.extend(tunnels.iter().filter(|(id, _)| come(id)));
                let directory = &state.responder.directory().tunnels;
                let services: BTreeMap<u32, u16> =
                    directory.iter().map(|(id, tunnel)| (*id, tunnel.lb.service)).collect();
                prop_assert_eq!(&services, &held);
                prop_assert!(state.responder.heard().keys().eq(heard.keys()));
            }
        }
    }
}
