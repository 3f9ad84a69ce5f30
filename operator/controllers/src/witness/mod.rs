//! Who is heard: the proxies that operator replicas are connected to, the agents that renew their Leases, and the nodes
//! that hear clients. What is not heard any more is named in conditions, and a node that two witnesses speak against is
//! taken out of service ([`epic_model::in_service`]). A stream that never left its node is no witness ([`peers`]).
//!
//! Every replica observes, so that a new leader knows for how long something has been silent; the leader alone writes.
//! Each replica renews a Lease that names its proxies ([`streams`]). A replica that does not see its own Lease renewed
//! sees nothing new at all, and then judges nothing: an API server that is away silences nobody.

mod facts;
mod heard;
mod ids;
mod peers;
pub mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use epic_crds::condition::{self, IN_SERVICE};
use epic_crds::well_known::{API_VERSION, FIELD_MANAGER, LABEL_STREAMS, node_lease_name, streams_lease_name};
use epic_crds::{Condition, EPICNode, EPICNodeReason as Reason, HasConditions};
use epic_model::id::NodeName;
use epic_model::in_service::{Facts, Judge, Liveness, Renewals, Spans, Verdict, Why};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kates::{Key, Snapshot};
use kube::api::{Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

pub use heard::{Heard, Witness};

use crate::context::Shared;
use crate::reconcile::now;

/// Between two observations.
const TICK: Duration = Duration::from_secs(2);
/// How long a Lease counts: four renewals of an agent, or of a replica.
const SILENT_AFTER: Duration = Duration::from_secs(40);
/// How long the own Lease may not have been seen renewed. Shorter than [`SILENT_AFTER`] by more than a renewal, so that
/// whoever sees nothing notices it before it takes anybody for silent.
const BLIND_AFTER: Duration = Duration::from_secs(22);
/// How long a proxy may be connected to nobody until it is named. With the 15 seconds until a server notices that a
/// stream is dead and the pace of [`streams`], it is named within 90 seconds; a proxy that goes from one replica to
/// another has more than half a minute for it.
const STALE_AFTER: Duration = Duration::from_secs(45);
/// How long a proxy counts as connected after its stream has ended, for the verdict on its node.
const GONE_AFTER: Duration = Duration::from_secs(8);

/// Observes until `shutdown`.
pub async fn run(context: Shared, shutdown: CancellationToken) {
    let mut observer = Observer::default();
    let mut last = Instant::now();
    let mut timer = interval(TICK);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = timer.tick() => {}
        }
        let Ok(snapshot) = context.snapshot() else { continue };
        let elapsed = last.elapsed();
        last = Instant::now();
        let own = streams_lease_name(&context.settings.identity);
        let leases: Vec<Arc<Lease>> = snapshot.list::<Lease>().cloned().collect();
        let proxies = facts::proxies(&snapshot);
        let facts = |gone: &BTreeSet<u32>, liveness: &dyn Fn(&str) -> Liveness| {
            facts::facts(&snapshot, &proxies, gone, liveness)
        };
        let out = out_of_service(&snapshot);
        let Some(seen) = observer.observe(&leases, &own, elapsed, &proxies, facts, &out) else { continue };
        context.counters.stale_proxies.set(i64::try_from(seen.heard.stale.len()).unwrap_or(i64::MAX));
        context.witness.publish(&snapshot, seen.heard);
        if context.leadership.leads() && !crate::uninstall::is_under_way(&snapshot) {
            for (node, verdict) in &seen.verdicts {
                write(&context, &snapshot, node, *verdict).await;
            }
        }
    }
}

/// What was observed so far.
#[derive(Debug, Default)]
struct Observer {
    own: Renewals,
    others: Renewals,
    /// Proxies that are connected to no replica.
    unconnected: Spans<u32>,
    /// Proxies whose streams do not speak for their nodes.
    unvouched: Spans<u32>,
    judge: Judge,
}

/// What one observation tells.
#[derive(Debug)]
struct Seen {
    heard: Heard,
    verdicts: BTreeMap<NodeName, Verdict>,
}

impl Observer {
    /// One observation; `None` while this replica does not see its own Lease renewed.
    ///
    /// `proxies` are those that take new flows, with their nodes; `facts` says what is known of nodes, given the proxies
    /// that are connected to nobody and whether agents live; `out` are the nodes that are out of service.
    fn observe(
        &mut self,
        leases: &[Arc<Lease>],
        own: &str,
        elapsed: Duration,
        proxies: &BTreeMap<u32, NodeName>,
        facts: impl FnOnce(&BTreeSet<u32>, &dyn Fn(&str) -> Liveness) -> Vec<Facts>,
        out: &BTreeMap<NodeName, Why>,
    ) -> Option<Seen> {
        let renewals = leases.iter().filter_map(|lease| renewal(lease));
        let (mine, others): (Vec<_>, Vec<_>) = renewals.partition(|(name, _)| name == own);
        self.own.observe(elapsed, mine);
        if self.own.liveness(own, BLIND_AFTER) != Liveness::Alive {
            // Whoever was not seen for as long as nothing was seen is begun with anew.
            *self = Self { own: std::mem::take(&mut self.own), ..Self::default() };
            return None;
        }
        self.others.observe(elapsed, others);
        let others = &self.others;
        let counts = |name: &str| name == own || others.liveness(name, SILENT_AFTER) != Liveness::Silent;
        let streams: Vec<&Lease> = leases
            .iter()
            .map(|lease| &**lease)
            .filter(|lease| lease.labels().contains_key(LABEL_STREAMS) && counts(&lease.name_any()))
            .collect();
        let (mut connected, mut vouched) = (BTreeSet::new(), BTreeSet::new());
        for lease in &streams {
            for id in streams::named(lease) {
                connected.insert(id);
                let speaks = |node: &NodeName| !peers::is_deaf_to(lease, &streams, node);
                if proxies.get(&id).is_some_and(speaks) {
                    vouched.insert(id);
                }
            }
        }
        let without = |known: &BTreeSet<u32>| {
            proxies.keys().filter(|id| !known.contains(id)).copied().collect::<Vec<_>>()
        };
        self.unconnected.tick(elapsed, without(&connected));
        self.unvouched.tick(elapsed, without(&vouched));
        let gone: BTreeSet<u32> = self.unvouched.at_least(GONE_AFTER).copied().collect();
        let facts = facts(&gone, &|node| others.liveness(&node_lease_name(node), SILENT_AFTER));
        let heard = Heard {
            stale: self.unconnected.at_least(STALE_AFTER).copied().collect(),
            agents: facts.iter().map(|facts| (facts.node.clone(), facts.agent)).collect(),
        };
        Some(Seen { heard, verdicts: self.judge.tick(elapsed, &facts, out) })
    }
}

/// Name of a Lease, and what its renewals change.
fn renewal(lease: &Lease) -> Option<(String, String)> {
    let renewed = lease.spec.as_ref()?.renew_time.as_ref()?;
    Some((lease.name_any(), renewed.0.to_string()))
}

/// Nodes that are out of service now, as their conditions say.
fn out_of_service(snapshot: &Snapshot) -> BTreeMap<NodeName, Why> {
    let out = |node: &EPICNode| {
        let deaf = node.out_of_service()?.reason == Reason::ClientsUnheard.as_str();
        Some((node.name_any().into(), if deaf { Why::Deaf } else { Why::Silent }))
    };
    snapshot.list::<EPICNode>().filter_map(|node| out(node)).collect()
}

/// What the condition `InService` says for a verdict.
fn in_service(verdict: Verdict) -> (bool, Reason, String) {
    let against = |why: Why| match why {
        Why::Silent => (
            Reason::NodeSilent,
            "its agent does not renew its Lease and none of its proxies is connected to an operator; look at the network of the node (ip route, ip link) and at its agent's log",
        ),
        Why::Deaf => (
            Reason::ClientsUnheard,
            "it hears none of the clients that another node hears; see that UDP 6080 (EPIC.spec.gue.port) reaches it",
        ),
    };
    match verdict {
        Verdict::In => (true, Reason::InService, String::new()),
        Verdict::Kept(why) => {
            (true, Reason::NoOtherNode, format!("no other node serves, but {}", against(why).1))
        }
        Verdict::Out(why) => {
            let (reason, text) = against(why);
            (false, reason, text.to_owned())
        }
    }
}

/// Writes the condition of a node where it differs. The agent writes the rest of the status; applied, one condition
/// stands in nobody's way. A write that fails is made again with the next observation.
async fn write(context: &Shared, snapshot: &Snapshot, node: &NodeName, verdict: Verdict) {
    let key = Key::namespaced(context.settings.namespace.as_str(), node.as_str());
    let Some(object) = snapshot.get::<EPICNode>(&key) else { return };
    let Some((before, after)) = changed(object, verdict, &now()) else { return };
    let body = json!({
        "apiVersion": API_VERSION,
        "kind": "EPICNode",
        "metadata": {"name": node.as_str(), "namespace": context.settings.namespace, "uid": object.uid()},
        "status": {"conditions": [condition::find(&after, IN_SERVICE)]},
    });
    context.counters.wrote("EPICNode");
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match context.client.patch_status::<EPICNode, _>(&key, &params, &Patch::Apply(body)).await {
        Ok(_) => {
            if let Verdict::Out(why) = verdict {
                tracing::warn!(node = node.as_str(), ?why, "taken out of service");
            }
            context.events.conditions(&object.object_ref(&()), &before, &after);
        }
        Err(error) => tracing::warn!(node = node.as_str(), %error, "the verdict was not written"),
    }
}

/// The conditions of a node before and after the verdict, if they differ.
fn changed(node: &EPICNode, verdict: Verdict, now: &Time) -> Option<(Vec<Condition>, Vec<Condition>)> {
    let before = node.conditions().to_vec();
    let mut after = before.clone();
    let (holds, reason, message) = in_service(verdict);
    condition::set(&mut after, IN_SERVICE, holds, reason, message, None, now).then_some((before, after))
}

#[cfg(test)]
mod tests;
