//! What a namespace holds that is not EPIC's and not Kubernetes' own: a tenant would get rights over it.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kates::{Client, Error, Object, Query};
use kube::ResourceExt;

use crate::tenant::namespace::{Tenant, rights};

/// Workloads, Secrets and RoleBindings of others, as `Kind name`.
///
/// # Errors
/// What the API server answers; `Forbidden` while a binding made just now is not in force.
pub(super) async fn objects(client: &Client, tenant: &Tenant) -> Result<Vec<String>, Error> {
    let ours: Vec<String> = rights(tenant)
        .iter()
        .filter(|object| object["kind"] == "RoleBinding")
        .filter_map(|object| object["metadata"]["name"].as_str().map(str::to_owned))
        .collect();
    let namespace = tenant.namespace.as_str();
    let mut found = names::<Secret>(client, namespace).await?;
    found.extend(names::<Deployment>(client, namespace).await?);
    found.extend(names::<StatefulSet>(client, namespace).await?);
    found.extend(names::<DaemonSet>(client, namespace).await?);
    found.extend(names::<ReplicaSet>(client, namespace).await?);
    found.extend(names::<Job>(client, namespace).await?);
    found.extend(names::<CronJob>(client, namespace).await?);
    found.extend(names::<Pod>(client, namespace).await?);
    let bindings = names::<RoleBinding>(client, namespace).await?;
    found.extend(
        bindings
            .into_iter()
            .filter(|name| !ours.iter().any(|ours| name.strip_prefix("RoleBinding ") == Some(ours.as_str()))),
    );
    Ok(found)
}

async fn names<K: Object<DynamicType = ()>>(client: &Client, namespace: &str) -> Result<Vec<String>, Error> {
    let listed = client.list::<K>(&Query::namespace(namespace)).await?;
    let unreadable = listed.poisoned.iter().map(|poison| format!("{} {}", K::kind(&()), poison.key.name()));
    let readable = listed.items.iter().map(|object| format!("{} {}", K::kind(&()), object.name_any()));
    Ok(readable.chain(unreadable).collect())
}
