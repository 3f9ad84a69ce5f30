//! Carries out a plan, and decides nothing.
//!
//! Every write is a PUT at the version the plan names. Whatever goes wrong with the parent ends the round: the caller
//! reads again and plans anew, trusting no memory. Writes to different children are independent of each other: each
//! has reservations of its own, for one version of one child. So they run side by side once the parent is written, and
//! one that meets a newer child keeps none of the others from being made.

use std::collections::BTreeMap;
use std::time::Duration;

use epic_crds::well_known::FINALIZER;
use epic_model::allocation::{ChildWrite, ParentWrite, Plan, Write};
use epic_model::id::{Kind, ObjectVersion, Uid};
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt, stream};
use jiff::Timestamp;
use kates::{Client, Object};
use kube::api::{ApiResource, DynamicObject};
use kube::{Resource, ResourceExt};
use tokio::time::timeout;

use super::child::{self, Rows};
use super::parent::{self, ParentObject};

/// Child writes under way at once.
const CONCURRENT: usize = 8;
/// Fences under way at once.
const FENCES: usize = 16;
/// How long the reads of a round may take, and its writes after the fences. Each call has a limit of its own.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Why a round ended early, or what it could not do. [`Interrupted::Changed`] is the normal course of optimistic writes.
#[derive(Debug, thiserror::Error)]
pub enum Interrupted {
    /// Somebody wrote first, or the object went: read and plan again.
    #[error("an object changed while its ID was being allocated")]
    Changed,
    /// The API server refused, or did not answer.
    #[error("the API server did not take a write of the allocation")]
    Api(#[source] kates::Error),
    /// The API server does not take the status of some children; all else is done.
    #[error("the API server does not take the status of {0}; its IDs stay reserved")]
    Refused(String, #[source] kates::Error),
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

/// Carries out the writes of `plan` in order. A finalizer goes on only if `allowed` says so at that moment; `told` hears
/// of each child that was written.
///
/// Fences are independent of each other, and as many as the parent has children: they run side by side, and have all the
/// time they need. What follows them has to be done within [`LIMIT`].
///
/// # Errors
/// [`Interrupted`]: start again with a fresh read.
pub async fn carry_out<P: Parent>(
    client: &Client,
    parent: &P,
    plan: &Plan,
    listed: &Listed,
    allowed: impl Fn() -> bool,
    told: impl Fn(&ChildWrite),
) -> Result<(), Interrupted> {
    fences(client, plan, listed).await?;
    let rest = async {
        let mut children = Vec::new();
        for write in &plan.writes {
            match write {
                Write::Fence { .. } => {}
                Write::FinalizerOn { .. } if !allowed() => return Err(Interrupted::Changed),
                Write::FinalizerOn { .. } => finalizer(client, parent, true).await?,
                Write::FinalizerOff { .. } => finalizer(client, parent, false).await?,
                Write::Parent(write) => write_parent(client, parent, write).await?,
                Write::Child(write) => children.push(write),
            }
        }
        write_children(client, &children, listed, told).await
    };
    timeout(LIMIT, rest).await.unwrap_or(Err(Interrupted::Changed))
}

/// All fences of a plan; they come before everything else in it.
async fn fences(client: &Client, plan: &Plan, listed: &Listed) -> Result<(), Interrupted> {
    let fences = plan.writes.iter().filter_map(|write| match write {
        Write::Fence { object, mark } => Some(fence(client, listed, object, mark).boxed()),
        _ => None,
    });
    let all: Vec<_> = fences.collect();
    stream::iter(all).buffer_unordered(FENCES).try_for_each(|()| futures::future::ready(Ok(()))).await
}

async fn write_children(
    client: &Client,
    children: &[&ChildWrite],
    listed: &Listed,
    told: impl Fn(&ChildWrite),
) -> Result<(), Interrupted> {
    let mut writes = Vec::new();
    for write in children {
        writes.push(write_child(client, listed, write).map_ok(|()| *write).boxed());
    }
    let mut outcomes = stream::iter(writes).buffer_unordered(CONCURRENT);
    let mut done = Ok(());
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Ok(write) => told(write),
            // What others changed is planned anew at once; what is refused waits.
            Err(Interrupted::Changed) => done = Err(Interrupted::Changed),
            Err(refused @ Interrupted::Refused(..)) => done = done.and(Err(refused)),
            // An API server that does not answer would be asked in vain for every child.
            Err(error) => return Err(error),
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
    let written = client.kind_of(resource(write.object.kind)).update_status(&mut object).await;
    written.map_err(|error| match Interrupted::from(error) {
        Interrupted::Api(error) if is_about_the_object(&error) => {
            Interrupted::Refused(write.object.to_string(), error)
        }
        other => other,
    })
}

/// Whether the API server answered, and not that it is busy: too large for its storage (a plain 500), invalid by a
/// schema that was made narrower, refused by somebody's policy. Another object may well be taken.
fn is_about_the_object(error: &kates::Error) -> bool {
    error.status().is_some_and(|status| !matches!(status.code, 429 | 503 | 504))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use epic_crds::condition::ACCEPTED;
    use epic_crds::{EPIC, EPICSpec};
    use epic_fake_api::Server;
    use epic_model::allocation::{Counter, Slot, Value};
    use http::{Request, Response};
    use http_body_util::BodyExt;
    use kube::client::Body;
    use parking_lot::Mutex;
    use serde_json::{Value as Json, json};

    use super::super::need;
    use super::*;

    /// An API server that takes every write but those of the object `fat`, which it answers with `code`. Says which
    /// names were written.
    fn api(code: u16) -> (Client, Arc<Mutex<Vec<String>>>) {
        let written = Arc::new(Mutex::new(Vec::new()));
        let names = Arc::clone(&written);
        let service = tower::service_fn(move |request: Request<Body>| {
            let names = Arc::clone(&names);
            async move {
                let body = request.into_body().collect().await?.to_bytes();
                let mut object: Json = serde_json::from_slice(&body)?;
                let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                if name == "fat" {
                    object = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                        "message": "etcdserver: request is too large"});
                } else {
                    object["metadata"]["resourceVersion"] = "2".into();
                    names.lock().push(name.clone());
                }
                let status = if name == "fat" { code } else { 200 };
                let answer =
                    Response::builder().status(status).body(Body::from(serde_json::to_vec(&object)?));
                Ok::<_, tower::BoxError>(answer?)
            }
        });
        (Client::new(kube::Client::new(service, "default")), written)
    }

    /// A plan that gives each of these accounts an ID.
    fn grants(names: &[&str]) -> (Plan, Listed) {
        let (mut plan, mut listed) = (Plan::default(), Listed::default());
        for (index, name) in names.iter().enumerate() {
            let object: DynamicObject = serde_json::from_value(json!({
                "apiVersion": "epic.acnodal.io/v1", "kind": "Account", "spec": {},
                "metadata": {"name": name, "namespace": "epic", "uid": name, "resourceVersion": "1"},
            }))
            .unwrap();
            let version = child::object_version(Kind::Account, &object.metadata).unwrap();
            let value = Value { counter: Counter::Group, subkey: String::new(), value: index as u32 + 1 };
            listed.objects.insert(version.uid.clone(), object);
            plan.writes.push(Write::Child(ChildWrite {
                object: version,
                grant: vec![value],
                free: Vec::new(),
            }));
        }
        (plan, listed)
    }

    #[tokio::test]
    async fn a_status_that_is_not_taken_keeps_no_other_from_being_written() {
        let names: Vec<String> = (0..30).map(|n| format!("a{n:02}")).collect();
        let all: Vec<&str> = std::iter::once("fat").chain(names.iter().map(String::as_str)).collect();
        for code in [500, 413, 422, 403] {
            let (client, written) = api(code);
            let (plan, listed) = grants(&all);
            let epic = EPIC::new("epic", EPICSpec::default());
            let told = Mutex::new(Vec::new());
            let tell = |write: &ChildWrite| told.lock().push(write.object.name.to_string());
            let outcome = carry_out(&client, &epic, &plan, &listed, || true, tell).await;
            assert!(
                matches!(&outcome, Err(Interrupted::Refused(who, _)) if who.contains("fat")),
                "{outcome:?}"
            );
            for mut known in [written.lock().clone(), told.into_inner()] {
                known.sort();
                assert_eq!(known, names, "{code}");
            }
        }
    }

    /// EPIC and its LoadBalancers as a list shows them, as the plan that takes EPIC up has them.
    fn taken_up(server: &Server) -> (EPIC, Plan, Listed) {
        let epic: EPIC = serde_json::from_value(server.object("epics", "epic", "epic").unwrap()).unwrap();
        let plain = parent::read(&epic, &need::epic_ranges(&epic)).unwrap();
        let objects = server.objects("loadbalancers").into_iter();
        let objects: Vec<DynamicObject> =
            objects.map(|object| serde_json::from_value(object).unwrap()).collect();
        let children: Vec<_> = objects
            .iter()
            .filter_map(|object| child::child(Kind::LoadBalancer, &object.metadata, vec![a_proxy()]))
            .collect();
        let plan = epic_model::allocation::plan(&plain, &children);
        (epic, plan, need::listed(objects, BTreeMap::new()))
    }

    /// A pod that waits for its ID.
    fn a_proxy() -> Slot {
        Slot::keyed(Counter::Proxy, "pod", None, true)
    }

    fn with_balancers(count: usize) -> (Server, Client) {
        let server = Server::new();
        let api = json!("epic.acnodal.io/v1");
        let epic = json!({"apiVersion": api, "kind": "EPIC", "spec": {},
            "metadata": {"name": "epic", "namespace": "epic"}});
        server.put("epics", epic);
        for number in 0..count {
            let meta = json!({"name": format!("lb{number}"), "namespace": "epic-red"});
            let balancer = json!({"apiVersion": api, "kind": "LoadBalancer", "spec": {}, "metadata": meta});
            server.put("loadbalancers", balancer);
        }
        server.take(Duration::from_millis(20));
        let client = Client::new(server.client());
        (server, client)
    }

    fn fenced(server: &Server) -> usize {
        let objects = server.objects("loadbalancers").into_iter();
        objects.filter(|object| object["status"]["conditions"][0]["type"] == ACCEPTED).count()
    }

    #[tokio::test(start_paused = true)]
    async fn five_thousand_fences_at_20_ms_end_within_a_minute_also_after_a_restart() {
        let (server, client) = with_balancers(5_000);
        let began = tokio::time::Instant::now();
        let (epic, plan, listed) = taken_up(&server);
        let first = carry_out(&client, &epic, &plan, &listed, || true, |_| ());
        assert!(timeout(Duration::from_secs(3), first).await.is_err(), "killed in the middle");
        assert!((1..5_000).contains(&fenced(&server)), "{}", fenced(&server));
        let (epic, plan, listed) = taken_up(&server);
        carry_out(&client, &epic, &plan, &listed, || true, |_| ()).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
        assert_eq!(fenced(&server), 5_000);
        let epic = server.object("epics", "epic", "epic").unwrap();
        assert_eq!(epic["metadata"]["finalizers"], json!([FINALIZER]));
    }

    #[tokio::test(start_paused = true)]
    async fn fences_that_take_longer_than_a_round_may_still_end() {
        let (server, client) = with_balancers(300);
        server.take(Duration::from_secs(5));
        let (epic, plan, listed) = taken_up(&server);
        let began = tokio::time::Instant::now();
        carry_out(&client, &epic, &plan, &listed, || true, |_| ()).await.unwrap();
        assert!(began.elapsed() > LIMIT, "{:?}", began.elapsed());
        assert_eq!(fenced(&server), 300);
    }

    #[tokio::test]
    async fn no_finalizer_goes_on_once_an_uninstallation_has_begun() {
        let (server, client) = with_balancers(1);
        let (epic, plan, listed) = taken_up(&server);
        let outcome = carry_out(&client, &epic, &plan, &listed, || false, |_| ()).await;
        assert!(matches!(outcome, Err(Interrupted::Changed)), "{outcome:?}");
        assert_eq!(server.object("epics", "epic", "epic").unwrap()["metadata"]["finalizers"], json!(null));
    }
}
