//! The Lease `epic-node-<node>`: shows that this agent lives and reaches the API server.

use std::time::Duration;

use epic_crds::well_known::{EPIC_NAMESPACE, node_lease_name};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kates::{Client, Key};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::owner::Owner;

/// Between two renewals.
pub const RENEW: Duration = Duration::from_secs(10);
/// How long a renewal counts: whoever reads the Lease takes the agent for dead after this.
pub const DURATION_SECONDS: i32 = 40;

/// Renews until `shutdown`. A failed renewal is tried again at the next time.
pub async fn run(client: Client, owner: Owner, shutdown: CancellationToken) {
    let mut timer = tokio::time::interval(RENEW);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = shutdown.cancelled() => return,
        }
        if let Err(error) = renew(&client, &owner.node, owner.now()).await {
            tracing::warn!(error = crate::metrics::chain(&error), "the Lease was not renewed");
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
