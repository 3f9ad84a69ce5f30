//! Leadership: which replica writes.
//!
//! A Lease saves work and log lines, nothing else. Two replicas that both believe they lead hand out no value
//! twice, since every allocation is a versioned write (`epic_model::allocation`). So a stale answer here costs
//! conflicts, never correctness, and a replica that cannot reach the API server may go on believing.
//!
//! What a served xDS stream reports is written by the replica that serves it, with or without the Lease.

use std::time::Duration;

use epic_crds::well_known::LEASE_OPERATOR;
use futures::{Stream, StreamExt};
use kube::Client;
use kube_lease_manager::{DurationSeconds, LeaseManagerBuilder, LeaseManagerError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;

/// A silent holder is replaced after this many seconds.
const DURATION: DurationSeconds = 15;

/// The holder renews this many seconds before the Lease would expire.
const GRACE: DurationSeconds = 5;

/// Whether this replica writes, now and from now on.
#[derive(Clone, Debug)]
pub struct Leadership {
    leads: watch::Receiver<bool>,
}

impl Leadership {
    /// Competes for the Lease in `namespace` as `identity` (the pod's name) until `ended`: no write is
    /// under way any more. Then gives it back, so that a successor need not wait for its expiry.
    ///
    /// # Errors
    /// The Lease can be neither read nor created: usually a missing role binding of the operator.
    pub async fn compete(
        client: Client,
        namespace: &str,
        identity: &str,
        ended: CancellationToken,
    ) -> Result<(Self, JoinHandle<()>), LeaseManagerError> {
        let manager = LeaseManagerBuilder::new(client, LEASE_OPERATOR)
            .with_namespace(namespace)
            .with_identity(identity)
            .with_duration(DURATION)
            .with_grace(GRACE)
            .build()
            .await?;
        let (mut held, task) = manager.watch().await;
        let (sender, leads) = watch::channel(false);
        let forward = tokio::spawn(async move {
            loop {
                let leads = *held.borrow_and_update();
                if sender.send_replace(leads) != leads {
                    tracing::info!(leads, "leadership changed");
                }
                tokio::select! {
                    () = ended.cancelled() => break,
                    changed = held.changed() => if changed.is_err() { break },
                }
            }
            sender.send_replace(false);
            // Dropping the receiver makes the manager release the Lease and end.
            drop(held);
            match tokio::time::timeout(Duration::from_secs(5), task).await {
                Ok(Ok(Ok(_))) => tracing::info!("lease given back"),
                _ => tracing::warn!("the lease was not given back; a successor waits for its expiry"),
            }
        });
        Ok((Self { leads }, forward))
    }

    /// Always leads: for a single process under test, and for tests that set replicas against each other.
    pub fn always() -> Self {
        let (sender, leads) = watch::channel(true);
        // A watch whose sender is gone keeps its last value.
        drop(sender);
        Self { leads }
    }

    /// As the sender says, for tests.
    #[cfg(test)]
    pub(crate) fn told_by(sender: &watch::Sender<bool>) -> Self {
        Self { leads: sender.subscribe() }
    }

    /// Whether this replica leads at this moment.
    pub fn leads(&self) -> bool {
        *self.leads.borrow()
    }

    /// An item whenever this replica begins to lead from now on.
    pub fn begins(&self) -> impl Stream<Item = ()> + Send + 'static {
        let changes = WatchStream::from_changes(self.leads.clone());
        changes.filter_map(|leads| futures::future::ready(leads.then_some(())))
    }

    /// Waits until this replica leads.
    pub async fn acquired(&mut self) {
        if self.leads.wait_for(|leads| *leads).await.is_err() {
            // The sender ended with the process; nobody leads any more.
            std::future::pending::<()>().await;
        }
    }
}
