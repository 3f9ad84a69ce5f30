//! Everything an Account's reconcile looks at, out of one snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use epic_abi::Lb;
use epic_crds::well_known::{LABEL_ACCOUNT, tenant_namespace};
use epic_crds::{Account, EPIC, Endpoint, LoadBalancer};
use epic_model::account as model;
use epic_model::key;
use k8s_openapi::api::core::v1::Namespace;
use kates::{Key, Snapshot};
use kube::ResourceExt;

use super::{Limits, limits, plain};
use crate::allocation::verdict::Verdict;
use crate::context::Shared;
use crate::relations::epic_key;
use crate::tenant::keys::LoadBalancerKeys;

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
    pub limits: Limits,
    /// The LoadBalancers that keys are needed for.
    pub keys: Vec<LoadBalancerKeys>,
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
        limits: limits(snapshot, &account, &namespace),
        keys: snapshot.in_namespace::<LoadBalancer>(&namespace).filter_map(|b| keys(b)).collect(),
        children: (
            snapshot.in_namespace::<LoadBalancer>(&namespace).count(),
            snapshot.in_namespace::<Endpoint>(&namespace).count(),
        ),
        verdict: context.verdicts.of(&account.uid().unwrap_or_default()),
        account,
    })
}

/// What is seen of the namespace without looking into it.
pub(super) fn seen(namespace: &Namespace) -> model::NamespaceSeen {
    let labels: Option<&BTreeMap<String, String>> = namespace.metadata.labels.as_ref();
    model::NamespaceSeen {
        account_label: labels.and_then(|labels| labels.get(LABEL_ACCOUNT)).cloned(),
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
