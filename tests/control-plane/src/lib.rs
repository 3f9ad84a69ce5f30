//! A real Kubernetes API without nodes, for tests: etcd, kube-apiserver and kube-controller-manager on loopback.
//!
//! `hack/control-plane` starts the processes; [`ControlPlane`] owns them and takes them down when it is dropped, or,
//! for one that a whole test binary shares, when the binary ends. A test that cannot have a control plane fails and
//! says what to run; it never passes without one.
//!
//! Clients belong to the runtime that made them, so each test asks for its own: the administrator's, that of a user
//! or ServiceAccount by impersonation, or that of a token. [`Request`] shows what a typed client hides: warnings and
//! the exact answer.

mod access;
pub mod bad_input;
pub mod conditions;
mod process;
mod request;

pub use access::{Identity, shared, token};
pub use process::{ControlPlane, ControlPlaneError};
pub use request::{Answer, Request, object};

use std::future::Future;
use std::time::Duration;

/// How long a condition may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until the answer is `Some`, at most [`PATIENCE`] long.
///
/// # Panics
/// When it stays `None`; `what` is in the message.
pub async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what} did not happen within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
