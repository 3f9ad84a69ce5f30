//! EPIC's API on a real API server: definitions, rules, roles and admission policies. No operator runs.
//!
//! One control plane serves all tests of this binary; each test uses namespaces and names of its own.

mod bad_input;
mod in_use;
mod policies;
mod roles;
mod rules;
mod seed;
mod shape;

use epic_control_plane::{Identity, Request, object, shared};
use kube::Client;
use serde_json::{Value, json};

/// A client of the administrator.
async fn admin() -> Client {
    shared().await.admin().await.expect("an administrator's client")
}

/// A client with this identity.
async fn client(identity: Identity) -> Client {
    shared().await.client(&identity).await.expect("a client")
}

/// Creates a namespace, labelled as the tenant's of the Account of that name if `tenant`.
async fn namespace(name: &str, tenant: bool) {
    let mut namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
    if tenant {
        namespace["metadata"]["labels"] =
            json!({ "epic.acnodal.io/account": name.trim_start_matches("epic-") });
    }
    Request::apply(&namespace).send(&admin().await).await.expect_ok();
}

/// A LoadBalancer that is valid.
fn load_balancer(namespace: &str, name: &str) -> Value {
    object(
        "LoadBalancer",
        namespace,
        name,
        json!({ "public-ports": [{ "port": 80, "protocol": "TCP" }], "service-group": "shared" }),
    )
}

/// An Endpoint that is valid.
fn endpoint(namespace: &str, name: &str) -> Value {
    object(
        "Endpoint",
        namespace,
        name,
        json!({ "load-balancer": "web", "address": "10.244.1.5", "port": { "port": 8080, "protocol": "TCP" } }),
    )
}
