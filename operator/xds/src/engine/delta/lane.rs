//! One resource type on one stream: what is wanted, what is believed to be held, what is due, what is not answered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::super::exchange::{DeltaRequest, DeltaResponse, Event, Rejection, Verdict};
use super::super::kind::Kind;
use super::super::subscription::{Shift, Subscription};
use super::super::view::{EndpointRef, Resource, Version, View};
use super::belief::{Belief, Last, Sent};
use super::refusal::Refused;

/// Unanswered responses of one type after which changes are collected instead of sent. Envoy withholds answers for
/// clusters while one warms, so this must not be small; it bounds the memory that a silent client costs.
const MAX_UNANSWERED: usize = 64;

/// Longest text of a rejection that is kept, in characters.
const MAX_MESSAGE: usize = 2_048;

/// Clusters that the client's listeners send to though the view has no such listener any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum InUse {
    These(BTreeSet<Arc<str>>),
    /// It holds a listener of which nobody knows where it sends to.
    Unknown,
}

impl InUse {
    pub(super) fn has(&self, cluster: &str) -> bool {
        match self {
            InUse::These(names) => names.contains(cluster),
            InUse::Unknown => true,
        }
    }
}

#[derive(Debug)]
pub(super) struct Lane {
    kind: Kind,
    subscription: Subscription,
    /// Everything was asked for, and nothing has been answered yet.
    greet: bool,
    held: BTreeMap<Arc<str>, Belief>,
    /// Names to look at when the next response is made.
    due: BTreeMap<Arc<str>, Cause>,
    /// Groups of names that are sent by themselves because they were in a refused response.
    suspects: VecDeque<BTreeSet<Arc<str>>>,
    rejected: BTreeMap<Arc<str>, Refused>,
    unanswered: VecDeque<Unanswered>,
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
    sent: Vec<Sent>,
    removed: Vec<Arc<str>>,
}

impl Unanswered {
    fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.sent.iter().map(|sent| &sent.name).chain(&self.removed)
    }
}

enum Need {
    Send(Arc<Resource>),
    Remove,
    /// Owed, but the client has not asked for the name yet.
    Later,
    Nothing,
}

impl Lane {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            subscription: Subscription::default(),
            greet: false,
            held: BTreeMap::new(),
            due: BTreeMap::new(),
            suspects: VecDeque::new(),
            rejected: BTreeMap::new(),
            unanswered: VecDeque::new(),
        }
    }

    /// Names that cost memory.
    pub(super) fn size(&self) -> usize {
        self.subscription.names().len().max(self.held.len())
    }

    pub(super) fn rejected(&self) -> impl Iterator<Item = (&Arc<str>, &Rejection)> {
        self.rejected.iter().map(|(name, refused)| (name, &refused.rejection))
    }

    /// Whether the client has acknowledged all of the current view.
    pub(super) fn is_settled(&self) -> bool {
        self.subscription.is_wildcard()
            && !self.greet
            && self.due.is_empty()
            && self.unanswered.is_empty()
            && self.rejected.is_empty()
    }

    /// Whether the client has acknowledged all that it asked for of the current view, by name.
    pub(super) fn is_level(&self) -> bool {
        !self.held.is_empty() && self.due.is_empty() && self.unanswered.is_empty() && self.rejected.is_empty()
    }

    /// Whether there is something to say, room or not.
    pub(super) fn owes(&self) -> bool {
        self.greet || !self.due.is_empty()
    }

    /// Whether there is something to send or remove for which there is no room.
    pub(super) fn is_stuck(&self, view: &View) -> bool {
        let says = |(name, cause): (&Arc<str>, &Cause)| {
            matches!(self.need(name, *cause, view), Need::Send(_) | Need::Remove)
        };
        self.is_full() && self.due.iter().any(says)
    }

    fn is_full(&self) -> bool {
        self.unanswered.len() >= MAX_UNANSWERED
    }

    /// When the next refused resource is to be offered again.
    pub(super) fn next_offer(&self) -> Option<Duration> {
        self.rejected.values().filter_map(Refused::waits_until).min()
    }

    /// Makes those refused resources due whose time has come, each by itself; says whether there are any.
    pub(super) fn offer(&mut self, now: Duration) -> bool {
        let due =
            self.rejected.iter_mut().filter_map(|(name, refused)| refused.comes_due(now).then_some(name));
        let due: Vec<Arc<str>> = due.map(Arc::clone).collect();
        for name in &due {
            self.suspects.push_back(BTreeSet::from([Arc::clone(name)]));
            self.look_at(Arc::clone(name));
        }
        !due.is_empty()
    }

    /// Whether a name is about to be offered again.
    pub(super) fn is_offered(&self, name: &str) -> bool {
        self.rejected.get(name).is_some_and(Refused::is_due)
    }

    /// Whether there is something to remove, room or not.
    pub(super) fn has_removals(&self, view: &View) -> bool {
        self.due.iter().any(|(name, cause)| matches!(self.need(name, *cause, view), Need::Remove))
    }

    /// Whether the client has no form of a name because it refuses it.
    pub(super) fn is_refused_altogether(&self, name: &str) -> bool {
        self.rejected.contains_key(name) && self.held.get(name).is_none_or(|belief| belief.good.is_none())
    }

    /// Of listeners: the clusters that forms in force send to which the view has replaced, and the client has not.
    pub(super) fn in_use(&self) -> InUse {
        let mut clusters = BTreeSet::new();
        for name in self.rejected.keys().chain(self.due.keys()) {
            match self.held.get(name).map(Belief::in_use) {
                None => {}
                Some(Some(names)) => clusters.extend(names.iter().map(Arc::clone)),
                Some(None) => return InUse::Unknown,
            }
        }
        InUse::These(clusters)
    }

    /// The one place that decides what a name needs.
    fn need(&self, name: &str, cause: Cause, view: &View) -> Need {
        let resource = view.get(self.kind, name);
        if !self.subscription.covers(name) {
            return if cause == Cause::Owed && resource.is_some() { Need::Later } else { Need::Nothing };
        }
        let last = self.held.get(name).map(|belief| belief.last);
        let refused = self.rejected.get(name);
        let refused =
            refused.filter(|refused| resource.is_some_and(|r| r.version == refused.rejection.version));
        match resource {
            Some(r) if refused.is_some_and(Refused::is_due) => Need::Send(Arc::clone(r)),
            Some(_) if refused.is_some() => Need::Nothing,
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

    /// The name is to be sent, changed or not.
    pub(super) fn owe(&mut self, name: Arc<str>) {
        self.due.insert(name, Cause::Owed);
    }

    fn look_at(&mut self, name: Arc<str>) {
        self.due.entry(name).or_insert(Cause::Changed);
    }

    /// Takes a new view in place of an old one.
    pub(super) fn take_view(&mut self, before: Option<&View>, view: &View) {
        let names: Vec<Arc<str>> = match before {
            Some(before) => view.names_changed(before, self.kind),
            None => {
                let known = self.held.keys().chain(self.subscription.names()).map(Arc::clone);
                view.of(self.kind).map(|r| Arc::clone(&r.name)).chain(known).collect()
            }
        };
        for name in names {
            let current = view.get(self.kind, &name).map(|r| r.version);
            if self.rejected.get(&name).is_some_and(|refused| Some(refused.rejection.version) != current) {
                self.rejected.remove(&name);
                // What was refused once does not take others along when it is refused again.
                self.suspects.push_back(BTreeSet::from([Arc::clone(&name)]));
            }
            self.look_at(name);
        }
    }

    /// Drops names that need nothing any more, and rejections of what is no longer there.
    pub(super) fn tidy(&mut self, view: &View) {
        let kind = self.kind;
        self.rejected.retain(|name, refused| {
            view.get(kind, name).is_some_and(|r| r.version == refused.rejection.version)
        });
        let mut due = std::mem::take(&mut self.due);
        due.retain(|name, cause| !matches!(self.need(name, *cause, view), Need::Nothing));
        self.due = due;
    }

    /// Applies the subscriptions of a request and marks what they make due.
    pub(super) fn subscribe(&mut self, request: &DeltaRequest, view: Option<&View>) {
        let shift = self.subscription.apply(self.kind, &request.subscribe, &request.unsubscribe);
        // Only the first request of a type may say what was kept.
        let none = BTreeMap::new();
        let kept = if shift.first { &request.initial_versions } else { &none };
        for (name, version) in kept {
            if self.subscription.covers(name) {
                let name: Arc<str> = name.as_str().into();
                let current = view.and_then(|view| view.get(self.kind, &name));
                let belief = Belief::kept(version.parse::<Version>().ok(), current);
                self.held.insert(Arc::clone(&name), belief);
                self.look_at(name);
            }
        }
        self.give_up(&shift);
        self.greet |= shift.wildcard && kept.is_empty();
        self.greet &= self.subscription.is_wildcard();
        if shift.wildcard {
            self.look_at_everything(view);
        }
        for name in shift.still_covered {
            self.rejected.remove(&name);
            self.owe(name);
        }
        for name in shift.wanted {
            self.rejected.remove(&name);
            if kept.contains_key(&*name) { self.look_at(name) } else { self.owe(name) }
        }
    }

    fn give_up(&mut self, shift: &Shift) {
        for name in &shift.dropped {
            self.held.remove(name);
            self.due.remove(name);
            self.rejected.remove(name);
        }
        if shift.wildcard_dropped {
            // A name that only the same request asks for was given up first.
            let subscription = &self.subscription;
            let kept = |name: &Arc<str>| subscription.is_named(name) && !shift.newly_named.contains(name);
            self.held.retain(|name, _| kept(name));
            self.rejected.retain(|name, _| kept(name));
        }
    }

    fn look_at_everything(&mut self, view: Option<&View>) {
        let since = self.unanswered.back().map_or(0, |response| response.nonce + 1);
        for sent in self.unanswered.iter().flat_map(|response| &response.sent) {
            self.held.entry(Arc::clone(&sent.name)).or_insert_with(|| Belief::crossed(since));
        }
        let kind = self.kind;
        let held: Vec<Arc<str>> = self.held.keys().map(Arc::clone).collect();
        let all = view.into_iter().flat_map(|view| view.of(kind)).map(|r| Arc::clone(&r.name));
        for name in held.into_iter().chain(all) {
            self.look_at(name);
        }
    }

    fn sendable(&self, name: &Arc<str>, view: &View) -> Option<Arc<Resource>> {
        match self.need(name, *self.due.get(name)?, view) {
            Need::Send(resource) => Some(resource),
            Need::Remove | Need::Later | Need::Nothing => None,
        }
    }

    /// Resources to send now: all that are above suspicion, else one group of suspects. `waits` says which are held
    /// back for the sake of what they refer to.
    pub(super) fn additions(
        &mut self,
        view: &View,
        waits: impl Fn(&Resource) -> bool,
    ) -> Option<Vec<Arc<Resource>>> {
        if self.is_full() {
            return None;
        }
        let ready =
            |lane: &Self, name: &Arc<str>| lane.sendable(name, view).filter(|resource| !waits(resource));
        let suspect = |name: &Arc<str>| self.suspects.iter().any(|group| group.contains(name));
        let clear = self.due.keys().filter(|name| !suspect(name));
        let clear: Vec<Arc<Resource>> = clear.filter_map(|name| ready(self, name)).collect();
        if !clear.is_empty() {
            return Some(clear);
        }
        // Suspects that are held back stay in their groups.
        let mut held_back = Vec::new();
        let mut found = None;
        while let Some(mut group) = self.suspects.pop_front() {
            let now: Vec<_> = group.iter().filter_map(|name| ready(self, name)).collect();
            group.retain(|name| self.sendable(name, view).is_some_and(|resource| waits(&resource)));
            if !group.is_empty() {
                held_back.push(group);
            }
            if !now.is_empty() {
                found = Some(now);
                break;
            }
        }
        for group in held_back.into_iter().rev() {
            self.suspects.push_front(group);
        }
        found.or_else(|| self.greet.then(Vec::new))
    }

    /// Names to remove now, but for those that something still needs. A client that asks is told all the same.
    pub(super) fn removals(&self, view: &View, needed: impl Fn(&str) -> bool) -> Option<Vec<Arc<str>>> {
        if self.is_full() {
            return None;
        }
        let gone = self.due.iter().filter(|(name, cause)| {
            matches!(self.need(name, **cause, view), Need::Remove)
                && (**cause == Cause::Owed || !needed(name))
        });
        let gone: Vec<Arc<str>> = gone.map(|(name, _)| Arc::clone(name)).collect();
        (!gone.is_empty()).then_some(gone)
    }

    /// Books a response as sent.
    pub(super) fn sent(&mut self, response: &DeltaResponse) {
        self.greet = false;
        for resource in &response.resources {
            if let Some(refused) = self.rejected.get_mut(&resource.name) {
                refused.offer_made();
            }
        }
        let added = response.resources.iter().map(|r| (&r.name, Last::Sent(r.version)));
        let removed = response.removed.iter().map(|name| (name, Last::Missing));
        for (name, last) in added.chain(removed) {
            self.due.remove(name);
            let belief = self.held.entry(Arc::clone(name));
            belief.or_insert_with(|| Belief::unheard(last, response.nonce)).say(last, response.nonce);
        }
        self.unanswered.push_back(Unanswered {
            nonce: response.nonce,
            sent: response.resources.iter().map(Sent::from).collect(),
            removed: response.removed.clone(),
        });
    }

    /// Books the acknowledgement or rejection in a request, if it holds one.
    pub(super) fn answer(&mut self, request: &DeltaRequest, now: Duration) -> Option<Event> {
        if request.nonce.is_empty() {
            return None;
        }
        let nonce = request.nonce.parse::<u64>().ok();
        let event =
            |verdict, names| Event { kind: self.kind, verdict, names, message: request.error.clone() };
        let Some(position) = self.unanswered.iter().position(|u| Some(u.nonce) == nonce) else {
            return Some(event(Verdict::Stale, Vec::new()));
        };
        let mut settled: Vec<Unanswered> = self.unanswered.drain(..=position).collect();
        let last = settled.pop()?;
        let names = last.names().map(Arc::clone).collect();
        let verdict = if request.error.is_some() { Verdict::Rejected } else { Verdict::Acknowledged };
        let event = event(verdict, names);
        for earlier in &settled {
            self.accept(earlier);
        }
        match &request.error {
            None => self.accept(&last),
            Some(message) => self.reject(&last, message, now),
        }
        Some(event)
    }

    fn accept(&mut self, response: &Unanswered) {
        // Without a belief the client has given the name up since.
        for sent in &response.sent {
            if let Some(belief) = self.held.get_mut(&sent.name) {
                belief.accept(sent, response.nonce);
            }
            // What it refused before it has taken now.
            if self.rejected.get(&sent.name).is_some_and(|refused| refused.rejection.version == sent.version)
            {
                self.rejected.remove(&sent.name);
            }
        }
        for name in &response.removed {
            let Some(belief) = self.held.get_mut(name) else { continue };
            belief.accept_removal(response.nonce);
            if belief.last == Last::Missing && !self.subscription.is_named(name) {
                self.held.remove(name);
            }
        }
    }

    fn reject(&mut self, response: &Unanswered, message: &str, now: Duration) {
        if let [culprit] = &response.sent[..] {
            self.refuse(culprit, response.nonce, message, now);
            return;
        }
        let mut again = Vec::new();
        for sent in &response.sent {
            let Some(belief) = self.held.get_mut(&sent.name) else { continue };
            belief.suspect(sent.version);
            if belief.ends_with(sent.version, response.nonce) {
                belief.last = Last::Unclear;
                again.push(Arc::clone(&sent.name));
            }
        }
        let (left, right) = again.split_at(again.len() / 2);
        for half in [left, right].into_iter().filter(|half| !half.is_empty()) {
            self.suspects.push_back(half.iter().map(Arc::clone).collect());
        }
        again.into_iter().for_each(|name| self.look_at(name));
    }

    /// Books a resource that was refused by itself. If it was sent once more since, the answer to that decides.
    fn refuse(&mut self, culprit: &Sent, nonce: u64, message: &str, now: Duration) {
        let Some(belief) = self.held.get_mut(&culprit.name) else { return };
        if !belief.ends_with(culprit.version, nonce) {
            return;
        }
        match belief.after_refusal(culprit.version) {
            Some(last) => belief.last = last,
            None => {
                self.held.remove(&culprit.name);
            }
        }
        let message: String = message.chars().take(MAX_MESSAGE).collect();
        let rejection = Rejection { version: culprit.version, message: message.into() };
        let refused = Refused::at(now, rejection, self.rejected.get(&culprit.name));
        self.rejected.insert(Arc::clone(&culprit.name), refused);
    }

    /// Endpoints that the client is known to have. An assignment that is in force as the view has it stands for the
    /// objects that the view names: a reconnected client proves it by its version, and an edit of an object that
    /// changes none of the bytes is acknowledged already.
    pub(super) fn endpoints(&mut self, view: &View) -> BTreeSet<EndpointRef> {
        let under_way: BTreeSet<&Arc<str>> = self.unanswered.iter().flat_map(Unanswered::names).collect();
        for (name, belief) in self.held.iter_mut().filter(|(name, _)| !under_way.contains(name)) {
            if let Some(resource) = view.get(self.kind, name)
                && belief.is_in_force(resource.version)
            {
                belief.endpoints = Arc::clone(&resource.endpoints);
            }
        }
        self.held.values().flat_map(|belief| belief.endpoints.iter().cloned()).collect()
    }

    /// Memory that endpoints take which the view has no more, about: what a client that does not answer keeps here of
    /// views that are gone.
    pub(super) fn kept_endpoints(&self, view: Option<&View>) -> usize {
        let current = |name: &str| view.and_then(|view| view.get(self.kind, name)).map(|r| &r.endpoints);
        let unanswered = self.unanswered.iter().flat_map(|response| &response.sent);
        let unanswered = unanswered.map(|sent| (&sent.name, &sent.endpoints));
        let held = self.held.iter().map(|(name, belief)| (name, &belief.endpoints));
        let old = unanswered.chain(held).filter(|(name, endpoints)| {
            !endpoints.is_empty() && current(name).is_none_or(|current| !Arc::ptr_eq(current, endpoints))
        });
        let each: BTreeMap<_, usize> =
            old.map(|(_, list)| (Arc::as_ptr(list).cast::<u8>(), list.len())).collect();
        each.values().sum::<usize>() * size_of::<EndpointRef>()
    }
}
