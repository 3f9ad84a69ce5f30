//! The controller of tenant namespaces: removes one that the operator made, when its Account goes and no LoadBalancer is
//! left in it.
//!
//! Looks at namespaces, not at Accounts: an Account without children has no finalizer and may be gone before anybody
//! sees it go. Deleting the namespace takes the tenant's Endpoints and groups along, and with them the last IDs of the
//! Account, whose finalizer the allocator then takes off.

use std::sync::Arc;

use epic_crds::well_known::{LABEL_ACCOUNT, tenant_namespace};
use epic_crds::{Account, LoadBalancer};
use k8s_openapi::api::core::v1::Namespace;
use kates::{Key, Query, Subject};
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use kube::runtime::controller::Action;

use super::apply::namesakes;
use crate::context::Shared;
use crate::reconcile::Error;
use crate::tenant::namespace::ANNOTATION_CREATED_FOR;
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
    let Some(account) = made_for(namespace) else { return Ok(Action::await_change()) };
    let name = namespace.name_any();
    let counts = |key: &Key| snapshot.get::<Account>(key).is_some_and(|account| stays(account));
    let is_occupied = snapshot.in_namespace::<LoadBalancer>(&name).next().is_some();
    let is_due = !is_occupied && !namesakes(&account, &name).iter().any(counts);
    if is_due && !uninstall::is_under_way(&snapshot) {
        remove(&context, namespace, &account).await?;
    }
    Ok(Action::requeue(context.settings.full_pass))
}

/// The Account that a namespace was made for by the operator; `None` for any other namespace and one on its way out.
fn made_for(namespace: &Namespace) -> Option<String> {
    let name = namespace.labels().get(LABEL_ACCOUNT)?;
    let ours = namespace.metadata.deletion_timestamp.is_none()
        && namespace.annotations().contains_key(ANNOTATION_CREATED_FOR)
        && namespace.name_any() == tenant_namespace(name);
    ours.then(|| name.clone())
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
    context.keys.forget(&name);
    context.keys.forget(&format!("policies of {name}"));
    client.kind::<Namespace>().delete_with(&Key::cluster(name.as_str()), &parameters).await?;
    tracing::info!(namespace = name, account, "tenant namespace removed");
    Ok(())
}
