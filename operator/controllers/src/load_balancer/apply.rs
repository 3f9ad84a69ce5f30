//! The writes for a LoadBalancer, other than its status: certificate, ConfigMap, budget, Deployment, address claim.

use std::time::Duration;

use epic_crds::{LoadBalancer, LoadBalancerReason as Reason};
use epic_model::claim::Refusal;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kates::{Key, Object, Snapshot};
use kube::Resource;
use rand::Rng;
use serde_json::Value;
use tokio::time::sleep;

use super::Found;
use super::build::Wanted;
use crate::address_pool::judge;
use crate::claim::grant::{self, Granted, Terms};
use crate::context::Shared;
use crate::node::unlabelled;
use crate::proxy::{self, covers, owned_by};
use crate::reconcile::{Category, Error};

/// Rounds in a row for one address, before others get their turn.
const ATTEMPTS: u64 = 8;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Why there is no address.
    pub refusal: Option<Refusal>,
    /// Whether something was written that this pass's inputs do not show yet.
    pub moved: bool,
    /// What could not be written: why, and in words.
    pub failed: Option<(Reason, String)>,
}

/// Writes what is missing or differs.
///
/// # Errors
/// What the API server answers, but for objects of ours that it refuses as such ([`Done::failed`]).
pub(super) async fn run(
    context: &Shared,
    snapshot: &Snapshot,
    found: &Found,
    wanted: &Wanted,
) -> Result<Done, Error> {
    let mut done = Done::default();
    let key = Key::of(found.balancer.as_ref());
    let mut outcomes = Vec::new();
    if let Some(holder) = &wanted.holder {
        if found.lacks_volume {
            context.certificates.forget(&key);
        }
        outcomes.push(context.certificates.ensure(context, holder).await);
    }
    if let Ok(Some(proxies)) = &wanted.proxies {
        let mut proxies = proxies.clone();
        if proxies.image.is_empty() {
            proxies.image.clone_from(&context.settings.envoy_image);
        }
        proxies.pull_policy = context.settings.envoy_pull_policy;
        let objects = proxy::objects(&proxies);
        let uid = &proxies.uid;
        outcomes.push(child::<ConfigMap>(context, snapshot, objects.config_map, uid).await);
        outcomes.push(child::<PodDisruptionBudget>(context, snapshot, objects.disruption_budget, uid).await);
        let live = Key::namespaced(proxies.namespace.as_str(), proxies.name.as_str());
        let live = snapshot.get::<Deployment>(&live).map(AsRef::as_ref);
        match proxy::awaits_labels(live, unlabelled(snapshot).as_deref()) {
            None => outcomes.push(child::<Deployment>(context, snapshot, objects.deployment, uid).await),
            Some(node) => {
                let text = format!(
                    "Node {node} has an EPIC agent and not yet the label epic.acnodal.io/node, which the operator sets; proxies stay as they are until then"
                );
                done.failed = Some((Reason::Pending, text));
            }
        }
    }
    for error in outcomes.into_iter().filter_map(Result::err) {
        match error.category() {
            // Somebody wrote first: nothing to tell, only to look again.
            Category::Conflict => done.moved = true,
            Category::Transient | Category::Waiting => done.failed = Some(failure(&error)),
        }
    }
    // Last, since nothing takes as long as a proxy's start.
    if let Some(valid) = &wanted.valid {
        let pools = judge(context.addresses.pools(), &context.endpoints.surroundings(snapshot));
        let terms = Terms {
            pools: &pools,
            account: &valid.account,
            pool_names: &valid.pools,
            most_claims: found.account.as_deref().map_or(usize::MAX, crate::account::most_claims),
        };
        match grant::judge(context, snapshot, &found.balancer, terms) {
            Some(Granted::Refused(refusal)) => done.refusal = Some(refusal),
            Some(_) => {}
            None => address(context, snapshot, &key, terms, &mut done).await?,
        }
    }
    Ok(done)
}

/// Gets the LoadBalancer its address. In this process nobody else is after the same one; against another process it is
/// tried again soon, and others go first meanwhile.
async fn address(
    context: &Shared,
    snapshot: &Snapshot,
    key: &Key,
    terms: Terms<'_>,
    done: &mut Done,
) -> Result<(), Error> {
    for attempt in 1..=ATTEMPTS {
        match grant::round(context, snapshot, key, terms).await? {
            Granted::Settled => return Ok(()),
            Granted::Refused(refusal) => {
                done.refusal = Some(refusal);
                return Ok(());
            }
            Granted::Written => break,
            Granted::Changed => {
                let pause = rand::rng().random_range(0..attempt * 20);
                sleep(Duration::from_millis(pause)).await;
            }
        }
    }
    context.counters.wrote("AddressClaim");
    done.moved = true;
    Ok(())
}

/// Applies one object, unless what is there covers it. An object of that name that is not ours is left alone.
async fn child<K>(context: &Shared, snapshot: &Snapshot, wanted: Value, uid: &str) -> Result<(), Error>
where
    K: Object + Resource<DynamicType = ()>,
{
    let Ok(mut object) = serde_json::from_value::<K>(wanted.clone()) else {
        return Err(Error::Missing(
            "an object of the proxies does not have the form of its kind; this is a bug",
        ));
    };
    let key = Key::of(&object);
    // One that carries no label of ours is not watched, and must not be taken over for that.
    let unwatched;
    let live = match snapshot.get::<K>(&key) {
        Some(live) => Some(live.as_ref()),
        None => {
            unwatched = context.client.get_opt::<K>(&key).await?;
            unwatched.as_ref()
        }
    };
    if let Some(live) = live {
        if !owned_by(live.meta(), uid) {
            return Err(Error::Missing(if is_leaving(live.meta(), &object) {
                PREDECESSOR
            } else {
                STRANGER
            }));
        }
        if covers(&serde_json::to_value(live).unwrap_or_default(), &untyped(wanted)) {
            return Ok(());
        }
        // Made anew by somebody between look and write: refused. The version would be refused too often, since its
        // own controller writes the status of such an object all the time.
        object.meta_mut().uid.clone_from(&live.meta().uid);
    }
    context.counters.wrote("Proxies");
    Ok(context.client.apply(&mut object).await?)
}

/// Typed objects carry no kind.
fn untyped(mut wanted: Value) -> Value {
    if let Some(wanted) = wanted.as_object_mut() {
        wanted.remove("apiVersion");
        wanted.remove("kind");
    }
    wanted
}

/// An object of the name is there, of a LoadBalancer that was deleted.
const PREDECESSOR: &str = "waiting for the proxies of its predecessor of the same name to go";
/// An object of the name is there, of somebody else.
const STRANGER: &str = "an object of the proxies' name exists and is not theirs; delete it";

/// Whether an object goes by itself: it is being deleted, or belonged to a LoadBalancer of the same name and will be
/// collected.
fn is_leaving<K: Resource>(live: &ObjectMeta, wanted: &K) -> bool {
    let controller = |meta: &ObjectMeta| {
        let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        owner.map(|owner| (owner.kind.clone(), owner.name.clone()))
    };
    let owner = controller(live);
    live.deletion_timestamp.is_some() || (owner.is_some() && owner == controller(wanted.meta()))
}

fn failure(error: &Error) -> (Reason, String) {
    let reason = match error {
        Error::Missing(PREDECESSOR) => Reason::Pending,
        _ => Reason::ApplyFailed,
    };
    let text = match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    (reason, text)
}

/// Fills in the spec fields of what was granted, at the version at which the grants were read.
///
/// # Errors
/// What the API server answers.
pub(super) async fn complete_spec(context: &Shared, balancer: &LoadBalancer) -> Result<bool, Error> {
    let Some(status) = &balancer.status else { return Ok(false) };
    let mut completed = balancer.clone();
    completed.spec.service_id = status.service_id.or(completed.spec.service_id);
    completed.spec.public_address = status.public_address.clone().or(completed.spec.public_address);
    if completed.spec == balancer.spec {
        return Ok(false);
    }
    context.counters.wrote("LoadBalancer");
    context.client.update(&mut completed).await?;
    Ok(true)
}
