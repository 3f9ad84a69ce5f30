//! One incremental (delta) stream.
//!
//! Per type the session keeps what it believes the client holds, what is still to be looked at, and what was sent but
//! not answered. A response is the difference between belief and view at the moment it is asked for.
//!
//! Rules kept here:
//! - *Order.* Clusters, assignments, listeners; then removals: listeners, clusters, assignments. Nothing waits for an
//!   acknowledgement.
//! - *An assignment follows its cluster.* Whenever a cluster is sent, its assignment is sent behind it, changed or
//!   not, because Envoy warms the cluster until it hears an assignment again. Should the client ask for that
//!   assignment only later (a new cluster, a reconnect), it is answered then, whatever version it claims to have.
//! - *Every name asked for is answered*, missing ones as removed, and they stay armed. One exception: a first request
//!   that also states a matching version is not answered for that name (a reconnect sends nothing that is the same).
//! - *A wildcard is answered even if there is nothing*, because a starting Envoy waits for the first answer; but not
//!   to a client that states what it has kept.
//! - *Stale nonces* never make a request's subscriptions ignored.
//! - *An answer settles all earlier ones of its type*: clients answer in order, and Envoy withholds cluster
//!   acknowledgements while anything warms.
//! - *A rejection of several resources* does not say which of them is at fault nor whether any was applied. They are
//!   sent again in two halves, and so on, until single ones are refused: at most twice as many responses as resources.
//!   A single one that was refused is sent again when it changes, and until then offered again as it is, more and more
//!   rarely ([`refusal`]); by itself in both cases. Its last good form counts as held. A client that asks about the name
//!   again gets it, as always.
//! - *What refers waits for what it refers to.* A listener is not sent while its cluster is refused and the client has no
//!   form of it, nor while there is no room for clusters or assignments. A cluster is not removed while a listener that
//!   the client holds on to, since it refused the next form, sends to it.
//! - *Sent bodies are not kept.* An answer is about names and versions.
//!
//! There is no clock here: [`DeltaSession::advance`] tells the time.
//!
//! What it does not do: take a view away. When a LoadBalancer goes, its proxies keep what they have until they end.

mod belief;
mod lane;
mod refusal;

use std::sync::Arc;
use std::time::Duration;

use super::exchange::{
    DeltaRequest, DeltaResponse, Event, MAX_NAME_LENGTH, MAX_NAMES, MAX_NAMES_BYTES, Progress, ProtocolError,
};
use super::kind::Kind;
use super::view::{Resource, Version, View};
use lane::Lane;

/// What a name costs beside its bytes, about: entries in the maps of a lane, and the counters of what they share.
const NAME_OVERHEAD: usize = 256;

/// The server's end of one incremental stream.
#[derive(Debug)]
pub struct DeltaSession {
    nonce: u64,
    view: Option<Arc<View>>,
    lanes: [Lane; 3],
    /// Length of the longest name that the client said.
    longest: usize,
    /// Since the session began.
    now: Duration,
    /// [`View::assignments`] of the last view whose assignments were all acknowledged.
    assigned: Option<Version>,
    progress: Progress,
}

impl Default for DeltaSession {
    fn default() -> Self {
        Self {
            nonce: 0,
            view: None,
            lanes: Kind::MAKE.map(Lane::new),
            longest: 0,
            now: Duration::ZERO,
            assigned: None,
            progress: Progress::default(),
        }
    }
}

impl DeltaSession {
    /// A session of a stream on which nothing was said yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How far the client has come.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The view that is being served.
    pub fn view(&self) -> Option<&Arc<View>> {
        self.view.as_ref()
    }

    /// [`View::assignments`] of the last view of which the client acknowledged all the assignments that it asked for.
    pub fn assigned(&self) -> Option<Version> {
        self.assigned
    }

    /// It is `now`, counted from the beginning of the session; says whether refused resources came due with that.
    pub fn advance(&mut self, now: Duration) -> bool {
        self.now = self.now.max(now);
        let now = self.now;
        self.lanes.iter_mut().fold(false, |any, lane| lane.offer(now) | any)
    }

    /// When to call [`DeltaSession::advance`] at the latest: refused resources come due then.
    pub fn next_offer(&self) -> Option<Duration> {
        self.lanes.iter().filter_map(Lane::next_offer).min()
    }

    /// Whether there is something to say to the client, now or once it has answered.
    pub fn owes(&self) -> bool {
        self.view.is_some() && self.lanes.iter().any(Lane::owes)
    }

    /// Serves `view` from now on. Before the first view the session answers nothing.
    pub fn set_view(&mut self, view: Arc<View>) {
        let before = self.view.replace(Arc::clone(&view));
        for lane in &mut self.lanes {
            lane.take_view(before.as_deref(), &view);
        }
        self.settle();
        self.hold_endpoints();
    }

    /// Takes one request.
    ///
    /// # Errors
    /// Nothing of the request was applied. The stream must end, but for an unknown type.
    pub fn request(&mut self, request: &DeltaRequest) -> Result<Option<Event>, ProtocolError> {
        let kind = Kind::of_type_url(&request.type_url)
            .ok_or_else(|| ProtocolError::UnknownType(request.type_url.chars().take(256).collect()))?;
        self.longest = self.check_names(request)?;
        let lane = &mut self.lanes[kind.index()];
        let event = lane.answer(request, self.now);
        lane.subscribe(request, self.view.as_deref());
        self.settle();
        if kind == Kind::Assignment {
            self.hold_endpoints();
        }
        Ok(event)
    }

    /// The next response to send, if there is one. Call it again until there is none, and only when it can be sent:
    /// what it returns counts as sent.
    pub fn next_response(&mut self) -> Option<DeltaResponse> {
        let view = Arc::clone(self.view.as_ref()?);
        for kind in Kind::MAKE {
            if kind == Kind::Listener && self.is_stuck(&[Kind::Cluster, Kind::Assignment], &view) {
                continue;
            }
            let [clusters, assignments, listeners] = &mut self.lanes;
            let resources = match kind {
                Kind::Cluster => clusters.additions(&view, |_| false),
                Kind::Assignment => assignments.additions(&view, |_| false),
                Kind::Listener => listeners.additions(&view, |listener| {
                    listener.clusters.iter().any(|cluster| clusters.is_refused_altogether(cluster))
                }),
            };
            if let Some(resources) = resources {
                return Some(self.respond(kind, resources, Vec::new()));
            }
        }
        let names = self.removals(&view)?;
        Some(self.respond(names.0, Vec::new(), names.1))
    }

    /// Names to remove now. What is referred to goes after what refers to it, and stays while that cannot go.
    fn removals(&self, view: &View) -> Option<(Kind, Vec<Arc<str>>)> {
        let lane = |kind: Kind| &self.lanes[kind.index()];
        for kind in Kind::BREAK {
            let names = match kind {
                Kind::Listener => lane(kind).removals(view, |_| false),
                Kind::Cluster if self.is_stuck(&[Kind::Listener], view) => None,
                Kind::Cluster => {
                    let in_use = lane(Kind::Listener).in_use();
                    lane(kind).removals(view, |name| in_use.has(name))
                }
                Kind::Assignment => {
                    // A cluster that stays needs its endpoints.
                    let stays = lane(Kind::Cluster).has_removals(view);
                    lane(kind).removals(view, |_| stays)
                }
            };
            if let Some(names) = names {
                return Some((kind, names));
            }
        }
        None
    }

    fn is_stuck(&self, kinds: &[Kind], view: &View) -> bool {
        kinds.iter().any(|kind| self.lanes[kind.index()].is_stuck(view))
    }

    /// Memory that the client costs beside the view, about: the names that it asked for, and what it does not answer.
    pub fn kept_bytes(&self) -> usize {
        let texts: usize = self.progress.rejections.values().map(|rejection| rejection.message.len()).sum();
        let endpoints: usize = self.lanes.iter().map(|lane| lane.kept_endpoints(self.view.as_deref())).sum();
        self.names() * (self.longest + NAME_OVERHEAD) + texts + endpoints
    }

    fn names(&self) -> usize {
        self.lanes.iter().map(Lane::size).sum()
    }

    /// Length of the longest name so far, this request included.
    fn check_names(&self, request: &DeltaRequest) -> Result<usize, ProtocolError> {
        let names = request.subscribe.iter().chain(request.initial_versions.keys());
        let longest = names.map(String::len).fold(self.longest, usize::max);
        if longest > MAX_NAME_LENGTH {
            return Err(ProtocolError::LongName(longest));
        }
        let names = self.names() + request.subscribe.len().max(request.initial_versions.len());
        if names > MAX_NAMES {
            return Err(ProtocolError::TooManyNames);
        }
        if names * longest > MAX_NAMES_BYTES {
            return Err(ProtocolError::TooLongNames);
        }
        Ok(longest)
    }

    fn respond(
        &mut self,
        kind: Kind,
        resources: Vec<Arc<Resource>>,
        removed: Vec<Arc<str>>,
    ) -> DeltaResponse {
        self.nonce += 1;
        for assignment in resources.iter().filter_map(|resource| resource.assignment.as_ref()) {
            self.lanes[Kind::Assignment.index()].owe(Arc::clone(assignment));
        }
        let again = resources.iter().any(|resource| self.lanes[kind.index()].is_offered(&resource.name));
        let response = DeltaResponse { kind, nonce: self.nonce, resources, removed, again };
        self.lanes[kind.index()].sent(&response);
        response
    }

    /// Brings what is due and what is known up to date after an input.
    fn settle(&mut self) {
        let Some(view) = &self.view else { return };
        for lane in &mut self.lanes {
            lane.tidy(view);
        }
        let settled = |kind: Kind| self.lanes[kind.index()].is_settled();
        if settled(Kind::Cluster) && settled(Kind::Listener) {
            self.progress.configured = Some(view.revision());
        }
        if self.lanes[Kind::Assignment.index()].is_level() {
            self.assigned = Some(view.assignments());
        }
        let rejections = Kind::MAKE.into_iter().zip(&self.lanes).flat_map(|(kind, lane)| {
            lane.rejected().map(move |(name, rejection)| ((kind, Arc::clone(name)), rejection.clone()))
        });
        self.progress.rejections = rejections.collect();
    }

    fn hold_endpoints(&mut self) {
        let Some(view) = &self.view else { return };
        let held = self.lanes[Kind::Assignment.index()].endpoints(view);
        if *self.progress.endpoints != held {
            self.progress.endpoints = Arc::new(held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(names: impl Iterator<Item = String>) -> DeltaRequest {
        let type_url = Kind::Assignment.type_url().to_owned();
        DeltaRequest { type_url, subscribe: names.collect(), ..DeltaRequest::default() }
    }

    #[test]
    fn many_names_must_be_short_and_long_ones_few() {
        let long = |n: usize| format!("{n:01000}");
        let mut session = DeltaSession::new();
        session.request(&request((0..5_000).map(long))).unwrap();
        assert_eq!(session.request(&request((5_000..10_000).map(long))), Err(ProtocolError::TooLongNames));
        // What was refused was not applied.
        session.request(&request((5_000..8_000).map(long))).unwrap();
        assert!((8_000_000..12_000_000).contains(&session.kept_bytes()), "{}", session.kept_bytes());
        DeltaSession::new().request(&request((0..100_000).map(|n| format!("{n:080}")))).unwrap();
    }
}
