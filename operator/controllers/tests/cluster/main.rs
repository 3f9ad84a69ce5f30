//! The operator on a real API server and controller-manager, with a harness that plays kubelets and node agents.
//!
//! The operator runs as the process that is shipped, with the rights of its ServiceAccount, and is killed like one.
//! What is proved is judged from the watch history of the API server, not from the state in the end alone. Each test
//! has a control plane of its own; they take turns, since together they would measure each other. One that only waits
//! lets the next one go on meanwhile.

mod accidents;
mod bad_input;
mod deletion;
mod gitops;
mod harness;
mod history;
mod limits;
mod operator;
mod orders;
mod platform;
mod quota;
mod refusals;
mod rest;
mod rights;
mod rotation;
mod tenants;
mod writers;

use std::sync::Arc;

use epic_control_plane::{ControlPlane, Request};
use kube::Client;
use serde_json::json;
use tokio::sync::Mutex;

static TURN: Mutex<()> = Mutex::const_new(());

/// A control plane with EPIC's definitions, roles and policies, and the xDS Service that the chart brings.
struct Cluster {
    control_plane: ControlPlane,
    admin: Client,
    turn: Mutex<Option<tokio::sync::MutexGuard<'static, ()>>>,
}

impl Cluster {
    async fn start() -> Arc<Self> {
        let turn = TURN.lock().await;
        let control_plane = ControlPlane::start().unwrap_or_else(|error| panic!("{error}"));
        control_plane.install_definitions().await.expect("definitions are installed");
        control_plane.install_access().await.expect("roles and policies are installed");
        let admin = control_plane.admin().await.expect("an administrator's client");
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "epic-xds", "namespace": "epic"},
            "spec": {"ports": [{"port": 18000}], "selector": {"app": "epic-operator"}},
        });
        Request::apply(&service).send(&admin).await.expect_ok();
        Arc::new(Self { control_plane, admin, turn: Mutex::new(Some(turn)) })
    }

    /// Lets the next test go on during this, which must be nothing that takes longer when it does.
    async fn aside<T>(&self, wait: impl Future<Output = T>) -> T {
        drop(self.turn.lock().await.take());
        let answer = wait.await;
        *self.turn.lock().await = Some(TURN.lock().await);
        answer
    }
}
