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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Context;
    use crate::leader::Leadership;
    use crate::settings::Settings;
    use clap::Parser as _;
    use epic_crds::{Endpoint, EndpointReason};
    use epic_fake_api::Server;
    use epic_ops::Metrics;
    use serde_json::{Value, json};

    const NAMESPACE: &str = "epic-red";

    fn object(kind: &str, namespace: &str, name: &str, spec: &Value, status: &Value) -> Value {
        json!({
            "apiVersion": "epic.acnodal.io/v1", "kind": kind, "spec": spec, "status": status,
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z"},
        })
    }

    /// The Endpoints that are rung where an Account may have two and these are left, refused or not.
    async fn rung(left: &[(&str, bool)]) -> Vec<String> {
        let server = Server::new();
        let limit = json!({"endpoint-limit": 2});
        server.put("accounts", object("Account", "epic", "red", &limit, &json!({})));
        for (name, refused) in left {
            let spec = json!({"load-balancer": "web", "address": "10.1.0.1", "port": {"port": 8080}});
            let (status, reason) = if *refused { ("False", "LimitExceeded") } else { ("True", "Accepted") };
            let accepted = json!({"conditions": [{"type": "Accepted", "status": status, "reason": reason, "message": "",
                "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
            server.put("endpoints", object("Endpoint", NAMESPACE, name, &spec, &accepted));
        }
        let settings = Settings::parse_from(["epic-operator"]);
        let context = Context::new(server.client(), settings, Leadership::always(), &Metrics::new());
        context.watches.synced().await;
        let usage: UsageOf =
            |limits, reason| (reason == EndpointReason::LimitExceeded.as_str()).then_some(&limits.endpoints);
        let keys = admitted::<Endpoint>(&context.snapshot().unwrap(), &context.admissions, NAMESPACE, usage);
        keys.iter().map(|key| key.name().to_owned()).collect()
    }

    #[tokio::test]
    async fn room_goes_to_those_that_are_admitted_now_and_to_nobody_else() {
        assert_eq!(
            rung(&[("a", false), ("b", false), ("c", true)]).await,
            Vec::<String>::new(),
            "it is full"
        );
        assert_eq!(rung(&[("a", false), ("c", true), ("d", true)]).await, ["c"], "one went");
        assert_eq!(rung(&[("c", true)]).await, ["c"], "two went at once, so it is not full any more");
    }

    #[test]
    fn only_what_goes_makes_room() {
        let endpoint = |uid: &str| {
            let object = json!({"metadata": {"name": "a", "namespace": NAMESPACE, "uid": uid},
                "spec": {"load-balancer": "web", "address": "10.1.0.1", "port": {"port": 8080}}});
            Some(Arc::new(serde_json::from_value::<Endpoint>(object).unwrap()))
        };
        let change = |before, after| Change { key: Key::namespaced(NAMESPACE, "a"), before, after };
        assert!(!is_gone(&change(None, endpoint("1"))), "it comes");
        assert!(!is_gone(&change(endpoint("1"), endpoint("1"))), "it differs");
        assert!(is_gone(&change(endpoint("1"), None)), "it goes");
        assert!(is_gone(&change(endpoint("1"), endpoint("2"))), "another one took its name");
    }
}
