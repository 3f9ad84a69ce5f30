//! EPIC's controller: whether the settings hold together, and the ranges in force.
//!
//! Counters and reservations in the same status are the allocators'; their writes and ours meet as conflicts.

mod ranges;
#[cfg(test)]
mod situations;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use epic_crds::condition::{ACCEPTED, READY, set};
use epic_crds::{Account, Condition, EPIC, EPICStatus, EpicReason as Reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kates::{Snapshot, Subject};
use kube::ResourceExt;
use kube::runtime::controller::Action;

use crate::allocation::verdict::Verdict;
use crate::context::Shared;
use crate::endpoint::surroundings;
use crate::proxy::settings;
use crate::reconcile::{Error, now, publish_status};
use crate::tenant::pull::complaint;
use crate::uninstall;

/// How long a mere figure gives way to an allocation that is under way on the same object.
const GIVE_WAY: Duration = Duration::from_millis(500);

/// One pass over the EPIC object.
///
/// # Errors
/// What the API server answers; the caller waits and calls again.
pub async fn reconcile(subject: Arc<Subject<EPIC>>, context: Shared) -> Result<Action, Error> {
    let snapshot = context.snapshot()?;
    let Some(epic) = snapshot.get::<EPIC>(&subject.key()) else { return Ok(Action::await_change()) };
    let mut status = epic.status.clone().unwrap_or_default();
    let named = settings(&context.settings.proxies, Some(epic.as_ref()), None);
    let found = Found {
        judged: validate::check(&surroundings(&snapshot), epic),
        verdict: context.verdicts.by(&epic.uid().unwrap_or_default()),
        complaint: complaint(&snapshot, named.image_pull_secrets()),
    };
    if found.judged.is_ok() {
        (status.proxy_addresses, status.alias_addresses) = ranges::in_force(epic);
    }
    judge(epic, &found, &mut status.conditions, &now());
    let before = epic.status.clone().unwrap_or_default();
    status.accounts = Some(accounts(&snapshot));
    let is_mere_figure = EPICStatus { accounts: before.accounts, ..status.clone() } == before;
    if is_mere_figure && status != before && !before.reservations.is_empty() {
        return Ok(Action::requeue(GIVE_WAY));
    }
    let after = EPIC { status: Some(status), ..epic.as_ref().clone() };
    publish_status(&context, epic.as_ref(), after).await?;
    Ok(Action::requeue(context.settings.full_pass))
}

/// What EPIC's conditions are made of.
struct Found {
    /// The first thing to mend in the settings.
    judged: Result<(), (Reason, String)>,
    /// How many objects wait for an ID of EPIC's, and why the first of them does.
    verdict: Option<(usize, Verdict)>,
    /// What is wrong with the Secrets that images are pulled with.
    complaint: Option<String>,
}

/// Sets the conditions. Pure.
fn judge(epic: &EPIC, found: &Found, conditions: &mut Vec<Condition>, now: &Time) {
    let generation = epic.metadata.generation;
    match &found.judged {
        Ok(()) => set(conditions, ACCEPTED, true, Reason::Accepted, "", generation, now),
        Err((reason, text)) => set(conditions, ACCEPTED, false, *reason, text, generation, now),
    };
    let (ready, reason, message) = if uninstall::is_asked_for(epic) {
        let text =
            "EPIC is being taken off the cluster; remove the annotation epic.acnodal.io/uninstall to keep it";
        (false, Reason::Uninstalling, text.to_owned())
    } else if epic.metadata.deletion_timestamp.is_some() {
        let text = "it is to be deleted: it hands out nothing new, and goes once its Accounts and LoadBalancers are gone. To keep EPIC, see docs/recovery.md";
        (false, Reason::Uninstalling, text.to_owned())
    } else if let Err((reason, text)) = &found.judged {
        (false, *reason, text.clone())
    } else if let Some((count, verdict)) = &found.verdict {
        let reason = if verdict.duplicate { Reason::DuplicateGrant } else { Reason::IdsExhausted };
        (true, reason, format!("{count} objects wait for an ID; {}", verdict.message))
    } else if let Some(text) = &found.complaint {
        (true, Reason::PullSecretNotFound, text.clone())
    } else {
        (true, Reason::Ready, String::new())
    };
    set(conditions, READY, ready, reason, message, generation, now);
}

/// Accounts that have a group ID.
fn accounts(snapshot: &Snapshot) -> i64 {
    let granted = |account: &&Arc<Account>| account.status.as_ref().is_some_and(|of| of.group_id.is_some());
    i64::try_from(snapshot.list::<Account>().filter(granted).count()).unwrap_or(i64::MAX)
}
