//! The label `epic.acnodal.io/node` on Nodes: where an EPIC agent lives, and so where proxies may run.
//!
//! It is put on once the agent renews its Lease and has said that it is ready, and taken off when nothing was heard of
//! the agent for [`PATIENCE`]: an agent that restarts, or is upgraded, moves no proxy. It does not evict: what runs on a
//! Node without the label runs on, since packets go on without the agent.
//!
//! For how long an agent was silent is known to this process alone, so a new leader waits the whole time again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use epic_crds::condition::READY;
use epic_crds::well_known::{EPIC_NAMESPACE, FIELD_MANAGER, LABEL_NODE};
use epic_crds::{EPICNode, HasConditions};
use epic_model::id::Seconds;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kates::{Key, Snapshot, Subject};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use parking_lot::Mutex;
use serde_json::json;

use crate::claim::live_nodes;
use crate::context::Shared;
use crate::reconcile::Error;
use crate::uninstall;

/// How long an agent is silent before its Node takes no new proxies any more.
const PATIENCE: Duration = Duration::from_secs(300);
/// Time between two looks at a Lease, which tells nobody that it has run out.
const AGAIN: Duration = Duration::from_secs(10);

/// Since when agents are silent, by Node.
#[derive(Debug, Default)]
pub struct Silent {
    since: Mutex<HashMap<String, Instant>>,
}

impl Silent {
    /// For how long the agent of a Node has been silent; `None` while it lives.
    fn observe(&self, node: &str, live: bool, now: Instant) -> Option<Duration> {
        let mut since = self.since.lock();
        if live {
            since.remove(node);
            return None;
        }
        Some(now.duration_since(*since.entry(node.to_owned()).or_insert(now)))
    }

    fn forget(&self, node: &str) {
        self.since.lock().remove(node);
    }
}

/// What is known of a Node's agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agent {
    /// Its Lease is renewed.
    Live {
        /// Whether it can serve.
        ready: bool,
    },
    /// Nothing is heard of it.
    Silent(Duration),
    /// EPIC is being taken off the cluster.
    Leaving,
}

/// What to do about a Node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Label,
    Unlabel,
    Wait(Duration),
}

/// Decides. Pure.
fn step(labelled: bool, agent: Agent) -> Step {
    match (labelled, agent) {
        (false, Agent::Live { ready: true }) => Step::Label,
        (true, Agent::Leaving) => Step::Unlabel,
        (true, Agent::Silent(silent)) if silent >= PATIENCE => Step::Unlabel,
        (true, Agent::Silent(silent)) => Step::Wait((PATIENCE - silent).min(AGAIN)),
        _ => Step::Wait(AGAIN),
    }
}

/// One pass over one Node.
///
/// # Errors
/// What the API server answers; the caller waits and calls again.
pub async fn reconcile(subject: Arc<Subject<Node>>, context: Shared) -> Result<Action, Error> {
    let (snapshot, key) = (context.snapshot()?, subject.key());
    let Some(node) = snapshot.get::<Node>(&key) else {
        context.silent.forget(key.name());
        return Ok(Action::await_change());
    };
    let ours = snapshot.get::<EPICNode>(&Key::namespaced(EPIC_NAMESPACE, key.name()));
    if ours.is_none() && !is_labelled(node) {
        // The EPICNode triggers this when it comes.
        context.silent.forget(key.name());
        return Ok(Action::await_change());
    }
    let live = live_nodes(&snapshot, Seconds(Timestamp::now().as_second())).contains(key.name());
    let ready = ours.is_some_and(|ours| ours.is_condition_true(READY));
    let agent = match context.silent.observe(key.name(), live, Instant::now()) {
        _ if uninstall::is_under_way(&snapshot) => Agent::Leaving,
        None => Agent::Live { ready },
        Some(silent) => Agent::Silent(silent),
    };
    match step(is_labelled(node), agent) {
        Step::Label => label(&context, node, Some("")).await?,
        Step::Unlabel => label(&context, node, None).await?,
        Step::Wait(wait) => return Ok(Action::requeue(wait)),
    }
    Ok(Action::requeue(AGAIN))
}

/// Sets the label, or removes it, on this very Node.
async fn label(context: &Shared, node: &Node, value: Option<&str>) -> Result<(), Error> {
    let patch = json!({"metadata": {"uid": node.metadata.uid, "labels": {LABEL_NODE: value}}});
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    context.counters.wrote("Node");
    context.client.kind::<Node>().patch(&Key::of(node), &parameters, &Patch::Merge(patch)).await?;
    tracing::info!(node = node.name_any(), labelled = value.is_some(), "label of an EPIC node");
    Ok(())
}

fn is_labelled(node: &Node) -> bool {
    node.labels().contains_key(LABEL_NODE)
}

/// The first Node with a live agent that is ready, and without the label yet.
pub fn unlabelled(snapshot: &Snapshot) -> Option<String> {
    let live = live_nodes(snapshot, Seconds(Timestamp::now().as_second()));
    let ready = snapshot.list::<EPICNode>().filter(|node| node.is_condition_true(READY));
    let mut names = ready.map(|node| node.name_any()).filter(|name| live.contains(name));
    names.find(|name| {
        snapshot.get::<Node>(&Key::cluster(name.as_str())).is_some_and(|node| !is_labelled(node))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: Agent = Agent::Live { ready: true };

    #[test]
    fn a_node_is_labelled_once_its_agent_lives_and_is_ready() {
        assert_eq!(step(false, LIVE), Step::Label);
        for agent in [Agent::Live { ready: false }, Agent::Silent(Duration::ZERO), Agent::Leaving] {
            assert!(matches!(step(false, agent), Step::Wait(_)), "{agent:?}");
        }
    }

    #[test]
    fn the_label_goes_after_five_minutes_without_the_agent_and_not_before() {
        let minutes = |minutes: u64| Agent::Silent(Duration::from_secs(60 * minutes));
        assert!(matches!(step(true, minutes(0)), Step::Wait(_)));
        assert!(matches!(step(true, minutes(4)), Step::Wait(_)));
        assert_eq!(step(true, minutes(5)), Step::Unlabel);
        assert!(matches!(step(true, LIVE), Step::Wait(_)));
        // An agent that lives and has a trouble of its own moves nothing.
        assert!(matches!(step(true, Agent::Live { ready: false }), Step::Wait(_)));
        assert_eq!(step(true, Agent::Leaving), Step::Unlabel, "nothing is left on the Nodes");
    }

    #[test]
    fn silence_is_counted_from_the_last_sign_of_life() {
        let (silent, start) = (Silent::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(silent.observe("a", false, at(0)), Some(Duration::ZERO));
        assert_eq!(silent.observe("a", false, at(200)), Some(Duration::from_secs(200)));
        assert_eq!(silent.observe("a", true, at(210)), None);
        assert_eq!(silent.observe("a", false, at(220)), Some(Duration::ZERO));
        assert_eq!(silent.observe("b", false, at(220)), Some(Duration::ZERO), "each by itself");
    }
}
