//! The situations of an Account that docs/conditions.md lists, each made as a value.

use std::sync::Arc;

use epic_crds::{Account, AccountReason as Reason, Condition};

use super::apply::Waiting;
use super::dereference::Found;
use super::update_status::tests::{found, refusal};
use super::update_status::{leaving, status, verdict};
use super::{check, plain};
use crate::reconcile::now;
use crate::situations;

/// One that has its group ID.
fn granted(change: impl FnOnce(&mut Found)) -> Found {
    let mut found = found(None);
    Arc::make_mut(&mut found.account).status.get_or_insert_default().group_id = Some(4);
    change(&mut found);
    found
}

/// One that nobody has judged yet.
fn new(change: impl FnOnce(&mut Account)) -> Found {
    let mut found = found(None);
    let account = Arc::make_mut(&mut found.account);
    account.status = None;
    change(account);
    found
}

fn unaccepted(mut found: Found) -> Found {
    Arc::make_mut(found.epic.as_mut().unwrap()).status = None;
    found
}

/// The conditions after a pass, as the controller makes it.
fn conditions(mut found: Found, done: &Result<(), Waiting>) -> Vec<Condition> {
    if found.account.metadata.deletion_timestamp.is_some() {
        return leaving(&found, &now()).conditions;
    }
    let judged = check(&found);
    let accepted = verdict(&found.account, judged.as_ref().map(|_| ()), &now());
    if judged.is_err() {
        return accepted.conditions;
    }
    Arc::make_mut(&mut found.account).status = Some(accepted);
    status(&found, "epic-red", done, &now()).conditions
}

#[test]
fn the_table_says_what_the_conditions_of_an_account_say() {
    let fine = || granted(|_| {});
    let departing = |children: (usize, usize)| {
        granted(|found| {
            Arc::make_mut(&mut found.account).metadata.deletion_timestamp = Some(now());
            found.children = children;
        })
    };
    let mut twin = new(|account| account.metadata.namespace = Some("epic-red".to_owned()));
    twin.all.push(plain(&twin.account));
    let waits = |reason: Reason| Err(Waiting::new(reason, "no"));
    let made = [
        ("serves", fine(), Ok(())),
        (
            "lies in a namespace that is not its own",
            new(|account| account.metadata.namespace = Some("epic-blue".to_owned())),
            Ok(()),
        ),
        ("namespace epic has one of its name", twin, Ok(())),
        ("there is no EPIC object", Found { epic: None, ..new(|_| {}) }, Ok(())),
        ("EPIC is not accepted", unaccepted(new(|_| {})), Ok(())),
        ("EPIC is not accepted any more", unaccepted(fine()), Ok(())),
        ("its namespace holds objects of others", fine(), waits(Reason::NamespaceNotAdopted)),
        ("its namespace is being deleted", fine(), waits(Reason::NamespaceTerminating)),
        ("its rights or its quota are not in force yet", fine(), waits(Reason::Pending)),
        ("an object of its namespace cannot be written", fine(), waits(Reason::ApplyFailed)),
        ("no admission policy acts in its namespace", fine(), waits(Reason::PoliciesPending)),
        ("waits for its group ID", found(None), Ok(())),
        ("the group ID it asks for is taken", found(refusal(false, false)), Ok(())),
        ("no ID is left", found(refusal(false, true)), Ok(())),
        ("its ID is granted twice", granted(|found| found.verdict = refusal(true, false)), Ok(())),
        ("is being deleted", departing((0, 1)), Ok(())),
        ("the same, and LoadBalancers remain", departing((1, 0)), Ok(())),
    ];
    let after = made.map(|(name, found, done)| (name, conditions(found, &done)));
    situations::check("Account", after.into());
}
