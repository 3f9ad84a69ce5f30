//! Letting go of claims: GET the claim, *then* LIST its owner, judge, write.
//!
//! Deletion of a LoadBalancer waits for none of this. A claim lasts until every EPICNode has passed the revision that
//! showed the owner without the address; an EPICNode that is deleted is waited for no longer.

use std::net::IpAddr;
use std::time::Duration;

use epic_crds::well_known::EPIC_NAMESPACE;
use epic_crds::{AddressClaim, ClaimPhase, LoadBalancer};
use epic_model::address;
use epic_model::claim::{self as model, OwnerSeen, Release};
use epic_model::id::{AccountName, Seconds};
use epic_model::revision::Revision;
use jiff::Timestamp;
use kates::{Error, Key, Query, Snapshot};
use kube::ResourceExt;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::convert;
use crate::account::account_of;
use crate::context::Shared;
use crate::service_group::pool_names;
use crate::uninstall;

/// Runs until `shutdown`, whenever this replica leads.
pub async fn run(context: Shared, shutdown: CancellationToken) {
    let mut updates = context.watches.updates();
    let mut leadership = context.leadership.clone();
    let mut wait = Duration::ZERO;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = updates.changed() => {}
            () = sleep(wait) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = leadership.acquired() => {}
        }
        updates.update();
        wait = match pass(&context).await {
            Ok(()) => context.settings.full_pass,
            Err(error) => {
                tracing::warn!(%error, source = ?std::error::Error::source(&error), "claims are not released");
                Duration::from_secs(2)
            }
        };
    }
}

async fn pass(context: &Shared) -> Result<(), Error> {
    let Ok(snapshot) = context.snapshot() else { return Ok(()) };
    if uninstall::is_under_way(&snapshot) {
        return Ok(());
    }
    // What a cache shows decides only whether it is worth asking.
    let due: Vec<Key> = snapshot
        .list::<AddressClaim>()
        .filter(|object| {
            let Some(claim) = convert::claim(object) else { return false };
            let owner = seen_in(&snapshot, &claim);
            let judged =
                model::release(&claim, &owner, Revision::new(0), &convert::node_revisions(&snapshot, now()));
            matches!(judged, Release::Mark { .. } | Release::Delete { .. })
        })
        .map(|object| Key::of(object.as_ref()))
        .collect();
    for key in due {
        match round(context, &snapshot, &key).await {
            Ok(()) => {}
            Err(error) if error.is_conflict() || error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn round(context: &Shared, snapshot: &Snapshot, key: &Key) -> Result<(), Error> {
    let client = &context.client;
    let Some(mut object) = client.get_opt::<AddressClaim>(key).await? else { return Ok(()) };
    let Some(claim) = convert::claim(&object) else { return Ok(()) };
    let listed = client.list::<LoadBalancer>(&Query::namespace(claim.owner.namespace.as_str())).await?;
    let Ok(revision) = listed.revision.as_str().parse::<Revision>() else { return Ok(()) };
    // An owner that cannot be read is not gone.
    let unreadable =
        listed.poisoned.iter().any(|poison| poison.metadata.uid.as_deref() == Some(claim.owner.uid.as_str()));
    if unreadable {
        return Ok(());
    }
    let owner = owner_seen(snapshot, listed.items.iter(), &claim);
    match model::release(&claim, &owner, revision, &convert::node_revisions(snapshot, now())) {
        Release::Keep | Release::Wait { .. } => Ok(()),
        Release::Mark { release_revision, .. } => {
            let status = object.status.get_or_insert_default();
            status.phase = Some(ClaimPhase::Releasing);
            status.release_revision = Some(release_revision.to_string());
            context.counters.wrote("AddressClaim");
            client.update_status(&mut object).await
        }
        Release::Delete { .. } => {
            context.counters.wrote("AddressClaim");
            client.delete_this(&object).await.map(|_| ())
        }
    }
}

fn seen_in(snapshot: &Snapshot, claim: &model::Claim) -> OwnerSeen {
    let namespace = claim.owner.namespace.as_str();
    owner_seen(snapshot, snapshot.in_namespace::<LoadBalancer>(namespace).map(AsRef::as_ref), claim)
}

fn owner_seen<'b>(
    snapshot: &Snapshot,
    mut balancers: impl Iterator<Item = &'b LoadBalancer>,
    claim: &model::Claim,
) -> OwnerSeen {
    let owner = balancers.find(|balancer| balancer.uid().as_deref() == Some(claim.owner.uid.as_str()));
    let Some(owner) = owner else { return OwnerSeen::Gone };
    OwnerSeen::Present {
        resource_version: owner.resource_version().unwrap_or_default().into(),
        shown: convert::shown(owner),
        fits: fits(snapshot, owner, claim.address),
    }
}

/// Whether a LoadBalancer without address could still take this one, by the judgement that adopts claims.
fn fits(snapshot: &Snapshot, balancer: &LoadBalancer, address: IpAddr) -> bool {
    let account = balancer
        .namespace()
        .and_then(|namespace| account_of(snapshot, &namespace))
        .and_then(|account| AccountName::parse(&account.name_any()).ok());
    let (Some(names), Some(account), Some(object)) =
        (pool_names(snapshot, balancer), account, convert::balancer_version(balancer))
    else {
        // Of a group or an Account that is not there nothing can be said: the claim stays, if it is what is asked for.
        let asked = balancer.spec.public_address.as_deref().and_then(|text| address::parse(text).ok());
        return asked.is_none_or(|asked| asked == address);
    };
    model::fits(&super::grant::asker(balancer, object, &account, &names), address, &convert::pools(snapshot))
}

fn now() -> Seconds {
    Seconds(Timestamp::now().as_second())
}

/// Key of the claim of an address.
pub fn claim_key(address: IpAddr) -> Key {
    Key::namespaced(EPIC_NAMESPACE, epic_model::name::claim(address).as_str())
}
