//! Whether an EPIC node stays in service: the verdict on nodes that fail without Kubernetes noticing.
//!
//! A node may be Ready for Kubernetes and for its own last word, and yet carry nothing: its routes are gone, or UDP to
//! its clients is filtered. It goes on answering for addresses, and what comes to it is lost. Nobody sees that alone, so
//! two witnesses that fail independently must agree before a node is taken out: its agent (Lease) and the xDS streams of
//! its proxies; or the node itself, which hears none of its clients, and another node, which hears the same ones.
//!
//! Invariants: the last node that serves is never taken out. One witness alone moves nothing, so a crashed agent, an
//! operator that restarts and a client that is off cost no node. Time is what this process saw pass, in steps that are
//! bounded: neither a clock that jumps nor a process that was suspended makes anything look silent.
//!
//! Pure. The caller observes, calls [`Judge::tick`] at a steady pace, and writes the verdicts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::NodeName;

/// The most that one step of time counts.
pub const LONGEST_STEP: Duration = Duration::from_secs(5);
/// How long both witnesses against a node must agree.
pub const OUT_AFTER: Duration = Duration::from_secs(6);
/// How long nothing must speak against a node before it is back.
pub const BACK_AFTER: Duration = Duration::from_secs(20);

/// For how long something has held without a break, as far as was observed.
#[derive(Clone, Debug)]
pub struct Spans<K>(BTreeMap<K, Duration>);

impl<K> Default for Spans<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Spans<K> {
    /// One step: what holds now, after `elapsed`. What holds no more begins at zero the next time.
    pub fn tick(&mut self, elapsed: Duration, holding: impl IntoIterator<Item = K>) {
        let elapsed = elapsed.min(LONGEST_STEP);
        let held = |known: Option<&Duration>| known.map_or(Duration::ZERO, |known| *known + elapsed);
        let holding = holding.into_iter();
        self.0 = holding
            .map(|key| {
                let held = held(self.0.get(&key));
                (key, held)
            })
            .collect();
    }

    /// How long this has held; zero when it does not.
    pub fn held(&self, key: &K) -> Duration {
        self.0.get(key).copied().unwrap_or_default()
    }

    /// What has held for at least this long.
    pub fn at_least(&self, limit: Duration) -> impl Iterator<Item = &K> {
        self.0.iter().filter(move |(_, held)| **held >= limit).map(|(key, _)| key)
    }
}

/// Whether something that renews itself does so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Not watched for long enough to say.
    Unseen,
    /// It was renewed before our eyes.
    Alive,
    /// It was not renewed for as long as the limit.
    Silent,
}

#[derive(Clone, Debug)]
struct Renewal {
    version: String,
    age: Duration,
    renewed: bool,
}

/// When Leases were seen to be renewed, by the observer's own time: what the renewer's clock says does not count.
#[derive(Clone, Debug, Default)]
pub struct Renewals(BTreeMap<String, Renewal>);

impl Renewals {
    /// One step: what is there now, each with what changes when it is renewed.
    pub fn observe(&mut self, elapsed: Duration, seen: impl IntoIterator<Item = (String, String)>) {
        let elapsed = elapsed.min(LONGEST_STEP);
        let mut before = std::mem::take(&mut self.0);
        for (name, version) in seen {
            let renewal = match before.remove(&name) {
                None => Renewal { version, age: Duration::ZERO, renewed: false },
                Some(known) if known.version == version => Renewal { age: known.age + elapsed, ..known },
                Some(_) => Renewal { version, age: Duration::ZERO, renewed: true },
            };
            self.0.insert(name, renewal);
        }
    }

    /// Whether the one of this name is renewed at least once a `limit`; one that is not there is [`Liveness::Unseen`].
    pub fn liveness(&self, name: &str, limit: Duration) -> Liveness {
        match self.0.get(name) {
            Some(known) if known.age > limit => Liveness::Silent,
            Some(known) if known.renewed => Liveness::Alive,
            Some(_) | None => Liveness::Unseen,
        }
    }
}

/// What is known of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The node.
    pub node: NodeName,
    /// Whether its Node is Ready and its EPICNode was last Ready.
    pub eligible: bool,
    /// Its agent, by its Lease.
    pub agent: Liveness,
    /// Proxies on it that take new flows.
    pub proxies: usize,
    /// Those of them that are connected to an operator replica, or were until just now.
    pub connected: usize,
    /// Tunnels by which it hears a client.
    pub heard: usize,
    /// Tunnels by which it hears none, while another node hears the same client of the same LoadBalancer.
    pub missed: usize,
}

/// What speaks against a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// Its agent is silent, and none of its proxies is connected.
    Silent,
    /// It hears none of its clients, and another node hears them.
    Deaf,
}

/// What the witnesses say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evidence {
    /// The agent lives and nothing speaks against the node.
    For,
    /// Two witnesses agree.
    Against(Why),
    /// Too little is known, or one witness is alone.
    Nothing,
}

impl Facts {
    fn evidence(&self) -> Evidence {
        match self.agent {
            Liveness::Silent if self.proxies > 0 && self.connected == 0 => Evidence::Against(Why::Silent),
            Liveness::Alive if self.heard == 0 && self.missed > 0 => Evidence::Against(Why::Deaf),
            Liveness::Alive => Evidence::For,
            Liveness::Silent | Liveness::Unseen => Evidence::Nothing,
        }
    }

    /// Whether it can take over from others.
    fn serves(&self) -> bool {
        self.eligible && self.evidence() == Evidence::For
    }
}

/// The verdict on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It owns addresses, and its proxies take new flows.
    In,
    /// So it does, although this speaks against it: no other node serves.
    Kept(Why),
    /// Other nodes do.
    Out(Why),
}

/// The verdicts on all nodes, and for how long their reasons have held.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    against: Spans<NodeName>,
    favoured: Spans<NodeName>,
}

impl Judge {
    /// One step. `out` are the nodes that are out of service now, as their conditions say, with why: the memory of a
    /// judge that begins anew.
    pub fn tick(
        &mut self,
        elapsed: Duration,
        facts: &[Facts],
        out: &BTreeMap<NodeName, Why>,
    ) -> BTreeMap<NodeName, Verdict> {
        let of = |wanted: fn(Evidence) -> bool| {
            facts.iter().filter(move |facts| wanted(facts.evidence())).map(|facts| facts.node.clone())
        };
        self.against.tick(elapsed, of(|evidence| matches!(evidence, Evidence::Against(_))));
        self.favoured.tick(elapsed, of(|evidence| evidence == Evidence::For));
        let mut suspected: BTreeMap<&NodeName, Why> = BTreeMap::new();
        for facts in facts {
            let node = &facts.node;
            let why = match (facts.evidence(), out.get(node)) {
                // It may have changed: an agent that is back may be deaf.
                (Evidence::Against(why), Some(_)) => Some(why),
                (Evidence::Against(why), None) => (self.against.held(node) >= OUT_AFTER).then_some(why),
                (Evidence::For, Some(_)) if self.favoured.held(node) >= BACK_AFTER => None,
                (_, before) => before.copied(),
            };
            if let Some(why) = why {
                suspected.insert(node, why);
            }
        }
        let serving: BTreeSet<&NodeName> = facts
            .iter()
            .filter(|facts| facts.serves() && !suspected.contains_key(&facts.node))
            .map(|facts| &facts.node)
            .collect();
        let verdict = |node: &NodeName| match suspected.get(node) {
            None => Verdict::In,
            Some(why) if serving.is_empty() => Verdict::Kept(*why),
            Some(why) => Verdict::Out(*why),
        };
        facts.iter().map(|facts| (facts.node.clone(), verdict(&facts.node))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STEP: Duration = Duration::from_secs(2);

    fn healthy(node: &str) -> Facts {
        Facts {
            node: node.into(),
            eligible: true,
            agent: Liveness::Alive,
            proxies: 2,
            connected: 2,
            heard: 3,
            missed: 0,
        }
    }

    fn silent(node: &str) -> Facts {
        Facts { agent: Liveness::Silent, connected: 0, ..healthy(node) }
    }

    fn deaf(node: &str) -> Facts {
        Facts { heard: 0, missed: 3, ..healthy(node) }
    }

    /// A judge and what it has written.
    #[derive(Default)]
    struct Court {
        judge: Judge,
        out: BTreeMap<NodeName, Why>,
    }

    impl Court {
        fn tick(&mut self, elapsed: Duration, facts: &[Facts]) -> BTreeMap<NodeName, Verdict> {
            let verdicts = self.judge.tick(elapsed, facts, &self.out);
            self.out = verdicts
                .iter()
                .filter_map(|(node, verdict)| match verdict {
                    Verdict::Out(why) => Some((node.clone(), *why)),
                    Verdict::In | Verdict::Kept(_) => None,
                })
                .collect();
            verdicts
        }

        /// Steps until the verdict on `node` is this one; how long it took.
        fn until(&mut self, facts: &[Facts], node: &str, wanted: Verdict) -> Option<Duration> {
            (0..60_u32).find(|_| self.tick(STEP, facts)[&NodeName::from(node)] == wanted).map(|n| STEP * n)
        }
    }

    #[test]
    fn two_witnesses_take_a_node_out_and_it_comes_back_by_itself() {
        for (ill, why) in [(silent("a"), Why::Silent), (deaf("a"), Why::Deaf)] {
            let mut court = Court::default();
            let took = court.until(&[ill, healthy("b")], "a", Verdict::Out(why)).unwrap();
            assert!(took >= OUT_AFTER && took <= OUT_AFTER + STEP, "{why:?} after {took:?}");
            let took = court.until(&[healthy("a"), healthy("b")], "a", Verdict::In).unwrap();
            assert!(took >= BACK_AFTER && took <= BACK_AFTER + STEP, "back after {took:?}");
        }
    }

    #[test]
    fn the_last_node_that_serves_stays_and_the_other_one_goes_when_it_is_back() {
        let mut court = Court::default();
        let both = [silent("a"), silent("b")];
        assert!(court.until(&both, "a", Verdict::Kept(Why::Silent)).is_some());
        assert!(court.until(&both, "b", Verdict::Kept(Why::Silent)).is_some());
        assert!(court.until(&[silent("a"), healthy("b")], "a", Verdict::Out(Why::Silent)).is_some());
        let unready = Facts { eligible: false, ..healthy("b") };
        let verdicts = court.tick(STEP, &[silent("a"), unready]);
        assert_eq!(verdicts[&NodeName::from("a")], Verdict::Kept(Why::Silent), "nobody else is left");
    }

    #[test]
    fn what_stands_in_the_condition_outlasts_a_judge_that_knows_nothing_yet() {
        let unseen = |node: &str| Facts { agent: Liveness::Unseen, ..silent(node) };
        let mut court = Court { out: [("a".into(), Why::Deaf)].into(), ..Court::default() };
        let verdicts = court.tick(STEP, &[unseen("a"), healthy("b")]);
        assert_eq!(verdicts[&NodeName::from("a")], Verdict::Out(Why::Deaf));
        assert_eq!(verdicts[&NodeName::from("b")], Verdict::In);
    }

    #[test]
    fn a_renewal_is_what_changes_before_our_eyes_whatever_its_clock_says() {
        let limit = Duration::from_secs(40);
        let mut renewals = Renewals::default();
        let mut see = |version: &str, elapsed: Duration| {
            renewals.observe(elapsed, [("n".to_owned(), version.to_owned())]);
            renewals.liveness("n", limit)
        };
        assert_eq!(see("3020-01-01", STEP), Liveness::Unseen, "it may be as old as it likes");
        assert_eq!(see("1970-01-01", STEP), Liveness::Alive);
        assert_eq!(see("1970-01-01", Duration::from_secs(86_400)), Liveness::Alive, "we were suspended");
        for _ in 0..18 {
            see("1970-01-01", STEP);
        }
        assert_eq!(see("1970-01-01", STEP), Liveness::Silent);
        assert_eq!(see("1970-01-02", STEP), Liveness::Alive);
        renewals.observe(STEP, []);
        assert_eq!(renewals.liveness("n", limit), Liveness::Unseen, "deleted");
    }

    #[test]
    fn a_span_begins_at_zero_after_a_break() {
        let mut spans = Spans::default();
        for holding in [vec!["a"], vec!["a", "b"], vec!["a"], vec!["a", "b"]] {
            spans.tick(STEP, holding);
        }
        assert_eq!(
            (spans.held(&"a"), spans.held(&"b"), spans.held(&"c")),
            (STEP * 3, Duration::ZERO, Duration::ZERO)
        );
        assert_eq!(spans.at_least(STEP).collect::<Vec<_>>(), [&"a"]);
    }

    fn liveness() -> impl Strategy<Value = Liveness> {
        prop_oneof![Just(Liveness::Unseen), Just(Liveness::Alive), Just(Liveness::Silent)]
    }

    prop_compose! {
        fn facts(node: usize)(
            eligible in any::<bool>(), agent in liveness(), proxies in 0..3_usize, of in 0..3_usize,
            heard in 0..2_usize, missed in 0..2_usize,
        ) -> Facts {
            let node = NodeName::new(format!("n{node}"));
            Facts { node, eligible, agent, proxies, connected: of.min(proxies), heard, missed }
        }
    }

    fn world() -> impl Strategy<Value = Vec<Facts>> {
        (facts(0), facts(1), facts(2)).prop_map(|(a, b, c)| vec![a, b, c])
    }

    /// Worlds that last for some steps each.
    fn history() -> impl Strategy<Value = Vec<(Vec<Facts>, usize)>> {
        proptest::collection::vec((world(), 1..16_usize), 1..12)
    }

    proptest! {
        #[test]
        fn whoever_is_out_another_one_serves(history in history()) {
            let mut court = Court::default();
            for (world, steps) in history {
                for _ in 0..steps {
                    let verdicts = court.tick(STEP, &world);
                    let serves = world.iter().any(|facts| facts.serves() && verdicts[&facts.node] == Verdict::In);
                    let out = verdicts.values().any(|verdict| matches!(verdict, Verdict::Out(_)));
                    prop_assert!(serves || !out, "{verdicts:?} of {world:?}");
                }
            }
        }

        #[test]
        fn one_witness_alone_moves_nothing(history in history()) {
            let mut court = Court::default();
            for (mut world, steps) in history {
                for facts in &mut world {
                    if facts.agent == Liveness::Silent && facts.connected == 0 {
                        facts.proxies = facts.proxies.max(1);
                        facts.connected = 1;
                    }
                    if facts.heard == 0 {
                        facts.missed = 0;
                    }
                }
                for _ in 0..steps {
                    let verdicts = court.tick(STEP, &world);
                    prop_assert!(verdicts.values().all(|verdict| *verdict == Verdict::In), "{verdicts:?}");
                }
            }
        }

        #[test]
        fn a_leap_in_time_moves_nothing(world in world(), leap in 5..1_000_000_u64) {
            let mut court = Court::default();
            for elapsed in [Duration::ZERO, Duration::from_secs(leap)] {
                let verdicts = court.tick(elapsed, &world);
                prop_assert!(verdicts.values().all(|verdict| *verdict == Verdict::In), "{verdicts:?}");
            }
        }

        #[test]
        fn a_judge_that_has_just_started_moves_nothing(world in world(), out in proptest::bool::ANY) {
            let known: BTreeMap<NodeName, Why> =
                if out { [(NodeName::new("n0"), Why::Silent)].into() } else { BTreeMap::new() };
            let mut court = Court { out: known.clone(), ..Court::default() };
            let unseen: Vec<Facts> =
                world.into_iter().map(|facts| Facts { agent: Liveness::Unseen, ..facts }).collect();
            for _ in 0..30 {
                let verdicts = court.judge.tick(STEP, &unseen, &known);
                for (node, verdict) in verdicts {
                    let kept = matches!(verdict, Verdict::Kept(_)) && known.contains_key(&node);
                    prop_assert!(kept || verdict == Verdict::In, "{node}: {verdict:?}");
                }
            }
        }
    }
}
