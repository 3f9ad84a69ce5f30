//! What an Account's status says. One PUT, and only when something differs.

use std::time::{Duration, Instant};

use epic_crds::condition::{ACCEPTED, READY, set};
use epic_crds::rest;
use epic_crds::well_known::LABEL_ACCOUNT;
use epic_crds::{Account, AccountReason as Reason, AccountStatus, AccountUsage};
use epic_model::id::Uid;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::runtime::controller::Action;

use super::Limits;
use super::apply::{Waiting, complete_spec};
use super::dereference::Found;
use crate::context::Shared;
use crate::reconcile::{Error, now, publish_status};
use crate::tenant::keys::MOST_LOAD_BALANCERS;

/// Another look after a write of our own.
const SOON: Duration = Duration::from_secs(1);
/// How long a mere figure gives way to an allocation that is under way on the same object.
const GIVE_WAY: Duration = Duration::from_millis(500);

/// Writes `Accepted`; says whether it wrote.
///
/// # Errors
/// What the API server answers.
pub(super) async fn accepted(
    context: &Shared,
    found: &Found,
    judged: Result<(), &(Reason, String)>,
) -> Result<bool, Error> {
    let status = verdict(&found.account, judged, &now());
    write(context, found, status).await
}

/// The status with what was judged.
pub(super) fn verdict(account: &Account, judged: Result<(), &(Reason, String)>, now: &Time) -> AccountStatus {
    let mut status = account.status.clone().unwrap_or_default();
    let generation = account.metadata.generation;
    match judged {
        Ok(()) => {
            set(&mut status.conditions, ACCEPTED, true, Reason::Accepted, "", generation, now);
        }
        Err((reason, text)) => {
            for type_ in [ACCEPTED, READY] {
                set(&mut status.conditions, type_, false, *reason, text.as_str(), generation, now);
            }
        }
    }
    status
}

/// Writes the rest, then completes the spec.
///
/// # Errors
/// What the API server answers.
pub(super) async fn publish(
    context: &Shared,
    found: &Found,
    namespace: &str,
    done: &Result<(), Waiting>,
) -> Result<Action, Error> {
    let before = found.account.status.clone().unwrap_or_default();
    let status = status(found, namespace, done, &now());
    let uid: Uid = found.account.uid().unwrap_or_default().into();
    if status == before {
        context.figures.current(&uid);
    } else if (AccountStatus { usage: before.usage.clone(), ..status.clone() } == before) {
        // Nobody waits for a figure, while a write of it makes the allocator begin anew; its rounds take it along.
        let late = match before.reservations.is_empty() {
            true => context.figures.wait(&uid, Instant::now()),
            false => Some(GIVE_WAY),
        };
        if let Some(wait) = late {
            let completed = complete_spec(context, &found.account).await?;
            let waits_for_more = done.as_ref().err().filter(|waiting| waiting.ask_again).map(Waiting::soon);
            let soon = if completed { Some(SOON) } else { waits_for_more };
            return Ok(Action::requeue(soon.map_or(wait, |soon| soon.min(wait))));
        }
    }
    if write(context, found, status).await? || complete_spec(context, &found.account).await? {
        // The write rings this controller's own bell.
        return Ok(Action::requeue(SOON));
    }
    Ok(match done {
        Err(waiting) if waiting.ask_again => Action::requeue(waiting.soon()),
        _ => Action::requeue(context.settings.full_pass),
    })
}

/// The status of an accepted Account as it should be.
///
/// What the allocator could not give is told in `Ready`. It must never reach `Accepted`: only what is accepted asks
/// for an ID, so one that lost it for want of an ID would ask no more, be accepted again, and so on without end.
pub(super) fn status(
    found: &Found,
    namespace: &str,
    done: &Result<(), Waiting>,
    now: &Time,
) -> AccountStatus {
    let mut status = found.account.status.clone().unwrap_or_default();
    let housed = !matches!(
        done,
        Err(Waiting { reason: Reason::NamespaceNotAdopted | Reason::NamespaceTerminating, .. })
    );
    status.namespace = housed.then(|| namespace.to_owned());
    status.namespace_uid = taken(found).filter(|_| housed);
    let (ready, reason, message) = match (&found.verdict, done) {
        (Some(verdict), _) => {
            let reason = match (verdict.duplicate, verdict.exhausted) {
                (true, _) => Reason::DuplicateGrant,
                (false, true) => Reason::IdsExhausted,
                (false, false) => Reason::GroupIdTaken,
            };
            (false, reason, verdict.message.clone())
        }
        (None, Err(waiting)) => (false, waiting.reason, waiting.message.clone()),
        (None, Ok(())) if status.group_id.is_none() => {
            (false, Reason::Pending, "waiting for its group ID".to_owned())
        }
        (None, Ok(())) => (true, Reason::Ready, beyond_keys(&found.account)),
    };
    set(&mut status.conditions, READY, ready, reason, message, found.account.metadata.generation, now);
    keep_usage(&mut status, &found.limits);
    status
}

/// Uid of the namespace once it has been taken: its label shows that, and so does what was written down then.
fn taken(found: &Found) -> Option<String> {
    let live = found.namespace.as_ref()?;
    let known = found.account.status.as_ref().and_then(|status| status.namespace_uid.clone());
    let is_labelled = live.labels().get(LABEL_ACCOUNT) == Some(&found.account.name_any());
    live.uid().filter(|uid| is_labelled || known.as_ref() == Some(uid))
}

/// What an Account should know whose limit is more than its keys' Secret can hold.
fn beyond_keys(account: &Account) -> String {
    let limit = account.spec.load_balancer_limit();
    match u64::try_from(limit).is_ok_and(|limit| limit > MOST_LOAD_BALANCERS) {
        true => format!(
            "load-balancer-limit is {limit}, but one Account can have {MOST_LOAD_BALANCERS} LoadBalancers, since their keys lie in one Secret; use several Accounts for more"
        ),
        false => String::new(),
    }
}

/// Puts what is used of the limits into a status.
pub fn keep_usage(status: &mut AccountStatus, limits: &Limits) {
    let mut usage = usage(limits);
    rest::carry_option(Some(&mut usage), status.usage.as_ref());
    status.usage = Some(usage);
}

/// Writes what a departing Account waits for.
///
/// # Errors
/// What the API server answers.
pub(super) async fn departing(context: &Shared, found: &Found) -> Result<(), Error> {
    write(context, found, leaving(found, &now())).await?;
    Ok(())
}

/// The status of a departing Account.
pub(super) fn leaving(found: &Found, now: &Time) -> AccountStatus {
    let mut status = found.account.status.clone().unwrap_or_default();
    let generation = found.account.metadata.generation;
    let (reason, text) = match found.children {
        (0, 0) => (Reason::Deleting, "it is being deleted".to_owned()),
        (0, endpoints) => (
            Reason::Deleting,
            format!(
                "{endpoints} Endpoints remain in its namespace; delete them unless the namespace goes as well"
            ),
        ),
        (balancers, _) => (
            Reason::LoadBalancersRemain,
            format!("{balancers} LoadBalancers remain in its namespace; delete them"),
        ),
    };
    set(&mut status.conditions, READY, false, reason, text, generation, now);
    status
}

async fn write(context: &Shared, found: &Found, status: AccountStatus) -> Result<bool, Error> {
    let after = Account { status: Some(status), ..found.account.as_ref().clone() };
    publish_status(context, found.account.as_ref(), after).await
}

fn usage(limits: &Limits) -> AccountUsage {
    let number = |used: u64| i64::try_from(used).unwrap_or(i64::MAX);
    AccountUsage {
        proxies: number(limits.proxies.used),
        load_balancers: number(limits.load_balancers.used),
        endpoints: number(limits.endpoints.used),
        ..Default::default()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use epic_crds::{Condition, EPIC, EPICSpec};
    use epic_model::account::Usage;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::super::{check, load_balancer_limit, plain};
    use super::*;
    use crate::allocation::verdict::Verdict;

    /// An accepted Account that has no ID yet, and what the allocator says about that.
    pub(in super::super) fn found(verdict: Option<Verdict>) -> Found {
        let accepted = json!([{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
            "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        let account: Account = serde_json::from_value(json!({
            "apiVersion": "epic.acnodal.io/v1", "kind": "Account",
            "metadata": {"name": "red", "namespace": "epic", "uid": "u", "resourceVersion": "7", "generation": 1},
            "spec": {"group-id": 4}, "status": {"conditions": accepted},
        }))
        .unwrap();
        let mut epic = EPIC::new("epic", EPICSpec::default());
        let conditions = account.status.clone().unwrap_or_default().conditions;
        epic.status.get_or_insert_default().conditions = conditions;
        let usage = Usage::default;
        Found {
            all: vec![plain(&account)],
            epic: Some(Arc::new(epic)),
            namespace: None,
            limits: Arc::new(Limits { load_balancers: usage(), proxies: usage(), endpoints: usage() }),
            tenant: Default::default(),
            keys: Vec::new(),
            pull_secrets: BTreeSet::new(),
            children: (0, 0),
            verdict,
            account: Arc::new(account),
        }
    }

    pub(in super::super) fn refusal(duplicate: bool, exhausted: bool) -> Option<Verdict> {
        Some(Verdict { duplicate, exhausted, taken: false, message: "no".into() })
    }

    fn condition(status: &AccountStatus, type_: &str) -> Condition {
        status.conditions.iter().find(|known| known.type_ == type_).unwrap().clone()
    }

    #[test]
    fn what_the_allocator_refuses_is_told_in_ready_and_never_in_accepted() {
        let now = Time(Timestamp::UNIX_EPOCH);
        let before = condition(&found(None).account.status.clone().unwrap(), ACCEPTED);
        for (verdict, reason) in [
            (None, Reason::Pending),
            (refusal(false, false), Reason::GroupIdTaken),
            (refusal(false, true), Reason::IdsExhausted),
            (refusal(true, false), Reason::DuplicateGrant),
        ] {
            let found = found(verdict);
            assert!(check(&found).is_ok(), "it is judged without regard to it: {reason:?}");
            let after = status(&found, "epic-red", &Ok(()), &now);
            assert_eq!(condition(&after, ACCEPTED), before);
            assert_eq!(condition(&after, READY).reason, reason.to_string());
        }
    }

    #[test]
    fn a_limit_beyond_what_one_secret_of_keys_holds_is_said_and_what_is_refused_for_its_size_is_not_ready() {
        let now = Time(Timestamp::UNIX_EPOCH);
        let most = i64::try_from(MOST_LOAD_BALANCERS).unwrap();
        let ready = |limit: i64, done: Result<(), Waiting>| {
            let mut found = found(None);
            let account = Arc::make_mut(&mut found.account);
            account.spec.load_balancer_limit = Some(limit);
            account.status.get_or_insert_default().group_id = Some(4);
            assert!(load_balancer_limit(account) <= MOST_LOAD_BALANCERS, "what is admitted fits in");
            condition(&status(&found, "epic-red", &done, &now), READY)
        };
        assert_eq!(ready(most, Ok(())).message, "");
        let beyond = ready(most + 1, Ok(()));
        assert_eq!((beyond.status.as_str(), beyond.reason.as_str()), ("True", "Ready"));
        for words in ["load-balancer-limit is 3001", "can have 3000 LoadBalancers", "use several Accounts"] {
            assert!(beyond.message.contains(words), "{}", beyond.message);
        }
        // Should the keys not fit all the same, the condition tells whose words they are.
        let refused = Waiting::new(Reason::ApplyFailed, "apply Secret epic-red/epic-gue-keys: too long");
        let refused = ready(most, Err(refused));
        assert_eq!((refused.status.as_str(), refused.reason.as_str()), ("False", "ApplyFailed"));
        assert!(refused.message.contains("epic-gue-keys"), "{}", refused.message);
    }

    #[test]
    fn a_namespace_is_written_down_once_it_bears_the_label_and_stays_so_without_it() {
        let now = Time(Timestamp::UNIX_EPOCH);
        let recorded = |label: Option<&str>, known: Option<&str>, done: &Result<(), Waiting>| {
            let mut found = found(None);
            let labels = label.map(|label| json!({LABEL_ACCOUNT: label}));
            let metadata = json!({"name": "epic-red", "uid": "n", "labels": labels});
            found.namespace = Some(Arc::new(serde_json::from_value(json!({"metadata": metadata})).unwrap()));
            let account = Arc::make_mut(&mut found.account);
            account.status.get_or_insert_default().namespace_uid = known.map(str::to_owned);
            status(&found, "epic-red", done, &now).namespace_uid
        };
        let (fine, looking) = (Ok(()), Err(Waiting::new(Reason::Pending, "")));
        assert_eq!(recorded(Some("red"), None, &fine).as_deref(), Some("n"));
        assert_eq!(recorded(None, Some("n"), &fine).as_deref(), Some("n"));
        assert_eq!(recorded(None, Some("of a predecessor"), &fine), None);
        // While nobody knows yet what it holds of others, it is not ours.
        assert_eq!(recorded(None, None, &looking), None);
        let refused = Waiting::new(Reason::NamespaceNotAdopted, "");
        assert_eq!(recorded(None, Some("n"), &Err(refused)), None);
    }
}
