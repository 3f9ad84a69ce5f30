//! The controller of tenant namespaces: what becomes of one whose Account goes.
//!
//! One that the operator made is removed, as soon as no LoadBalancer is left in it. Any other stays, and so does one with
//! LoadBalancers that nobody serves; once no Account is there any more, everything that was made in it is taken away:
//! first the ServiceAccount, with which every token of the tenant's client agents ends, then rights, keys and labels.
//! An Account of the same name may come back for another customer.
//!
//! Looks at namespaces, not at Accounts: an Account without children has no finalizer and may be gone before anybody
//! sees it go. Deleting the namespace takes the tenant's Endpoints and groups along, and with them the last IDs of the
//! Account, whose finalizer the allocator then takes off.

use std::sync::Arc;

use epic_crds::well_known::{LABEL_ACCOUNT, ROLE_OPERATOR_TENANT, TENANT_NAMESPACE_PREFIX};
use epic_crds::{Account, LoadBalancer};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ResourceQuota, Secret, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kates::{Key, Object, Query, Snapshot, Subject};
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use kube::core::Expression;
use kube::runtime::controller::Action;
use serde_json::json;

use super::apply::{apply, namesakes};
use crate::context::Shared;
use crate::reconcile::Error;
use crate::tenant::namespace::{Tenant, is_created, rights};
use crate::uninstall;

/// One pass over one Namespace.
///
/// # Errors
/// What the API server answers; the caller waits and calls again.
pub async fn reconcile(subject: Arc<Subject<Namespace>>, context: Shared) -> Result<Action, Error> {
    let snapshot = context.snapshot()?;
    let Some(namespace) = snapshot.get::<Namespace>(&subject.key()) else {
        return Ok(Action::await_change());
    };
    let Some(account) = tenant_of(namespace) else { return Ok(Action::await_change()) };
    if !uninstall::is_under_way(&snapshot) {
        match step(&snapshot, namespace, &account) {
            Step::Stay => {}
            Step::Remove => remove(&context, namespace, &account).await?,
            Step::Strip => strip(&context, &snapshot, namespace, &account).await?,
        }
    }
    Ok(Action::requeue(context.settings.full_pass))
}

/// What is to be done about a tenant namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Its Account is there, or nothing of ours is in it.
    Stay,
    /// It goes, with all that is in it.
    Remove,
    /// It stays, without what was made in it for the Account.
    Strip,
}

/// Name of the Account whose namespace this is, if it is anybody's; `None` for one on its way out.
fn tenant_of(namespace: &Namespace) -> Option<String> {
    let account = namespace.metadata.name.as_deref()?.strip_prefix(TENANT_NAMESPACE_PREFIX)?;
    namespace.metadata.deletion_timestamp.is_none().then(|| account.to_owned())
}

fn step(snapshot: &Snapshot, namespace: &Namespace, account: &str) -> Step {
    let name = namespace.name_any();
    let accounts: Vec<_> =
        namesakes(account, &name).iter().filter_map(|key| snapshot.get::<Account>(key)).collect();
    let is_furnished = is_there::<ServiceAccount>(snapshot, &name, account)
        || is_there::<RoleBinding>(snapshot, &name, account)
        || is_there::<ConfigMap>(snapshot, &name, account);
    let is_labelled = namespace.labels().get(LABEL_ACCOUNT).is_some_and(|label| label == account);
    let is_made = is_created(namespace, operators(snapshot, &name)) && (is_labelled || is_furnished);
    let is_occupied = snapshot.in_namespace::<LoadBalancer>(&name).next().is_some();
    if accounts.iter().any(|account| stays(account)) {
        Step::Stay
    } else if is_made && !is_occupied {
        Step::Remove
    } else if accounts.is_empty() && is_furnished {
        Step::Strip
    } else {
        Step::Stay
    }
}

/// The operator's own binding in a namespace.
fn operators<'s>(snapshot: &'s Snapshot, namespace: &str) -> Option<&'s RoleBinding> {
    let key = Key::namespaced(namespace, ROLE_OPERATOR_TENANT);
    snapshot.get::<RoleBinding>(&key).map(AsRef::as_ref)
}

/// Whether an object of ours is in a namespace: one that was made for the Account, and for none of its LoadBalancers.
fn is_there<K: Object<DynamicType = ()>>(snapshot: &Snapshot, namespace: &str, account: &str) -> bool {
    snapshot.in_namespace::<K>(namespace).any(|object| is_made_for(object.as_ref(), account))
}

fn is_made_for<K: Object<DynamicType = ()>>(object: &K, account: &str) -> bool {
    object.labels().get(LABEL_ACCOUNT).is_some_and(|label| label == account)
        && object.owner_references().is_empty()
}

fn stays(account: &Account) -> bool {
    account.metadata.deletion_timestamp.is_none()
}

/// Asks the API server itself before anything is removed: a cache may be behind.
async fn remove(context: &Shared, namespace: &Namespace, account: &str) -> Result<(), kates::Error> {
    let client = &context.client;
    let name = namespace.name_any();
    for key in namesakes(account, &name) {
        if client.get_opt::<Account>(&key).await?.is_some_and(|account| stays(&account)) {
            return Ok(());
        }
    }
    let left = client.list::<LoadBalancer>(&Query::namespace(name.as_str())).await?;
    if !left.items.is_empty() || !left.poisoned.is_empty() {
        return Ok(());
    }
    // An Account that comes again meanwhile changes the annotation, hence the version.
    let preconditions =
        Preconditions { uid: namespace.uid(), resource_version: namespace.resource_version() };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    context.counters.wrote("Namespace");
    forget(context, &name);
    client.kind::<Namespace>().delete_with(&Key::cluster(name.as_str()), &parameters).await?;
    tracing::info!(namespace = name, account, "tenant namespace removed");
    Ok(())
}

/// Takes away what was made in a namespace for an Account that is gone.
///
/// The operator's own binding goes last: without it no Secret can be found, and as long as it is there this is done
/// again, wherever it was interrupted.
async fn strip(
    context: &Shared,
    snapshot: &Snapshot,
    namespace: &Namespace,
    account: &str,
) -> Result<(), Error> {
    let client = &context.client;
    let name = namespace.name_any();
    for key in namesakes(account, &name) {
        if client.get_opt::<Account>(&key).await?.is_some() {
            return Ok(());
        }
    }
    let found = operators(snapshot, &name);
    let is_created = is_created(namespace, found);
    let tenant = Tenant {
        account: account.to_owned(),
        namespace: name.clone(),
        created: namespace.uid().filter(|_| is_created),
        subjects: Vec::new(),
        system: context.settings.namespace.clone(),
    };
    if found.is_none() {
        apply::<RoleBinding>(context, rights(&tenant).into_iter().next().unwrap_or_default()).await?;
    }
    forget(context, &name);
    take_away::<ServiceAccount>(context, &tenant).await?;
    take_away::<RoleBinding>(context, &tenant).await?;
    take_away::<ConfigMap>(context, &tenant).await?;
    take_away::<NetworkPolicy>(context, &tenant).await?;
    take_away::<ResourceQuota>(context, &tenant).await?;
    take_away::<Secret>(context, &tenant).await?;
    if !is_created {
        // An apply of nothing takes off what was applied before, and leaves what somebody else says, too. At the version
        // that was judged: it must not make a namespace that is gone.
        let version = namespace.resource_version();
        let nothing = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "resourceVersion": version},
        });
        apply::<Namespace>(context, nothing).await?;
    }
    delete::<RoleBinding>(context, &Key::namespaced(name.as_str(), ROLE_OPERATOR_TENANT)).await?;
    forget(context, &name);
    tracing::info!(namespace = name, account, "the Account is gone; its rights and keys are taken away");
    Ok(())
}

/// Deletes what was made for the Account; what belongs to a LoadBalancer goes with that.
async fn take_away<K: Object<DynamicType = ()>>(context: &Shared, tenant: &Tenant) -> Result<(), Error> {
    let query = Query::namespace(tenant.namespace.as_str())
        .labels(Expression::Equal(LABEL_ACCOUNT.to_owned(), tenant.account.clone()));
    let listed = context.client.list::<K>(&query).await?;
    for object in listed.items.iter().filter(|object| is_made_for(*object, &tenant.account)) {
        if object.name_any() != ROLE_OPERATOR_TENANT {
            delete::<K>(context, &Key::of(object)).await?;
        }
    }
    Ok(())
}

async fn delete<K: Object<DynamicType = ()>>(context: &Shared, key: &Key) -> Result<(), Error> {
    context.counters.wrote("Tenant");
    match context.client.delete::<K>(key).await {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}

/// What was believed of a namespace holds for it no more.
fn forget(context: &Shared, namespace: &str) {
    context.keys.forget(namespace);
    context.keys.forget(&format!("policies of {namespace}"));
    context.keys.forget(&format!("pull secrets of {namespace}"));
}
