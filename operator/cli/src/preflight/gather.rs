//! Reads what [`super::judge`] judges. What this caller may not read is left out, and said.

use std::collections::BTreeMap;

use epic_crds::well_known::{EPIC_NAME, EPIC_NAMESPACE};
use epic_crds::{EPIC, EPICSpec};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::api::{self, is_forbidden, is_not_found};

/// What was read of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Version of the API server.
    pub version: String,
    /// Nodes; nothing where this caller may not list them.
    pub nodes: Option<Vec<Node>>,
    /// Pods of all namespaces; nothing where this caller may not list them.
    pub pods: Option<Vec<Pod>>,
    /// Networks of Services.
    pub service_networks: Vec<String>,
    /// Namespace `epic`, if it is there.
    pub namespace: Option<Namespace>,
    /// The EPIC object's spec, if it is there.
    pub epic: Option<EPICSpec>,
    /// Cilium's configuration, if it is there.
    pub cilium: Option<BTreeMap<String, String>>,
    /// Whether Calico forwards with eBPF.
    pub calico_bpf: bool,
    /// Network plugins that were recognised.
    pub plugins: Vec<String>,
    /// LoadBalancers to make room for.
    pub load_balancers: u64,
    /// Proxies of each.
    pub replicas: u64,
}

/// Reads the cluster; `load_balancers` of `replicas` proxies each are to fit.
///
/// # Errors
/// The API server cannot be asked.
pub async fn gather(client: &Client, load_balancers: u64, replicas: u64) -> Result<Facts, api::Error> {
    let version =
        client.apiserver_version().await.map_err(|error| api::Error::call("ask for the version", error))?;
    let mut facts = Facts { version: version.git_version, load_balancers, replicas, ..Facts::default() };
    facts.nodes = all(client, "list nodes").await?;
    facts.pods = all(client, "list pods").await?;
    let networks: Option<Vec<ServiceCIDR>> = all(client, "list servicecidrs").await?;
    facts.service_networks =
        networks.into_iter().flatten().filter_map(|cidr| cidr.spec?.cidrs).flatten().collect();
    facts.namespace = one(Api::all(client.clone()), EPIC_NAMESPACE, "read namespace epic").await?;
    let epic: Option<EPIC> =
        one(Api::namespaced(client.clone(), EPIC_NAMESPACE), EPIC_NAME, "read the EPIC object").await?;
    facts.epic = epic.map(|epic| epic.spec);
    let cilium: Option<ConfigMap> =
        one(Api::namespaced(client.clone(), "kube-system"), "cilium-config", "read cilium-config").await?;
    facts.cilium = cilium.and_then(|map| map.data);
    plugins(&mut facts, all::<DaemonSet>(client, "list daemonsets").await?.unwrap_or_default());
    Ok(facts)
}

/// Which network plugins run, by the names of their DaemonSets.
fn plugins(facts: &mut Facts, sets: Vec<DaemonSet>) {
    const KNOWN: [(&str, &str); 6] = [
        ("cilium", "Cilium"),
        ("calico-node", "Calico"),
        ("kube-flannel-ds", "flannel"),
        ("aws-node", "AWS VPC CNI"),
        ("kube-router", "kube-router"),
        ("ovnkube-node", "OVN-Kubernetes"),
    ];
    for set in sets {
        let name = set.name_any();
        facts
            .plugins
            .extend(KNOWN.iter().filter(|(known, _)| *known == name).map(|(_, plugin)| (*plugin).to_owned()));
        let containers =
            set.spec.and_then(|spec| spec.template.spec).map(|spec| spec.containers).unwrap_or_default();
        let variables = containers.into_iter().flat_map(|container| container.env.unwrap_or_default());
        facts.calico_bpf |= name == "calico-node"
            && variables.into_iter().any(|variable| {
                variable.name == "FELIX_BPFENABLED" && variable.value.as_deref() == Some("true")
            });
    }
    if facts.plugins.is_empty() {
        facts.plugins.push("no network plugin with known traps".to_owned());
    }
}

/// All objects of a kind, page by page; nothing where this caller may not list them or the kind is not there.
async fn all<K>(client: &Client, what: &str) -> Result<Option<Vec<K>>, api::Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug,
{
    let api: Api<K> = Api::all(client.clone());
    let mut objects = Vec::new();
    let mut parameters = ListParams::default().limit(500);
    loop {
        let page = match api.list(&parameters).await {
            Ok(page) => page,
            Err(error) if is_forbidden(&error) || is_not_found(&error) => return Ok(None),
            Err(error) => return Err(api::Error::call(what, error)),
        };
        objects.extend(page.items);
        match page.metadata.continue_ {
            Some(next) if !next.is_empty() => parameters = parameters.continue_token(&next),
            _ => return Ok(Some(objects)),
        }
    }
}

async fn one<K>(api: Api<K>, name: &str, what: &str) -> Result<Option<K>, api::Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug,
{
    match api.get_opt(name).await {
        Ok(found) => Ok(found),
        Err(error) if is_forbidden(&error) || is_not_found(&error) => Ok(None),
        Err(error) => Err(api::Error::call(what, error)),
    }
}
