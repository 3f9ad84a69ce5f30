//! Taking EPIC off the cluster: what `epic-operator uninstall` does, and how the rest of the operator knows.
//!
//! The annotation `epic.acnodal.io/uninstall` on the EPIC object stops allocators and controllers and makes agents
//! detach (EPICNode condition `Detached`). The command sets it, ends the proxies, waits for the nodes, then takes off
//! every finalizer of ours, whether or not all nodes could be cleaned: those that could not are listed, as are proxies
//! that it may not delete. Labels are anybody's: what carries ours outside of tenant namespaces is left alone. Objects of
//! EPIC's kinds stay, so an installation can be taken up again by removing the annotation, which `--undo` does.
//!
//! An upgrade does none of this: pins and links survive it. Neither does a rendered chart: its hooks are ordinary Jobs to
//! every tool that applies objects and does not know hooks, so they name their release, and do nothing unless Helm's own
//! record of it says that it is being uninstalled (see [`Asks`]).
//!
//! A kind that is not served any more has no objects: somebody deleted the definitions first. What is left of them then
//! hangs at our finalizers, and goes with these.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use epic_crds::condition::DETACHED;
use epic_crds::well_known::{
    ANNOTATION_UNINSTALL, EPIC_NAME, FINALIZER, LABEL_ACCOUNT, LABEL_LOAD_BALANCER, tenant_namespace,
};
use epic_crds::{Account, EPIC, EPICNode, HasConditions};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use kates::Snapshot;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::relations::epic_key;

/// Seconds that a proxy gets to end: nothing reaches it any more.
const GRACE: u32 = 2;
/// Time between two looks.
const AGAIN: Duration = Duration::from_millis(500);

/// EPIC could not be taken off the cluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call was refused or not answered.
    #[error("cannot {0}; run the command again")]
    Api(&'static str, #[source] kube::Error),
}

/// What was left when the time was up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// EPIC nodes that did not detach.
    pub nodes: BTreeSet<String>,
    /// Proxy pods that have not ended.
    pub proxies: usize,
    /// What somebody keeps from being deleted, as `Kind namespace/name`.
    pub refused: BTreeSet<String>,
}

/// Whether EPIC is to be taken off the cluster.
pub fn is_asked_for(epic: &EPIC) -> bool {
    epic.annotations().contains_key(ANNOTATION_UNINSTALL)
}

/// Whether a snapshot shows that EPIC is to be taken off the cluster.
pub fn is_under_way(snapshot: &Snapshot) -> bool {
    snapshot.get::<EPIC>(&epic_key()).is_some_and(|epic| is_asked_for(epic))
}

/// What somebody asks of this command through Helm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// EPIC is to go.
    ForUninstallation,
    /// EPIC is to be there.
    ForEpic,
}

impl Asks {
    /// States of a release, as the labels of Helm's records have them, that ask for it. Helm writes them before it
    /// creates a hook.
    const fn states(self) -> &'static [&'static str] {
        match self {
            Self::ForUninstallation => &["uninstalling"],
            Self::ForEpic => &["pending-install", "pending-rollback", "pending-upgrade"],
        }
    }

    /// Whether Helm's record of a release asks for it; says so where it does not. Records are Secrets, or ConfigMaps
    /// with Helm's other driver.
    ///
    /// # Errors
    /// [`Error`]: the records cannot be read, so nothing is concluded.
    pub async fn release(self, client: &Client, namespace: &str, release: &str) -> Result<bool, Error> {
        let records = ListParams::default().labels(&format!("owner=helm,name={release}"));
        let failed = |error| Error::Api("read Helm's records of the release", error);
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let mut states: BTreeSet<String> = BTreeSet::new();
        states.extend(secrets.list(&records).await.map_err(failed)?.iter().filter_map(state));
        states.extend(maps.list(&records).await.map_err(failed)?.iter().filter_map(state));
        let is_asked = states.iter().any(|state| self.states().contains(&state.as_str()));
        if !is_asked {
            let command = match self {
                Self::ForUninstallation => "epic-operator uninstall",
                Self::ForEpic => "epic-operator uninstall --undo",
            };
            tracing::info!(
                release,
                ?states,
                "nothing is changed: Helm's record does not say that this release is {}. Without Helm, run {command} in a pod of the operator",
                self.states().join(" or ")
            );
        }
        Ok(is_asked)
    }
}

fn state<K: ResourceExt>(record: &K) -> Option<String> {
    record.labels().get("status").cloned()
}

/// Takes EPIC off the cluster, waiting at most `wait` for others. Can be repeated.
///
/// # Errors
/// [`Error`]: nothing more could be done.
pub async fn run(client: &Client, namespace: &str, wait: Duration) -> Result<Left, Error> {
    annotate(client, namespace, Some("true")).await?;
    let deadline = Instant::now() + wait;
    let mut left = Left::default();
    let mut proxies = true;
    loop {
        if proxies {
            left.proxies = end_proxies(client, &mut left.refused).await?;
            proxies = left.proxies > 0;
        }
        left.nodes = attached(client, namespace).await?;
        if (left.nodes.is_empty() && !proxies) || Instant::now() >= deadline {
            break;
        }
        sleep(AGAIN).await;
    }
    // A round that was under way may have put a finalizer on meanwhile: until none is found any more.
    while release::<Account>(client).await? + release::<EPIC>(client).await? > 0 {
        sleep(AGAIN).await;
    }
    for node in &left.nodes {
        tracing::warn!(
            node,
            "could not be cleaned; its agent is away. Remove the folder /sys/fs/bpf/epic there, or restart it"
        );
    }
    for object in &left.refused {
        tracing::warn!(object, "may not be deleted, by a role or by an admission policy; delete it yourself");
    }
    if left.proxies > 0 {
        tracing::warn!(proxies = left.proxies, "have not ended yet");
    }
    tracing::info!("EPIC is off the cluster; its definitions and objects stay");
    Ok(left)
}

/// Takes EPIC up again on kept objects. Without an EPIC object, or without the annotation, nothing is to be done.
///
/// # Errors
/// [`Error`]: the annotation is still there.
pub async fn undo(client: &Client, namespace: &str) -> Result<(), Error> {
    annotate(client, namespace, None).await
}

/// Sets the annotation on the EPIC object, or removes it; a patch that changes nothing writes nothing.
async fn annotate(client: &Client, namespace: &str, value: Option<&str>) -> Result<(), Error> {
    let epics: Api<EPIC> = Api::namespaced(client.clone(), namespace);
    let annotation = json!({"metadata": {"annotations": {ANNOTATION_UNINSTALL: value}}});
    match epics.patch(EPIC_NAME, &PatchParams::default(), &Patch::Merge(annotation)).await {
        Ok(_) => Ok(()),
        // By the code: where the kind itself is not served, the answer gives no reason.
        Err(kube::Error::Api(status)) if status.code == 404 => {
            tracing::info!("there is no EPIC object");
            Ok(())
        }
        Err(error) => Err(Error::Api("annotate the EPIC object", error)),
    }
}

/// Deletes the proxies; answers how many pods are left.
///
/// From the top down and each as an orphan, so that nobody makes pods anew and the garbage collector does not delete
/// them before this does: a pod that has begun to end does not end sooner when it is told a shorter time.
async fn end_proxies(client: &Client, refused: &mut BTreeSet<String>) -> Result<usize, Error> {
    let tenants = tenants(client).await?;
    let orphan =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    for deployment in proxies::<Deployment>(client, &tenants).await? {
        delete(client, &deployment, &orphan, refused).await?;
    }
    for set in proxies::<ReplicaSet>(client, &tenants).await? {
        delete(client, &set, &orphan, refused).await?;
    }
    let pods = proxies::<Pod>(client, &tenants).await?;
    for pod in &pods {
        // Not after its drain time: the nodes let go of its flows anyway.
        let short = i64::from(GRACE);
        if pod.metadata.deletion_grace_period_seconds.is_none_or(|grace| grace > short) {
            delete(client, pod, &DeleteParams::default().grace_period(GRACE), refused).await?;
        }
    }
    Ok(pods.len())
}

/// Accounts by their namespaces. A namespace that is called like a tenant's is somebody else's without the label, and
/// one with the label is outside of the operator's reach unless it is called so.
async fn tenants(client: &Client) -> Result<BTreeMap<String, String>, Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let listed = namespaces.list(&ListParams::default().labels(LABEL_ACCOUNT)).await;
    let listed = listed.map_err(|error| Error::Api("list the tenant namespaces", error))?;
    let labelled = listed.iter().filter_map(|namespace| {
        let account = namespace.labels().get(LABEL_ACCOUNT)?;
        Some((namespace.name_any(), account.clone()))
    });
    Ok(labelled.filter(|(namespace, account)| *namespace == tenant_namespace(account)).collect())
}

/// Objects of a kind that the operator had made for proxies: by the labels alone, since their owners go before them.
async fn proxies<K>(client: &Client, tenants: &BTreeMap<String, String>) -> Result<Vec<K>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let labelled = ListParams::default().labels(&format!("{LABEL_ACCOUNT},{LABEL_LOAD_BALANCER}"));
    let listed = Api::<K>::all(client.clone()).list(&labelled).await;
    let mut found = listed.map_err(|error| Error::Api("list the proxies", error))?.items;
    found.retain(|object| {
        let account = object.namespace().and_then(|namespace| tenants.get(&namespace));
        account.is_some() && account == object.labels().get(LABEL_ACCOUNT)
    });
    Ok(found)
}

/// Deletes an object, or puts it on the list of those that may not be deleted.
async fn delete<K>(
    client: &Client,
    object: &K,
    parameters: &DeleteParams,
    refused: &mut BTreeSet<String>,
) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let namespace = object.namespace().unwrap_or_default();
    let name = format!("{} {namespace}/{}", K::kind(&()), object.name_any());
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    match api.delete(&object.name_any(), parameters).await {
        Ok(_) => refused.remove(&name),
        Err(kube::Error::Api(status)) if status.is_not_found() => refused.remove(&name),
        Err(kube::Error::Api(status)) if status.is_forbidden() => refused.insert(name),
        Err(error) => return Err(Error::Api("end the proxies", error)),
    };
    Ok(())
}

/// The EPIC nodes that have not said that they are clean.
async fn attached(client: &Client, namespace: &str) -> Result<BTreeSet<String>, Error> {
    let nodes: Api<EPICNode> = Api::namespaced(client.clone(), namespace);
    let Some(listed) = served(nodes.list(&ListParams::default()).await, "list the EPIC nodes")? else {
        return Ok(BTreeSet::new());
    };
    Ok(listed.iter().filter(|node| !node.is_condition_true(DETACHED)).map(ResourceExt::name_any).collect())
}

/// What a list answered; `None` where the kind is not served. By the code: such an answer gives no reason.
fn served<T>(listed: kube::Result<T>, what: &'static str) -> Result<Option<T>, Error> {
    match listed {
        Ok(listed) => Ok(Some(listed)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(Error::Api(what, error)),
    }
}

/// Takes our finalizer off every object of a kind, at the version that was read; answers off how many.
async fn release<K>(client: &Client) -> Result<usize, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + serde::Serialize
        + std::fmt::Debug,
{
    const WHAT: &str = "take off a finalizer";
    let all: Api<K> = Api::all(client.clone());
    let mut released = 0;
    loop {
        let mut again = false;
        let Some(listed) = served(all.list(&ListParams::default()).await, WHAT)? else { return Ok(released) };
        for object in listed {
            let kept: Vec<&String> = object.finalizers().iter().filter(|name| *name != FINALIZER).collect();
            if kept.len() == object.finalizers().len() {
                continue;
            }
            let patch =
                json!({"metadata": {"resourceVersion": object.resource_version(), "finalizers": kept}});
            let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
            match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => released += 1,
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(kube::Error::Api(status)) if status.is_conflict() => again = true,
                Err(error) => return Err(Error::Api(WHAT, error)),
            }
        }
        if !again {
            return Ok(released);
        }
    }
}
