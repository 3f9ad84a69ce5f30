//! The Account's controller: its tenant namespace, the rights in it, and its usage.

use epic_crds::Account;
use epic_model::account as model;
use kates::Snapshot;
use kube::ResourceExt;
use std::sync::Arc;

/// The Accounts that count, each with its tenant namespace: X in `epic` or in `epic-X`, the one in `epic` first.
pub fn accounts_in_force(snapshot: &Snapshot) -> Vec<(Arc<Account>, String)> {
    let all: Vec<model::Account> = snapshot.list::<Account>().map(|account| plain(account)).collect();
    snapshot
        .list::<Account>()
        .filter_map(|account| {
            let name = model::resolve(&plain(account), &all).ok()?;
            Some((Arc::clone(account), name.namespace().as_str().to_owned()))
        })
        .collect()
}

fn plain(account: &Account) -> model::Account {
    model::Account {
        name: account.name_any().into(),
        namespace: account.namespace().unwrap_or_default().into(),
        uid: account.uid().unwrap_or_default().into(),
    }
}
