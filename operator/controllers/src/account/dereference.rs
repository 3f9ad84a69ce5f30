//! Everything an Account's reconcile looks at, out of one snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use epic_abi::Lb;
use epic_crds::well_known::{LABEL_ACCOUNT, tenant_namespace};
use epic_crds::{Account, EPIC, Endpoint, LoadBalancer, ServiceGroup};
use epic_model::account as model;
use epic_model::key;
use k8s_openapi::api::core::v1::Namespace;
use kates::{Key, Snapshot};
use kube::ResourceExt;

use super::{Limits, plain};
use crate::allocation::verdict::Verdict;
use crate::context::Shared;
use crate::proxy::settings;
use crate::relations::epic_key;
use crate::service_group::{group_of, offer};
use crate::tenant::keys::LoadBalancerKeys;
use crate::tenant::limits::Offer;
use crate::tenant::namespace::ANNOTATION_CREATED_FOR;

/// What is there.
pub struct Found {
    /// The Account.
    pub account: Arc<Account>,
    /// All Accounts, for the choice between namesakes.
    pub all: Vec<model::Account>,
    /// The EPIC object.
    pub epic: Option<Arc<EPIC>>,
    /// The tenant namespace, if it exists.
    pub namespace: Option<Arc<Namespace>>,
    /// How far the limits are used.
    pub limits: Arc<Limits>,
    /// What the tenant may know of what it may use.
    pub tenant: Offer,
    /// The LoadBalancers that keys are needed for.
    pub keys: Vec<LoadBalancerKeys>,
    /// Names of the Secrets that its proxies' images are pulled with.
    pub pull_secrets: BTreeSet<String>,
    /// LoadBalancers and Endpoints in the namespace.
    pub children: (usize, usize),
    /// Why the group ID is missing.
    pub verdict: Option<Verdict>,
}

/// Looks everything up; `None` when the Account is gone.
pub fn load(snapshot: &Snapshot, context: &Shared, key: &Key) -> Option<Found> {
    let account = Arc::clone(snapshot.get::<Account>(key)?);
    let namespace = tenant_namespace(&account.name_any());
    Some(Found {
        all: snapshot.list::<Account>().map(|account| plain(account)).collect(),
        epic: snapshot.get::<EPIC>(&epic_key()).cloned(),
        namespace: snapshot.get::<Namespace>(&Key::cluster(namespace.as_str())).cloned(),
        limits: context.admissions.of(snapshot, &account, &namespace),
        tenant: offer(snapshot, &account, &namespace),
        keys: snapshot.in_namespace::<LoadBalancer>(&namespace).filter_map(|b| keys(b)).collect(),
        pull_secrets: pull_secrets(snapshot, context, &namespace),
        children: (
            snapshot.in_namespace::<LoadBalancer>(&namespace).count(),
            snapshot.in_namespace::<Endpoint>(&namespace).count(),
        ),
        verdict: context.verdicts.of(&account.uid().unwrap_or_default()),
        account,
    })
}

/// What the proxies of a namespace name, or would name if there were one.
fn pull_secrets(snapshot: &Snapshot, context: &Shared, namespace: &str) -> BTreeSet<String> {
    let epic = snapshot.get::<EPIC>(&epic_key()).map(AsRef::as_ref);
    let named = |group: Option<&ServiceGroup>| {
        settings(&context.settings.proxies, epic, group).image_pull_secrets().to_vec()
    };
    let balancers = snapshot.in_namespace::<LoadBalancer>(namespace);
    let used = balancers.flat_map(|balancer| named(group_of(snapshot, balancer).as_deref()));
    used.chain(named(None)).collect()
}

/// What is seen of the namespace without looking into it.
///
/// That it is ours stands in two places, of which tools that take off what they do not know reach one at most: the
/// namespace says for which Account it was created, the Account's status which namespace it has, created or adopted.
pub(super) fn seen(account: &Account, namespace: &Namespace) -> model::NamespaceSeen {
    let labels: Option<&BTreeMap<String, String>> = namespace.metadata.labels.as_ref();
    let created_for = namespace.annotations().get(ANNOTATION_CREATED_FOR);
    let taken = account.status.as_ref().and_then(|status| status.namespace_uid.as_ref());
    let is = |known: Option<&String>, uid: Option<&String>| known.is_some() && known == uid;
    model::NamespaceSeen {
        account_label: labels.and_then(|labels| labels.get(LABEL_ACCOUNT)).cloned(),
        ours: is(created_for, account.metadata.uid.as_ref()) || is(taken, namespace.metadata.uid.as_ref()),
        terminating: namespace.metadata.deletion_timestamp.is_some(),
        foreign: Vec::new(),
    }
}

fn keys(balancer: &LoadBalancer) -> Option<LoadBalancerKeys> {
    let status = balancer.status.as_ref()?;
    let generation = status.key_generation.unwrap_or(i64::from(key::FIRST_GENERATION));
    Some(LoadBalancerKeys {
        lb: Lb::new(u16::try_from(status.group_id?).ok()?, u16::try_from(status.service_id?).ok()?),
        uid: balancer.uid()?,
        generation: u32::try_from(generation).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_namespace_is_known_by_what_it_was_created_for_or_by_the_accounts_own_record() {
        let account: Account = serde_json::from_value(json!({
            "apiVersion": "epic.acnodal.io/v1", "kind": "Account",
            "metadata": {"name": "red", "namespace": "epic", "uid": "red-uid"},
            "spec": {}, "status": {"namespace-uid": "taken"},
        }))
        .unwrap();
        let is_ours = |uid: &str, annotations: Value| {
            let metadata = json!({"name": "epic-red", "uid": uid, "annotations": annotations});
            seen(&account, &serde_json::from_value(json!({"metadata": metadata})).unwrap()).ours
        };
        assert!(is_ours("taken", json!({})));
        assert!(is_ours("other", json!({ANNOTATION_CREATED_FOR: "red-uid"})));
        assert!(!is_ours("other", json!({ANNOTATION_CREATED_FOR: "a predecessor of that name"})));
        assert!(!is_ours("recreated by somebody", json!({})));
        let fresh = Account::new("red", Default::default());
        assert!(!seen(&fresh, &Namespace::default()).ours, "nothing is equal to nothing");
    }
}
