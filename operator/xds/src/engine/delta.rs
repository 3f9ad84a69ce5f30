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
//!   A single one that was refused is not sent again until it changes, and then by itself; its last good form counts
//!   as held. A client that asks about the name again gets it, as always.
//!
//! What it does not do: take a view away. When a LoadBalancer goes, its proxies keep what they have until they end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::exchange::{
    DeltaRequest, DeltaResponse, Event, MAX_NAME_LENGTH, MAX_NAMES, Progress, ProtocolError, Rejection,
    Verdict,
};
use super::kind::Kind;
use super::subscription::{Shift, Subscription};
use super::view::{EndpointRef, Resource, Revision, Version, View};

/// Unanswered responses of one type after which changes are collected instead of sent. Envoy withholds answers for
/// clusters while one warms, so this must not be small; it bounds the memory that a silent client costs.
const MAX_UNANSWERED: usize = 64;

/// The server's end of one incremental stream.
#[derive(Debug, Default)]
pub struct DeltaSession {
    nonce: u64,
    view: Option<Arc<View>>,
    lanes: [Lane; 3],
    progress: Progress,
}

/// State of one type.
#[derive(Debug, Default)]
struct Lane {
    subscription: Subscription,
    /// Everything was asked for, and nothing has been answered yet.
    greet: bool,
    /// What the client holds, as far as we know. No entry: nothing was ever said about the name.
    held: BTreeMap<Arc<str>, Belief>,
    /// Names to look at when the next response is made.
    due: BTreeMap<Arc<str>, Cause>,
    /// Groups of names that are sent by themselves because they were in a refused response.
    suspects: VecDeque<BTreeSet<Arc<str>>>,
    rejected: BTreeMap<Arc<str>, Rejection>,
    unanswered: VecDeque<Unanswered>,
}

#[derive(Clone, Debug)]
struct Belief {
    last: Last,
    /// The version that was acknowledged last, if the client still holds it.
    good: Option<Version>,
    /// What it may hold instead, because it was refused together with others.
    doubt: Doubt,
    /// Endpoints of the assignment that was acknowledged last.
    endpoints: Arc<[EndpointRef]>,
}

/// The last thing that was said about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Sent(Version),
    Missing,
    /// It was in a refused response and may or may not have been applied.
    Unclear,
}

/// Refused forms that may have been applied all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    None,
    One(Version),
    Several,
}

impl Doubt {
    fn add(&mut self, version: Version) {
        *self = match *self {
            Doubt::None => Doubt::One(version),
            Doubt::One(one) if one == version => Doubt::One(one),
            _ => Doubt::Several,
        };
    }
}

impl Belief {
    fn unheard(last: Last) -> Self {
        Self { last, good: None, doubt: Doubt::None, endpoints: Arc::default() }
    }
}

/// Why a name is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// It may differ from what the client holds.
    Changed,
    /// It is to be sent even if it does not.
    Owed,
}

#[derive(Debug)]
struct Unanswered {
    nonce: u64,
    resources: Vec<Arc<Resource>>,
    removed: Vec<Arc<str>>,
}

enum Need {
    Send(Arc<Resource>),
    Remove,
    /// Owed, but the client has not asked for the name yet.
    Later,
    Nothing,
}

impl Lane {
    /// The one place that decides what a name needs.
    fn need(&self, kind: Kind, name: &str, cause: Cause, view: &View) -> Need {
        let resource = view.get(kind, name);
        if !self.subscription.covers(name) {
            return if cause == Cause::Owed && resource.is_some() { Need::Later } else { Need::Nothing };
        }
        let last = self.held.get(name).map(|belief| belief.last);
        match resource {
            Some(r) if self.rejected.get(name).is_some_and(|rejection| rejection.version == r.version) => {
                Need::Nothing
            }
            Some(r) if cause == Cause::Owed || last != Some(Last::Sent(r.version)) => {
                Need::Send(Arc::clone(r))
            }
            Some(_) => Need::Nothing,
            None if cause == Cause::Owed => Need::Remove,
            None if last == Some(Last::Missing) => Need::Nothing,
            // A name that was asked for is told to be missing even if nothing was ever said about it.
            None if last.is_some() || self.subscription.is_named(name) => Need::Remove,
            None => Need::Nothing,
        }
    }

    fn look_at(&mut self, name: Arc<str>, cause: Cause) {
        let entry = self.due.entry(name).or_insert(cause);
        if cause == Cause::Owed {
            *entry = Cause::Owed;
        }
    }

    /// Drops names that need nothing any more.
    fn tidy(&mut self, kind: Kind, view: &View) {
        let mut due = std::mem::take(&mut self.due);
        due.retain(|name, cause| !matches!(self.need(kind, name, *cause, view), Need::Nothing));
        self.due = due;
    }

    fn has_room(&self) -> bool {
        self.unanswered.len() < MAX_UNANSWERED
    }

    /// Whether the client has acknowledged all of the current view.
    fn is_settled(&self) -> bool {
        self.subscription.is_wildcard()
            && !self.greet
            && self.due.is_empty()
            && self.unanswered.is_empty()
            && self.rejected.is_empty()
    }

    fn forget(&mut self, name: &str) {
        self.held.remove(name);
        self.due.remove(name);
        self.rejected.remove(name);
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

    /// Serves `view` from now on. Before the first view the session answers nothing.
    pub fn set_view(&mut self, view: Arc<View>) {
        let before = self.view.replace(Arc::clone(&view));
        for kind in Kind::MAKE {
            let lane = &mut self.lanes[kind.index()];
            let names: Vec<Arc<str>> = match &before {
                Some(before) => view.names_changed(before, kind),
                None => {
                    let known = lane.held.keys().chain(lane.subscription.names()).map(Arc::clone);
                    view.of(kind).map(|r| Arc::clone(&r.name)).chain(known).collect()
                }
            };
            for name in names {
                let current = view.get(kind, &name).map(|r| r.version);
                if lane.rejected.get(&name).is_some_and(|r| Some(r.version) != current) {
                    lane.rejected.remove(&name);
                    // What was refused once does not take others along when it is refused again.
                    lane.suspects.push_back(BTreeSet::from([Arc::clone(&name)]));
                }
                lane.look_at(name, Cause::Changed);
            }
        }
        self.settle();
        self.hold_endpoints();
    }

    /// Takes one request.
    ///
    /// # Errors
    /// When the stream must end. The session is unchanged then, except that it is of no use any more.
    pub fn request(&mut self, request: &DeltaRequest) -> Result<Option<Event>, ProtocolError> {
        let kind = Kind::of_type_url(&request.type_url)
            .ok_or_else(|| ProtocolError::UnknownType(request.type_url.chars().take(256).collect()))?;
        self.check_names(request)?;
        let event = self.answer(kind, request);
        let lane = &mut self.lanes[kind.index()];
        let shift = lane.subscription.apply(kind, &request.subscribe, &request.unsubscribe);
        Self::follow(lane, kind, self.view.as_deref(), shift, &request.initial_versions);
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
        let addition = Kind::MAKE.into_iter().find_map(|kind| self.additions(kind, &view).map(|r| (kind, r)));
        if let Some((kind, resources)) = addition {
            return Some(self.respond(kind, resources, Vec::new()));
        }
        let removal = Kind::BREAK.into_iter().find_map(|kind| self.removals(kind, &view).map(|n| (kind, n)));
        removal.map(|(kind, names)| self.respond(kind, Vec::new(), names))
    }

    fn check_names(&self, request: &DeltaRequest) -> Result<(), ProtocolError> {
        let names = request.subscribe.iter().chain(request.initial_versions.keys());
        if let Some(name) = names.into_iter().find(|name| name.len() > MAX_NAME_LENGTH) {
            return Err(ProtocolError::LongName(name.len()));
        }
        let known: usize =
            self.lanes.iter().map(|lane| lane.subscription.names().len().max(lane.held.len())).sum();
        if known + request.subscribe.len().max(request.initial_versions.len()) > MAX_NAMES {
            return Err(ProtocolError::TooManyNames);
        }
        Ok(())
    }

    /// Books the acknowledgement or rejection in a request, if it holds one.
    fn answer(&mut self, kind: Kind, request: &DeltaRequest) -> Option<Event> {
        if request.nonce.is_empty() {
            return None;
        }
        let lane = &mut self.lanes[kind.index()];
        let nonce = request.nonce.parse::<u64>().ok();
        let Some(position) = lane.unanswered.iter().position(|u| Some(u.nonce) == nonce) else {
            return Some(Event {
                kind,
                verdict: Verdict::Stale,
                names: Vec::new(),
                message: request.error.clone(),
            });
        };
        let mut settled: Vec<Unanswered> = lane.unanswered.drain(..=position).collect();
        let last = settled.pop()?;
        for earlier in &settled {
            accept(lane, earlier);
        }
        let mut names: Vec<Arc<str>> = last.resources.iter().map(|r| Arc::clone(&r.name)).collect();
        names.extend(last.removed.iter().map(Arc::clone));
        let verdict = match &request.error {
            None => {
                accept(lane, &last);
                Verdict::Acknowledged
            }
            Some(message) => {
                reject(lane, &last, message);
                Verdict::Rejected
            }
        };
        Some(Event { kind, verdict, names, message: request.error.clone() })
    }

    /// Marks what a change of subscription makes due.
    fn follow(
        lane: &mut Lane,
        kind: Kind,
        view: Option<&View>,
        shift: Shift,
        initial: &BTreeMap<String, String>,
    ) {
        if shift.first {
            for (name, version) in initial {
                if !lane.subscription.covers(name) {
                    continue;
                }
                let version = version.parse::<Version>().ok();
                let last = version.map_or(Last::Unclear, Last::Sent);
                let name: Arc<str> = name.as_str().into();
                lane.held.insert(Arc::clone(&name), Belief { good: version, ..Belief::unheard(last) });
                lane.look_at(name, Cause::Changed);
            }
        }
        for name in &shift.dropped {
            lane.forget(name);
        }
        if shift.wildcard_dropped {
            // A name that only the same request asks for was given up first.
            let Lane { subscription, held, rejected, .. } = lane;
            let kept = |name: &Arc<str>| subscription.is_named(name) && !shift.newly_named.contains(name);
            held.retain(|name, _| kept(name));
            rejected.retain(|name, _| kept(name));
        }
        for name in shift.still_covered {
            lane.rejected.remove(&name);
            lane.look_at(name, Cause::Owed);
        }
        lane.greet |= shift.wildcard && !(shift.first && !initial.is_empty());
        lane.greet &= lane.subscription.is_wildcard();
        if shift.wildcard {
            // A name that was given up while a response with it was under way may have been taken from there.
            for resource in lane.unanswered.iter().flat_map(|response| &response.resources) {
                let entry = lane.held.entry(Arc::clone(&resource.name));
                entry.or_insert_with(|| Belief::unheard(Last::Unclear));
            }
            let held: Vec<Arc<str>> = lane.held.keys().map(Arc::clone).collect();
            held.into_iter().for_each(|name| lane.look_at(name, Cause::Changed));
        }
        if shift.wildcard
            && let Some(view) = view
        {
            view.of(kind).for_each(|r| lane.look_at(Arc::clone(&r.name), Cause::Changed));
        }
        for name in shift.wanted {
            lane.rejected.remove(&name);
            let kept = shift.first && initial.contains_key(&*name);
            lane.look_at(name, if kept { Cause::Changed } else { Cause::Owed });
        }
    }

    /// Resources of one type to send now: all that are above suspicion, else one group of suspects.
    fn additions(&mut self, kind: Kind, view: &View) -> Option<Vec<Arc<Resource>>> {
        let lane = &mut self.lanes[kind.index()];
        if !lane.has_room() {
            return None;
        }
        let sendable = |lane: &Lane, name: &Arc<str>| {
            let cause = *lane.due.get(name)?;
            match lane.need(kind, name, cause, view) {
                Need::Send(resource) => Some(resource),
                _ => None,
            }
        };
        let clear: Vec<Arc<Resource>> = lane
            .due
            .keys()
            .filter(|name| !lane.suspects.iter().any(|group| group.contains(*name)))
            .filter_map(|name| sendable(lane, name))
            .collect();
        if !clear.is_empty() {
            return Some(clear);
        }
        while let Some(group) = lane.suspects.pop_front() {
            let group: Vec<_> = group.iter().filter_map(|name| sendable(lane, name)).collect();
            if !group.is_empty() {
                return Some(group);
            }
        }
        lane.greet.then(Vec::new)
    }

    fn removals(&mut self, kind: Kind, view: &View) -> Option<Vec<Arc<str>>> {
        let lane = &self.lanes[kind.index()];
        if !lane.has_room() {
            return None;
        }
        let gone = lane
            .due
            .iter()
            .filter(|(name, cause)| matches!(lane.need(kind, name, **cause, view), Need::Remove));
        let gone: Vec<Arc<str>> = gone.map(|(name, _)| Arc::clone(name)).collect();
        (!gone.is_empty()).then_some(gone)
    }

    fn respond(
        &mut self,
        kind: Kind,
        resources: Vec<Arc<Resource>>,
        removed: Vec<Arc<str>>,
    ) -> DeltaResponse {
        self.nonce += 1;
        for resource in &resources {
            if let Some(assignment) = &resource.assignment {
                self.lanes[Kind::Assignment.index()].look_at(Arc::clone(assignment), Cause::Owed);
            }
        }
        let lane = &mut self.lanes[kind.index()];
        lane.greet = false;
        for resource in &resources {
            lane.due.remove(&resource.name);
            say(lane, &resource.name, Last::Sent(resource.version));
        }
        for name in &removed {
            lane.due.remove(name);
            say(lane, name, Last::Missing);
        }
        lane.unanswered.push_back(Unanswered {
            nonce: self.nonce,
            resources: resources.clone(),
            removed: removed.clone(),
        });
        DeltaResponse { kind, nonce: self.nonce, resources, removed }
    }

    /// Brings `due` and `progress` up to date after an input.
    fn settle(&mut self) {
        let Some(view) = self.view.clone() else { return };
        for kind in Kind::MAKE {
            let lane = &mut self.lanes[kind.index()];
            lane.rejected.retain(|name, rejection| {
                view.get(kind, name).is_some_and(|r| r.version == rejection.version)
            });
            lane.tidy(kind, &view);
        }
        let settled = |kind: Kind| self.lanes[kind.index()].is_settled();
        if settled(Kind::Cluster) && settled(Kind::Listener) {
            self.progress.configured = Some(view.revision());
        }
        self.progress.rejections = Kind::MAKE
            .into_iter()
            .flat_map(|kind| {
                let rejected = self.lanes[kind.index()].rejected.iter();
                rejected.map(move |(name, rejection)| ((kind, Arc::clone(name)), rejection.clone()))
            })
            .collect();
    }

    /// Endpoints that the client is known to have. A reconnected client proves an assignment by its version.
    fn hold_endpoints(&mut self) {
        let Some(view) = &self.view else { return };
        let lane = &mut self.lanes[Kind::Assignment.index()];
        let mut held = BTreeSet::new();
        for (name, belief) in &mut lane.held {
            if let Some(resource) = view.get(Kind::Assignment, name)
                && belief.good == Some(resource.version)
            {
                belief.endpoints = Arc::clone(&resource.endpoints);
            }
            held.extend(belief.endpoints.iter().cloned());
        }
        if *self.progress.endpoints != held {
            self.progress.endpoints = Arc::new(held);
        }
    }

    /// The revision that is being served, acknowledged or not.
    pub fn revision(&self) -> Option<Revision> {
        self.view.as_ref().map(|view| view.revision())
    }
}

fn say(lane: &mut Lane, name: &Arc<str>, last: Last) {
    lane.held.entry(Arc::clone(name)).or_insert_with(|| Belief::unheard(last)).last = last;
}

fn accept(lane: &mut Lane, response: &Unanswered) {
    for resource in &response.resources {
        // Without an entry the client has given the name up since.
        if let Some(belief) = lane.held.get_mut(&resource.name) {
            belief.good = Some(resource.version);
            belief.doubt = Doubt::None;
            belief.endpoints = Arc::clone(&resource.endpoints);
        }
    }
    for name in &response.removed {
        if lane.held.get(name).is_some_and(|belief| belief.last == Last::Missing) {
            if lane.subscription.is_named(name) {
                lane.held.insert(Arc::clone(name), Belief::unheard(Last::Missing));
            } else {
                lane.held.remove(name);
            }
        }
    }
}

fn reject(lane: &mut Lane, response: &Unanswered, message: &str) {
    let message: Arc<str> = message.chars().take(2_048).collect::<String>().into();
    if let [culprit] = &response.resources[..] {
        refuse(lane, culprit, message);
        return;
    }
    let mut again = Vec::new();
    for resource in &response.resources {
        let Some(belief) = lane.held.get_mut(&resource.name) else { continue };
        belief.doubt.add(resource.version);
        if belief.last == Last::Sent(resource.version) {
            belief.last = Last::Unclear;
            lane.look_at(Arc::clone(&resource.name), Cause::Changed);
            again.push(Arc::clone(&resource.name));
        }
    }
    let (left, right) = again.split_at(again.len() / 2);
    for half in [left, right] {
        if !half.is_empty() {
            lane.suspects.push_back(half.iter().map(Arc::clone).collect());
        }
    }
}

fn refuse(lane: &mut Lane, culprit: &Arc<Resource>, message: Arc<str>) {
    let Some(belief) = lane.held.get_mut(&culprit.name) else { return };
    if belief.last != Last::Sent(culprit.version) {
        return;
    }
    let certain = belief.doubt == Doubt::None || belief.doubt == Doubt::One(culprit.version);
    match belief.good {
        Some(good) if certain => belief.last = Last::Sent(good),
        None if certain => {
            lane.held.remove(&culprit.name);
        }
        _ => belief.last = Last::Unclear,
    }
    lane.rejected.insert(Arc::clone(&culprit.name), Rejection { version: culprit.version, message });
}
