//! The Lease `epic-node-<node>`: shows that this agent lives and reaches the API server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use epic_crds::well_known::{EPIC_NAMESPACE, node_lease_name};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kates::{Client, Key};
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::owner::Owner;

/// Between two renewals.
pub const RENEW: Duration = Duration::from_secs(10);
/// Without a renewal for so long the API server is lost: two failed, and a third is late. It is less than
/// [`DURATION_SECONDS`], so a node knows it before others act on it.
const LOST: Duration = Duration::from_secs(25);
/// How long a renewal counts: whoever reads the Lease takes the agent for dead after this.
pub const DURATION_SECONDS: i32 = 40;

/// When the API server was reached.
#[derive(Debug)]
pub struct Contact {
    times: Mutex<Times>,
}

#[derive(Clone, Copy, Debug)]
struct Times {
    last: Instant,
    /// Since when without a gap.
    since: Instant,
}

impl Contact {
    /// Reached now.
    pub fn new(now: Instant) -> Self {
        Self { times: Mutex::new(Times { last: now, since: now }) }
    }

    /// Takes down that it was reached.
    pub fn reached(&self, now: Instant) {
        let mut times = self.times.lock();
        if is_late(times.last, now) {
            times.since = now;
        }
        times.last = now;
    }

    /// Whether it has not been reached for so long that others may have decided without this node.
    pub fn is_lost(&self, now: Instant) -> bool {
        is_late(self.times.lock().last, now)
    }

    /// Whether it has been reached for long enough to have heard what others decided.
    pub fn is_back(&self, now: Instant) -> bool {
        let times = *self.times.lock();
        !is_late(times.last, now) && now.saturating_duration_since(times.since) >= RENEW
    }
}

fn is_late(last: Instant, now: Instant) -> bool {
    now.saturating_duration_since(last) > LOST
}

/// Renews until `shutdown`. A failed renewal is tried again at the next time.
pub async fn run(client: Client, owner: Owner, contact: Arc<Contact>, shutdown: CancellationToken) {
    let mut timer = tokio::time::interval(RENEW);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = shutdown.cancelled() => return,
        }
        match renew(&client, &owner.node, owner.now()).await {
            Ok(()) => contact.reached(Instant::now()),
            Err(error) => tracing::warn!(error = crate::metrics::chain(&error), "the Lease was not renewed"),
        }
    }
}

/// Renews the Lease of `owner`. Without one it is not made.
pub(super) async fn renew(
    client: &Client,
    node: &str,
    owner: Option<OwnerReference>,
) -> Result<(), kates::Error> {
    let name = node_lease_name(node);
    let key = Key::namespaced(EPIC_NAMESPACE, name.as_str());
    let now = MicroTime(Timestamp::now());
    let mut patch = json!({ "spec": {
        "renewTime": now, "holderIdentity": node, "leaseDurationSeconds": DURATION_SECONDS,
    }});
    if let Some(owner) = &owner {
        patch["metadata"] = json!({ "ownerReferences": [owner] });
    }
    match client.patch::<Lease, _>(&key, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => {
            let Some(owner) = owner else { return Ok(()) };
            let mut lease = Lease {
                metadata: ObjectMeta {
                    name: Some(name),
                    namespace: Some(EPIC_NAMESPACE.to_owned()),
                    owner_references: Some(vec![owner]),
                    ..ObjectMeta::default()
                },
                spec: Some(LeaseSpec {
                    acquire_time: Some(now.clone()),
                    holder_identity: Some(node.to_owned()),
                    lease_duration_seconds: Some(DURATION_SECONDS),
                    renew_time: Some(now),
                    ..LeaseSpec::default()
                }),
            };
            client.create(&mut lease).await
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contact_is_lost_before_others_act_on_it_and_is_back_when_it_has_lasted() {
        let start = Instant::now();
        let contact = Contact::new(start);
        assert!(!contact.is_lost(start + LOST));
        let late = start + LOST + Duration::from_millis(1);
        assert!(contact.is_lost(late) && !contact.is_back(late));
        contact.reached(late);
        assert!(!contact.is_lost(late) && !contact.is_back(late), "what was decided is not heard yet");
        contact.reached(late + RENEW);
        assert!(contact.is_back(late + RENEW));
        assert!(LOST < Duration::from_secs(DURATION_SECONDS.unsigned_abs().into()));
    }
}
