//! Random clients against the incremental engine, judged by a model of the protocol that shares no code with it.
//!
//! Client and server are joined by a queue, so that requests, answers and changes of the view cross. The model knows
//! what the client really holds, and what the server may, must and must not send; when everything has been delivered
//! the client must hold exactly the view, apart from what it refuses.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use epic_xds::engine::{DeltaRequest, DeltaResponse, DeltaSession, Kind, Resource, View};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const CONTENTS: u8 = 5;
/// Contents from here on are refused by the client, unless it is tolerant.
const BAD: u8 = 3;
/// Seconds that must have passed after a first, second, … refusal before the same is offered again.
const WAITS: [u64; 7] = [5, 10, 20, 40, 80, 160, 300];

/// One step of a run.
#[derive(Clone, Debug)]
enum Step {
    /// Content of a name, or none, from now on.
    Change(usize, usize, Option<u8>),
    /// The same there and back, with a response for each.
    Flip(usize, usize, Option<u8>, Option<u8>),
    /// The client asks; bit 4 of a mask is `*`.
    Ask { kind: usize, subscribe: u8, unsubscribe: u8 },
    /// A request with a nonce that was never given.
    Garbage { kind: usize, refuse: bool },
    /// The oldest request under way reaches the server.
    Deliver,
    /// The client reads one response.
    Read,
    /// The client withholds its answers for clusters, or lets them go.
    Warm(bool),
    /// The client takes what it refuses otherwise, or not any more: a port is free for a while.
    Tolerate(bool),
    /// Seconds pass.
    Wait(u64),
    /// The stream breaks and the client comes back with what it has.
    Reconnect,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let content = prop_oneof![1 => Just(None), 5 => (0..CONTENTS).prop_map(Some)].boxed();
    let step = prop_oneof![
        6 => (0..3usize, 0..NAMES.len(), content.clone()).prop_map(|(k, n, c)| Step::Change(k, n, c)),
        2 => (0..3usize, 0..NAMES.len(), content.clone(), content).prop_map(|(k, n, c, d)| Step::Flip(k, n, c, d)),
        3 => (0..3usize, 0..32u8, 0..32u8).prop_map(|(kind, subscribe, drop)| Step::Ask {
            kind, subscribe, unsubscribe: drop & !subscribe
        }),
        1 => (0..3usize, any::<bool>()).prop_map(|(kind, refuse)| Step::Garbage { kind, refuse }),
        10 => Just(Step::Deliver),
        10 => Just(Step::Read),
        2 => any::<bool>().prop_map(Step::Warm),
        1 => any::<bool>().prop_map(Step::Tolerate),
        2 => (1..400u64).prop_map(Step::Wait),
        1 => Just(Step::Reconnect),
    ];
    proptest::collection::vec(step, 1..60)
}

/// What a client wants, by the words of the protocol: a set of names in which `*` is one.
#[derive(Clone, Debug, Default)]
struct Wants(BTreeSet<String>);

impl Wants {
    fn covers(&self, name: &str) -> bool {
        self.0.contains("*") || self.0.contains(name)
    }
}

#[derive(Debug, Default)]
struct ClientLane {
    asked: bool,
    wants: Wants,
    copy: BTreeMap<String, u8>,
}

/// Something that the client refused by itself.
#[derive(Clone, Debug)]
struct Refusal {
    version: String,
    times: usize,
    /// Not to be offered again before.
    until: Duration,
    /// Offered again, and not answered.
    offered: bool,
}

/// What the server has been told and has said.
#[derive(Debug, Default)]
struct ServerLane {
    opened: bool,
    wants: Wants,
    /// `*` must be answered, even with nothing.
    greet: bool,
    /// Names that must be answered.
    owed: BTreeSet<String>,
    /// Names that may be spoken of once more though nothing changed: their cluster was sent.
    follow: BTreeSet<String>,
    /// Last version said of a name that still stands; `None` is "missing".
    said: BTreeMap<String, Option<String>>,
    /// Last version that the client accepted.
    accepted: BTreeMap<String, String>,
    refused: BTreeMap<String, Refusal>,
    /// Versions refused together with others since: applied or not, nobody knows.
    doubtful: BTreeMap<String, BTreeSet<String>>,
    /// Last response that was sent before the client gave a name up: it drops what it took from there.
    given_up: BTreeMap<String, u64>,
    unanswered: VecDeque<DeltaResponse>,
}

struct World {
    contents: [[Option<u8>; 4]; 3],
    generation: i64,
    view: Arc<View>,
    session: DeltaSession,
    client: [ClientLane; 3],
    server: [ServerLane; 3],
    under_way: VecDeque<(usize, DeltaRequest)>,
    withheld: VecDeque<(usize, DeltaRequest)>,
    warming: bool,
    tolerant: bool,
    now: Duration,
    /// Whether the client has accepted all clusters and listeners of the present view, at some time.
    acknowledged: bool,
}

fn resource(kind: Kind, name: &str, content: u8) -> Resource {
    let resource = Resource::new(kind, name, vec![kind as u8, content]);
    if kind == Kind::Cluster { resource.needing(name) } else { resource }
}

fn make_view(contents: &[[Option<u8>; 4]; 3], generation: i64) -> Arc<View> {
    let all = Kind::MAKE.into_iter().flat_map(|kind| {
        let row = contents[kind as usize];
        NAMES.into_iter().zip(row).filter_map(move |(name, content)| Some(resource(kind, name, content?)))
    });
    Arc::new(View::new(generation, all))
}

fn names_of(mask: u8) -> Vec<String> {
    let all = NAMES.into_iter().chain(["*"]).enumerate();
    all.filter(|(bit, _)| mask & (1 << bit) != 0).map(|(_, name)| name.to_owned()).collect()
}

impl World {
    fn new() -> Self {
        let contents = [[Some(0); 4]; 3];
        let view = make_view(&contents, 1);
        let mut world = Self {
            contents,
            generation: 1,
            view: Arc::clone(&view),
            session: DeltaSession::new(),
            client: Default::default(),
            server: Default::default(),
            under_way: VecDeque::new(),
            withheld: VecDeque::new(),
            warming: false,
            tolerant: false,
            now: Duration::ZERO,
            acknowledged: false,
        };
        world.session.set_view(view);
        world
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Change(kind, name, content) => self.change(kind, name, content),
            Step::Flip(kind, name, there, back) => {
                for content in [there, back, there] {
                    self.change(kind, name, content);
                    self.read();
                }
            }
            Step::Ask { kind, subscribe, unsubscribe } => {
                self.ask(kind, names_of(subscribe), names_of(unsubscribe))
            }
            Step::Garbage { kind, refuse } => {
                if self.client[kind].asked {
                    let mut request = self.request(kind);
                    request.nonce = "424242".into();
                    request.error = refuse.then(|| "garbage".into());
                    self.under_way.push_back((kind, request));
                }
            }
            Step::Deliver => self.deliver(),
            Step::Read => {
                self.read();
            }
            Step::Warm(warming) => {
                self.warming = warming;
                if !warming {
                    self.under_way.append(&mut self.withheld);
                }
            }
            Step::Tolerate(tolerant) => self.tolerant = tolerant,
            Step::Wait(seconds) => self.wait(seconds),
            Step::Reconnect => self.reconnect(),
        }
    }

    fn request(&self, kind: usize) -> DeltaRequest {
        DeltaRequest { type_url: Kind::MAKE[kind].type_url().into(), ..DeltaRequest::default() }
    }

    fn change(&mut self, kind: usize, name: usize, content: Option<u8>) {
        if self.contents[kind][name] != content {
            self.contents[kind][name] = content;
            self.server[kind].refused.remove(NAMES[name]);
        }
        self.generation += 1;
        self.view = make_view(&self.contents, self.generation);
        self.session.set_view(Arc::clone(&self.view));
        self.acknowledged = self.accepts_all();
    }

    /// Whether the client has accepted all that it wants of the view's clusters and listeners.
    fn accepts_all(&self) -> bool {
        [Kind::Cluster, Kind::Listener].into_iter().all(|kind| {
            let lane = &self.server[kind as usize];
            let wanted = NAMES.into_iter().filter(|name| lane.wants.covers(name));
            let mut wanted = wanted.filter_map(|name| self.view.get(kind, name));
            lane.opened
                && wanted.all(|resource| {
                    lane.accepted
                        .get(&*resource.name)
                        .is_some_and(|held| *held == resource.version.to_string())
                })
        })
    }

    fn ask(&mut self, kind: usize, subscribe: Vec<String>, unsubscribe: Vec<String>) {
        let lane = &mut self.client[kind];
        if !lane.asked && subscribe.is_empty() && kind != Kind::Assignment as usize {
            lane.wants.0.insert("*".into());
        }
        lane.asked = true;
        for name in &unsubscribe {
            lane.wants.0.remove(name);
        }
        // What is given up is dropped, even if the same request asks for everything.
        let wants = lane.wants.clone();
        lane.copy.retain(|name, _| wants.covers(name));
        lane.wants.0.extend(subscribe.iter().cloned());
        let request = DeltaRequest { subscribe, unsubscribe, ..self.request(kind) };
        self.under_way.push_back((kind, request));
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.session.advance(self.now);
    }

    fn deliver(&mut self) {
        let Some((kind, request)) = self.under_way.pop_front() else { return };
        let lane = &mut self.server[kind];
        if let Ok(nonce) = request.nonce.parse::<u64>()
            && let Some(position) = lane.unanswered.iter().position(|r| r.nonce == nonce)
        {
            let settled: Vec<DeltaResponse> = lane.unanswered.drain(..=position).collect();
            let (last, earlier) = settled.split_last().unwrap();
            earlier.iter().for_each(|response| lane.accept(response));
            if request.error.is_some() { lane.refuse(last, &self.view, self.now) } else { lane.accept(last) }
        }
        lane.subscribe(kind, &request);
        self.session.request(&request).unwrap();
        self.acknowledged |= self.accepts_all();
    }

    /// The client reads one response; the model judges it before the client does.
    fn read(&mut self) -> bool {
        let Some(response) = self.session.next_response() else { return false };
        let kind = response.kind as usize;
        self.judge(&response);
        let lane = &mut self.client[kind];
        let contents: Vec<(&str, u8)> = response.resources.iter().map(|r| (&*r.name, r.body[1])).collect();
        let refused = |content: u8| content >= BAD && !self.tolerant;
        let bad = contents.iter().any(|(_, content)| refused(*content));
        for (name, content) in contents {
            // Of refused listeners the good ones are applied, of refused clusters and assignments none.
            let applied = !refused(content) && (!bad || response.kind == Kind::Listener);
            if applied && lane.wants.covers(name) {
                lane.copy.insert(name.to_owned(), content);
            }
        }
        for name in &response.removed {
            lane.copy.remove(&**name);
        }
        let answer = DeltaRequest {
            nonce: response.nonce.to_string(),
            error: bad.then(|| "bad content".to_owned()),
            ..self.request(kind)
        };
        let withhold = self.warming && response.kind == Kind::Cluster;
        if withhold { &mut self.withheld } else { &mut self.under_way }.push_back((kind, answer));
        true
    }

    /// What a response may hold.
    fn judge(&mut self, response: &DeltaResponse) {
        let mut names = BTreeSet::new();
        for name in response.resources.iter().map(|r| &r.name).chain(&response.removed) {
            assert!(names.insert(Arc::clone(name)), "{name} twice in {response:?}");
        }
        let lane = &mut self.server[response.kind as usize];
        assert!(lane.greet || !names.is_empty(), "an empty response");
        lane.greet = false;
        for resource in &response.resources {
            let name = &*resource.name;
            assert_eq!(self.view.get(response.kind, name), Some(resource), "not what the view holds");
            assert!(lane.wants.covers(name), "{name} was not asked for");
            let version = resource.version.to_string();
            let refusal = lane.refused.get_mut(name).filter(|refusal| refusal.version == version);
            assert_eq!(response.again, refusal.is_some(), "{name} is called refused before, or is not");
            if let Some(refusal) = refusal {
                assert_eq!(response.resources.len(), 1, "{name} was refused and is sent with others");
                assert!(self.now >= refusal.until, "{name} was refused and is offered again too early");
                assert!(!std::mem::replace(&mut refusal.offered, true), "{name} is offered twice");
            }
            let unchanged = lane.said.get(name) == Some(&Some(version.clone()));
            let cause = lane.owed.remove(name) | lane.follow.remove(name) | response.again;
            assert!(!unchanged || cause, "{name} was sent again without cause");
            lane.said.insert(name.to_owned(), Some(version));
        }
        for name in &response.removed {
            assert!(self.view.get(response.kind, name).is_none(), "{name} is there");
            assert!(lane.wants.covers(name), "{name} was not asked for");
            let told = lane.said.get(&**name) == Some(&None);
            let cause = lane.owed.remove(&**name) | lane.follow.remove(&**name);
            assert!(cause || !told, "{name} was told to be missing before");
            lane.said.insert(name.to_string(), None);
        }
        lane.unanswered.push_back(response.clone());
        if response.kind == Kind::Cluster {
            let assignments = &mut self.server[Kind::Assignment as usize];
            assignments.follow.extend(response.resources.iter().map(|r| r.name.to_string()));
        }
    }

    fn reconnect(&mut self) {
        self.under_way.clear();
        self.withheld.clear();
        self.session = DeltaSession::new();
        self.session.advance(self.now);
        self.session.set_view(Arc::clone(&self.view));
        self.server = Default::default();
        self.acknowledged = false;
        for kind in Kind::MAKE {
            let lane = &mut self.client[kind as usize];
            if !lane.asked {
                continue;
            }
            // What a client says first: its names if there are any, and nothing if it wants all.
            let names: Vec<String> = lane.wants.0.iter().filter(|n| *n != "*").cloned().collect();
            let everything = lane.wants.0.contains("*");
            if names.is_empty() && !everything {
                lane.asked = false;
                lane.copy.clear();
                continue;
            }
            let subscribe = match (everything, names.is_empty()) {
                (true, true) if kind != Kind::Assignment => Vec::new(),
                (true, _) => names.into_iter().chain(["*".to_owned()]).collect(),
                (false, _) => names,
            };
            let versions = lane
                .copy
                .iter()
                .map(|(name, content)| (name.clone(), resource(kind, name, *content).version.to_string()));
            let initial_versions = versions.collect();
            let request = DeltaRequest { subscribe, initial_versions, ..self.request(kind as usize) };
            self.under_way.push_back((kind as usize, request));
        }
    }

    /// Lets everything arrive, then compares; and once more when what made the client refuse things has passed.
    fn settle(&mut self) {
        self.warming = false;
        self.deliver_everything();
        self.check_rest();
        self.tolerant = true;
        self.wait(*WAITS.last().unwrap());
        self.deliver_everything();
        self.check_rest();
        assert!(self.session.progress().rejections.is_empty(), "refused for ever");
    }

    fn deliver_everything(&mut self) {
        let mut responses = 0;
        loop {
            self.under_way.append(&mut self.withheld);
            let mut phase = 0;
            while !self.under_way.is_empty() {
                self.deliver();
            }
            let before: [BTreeSet<String>; 3] = std::array::from_fn(|_| BTreeSet::new());
            let mut flushed = before;
            while let Some(kind) = self.peek_read() {
                responses += 1;
                assert!(kind.0 >= phase, "out of order");
                phase = kind.0;
                flushed[kind.1].extend(kind.2);
            }
            self.check_flush(&flushed);
            if self.under_way.is_empty() && self.withheld.is_empty() {
                break;
            }
            assert!(responses < 500, "does not come to rest");
        }
    }

    /// Reads one response; its place in the order, type and names.
    fn peek_read(&mut self) -> Option<(usize, usize, Vec<String>)> {
        let sent = |world: &World, kind: usize| world.server[kind].unanswered.len();
        let before: [usize; 3] = std::array::from_fn(|kind| sent(self, kind));
        if !self.read() {
            return None;
        }
        let kind = (0..3).find(|kind| sent(self, *kind) > before[*kind]).unwrap();
        let response = self.server[kind].unanswered.back().unwrap();
        let place = if response.removed.is_empty() { kind } else { [4, 5, 3][kind] };
        let names = response.resources.iter().map(|r| r.name.to_string()).collect();
        Some((place, kind, names))
    }

    /// Whatever cluster was sent, its assignment came in the same flush, if the client could take it.
    fn check_flush(&self, flushed: &[BTreeSet<String>; 3]) {
        let lane = &self.server[Kind::Assignment as usize];
        for name in &flushed[Kind::Cluster as usize] {
            let wanted = lane.wants.covers(name) && !lane.refused.contains_key(name);
            if wanted && self.view.get(Kind::Assignment, name).is_some() {
                assert!(
                    flushed[Kind::Assignment as usize].contains(name),
                    "no assignment behind cluster {name}"
                );
            }
        }
    }

    fn check_rest(&self) {
        let rejections = &self.session.progress().rejections;
        // A listener that the client refuses may leave it with a form that sends to clusters of before.
        let clings = rejections.keys().any(|(kind, _)| *kind == Kind::Listener);
        for kind in Kind::MAKE {
            let (client, server) = (&self.client[kind as usize], &self.server[kind as usize]);
            assert!(!server.greet, "{kind}: nothing was never said");
            assert!(server.owed.is_empty(), "{kind}: never answered: {:?}", server.owed);
            for (name, content) in NAMES.into_iter().zip(self.contents[kind as usize]) {
                let reported = rejections.contains_key(&(kind, Arc::from(name)));
                let refused = content.is_some_and(|content| content >= BAD);
                assert!(!reported || client.wants.covers(name) && refused, "{kind} {name} is reported");
                let held = client.copy.get(name).copied();
                if !client.wants.covers(name) || held == content {
                    continue;
                }
                assert!(!refused || reported, "{kind} {name} is not reported");
                let stays = content.is_none() && kind != Kind::Listener && clings;
                assert!(refused || stays, "{kind} {name}: {held:?} is held, not {content:?}");
            }
        }
        let all_asked =
            [Kind::Cluster, Kind::Listener].iter().all(|k| self.client[*k as usize].wants.0.contains("*"));
        let refused = rejections.keys().any(|(kind, _)| *kind != Kind::Assignment);
        let configured = self.session.progress().configured == Some(self.view.revision());
        if refused {
            // One that asks again for what it has may refuse it then.
            assert!(!configured || self.acknowledged, "counts as configured though something is refused");
        } else if all_asked {
            assert!(configured, "does not count as configured");
        }
    }
}

impl ServerLane {
    fn accept(&mut self, response: &DeltaResponse) {
        for resource in &response.resources {
            if self.refused.get(&*resource.name).is_some_and(|r| r.version == resource.version.to_string()) {
                self.refused.remove(&*resource.name);
            }
            let forgotten = self.given_up.get(&*resource.name).is_some_and(|last| response.nonce <= *last);
            if self.wants.covers(&resource.name) && !forgotten {
                self.accepted.insert(resource.name.to_string(), resource.version.to_string());
                self.doubtful.remove(&*resource.name);
            }
        }
        // The client has nothing of it left that a later refusal could fall back to.
        for name in &response.removed {
            self.accepted.remove(&**name);
            self.doubtful.remove(&**name);
        }
    }

    fn refuse(&mut self, response: &DeltaResponse, view: &View, now: Duration) {
        for resource in &response.resources {
            let (name, version) = (resource.name.to_string(), resource.version.to_string());
            let alone = response.resources.len() == 1;
            if !alone {
                self.doubtful.entry(name.clone()).or_default().insert(version.clone());
            }
            let later = |r: &DeltaResponse| {
                r.resources.iter().any(|r| *r.name == name) || r.removed.iter().any(|n| **n == name)
            };
            if self.said.get(&name) != Some(&Some(version.clone())) || self.unanswered.iter().any(later) {
                continue;
            }
            if alone {
                // Refused alone, it was not applied when it was refused together with others either.
                let doubtful = self.doubtful.get(&name).into_iter().flatten().any(|other| *other != version);
                match self.accepted.get(&name) {
                    Some(good) if !doubtful => self.said.insert(name.clone(), Some(good.clone())),
                    _ => self.said.remove(&name),
                };
                // A client that asked again before it read this has its answer, if that is still what there is.
                if view.get(response.kind, &name) == Some(resource) {
                    self.owed.remove(&name);
                }
                let before = self.refused.get(&name).filter(|refusal| refusal.version == version);
                let times = before.map_or(0, |refusal| refusal.times) + 1;
                let until = now + Duration::from_secs(WAITS[times.min(WAITS.len()) - 1]);
                self.refused.insert(name, Refusal { version, times, until, offered: false });
            } else {
                self.said.remove(&name);
            }
        }
    }

    fn subscribe(&mut self, kind: usize, request: &DeltaRequest) {
        let first = !std::mem::replace(&mut self.opened, true);
        if first && request.subscribe.is_empty() && kind != Kind::Assignment as usize {
            self.wants.0.insert("*".into());
        }
        let mut given_up = Vec::new();
        for name in &request.unsubscribe {
            if self.wants.0.remove(name) {
                given_up.push(name.clone());
            }
        }
        for name in given_up {
            if name != "*" && self.wants.0.contains("*") {
                self.refused.remove(&name);
                self.owed.insert(name);
            }
        }
        self.greet |= first && self.wants.0.contains("*") && request.initial_versions.is_empty();
        self.drop_uncovered();
        for name in &request.subscribe {
            self.wants.0.insert(name.clone());
            self.greet |= name == "*" && (!first || request.initial_versions.is_empty());
            let kept = first && request.initial_versions.contains_key(name);
            if name != "*" {
                self.refused.remove(name);
                if !kept {
                    self.owed.insert(name.clone());
                }
            }
        }
        self.greet &= self.wants.0.contains("*");
        if first {
            for (name, version) in &request.initial_versions {
                self.said.insert(name.clone(), Some(version.clone()));
                self.accepted.insert(name.clone(), version.clone());
            }
        }
    }

    /// What is given up is forgotten: asked for again, it is sent again.
    fn drop_uncovered(&mut self) {
        let wants = self.wants.clone();
        if let Some(last) = self.unanswered.back() {
            let given_up = NAMES.into_iter().filter(|name| !wants.covers(name));
            self.given_up.extend(given_up.map(|name| (name.to_owned(), last.nonce)));
        }
        self.owed.retain(|name| wants.covers(name));
        self.said.retain(|name, _| wants.covers(name));
        self.accepted.retain(|name, _| wants.covers(name));
        self.doubtful.retain(|name, _| wants.covers(name));
        self.refused.retain(|name, _| wants.covers(name));
    }
}

fn cases() -> u32 {
    std::env::var("EPIC_PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000)
}

/// The same walks every time, so that a failure can be looked at again; another number gives others.
fn seed() -> RngSeed {
    RngSeed::Fixed(std::env::var("EPIC_PROPTEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(), rng_seed: seed(), failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_crosses_on_the_way_the_client_ends_with_the_view(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
        }
        world.settle();
    }
}
