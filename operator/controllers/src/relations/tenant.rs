//! What concerns Accounts and their namespaces.

use epic_crds::well_known::{EPIC_NAMESPACE, LABEL_ACCOUNT, TENANT_NAMESPACE_PREFIX, tenant_namespace};
use epic_crds::{Account, AddressPool, EPIC, Endpoint, LoadBalancer, ServiceGroup};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ResourceQuota, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kates::{Key, Object, Queue};

use super::{all, occupancy, on, pull_secrets, replicas, settings, told};
use crate::context::Shared;

/// The controller of Accounts.
pub fn account(context: &Shared) -> Queue<Account> {
    let epic = on::<EPIC, Account, _>(context, settings, |snapshot, _| all::<Account>(snapshot));
    let namespaces = on::<Namespace, Account, _>(
        context,
        |namespace| {
            let meta = &namespace.metadata;
            (meta.labels.clone(), meta.annotations.clone(), meta.deletion_timestamp.clone())
        },
        |_, namespace| of_namespace(namespace.metadata.name.as_deref().unwrap_or_default()),
    );
    let namesakes = on::<Account, Account, _>(
        context,
        |_| (),
        |_, account| {
            let name = account.metadata.name.as_deref().unwrap_or_default();
            of_namespace(&format!("{TENANT_NAMESPACE_PREFIX}{name}"))
        },
    );
    let balancers = on::<LoadBalancer, Account, _>(
        context,
        |balancer| {
            let status = balancer.status.clone().unwrap_or_default();
            (balancer.spec.service_group.clone(), status.group_id, status.service_id, status.key_generation)
        },
        |_, balancer| around(balancer),
    );
    let endpoints = on::<Endpoint, Account, _>(context, |_| (), |_, endpoint| around(endpoint));
    let groups = on::<ServiceGroup, Account, _>(
        context,
        |group| {
            let proxies = group.spec.proxies.clone().unwrap_or_default();
            let spec = &group.spec;
            (
                spec.envoy_replicas,
                spec.accounts.clone(),
                spec.address_pools.clone(),
                proxies.image_pull_secrets,
            )
        },
        |snapshot, group| match group.metadata.namespace.as_deref() {
            Some(EPIC_NAMESPACE) | None => all::<Account>(snapshot),
            Some(own) => of_namespace(own),
        },
    );
    let pools = on::<AddressPool, Account, _>(
        context,
        |pool| pool.spec.clone(),
        |snapshot, _| all::<Account>(snapshot),
    );
    context
        .watches
        .controller::<Account>()
        .reconcile_on(epic)
        .reconcile_on(pools)
        .reconcile_on(namespaces)
        .reconcile_on(namesakes)
        .reconcile_on(balancers)
        .reconcile_on(endpoints)
        .reconcile_on(groups)
        // What is there of proxies.
        .reconcile_on(on::<Pod, Account, _>(context, occupancy, |_, o| around(o)))
        .reconcile_on(on::<Deployment, Account, _>(context, replicas, |_, o| around(o)))
        .reconcile_on(on::<ConfigMap, Account, _>(
            context,
            |map| (map.data.clone(), labels(map)),
            |_, o| around(o),
        ))
        .reconcile_on(on::<ResourceQuota, Account, _>(context, counted, |_, o| around(o)))
        .reconcile_on(on::<ServiceAccount, Account, _>(context, labels, |_, o| around(o)))
        .reconcile_on(on::<RoleBinding, Account, _>(
            context,
            |binding| (binding.subjects.clone(), labels(binding)),
            |_, o| around(o),
        ))
        .reconcile_on(on::<NetworkPolicy, Account, _>(
            context,
            |policy| (policy.spec.clone(), labels(policy)),
            |_, o| around(o),
        ))
        .reconcile_on(pull_secrets(context))
        .reconcile_on(told(context.verdicts.changes()))
}

/// The controller of tenant namespaces.
pub fn namespace(context: &Shared) -> Queue<Namespace> {
    let accounts = on::<Account, Namespace, _>(
        context,
        |account| account.metadata.deletion_timestamp.clone(),
        |_, account| {
            vec![Key::cluster(tenant_namespace(account.metadata.name.as_deref().unwrap_or_default()))]
        },
    );
    let balancers = on::<LoadBalancer, Namespace, _>(
        context,
        |_| (),
        |_, balancer| balancer.metadata.namespace.as_deref().map(Key::cluster).into_iter().collect(),
    );
    let epic = on::<EPIC, Namespace, _>(context, settings, |snapshot, _| all::<Namespace>(snapshot));
    // What was made for an Account that is gone: a pass over it may have been under way.
    let lying_in = |namespace: Option<&str>| namespace.map(Key::cluster).into_iter().collect();
    context
        .watches
        .controller::<Namespace>()
        .reconcile_on(accounts)
        .reconcile_on(balancers)
        .reconcile_on(epic)
        .reconcile_on(on::<ServiceAccount, Namespace, _>(
            context,
            |_| (),
            move |_, o| lying_in(o.metadata.namespace.as_deref()),
        ))
        .reconcile_on(on::<RoleBinding, Namespace, _>(
            context,
            |_| (),
            move |_, o| lying_in(o.metadata.namespace.as_deref()),
        ))
        .reconcile_on(on::<ConfigMap, Namespace, _>(
            context,
            |_| (),
            move |_, o| lying_in(o.metadata.namespace.as_deref()),
        ))
}

/// The Accounts that may have this namespace.
fn of_namespace(namespace: &str) -> Vec<Key> {
    let Some(name) = namespace.strip_prefix(TENANT_NAMESPACE_PREFIX) else { return Vec::new() };
    vec![Key::namespaced(EPIC_NAMESPACE, name), Key::namespaced(namespace, name)]
}

fn around<K: Object>(object: &K) -> Vec<Key> {
    of_namespace(object.meta().namespace.as_deref().unwrap_or_default())
}

/// What of a quota says whether it acts; not how much of it is used.
fn counted(quota: &ResourceQuota) -> impl PartialEq + use<> {
    let status = quota.status.clone().unwrap_or_default();
    let kinds: Vec<String> = status.used.into_iter().flatten().map(|(kind, _)| kind).collect();
    (quota.spec.clone(), status.hard, kinds, labels(quota))
}

fn labels<K: Object>(object: &K) -> Option<String> {
    object.meta().labels.as_ref().and_then(|labels| labels.get(LABEL_ACCOUNT)).cloned()
}
