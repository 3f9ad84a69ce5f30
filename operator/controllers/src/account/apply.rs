//! The writes for an Account, other than its status: its namespace, rights, what its clients read, and the proof
//! that admission policies act.

use std::time::{Duration, Instant};

use epic_crds::condition::READY;
use epic_crds::well_known::{
    ANNOTATION_POLICY_PROBE, CONFIG_MAP_LIMITS, EPIC_NAMESPACE, QUOTA_LIMITS, ROLE_OPERATOR_TENANT,
    ROLE_TENANT, policy,
};
use epic_crds::{Account, AccountReason as Reason, EPIC, HasConditions, LoadBalancer};
use epic_model::account::{NamespaceStep, namespace_step};
use epic_model::id::AccountName;
use epic_model::name::short_hash;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ResourceQuota, Secret, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kates::{Key, Object, Query, Snapshot};
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use kube::core::Expression;
use serde_json::{Value, json};

use super::dereference::{Found, seen};
use super::foreign;
use crate::context::Shared;
use crate::proxy::covers;
use crate::reconcile::{Error, now};
use crate::tenant::client::{ClientConfig, client_config};
use crate::tenant::keys::gue_keys;
use crate::tenant::limits::{is_counted, limits_config, quota};
use crate::tenant::namespace::{Tenant, is_created, namespace, rights};
use crate::tenant::{network, pull};

/// Something that keeps the tenant from being served, in the words of its condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub reason: Reason,
    pub message: String,
    /// Whether nothing triggers another reconcile when it passes.
    pub ask_again: bool,
    /// Whether the API server has refused an object, and will in a second.
    refused: bool,
}

/// How soon something is looked at again that may pass any moment.
const SOON: Duration = Duration::from_secs(1);
/// How soon something is tried again that the API server has refused.
const REFUSED: Duration = Duration::from_secs(30);
/// How long a quota may be there without being counted before it is made again: one that was made before
/// kube-controller-manager knew the kinds that it names is else looked at five minutes later.
const UNCOUNTED: i64 = 5;

impl Waiting {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), ask_again: true, refused: false }
    }

    /// One of which a change of the namespace tells.
    fn until_changed(reason: Reason, message: impl Into<String>) -> Self {
        Self { ask_again: false, ..Self::new(reason, message) }
    }

    /// How soon another reconcile is worth it.
    pub(super) fn soon(&self) -> Duration {
        if self.refused { REFUSED } else { SOON }
    }

    /// What the API server has refused, in its words; anything else (a conflict, no answer) is an error to try again.
    fn of(error: Error) -> Result<Self, Error> {
        let about_the_object = |error: &kates::Error| {
            let passes = error.is_conflict() || error.is_already_exists() || error.is_not_found();
            error.status().filter(|status| !passes && !matches!(status.code, 429 | 503 | 504)).is_some()
        };
        match error {
            Error::Api(error) if about_the_object(&error) => {
                let said = error.status().map(|status| status.message.trim().to_owned()).unwrap_or_default();
                // Right after the bindings: the authorizer sees them a moment later.
                let refused = !error.is_forbidden();
                Ok(Self { refused, ..Self::new(Reason::ApplyFailed, format!("{error}: {said}")) })
            }
            Error::Missing(text) => Ok(Self::new(Reason::ApplyFailed, text)),
            error => Err(error),
        }
    }
}

/// Writes what is missing or differs. `Err` inside: what it waits for.
///
/// # Errors
/// Conflicts, and what the API server does not answer: another pass.
pub(super) async fn run(
    context: &Shared,
    snapshot: &Snapshot,
    found: &Found,
    name: &AccountName,
    epic: &EPIC,
) -> Result<Result<(), Waiting>, Error> {
    let operators = Key::namespaced(name.namespace().as_str(), ROLE_OPERATOR_TENANT);
    let operators = snapshot.get::<RoleBinding>(&operators).map(AsRef::as_ref);
    let created = found.namespace.as_deref().filter(|namespace| is_created(namespace, operators));
    let tenant = Tenant {
        account: name.as_str().to_owned(),
        namespace: name.namespace().as_str().to_owned(),
        created: created.and_then(|namespace| namespace.uid()),
        subjects: found.account.spec.subjects.clone(),
        system: context.settings.namespace.clone(),
    };
    match house(context, snapshot, found, name, &tenant).await {
        Ok(Ok(())) => {}
        Ok(Err(waiting)) => return Ok(Err(waiting)),
        Err(error) => return Waiting::of(error).map(Err),
    }
    match furnish(context, snapshot, found, &tenant, epic).await {
        Ok(Ok(())) => {}
        Ok(Err(waiting)) => return Ok(Err(waiting)),
        Err(error) => return Waiting::of(error).map(Err),
    }
    if !policies_act(context, &tenant).await? {
        let text = "admission policies do not act in the tenant namespace yet; are those of config/policy installed?";
        return Ok(Err(Waiting::new(Reason::PoliciesPending, text)));
    }
    Ok(Ok(()))
}

/// Sees to it that the namespace is there and is this account's.
async fn house(
    context: &Shared,
    snapshot: &Snapshot,
    found: &Found,
    name: &AccountName,
    tenant: &Tenant,
) -> Result<Result<(), Waiting>, Error> {
    let uid = found.account.uid().unwrap_or_default();
    let mut seen = found.namespace.as_ref().map(|namespace| seen(&found.account, namespace));
    if namespace_step(name, seen.as_ref()) == NamespaceStep::Adopt
        && let (Some(live), Some(seen)) = (&found.namespace, &mut seen)
    {
        seen.foreign = match look(context, snapshot, live, tenant).await {
            Ok(objects) => objects,
            Err(Error::Api(error)) if error.is_forbidden() => return Ok(Err(awaiting_right(&found.account))),
            Err(error) => return Err(error),
        };
    }
    match namespace_step(name, seen.as_ref()) {
        NamespaceStep::Create => {
            let mut object = parse::<Namespace>(namespace(tenant, Some(&uid)))?;
            context.counters.wrote("Namespace");
            context.client.create(&mut object).await?;
            Ok(Ok(()))
        }
        NamespaceStep::Ready | NamespaceStep::Adopt => {
            let Some(live) = &found.namespace else { return Ok(Ok(())) };
            // Made for a predecessor of the same name: it is this account's now, and goes with it.
            let created = tenant.created.as_ref().map(|_| uid.as_str());
            ensure(context, Some(live.as_ref()), namespace(tenant, created)).await?;
            Ok(Ok(()))
        }
        NamespaceStep::Wait => {
            let text = format!("namespace {} is being deleted; waiting until it is gone", tenant.namespace);
            Ok(Err(Waiting::until_changed(Reason::NamespaceTerminating, text)))
        }
        NamespaceStep::Refuse(refusal) => {
            Ok(Err(Waiting::until_changed(Reason::NamespaceNotAdopted, refusal.to_string())))
        }
    }
}

/// What a namespace holds of others. The binding that its Secrets can be listed with is made only when nothing else
/// is in the way, and stays only when they are not either.
async fn look(
    context: &Shared,
    snapshot: &Snapshot,
    namespace: &Namespace,
    tenant: &Tenant,
) -> Result<Vec<String>, Error> {
    let (now, again) = (Instant::now(), context.settings.full_pass);
    if let Some(objects) = context.refused.lately(namespace, now, again) {
        return Ok(objects);
    }
    let key = Key::namespaced(tenant.namespace.as_str(), ROLE_OPERATOR_TENANT);
    let bound = snapshot.get::<RoleBinding>(&key);
    let balancers = snapshot.in_namespace::<LoadBalancer>(&tenant.namespace);
    let balancers = balancers.filter_map(|balancer| balancer.uid()).collect();
    let mut objects = foreign::objects(&context.client, tenant, &balancers).await?;
    let is_bound = bound.is_some() || objects.is_empty();
    if objects.is_empty() {
        let operators = rights(tenant).into_iter().next().unwrap_or_default();
        ensure(context, bound.map(AsRef::as_ref), operators).await?;
        objects = foreign::secrets(&context.client, tenant).await?;
    }
    if !objects.is_empty() {
        if is_bound {
            context.counters.wrote("Tenant");
            context.client.delete::<RoleBinding>(&key).await?;
        }
        context.refused.remember(namespace, objects.clone(), now, again);
    }
    Ok(objects)
}

/// Waits for a binding made just now to be in force. What was said of the namespace before is true until it was seen
/// again.
fn awaiting_right(account: &Account) -> Waiting {
    match account.condition(READY) {
        Some(known) if known.reason == Reason::NamespaceNotAdopted.as_str() => {
            Waiting::new(Reason::NamespaceNotAdopted, known.message.clone())
        }
        _ => Waiting::new(Reason::Pending, "waiting for the right to look into the namespace"),
    }
}

/// Sees to the quota; says whether it acts.
async fn bounded(
    context: &Shared,
    snapshot: &Snapshot,
    account: &Account,
    tenant: &Tenant,
) -> Result<bool, Error> {
    let key = Key::namespaced(tenant.namespace.as_str(), QUOTA_LIMITS);
    let live = snapshot.get::<ResourceQuota>(&key);
    ensure(context, live.map(AsRef::as_ref), quota(tenant, account)).await?;
    let Some(live) = live else { return Ok(false) };
    let counted = is_counted(live, account);
    let has_no_count = live.status.as_ref().is_none_or(|status| {
        let kinds = live.spec.iter().flat_map(|spec| spec.hard.iter().flatten());
        kinds.into_iter().any(|(kind, _)| !status.used.iter().flatten().any(|(known, _)| known == kind))
    });
    let age = live.creation_timestamp().map_or(0, |made| now().0.as_second() - made.0.as_second());
    if !counted && has_no_count && age >= UNCOUNTED {
        context.counters.wrote("Tenant");
        context.client.delete_this(live.as_ref()).await?;
    }
    Ok(counted)
}

/// Limits, rights, ConfigMaps and Secret. The tenant's own rights come when the limits act: before, nothing bounds what
/// it creates. Rights that it has stay. `Err` inside: what it waits for.
async fn furnish(
    context: &Shared,
    snapshot: &Snapshot,
    found: &Found,
    tenant: &Tenant,
    epic: &EPIC,
) -> Result<Result<(), Waiting>, Error> {
    let acts = bounded(context, snapshot, &found.account, tenant).await?;
    for object in rights(tenant) {
        let key = Key::namespaced(
            tenant.namespace.as_str(),
            object["metadata"]["name"].as_str().unwrap_or_default(),
        );
        let comes_later = !acts && object["metadata"]["name"] == ROLE_TENANT;
        if comes_later && snapshot.get::<RoleBinding>(&key).is_none() {
            continue;
        }
        if object["kind"] == "ServiceAccount" {
            ensure(context, snapshot.get::<ServiceAccount>(&key).map(AsRef::as_ref), object).await?;
        } else {
            ensure(context, snapshot.get::<RoleBinding>(&key).map(AsRef::as_ref), object).await?;
        }
    }
    network_policy(context, snapshot, tenant).await?;
    pull_secrets(context, snapshot, found, tenant).await?;
    let ranges = epic.status.as_ref().and_then(|status| status.proxy_addresses.clone()).unwrap_or_default();
    let config = ClientConfig {
        proxies_ipv4: Some(epic.spec.proxy_ipv4().to_owned()),
        proxies_ipv6: ranges.ipv6,
        port: epic.spec.gue_port(),
        source_ports: epic.spec.source_ports(),
    };
    let wanted = client_config(&tenant.account, &tenant.namespace, &config);
    let key = Key::namespaced(tenant.namespace.as_str(), epic_crds::well_known::CONFIG_MAP_CLIENT);
    ensure(context, snapshot.get::<ConfigMap>(&key).map(AsRef::as_ref), wanted).await?;
    let usage = found.account.status.as_ref().and_then(|status| status.usage.clone()).unwrap_or_default();
    let wanted = limits_config(tenant, &found.account, &usage, &found.tenant);
    let key = Key::namespaced(tenant.namespace.as_str(), CONFIG_MAP_LIMITS);
    ensure(context, snapshot.get::<ConfigMap>(&key).map(AsRef::as_ref), wanted).await?;
    let master = context.keys.master(&context.client).await?;
    let wanted = gue_keys(&tenant.account, &tenant.namespace, &master, &found.keys);
    let fingerprint = short_hash(&[&wanted.to_string()]);
    if !context.keys.believes(&tenant.namespace, &fingerprint) {
        // Secrets are not watched: the operator may read them in this namespace, not everywhere.
        let key = Key::namespaced(tenant.namespace.as_str(), epic_crds::well_known::SECRET_GUE_KEYS);
        let live = context.client.get_opt::<Secret>(&key).await?;
        let stale = live.as_ref().is_some_and(|live| extra_entries(live, &wanted));
        ensure_if(context, live.as_ref(), wanted, stale).await?;
        context.keys.saw(&tenant.namespace, fingerprint);
    }
    if !acts {
        let text = "waiting until kube-controller-manager has counted what ResourceQuota epic-limits bounds; the tenant gets its rights then";
        return Ok(Err(Waiting::new(Reason::Pending, text)));
    }
    Ok(Ok(()))
}

/// The NetworkPolicy of its proxies, or none where the operator was installed without.
async fn network_policy(context: &Shared, snapshot: &Snapshot, tenant: &Tenant) -> Result<(), Error> {
    let key = Key::namespaced(tenant.namespace.as_str(), network::NAME);
    let live = snapshot.get::<NetworkPolicy>(&key);
    if context.settings.tenant_network_policies {
        return ensure(context, live.map(AsRef::as_ref), network::policy(tenant)).await;
    }
    if let Some(live) = live {
        context.counters.wrote("Tenant");
        context.client.delete_this::<NetworkPolicy>(live).await?;
    }
    Ok(())
}

/// Copies of the Secrets that its proxies' images are pulled with, and no other copy. They are not watched, as no Secret
/// of a tenant is; what was seen to be right is believed for a while.
async fn pull_secrets(
    context: &Shared,
    snapshot: &Snapshot,
    found: &Found,
    tenant: &Tenant,
) -> Result<(), Error> {
    let (sources, _) = pull::sources(snapshot, &found.pull_secrets);
    let wanted: Vec<Value> = sources
        .iter()
        .map(|(name, source)| pull::copied(&tenant.account, &tenant.namespace, name, source))
        .collect();
    let belief = format!("pull secrets of {}", tenant.namespace);
    // A namespace that was made again has none of them.
    let house = found.namespace.as_ref().and_then(|namespace| namespace.uid()).unwrap_or_default();
    let fingerprint = short_hash(&[&house, &Value::from(wanted.clone()).to_string()]);
    if context.keys.believes(&belief, &fingerprint) {
        return Ok(());
    }
    let copies = Query::namespace(tenant.namespace.as_str())
        .labels(Expression::Exists(epic_crds::well_known::LABEL_PULL_SECRET.to_owned()));
    let live = context.client.list::<Secret>(&copies).await?;
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    for copy in &live.items {
        if !wanted.iter().any(|wanted| name(wanted) == copy.name_any()) {
            context.counters.wrote("Tenant");
            context.client.delete_this(copy).await?;
        }
    }
    for wanted in wanted {
        let live = live.items.iter().find(|copy| copy.name_any() == name(&wanted));
        let stale = live.is_some_and(|live| extra_entries(live, &wanted));
        ensure_if(context, live, wanted, stale).await?;
    }
    context.keys.saw(&belief, fingerprint);
    Ok(())
}

/// Whether the Secret holds keys of LoadBalancers that are gone.
fn extra_entries(live: &Secret, wanted: &Value) -> bool {
    live.data.iter().flatten().any(|(entry, _)| wanted["data"].get(entry).is_none())
}

async fn ensure<K: Object<DynamicType = ()>>(
    context: &Shared,
    live: Option<&K>,
    wanted: Value,
) -> Result<(), Error> {
    ensure_if(context, live, wanted, false).await
}

/// Applies an object unless what is there covers it.
async fn ensure_if<K>(context: &Shared, live: Option<&K>, wanted: Value, anyway: bool) -> Result<(), Error>
where
    K: Object<DynamicType = ()>,
{
    if let Some(live) = live {
        let live = serde_json::to_value(live).unwrap_or_default();
        let mut content = wanted.clone();
        // Typed objects carry no kind.
        if let Some(content) = content.as_object_mut() {
            content.remove("apiVersion");
            content.remove("kind");
        }
        if !anyway && covers(&live, &content) {
            return Ok(());
        }
    }
    apply::<K>(context, wanted).await
}

/// Applies an object of the tenant.
///
/// # Errors
/// What the API server answers.
pub(super) async fn apply<K: Object<DynamicType = ()>>(context: &Shared, wanted: Value) -> Result<(), Error> {
    let mut object = parse::<K>(wanted)?;
    context.counters.wrote("Tenant");
    Ok(context.client.apply(&mut object).await?)
}

fn parse<K: Object>(wanted: Value) -> Result<K, Error> {
    serde_json::from_value(wanted).map_err(|_| {
        Error::Missing("an object of the tenant does not have the form of its kind; this is a bug")
    })
}

/// Whether a workload that must be refused is refused. Asked once for each namespace that this process serves: until
/// policies act, a tenant could place workloads beside its proxies.
async fn policies_act(context: &Shared, tenant: &Tenant) -> Result<bool, Error> {
    let asked = format!("policies of {}", tenant.namespace);
    if context.keys.believes(&asked, policy::TENANT_WORKLOADS) {
        return Ok(true);
    }
    let labels = json!({"probe": "probe"});
    let probe = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "probe", "namespace": tenant.namespace, "annotations": {ANNOTATION_POLICY_PROBE: "true"}},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "probe", "image": "probe"}]},
            },
        },
    });
    let deployments: Api<Deployment> = Api::namespaced(context.client.kube().clone(), &tenant.namespace);
    let parameters = PostParams { dry_run: true, ..PostParams::default() };
    match deployments.create(&parameters, &parse(probe)?).await {
        Err(kube::Error::Api(status)) if status.message.contains(policy::TENANT_WORKLOADS) => {
            context.keys.saw(&asked, policy::TENANT_WORKLOADS.to_owned());
            Ok(true)
        }
        Ok(_) => Ok(false),
        Err(error) => {
            tracing::debug!(namespace = tenant.namespace, %error, "the probe of the policies had another answer");
            Ok(false)
        }
    }
}

/// Fills in the group ID that was granted, at the version at which the grant was read.
///
/// # Errors
/// What the API server answers.
pub(super) async fn complete_spec(context: &Shared, account: &Account) -> Result<bool, Error> {
    let granted = account.status.as_ref().and_then(|status| status.group_id);
    if granted.is_none() || account.spec.group_id == granted {
        return Ok(false);
    }
    let mut completed = account.clone();
    completed.spec.group_id = granted;
    context.counters.wrote("Account");
    context.client.update(&mut completed).await?;
    Ok(true)
}

/// Where Accounts and their namespaces are looked up by the sweep of namespaces.
pub(super) fn namesakes(name: &str, namespace: &str) -> [Key; 2] {
    [Key::namespaced(EPIC_NAMESPACE, name), Key::namespaced(namespace, name)]
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    /// The API server's answer to an apply of the tenant's keys.
    fn answered(code: u16, reason: &str, message: &str) -> Error {
        let status = json!({"status": "Failure", "code": code, "reason": reason, "message": message});
        let status: Status = serde_json::from_value(status).unwrap();
        let (verb, object) = ("apply", "Secret epic-red/epic-gue-keys".to_owned());
        Error::Api(kates::Error::Api { verb, object, source: kube::Error::Api(Box::new(status)) })
    }

    #[test]
    fn an_object_that_is_too_large_becomes_a_condition_in_the_servers_words_and_what_passes_has_attempted_again()
     {
        for (code, reason, message) in [
            (500, "InternalError", "etcdserver: request is too large"),
            (413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728"),
            (
                422,
                "Invalid",
                "Secret \"epic-gue-keys\" is invalid: data: Too long: may not be more than 1048576 bytes",
            ),
        ] {
            let waiting = Waiting::of(answered(code, reason, message)).unwrap();
            assert_eq!(waiting.reason, Reason::ApplyFailed);
            assert!(
                waiting.message.contains("epic-gue-keys") && waiting.message.contains(message),
                "{waiting:?}"
            );
            assert!(waiting.ask_again && waiting.soon() == REFUSED, "{waiting:?}");
        }
        for (code, reason) in
            [(409, "Conflict"), (429, "TooManyRequests"), (503, "ServiceUnavailable"), (504, "Timeout")]
        {
            assert!(Waiting::of(answered(code, reason, "")).is_err(), "{reason}");
        }
    }
}
