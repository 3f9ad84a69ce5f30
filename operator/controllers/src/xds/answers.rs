//! What proxies answered, written where people look: the pod condition `configured`, and `Programmed` of an Endpoint
//! once an assignment made of its present generation was acknowledged. What a proxy says of its version goes with it.
//!
//! Written by the replica that serves the stream, with or without the Lease, and only to pods that are proxies of the
//! LoadBalancer in the stream's certificate. A write that is refused is made again with the next change, or at the
//! latest after [`AGAIN`].
//!
//! A pass looks at all proxies of this replica, and is made for reports and for changes that concern it ([`super::news`]).
//! Pods come first: a LoadBalancer waits for them, and there are few. Of the Endpoints each LoadBalancer gets its turn,
//! and no more than [`ENDPOINTS`] are written before the pods are looked at again, so a tenant that brings thousands
//! keeps the others waiting no longer than one that brings a few hundred.
//!
//! Of two streams of one pod the one that heard its proxy later is believed ([`Said::replaces`]), so an old one whose
//! end was not noticed yet, here or on another replica, contradicts its successor at most until that looks again. The
//! clocks of replicas may differ; but two streams of one pod never both stay open for [`BOTH_OPEN`], so one that is
//! contradicted for so long and still open is the living one, and says so. A time that is further ahead than that is of
//! a clock that was wrong, and orders nothing ([`Said::seen_at`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use epic_crds::condition::{ACCEPTED, PROGRAMMED, set};
use epic_crds::well_known::ANNOTATION_PROXY_VERSION;
use epic_crds::{ConditionStatus, Endpoint, EndpointReason, HasConditions, LoadBalancer, LoadBalancerReason};
use epic_xds::report::StreamId;
use epic_xds::{Report, Reports};
use futures::future::ready;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kates::{Key, Snapshot};
use kube::api::{Patch, PatchParams};
use kube::{Resource as _, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::assigned::{self, Acknowledged, Endpoints};
use super::condition::{Answer, Said, pod_condition, read};
use super::news::is_news;
use crate::context::Shared;
use crate::proxy::{Index, is_ready, listed};
use crate::reconcile::{now, publish_status};

/// Longest time until a write that failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Writes under way at once.
const CONCURRENT: usize = 16;

/// Endpoints that one pass writes at most.
const ENDPOINTS: usize = 256;

/// Rejections that a condition tells of; the others are counted.
const REJECTIONS: usize = 8;

/// Characters of each.
const MESSAGE: usize = 1_024;

/// No two streams of one pod are open for so long: the server ends one that answers no pings after half of it.
const BOTH_OPEN: Duration = Duration::from_secs(30);

/// Since when streams of this process are contradicted by what stands on their pods.
type Contradicted = BTreeMap<StreamId, Instant>;

/// Follows the reports until `shutdown`.
pub(super) async fn run(context: Shared, reports: Arc<Reports>, shutdown: CancellationToken) {
    let mut watch = reports.watch();
    let mut updates = context.watches.updates();
    let mut contradicted = Contradicted::new();
    let mut next = Instant::now() + context.settings.full_pass;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = watch.changed() => {}
            () = updates.changed() => {
                if !updates.update().is_some_and(|update| is_news(&update)) {
                    continue;
                }
            }
            // A time, not a wait: what is no news must not put it off.
            () = sleep_until(next) => {}
        }
        let left = match context.snapshot() {
            Ok(snapshot) => pass(&context, &snapshot, &reports.rows(), &mut contradicted).await,
            Err(_) => Left::Failed,
        };
        next = Instant::now() + left.wait(context.settings.full_pass);
    }
}

/// What a pass leaves to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    /// A stream that is contradicted is to look again.
    Contradicted,
    /// More Endpoints than one pass writes.
    More,
    /// A write that failed. Whatever else is left waits with it: nothing is gained by haste.
    Failed,
}

impl Left {
    fn wait(self, full_pass: Duration) -> Duration {
        match self {
            Left::Nothing => full_pass,
            Left::Contradicted | Left::Failed => AGAIN,
            Left::More => Duration::ZERO,
        }
    }
}

/// The latest stream of every pod, by LoadBalancer.
fn latest(rows: &[Report]) -> BTreeMap<Key, BTreeMap<&str, &Report>> {
    let mut found: BTreeMap<Key, BTreeMap<&str, &Report>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.connected) {
        let key = Key::namespaced(row.identity.namespace.as_ref(), row.identity.load_balancer.as_ref());
        let pods = found.entry(key).or_default();
        let known = pods.entry(row.node.pod.as_ref()).or_insert(row);
        if known.stream < row.stream {
            *known = row;
        }
    }
    found
}

/// What is to stand on a pod and does not yet.
#[derive(Debug, PartialEq)]
struct Unsaid {
    /// What its proxy answered.
    said: Option<Said>,
    /// What its proxy is.
    version: Option<String>,
}

/// What a pass has to say.
struct Planned<'s> {
    /// Pods, each with what is to stand on it.
    answers: Vec<(&'s LoadBalancer, &'s Pod, Unsaid)>,
    /// What ready proxies have acknowledged, by LoadBalancer.
    acknowledged: Vec<(Key, Endpoints)>,
    /// Whether a stream is contradicted.
    contradicted: bool,
}

/// Writes what differs; says what is left.
async fn pass(
    context: &Shared,
    snapshot: &Snapshot,
    rows: &[Report],
    contradicted: &mut Contradicted,
) -> Left {
    contradicted.retain(|stream, _| rows.iter().any(|row| row.stream == *stream));
    let by_balancer = latest(rows);
    context.assigned.retain(|balancer| by_balancer.contains_key(balancer));
    if by_balancer.is_empty() {
        return Left::Nothing;
    }
    let planned = plan(snapshot, by_balancer, contradicted);
    let answers =
        planned.answers.into_iter().map(|(balancer, pod, unsaid)| answer(context, balancer, pod, unsaid));
    let mut failed = any_failed(answers.collect()).await;
    let news = planned.acknowledged.iter().map(|(key, endpoints)| unsaid(snapshot, key, endpoints));
    let (endpoints, later) = in_turns(news.collect(), ENDPOINTS);
    let programmed = endpoints.into_iter().map(|endpoint| programmed(context, endpoint));
    failed |= any_failed(programmed.collect()).await;
    // Told to the Endpoints' controller only now, which would write the same.
    let later: BTreeSet<&str> = later.iter().filter_map(|later| later.metadata.uid.as_deref()).collect();
    for (key, mut endpoints) in planned.acknowledged {
        endpoints.retain(|uid, _| !later.contains(uid.as_str()));
        context.assigned.publish(&key, endpoints);
    }
    let left =
        [(failed, Left::Failed), (!later.is_empty(), Left::More), (planned.contradicted, Left::Contradicted)];
    left.into_iter().find_map(|(is, left)| is.then_some(left)).unwrap_or(Left::Nothing)
}

fn plan<'s>(
    snapshot: &'s Snapshot,
    by_balancer: BTreeMap<Key, BTreeMap<&str, &Report>>,
    contradicted: &mut Contradicted,
) -> Planned<'s> {
    let index = Index::new(snapshot);
    let mut planned = Planned { answers: Vec::new(), acknowledged: Vec::new(), contradicted: false };
    for (key, rows) in by_balancer {
        let Some(balancer) = snapshot.get::<LoadBalancer>(&key) else { continue };
        let pods = index.objects(&balancer.metadata, listed(balancer));
        let mut endpoints = Endpoints::new();
        for row in
            rows.into_values().filter(|row| balancer.uid().as_deref() == Some(row.identity.uid.as_ref()))
        {
            let Some(pod) = pods.iter().find(|pod| pod.name_any() == *row.node.pod) else { continue };
            let (said, again) = decide(row, read(pod), contradicted, (Instant::now(), Timestamp::now()));
            // One that is contradicted may be dead, and its proxy of a container that is no more.
            let version = version(row, pod).filter(|_| !again);
            if said.is_some() || version.is_some() {
                planned.answers.push((balancer.as_ref(), *pod, Unsaid { said, version }));
            }
            planned.contradicted |= again;
            if is_ready(pod) {
                assigned::merge(&mut endpoints, assigned::of_proxy(row.progress.endpoints.iter()));
            }
        }
        planned.acknowledged.push((key, endpoints));
    }
    planned
}

/// Carries out writes that say whether they failed.
async fn any_failed(writes: Vec<impl Future<Output = bool>>) -> bool {
    let outcomes = stream::iter(writes).buffer_unordered(CONCURRENT);
    outcomes.fold(false, |failed, another| ready(failed | another)).await
}

/// The first of each queue, then the second of each: those for now, and those for later.
fn in_turns<T>(queues: Vec<Vec<T>>, limit: usize) -> (Vec<T>, Vec<T>) {
    let mut queues: Vec<_> = queues.into_iter().map(Vec::into_iter).collect();
    let mut now = Vec::new();
    while !queues.is_empty() {
        queues.retain_mut(|queue| queue.next().map(|next| now.push(next)).is_some());
    }
    let later = now.split_off(limit.min(now.len()));
    (now, later)
}

/// What a stream's proxy answered; `None` before it has answered anything.
fn said(row: &Report) -> Option<Answer> {
    let rejections = &row.progress.rejections;
    if rejections.is_empty() {
        return row.progress.configured.map(|revision| Answer::Acknowledged(revision.generation));
    }
    let shown = rejections.iter().take(REJECTIONS).map(|((kind, name), rejection)| {
        let message: String = rejection.message.chars().take(MESSAGE).collect();
        format!("{kind:?} {name}: {message}")
    });
    let mut text = shown.collect::<Vec<_>>().join("; ");
    if rejections.len() > REJECTIONS {
        text = format!("{text}; and {} more", rejections.len() - REJECTIONS);
    }
    Some(Answer::Rejected(text))
}

/// What a stream's proxy is by its own word, if that does not stand on its pod.
fn version(row: &Report, pod: &Pod) -> Option<String> {
    let text = (!row.software.version.is_empty()).then(|| row.software.to_string())?;
    (pod.annotations().get(ANNOTATION_PROXY_VERSION) != Some(&text)).then_some(text)
}

/// When the proxy of a stream was heard, in the milliseconds that conditions have.
fn heard(row: &Report) -> Option<Timestamp> {
    let heard = Timestamp::try_from(row.heard).ok()?;
    Timestamp::from_millisecond(heard.as_millisecond()).ok()
}

/// What a stream has to write over what stands there, and whether it is to look again soon.
fn decide(
    row: &Report,
    there: Option<Said>,
    contradicted: &mut Contradicted,
    now: (Instant, Timestamp),
) -> (Option<Said>, bool) {
    let (now, clock) = now;
    let Some(answer) = said(row) else { return (None, false) };
    let mine = Said { answer, heard: heard(row) };
    let there = there.map(|there| there.seen_at(clock, BOTH_OPEN));
    if mine.replaces(there.as_ref()) {
        contradicted.remove(&row.stream);
        return (Some(mine), false);
    }
    let Some(there) = there.filter(|there| there.answer != mine.answer) else {
        contradicted.remove(&row.stream);
        return (None, false);
    };
    let since = *contradicted.entry(row.stream).or_insert(now);
    if now.duration_since(since) < BOTH_OPEN {
        return (None, true);
    }
    (Some(Said { heard: there.heard, ..mine }), false)
}

/// The patch of a pod that says it. The uid makes sure that a successor of the same name is not meant; conditions merge by
/// type.
fn patch(pod: &Pod, unsaid: &Unsaid) -> Value {
    let mut patch = json!({"metadata": {"uid": pod.uid()}});
    if let Some(version) = &unsaid.version {
        patch["metadata"]["annotations"] = json!({ANNOTATION_PROXY_VERSION: version});
    }
    if let Some(said) = &unsaid.said {
        patch["status"] = json!({"conditions": [pod_condition(said, now())]});
    }
    patch
}

/// Writes what a proxy answered, and tells the tenant of what it refuses; says whether that failed.
async fn answer(context: &Shared, balancer: &LoadBalancer, pod: &Pod, unsaid: Unsaid) -> bool {
    let patch = Patch::Strategic(patch(pod, &unsaid));
    context.counters.wrote("Pod");
    let written = context.client.patch_status::<Pod, _>(&Key::of(pod), &PatchParams::default(), &patch).await;
    match written {
        Ok(_) => {
            if let Some(Answer::Rejected(text)) = unsaid.said.as_ref().map(|said| &said.answer) {
                let (object, text) = (balancer.object_ref(&()), format!("proxy {}: {text}", pod.name_any()));
                context.events.warn(&object, LoadBalancerReason::ProxyRejected, "Configure", &text);
            }
            false
        }
        Err(error) if error.is_not_found() || error.is_conflict() => false,
        Err(error) => {
            tracing::warn!(pod = pod.name_any(), %error, "condition not written");
            true
        }
    }
}

/// The Endpoints that a ready proxy of this replica has in its assignment as they are now, and that do not say so.
fn unsaid(snapshot: &Snapshot, balancer: &Key, acknowledged: &Endpoints) -> Vec<Arc<Endpoint>> {
    let namespace = balancer.namespace().unwrap_or_default();
    let of = |(uid, known): (&String, &Acknowledged)| {
        let endpoint = snapshot.get::<Endpoint>(&Key::namespaced(namespace, known.name.as_str()))?;
        let is_meant = endpoint.metadata.uid.as_ref() == Some(uid);
        (is_meant && is_unsaid(endpoint, balancer, known.generation)).then(|| Arc::clone(endpoint))
    };
    acknowledged.iter().filter_map(of).collect()
}

/// Sets `Programmed` of an Endpoint; says whether that failed.
async fn programmed(context: &Shared, endpoint: Arc<Endpoint>) -> bool {
    let mut after = endpoint.as_ref().clone();
    let conditions = &mut after.status.get_or_insert_default().conditions;
    let generation = endpoint.metadata.generation;
    set(conditions, PROGRAMMED, true, EndpointReason::Programmed, "", generation, &now());
    match publish_status(context, endpoint.as_ref(), after).await {
        Ok(_) => false,
        Err(error) => {
            tracing::debug!(endpoint = %Key::of(endpoint.as_ref()), %error, "condition not written");
            true
        }
    }
}

/// Whether an acknowledgement of `generation` makes an Endpoint programmed that does not say so yet. It must have been
/// judged as it is now: what is served before may still be refused.
fn is_unsaid(endpoint: &Endpoint, balancer: &Key, generation: i64) -> bool {
    let present = endpoint.metadata.generation;
    let holds = |type_: &str| {
        endpoint.condition(type_).is_some_and(|known| {
            known.status == ConditionStatus::True && known.observed_generation == present
        })
    };
    endpoint.spec.load_balancer == balancer.name()
        && Some(generation) >= present
        && holds(ACCEPTED)
        && !holds(PROGRAMMED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use epic_xds::engine::{EndpointRef, Kind, Progress, Rejection, Revision, Version};
    use epic_xds::{Identity, NodeName};
    use std::time::SystemTime;

    const START: Duration = Duration::from_secs(1_767_225_600);

    fn row(stream: u64, pod: &str, generation: Option<i64>, heard: u64) -> Report {
        let revision = |generation| Revision { generation, content: Version::of(b"") };
        Report {
            stream: StreamId(stream),
            identity: Identity::new("epic-red", "web", "u"),
            node: NodeName { pod: pod.into() },
            software: Arc::default(),
            connected: true,
            heard: SystemTime::UNIX_EPOCH + START + Duration::from_millis(heard),
            progress: Progress { configured: generation.map(revision), ..Progress::default() },
        }
    }

    fn there(generation: i64, heard: u64) -> Said {
        Said { answer: Answer::Acknowledged(generation), heard: super::heard(&row(0, "", None, heard)) }
    }

    /// Two seconds after the start, by this host's clock.
    fn now() -> (Instant, Timestamp) {
        (Instant::now(), there(0, 2_000).heard.unwrap())
    }

    fn generation(said: Option<Said>) -> Option<i64> {
        match said?.answer {
            Answer::Acknowledged(generation) => Some(generation),
            Answer::Rejected(_) => None,
        }
    }

    #[test]
    fn what_a_proxy_says_of_its_version_stands_on_its_pod_once() {
        let software = epic_xds::Software {
            name: "envoy".into(),
            version: "1.40.0".into(),
            ..epic_xds::Software::default()
        };
        let row = Report { software: Arc::new(software), ..row(1, "a", Some(4), 1_000) };
        let with = |annotations: Value| -> Pod {
            let meta = json!({"name": "a", "uid": "p", "annotations": annotations});
            serde_json::from_value(json!({"metadata": meta})).unwrap()
        };
        let new = with(json!({}));
        assert_eq!(version(&row, &new).as_deref(), Some("envoy 1.40.0"));
        let silent = self::row(1, "a", Some(4), 1_000);
        assert_eq!(version(&silent, &new), None, "one that says nothing");
        let known = with(json!({"epic.acnodal.io/proxy-version": "envoy 1.40.0"}));
        assert_eq!(version(&row, &known), None);
        let before = with(json!({"epic.acnodal.io/proxy-version": "envoy 1.39.1"}));
        assert!(version(&row, &before).is_some(), "the image was replaced in place");

        let version = version(&row, &new);
        let alone = patch(&new, &Unsaid { said: None, version: version.clone() });
        let annotations = json!({"epic.acnodal.io/proxy-version": "envoy 1.40.0"});
        assert_eq!(
            alone,
            json!({"metadata": {"uid": "p", "annotations": annotations}}),
            "no status is touched"
        );
        let both = patch(&new, &Unsaid { said: Some(there(4, 1_000)), version });
        assert_eq!(both["metadata"], alone["metadata"]);
        assert_eq!(both["status"]["conditions"][0]["reason"], "Acknowledged");
    }

    #[test]
    fn the_latest_open_stream_of_a_pod_speaks_for_it() {
        let closed = Report { connected: false, ..row(9, "a", Some(9), 0) };
        let rows = [row(3, "a", Some(3), 0), row(7, "a", Some(7), 0), closed, row(5, "b", None, 0)];
        let found = latest(&rows);
        let streams: Vec<u64> =
            found.values().flat_map(|pods| pods.values()).map(|row| row.stream.0).collect();
        assert_eq!(streams, [7, 5]);
        assert_eq!(found.keys().collect::<Vec<_>>(), [&Key::namespaced("epic-red", "web")]);
    }

    #[test]
    fn all_that_a_proxy_refuses_is_said_within_bounds() {
        let refusing = |names: Vec<String>| {
            let message: Arc<str> = "cannot bind ".repeat(1_000).into();
            let rejections = names.into_iter().map(|name| {
                let rejection = Rejection { version: Version::of(b"x"), message: Arc::clone(&message) };
                ((Kind::Listener, Arc::from(name)), rejection)
            });
            let mut row = row(1, "a", Some(4), 1_000);
            row.progress.rejections = rejections.collect();
            match said(&row) {
                Some(Answer::Rejected(text)) => text,
                other => panic!("{other:?}"),
            }
        };
        let two = refusing(vec!["web-tcp-80".to_owned(), "web-tcp-81".to_owned()]);
        assert!(two.contains("Listener web-tcp-80: cannot") && two.contains("; Listener web-tcp-81: cannot"));
        let many = refusing((0..100).map(|n| format!("web-tcp-{n}")).collect());
        assert!(many.ends_with("; and 92 more") && many.len() < 16 << 10, "{}", many.len());
    }

    #[test]
    fn a_dead_stream_is_silent_once_its_successor_has_spoken() {
        let (mut contradicted, now) = (Contradicted::new(), now());
        let dead = row(1, "a", Some(4), 1_000);
        let (said, again) = decide(&dead, Some(there(6, 2_000)), &mut contradicted, now);
        assert_eq!((generation(said), again), (None, true));
        let alive = row(1, "a", Some(6), 2_000);
        let (said, again) = decide(&alive, Some(there(4, 1_000)), &mut contradicted, now);
        assert_eq!((generation(said), again), (Some(6), false), "what an old one wrote late is put right");
        assert!(contradicted.is_empty());
    }

    #[test]
    fn one_that_stays_open_longer_than_two_can_is_believed_whatever_the_clocks_say() {
        let (mut contradicted, (now, clock)) = (Contradicted::new(), now());
        let (alive, fast_clock) = (row(1, "a", Some(6), 1_000), there(4, 9_000));
        let mut decided = |now| decide(&alive, Some(fast_clock.clone()), &mut contradicted, (now, clock));
        assert_eq!(decided(now), (None, true));
        let (said, _) = decided(now + BOTH_OPEN);
        assert_eq!(said, Some(Said { answer: Answer::Acknowledged(6), heard: fast_clock.heard }));
    }

    #[test]
    fn a_time_that_a_wrong_clock_left_in_the_future_delays_nobody() {
        let (mut contradicted, alive) = (Contradicted::new(), row(1, "a", Some(6), 1_000));
        let year_ahead = there(4, 365 * 24 * 3_600 * 1_000);
        let (said, again) = decide(&alive, Some(year_ahead), &mut contradicted, now());
        assert_eq!(said, Some(there(6, 1_000)), "at once, and with the time at which it was heard");
        assert!(!again && contradicted.is_empty());
    }

    #[test]
    fn a_tenant_with_thousands_of_endpoints_does_not_put_off_one_with_a_few() {
        let of = |tenant: &'static str, count: usize| -> Vec<(&str, usize)> {
            (0..count).map(|number| (tenant, number)).collect()
        };
        let (now, later) = in_turns(vec![of("many", 5_000), Vec::new(), of("few", 2)], ENDPOINTS);
        assert_eq!(now[..5], [("many", 0), ("few", 0), ("many", 1), ("few", 1), ("many", 2)]);
        assert_eq!((now.len(), later.len()), (ENDPOINTS, 5_002 - ENDPOINTS));
        assert_eq!(later[0], ("many", ENDPOINTS - 2), "the next pass goes on there");
        assert_eq!(in_turns(vec![of("few", 2)], ENDPOINTS), (of("few", 2), Vec::new()));
    }

    #[test]
    fn what_is_left_for_want_of_turns_goes_on_at_once_and_what_failed_after_a_while() {
        let full_pass = Duration::from_secs(600);
        let waits =
            [Left::More, Left::Failed, Left::Contradicted, Left::Nothing].map(|left| left.wait(full_pass));
        assert_eq!(waits, [Duration::ZERO, AGAIN, AGAIN, full_pass]);
    }

    fn endpoint(generation: i64, accepted: i64, programmed: i64) -> Endpoint {
        let condition = |type_: &str, generation: i64| {
            json!({"type": type_, "status": "True", "reason": "x", "message": "", "observedGeneration": generation,
                "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        serde_json::from_value(json!({
            "apiVersion": "epic.acnodal.io/v1", "kind": "Endpoint",
            "metadata": {"name": "a", "namespace": "epic-red", "uid": "u", "generation": generation},
            "spec": {"load-balancer": "web", "address": "10.0.0.9", "port": {"port": 8080}},
            "status": {"conditions": [condition(ACCEPTED, accepted), condition(PROGRAMMED, programmed)]},
        }))
        .unwrap()
    }

    #[test]
    fn an_endpoint_is_programmed_by_the_acknowledgement_of_its_present_generation_alone() {
        let balancer = Key::namespaced("epic-red", "web");
        let acknowledged = |generation| {
            let held = EndpointRef { object: "epic-red/a".into(), uid: "u".into(), generation };
            assigned::of_proxy(&[held])["u"].generation
        };
        assert!(
            !is_unsaid(&endpoint(2, 2, 1), &balancer, acknowledged(1)),
            "that was the form before the edit"
        );
        assert!(is_unsaid(&endpoint(2, 2, 1), &balancer, acknowledged(2)));
        assert!(!is_unsaid(&endpoint(2, 1, 1), &balancer, acknowledged(2)), "not judged as it is now");
        assert!(!is_unsaid(&endpoint(2, 2, 2), &balancer, acknowledged(2)), "said already");
        assert!(!is_unsaid(&endpoint(2, 2, 1), &Key::namespaced("epic-red", "other"), acknowledged(2)));
    }
}
