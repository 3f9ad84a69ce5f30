//! The allocators: one loop that looks after EPIC and every Account.
//!
//! A snapshot decides whether a round is needed at all (so a converged system costs no calls); the round itself
//! trusts quorum reads alone. Rounds of one parent never overlap; parents are served side by side, and one whose
//! round met another operator's gives way to the others before its next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use epic_crds::well_known::{EPIC_NAME, EPIC_NAMESPACE, tenant_namespace};
use epic_crds::{Account, AddressClaim, EPIC, EPICNode, EPICSpec, Endpoint, LoadBalancer};
use epic_model::allocation::{Child, ChildWrite, Counter, FollowUp, Plan, Reason, Write, plan};
use epic_model::id::{Kind, Seconds, Uid};
use futures::{FutureExt, StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kates::{Key, Query, Snapshot};
use kube::api::DynamicObject;
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use rand::Rng;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::execute::{self, Interrupted, Listed, Parent};
use super::facts::Facts;
use super::need::{self, Absences, Around};
use super::parent;
use super::verdict::{Verdict, Verdicts};
use crate::account::accounts_in_force;
use crate::context::Shared;
use crate::metrics::OutcomeLabel;
use crate::uninstall;

/// Dead reservations are dropped this long after the last child write, when no other write takes them along.
const FLUSH_AFTER: Duration = Duration::from_secs(1);
/// Rounds of one parent in a row before others get their turn.
const ROUNDS: usize = 32;
/// Parents served at once.
const CONCURRENT: usize = 4;

/// What the loop remembers; none of it matters for correctness.
#[derive(Default)]
struct Memory {
    absences: Absences,
    last_child_write: Mutex<BTreeMap<Uid, Instant>>,
    /// By parent, its failed rounds in a row, and when the next one may begin.
    failures: Mutex<BTreeMap<Uid, (u32, Instant)>>,
    /// By parent, the snapshot that showed it settled, and until when that holds.
    settled: Mutex<BTreeMap<Uid, (Snapshot, Option<Instant>)>>,
}

impl Memory {
    /// What is left of a settled parent's rest, if nothing that its plan is made of has changed since.
    fn at_rest(
        &self,
        parent: &Uid,
        snapshot: &Snapshot,
        concerns: impl Fn(&Snapshot) -> bool,
    ) -> Option<Next> {
        let (seen, until) = self.settled.lock().remove(parent)?;
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) || concerns(&seen) {
            return None;
        }
        // The next comparison starts here, so the older state can go.
        self.settled.lock().insert(parent.clone(), (snapshot.clone(), until));
        Some(left.map_or(Next::Quiet, Next::After))
    }

    fn rest(&self, parent: Uid, snapshot: Snapshot, next: Next) {
        let until = match next {
            Next::Quiet => None,
            Next::After(wait) => Some(Instant::now() + wait),
        };
        self.settled.lock().insert(parent, (snapshot, until));
    }

    /// Notes that a round of the parent failed; answers how long its next one waits.
    fn failed(&self, parent: &Uid, error: &Interrupted) -> Duration {
        let mut failures = self.failures.lock();
        let (count, next) = failures.entry(parent.clone()).or_insert((0, Instant::now()));
        *count = count.saturating_add(1);
        let wait = backoff(*count, error);
        // What is about one object holds no other one up.
        if !matches!(error, Interrupted::Refused(..)) {
            *next = Instant::now() + wait;
        }
        wait
    }

    /// How long the parent still waits after a failed round, whatever changes meanwhile.
    fn held_off(&self, parent: &Uid) -> Option<Duration> {
        let (_, next) = *self.failures.lock().get(parent)?;
        Some(next.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    fn forget_all_but(&self, alive: &BTreeSet<Uid>) {
        self.last_child_write.lock().retain(|parent, _| alive.contains(parent));
        self.failures.lock().retain(|parent, _| alive.contains(parent));
        self.settled.lock().retain(|parent, _| alive.contains(parent));
    }
}

/// When to look again although nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Not before something changes.
    Quiet,
    /// After this long.
    After(Duration),
}

impl Next {
    fn sooner(self, other: Self) -> Self {
        match (self, other) {
            (Self::After(a), Self::After(b)) => Self::After(a.min(b)),
            (Self::Quiet, other) => other,
            (this, Self::Quiet) => this,
        }
    }
}

/// Runs until `shutdown`, whenever this replica leads.
pub async fn run(context: Shared, shutdown: CancellationToken) {
    let memory = Memory::default();
    let mut updates = context.watches.updates();
    let mut leadership = context.leadership.clone();
    let mut next = Next::After(Duration::ZERO);
    loop {
        let wait = match next {
            Next::Quiet => context.settings.full_pass,
            Next::After(wait) => wait.min(context.settings.full_pass),
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = updates.changed() => {}
            () = sleep(wait) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = leadership.acquired() => {}
        }
        updates.update();
        next = pass(&context, &memory).await;
    }
}

async fn pass(context: &Shared, memory: &Memory) -> Next {
    let Ok(snapshot) = context.snapshot() else { return Next::Quiet };
    let alive: BTreeSet<Uid> =
        snapshot.list::<LoadBalancer>().filter_map(|balancer| balancer.uid()).map(Uid::from).collect();
    memory.absences.retain(&alive);
    if uninstall::is_under_way(&snapshot) {
        return Next::Quiet;
    }
    let found = snapshot.get::<EPIC>(&Key::namespaced(EPIC_NAMESPACE, EPIC_NAME)).cloned();
    let mut accounts: Vec<_> = accounts_in_force(&snapshot);
    let without_epic = found.is_none();
    if without_epic {
        // Accounts that outlive EPIC get nothing any more, but must be able to go.
        accounts.retain(|(account, _)| account.metadata.deletion_timestamp.is_some());
    }
    let epic = found.unwrap_or_else(|| Arc::new(EPIC::new(EPIC_NAME, EPICSpec::default())));
    // One that does not count (any more) has no children; only its finalizer is left to be taken off.
    let retired: Vec<_> = snapshot
        .list::<Account>()
        .filter(|account| account.metadata.deletion_timestamp.is_some())
        .filter(|account| !accounts.iter().any(|(known, _)| known.metadata.uid == account.metadata.uid))
        .collect();
    let in_force = accounts.iter().map(|(account, namespace)| (account, Some(namespace.as_str())));
    let served: Vec<_> = in_force.chain(retired.into_iter().map(|account| (account, None))).collect();
    let parents = served.iter().filter_map(|(account, _)| account.uid()).chain(epic.uid());
    let parents: BTreeSet<Uid> = parents.map(Uid::from).collect();
    memory.forget_all_but(&parents);
    context.verdicts.forget_all_but(&parents);
    // Boxed one by one: closures over borrowed items are not general enough for a spawned task.
    let mut work = Vec::new();
    if !without_epic {
        let one = EpicRounds { context, epic: &epic };
        work.push(async move { rounds(context, memory, &one).await }.boxed());
    }
    for (account, namespace) in served {
        let epic = &epic;
        let one = async move {
            rounds(context, memory, &AccountRounds { context, account, namespace, epic }).await
        };
        work.push(one.boxed());
    }
    let waits: Vec<Next> = stream::iter(work).buffer_unordered(CONCURRENT).collect().await;
    waits.into_iter().fold(Next::Quiet, Next::sooner)
}

/// One parent's reads.
trait Rounds {
    type Parent: Parent;
    const KIND: &'static str;
    /// The parent as the snapshot shows it.
    fn cached(&self) -> &Self::Parent;
    /// Whether something that the plan is made of differs between two snapshots.
    fn concerns(&self, before: &Snapshot, after: &Snapshot) -> bool;
    /// Parent and children as the snapshot shows them; decides whether a round is needed.
    fn peek(&self, snapshot: &Snapshot, memory: &Memory) -> Option<Glance>;
    /// Quorum reads: the parent, *then* its children.
    async fn read(&self, memory: &Memory) -> Result<Option<Input<Self::Parent>>, Interrupted>;
}

/// What a plan is made of, as a snapshot shows it.
struct Glance {
    plain: epic_model::allocation::Parent,
    children: Vec<Child>,
    due: Option<Seconds>,
}

/// What a plan is made of, as quorum reads show it.
struct Input<P> {
    parent: P,
    plain: epic_model::allocation::Parent,
    children: Vec<Child>,
    listed: Listed,
}

async fn rounds<R: Rounds>(context: &Shared, memory: &Memory, work: &R) -> Next {
    let parent: Uid = work.cached().meta().uid.clone().unwrap_or_default().into();
    if let Some(left) = memory.held_off(&parent) {
        return Next::After(left);
    }
    for _ in 0..ROUNDS {
        let Ok(snapshot) = context.snapshot() else { return Next::Quiet };
        if let Some(rest) = memory.at_rest(&parent, &snapshot, |before| work.concerns(before, &snapshot)) {
            return rest;
        }
        let Some(peeked) = work.peek(&snapshot, memory) else { return Next::Quiet };
        let due = peeked.due.map(|due| Duration::from_secs(due.since(now()).max(0).unsigned_abs()));
        let due = due.map_or(Next::Quiet, Next::After);
        let seen = plan(&peeked.plain, &peeked.children);
        let verdicts = &context.verdicts;
        if seen.is_settled() {
            tell(verdicts, &peeked.plain.uid, &seen);
            memory.rest(parent, snapshot, due);
            return due;
        }
        if seen.writes.is_empty() && !seen.more {
            // Only dead reservations are left: give their owners' rounds a moment to take them along.
            let last = memory.last_child_write.lock().get(&peeked.plain.uid).copied();
            let wait = last.map_or(Duration::ZERO, |last| FLUSH_AFTER.saturating_sub(last.elapsed()));
            if !wait.is_zero() {
                return due.sooner(Next::After(wait));
            }
        }
        let outcome = match timeout(Duration::from_secs(60), round(context, memory, work)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Interrupted::Changed),
        };
        let label = match &outcome {
            Ok(_) => "ok",
            Err(Interrupted::Changed) => "conflict",
            Err(_) => "error",
        };
        context.counters.allocations.get_or_create(&OutcomeLabel { kind: R::KIND, outcome: label }).inc();
        match outcome {
            Ok(follow_up) => {
                memory.failures.lock().remove(&parent);
                match follow_up {
                    FollowUp::Now => {}
                    FollowUp::Flush => return due.sooner(Next::After(FLUSH_AFTER)),
                    FollowUp::None => return due,
                }
            }
            Err(error) => {
                if let Interrupted::Refused(..) = error {
                    tracing::warn!(parent = R::KIND, %error, source = ?std::error::Error::source(&error), "one object's IDs cannot be written");
                    // Another object that comes or changes is served at once.
                    let next = due.sooner(Next::After(memory.failed(&parent, &error)));
                    memory.rest(parent, snapshot, next);
                    return next;
                }
                if !matches!(error, Interrupted::Changed) {
                    tracing::warn!(parent = R::KIND, name = work.cached().name_any(), %error, source = ?std::error::Error::source(&error), "allocation interrupted");
                }
                return Next::After(memory.failed(&parent, &error));
            }
        }
    }
    Next::After(Duration::from_millis(100))
}

async fn round<R: Rounds>(context: &Shared, memory: &Memory, work: &R) -> Result<FollowUp, Interrupted> {
    let Some(input) = work.read(memory).await? else { return Ok(FollowUp::None) };
    let plan = plan(&input.plain, &input.children);
    tell(&context.verdicts, &input.plain.uid, &plan);
    if plan.writes.is_empty() {
        if let Some(flush) = &plan.flush {
            context.counters.wrote(R::KIND);
            execute::write_parent(&context.client, &input.parent, flush).await?;
        }
        return Ok(if plan.more { FollowUp::Now } else { FollowUp::None });
    }
    let follow_up = plan.follow_up();
    for write in &plan.writes {
        context.counters.wrote(match write {
            Write::Fence { object, .. } | Write::Child(ChildWrite { object, .. }) => object.kind.name(),
            Write::Parent(_) | Write::FinalizerOn { .. } | Write::FinalizerOff { .. } => R::KIND,
        });
    }
    let written = execute::carry_out(&context.client, &input.parent, &plan, &input.listed).await;
    if plan.child_writes().next().is_some() {
        memory.last_child_write.lock().insert(input.plain.uid.clone(), Instant::now());
    }
    written.map(|()| follow_up)
}

fn tell(verdicts: &Verdicts, parent: &Uid, plan: &Plan) {
    let refusals = plan.refusals.iter().map(|refusal| {
        let exhausted = matches!(refusal.reason, Reason::Exhausted { .. });
        let taken = refusal.counter == Counter::Service && matches!(refusal.reason, Reason::Taken { .. });
        let message = refusal.to_string();
        (refusal.object.clone(), Verdict { duplicate: false, exhausted, taken, message })
    });
    let duplicates = plan.duplicates.iter().map(|duplicate| {
        let message = format!(
            "{} {} belongs to {}, which is older; delete this object and create it anew",
            duplicate.counter.noun(),
            duplicate.value,
            duplicate.keeper
        );
        let verdict = Verdict { duplicate: true, exhausted: false, taken: false, message };
        (duplicate.other.clone(), verdict)
    });
    verdicts.publish(parent, duplicates.chain(refusals));
}

struct EpicRounds<'c> {
    context: &'c Shared,
    epic: &'c EPIC,
}

impl EpicRounds<'_> {
    fn children<'o, A: Facts + 'o, B: Facts + 'o>(
        accounts: impl Iterator<Item = &'o A>,
        balancers: impl Iterator<Item = &'o B>,
        around: &Around<'_>,
        snapshot: &Snapshot,
        memory: &Memory,
    ) -> (Vec<Child>, Option<Seconds>) {
        let mut children = need::accounts(accounts, &need::remembering(snapshot, None, now()));
        let (datapaths, due) = need::datapaths(balancers, around, &memory.absences, now());
        children.extend(datapaths);
        (children, due)
    }
}

impl Rounds for EpicRounds<'_> {
    type Parent = EPIC;
    const KIND: &'static str = "EPIC";

    fn cached(&self) -> &EPIC {
        self.epic
    }

    fn concerns(&self, before: &Snapshot, after: &Snapshot) -> bool {
        differs::<EPIC>(before, after)
            || differs::<Account>(before, after)
            || differs::<LoadBalancer>(before, after)
            || differs_in(before, after, need::part_of_endpoint)
            || differs_in(before, after, need::part_of_pod)
            || differs_in(before, after, |set: &ReplicaSet| set.owner_references().to_vec())
            || differs_in(before, after, |deployment: &Deployment| deployment.owner_references().to_vec())
            || nodes_differ(before, after)
    }

    fn peek(&self, snapshot: &Snapshot, memory: &Memory) -> Option<Glance> {
        let epic = snapshot.get::<EPIC>(&Key::of(self.epic))?;
        let plain = parent::read(epic.as_ref(), &need::epic_ranges(epic)).ok()?;
        let accounts = snapshot.list::<Account>().map(AsRef::as_ref);
        let balancers = snapshot.list::<LoadBalancer>().map(AsRef::as_ref);
        let around = Around::new(snapshot);
        let (children, due) =
            Self::children::<Account, LoadBalancer>(accounts, balancers, &around, snapshot, memory);
        Some(Glance { plain, children, due })
    }

    async fn read(&self, memory: &Memory) -> Result<Option<Input<EPIC>>, Interrupted> {
        let client = &self.context.client;
        let Some(epic) = client.get_opt::<EPIC>(&Key::of(self.epic)).await.map_err(Interrupted::Api)? else {
            return Ok(None);
        };
        let accounts = list(self.context, Kind::Account, &Query::all()).await?;
        let balancers = list(self.context, Kind::LoadBalancer, &Query::all()).await?;
        let Ok(snapshot) = self.context.snapshot() else { return Ok(None) };
        let plain = match parent::read(&epic, &need::epic_ranges(&epic)) {
            Ok(plain) => plain,
            Err(error) => return unusable(error),
        };
        let around = Around::new(&snapshot);
        let (children, _) = Self::children(accounts.iter(), balancers.iter(), &around, &snapshot, memory);
        let rows = need::rows(balancers.iter(), &around, &epic);
        let listed = need::listed(accounts.into_iter().chain(balancers), rows);
        Ok(Some(Input { parent: epic, plain, children, listed }))
    }
}

struct AccountRounds<'c> {
    context: &'c Shared,
    account: &'c Account,
    /// Where its children are; `None` for one that does not count any more.
    namespace: Option<&'c str>,
    epic: &'c EPIC,
}

impl AccountRounds<'_> {
    /// Whether the Account counts, by a quorum read that follows the list of its children. A namesake in `epic` that
    /// is not there yet will fence whatever is planned with that list; one that is there hands out the same IDs.
    async fn counts(&self) -> Result<bool, Interrupted> {
        let (name, namespace) = (self.account.name_any(), self.account.namespace().unwrap_or_default());
        if namespace != tenant_namespace(&name) {
            return Ok(self.namespace.is_some());
        }
        let namesake = Key::namespaced(EPIC_NAMESPACE, name);
        let found = self.context.client.get_opt::<Account>(&namesake).await.map_err(Interrupted::Api)?;
        Ok(found.is_none())
    }
}

impl Rounds for AccountRounds<'_> {
    type Parent = Account;
    const KIND: &'static str = "Account";

    fn cached(&self) -> &Account {
        self.account
    }

    fn concerns(&self, before: &Snapshot, after: &Snapshot) -> bool {
        differs_in(before, after, |epic: &EPIC| epic.spec.clone())
            || differs::<Account>(before, after)
            || touches::<LoadBalancer>(before, after, self.namespace)
            || touches::<Endpoint>(before, after, self.namespace)
            || nodes_differ(before, after)
    }

    fn peek(&self, snapshot: &Snapshot, _: &Memory) -> Option<Glance> {
        let account = snapshot.get::<Account>(&Key::of(self.account))?;
        let plain = parent::read(account.as_ref(), &need::account_ranges(&self.epic.spec)).ok()?;
        let Some(namespace) = self.namespace else {
            return Some(Glance { plain, children: Vec::new(), due: None });
        };
        let balancers = snapshot.in_namespace::<LoadBalancer>(namespace).map(AsRef::as_ref);
        let endpoints = snapshot.in_namespace::<Endpoint>(namespace).map(AsRef::as_ref);
        let remembering = need::remembering(snapshot, Some(namespace), now());
        let children = need::services::<LoadBalancer, Endpoint>(account, balancers, endpoints, &remembering);
        Some(Glance { plain, children, due: None })
    }

    async fn read(&self, _: &Memory) -> Result<Option<Input<Account>>, Interrupted> {
        let client = &self.context.client;
        let found = client.get_opt::<Account>(&Key::of(self.account)).await.map_err(Interrupted::Api)?;
        let Some(account) = found else { return Ok(None) };
        let (mut balancers, mut endpoints) = (Vec::new(), Vec::new());
        if let Some(namespace) = self.namespace {
            let query = Query::namespace(namespace);
            balancers = list(self.context, Kind::LoadBalancer, &query).await?;
            endpoints = list(self.context, Kind::Endpoint, &query).await?;
        }
        if self.counts().await? != self.namespace.is_some() {
            return Ok(None);
        }
        let Ok(snapshot) = self.context.snapshot() else { return Ok(None) };
        let plain = match parent::read(&account, &need::account_ranges(&self.epic.spec)) {
            Ok(plain) => plain,
            Err(error) => return unusable(error),
        };
        let remembering = need::remembering(&snapshot, self.namespace, now());
        let children = need::services(&account, balancers.iter(), endpoints.iter(), &remembering);
        let listed = need::listed(balancers.into_iter().chain(endpoints), BTreeMap::new());
        Ok(Some(Input { parent: account, plain, children, listed }))
    }
}

/// Whether any object of a kind differs between two snapshots.
fn differs<K: kates::Object>(before: &Snapshot, after: &Snapshot) -> bool {
    !after.changes_since::<K>(Some(before)).is_empty()
}

/// Whether any object of a kind differs in the namespace.
fn touches<K: kates::Object>(before: &Snapshot, after: &Snapshot, namespace: Option<&str>) -> bool {
    after.changes_since::<K>(Some(before)).iter().any(|change| change.key.namespace() == namespace)
}

/// Whether any object of a kind differs in a part of it.
fn differs_in<K: kates::Object, P: PartialEq>(
    before: &Snapshot,
    after: &Snapshot,
    part: impl Fn(&K) -> P,
) -> bool {
    let of = |object: Option<&Arc<K>>| object.map(|object| part(object));
    let changes = after.changes_since::<K>(Some(before));
    changes.iter().any(|change| of(change.before.as_ref()) != of(change.after.as_ref()))
}

/// Whether nodes may have forgotten old owners of IDs, or have other addresses.
fn nodes_differ(before: &Snapshot, after: &Snapshot) -> bool {
    differs::<AddressClaim>(before, after)
        || differs_in(before, after, |node: &EPICNode| {
            let status = node.status.clone().unwrap_or_default();
            (status.addresses, status.load_balancers_revision)
        })
}

/// A parent that cannot be used says so in its own condition; here it only means that nothing is handed out.
fn unusable<P>(error: parent::Unusable) -> Result<Option<Input<P>>, Interrupted> {
    tracing::warn!(%error, "nothing is allocated from this parent");
    Ok(None)
}

/// One consistent list by a quorum read.
async fn list(context: &Shared, kind: Kind, query: &Query) -> Result<Vec<DynamicObject>, Interrupted> {
    let kinds = context.client.kind_of::<DynamicObject>(execute::resource(kind));
    Ok(kinds.list(query).await.map_err(Interrupted::Api)?.items)
}

fn now() -> Seconds {
    Seconds(Timestamp::now().as_second())
}

/// How long to wait after so many failed rounds in a row. Half of it and as much again is left to chance: two
/// operators that met once would otherwise meet again and again.
fn backoff(failures: u32, error: &Interrupted) -> Duration {
    let (first, longest) = match error {
        Interrupted::Changed => (Duration::from_millis(50), Duration::from_millis(800)),
        Interrupted::Api(_) | Interrupted::Refused(..) | Interrupted::NotListed(_) => {
            (Duration::from_millis(100), Duration::from_secs(15))
        }
    };
    let base = first.saturating_mul(1 << failures.saturating_sub(1).min(12)).min(longest);
    base.mul_f64(rand::rng().random_range(0.5..1.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_with_failures_and_stay_bounded() {
        let refused = Interrupted::NotListed(String::new());
        assert!(backoff(1, &Interrupted::Changed) < Duration::from_millis(75));
        assert!(backoff(40, &Interrupted::Changed) <= Duration::from_millis(1_200));
        assert!(backoff(4, &refused) > backoff(1, &refused));
        assert!(backoff(40, &refused) <= Duration::from_millis(22_500));
    }

    #[test]
    fn a_parent_waits_after_a_failed_round_and_others_do_not() {
        let memory = Memory::default();
        let (one, other) = (Uid::from("one"), Uid::from("other"));
        let refused = Interrupted::NotListed(String::new());
        for _ in 0..12 {
            memory.failed(&one, &refused);
        }
        assert!(memory.held_off(&one).is_some());
        assert_eq!(memory.held_off(&other), None);
        memory.forget_all_but(&BTreeSet::from([other]));
        assert_eq!(memory.held_off(&one), None);
    }
}
