//! Room within the limits of an Account: who gets it when somebody goes.

use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use epic_crds::condition::ACCEPTED;
use epic_crds::{ConditionStatus, HasConditions};
use epic_model::account::Usage;
use kates::{Change, Key, Object, Snapshot};

use super::{Triggers, in_namespace, on_changes};
use crate::account::{Admissions, Limits, account_of};
use crate::context::Shared;

/// The limit that the reason of a refusal is about, if it is about one.
pub(super) type UsageOf = for<'a> fn(&'a Limits, &str) -> Option<&'a Usage>;

/// For every change of an `Other` that makes room within a limit of its Account: those in its namespace that were
/// refused for want of it and are not any more. Who is judged meanwhile by a state of before is looked at again after
/// the write that says so.
pub(super) fn on_room<Other, K>(
    context: &Shared,
    makes_room: impl Fn(&Change<Other>) -> bool + Send + 'static,
    usage: UsageOf,
) -> Triggers<K>
where
    Other: Object<DynamicType = ()>,
    K: Object<DynamicType = ()> + HasConditions,
{
    let admissions = Arc::clone(&context.admissions);
    on_changes(context, move |snapshot, changes: Vec<Change<Other>>| {
        let changes = changes.iter().filter(|change| makes_room(change));
        let namespaces: BTreeSet<&str> = changes.filter_map(|change| change.key.namespace()).collect();
        namespaces
            .into_iter()
            .flat_map(|namespace| admitted::<K>(snapshot, &admissions, namespace, usage))
            .collect()
    })
}

fn admitted<K: Object<DynamicType = ()> + HasConditions>(
    snapshot: &Snapshot,
    admissions: &Admissions,
    namespace: &str,
    usage: UsageOf,
) -> Vec<Key> {
    let Some(account) = account_of(snapshot, namespace) else { return Vec::new() };
    // They are counted only where somebody waits.
    let limits = LazyCell::new(|| admissions.of(snapshot, &account, namespace));
    in_namespace::<K>(snapshot, namespace, |object| {
        let Some(known) = object.condition(ACCEPTED).filter(|known| known.status == ConditionStatus::False)
        else {
            return false;
        };
        let uid = object.meta().uid.as_deref().unwrap_or_default().into();
        usage(&limits, &known.reason).is_some_and(|usage| !usage.refused.contains(&uid))
    })
}

/// Whether an object is not there any more, or another one stands in its place.
pub(super) fn is_gone<K: Object>(change: &Change<K>) -> bool {
    let uid = |object: &Option<Arc<K>>| object.as_ref().map(|object| object.meta().uid.clone());
    change.before.is_some() && uid(&change.before) != uid(&change.after)
}
