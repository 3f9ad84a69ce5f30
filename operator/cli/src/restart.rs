//! `epicctl restart`: has proxies made anew, one after the other, without touching them.
//!
//! It writes the time into an annotation of the LoadBalancer or the ServiceGroup; the operator puts it into the pods'
//! template, and Kubernetes rolls them out: a new proxy serves before an old one begins to drain.

use clap::{Args, Subcommand};
use epic_crds::well_known::{ANNOTATION_RESTARTED_AT, EPIC_NAMESPACE};
use epic_crds::{LoadBalancer, ServiceGroup};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::api::{self, is_not_found};

/// What is restarted.
#[derive(Clone, Debug, Subcommand)]
pub enum RestartCommand {
    /// The proxies of one LoadBalancer.
    Lb(OneArguments),
    /// The proxies of all LoadBalancers of a ServiceGroup, at once: each LoadBalancer for itself goes proxy by proxy.
    Group(GroupArguments),
}

/// Which LoadBalancer.
#[derive(Clone, Debug, Args)]
pub struct OneArguments {
    /// Its name.
    pub name: String,
    /// Its namespace, epic-ACCOUNT.
    #[arg(long, short)]
    pub namespace: String,
}

/// Which ServiceGroup.
#[derive(Clone, Debug, Args)]
pub struct GroupArguments {
    /// Its name.
    pub name: String,
    /// Its namespace: that of a tenant for a private group.
    #[arg(long, short, default_value = EPIC_NAMESPACE)]
    pub namespace: String,
}

/// Why nothing is restarted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error(transparent)]
    Api(#[from] api::Error),
    /// No such object.
    #[error("there is no {kind} {name:?} in namespace {namespace}; kubectl get {plural} -A lists them")]
    NotFound {
        /// Its kind.
        kind: String,
        /// As kubectl calls it.
        plural: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// Restarts, and says how to follow it.
///
/// # Errors
/// [`Error`].
pub async fn restart(client: &Client, command: &RestartCommand, now: Timestamp) -> Result<String, Error> {
    match command {
        RestartCommand::Lb(of) => {
            annotate::<LoadBalancer>(client, &of.namespace, &of.name, now).await?;
            Ok(format!(
                "the proxies of LoadBalancer {}/{} are made anew, one after the other; kubectl get pods -n {} --watch shows it\n",
                of.namespace, of.name, of.namespace
            ))
        }
        RestartCommand::Group(of) => {
            annotate::<ServiceGroup>(client, &of.namespace, &of.name, now).await?;
            Ok(format!(
                "the proxies of ServiceGroup {}/{} are made anew, one after the other in each LoadBalancer; epicctl get shows them\n",
                of.namespace, of.name
            ))
        }
    }
}

async fn annotate<K>(client: &Client, namespace: &str, name: &str, now: Timestamp) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let patch = json!({"metadata": {"annotations": {ANNOTATION_RESTARTED_AT: now.to_string()}}});
    match api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Err(Error::NotFound {
            kind: K::kind(&()).into_owned(),
            plural: format!("{}.{}", K::plural(&()), K::group(&())),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }),
        Err(error) => {
            Err(api::Error::call(format!("annotate {} {namespace}/{name}", K::kind(&())), error).into())
        }
    }
}
