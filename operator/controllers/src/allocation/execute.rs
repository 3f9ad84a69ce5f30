//! Carries out a plan, and decides nothing.
//!
//! Every write is a PUT at the version the plan names. Whatever goes wrong with the parent ends the round: the caller
//! reads again and plans anew, trusting no memory. Writes to different children are independent of each other: each
//! has reservations of its own, for one version of one child. So they run side by side once the parent is written, and
//! one that meets a newer child keeps none of the others from being made.

use std::collections::BTreeMap;

use epic_crds::well_known::FINALIZER;
use epic_model::allocation::{ChildWrite, ParentWrite, Plan, Write};
use epic_model::id::{Kind, ObjectVersion, Uid};
use futures::{FutureExt, StreamExt, stream};
use jiff::Timestamp;
use kates::{Client, Object};
use kube::api::{ApiResource, DynamicObject};
use kube::{Resource, ResourceExt};

use super::child::{self, Rows};
use super::parent::{self, ParentObject};

/// Child writes under way at once.
const CONCURRENT: usize = 8;

/// Why a round ended early. All but [`Interrupted::Api`] are the normal course of optimistic writes.
#[derive(Debug, thiserror::Error)]
pub enum Interrupted {
    /// Somebody wrote first, or the object went: read and plan again.
    #[error("an object changed while its ID was being allocated")]
    Changed,
    /// The API server refused, or did not answer.
    #[error("the API server did not take a write of the allocation")]
    Api(#[source] kates::Error),
    /// The plan names a child that was not listed: a bug.
    #[error("the plan writes {0}, which was not listed")]
    NotListed(String),
}

impl From<kates::Error> for Interrupted {
    fn from(error: kates::Error) -> Self {
        if error.is_conflict() || error.is_not_found() { Self::Changed } else { Self::Api(error) }
    }
}

/// A parent that can be read and written.
pub trait Parent: ParentObject + Object + Resource<DynamicType = ()> {}
impl<P: ParentObject + Object + Resource<DynamicType = ()>> Parent for P {}

/// The children of a round, by uid, as they were listed, with what their granted rows need besides numbers.
#[derive(Debug, Default)]
pub struct Listed {
    /// The objects.
    pub objects: BTreeMap<Uid, DynamicObject>,
    /// Rows of LoadBalancers.
    pub rows: BTreeMap<Uid, Rows>,
}

/// The API resource of a kind that holds IDs.
pub fn resource(kind: Kind) -> ApiResource {
    match kind {
        Kind::Account => ApiResource::erase::<epic_crds::Account>(&()),
        Kind::LoadBalancer => ApiResource::erase::<epic_crds::LoadBalancer>(&()),
        Kind::Endpoint => ApiResource::erase::<epic_crds::Endpoint>(&()),
    }
}

/// Carries out the writes of `plan` in order.
///
/// # Errors
/// [`Interrupted`]: start again with a fresh read.
pub async fn carry_out<P: Parent>(
    client: &Client,
    parent: &P,
    plan: &Plan,
    listed: &Listed,
) -> Result<(), Interrupted> {
    let mut children = Vec::new();
    for write in &plan.writes {
        match write {
            Write::Fence { object, mark } => fence(client, listed, object, mark).await?,
            Write::FinalizerOn { .. } => finalizer(client, parent, true).await?,
            Write::FinalizerOff { .. } => finalizer(client, parent, false).await?,
            Write::Parent(write) => write_parent(client, parent, write).await?,
            Write::Child(write) => children.push(write),
        }
    }
    let mut writes = Vec::new();
    for write in children {
        writes.push(write_child(client, listed, write).boxed());
    }
    let mut outcomes = stream::iter(writes).buffer_unordered(CONCURRENT);
    let mut done = Ok(());
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Err(Interrupted::Changed) => done = Err(Interrupted::Changed),
            // An API server that does not answer would be asked in vain for every child.
            outcome => outcome?,
        }
    }
    done
}

/// Writes the parent's status: reservations and counters.
///
/// # Errors
/// [`Interrupted`]: start again with a fresh read.
pub async fn write_parent<P: Parent>(
    client: &Client,
    parent: &P,
    write: &ParentWrite,
) -> Result<(), Interrupted> {
    let mut object = parent.clone();
    object.meta_mut().resource_version = Some(write.at.to_string());
    parent::apply(&mut object, write);
    Ok(client.update_status(&mut object).await?)
}

async fn finalizer<P: Parent>(client: &Client, parent: &P, on: bool) -> Result<(), Interrupted> {
    let mut object = parent.clone();
    object.finalizers_mut().retain(|name| name != FINALIZER);
    if on {
        object.finalizers_mut().push(FINALIZER.to_owned());
    }
    Ok(client.update(&mut object).await?)
}

/// The object as it was listed, which is the version the write names.
fn listed_object<'l>(listed: &'l Listed, object: &ObjectVersion) -> Result<&'l DynamicObject, Interrupted> {
    listed
        .objects
        .get(&object.uid)
        .filter(|found| found.metadata.resource_version.as_deref() == Some(object.resource_version.as_str()))
        .ok_or_else(|| Interrupted::NotListed(object.to_string()))
}

async fn write_child(client: &Client, listed: &Listed, write: &ChildWrite) -> Result<(), Interrupted> {
    let mut object = listed_object(listed, &write.object)?.clone();
    let nothing = Rows::default();
    let rows = listed.rows.get(&write.object.uid).unwrap_or(&nothing);
    child::apply(&mut object, write, rows, &child::timestamp(Timestamp::now()));
    Ok(client.kind_of(resource(write.object.kind)).update_status(&mut object).await?)
}

/// Changes a child without granting anything, so that a write planned under the parent's predecessor meets a 409.
async fn fence(
    client: &Client,
    listed: &Listed,
    object: &ObjectVersion,
    mark: &str,
) -> Result<(), Interrupted> {
    let mut fenced = listed_object(listed, object)?.clone();
    child::mark(&mut fenced, mark, &child::timestamp(Timestamp::now()));
    match client.kind_of(resource(object.kind)).update_status(&mut fenced).await {
        Ok(()) => Ok(()),
        // It has moved on by itself, which serves as well.
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}
