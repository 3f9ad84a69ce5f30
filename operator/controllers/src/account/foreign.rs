//! What a namespace holds that is not EPIC's and not Kubernetes' own: a tenant would get rights over it.
//!
//! Secrets can be listed only with a binding in that namespace. So everything else is listed first, and what was found
//! is remembered: a namespace that is somebody else's is looked into once a full pass, however many bells ring, those
//! of the binding that comes and goes included.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use epic_crds::well_known::LABEL_ACCOUNT;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use k8s_openapi::api::rbac::v1::RoleBinding;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kates::{Client, Error, Object, Query};
use kube::ResourceExt;
use parking_lot::Mutex;

use crate::proxy::owned_by;
use crate::tenant::namespace::{Tenant, rights};

/// What was found in namespaces that were refused, by uid of the namespace.
#[derive(Debug, Default)]
pub struct Refused {
    found: Mutex<BTreeMap<String, (Instant, Vec<String>)>>,
}

impl Refused {
    /// What was found in a namespace less than `again` before `now`.
    pub(super) fn lately(&self, namespace: &Namespace, now: Instant, again: Duration) -> Option<Vec<String>> {
        let found = self.found.lock();
        let (at, objects) = found.get(namespace.metadata.uid.as_deref()?)?;
        (now.duration_since(*at) < again).then(|| objects.clone())
    }

    /// Remembers what was found, and forgets what is older than `again`.
    pub(super) fn remember(
        &self,
        namespace: &Namespace,
        objects: Vec<String>,
        now: Instant,
        again: Duration,
    ) {
        let mut found = self.found.lock();
        found.retain(|_, (at, _)| now.duration_since(*at) < again);
        found.insert(namespace.uid().unwrap_or_default(), (now, objects));
    }
}

/// Secrets of others, as `Kind name`. Ours bear the Account's label; whoever puts it on his own gives his namespace away,
/// and nobody else's.
///
/// # Errors
/// What the API server answers; `Forbidden` while a binding made just now is not in force.
pub(super) async fn secrets(client: &Client, tenant: &Tenant) -> Result<Vec<String>, Error> {
    let labelled = |meta: &ObjectMeta| {
        meta.labels.as_ref().and_then(|labels| labels.get(LABEL_ACCOUNT)) == Some(&tenant.account)
    };
    Ok(others::<Secret>(client, &tenant.namespace, labelled).await?.names)
}

/// Workloads and RoleBindings of others, as `Kind name`: what the operator may list anywhere. Ours are what begins at
/// one of the LoadBalancers with these uids: a namespace may have lost its label while it served.
///
/// # Errors
/// What the API server answers.
pub(super) async fn objects(
    client: &Client,
    tenant: &Tenant,
    balancers: &BTreeSet<String>,
) -> Result<Vec<String>, Error> {
    let bindings: Vec<String> = rights(tenant)
        .iter()
        .filter(|object| object["kind"] == "RoleBinding")
        .filter_map(|object| object["metadata"]["name"].as_str().map(str::to_owned))
        .collect();
    let namespace = tenant.namespace.as_str();
    let below =
        |owners: BTreeSet<String>| move |meta: &ObjectMeta| owners.iter().any(|uid| owned_by(meta, uid));
    let nobody = |_: &ObjectMeta| false;
    let deployments = others::<Deployment>(client, namespace, below(balancers.clone())).await?;
    let sets = others::<ReplicaSet>(client, namespace, below(deployments.ours)).await?;
    let pods = others::<Pod>(client, namespace, below(sets.ours)).await?;
    let mut found = [deployments.names, sets.names, pods.names].concat();
    found.extend(others::<StatefulSet>(client, namespace, nobody).await?.names);
    found.extend(others::<DaemonSet>(client, namespace, nobody).await?.names);
    found.extend(others::<Job>(client, namespace, nobody).await?.names);
    found.extend(others::<CronJob>(client, namespace, nobody).await?.names);
    let named = |meta: &ObjectMeta| meta.name.as_ref().is_some_and(|name| bindings.contains(name));
    found.extend(others::<RoleBinding>(client, namespace, named).await?.names);
    Ok(found)
}

/// A kind in a namespace: names of what is others', uids of what is ours.
struct Sorted {
    names: Vec<String>,
    ours: BTreeSet<String>,
}

async fn others<K: Object<DynamicType = ()>>(
    client: &Client,
    namespace: &str,
    is_ours: impl Fn(&ObjectMeta) -> bool,
) -> Result<Sorted, Error> {
    let listed = client.list::<K>(&Query::namespace(namespace)).await?;
    let (ours, others): (Vec<&K>, Vec<&K>) = listed.items.iter().partition(|object| is_ours(object.meta()));
    let unreadable = listed.poisoned.iter().map(|poison| format!("{} {}", K::kind(&()), poison.key.name()));
    let readable = others.iter().map(|object| format!("{} {}", K::kind(&()), object.name_any()));
    Ok(Sorted {
        names: readable.chain(unreadable).collect(),
        ours: ours.into_iter().filter_map(ResourceExt::uid).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_namespace_is_looked_into_again_after_its_time_and_a_successor_at_once() {
        let namespace = |uid: &str| {
            let mut namespace = Namespace::default();
            namespace.metadata.uid = Some(uid.to_owned());
            namespace
        };
        let (refused, again, start) = (Refused::default(), Duration::from_secs(60), Instant::now());
        let found = vec!["Secret theirs".to_owned()];
        assert_eq!(refused.lately(&namespace("a"), start, again), None);
        refused.remember(&namespace("a"), found.clone(), start, again);
        assert_eq!(refused.lately(&namespace("a"), start + again / 2, again), Some(found));
        assert_eq!(refused.lately(&namespace("a"), start + again, again), None);
        assert_eq!(refused.lately(&namespace("made anew"), start, again), None);
        refused.remember(&namespace("b"), Vec::new(), start + again, again);
        assert_eq!(refused.found.lock().len(), 1, "nothing is remembered beyond its time");
    }
}
