//! An API server in memory, as far as kates and the operator can tell the difference: resource versions, generations,
//! conflicts, uids, finalizers, the status subresource, selectors, paged lists, watches with history, bookmarks and
//! "too old".
//!
//! Tests can make it slow, lag, cut watches, forget history, forbid or hide a kind, lose objects from a list, put objects
//! that nobody can parse, and answer a write only after the watch has shown it. It counts calls by verb and kind.
//! Together with tokio's paused clock a minute of a slow server takes no time.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "for tests: what cannot go on fails there"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

/// Plural, namespace, name.
type Id = (String, String, String);
type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

#[derive(Clone)]
struct Past {
    revision: u64,
    id: Id,
    before: Option<Value>,
    after: Option<Value>,
}

#[derive(Default)]
struct World {
    revision: u64,
    uids: u64,
    objects: BTreeMap<Id, Value>,
    history: Vec<Past>,
    /// Watches from before this revision are too old.
    compacted: u64,
    forbidden: BTreeSet<String>,
    absent: BTreeSet<String>,
    /// Kinds whose watches deliver nothing for now.
    lagging: BTreeSet<String>,
    /// Kinds whose lists are answered only when released, with what they found at first.
    held: BTreeSet<String>,
    /// Raised to end all watches of now.
    cut: u64,
    /// Kinds to send a bookmark for, by the revision that it shall carry.
    bookmarks: BTreeMap<String, u64>,
    lists: BTreeMap<String, usize>,
    watches: BTreeMap<String, usize>,
    /// Calls that came in, by verb and kind, without watches.
    calls: BTreeMap<(&'static str, String), usize>,
    /// How long every call takes, watches aside.
    latency: Duration,
    /// Kinds whose next lists lack everything, by how many.
    emptied: BTreeMap<String, usize>,
    down: bool,
}

/// The server; clones are the same one.
#[derive(Clone)]
pub struct Server {
    world: Arc<Mutex<World>>,
    moved: Arc<watch::Sender<u64>>,
}

/// What a request asks for.
struct Asked {
    plural: String,
    namespace: String,
    name: Option<String>,
    status: bool,
    query: BTreeMap<String, String>,
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

impl Server {
    /// An empty one.
    pub fn new() -> Self {
        let world = World { revision: 100, ..World::default() };
        Self { world: Arc::new(Mutex::new(world)), moved: Arc::new(watch::Sender::new(0)) }
    }

    /// A client of it, without a network between them.
    pub fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { server.answer(request).await }
        });
        kube::Client::new(service, "default")
    }

    /// Watches of this kind deliver nothing until `catch_up`.
    pub fn lag(&self, plural: &str) {
        self.change(|world| world.lagging.insert(plural.to_owned()));
    }

    /// Watches of this kind deliver again.
    pub fn catch_up(&self, plural: &str) {
        self.change(|world| world.lagging.remove(plural));
    }

    /// Lists of this kind that begin now are answered after `release`.
    pub fn hold_lists(&self, plural: &str) {
        self.change(|world| world.held.insert(plural.to_owned()));
    }

    /// Answers the lists that were held.
    pub fn release_lists(&self, plural: &str) {
        self.change(|world| world.held.remove(plural));
    }

    /// Ends all watches; clients may go on where they were.
    pub fn cut(&self) {
        self.change(|world| world.cut += 1);
    }

    /// Ends all watches and forgets the past: clients have to list again.
    pub fn compact(&self) {
        self.change(|world| {
            world.cut += 1;
            world.revision += 1;
            world.compacted = world.revision;
        });
    }

    /// Every call about this kind is forbidden until `allow`.
    pub fn forbid(&self, plural: &str) {
        self.change(|world| world.forbidden.insert(plural.to_owned()));
    }

    /// Undoes `forbid`.
    pub fn allow(&self, plural: &str) {
        self.change(|world| world.forbidden.remove(plural));
    }

    /// This kind is not served until `serve`.
    pub fn hide(&self, plural: &str) {
        self.change(|world| world.absent.insert(plural.to_owned()));
    }

    /// Undoes `hide`.
    pub fn serve(&self, plural: &str) {
        self.change(|world| world.absent.remove(plural));
    }

    /// Every request fails, every watch ends.
    pub fn go_down(&self) {
        self.change(|world| {
            world.down = true;
            world.cut += 1;
        });
    }

    /// Undoes `go_down`.
    pub fn come_up(&self) {
        self.change(|world| world.down = false);
    }

    /// Moves the revision by a write of some other kind and tells watches of this one with a bookmark.
    pub fn bookmark(&self, plural: &str) -> u64 {
        self.change(|world| {
            world.revision += 1;
            world.bookmarks.insert(plural.to_owned(), world.revision);
            world.revision
        })
    }

    /// Lists of this kind that were begun.
    pub fn lists(&self, plural: &str) -> usize {
        self.world.lock().lists.get(plural).copied().unwrap_or(0)
    }

    /// Watches of this kind that were opened.
    pub fn watches(&self, plural: &str) -> usize {
        self.world.lock().watches.get(plural).copied().unwrap_or(0)
    }

    /// Every call takes this long from now on, watches aside.
    pub fn take(&self, latency: Duration) {
        self.change(|world| world.latency = latency);
    }

    /// The next `times` lists of this kind come back empty, as from a cache that has lost its objects.
    pub fn lose_lists(&self, plural: &str, times: usize) {
        self.change(|world| world.emptied.insert(plural.to_owned(), times));
    }

    /// Calls of this verb (`get`, `list`, `create`, `update`, `patch`, `delete`) about this kind so far.
    pub fn calls(&self, verb: &'static str, plural: &str) -> usize {
        self.world.lock().calls.get(&(verb, plural.to_owned())).copied().unwrap_or(0)
    }

    /// The object of that name.
    pub fn object(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let id = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        self.world.lock().objects.get(&id).cloned()
    }

    /// All objects of a kind.
    pub fn objects(&self, plural: &str) -> Vec<Value> {
        let world = self.world.lock();
        let of_kind = world.objects.iter().filter(|((kind, _, _), _)| kind == plural);
        of_kind.map(|(_, object)| object.clone()).collect()
    }

    /// Somebody else writes `object`, valid or not; answers what is stored.
    pub fn put(&self, plural: &str, mut object: Value) -> Value {
        self.change(|world| {
            let meta = &object["metadata"];
            let text = |field: &str| meta[field].as_str().unwrap_or_default().to_owned();
            let id = (plural.to_owned(), text("namespace"), text("name"));
            match world.objects.get(&id) {
                Some(found) => object["metadata"]["uid"] = found["metadata"]["uid"].clone(),
                None => object["metadata"]["uid"] = world.uid(),
            }
            world.store(id, Some(object)).unwrap_or_default()
        })
    }

    /// Somebody else deletes an object, finalizers or not.
    pub fn remove(&self, plural: &str, namespace: &str, name: &str) {
        self.change(|world| world.store((plural.to_owned(), namespace.to_owned(), name.to_owned()), None));
    }

    /// All objects of a kind as (namespace/name, uid, resourceVersion).
    pub fn state(&self, plural: &str) -> BTreeSet<(String, String, String)> {
        let world = self.world.lock();
        let of_kind = world.objects.iter().filter(|((kind, _, _), _)| kind == plural);
        of_kind
            .map(|((_, namespace, name), object)| {
                let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
                (format!("{namespace}/{name}"), text("uid"), text("resourceVersion"))
            })
            .collect()
    }

    fn change<T>(&self, apply: impl FnOnce(&mut World) -> T) -> T {
        let done = apply(&mut self.world.lock());
        self.moved.send_modify(|count| *count += 1);
        done
    }

    async fn answer(&self, request: Request<Body>) -> Result<Answer, tower::BoxError> {
        if self.world.lock().down {
            return Err("connection refused".into());
        }
        let asked = Asked::of(request.uri());
        let method = request.method().clone();
        let applied = request
            .headers()
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/apply-patch"));
        let bytes = request.into_body().collect().await?.to_bytes();
        let body: Value = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes)? };
        {
            let world = self.world.lock();
            if world.forbidden.contains(&asked.plural) {
                return Ok(failure(403, "Forbidden", "forbidden by RBAC"));
            }
            if world.absent.contains(&asked.plural) {
                return Ok(failure(404, "NotFound", "the server could not find the requested resource"));
            }
        }
        if method == Method::GET
            && asked.query.get("watch").is_some_and(|watch| watch == "true" || watch == "1")
        {
            return Ok(self.watch(asked));
        }
        let listing = method == Method::GET && asked.name.is_none();
        let verb = match method {
            Method::GET if listing => "list",
            Method::GET => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::DELETE => "delete",
            _ => "patch",
        };
        let latency = self.change(|world| {
            *world.calls.entry((verb, asked.plural.clone())).or_default() += 1;
            world.latency
        });
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let answer = self.change(|world| match method {
            Method::GET if asked.name.is_none() => Ok(world.list(&asked)),
            Method::GET => world.get(&asked),
            Method::POST => world.create(&asked, body),
            Method::PUT => world.update(&asked, body),
            Method::DELETE => world.delete(&asked, &body),
            _ if applied => world.apply(&asked, body),
            _ => world.patch(&asked, &body),
        });
        let mut moved = self.moved.subscribe();
        while listing && self.world.lock().held.contains(&asked.plural) {
            let _ = moved.changed().await;
        }
        // A real answer takes a moment, in which watches move on.
        tokio::task::yield_now().await;
        Ok(match answer {
            Ok(value) => whole(200, &value),
            Err((code, reason, message)) => failure(code, reason, &message),
        })
    }

    fn watch(&self, asked: Asked) -> Answer {
        let from = asked.query.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
        let cut = self.change(|world| {
            *world.watches.entry(asked.plural.clone()).or_default() += 1;
            world.cut
        });
        let following =
            Following { server: self.clone(), moved: self.moved.subscribe(), asked, from, cut, over: false };
        let frames = stream::unfold(following, Following::next)
            .map(|line| Ok::<_, Infallible>(Frame::data(Bytes::from(line))));
        let body = UnsyncBoxBody::new(StreamBody::new(frames));
        Response::builder().status(200).body(body).unwrap()
    }
}

/// One open watch.
struct Following {
    server: Server,
    moved: watch::Receiver<u64>,
    asked: Asked,
    from: u64,
    cut: u64,
    over: bool,
}

impl Following {
    async fn next(mut self) -> Option<(String, Self)> {
        loop {
            self.moved.mark_unchanged();
            if self.over {
                return None;
            }
            let line = self.server.world.lock().event(&self.asked, &mut self.from, self.cut, &mut self.over);
            if let Some(line) = line {
                // One event a turn, so that tests see every state in between.
                tokio::task::yield_now().await;
                return Some((line, self));
            }
            if !self.over {
                let _ = self.moved.changed().await;
            }
        }
    }
}

/// Stands for "NotFound", about an object whose name is the message.
const NO_OBJECT: &str = "";

type Refusal = (u16, &'static str, String);

impl World {
    fn uid(&mut self) -> Value {
        self.uids += 1;
        format!("uid-{}", self.uids).into()
    }

    /// Writes, or removes with `None`; answers what was written.
    fn store(&mut self, id: Id, object: Option<Value>) -> Option<Value> {
        if object.is_none() && !self.objects.contains_key(&id) {
            return None;
        }
        self.revision += 1;
        let revision = self.revision;
        let after = object.map(|mut object| {
            object["metadata"]["resourceVersion"] = revision.to_string().into();
            object
        });
        let before = match &after {
            Some(object) => self.objects.insert(id.clone(), object.clone()),
            None => self.objects.remove(&id),
        };
        self.history.push(Past { revision, id, before, after: after.clone() });
        after
    }

    /// The next line of a watch.
    fn event(&self, asked: &Asked, from: &mut u64, cut: u64, over: &mut bool) -> Option<String> {
        if self.cut != cut {
            *over = true;
            return None;
        }
        if *from < self.compacted {
            *over = true;
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "too old resource version", "reason": "Expired", "code": 410});
            return Some(format!("{}\n", json!({"type": "ERROR", "object": status})));
        }
        if self.lagging.contains(&asked.plural) {
            return None;
        }
        let since = *from;
        let seen = self.history.partition_point(|past| past.revision <= since);
        let news = self.history[seen..].iter().filter(|past| past.id.0 == asked.plural);
        for past in news {
            *from = past.revision;
            let selected =
                |object: &Option<Value>| object.as_ref().filter(|object| asked.selects(object)).cloned();
            let (kind, mut object) = match (selected(&past.before), selected(&past.after)) {
                (None, None) => continue,
                (None, Some(after)) => ("ADDED", after),
                (Some(_), Some(after)) => ("MODIFIED", after),
                (Some(before), None) => ("DELETED", past.after.clone().unwrap_or(before)),
            };
            if kind == "DELETED" {
                object["metadata"]["resourceVersion"] = past.revision.to_string().into();
            }
            return Some(format!("{}\n", json!({"type": kind, "object": object})));
        }
        let bookmark = self.bookmarks.get(&asked.plural).copied().unwrap_or(0);
        if bookmark > *from {
            *from = bookmark;
            let object = json!({"apiVersion": "v1", "kind": "Any", "metadata": {"resourceVersion": bookmark.to_string()}});
            return Some(format!("{}\n", json!({"type": "BOOKMARK", "object": object})));
        }
        None
    }

    fn list(&mut self, asked: &Asked) -> Value {
        let from = asked.query.get("continue").and_then(|token| token.parse().ok()).unwrap_or(0);
        if from == 0 {
            *self.lists.entry(asked.plural.clone()).or_default() += 1;
        }
        let limit = asked.query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        if let Some(times) = self.emptied.get_mut(&asked.plural).filter(|times| **times > 0) {
            *times -= 1;
            return json!({"apiVersion": "v1", "kind": "List", "items": [],
                "metadata": {"resourceVersion": self.revision.to_string()}});
        }
        let of_kind = self.objects.iter().filter(|((kind, _, _), _)| *kind == asked.plural);
        let mut rest = of_kind.map(|(_, object)| object).filter(|object| asked.selects(object)).skip(from);
        let items: Vec<_> = rest.by_ref().take(limit).cloned().collect();
        let more = rest.next().map(|_| (from + items.len()).to_string());
        json!({"apiVersion": "v1", "kind": "List", "items": items,
            "metadata": {"resourceVersion": self.revision.to_string(), "continue": more}})
    }

    fn found(&self, asked: &Asked) -> Result<Value, Refusal> {
        self.objects.get(&asked.id()).cloned().ok_or_else(|| (404, NO_OBJECT, asked.id().2))
    }

    fn get(&self, asked: &Asked) -> Result<Value, Refusal> {
        self.found(asked)
    }

    fn create(&mut self, asked: &Asked, mut object: Value) -> Result<Value, Refusal> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let id = (asked.plural.clone(), asked.namespace.clone(), name);
        if self.objects.contains_key(&id) {
            return Err((409, "AlreadyExists", format!("{} already exists", id.2)));
        }
        object["metadata"]["uid"] = self.uid();
        object["metadata"]["generation"] = 1.into();
        self.store(id, Some(object)).ok_or((500, "InternalError", String::new()))
    }

    fn update(&mut self, asked: &Asked, sent: Value) -> Result<Value, Refusal> {
        let found = self.found(asked)?;
        let meta = &sent["metadata"];
        let uid_differs = meta["uid"].is_string() && meta["uid"] != found["metadata"]["uid"];
        if meta["resourceVersion"] != found["metadata"]["resourceVersion"] || uid_differs {
            return Err((409, "Conflict", "the object has been modified".to_owned()));
        }
        let mut object = if asked.status { found.clone() } else { sent.clone() };
        let status = if asked.status { &sent["status"] } else { &found["status"] };
        object["status"] = status.clone();
        for field in ["uid", "deletionTimestamp"] {
            object["metadata"][field] = found["metadata"][field].clone();
        }
        object["metadata"]["generation"] = generation(&found, &object);
        Ok(self.settle(asked.id(), object))
    }

    /// Server-side apply, of one manager: what is applied is merged, or made.
    fn apply(&mut self, asked: &Asked, object: Value) -> Result<Value, Refusal> {
        if self.objects.contains_key(&asked.id()) {
            return self.patch(asked, &object);
        }
        self.create(asked, object)
    }

    fn patch(&mut self, asked: &Asked, patch: &Value) -> Result<Value, Refusal> {
        let found = self.found(asked)?;
        let mut object = found.clone();
        merge(&mut object, patch);
        object["metadata"]["generation"] = generation(&found, &object);
        Ok(self.settle(asked.id(), object))
    }

    /// Stores an object, or removes it when it was being deleted and nothing holds it any more.
    fn settle(&mut self, id: Id, object: Value) -> Value {
        let meta = &object["metadata"];
        let held = meta["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty());
        if meta["deletionTimestamp"].is_string() && !held {
            self.store(id, None);
            return object;
        }
        self.store(id, Some(object)).unwrap_or_default()
    }

    fn delete(&mut self, asked: &Asked, options: &Value) -> Result<Value, Refusal> {
        let mut found = self.found(asked)?;
        let wanted = &options["preconditions"]["uid"];
        if wanted.is_string() && *wanted != found["metadata"]["uid"] {
            return Err((409, "Conflict", "the UID in the precondition does not match".to_owned()));
        }
        let uid = found["metadata"]["uid"].clone();
        found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let rest = self.settle(asked.id(), found);
        if self.objects.contains_key(&asked.id()) {
            return Ok(rest);
        }
        Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": {"name": asked.name, "kind": asked.plural, "uid": uid}}))
    }
}

impl Asked {
    /// `/api/v1/namespaces/NS/configmaps/NAME/status?query`, and what is shorter.
    fn of(uri: &http::Uri) -> Self {
        let mut steps: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
        steps.drain(..if steps[0] == "api" { 2 } else { 3 });
        let namespace = if steps[0] == "namespaces" && steps.len() > 2 {
            steps.drain(..2).nth(1).unwrap_or_default().to_owned()
        } else {
            String::new()
        };
        let decode = |text: &str| text.replace("%3D", "=").replace("%2C", ",").replace("%2F", "/");
        let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        Self {
            plural: steps[0].to_owned(),
            namespace,
            name: steps.get(1).map(|&name| name.to_owned()),
            status: steps.get(2) == Some(&"status"),
            query: pairs.map(|(key, value)| (decode(key), decode(value))).collect(),
        }
    }

    fn id(&self) -> Id {
        (self.plural.clone(), self.namespace.clone(), self.name.clone().unwrap_or_default())
    }

    fn selects(&self, object: &Value) -> bool {
        let meta = &object["metadata"];
        let here = self.namespace.is_empty() || meta["namespace"] == self.namespace.as_str();
        let pairs = |selector: &str| -> Vec<(String, String)> {
            let pairs = self.query.get(selector).map(String::as_str).unwrap_or_default().split(',');
            pairs.filter_map(|pair| pair.split_once('=')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
        };
        here && pairs("labelSelector").iter().all(|(key, value)| meta["labels"][key] == value.as_str())
            && pairs("fieldSelector").iter().all(|(key, value)| {
                object.pointer(&format!("/{}", key.replace('.', "/"))) == Some(&Value::from(value.as_str()))
            })
    }
}

/// The generation of an object that takes the place of `found`: one more if the spec is another one.
fn generation(found: &Value, object: &Value) -> Value {
    let before = found["metadata"]["generation"].as_i64().unwrap_or(1);
    (before + i64::from(object["spec"] != found["spec"])).into()
}

/// A JSON merge patch.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut target[name], value);
        }
    }
}

fn whole(code: u16, value: &Value) -> Answer {
    let body = http_body_util::Full::new(Bytes::from(value.to_string()));
    Response::builder().status(code).body(UnsyncBoxBody::new(body)).unwrap()
}

fn failure(code: u16, reason: &str, message: &str) -> Answer {
    if reason == NO_OBJECT {
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": format!("{message} not found"), "reason": "NotFound", "code": code,
            "details": {"name": message}});
        return whole(code, &status);
    }
    whole(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code}),
    )
}
