//! The allocators: one loop that looks after EPIC and every Account.
//!
//! A snapshot decides whether a round is needed at all (so a converged system costs no calls); the round itself
//! trusts quorum reads alone. Rounds of one parent never overlap; parents are served side by side, each by a task of its
//! own, so one whose rounds are slow (thousands of fences, an API server that hesitates about one object) holds up no
//! other. A parent is looked at again only when something changed that its plan is made of ([`Touched`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use epic_crds::well_known::{EPIC_NAME, EPIC_NAMESPACE, tenant_namespace};
use epic_crds::{Account, AccountReason, EPIC, EPICSpec, Endpoint, LoadBalancer, LoadBalancerReason};
use epic_model::allocation::{Child, ChildWrite, Counter, FollowUp, Plan, Reason, Write, plan};
use epic_model::id::{Kind, Seconds, Uid};
use jiff::Timestamp;
use kates::{Key, Query, Snapshot};
use kube::api::DynamicObject;
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use rand::Rng;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::execute::{self, Interrupted, LIMIT, Listed, Parent};
use super::facts::Facts;
use super::need::{self, Absences, Around, Remembering};
use super::parent;
use super::touched::Touched;
use super::verdict::{Verdict, Verdicts};
use crate::account::{self, accounts_in_force};
use crate::context::Shared;
use crate::event::Events;
use crate::metrics::OutcomeLabel;
use crate::uninstall;

/// Dead reservations are dropped this long after the last child write, when no other write takes them along.
const FLUSH_AFTER: Duration = Duration::from_secs(1);
/// A requested value that waits for nodes is looked at again after this long.
const NODES_AFTER: Duration = Duration::from_secs(30);
/// Rounds of one parent in a row before others get their turn.
const ROUNDS: usize = 32;
/// Parents served at once.
const CONCURRENT: usize = 8;

/// What the loop remembers; none of it matters for correctness.
#[derive(Default)]
struct Memory {
    absences: Absences,
    last_child_write: Mutex<BTreeMap<Uid, Instant>>,
    /// By parent, its failed rounds in a row, and when the next one may begin.
    failures: Mutex<BTreeMap<Uid, (u32, Instant)>>,
}

impl Memory {
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
    }
}

/// When to look again although nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Next {
    /// After this long; `None`: not before something changes.
    after: Option<Duration>,
    /// Whether it waits for nodes to forget what is gone.
    awaits_nodes: bool,
}

impl Next {
    const QUIET: Self = Self { after: None, awaits_nodes: false };

    fn after(wait: Duration) -> Self {
        Self { after: Some(wait), ..Self::QUIET }
    }

    fn sooner(self, wait: Duration) -> Self {
        Self { after: Some(self.after.map_or(wait, |after| after.min(wait))), ..self }
    }
}

/// A parent that is looked at again when its time has come or something of its own changed.
#[derive(Clone, Copy, Debug)]
struct Rest {
    until: Option<Instant>,
    awaits_nodes: bool,
}

/// Which parents are being served, which rest, and since which snapshot changes are to be looked at.
#[derive(Default)]
struct Turns {
    seen: Option<Snapshot>,
    resting: BTreeMap<Uid, Rest>,
    busy: BTreeSet<Uid>,
    /// Those of the busy ones that something changed for since they began.
    dirty: BTreeSet<Uid>,
    /// Whether one is to be looked at although nothing has changed since the last pass.
    again: bool,
}

impl Turns {
    /// Whether a task for the parent has to be started now; it counts as busy from then on.
    fn begins(&mut self, parent: &Uid, is_touched: impl Fn(bool) -> bool, now: Instant) -> bool {
        if self.busy.contains(parent) {
            // What it waits for is not known before it ends.
            if is_touched(true) {
                self.dirty.insert(parent.clone());
            }
            return false;
        }
        let rests = self
            .resting
            .get(parent)
            .is_some_and(|rest| !is_touched(rest.awaits_nodes) && rest.until.is_none_or(|until| until > now));
        if rests {
            return false;
        }
        self.resting.remove(parent);
        self.busy.insert(parent.clone())
    }

    /// The parent's task has ended.
    fn ended(&mut self, parent: Uid, next: Next, now: Instant) {
        self.busy.remove(&parent);
        if self.dirty.remove(&parent) {
            self.again = true;
        } else {
            let until = next.after.map(|after| now + after);
            self.resting.insert(parent, Rest { until, awaits_nodes: next.awaits_nodes });
        }
    }

    /// How long nothing is due.
    fn idle(&self, now: Instant) -> Option<Duration> {
        let due = self.resting.values().filter_map(|rest| rest.until).min();
        due.map(|due| due.saturating_duration_since(now))
    }

    fn forget_all_but(&mut self, alive: &BTreeSet<Uid>) {
        self.resting.retain(|parent, _| alive.contains(parent));
    }

    /// Looks at everything anew.
    fn restart(&mut self) {
        self.seen = None;
        self.resting.clear();
        self.dirty = self.busy.clone();
    }
}

/// Runs until `shutdown`, whenever this replica leads; what is under way then is brought to its end.
pub async fn run(context: Shared, shutdown: CancellationToken) {
    let memory = Arc::new(Memory::default());
    let places = Arc::new(Semaphore::new(CONCURRENT));
    let mut turns = Turns::default();
    let mut tasks = JoinSet::new();
    let mut updates = context.watches.updates();
    let mut leadership = context.leadership.clone();
    loop {
        let wait = turns.idle(Instant::now()).unwrap_or(context.settings.full_pass);
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = updates.changed() => {}
            Some(ended) = tasks.join_next() => {
                if let Ok((parent, next)) = ended {
                    turns.ended(parent, next, Instant::now());
                }
            }
            () = sleep(wait.min(context.settings.full_pass)) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = leadership.acquired() => {}
        }
        updates.update();
        pass(&context, &memory, &places, &mut turns, &mut tasks);
    }
    while tasks.join_next().await.is_some() {}
}

/// Starts a task for every parent that has to be looked at.
fn pass(
    context: &Shared,
    memory: &Arc<Memory>,
    places: &Arc<Semaphore>,
    turns: &mut Turns,
    tasks: &mut JoinSet<(Uid, Next)>,
) {
    let Ok(snapshot) = context.snapshot() else { return };
    if uninstall::is_under_way(&snapshot) {
        turns.restart();
        return;
    }
    let touched = Touched::between(turns.seen.as_ref(), &snapshot);
    turns.seen = Some(snapshot.clone());
    let again = std::mem::take(&mut turns.again);
    if !again && touched.is_nothing() && turns.idle(Instant::now()).is_none_or(|left| !left.is_zero()) {
        return;
    }
    if touched.balancers_gone {
        let alive = snapshot.list::<LoadBalancer>().filter_map(|balancer| balancer.uid()).map(Uid::from);
        memory.absences.retain(&alive.collect());
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
    let known: BTreeSet<Option<String>> =
        accounts.iter().map(|(account, _)| account.metadata.uid.clone()).collect();
    let retired: Vec<_> = snapshot
        .list::<Account>()
        .filter(|account| account.metadata.deletion_timestamp.is_some())
        .filter(|account| !known.contains(&account.metadata.uid))
        .cloned()
        .collect();
    let in_force = accounts.into_iter().map(|(account, namespace)| (account, Some(namespace)));
    let served: Vec<_> = in_force.chain(retired.into_iter().map(|account| (account, None))).collect();
    let parents = served.iter().filter_map(|(account, _)| account.uid()).chain(epic.uid());
    let parents: BTreeSet<Uid> = parents.map(Uid::from).collect();
    memory.forget_all_but(&parents);
    turns.forget_all_but(&parents);
    context.verdicts.forget_all_but(&parents);
    let now = Instant::now();
    let uid = |meta: Option<String>| Uid::from(meta.unwrap_or_default());
    if !without_epic && turns.begins(&uid(epic.uid()), |awaits_nodes| touched.epic(awaits_nodes), now) {
        let work = EpicRounds { context: Arc::clone(context), epic: Arc::clone(&epic) };
        spawn(context, memory, places, tasks, work);
    }
    for (account, namespace) in served {
        let name = account.name_any();
        let is_touched = |awaits_nodes| touched.account(&name, namespace.as_deref(), awaits_nodes);
        if turns.begins(&uid(account.uid()), is_touched, now) {
            let (context, epic) = (Arc::clone(context), Arc::clone(&epic));
            let work = AccountRounds { context: Arc::clone(&context), account, namespace, epic };
            spawn(&context, memory, places, tasks, work);
        }
    }
}

fn spawn<R>(
    context: &Shared,
    memory: &Arc<Memory>,
    places: &Arc<Semaphore>,
    tasks: &mut JoinSet<(Uid, Next)>,
    work: R,
) where
    R: Rounds + Send + Sync + 'static,
{
    let (context, memory, places) = (Arc::clone(context), Arc::clone(memory), Arc::clone(places));
    tasks.spawn(async move {
        let parent: Uid = work.cached().meta().uid.clone().unwrap_or_default().into();
        // Never closed.
        let _place = places.acquire().await;
        let next = rounds(&context, &memory, &parent, &work).await;
        (parent, next)
    });
}

/// One parent's reads.
trait Rounds {
    type Parent: Parent;
    const KIND: &'static str;
    /// The parent as the snapshot shows it.
    fn cached(&self) -> &Self::Parent;
    /// Parent and children as the snapshot shows them; decides whether a round is needed.
    fn peek(&self, snapshot: &Snapshot, memory: &Memory) -> Option<Glance>;
    /// Quorum reads: the parent, *then* its children.
    fn read(
        &self,
        memory: &Memory,
    ) -> impl Future<Output = Result<Option<Input<Self::Parent>>, Interrupted>> + Send;
}

/// What a plan is made of, as a snapshot shows it.
struct Glance {
    plain: epic_model::allocation::Parent,
    children: Vec<Child>,
    due: Option<Seconds>,
    /// Whether a requested value waits for nodes.
    awaits_nodes: bool,
}

/// What a plan is made of, as quorum reads show it.
struct Input<P> {
    parent: P,
    plain: epic_model::allocation::Parent,
    children: Vec<Child>,
    listed: Listed,
}

async fn rounds<R: Rounds + Sync>(context: &Shared, memory: &Memory, parent: &Uid, work: &R) -> Next {
    if let Some(left) = memory.held_off(parent) {
        return Next::after(left);
    }
    for _ in 0..ROUNDS {
        let Ok(snapshot) = context.snapshot() else { return Next::QUIET };
        if uninstall::is_under_way(&snapshot) {
            return Next::QUIET;
        }
        let Some(peeked) = work.peek(&snapshot, memory) else { return Next::QUIET };
        let due = peeked.due.map(|due| Duration::from_secs(due.since(now()).max(0).unsigned_abs()));
        let due = Next { after: due, awaits_nodes: peeked.awaits_nodes };
        // A node may also stop to count by its silence, which is no change of an object.
        let due = if due.awaits_nodes { due.sooner(NODES_AFTER) } else { due };
        let seen = plan(&peeked.plain, &peeked.children);
        if seen.is_settled() {
            tell(&context.verdicts, &peeked.plain.uid, &seen);
            return due;
        }
        if seen.writes.is_empty() && !seen.more {
            // Only dead reservations are left: give their owners' rounds a moment to take them along.
            let last = memory.last_child_write.lock().get(&peeked.plain.uid).copied();
            let wait = last.map_or(Duration::ZERO, |last| FLUSH_AFTER.saturating_sub(last.elapsed()));
            if !wait.is_zero() {
                return due.sooner(wait);
            }
        }
        let outcome = round(context, memory, work).await;
        let label = match &outcome {
            Ok(_) => "ok",
            Err(Interrupted::Changed) => "conflict",
            Err(_) => "error",
        };
        context.counters.allocations.get_or_create(&OutcomeLabel { kind: R::KIND, outcome: label }).inc();
        match outcome {
            Ok(follow_up) => {
                memory.failures.lock().remove(parent);
                match follow_up {
                    FollowUp::Now => {}
                    FollowUp::Flush => return due.sooner(FLUSH_AFTER),
                    FollowUp::None => return due,
                }
            }
            Err(error) => {
                if let Interrupted::Refused(..) = error {
                    tracing::warn!(parent = R::KIND, %error, source = ?std::error::Error::source(&error), "one object's IDs cannot be written");
                    // Another object that comes or changes is served at once.
                    return due.sooner(memory.failed(parent, &error));
                }
                if !matches!(error, Interrupted::Changed) {
                    tracing::warn!(parent = R::KIND, name = work.cached().name_any(), %error, source = ?std::error::Error::source(&error), "allocation interrupted");
                }
                return Next::after(memory.failed(parent, &error));
            }
        }
    }
    Next::after(Duration::from_millis(100))
}

async fn round<R: Rounds + Sync>(
    context: &Shared,
    memory: &Memory,
    work: &R,
) -> Result<FollowUp, Interrupted> {
    let read = timeout(LIMIT, work.read(memory)).await.map_err(|_| Interrupted::Changed)?;
    let Some(input) = read? else { return Ok(FollowUp::None) };
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
    // A finalizer that goes on after an uninstallation has taken all off would keep its object for good.
    let allowed = || context.snapshot().is_ok_and(|snapshot| !uninstall::is_under_way(&snapshot));
    let told = |write: &ChildWrite| tell_of_ids(&context.events, &input.listed, write);
    let written =
        execute::carry_out(&context.client, &input.parent, &plan, &input.listed, allowed, told).await;
    if plan.child_writes().next().is_some() {
        memory.last_child_write.lock().insert(input.plain.uid.clone(), Instant::now());
    }
    written.map(|()| follow_up)
}

/// Tells whoever got an ID of its own, asked for or not. Of its tunnels, its proxies and its Endpoints it hears by their
/// conditions: they would be as many Events again.
fn tell_of_ids(events: &Events, listed: &Listed, write: &ChildWrite) {
    let Some(object) = listed.objects.get(&write.object.uid) else { return };
    let object = object.object_ref(&execute::resource(write.object.kind));
    for value in &write.grant {
        let text = format!("{} {}", value.counter.noun(), value.value);
        match value.counter {
            Counter::Group => events.note(&object, AccountReason::Allocated, "AllocateID", &text),
            Counter::Service => events.note(&object, LoadBalancerReason::Allocated, "AllocateID", &text),
            Counter::Tunnel | Counter::Proxy | Counter::Endpoint => {}
        }
    }
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

struct EpicRounds {
    context: Shared,
    epic: Arc<EPIC>,
}

impl EpicRounds {
    fn children<'o, A: Facts + 'o, B: Facts + 'o>(
        accounts: impl Iterator<Item = &'o A>,
        balancers: impl Iterator<Item = &'o B>,
        around: &Around<'_>,
        remembering: &Remembering<'_>,
        memory: &Memory,
    ) -> (Vec<Child>, Option<Seconds>) {
        let mut children = need::accounts(accounts, remembering);
        let (datapaths, due) = need::datapaths(balancers, around, &memory.absences, now());
        children.extend(datapaths);
        (children, due)
    }
}

impl Rounds for EpicRounds {
    type Parent = EPIC;
    const KIND: &'static str = "EPIC";

    fn cached(&self) -> &EPIC {
        &self.epic
    }

    fn peek(&self, snapshot: &Snapshot, memory: &Memory) -> Option<Glance> {
        let epic = snapshot.get::<EPIC>(&Key::of(&*self.epic))?;
        let plain = parent::read(epic.as_ref(), &need::epic_ranges(epic)).ok()?;
        let accounts = snapshot.list::<Account>().map(AsRef::as_ref);
        let balancers = snapshot.list::<LoadBalancer>().map(AsRef::as_ref);
        let around = Around::new(snapshot);
        let remembering = Remembering::new(snapshot, None, now());
        let (children, due) =
            Self::children::<Account, LoadBalancer>(accounts, balancers, &around, &remembering, memory);
        Some(Glance { plain, children, due, awaits_nodes: remembering.names_some() })
    }

    async fn read(&self, memory: &Memory) -> Result<Option<Input<EPIC>>, Interrupted> {
        let client = &self.context.client;
        let Some(epic) = client.get_opt::<EPIC>(&Key::of(&*self.epic)).await.map_err(Interrupted::Api)?
        else {
            return Ok(None);
        };
        let accounts = list(&self.context, Kind::Account, &Query::all()).await?;
        let balancers = list(&self.context, Kind::LoadBalancer, &Query::all()).await?;
        let Ok(snapshot) = self.context.snapshot() else { return Ok(None) };
        let plain = match parent::read(&epic, &need::epic_ranges(&epic)) {
            Ok(plain) => plain,
            Err(error) => return unusable(error),
        };
        let around = Around::new(&snapshot);
        let remembering = Remembering::new(&snapshot, None, now());
        let (children, _) = Self::children(accounts.iter(), balancers.iter(), &around, &remembering, memory);
        let rows = need::rows(balancers.iter(), &around, &epic);
        let listed = need::listed(accounts.into_iter().chain(balancers), rows);
        Ok(Some(Input { parent: epic, plain, children, listed }))
    }
}

struct AccountRounds {
    context: Shared,
    account: Arc<Account>,
    /// Where its children are; `None` for one that does not count any more.
    namespace: Option<String>,
    epic: Arc<EPIC>,
}

impl AccountRounds {
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

impl Rounds for AccountRounds {
    type Parent = Account;
    const KIND: &'static str = "Account";

    fn cached(&self) -> &Account {
        &self.account
    }

    fn peek(&self, snapshot: &Snapshot, _: &Memory) -> Option<Glance> {
        let account = snapshot.get::<Account>(&Key::of(&*self.account))?;
        let plain = parent::read(account.as_ref(), &need::account_ranges(&self.epic.spec)).ok()?;
        let Some(namespace) = self.namespace.as_deref() else {
            return Some(Glance { plain, children: Vec::new(), due: None, awaits_nodes: false });
        };
        let balancers = snapshot.in_namespace::<LoadBalancer>(namespace).map(AsRef::as_ref);
        let endpoints = snapshot.in_namespace::<Endpoint>(namespace).map(AsRef::as_ref);
        let remembering = Remembering::new(snapshot, Some(namespace), now());
        let children = need::services::<LoadBalancer, Endpoint>(account, balancers, endpoints, &remembering);
        Some(Glance { plain, children, due: None, awaits_nodes: remembering.names_some() })
    }

    async fn read(&self, _: &Memory) -> Result<Option<Input<Account>>, Interrupted> {
        let client = &self.context.client;
        let found = client.get_opt::<Account>(&Key::of(&*self.account)).await.map_err(Interrupted::Api)?;
        let Some(mut account) = found else { return Ok(None) };
        let (mut balancers, mut endpoints) = (Vec::new(), Vec::new());
        if let Some(namespace) = self.namespace.as_deref() {
            let query = Query::namespace(namespace);
            balancers = list(&self.context, Kind::LoadBalancer, &query).await?;
            endpoints = list(&self.context, Kind::Endpoint, &query).await?;
        }
        if self.counts().await? != self.namespace.is_some() {
            return Ok(None);
        }
        let Ok(snapshot) = self.context.snapshot() else { return Ok(None) };
        let plain = match parent::read(&account, &need::account_ranges(&self.epic.spec)) {
            Ok(plain) => plain,
            Err(error) => return unusable(error),
        };
        let remembering = Remembering::new(&snapshot, self.namespace.as_deref(), now());
        let children = need::services(&account, balancers.iter(), endpoints.iter(), &remembering);
        let listed = need::listed(balancers.into_iter().chain(endpoints), BTreeMap::new());
        if let (Some(namespace), Some(status)) = (self.namespace.as_deref(), account.status.as_mut()) {
            // The figures ride along, so that no write of theirs gets between a round's read and its write.
            let limits = self.context.admissions.of(&snapshot, &self.account, namespace);
            account::keep_usage(status, &limits);
        }
        Ok(Some(Input { parent: account, plain, children, listed }))
    }
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

    #[test]
    fn a_parent_that_is_busy_never_begins_twice_and_what_changes_meanwhile_is_not_lost() {
        let (mut turns, one, other) = (Turns::default(), Uid::from("one"), Uid::from("other"));
        let now = Instant::now();
        let (nothing, something) = (|_: bool| false, |_: bool| true);
        assert!(turns.begins(&one, nothing, now), "it was never looked at");
        assert!(!turns.begins(&one, something, now), "it is under way");
        assert!(turns.begins(&other, nothing, now), "a slow one holds up no other");
        turns.ended(other.clone(), Next::QUIET, now);
        assert!(!turns.begins(&other, nothing, now), "nothing has changed for it");
        turns.ended(one.clone(), Next::QUIET, now);
        assert!(turns.begins(&one, nothing, now), "something changed while it was under way");
        turns.ended(one.clone(), Next::QUIET, now);
        assert!(!turns.begins(&one, nothing, now));
        assert_eq!(turns.idle(now), None);
    }

    #[test]
    fn a_parent_rests_until_its_time_and_a_node_wakes_only_who_waits_for_nodes() {
        let (mut turns, one) = (Turns::default(), Uid::from("one"));
        let (now, nothing) = (Instant::now(), |_: bool| false);
        turns.begins(&one, nothing, now);
        turns.ended(one.clone(), Next::after(Duration::from_secs(3)), now);
        assert_eq!(turns.idle(now), Some(Duration::from_secs(3)));
        let node_moved = |awaits_nodes: bool| awaits_nodes;
        assert!(!turns.begins(&one, node_moved, now));
        assert!(turns.begins(&one, nothing, now + Duration::from_secs(3)));
        turns.ended(one.clone(), Next { after: None, awaits_nodes: true }, now);
        assert!(!turns.begins(&one, nothing, now));
        assert!(turns.begins(&one, node_moved, now));
    }
}
