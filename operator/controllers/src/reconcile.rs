//! What all controllers share: the error, how long to wait after one, and how a controller is run.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use epic_crds::condition::ACCEPTED;
use epic_crds::{ConditionStatus, HasConditions, KeepsUnknown};
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kates::{Object, Queue, Subject};
use kube::ResourceExt;
use kube::runtime::controller::{Action, Config};
use parking_lot::Mutex;
use rand::Rng;
use tokio_util::sync::CancellationToken;

use crate::context::{NotSynced, Shared};
use crate::leader::Leadership;
use crate::metrics::OutcomeLabel;

/// Why a reconcile ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Some kind has not been listed yet.
    #[error(transparent)]
    NotSynced(#[from] NotSynced),
    /// The API server refused a read or a write, or did not answer.
    #[error("the API server did not take a call")]
    Api(#[from] kates::Error),
    /// A certificate could not be made.
    #[error("no certificate can be issued")]
    Certificate(#[from] epic_xds::pki::PkiError),
    /// The operator lacks something that it needs from namespace `epic`.
    #[error("{0}")]
    Missing(&'static str),
}

/// What kind of error it is: decides how long to wait, and is the label of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// Somebody wrote first: at once, from a newer snapshot.
    Conflict,
    /// May pass by itself.
    Transient,
    /// Waits for something else to exist.
    Waiting,
}

impl Category {
    /// The label of the metric.
    pub fn label(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Transient => "transient",
            Self::Waiting => "waiting",
        }
    }
}

impl Error {
    /// What kind of error it is.
    pub fn category(&self) -> Category {
        match self {
            Self::Api(error) if error.is_conflict() || error.is_already_exists() || error.is_not_found() => {
                Category::Conflict
            }
            Self::Api(_) | Self::Certificate(_) => Category::Transient,
            Self::NotSynced(_) | Self::Missing(_) => Category::Waiting,
        }
    }
}

/// Failures in a row by object.
#[derive(Debug, Default)]
struct Failures {
    by_object: Mutex<BTreeMap<String, u32>>,
}

impl Failures {
    fn another(&self, object: &str) -> u32 {
        let mut by_object = self.by_object.lock();
        let failures = by_object.entry(object.to_owned()).or_insert(0);
        *failures = failures.saturating_add(1);
        *failures
    }

    fn clear(&self, object: &str) {
        self.by_object.lock().remove(object);
    }
}

/// Runs a controller until `shutdown`, while this replica leads.
pub async fn run<K, R, F>(controller: Queue<K>, context: Shared, shutdown: CancellationToken, reconcile: R)
where
    K: Object<DynamicType = ()>,
    R: Fn(Arc<Subject<K>>, Shared) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Action, Error>> + Send + 'static,
{
    let kind: &'static str = kind_name::<K>();
    context.counters.queues.watch(kind, controller.waiting());
    let failures = Arc::new(Failures::default());
    let cleared = Arc::clone(&failures);
    let counted = move |subject: Arc<Subject<K>>, context: Shared| {
        let reconcile = reconcile.clone();
        let cleared = Arc::clone(&cleared);
        async move {
            let name = subject.key().to_string();
            let _running = context.counters.begins(kind);
            let outcome = reconcile(subject, Arc::clone(&context)).await;
            let label = outcome.as_ref().map_or_else(|error| error.category().label(), |_| "ok");
            context.counters.reconciles.get_or_create(&OutcomeLabel { kind, outcome: label }).inc();
            if outcome.is_ok() {
                cleared.clear(&name);
            }
            outcome
        }
    };
    let policy = move |subject: Arc<Subject<K>>, error: &Error, _: Shared| {
        let count = failures.another(&subject.key().to_string());
        let wait = delay(error.category(), count);
        if error.category() == Category::Transient {
            let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(kind, object = %subject.key(), %error, source, ?wait, "reconcile failed");
        }
        Action::requeue(wait)
    };
    let leadership = context.leadership.clone();
    while_leading(controller, leadership, context, shutdown, counted, policy).await;
}

/// Runs a controller that reconciles only while this replica leads. What happened meanwhile is seen when it begins to,
/// the first time or again: every object is triggered then. So one that comes up in between waits for nothing.
async fn while_leading<K, C, R, F, P>(
    controller: Queue<K>,
    mut leadership: Leadership,
    context: Arc<C>,
    shutdown: CancellationToken,
    reconcile: R,
    policy: P,
) where
    K: Object<DynamicType = ()>,
    C: Send + Sync + 'static,
    R: Fn(Arc<Subject<K>>, Arc<C>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Action, Error>> + Send + 'static,
    P: Fn(Arc<Subject<K>>, &Error, Arc<C>) -> Action + Send + Sync + 'static,
{
    tokio::select! {
        () = shutdown.cancelled() => return,
        () = leadership.acquired() => {}
    }
    // Made before anything is turned away: who is, is triggered by it.
    let begins = leadership.begins();
    let guarded = move |subject: Arc<Subject<K>>, context: Arc<C>| {
        let reconciled = leadership.leads().then(|| reconcile(subject, context));
        async move {
            match reconciled {
                Some(reconciled) => reconciled.await,
                None => Ok(Action::await_change()),
            }
        }
    };
    controller
        .with(|controller| {
            let controller = controller.with_config(Config::default().concurrency(8));
            controller.graceful_shutdown_on(shutdown.cancelled_owned())
        })
        .reconcile_all_on(begins)
        .run(guarded, policy, context)
        .for_each(|_| futures::future::ready(()))
        .await;
}

fn delay(category: Category, failures: u32) -> Duration {
    let (first, longest) = match category {
        Category::Conflict => (Duration::from_millis(20), Duration::from_secs(2)),
        Category::Transient => (Duration::from_millis(500), Duration::from_secs(60)),
        Category::Waiting => (Duration::from_secs(1), Duration::from_secs(10)),
    };
    let base = first.saturating_mul(1 << failures.saturating_sub(1).min(12)).min(longest);
    base + base.mul_f64(rand::rng().random_range(0.0..0.3))
}

/// PUTs the status of `after` at the version of `before`, and tells which conditions changed. Says whether it wrote:
/// nothing is written when nothing differs. Fields of a newer version stay, also in rows that were made anew.
///
/// # Errors
/// What the API server answers.
pub async fn publish_status<K>(context: &Shared, before: &K, mut after: K) -> Result<bool, Error>
where
    K: Object<DynamicType = ()> + HasConditions + KeepsUnknown + PartialEq,
{
    after.carry_unknown(before);
    if after == *before {
        return Ok(false);
    }
    context.counters.wrote(kind_name::<K>());
    context.client.update_status(&mut after).await?;
    context.events.conditions(&before.object_ref(&()), before.conditions(), after.conditions());
    Ok(true)
}

/// Whether an object was accepted as it is now.
pub fn is_accepted_now<K: HasConditions + ResourceExt>(object: &K) -> bool {
    object.condition(ACCEPTED).is_some_and(|known| {
        known.status == ConditionStatus::True && known.observed_generation == object.meta().generation
    })
}

/// The time that conditions change at.
pub fn now() -> Time {
    Time(Timestamp::now())
}

/// Name of a kind for labels, from its type.
fn kind_name<K>() -> &'static str {
    let path = std::any::type_name::<K>();
    path.rsplit("::").next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use kube::runtime::{reflector, watcher};
    use tokio::sync::{mpsc, watch};
    use tokio::time::timeout;

    type Pool = Subject<epic_crds::AddressPool>;

    #[tokio::test]
    async fn whoever_leads_again_reconciles_every_object_once_more() {
        let pool: Pool = serde_json::from_value(serde_json::json!({"metadata": {"name": "a"}})).unwrap();
        let (reader, mut known) = reflector::store::<Pool>();
        for event in [watcher::Event::Init, watcher::Event::InitApply(pool.clone()), watcher::Event::InitDone]
        {
            known.apply_watcher_event(&event);
        }
        let (change, changes) = mpsc::unbounded_channel::<Pool>();
        let changes = stream::unfold(changes, |mut changes| async {
            changes.recv().await.map(|changed| (Ok(changed), changes))
        });
        let (lease, seen) = (watch::Sender::new(true), mpsc::unbounded_channel());
        let (reconciled, mut reconciles) = seen;
        let running = tokio::spawn(while_leading(
            Queue::new(changes, reader),
            Leadership::told_by(&lease),
            Arc::new(()),
            CancellationToken::new(),
            move |subject: Arc<Pool>, _| {
                let _ = reconciled.send(subject.key().name().to_owned());
                futures::future::ready(Ok(Action::await_change()))
            },
            |_, _: &Error, _| Action::await_change(),
        ));
        let mut next =
            async || timeout(Duration::from_secs(30), reconciles.recv()).await.expect("a reconcile");
        change.send(pool.clone()).unwrap();
        assert_eq!(next().await.as_deref(), Some("a"));
        lease.send_replace(false);
        lease.send_replace(true);
        assert_eq!(next().await.as_deref(), Some("a"), "nothing has changed but who leads");
        running.abort();
    }

    #[test]
    fn waits_grow_with_failures_and_stay_bounded() {
        assert!(delay(Category::Conflict, 1) < Duration::from_millis(30));
        assert!(delay(Category::Transient, 40) <= Duration::from_secs(78));
        assert!(delay(Category::Transient, 3) > delay(Category::Transient, 1));
    }

    #[test]
    fn a_kind_is_named_without_its_path() {
        assert_eq!(kind_name::<epic_crds::LoadBalancer>(), "LoadBalancer");
    }
}
