//! The AddressClaim's controller, which lets go of claims: GET the claim, *then* LIST its owner, judge, write. Of those
//! that stay it says whether a pool holds them, and whether another machine answers for their address.
//!
//! Deletion of a LoadBalancer waits for none of this. A claim lasts until every EPICNode has passed the revision that
//! showed the owner without the address; an EPICNode that is deleted is waited for no longer.

use std::net::IpAddr;
use std::sync::Arc;

use epic_crds::well_known::EPIC_NAMESPACE;
use epic_crds::{
    Account, AddressClaim, AddressClaimReason as Reason, ClaimPhase, EPICNode, LoadBalancer, NodeConflict,
    ServiceGroup,
};
use epic_model::address;
use epic_model::claim::{self as model, OwnerSeen, Phase, Pool, Release};
use epic_model::id::{AccountName, Seconds};
use epic_model::revision::{Revision, behind};
use jiff::Timestamp;
use kates::{Key, Query, Snapshot, Subject};
use kube::runtime::controller::Action;
use kube::{Resource, ResourceExt};

use super::convert;
use super::grant::Terms;
use super::status::{self, Home, Rival};
use crate::account::account_of;
use crate::address_pool::judge;
use crate::context::Shared;
use crate::reconcile::{self, Error};
use crate::service_group::{admits, group_of, pools_of};
use crate::uninstall;

/// One pass over one AddressClaim.
///
/// # Errors
/// What the API server answers; the caller waits and calls again.
pub async fn reconcile(subject: Arc<Subject<AddressClaim>>, context: Shared) -> Result<Action, Error> {
    let snapshot = context.snapshot()?;
    let key = subject.key();
    let Some(object) = snapshot.get::<AddressClaim>(&key) else { return Ok(Action::await_change()) };
    let Some(claim) = convert::claim(object) else { return Ok(Action::await_change()) };
    if uninstall::is_under_way(&snapshot) {
        return Ok(Action::requeue(context.settings.full_pass));
    }
    // What a cache shows decides only whether it is worth asking.
    let pools = judge(context.addresses.pools(), &context.endpoints.surroundings(&snapshot));
    let owner = snapshot.get::<LoadBalancer>(&owner_key(&claim)).map(AsRef::as_ref);
    let owner = owner_seen(&snapshot, &pools, owner, &claim);
    let judged = model::release(
        &claim,
        &owner,
        Revision::new(0),
        &convert::node_revisions(&snapshot, now(), owner_of(object)),
    );
    let mut again = context.settings.full_pass;
    match judged {
        Release::Mark { .. } | Release::Delete { .. } => round(&context, &snapshot, &pools, &key).await?,
        Release::Wait { nodes } => {
            let mut after = object.as_ref().clone();
            let status = after.status.get_or_insert_default();
            again = again.min(status::waits(status, &nodes, object.metadata.generation, &reconcile::now()));
            reconcile::publish_status(&context, object.as_ref(), after).await?;
        }
        Release::Keep => keep(&context, &snapshot, &pools, object, &claim).await?,
    }
    Ok(Action::requeue(again))
}

/// A claim that stays: it names the pool that holds its address, and says what is wrong with that.
async fn keep(
    context: &Shared,
    snapshot: &Snapshot,
    pools: &[Pool],
    object: &AddressClaim,
    claim: &model::Claim,
) -> Result<(), Error> {
    let home = status::home(&claim.pool, claim.address, pools);
    if let (Home::Moved(pool), Phase::Bound) = (&home, claim.phase) {
        // At the version that was read: whoever grants or releases meanwhile goes first.
        let mut moved = object.clone();
        moved.spec.pool = pool.to_string();
        context.counters.wrote("AddressClaim");
        return Ok(context.client.update(&mut moved).await?);
    }
    let mut after = object.clone();
    let mut said = after.status.take().unwrap_or_default();
    let rivals = rivals(snapshot, claim.address);
    status::bound(&mut said, &rivals, &home, object.metadata.generation, &reconcile::now());
    after.status = (object.status.is_some() || said != Default::default()).then_some(said);
    reconcile::publish_status(context, object, after).await?;
    Ok(())
}

/// Who else answers for an address, as nodes see it.
fn rivals(snapshot: &Snapshot, address: IpAddr) -> Vec<Rival> {
    let of_node = |node: &Arc<EPICNode>| {
        let conflicts = node.status.iter().flat_map(|status| &status.conflicts);
        let found = conflicts.filter(|conflict| address::parse(&conflict.address) == Ok(address));
        let rival = |conflict: &NodeConflict| Rival {
            node: node.name_any(),
            interface: conflict.interface.clone(),
            mac: conflict.mac.clone(),
        };
        found.map(rival).collect::<Vec<_>>()
    };
    snapshot.list::<EPICNode>().flat_map(of_node).collect()
}

/// Judges by quorum reads, and writes what follows.
async fn round(context: &Shared, snapshot: &Snapshot, pools: &[Pool], key: &Key) -> Result<(), kates::Error> {
    let client = &context.client;
    let Some(mut object) = client.get_opt::<AddressClaim>(key).await? else { return Ok(()) };
    let Some(claim) = convert::claim(&object) else { return Ok(()) };
    // A list, since only that has a revision to compare nodes with; of the one name, so it costs as much as a GET.
    let query =
        Query::namespace(claim.owner.namespace.as_str()).field("metadata.name", claim.owner.name.as_str());
    let listed = client.list::<LoadBalancer>(&query).await?;
    let Ok(revision) = listed.revision.as_str().parse::<Revision>() else { return Ok(()) };
    // An owner that cannot be read is not gone.
    let unreadable =
        listed.poisoned.iter().any(|poison| poison.metadata.uid.as_deref() == Some(claim.owner.uid.as_str()));
    if unreadable {
        return Ok(());
    }
    let owner = owner_seen(snapshot, pools, listed.items.first(), &claim);
    let nodes = convert::node_revisions(snapshot, now(), owner_of(&object));
    match model::release(&claim, &owner, revision, &nodes) {
        Release::Keep | Release::Wait { .. } => Ok(()),
        Release::Mark { release_revision, .. } => {
            let generation = object.metadata.generation;
            let status = object.status.get_or_insert_default();
            status.phase = Some(ClaimPhase::Releasing);
            status.release_revision = Some(release_revision.to_string());
            status::leaving(status);
            let behind = behind(&nodes, release_revision);
            if !behind.is_empty() {
                status::waits(status, &behind, generation, &reconcile::now());
            }
            context.counters.wrote("AddressClaim");
            client.update_status(&mut object).await?;
            let note = format!("{} does not have it any more; nodes are to let it go", claim.owner);
            context.events.note(&object.object_ref(&()), Reason::Releasing, "Release", &note);
            Ok(())
        }
        Release::Delete { .. } => {
            context.counters.wrote("AddressClaim");
            client.delete_this(&object).await?;
            let note = format!("every EPIC node has let it go; it was of {}", claim.owner);
            context.events.note(&object.object_ref(&()), Reason::Released, "Release", &note);
            Ok(())
        }
    }
}

fn owner_key(claim: &model::Claim) -> Key {
    Key::namespaced(claim.owner.namespace.as_str(), claim.owner.name.as_str())
}

/// The owner of a claim, given the LoadBalancer of its name.
fn owner_seen(
    snapshot: &Snapshot,
    pools: &[Pool],
    namesake: Option<&LoadBalancer>,
    claim: &model::Claim,
) -> OwnerSeen {
    let owner = namesake.filter(|balancer| balancer.uid().as_deref() == Some(claim.owner.uid.as_str()));
    let Some(owner) = owner else { return OwnerSeen::Gone };
    OwnerSeen::Present {
        resource_version: owner.resource_version().unwrap_or_default().into(),
        shown: convert::shown(owner),
        fits: fits(snapshot, pools, owner, claim.address),
    }
}

fn fits(snapshot: &Snapshot, pools: &[Pool], balancer: &LoadBalancer, address: IpAddr) -> bool {
    let namespace = balancer.namespace().unwrap_or_default();
    let (account, group) = (account_of(snapshot, &namespace), group_of(snapshot, balancer));
    fits_in(account.as_deref(), group.as_deref(), pools, balancer, address)
}

/// Whether a LoadBalancer without address could still take this one, by the judgement that adopts claims. A group that
/// does not admit its Account has no address for it. Of a group or an Account that is not there nothing can be said: it
/// may be made anew, so the claim stays, if it is what is asked for.
fn fits_in(
    account: Option<&Account>,
    group: Option<&ServiceGroup>,
    pools: &[Pool],
    balancer: &LoadBalancer,
    address: IpAddr,
) -> bool {
    let name = account.and_then(|account| AccountName::parse(&account.name_any()).ok());
    let (Some(name), Some(group), Some(object)) = (name, group, convert::balancer_version(balancer)) else {
        let asked = balancer.spec.public_address.as_deref().and_then(|text| address::parse(text).ok());
        return asked.is_none_or(|asked| asked == address);
    };
    let namespace = balancer.namespace().unwrap_or_default();
    let terms = Terms { pools, account: &name, pool_names: &pools_of(group), most_claims: usize::MAX };
    admits(group, name.as_str(), &namespace)
        && model::fits(&super::grant::asker(balancer, object, terms), address, pools)
}

fn now() -> Seconds {
    Seconds(Timestamp::now().as_second())
}

/// Key of the claim of an address.
pub fn claim_key(address: IpAddr) -> Key {
    Key::namespaced(EPIC_NAMESPACE, epic_model::name::claim(address).as_str())
}

/// The LoadBalancer that an address is claimed for.
fn owner_of(claim: &AddressClaim) -> convert::Of<'_> {
    convert::Of::Balancer { namespace: &claim.spec.owner.namespace, uid: &claim.spec.owner.uid }
}

#[cfg(test)]
mod tests {
    use super::super::test_objects::object;
    use super::*;
    use serde_json::{Value, json};

    fn account() -> Account {
        object("Account", "epic", "red", json!({}))
    }

    fn group(spec: Value) -> ServiceGroup {
        object("ServiceGroup", "epic", "shared", spec)
    }

    fn balancer(asked: Option<&str>) -> LoadBalancer {
        let spec =
            json!({"public-ports": [{"port": 80}], "service-group": "shared", "public-address": asked});
        object("LoadBalancer", "epic-red", "web", spec)
    }

    /// Whether 192.0.2.1, out of the pool `default`, fits.
    fn fits(account: Option<&Account>, group: Option<&ServiceGroup>, asked: Option<&str>) -> bool {
        let pools = [Pool::parse("default", ["192.0.2.0/29"]).unwrap()];
        fits_in(account, group, &pools, &balancer(asked), "192.0.2.1".parse().unwrap())
    }

    #[test]
    fn an_address_of_the_groups_pools_fits_who_asks_for_it_or_for_none() {
        let (account, group) = (account(), group(json!({})));
        for (asked, expected) in [(None, true), (Some("192.0.2.1"), true), (Some("192.0.2.2"), false)] {
            assert_eq!(fits(Some(&account), Some(&group), asked), expected, "{asked:?}");
        }
    }

    #[test]
    fn a_group_with_other_pools_or_for_other_accounts_has_no_address_for_it() {
        for (spec, expected) in [
            (json!({"accounts": ["red"]}), true),
            (json!({"accounts": ["blue"]}), false),
            (json!({"accounts": []}), false),
            (json!({"address-pools": ["other"]}), false),
        ] {
            assert_eq!(fits(Some(&account()), Some(&group(spec.clone())), None), expected, "{spec}");
        }
        let private = object("ServiceGroup", "epic-red", "shared", json!({}));
        assert!(fits(Some(&account()), Some(&private), None), "a group of its own namespace");
    }

    #[test]
    fn what_is_not_there_says_nothing_about_an_address() {
        let (account, group) = (account(), group(json!({})));
        for (account, group) in [(None, Some(&group)), (Some(&account), None), (None, None)] {
            assert!(fits(account, group, None));
            assert!(fits(account, group, Some("192.0.2.1")));
            assert!(!fits(account, group, Some("192.0.2.2")), "it is not what is asked for");
        }
    }
}
