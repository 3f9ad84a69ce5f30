//! One LoadBalancer's address: claims out of the cache, *then* GET the LoadBalancer, plan, write. What the caches refuse
//! makes no call at all.

use std::net::IpAddr;

use epic_crds::condition::{ACCEPTED, PROGRAMMED, set};
use epic_crds::rest;
use epic_crds::well_known::EPIC_NAMESPACE;
use epic_crds::{
    Account, AddressClaim, AddressClaimReason as ClaimReason, AddressClaimSpec, ClaimOwner, ConditionStatus,
    HasConditions, LoadBalancer, LoadBalancerReason as Reason, ServiceGroup,
};
use epic_model::address::{self, Family};
use epic_model::claim::{Asker, Plan, Pool, Refusal, Write};
use epic_model::id::{AccountName, ObjectVersion, PoolName};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kates::{Error, Key, Snapshot};
use kube::{Resource, ResourceExt};

use super::convert;
use super::index::{InFlight, Owned};
use crate::account::account_of;
use crate::context::Context;
use crate::service_group::{admits, group_of, pools_of};

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

/// Who asks for an address, and out of what.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The judged pools.
    pub pools: &'a [Pool],
    /// The LoadBalancer's Account.
    pub account: &'a AccountName,
    /// Names of the group's pools, in their order.
    pub pool_names: &'a [PoolName],
    /// How many claims the Account may have.
    pub most_claims: usize,
}

/// What the caches show: [`Granted::Settled`] or [`Granted::Refused`] without a call, `None` if a [`round`] is due. A
/// refusal is as old as the caches, and whatever ends it is an event that triggers the LoadBalancer again.
pub fn judge(
    context: &Context,
    snapshot: &Snapshot,
    balancer: &LoadBalancer,
    terms: Terms<'_>,
) -> Option<Granted> {
    let Some(object) = convert::balancer_version(balancer) else { return Some(Granted::Settled) };
    let owned = context.addresses.owned(&Key::of(balancer));
    let (asker, may_come) = (asker(balancer, object, terms), may_come(context, snapshot, terms.pools));
    let plan = context.addresses.look(&asker, terms.pools, &owned, &may_come);
    plan.writes.is_empty().then(|| plan.refusal.map_or(Granted::Settled, Granted::Refused))
}

/// Gets the LoadBalancer of `key` an IPv4 address, or finds out why it cannot have one.
///
/// # Errors
/// What the API server answers; conflicts are [`Granted::Changed`].
pub async fn round(
    context: &Context,
    snapshot: &Snapshot,
    key: &Key,
    terms: Terms<'_>,
) -> Result<Granted, Error> {
    // Claims first: an older LoadBalancer must never be written into a claim that a newer one is in. They come out of
    // the cache, the LoadBalancer never does (see `epic_model::claim`).
    let owned = context.addresses.owned(key);
    let Some(balancer) = context.client.get_opt::<LoadBalancer>(key).await? else {
        return Ok(Granted::Changed);
    };
    let Some(object) = convert::balancer_version(&balancer) else { return Ok(Granted::Changed) };
    let asker = asker(&balancer, object, terms);
    let may_come = may_come(context, snapshot, terms.pools);
    let (plan, in_flight) = context.addresses.plan(&asker, terms.pools, &owned, &may_come);
    match carry_out(context, &balancer, &owned, &plan, in_flight).await {
        Ok(0) => Ok(plan.refusal.map_or(Granted::Settled, Granted::Refused)),
        Ok(_) => Ok(Granted::Written),
        Err(error) if error.is_conflict() || error.is_already_exists() || error.is_not_found() => {
            Ok(Granted::Changed)
        }
        Err(error) => Err(error),
    }
}

/// Whether a LoadBalancer that asks for an address may come for it, as the snapshot shows it.
fn may_come<'a>(
    context: &'a Context,
    snapshot: &'a Snapshot,
    pools: &'a [Pool],
) -> impl Fn(&Key, IpAddr) -> bool + 'a {
    move |key, address| {
        let Some(other) = snapshot.get::<LoadBalancer>(key) else { return false };
        let namespace = other.namespace().unwrap_or_default();
        let (account, group) = (account_of(snapshot, &namespace), group_of(snapshot, other));
        let (Some(account), Some(group)) = (account, group) else { return false };
        let is_beyond_limit = || {
            let limits = context.admissions.of(snapshot, &account, &namespace);
            let uid = other.uid().unwrap_or_default().into();
            limits.load_balancers.refused.contains(&uid) || limits.proxies.refused.contains(&uid)
        };
        request(other, &account, &group, pools, is_beyond_limit) == Some(address)
    }
}

pub(super) fn asker(balancer: &LoadBalancer, object: ObjectVersion, terms: Terms<'_>) -> Asker {
    let parse = |text: Option<&String>| text.and_then(|text| address::parse(text).ok());
    Asker {
        object,
        account: terms.account.clone(),
        deleting: balancer.metadata.deletion_timestamp.is_some(),
        family: Family::V4,
        requested: parse(balancer.spec.public_address.as_ref()),
        granted: parse(balancer.status.as_ref().and_then(|status| status.public_address.as_ref())),
        pool_names: terms.pool_names.to_vec(),
        most_claims: terms.most_claims,
    }
}

/// The address that a LoadBalancer asks for and may come for. One that is refused may not: nothing limits how many of
/// those a tenant has, or what they ask for. One that is not judged yet may, within the limits of its Account: when all
/// are created anew from a backup, none loses its address to another that was judged earlier.
fn request(
    balancer: &LoadBalancer,
    account: &Account,
    group: &ServiceGroup,
    pools: &[Pool],
    is_beyond_limit: impl FnOnce() -> bool,
) -> Option<IpAddr> {
    let account = AccountName::parse(&account.name_any()).ok()?;
    if !admits(group, account.as_str(), &balancer.namespace().unwrap_or_default()) {
        return None;
    }
    let may_be_served = match balancer.condition(ACCEPTED) {
        Some(known) => known.status == ConditionStatus::True,
        None => !is_beyond_limit(),
    };
    if !may_be_served {
        return None;
    }
    let object = convert::balancer_version(balancer)?;
    let terms = Terms { pools, account: &account, pool_names: &pools_of(group), most_claims: usize::MAX };
    asker(balancer, object, terms).may_come_for(pools)
}

async fn carry_out(
    context: &Context,
    balancer: &LoadBalancer,
    owned: &[Owned],
    plan: &Plan,
    mut in_flight: Option<InFlight<'_>>,
) -> Result<usize, Error> {
    let client = &context.client;
    for write in &plan.writes {
        match write {
            Write::Create { name, address, pool, owner } => {
                let spec = AddressClaimSpec {
                    address: address.to_string(),
                    pool: pool.to_string(),
                    owner: claim_owner(owner),
                    ..Default::default()
                };
                let mut claim = AddressClaim::new(name.as_str(), spec);
                claim.metadata.namespace = Some(EPIC_NAMESPACE.to_owned());
                let created = client.create(&mut claim).await;
                let is_claimed = created.as_ref().map_or_else(Error::is_already_exists, |()| true);
                if let Some(in_flight) = in_flight.take().filter(|_| is_claimed) {
                    in_flight.claimed();
                }
                created?;
                let note = format!("claimed for {owner} out of pool {:?}", pool.as_str());
                context.events.note(&claim.object_ref(&()), ClaimReason::Claimed, "Claim", &note);
            }
            Write::Retag { name, uid, at, owner } => {
                let found = owned.iter().find(|owned| {
                    let claim = &owned.claim;
                    (&claim.name, &claim.uid, &claim.resource_version) == (name, uid, at)
                });
                // Never shown without: the round ends here, and the next one sees what there is.
                let Some(found) = found else { break };
                let mut claim = found.object.as_ref().clone();
                let mut owner = claim_owner(owner);
                rest::carry(&mut owner, &claim.spec.owner);
                claim.spec.owner = owner;
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
                // Another action than that of an ID: Events alike but for their note are counted, not told.
                let note = format!("public address {address}");
                let object = balancer.object_ref(&());
                context.events.note(&object, Reason::Allocated, "AllocateAddress", &note);
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
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_objects::object;
    use super::*;
    use epic_model::claim::{self as model, Spared};
    use serde_json::{Value, json};

    /// A LoadBalancer of Account blue.
    fn asking_for(address: &str, accepted: Option<&str>) -> LoadBalancer {
        let spec =
            json!({"public-ports": [{"port": 80}], "service-group": "shared", "public-address": address});
        let mut balancer: LoadBalancer = object("LoadBalancer", "epic-blue", address, spec);
        let condition = |status: &str| {
            json!({"type": ACCEPTED, "status": status, "reason": "x", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let conditions: Vec<Value> = accepted.map(condition).into_iter().collect();
        balancer.status = serde_json::from_value(json!({"conditions": conditions})).unwrap();
        balancer
    }

    fn open() -> [Pool; 1] {
        [Pool::parse("default", ["192.0.2.0/29"]).unwrap()]
    }

    #[test]
    fn addresses_that_a_tenant_can_never_get_are_drawn_for_others() {
        let blue: Account = object("Account", "epic", "blue", json!({}));
        let shared: ServiceGroup = object("ServiceGroup", "epic", "shared", json!({}));
        let for_red: ServiceGroup = object("ServiceGroup", "epic", "shared", json!({"accounts": ["red"]}));
        let mut closed = open();
        closed[0].accounts = Some([AccountName::parse("red").unwrap()].into());
        let red = Asker {
            object: convert::balancer_version(&asking_for("192.0.2.1", None)).unwrap(),
            account: AccountName::parse("red").unwrap(),
            deleting: false,
            family: Family::V4,
            requested: None,
            granted: None,
            pool_names: vec!["default".into()],
            most_claims: usize::MAX,
        };
        let drawn = |accepted: Option<&str>, group: &ServiceGroup, pools: &[Pool], is_beyond_limit: bool| {
            let blues = (1..=6).map(|last| asking_for(&format!("192.0.2.{last}"), accepted));
            let asked = blues.filter_map(|asks| request(&asks, &blue, group, pools, || is_beyond_limit));
            let spared = Spared { asked: asked.collect(), ..Spared::default() };
            model::plan(&red, pools, &[], &spared).refusal.is_none()
        };
        assert!(!drawn(Some("True"), &shared, &open(), false), "each may come for what it asks for");
        assert!(!drawn(None, &shared, &open(), false), "and when it is judged");
        assert!(
            drawn(Some("False"), &shared, &open(), false),
            "refused, such as for a group that is not there"
        );
        assert!(drawn(None, &shared, &open(), true), "more than blue may have, and about to be refused");
        assert!(drawn(Some("True"), &for_red, &open(), false), "the group does not admit blue");
        assert!(drawn(Some("True"), &shared, &closed, false), "the pool does not admit blue");
    }
}
