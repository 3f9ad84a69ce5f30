//! What is observed, on Leases as values.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use epic_crds::condition::IN_SERVICE;
use epic_crds::{ConditionStatus, EPICNode, EPICNodeReason as Reason, HasConditions};
use epic_model::id::NodeName;
use epic_model::in_service::{Facts, Liveness, Verdict, Why};
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::json;

use super::{Observer, Seen, TICK, changed};
use crate::situations;

/// A world in which Leases are renewed or not.
#[derive(Default)]
struct World {
    observer: Observer,
    seconds: i64,
    /// When each Lease was renewed last, and the proxies it names.
    leases: BTreeMap<String, (i64, &'static str)>,
    proxies: BTreeMap<u32, NodeName>,
    out: BTreeMap<NodeName, Why>,
    /// Whether the other replica, on `n2`, reaches nobody.
    isolated: bool,
}

const OWN: &str = "epic-streams-op-1";
const OTHER: &str = "epic-streams-op-2";

impl World {
    /// Two replicas and two nodes, each with a proxy.
    fn new() -> Self {
        let proxies = [(1, "n1".into()), (2, "n2".into())].into();
        let names = [(OWN, "1"), (OTHER, "2"), ("epic-node-n1", ""), ("epic-node-n2", "")];
        let leases = names.map(|(name, ids)| (name.to_owned(), (0, ids))).into();
        let mut world = Self { proxies, leases, ..Self::default() };
        // Seen once, and renewed before our eyes.
        world.pass(Duration::from_secs(30), &[]);
        world
    }

    /// Two seconds, in which all Leases but those of `silent` are renewed when ten are over.
    fn step(&mut self, silent: &[&str]) -> Option<Seen> {
        self.seconds += 2;
        for (name, (renewed, _)) in &mut self.leases {
            if self.seconds - *renewed >= 10 && !silent.contains(&name.as_str()) {
                *renewed = self.seconds;
            }
        }
        self.look(TICK)
    }

    fn look(&mut self, elapsed: Duration) -> Option<Seen> {
        let lease = |(name, (renewed, ids)): (&String, &(i64, &str))| -> Arc<Lease> {
            let renewed = k8s_openapi::jiff::Timestamp::from_second(1_767_225_600 + renewed).unwrap();
            let labels = if name.starts_with("epic-streams") {
                json!({"epic.acnodal.io/streams": ""})
            } else {
                json!({})
            };
            let lease = json!({
                "metadata": {"name": name, "labels": labels, "annotations": {
                    "epic.acnodal.io/streams": ids,
                    "epic.acnodal.io/node": if name == OWN { "n1" } else { "n2" },
                    "epic.acnodal.io/isolated": (name == OTHER && self.isolated).to_string(),
                }},
                "spec": {"renewTime": format!("{renewed:.6}")},
            });
            Arc::new(serde_json::from_value(lease).unwrap())
        };
        let leases: Vec<Arc<Lease>> = self.leases.iter().map(lease).collect();
        let proxies = self.proxies.clone();
        let facts = |gone: &BTreeSet<u32>, liveness: &dyn Fn(&str) -> Liveness| {
            let of = |(id, node): (&u32, &NodeName)| Facts {
                node: node.clone(),
                eligible: true,
                agent: liveness(node.as_str()),
                proxies: 1,
                connected: usize::from(!gone.contains(id)),
                heard: 1,
                missed: 0,
            };
            proxies.iter().map(of).collect()
        };
        self.observer.observe(&leases, OWN, elapsed, &proxies, facts, &self.out)
    }

    /// Steps for a while; what was seen last.
    fn pass(&mut self, time: Duration, silent: &[&str]) -> Option<Seen> {
        let mut seen = None;
        for _ in 0..time.as_secs() / 2 {
            seen = self.step(silent);
        }
        seen
    }

    /// Seconds until `is` holds.
    fn until(&mut self, silent: &[&str], is: impl Fn(&Seen) -> bool) -> Option<u64> {
        (1..=90_u64).find(|_| self.step(silent).is_some_and(|seen| is(&seen))).map(|steps| steps * 2)
    }
}

#[test]
fn a_proxy_that_nobody_hears_is_named_within_ninety_seconds_of_its_last_word() {
    let mut world = World::new();
    // Its stream is dead for fifteen seconds until the server notices, and the Lease says so ten seconds later.
    world.pass(Duration::from_secs(26), &[]);
    world.leases.insert(OTHER.to_owned(), (world.seconds, ""));
    let took = world.until(&[], |seen| seen.heard.stale == [2].into()).unwrap();
    assert!(26 + took <= 90, "{took}");
    world.leases.insert(OWN.to_owned(), (world.seconds, "1-2"));
    assert!(world.step(&[]).unwrap().heard.stale.is_empty(), "and no more when it is back");
}

#[test]
fn a_proxy_that_goes_from_one_replica_to_another_has_half_a_minute_for_it() {
    let mut world = World::new();
    world.leases.insert(OTHER.to_owned(), (world.seconds, ""));
    for _ in 0..16 {
        assert!(world.step(&[]).unwrap().heard.stale.is_empty());
    }
    world.leases.insert(OWN.to_owned(), (world.seconds, "1,2"));
    assert!(world.pass(Duration::from_secs(120), &[]).unwrap().heard.stale.is_empty());
}

#[test]
fn the_proxies_of_a_replica_that_died_are_named_unless_another_one_hears_them() {
    let mut world = World::new();
    let took = world.until(&[OTHER], |seen| seen.heard.stale == [2].into()).unwrap();
    assert!((45..=90).contains(&took), "{took}");
}

#[test]
fn a_replica_that_sees_nothing_new_takes_nobody_for_silent() {
    let mut world = World::new();
    let all = [OWN, OTHER, "epic-node-n1", "epic-node-n2"];
    world.pass(Duration::from_secs(600), &all);
    assert!(world.step(&all).is_none(), "its own Lease is not renewed before its eyes, either");
    for _ in 0..60 {
        if let Some(seen) = world.step(&[]) {
            assert!(seen.heard.stale.is_empty(), "{seen:?}");
            assert!(seen.heard.agents.values().all(|agent| *agent != Liveness::Silent), "{seen:?}");
        }
    }
}

#[test]
fn a_clock_that_leaps_and_an_operator_that_starts_name_nobody() {
    let mut world = World::new();
    world.seconds += 86_400;
    let seen = world.look(Duration::from_secs(86_400)).unwrap();
    assert!(seen.heard.stale.is_empty() && seen.heard.agents.values().all(|agent| *agent == Liveness::Alive));
    world.observer = Observer::default();
    assert!(world.look(TICK).is_none(), "it has seen nothing renewed yet");
    let seen = world.pass(Duration::from_secs(30), &[]).unwrap();
    assert!(seen.heard.stale.is_empty() && seen.verdicts.values().all(|verdict| *verdict == Verdict::In));
}

#[test]
fn an_agent_that_crashed_moves_nothing_and_a_node_that_is_cut_off_is_out_within_a_minute() {
    let mut world = World::new();
    let seen = world.pass(Duration::from_secs(600), &["epic-node-n2"]).unwrap();
    assert_eq!(seen.heard.agents[&NodeName::from("n2")], Liveness::Silent);
    assert!(seen.verdicts.values().all(|verdict| *verdict == Verdict::In), "its proxy is connected");
    let mut world = World::new();
    world.pass(Duration::from_secs(26), &["epic-node-n2"]);
    world.leases.insert(OTHER.to_owned(), (world.seconds, ""));
    let out = Verdict::Out(Why::Silent);
    let took = world.until(&["epic-node-n2"], |seen| seen.verdicts[&NodeName::from("n2")] == out).unwrap();
    assert!(26 + took <= 55, "{took} seconds later");
    world.out = [("n2".into(), Why::Silent)].into();
    world.leases.insert(OTHER.to_owned(), (world.seconds, "2"));
    let back = world.until(&[], |seen| seen.verdicts[&NodeName::from("n2")] == Verdict::In);
    assert!(back.is_some_and(|back| back <= 40), "{back:?}");
}

#[test]
fn a_stream_that_never_leaves_its_node_does_not_speak_for_it() {
    let mut world = World::new();
    // The routes of n2 are gone: its agent does not reach the API server, its replica does, and serves the proxy there.
    world.isolated = true;
    let out = Verdict::Out(Why::Silent);
    let took = world.until(&["epic-node-n2"], |seen| seen.verdicts[&NodeName::from("n2")] == out).unwrap();
    assert!(took <= 55, "{took} seconds later");
    assert!(world.step(&[]).unwrap().heard.stale.is_empty(), "an operator hears the proxy all the same");
    let mut world = World::new();
    world.isolated = true;
    let seen = world.pass(Duration::from_secs(600), &[]).unwrap();
    assert!(seen.verdicts.values().all(|verdict| *verdict == Verdict::In), "{seen:?}");
}

fn node() -> EPICNode {
    serde_json::from_value(json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": "EPICNode", "metadata": {"name": "n1", "namespace": "epic"},
        "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
    }))
    .unwrap()
}

#[test]
fn the_table_says_what_the_verdicts_on_nodes_say() {
    let verdicts = [
        ("in service", Verdict::In),
        ("agent and proxies silent", Verdict::Out(Why::Silent)),
        ("hears no client that others hear", Verdict::Out(Why::Deaf)),
        ("the same, and no other node serves", Verdict::Kept(Why::Silent)),
    ];
    let found = verdicts.map(|(name, verdict)| {
        let (_, after) = changed(&node(), verdict, &crate::reconcile::now()).unwrap();
        (name, after.into_iter().filter(|condition| condition.type_ == IN_SERVICE).collect())
    });
    situations::check("EPICNode", found.into());
}

#[test]
fn a_verdict_is_written_once_beside_what_the_agent_says() {
    let mut node = node();
    let now = crate::reconcile::now();
    let (before, after) = changed(&node, Verdict::Out(Why::Deaf), &now).unwrap();
    assert_eq!((before.len(), after.len()), (1, 2));
    node.status.as_mut().unwrap().conditions = after;
    let written = node.condition(IN_SERVICE).unwrap();
    assert_eq!(
        (written.status, written.reason.as_str()),
        (ConditionStatus::False, Reason::ClientsUnheard.as_str())
    );
    assert!(changed(&node, Verdict::Out(Why::Deaf), &now).is_none());
}
