//! One LoadBalancer's address: LIST the claims, *then* GET the LoadBalancer, plan, write.

use std::collections::BTreeSet;
use std::net::IpAddr;

use epic_crds::condition::{PROGRAMMED, set};
use epic_crds::well_known::EPIC_NAMESPACE;
use epic_crds::{AddressClaim, AddressClaimSpec, ClaimOwner, LoadBalancer, LoadBalancerReason as Reason};
use epic_model::address::{self, Family};
use epic_model::claim::{self as model, Asker, Plan, Refusal, Write};
use epic_model::id::{AccountName, ObjectVersion, PoolName};
use epic_model::name::claim_address;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kates::{Client, Error, Key, Query, Snapshot};
use kube::ResourceExt;

use super::convert;

/// What came of a round.
#[derive(Debug)]
pub enum Granted {
    /// The LoadBalancer shows its address, and the claim is there.
    Settled,
    /// Something was written; the LoadBalancer is at another version now.
    Written,
    /// There is no address for it now.
    Refused(Refusal),
    /// Somebody wrote first: start again.
    Changed,
}

/// Gets the LoadBalancer of `key` an IPv4 address out of `pool_names`, or finds out why it cannot have one.
///
/// # Errors
/// What the API server answers; conflicts are [`Granted::Changed`].
pub async fn round(
    client: &Client,
    snapshot: &Snapshot,
    key: &Key,
    account: &AccountName,
    pool_names: &[PoolName],
) -> Result<Granted, Error> {
    // Claims first: an older LoadBalancer must never be written into a claim that a newer one is in.
    let listed = client.list::<AddressClaim>(&Query::namespace(EPIC_NAMESPACE)).await?;
    let Some(balancer) = client.get_opt::<LoadBalancer>(key).await? else { return Ok(Granted::Changed) };
    let Some(object) = convert::balancer_version(&balancer) else { return Ok(Granted::Changed) };
    let claims: Vec<model::Claim> = listed.items.iter().filter_map(convert::claim).collect();
    let asker = asker(&balancer, object, account, pool_names);
    // A claim that cannot be read holds its name all the same.
    let unreadable =
        listed.items.iter().filter(|item| convert::claim(item).is_none()).map(|item| item.name_any());
    let poisoned = listed.poisoned.iter().map(|poison| poison.key.name().to_owned());
    let mut avoid = avoid(snapshot, &balancer);
    avoid.extend(unreadable.chain(poisoned).filter_map(|name| claim_address(&name.into())));
    let plan = model::plan(&asker, &convert::pools(snapshot), &claims, &avoid);
    match carry_out(client, &balancer, &listed.items, &plan).await {
        Ok(0) => Ok(plan.refusal.map_or(Granted::Settled, Granted::Refused)),
        Ok(_) => Ok(Granted::Written),
        Err(error) if error.is_conflict() || error.is_already_exists() || error.is_not_found() => {
            Ok(Granted::Changed)
        }
        Err(error) => Err(error),
    }
}

/// Whether the snapshot shows that a round would find nothing to do.
pub fn is_settled(
    snapshot: &Snapshot,
    balancer: &LoadBalancer,
    account: &AccountName,
    pools: &[PoolName],
) -> bool {
    let Some(object) = convert::balancer_version(balancer) else { return true };
    let asker = asker(balancer, object, account, pools);
    let claims = convert::claims(snapshot);
    let plan = model::plan(&asker, &convert::pools(snapshot), &claims, &avoid(snapshot, balancer));
    plan.writes.is_empty() && plan.refusal.is_none()
}

pub(super) fn asker(
    balancer: &LoadBalancer,
    object: ObjectVersion,
    account: &AccountName,
    pool_names: &[PoolName],
) -> Asker {
    let parse = |text: Option<&String>| text.and_then(|text| address::parse(text).ok());
    Asker {
        object,
        account: account.clone(),
        deleting: balancer.metadata.deletion_timestamp.is_some(),
        family: Family::V4,
        requested: parse(balancer.spec.public_address.as_ref()),
        granted: parse(balancer.status.as_ref().and_then(|status| status.public_address.as_ref())),
        pool_names: pool_names.to_vec(),
    }
}

/// Addresses that others show or ask for.
fn avoid(snapshot: &Snapshot, balancer: &LoadBalancer) -> BTreeSet<IpAddr> {
    snapshot
        .list::<LoadBalancer>()
        .filter(|other| other.uid() != balancer.uid())
        .flat_map(|other| {
            let asked = other.spec.public_address.as_deref().and_then(|text| address::parse(text).ok());
            convert::shown(other).into_iter().chain(asked)
        })
        .collect()
}

async fn carry_out(
    client: &Client,
    balancer: &LoadBalancer,
    claims: &[AddressClaim],
    plan: &Plan,
) -> Result<usize, Error> {
    for write in &plan.writes {
        match write {
            Write::Create { name, address, pool, owner } => {
                let spec = AddressClaimSpec {
                    address: address.to_string(),
                    pool: pool.to_string(),
                    owner: claim_owner(owner),
                };
                let mut claim = AddressClaim::new(name.as_str(), spec);
                claim.metadata.namespace = Some(EPIC_NAMESPACE.to_owned());
                client.create(&mut claim).await?;
            }
            Write::Retag { name, uid, at, owner } => {
                let found = claims.iter().find(|claim| {
                    claim.name_any() == name.as_str()
                        && claim.uid().as_deref() == Some(uid.as_str())
                        && claim.resource_version().as_deref() == Some(at.as_str())
                });
                // Never shown without: the round ends here, and the next one sees what there is.
                let Some(mut claim) = found.cloned() else { break };
                claim.spec.owner = claim_owner(owner);
                client.update(&mut claim).await?;
            }
            Write::Touch { mark, .. } => {
                let mut touched = balancer.clone();
                let status = touched.status.get_or_insert_default();
                let message = format!("waiting for an address ({mark})");
                let now = Time(Timestamp::now());
                let generation = balancer.metadata.generation;
                set(&mut status.conditions, PROGRAMMED, false, Reason::Pending, message, generation, &now);
                client.update_status(&mut touched).await?;
            }
            Write::Grant { address, .. } => {
                let mut granted = balancer.clone();
                granted.status.get_or_insert_default().public_address = Some(address.to_string());
                client.update_status(&mut granted).await?;
            }
        }
    }
    Ok(plan.writes.len())
}

fn claim_owner(owner: &ObjectVersion) -> ClaimOwner {
    ClaimOwner {
        kind: owner.kind.to_string(),
        namespace: owner.namespace.to_string(),
        name: owner.name.to_string(),
        uid: owner.uid.to_string(),
        resource_version: owner.resource_version.to_string(),
    }
}
