//! The Account's controller, and what others ask about Accounts: which one a namespace belongs to, and its limits.

mod apply;
pub mod departure;
mod dereference;
mod figures;
mod foreign;
mod limits;
#[cfg(test)]
mod situations;
mod update_status;

use std::sync::Arc;

use epic_crds::condition::ACCEPTED;
use epic_crds::well_known::{EPIC_NAMESPACE, TENANT_NAMESPACE_PREFIX};
use epic_crds::{Account, AccountReason as Reason, EPIC, HasConditions};
use epic_model::account as model;
use epic_model::id::AccountName;
use kates::{Key, Snapshot, Subject};
use kube::ResourceExt;
use kube::runtime::controller::Action;

pub use dereference::{Found, load};
pub use figures::Figures;
pub use foreign::Refused;
pub use limits::{Admissions, Limits, endpoint_limit, limits, load_balancer_limit, most_claims};
pub use update_status::keep_usage;

use crate::context::Shared;
use crate::reconcile::Error;
use crate::uninstall;

/// One pass over one Account.
///
/// # Errors
/// What the API server answers; the caller waits and calls again.
pub async fn reconcile(subject: Arc<Subject<Account>>, context: Shared) -> Result<Action, Error> {
    let snapshot = context.snapshot()?;
    let Some(found) = load(&snapshot, &context, &subject.key()) else { return Ok(Action::await_change()) };
    if uninstall::is_under_way(&snapshot) {
        return Ok(Action::await_change());
    }
    if found.account.metadata.deletion_timestamp.is_some() {
        update_status::departing(&context, &found).await?;
        return Ok(Action::requeue(context.settings.full_pass));
    }
    let judged = check(&found);
    if update_status::accepted(&context, &found, judged.as_ref().map(|_| ())).await? {
        // The write rings this controller's own bell; what follows wants the object as it is now.
        return Ok(Action::await_change());
    }
    let Ok((name, epic)) = judged else { return Ok(Action::requeue(context.settings.full_pass)) };
    let done = apply::run(&context, &snapshot, &found, &name, &epic).await?;
    update_status::publish(&context, &found, name.namespace().as_str(), &done).await
}

/// Judges an Account; the error is the first thing to mend. Pure.
fn check(found: &Found) -> Result<(AccountName, Arc<EPIC>), (Reason, String)> {
    let name = model::resolve(&plain(&found.account), &found.all).map_err(|refusal| {
        let reason = match refusal {
            model::Refusal::Namesake(_) => Reason::DuplicateAccount,
            model::Refusal::Name(_) | model::Refusal::Misplaced { .. } => Reason::WrongNamespace,
        };
        (reason, refusal.to_string())
    })?;
    let granted = found.account.status.as_ref().is_some_and(|status| status.group_id.is_some());
    match &found.epic {
        None => {
            Err((Reason::EpicNotReady, "there is no EPIC object; create epic in namespace epic".to_owned()))
        }
        // Settings that were broken later take nothing from those who are served already.
        Some(epic) if !granted && !epic.is_condition_true(ACCEPTED) => {
            Err((Reason::EpicNotReady, "the EPIC object is not accepted; see its conditions".to_owned()))
        }
        Some(epic) => Ok((name, Arc::clone(epic))),
    }
}

/// The Accounts that count, each with its tenant namespace: X in `epic` or in `epic-X`, the one in `epic` first.
pub fn accounts_in_force(snapshot: &Snapshot) -> Vec<(Arc<Account>, String)> {
    snapshot
        .list::<Account>()
        .filter_map(|account| {
            let namesake = snapshot.get::<Account>(&Key::namespaced(EPIC_NAMESPACE, account.name_any()));
            let name = model::resolve(
                &plain(account),
                &namesake.map(|one| plain(one)).into_iter().collect::<Vec<_>>(),
            );
            Some((Arc::clone(account), name.ok()?.namespace().as_str().to_owned()))
        })
        .collect()
}

/// The Account that a namespace belongs to.
pub fn account_of(snapshot: &Snapshot, namespace: &str) -> Option<Arc<Account>> {
    let name = namespace.strip_prefix(TENANT_NAMESPACE_PREFIX)?;
    let shared = Key::namespaced(EPIC_NAMESPACE, name);
    snapshot.get::<Account>(&shared).or_else(|| snapshot.get(&Key::namespaced(namespace, name))).cloned()
}

/// An Account as the model sees it.
pub fn plain(account: &Account) -> model::Account {
    model::Account {
        name: account.name_any().into(),
        namespace: account.namespace().unwrap_or_default().into(),
        uid: account.uid().unwrap_or_default().into(),
    }
}
