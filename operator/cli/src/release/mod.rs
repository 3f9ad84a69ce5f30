//! `address release`: reads the claim, then its owner, says what it means, asks, acts.

pub mod verdict;

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::net::IpAddr;

use epic_crds::well_known::{EPIC_NAMESPACE, node_lease_name};
use epic_crds::{AddressClaim, ClaimPhase, EPICNode, LoadBalancer, claim_name};
use epic_model::revision::NodeRevision;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt as _};

use self::verdict::{Owner, Verdict, describe, judge};
use crate::api::{self, is_not_found};

/// Whether it may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Yes.
    Yes,
    /// No: only say it.
    No,
    /// Ask on the terminal.
    Ask,
}

/// Why nothing was released.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error(transparent)]
    Api(#[from] api::Error),
    /// It must not be released.
    #[error("{address} is not released: {why}")]
    Refused {
        /// The address.
        address: IpAddr,
        /// Why, and what to do.
        why: String,
    },
    /// The answer was another one.
    #[error("nothing was done")]
    Declined,
    /// Nobody to ask.
    #[error("there is no terminal to ask at; give --yes")]
    NoTerminal,
    /// The terminal failed.
    #[error("cannot ask: {0}")]
    Terminal(#[from] std::io::Error),
    /// Somebody else was faster.
    #[error("the claim of {0} has changed meanwhile; look again")]
    Changed(IpAddr),
}

/// What was found, in the order that makes it safe: the claim first, then its owner and the nodes.
#[derive(Clone, Debug)]
struct Found {
    claim: Option<AddressClaim>,
    verdict: Verdict,
}

/// Says what releasing `address` means, and does it with the consent.
///
/// # Errors
/// [`Error`].
pub async fn release(client: &Client, address: IpAddr, consent: Consent) -> Result<(), Error> {
    let Found { claim, verdict } = look(client, address).await?;
    if let Verdict::Refused { why } = &verdict {
        return Err(Error::Refused { address, why: why.clone() });
    }
    print!("{}", describe(address, &verdict));
    let (Some(claim), false) = (claim, consent == Consent::No) else { return Ok(()) };
    if consent == Consent::Ask {
        ask(address)?;
    }
    match verdict {
        Verdict::Mark { release_revision, .. } => {
            mark(client, claim, address, release_revision.to_string()).await?;
            println!("marked; `epicctl get` shows it until it is gone");
        }
        Verdict::Delete { .. } => {
            delete(client, &claim, address).await?;
            println!("released");
        }
        Verdict::NotClaimed | Verdict::Refused { .. } => {}
    }
    Ok(())
}

async fn look(client: &Client, address: IpAddr) -> Result<Found, Error> {
    let name = claim_name(address);
    let claims: Api<AddressClaim> = Api::namespaced(client.clone(), EPIC_NAMESPACE);
    let claim = claims
        .get_opt(&name)
        .await
        .map_err(|error| api::Error::call(format!("read the claim {name}"), error))?;
    let Some(claim) = claim else { return Ok(Found { claim: None, verdict: Verdict::NotClaimed }) };
    let namespace = claim.spec.owner.namespace.as_str();
    let balancers = api::list::<LoadBalancer>(client, Some(namespace))
        .await
        .map_err(|error| api::Error::call(format!("list the LoadBalancers of {namespace}"), error))?;
    let nodes = nodes(client, &claim).await?;
    let uid = claim.spec.owner.uid.as_str();
    let owner = match balancers.items.iter().find(|balancer| balancer.uid().as_deref() == Some(uid)) {
        Some(balancer) => Owner::Present(balancer),
        None if balancers.unreadable_uids.iter().any(|unreadable| unreadable == uid) => Owner::Unreadable,
        None => Owner::Gone,
    };
    let verdict = judge(address, &claim, &owner, &balancers.revision, &nodes);
    Ok(Found { claim: Some(claim), verdict })
}

async fn nodes(client: &Client, claim: &AddressClaim) -> Result<Vec<NodeRevision>, Error> {
    let nodes = api::list::<EPICNode>(client, Some(EPIC_NAMESPACE))
        .await
        .map_err(|error| api::Error::call("list EPIC nodes", error))?;
    let leases = api::list::<Lease>(client, Some(EPIC_NAMESPACE))
        .await
        .map_err(|error| api::Error::call("list the nodes' Leases", error))?;
    let (now, owner) = (Timestamp::now(), &claim.spec.owner);
    Ok(nodes
        .items
        .iter()
        .map(|node| {
            let lease =
                leases.items.iter().find(|lease| lease.name_any() == node_lease_name(&node.name_any()));
            NodeRevision {
                node: node.name_any().into(),
                revision: node
                    .reached_for(owner.namespace.as_str(), owner.uid.as_str())
                    .and_then(|r| r.parse().ok()),
                live: lease.is_some_and(|lease| crate::overview::lease::is_fresh(lease, now)),
            }
        })
        .collect())
}

/// Asks for the address again: a `y` is typed too quickly.
fn ask(address: IpAddr) -> Result<(), Error> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::NoTerminal);
    }
    print!("Type the address to go on: ");
    std::io::stdout().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if line.trim().parse() == Ok(address) { Ok(()) } else { Err(Error::Declined) }
}

/// Writes at the version that was judged.
async fn mark(
    client: &Client,
    mut claim: AddressClaim,
    address: IpAddr,
    revision: String,
) -> Result<(), Error> {
    let status = claim.status.get_or_insert_default();
    status.phase = Some(ClaimPhase::Releasing);
    status.release_revision = Some(revision);
    let claims: Api<AddressClaim> = Api::namespaced(client.clone(), EPIC_NAMESPACE);
    let parameters = PostParams { field_manager: Some("epicctl".to_owned()), ..PostParams::default() };
    let written = claims.replace_status(&claim.name_any(), &parameters, &claim).await;
    changed(written.map(|_| ()), address, "mark the claim")
}

/// Deletes what was judged, and nothing that came after it.
async fn delete(client: &Client, claim: &AddressClaim, address: IpAddr) -> Result<(), Error> {
    let claims: Api<AddressClaim> = Api::namespaced(client.clone(), EPIC_NAMESPACE);
    let parameters = DeleteParams {
        preconditions: Some(Preconditions { uid: claim.uid(), resource_version: claim.resource_version() }),
        ..DeleteParams::default()
    };
    let deleted = claims.delete(&claim.name_any(), &parameters).await;
    match deleted {
        Err(error) if is_not_found(&error) => Ok(()),
        deleted => changed(deleted.map(|_| ()), address, "delete the claim"),
    }
}

fn changed(answer: Result<(), kube::Error>, address: IpAddr, what: &str) -> Result<(), Error> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 409 => Err(Error::Changed(address)),
        answer => Ok(answer.map_err(|error| api::Error::call(what, error))?),
    }
}
