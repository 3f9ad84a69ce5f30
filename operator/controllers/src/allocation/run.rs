//! The allocators: one loop that looks after EPIC and every Account.
//!
//! A snapshot decides whether a round is needed at all (so a converged system costs no calls); the round itself
//! trusts quorum reads alone. Rounds of one parent never overlap; Accounts are served side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use epic_crds::well_known::{EPIC_NAME, EPIC_NAMESPACE};
use epic_crds::{Account, EPIC, EPICSpec, Endpoint, LoadBalancer};
use epic_model::allocation::{Child, FollowUp, Plan, Reason, plan};
use epic_model::id::{Kind, Seconds, Uid};
use futures::{FutureExt, StreamExt, stream};
use jiff::Timestamp;
use kates::{Key, Query, Snapshot};
use kube::ResourceExt;
use kube::api::DynamicObject;
use parking_lot::Mutex;
use rand::Rng;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::execute::{self, Interrupted, Listed, Parent};
use super::need::{self, Absences};
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
/// Accounts served at once.
const CONCURRENT: usize = 4;
/// Longest wait after a round that the API server did not take.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// What the loop remembers; none of it matters for correctness.
#[derive(Default)]
struct Memory {
    absences: Absences,
    last_child_write: Mutex<BTreeMap<Uid, Instant>>,
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
            () = context.allocate.notified() => {}
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
    let mut next = Next::Quiet;
    let epic = match found {
        Some(epic) => {
            next = rounds(context, memory, &EpicRounds { context, epic: &epic }).await;
            epic
        }
        None => {
            // Accounts that outlive EPIC get nothing any more, but must be able to go.
            accounts.retain(|(account, _)| account.metadata.deletion_timestamp.is_some());
            Arc::new(EPIC::new(EPIC_NAME, EPICSpec::default()))
        }
    };
    // Boxed one by one: closures over borrowed items are not general enough for a spawned task.
    let mut work = Vec::new();
    for (account, namespace) in &accounts {
        let epic = &epic;
        let one = async move { rounds(context, memory, &AccountRounds { context, account, namespace, epic }).await };
        work.push(one.boxed());
    }
    let waits: Vec<Next> = stream::iter(work).buffer_unordered(CONCURRENT).collect().await;
    for wait in waits {
        next = next.sooner(wait);
    }
    next
}

/// One parent's reads.
trait Rounds {
    type Parent: Parent;
    const KIND: &'static str;
    /// The parent as the snapshot shows it.
    fn cached(&self) -> &Self::Parent;
    /// Parent and children as the snapshot shows them; decides whether a round is needed.
    fn peek(&self, snapshot: &Snapshot, memory: &Memory) -> Option<Input<Self::Parent>>;
    /// Quorum reads: the parent, *then* its children.
    async fn read(&self, memory: &Memory) -> Result<Option<Input<Self::Parent>>, Interrupted>;
}

/// What a plan is made of.
struct Input<P> {
    parent: P,
    plain: epic_model::allocation::Parent,
    children: Vec<Child>,
    listed: Listed,
    due: Option<Seconds>,
}

async fn rounds<R: Rounds>(context: &Shared, memory: &Memory, work: &R) -> Next {
    let mut failures = 0;
    for _ in 0..ROUNDS {
        let Ok(snapshot) = context.snapshot() else { return Next::Quiet };
        let Some(peeked) = work.peek(&snapshot, memory) else { return Next::Quiet };
        let due = peeked.due.map(|due| Duration::from_secs(due.since(now()).max(0).unsigned_abs()));
        let due = due.map_or(Next::Quiet, Next::After);
        let seen = plan(&peeked.plain, &peeked.children);
        let verdicts = &context.verdicts;
        if seen.is_settled() {
            tell(verdicts, &peeked.plain.uid, &seen);
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
            Err(Interrupted::Api(_) | Interrupted::NotListed(_)) => "error",
        };
        context.counters.allocations.get_or_create(&OutcomeLabel { kind: R::KIND, outcome: label }).inc();
        match outcome {
            Ok(FollowUp::Now) => failures = 0,
            Ok(FollowUp::Flush) => return due.sooner(Next::After(FLUSH_AFTER)),
            Ok(FollowUp::None) => return due,
            Err(error) => {
                failures += 1;
                let wait = backoff(failures);
                if !matches!(error, Interrupted::Changed) {
                    tracing::warn!(parent = R::KIND, name = work.cached().name_any(), %error, source = ?std::error::Error::source(&error), "allocation interrupted");
                    return Next::After(wait);
                }
                sleep(wait.min(Duration::from_millis(250))).await;
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
            execute::write_parent(&context.client, &input.parent, flush).await?;
            context.counters.wrote(R::KIND);
        }
        return Ok(if plan.more { FollowUp::Now } else { FollowUp::None });
    }
    let follow_up = plan.follow_up();
    let written = execute::carry_out(&context.client, &input.parent, &plan, &input.listed).await;
    if plan.child_writes().next().is_some() {
        memory.last_child_write.lock().insert(input.plain.uid.clone(), Instant::now());
    }
    for _ in 0..written? {
        context.counters.wrote(R::KIND);
    }
    Ok(follow_up)
}

fn tell(verdicts: &Verdicts, parent: &Uid, plan: &Plan) {
    let refusals = plan.refusals.iter().map(|refusal| {
        let exhausted = matches!(refusal.reason, Reason::Exhausted { .. });
        (refusal.object.clone(), Verdict { duplicate: false, exhausted, message: refusal.to_string() })
    });
    let duplicates = plan.duplicates.iter().map(|duplicate| {
        let message = format!(
            "{} {} belongs to {}, which is older; delete this object and create it anew",
            duplicate.counter.noun(),
            duplicate.value,
            duplicate.keeper
        );
        (duplicate.other.clone(), Verdict { duplicate: true, exhausted: false, message })
    });
    verdicts.publish(parent, duplicates.chain(refusals));
}

struct EpicRounds<'c> {
    context: &'c Shared,
    epic: &'c EPIC,
}

impl EpicRounds<'_> {
    fn input(
        &self,
        epic: EPIC,
        accounts: Vec<DynamicObject>,
        balancers: Vec<DynamicObject>,
        snapshot: &Snapshot,
        memory: &Memory,
    ) -> Result<Input<EPIC>, parent::Unusable> {
        let plain = parent::read(&epic, &need::epic_ranges(&epic))?;
        let mut children = need::accounts(accounts.iter(), &need::remembering(snapshot, None, now()));
        let system = &self.context.settings.namespace;
        let (datapaths, rows, due) =
            need::datapaths(balancers.iter(), snapshot, &epic, system, &memory.absences, now());
        children.extend(datapaths);
        let listed = need::listed(accounts.into_iter().chain(balancers), rows);
        Ok(Input { parent: epic, plain, children, listed, due })
    }
}

impl Rounds for EpicRounds<'_> {
    type Parent = EPIC;
    const KIND: &'static str = "EPIC";

    fn cached(&self) -> &EPIC {
        self.epic
    }

    fn peek(&self, snapshot: &Snapshot, memory: &Memory) -> Option<Input<EPIC>> {
        let epic = snapshot.get::<EPIC>(&Key::of(self.epic))?;
        let accounts = untyped(snapshot.list::<Account>().map(AsRef::as_ref));
        let balancers = untyped(snapshot.list::<LoadBalancer>().map(AsRef::as_ref));
        self.input(epic.as_ref().clone(), accounts, balancers, snapshot, memory).ok()
    }

    async fn read(&self, memory: &Memory) -> Result<Option<Input<EPIC>>, Interrupted> {
        let client = &self.context.client;
        let Some(epic) = client.get_opt::<EPIC>(&Key::of(self.epic)).await.map_err(Interrupted::Api)? else {
            return Ok(None);
        };
        let accounts = list(self.context, Kind::Account, &Query::all()).await?;
        let balancers = list(self.context, Kind::LoadBalancer, &Query::all()).await?;
        let Ok(snapshot) = self.context.snapshot() else { return Ok(None) };
        self.input(epic, accounts, balancers, &snapshot, memory).map(Some).or_else(unusable)
    }
}

struct AccountRounds<'c> {
    context: &'c Shared,
    account: &'c Account,
    namespace: &'c str,
    epic: &'c EPIC,
}

impl AccountRounds<'_> {
    fn input(
        &self,
        account: Account,
        balancers: Vec<DynamicObject>,
        endpoints: Vec<DynamicObject>,
        snapshot: &Snapshot,
    ) -> Result<Input<Account>, parent::Unusable> {
        let plain = parent::read(&account, &need::account_ranges(&self.epic.spec))?;
        let children = need::services(
            &account,
            balancers.iter(),
            endpoints.iter(),
            &need::remembering(snapshot, Some(self.namespace), now()),
        );
        let listed = need::listed(balancers.into_iter().chain(endpoints), BTreeMap::new());
        Ok(Input { parent: account, plain, children, listed, due: None })
    }
}

impl Rounds for AccountRounds<'_> {
    type Parent = Account;
    const KIND: &'static str = "Account";

    fn cached(&self) -> &Account {
        self.account
    }

    fn peek(&self, snapshot: &Snapshot, _: &Memory) -> Option<Input<Account>> {
        let account = snapshot.get::<Account>(&Key::of(self.account))?;
        let balancers = untyped(snapshot.in_namespace::<LoadBalancer>(self.namespace).map(AsRef::as_ref));
        let endpoints = untyped(snapshot.in_namespace::<Endpoint>(self.namespace).map(AsRef::as_ref));
        self.input(account.as_ref().clone(), balancers, endpoints, snapshot).ok()
    }

    async fn read(&self, _: &Memory) -> Result<Option<Input<Account>>, Interrupted> {
        let client = &self.context.client;
        let found = client.get_opt::<Account>(&Key::of(self.account)).await.map_err(Interrupted::Api)?;
        let Some(account) = found else { return Ok(None) };
        let query = Query::namespace(self.namespace);
        let balancers = list(self.context, Kind::LoadBalancer, &query).await?;
        let endpoints = list(self.context, Kind::Endpoint, &query).await?;
        let Ok(snapshot) = self.context.snapshot() else { return Ok(None) };
        self.input(account, balancers, endpoints, &snapshot).map(Some).or_else(unusable)
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

/// Typed objects in the form the plan's inputs are read from.
fn untyped<'k, K: serde::Serialize + 'k>(objects: impl Iterator<Item = &'k K>) -> Vec<DynamicObject> {
    objects.filter_map(|object| serde_json::to_value(object).and_then(serde_json::from_value).ok()).collect()
}

fn now() -> Seconds {
    Seconds(Timestamp::now().as_second())
}

/// 50 ms doubling to 15 s, each with up to half of it added at random.
fn backoff(failures: u32) -> Duration {
    let base = Duration::from_millis(50).saturating_mul(1 << failures.min(12)).min(LONGEST_WAIT);
    base + base.mul_f64(rand::rng().random_range(0.0..0.5))
}
