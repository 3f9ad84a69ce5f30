//! What kates promises, against a simulated API server that can misbehave on demand. Time is virtual.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod bootstrap;
mod coalescing;
mod coherence;
mod controllers;
mod convergence;
mod queue;
mod recovery;

use std::collections::BTreeSet;
use std::time::Duration;

use epic_fake_api::Server;
use k8s_openapi::api::core::v1::ConfigMap;
use kates::{Accumulator, Client, Key, Object, Settings, Snapshot};
use serde_json::{Value, json};

/// A client whose failures are tried again soon.
fn client(server: &Server) -> Client {
    let settings = Settings { field_manager: Some("test".into()), ..Settings::default() };
    Client::with_settings(server.client(), settings)
}

fn config_map(namespace: &str, name: &str) -> ConfigMap {
    serde_json::from_value(raw("ConfigMap", namespace, name)).unwrap()
}

fn raw(kind: &str, namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"namespace": namespace, "name": name}})
}

fn key(namespace: &str, name: &str) -> Key {
    Key::namespaced(namespace, name)
}

/// What a snapshot shows of a kind, in the form of `Server::state`.
fn shown<K: Object>(snapshot: &Snapshot) -> BTreeSet<(String, String, String)> {
    snapshot
        .list::<K>()
        .map(|object| {
            let meta = object.meta();
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            let name = format!("{}/{}", text(&meta.namespace), text(&meta.name));
            (name, text(&meta.uid), text(&meta.resource_version))
        })
        .collect()
}

/// Waits, in virtual time, until `holds`; fails loudly after ten minutes of it.
async fn eventually(accumulator: &Accumulator, what: &str, mut holds: impl FnMut(&Accumulator) -> bool) {
    for _ in 0..60_000 {
        if holds(accumulator) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never came true: {what}; status {:#?}", accumulator.status());
}
