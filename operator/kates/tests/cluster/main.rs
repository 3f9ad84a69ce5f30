//! What kates promises, on a real API server. Needs the programs that `make tools` builds, and fails without them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod access;
mod coherence;
mod recovery;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use epic_control_plane::ControlPlane;
use futures::{StreamExt, stream};
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use kates::{Client, Key, Settings};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
static NAMESPACES: AtomicUsize = AtomicUsize::new(0);

/// The control plane that the tests of this binary share; each has a namespace of its own.
async fn control_plane() -> &'static ControlPlane {
    SHARED.get_or_init(|| async { ControlPlane::start().unwrap_or_else(|error| panic!("{error}")) }).await
}

/// Failures are tried again soon, watches are short.
fn settings() -> Settings {
    Settings {
        field_manager: Some("kates-test".into()),
        watch_limit: Duration::from_secs(10),
        retry: (Duration::from_millis(50), Duration::from_millis(500)),
        ..Settings::default()
    }
}

/// A new namespace for one test.
async fn namespace(client: &Client) -> String {
    let name = format!("kates-{}", NAMESPACES.fetch_add(1, Ordering::Relaxed));
    let mut namespace = parse(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    client.create::<k8s_openapi::api::core::v1::Namespace>(&mut namespace).await.unwrap();
    name
}

fn parse<K: serde::de::DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

fn config_map(namespace: &str, name: &str) -> k8s_openapi::api::core::v1::ConfigMap {
    let meta = json!({"namespace": namespace, "name": name});
    parse(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}))
}

fn key(namespace: &str, name: &str) -> Key {
    Key::namespaced(namespace, name)
}

/// `kube`, but everything a watch says arrives `delay` late.
fn late(kube: kube::Client, delay: Duration) -> kube::Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let kube = kube.clone();
        async move {
            let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            let answer = kube.send(request).await?;
            let held = if is_watch { delay } else { Duration::ZERO };
            Ok::<_, tower::BoxError>(answer.map(|body| {
                let frames = stream::unfold(body, move |mut body| async move {
                    let frame = body.frame().await?;
                    tokio::time::sleep(held).await;
                    Some((frame, body))
                });
                StreamBody::new(frames.boxed())
            }))
        }
    });
    kube::Client::new(service, "default")
}
