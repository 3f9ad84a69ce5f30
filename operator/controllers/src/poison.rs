//! Objects that the API server serves and that do not parse: an Event on each, and a metric.
//!
//! Such an object stops nothing: kates keeps its last readable state, the allocators see what it holds in raw form,
//! and its controller leaves it alone until somebody repairs it.

use std::time::Duration;

use epic_crds::well_known::API_VERSION;
use epic_crds::{AccountReason, EPICNodeReason, EndpointReason, EpicReason, LoadBalancerReason};
use k8s_openapi::api::core::v1::ObjectReference;
use kates::Poison;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::context::Shared;
use crate::metrics::KindLabel;

/// Kinds as labels: a closed list, whatever the API server serves.
const KINDS: [&str; 8] = [
    "EPIC",
    "EPICNode",
    "Account",
    "AddressPool",
    "AddressClaim",
    "ServiceGroup",
    "LoadBalancer",
    "Endpoint",
];

/// Tells of unreadable objects until `shutdown`.
pub async fn run(context: Shared, shutdown: CancellationToken) {
    let mut reports = context.client.poison_reports();
    loop {
        let report = tokio::select! {
            () = shutdown.cancelled() => return,
            report = reports.recv() => report,
        };
        match report {
            Ok(poison) => tell(&context, &poison),
            // What was missed is in the snapshot's list and in the log of its source.
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "more unreadable objects than can be told")
            }
            Err(RecvError::Closed) => sleep(Duration::from_secs(1)).await,
        }
    }
}

fn tell(context: &Shared, poison: &Poison) {
    let kind = KINDS.into_iter().find(|kind| *kind == poison.kind).unwrap_or("other");
    context.counters.poisoned.get_or_create(&KindLabel { kind }).inc();
    tracing::warn!(kind, object = %poison.key, error = poison.error, "unreadable object skipped");
    if !context.leadership.leads() {
        return;
    }
    let object = ObjectReference {
        api_version: Some(API_VERSION.to_owned()),
        kind: Some(poison.kind.clone()),
        namespace: poison.metadata.namespace.clone(),
        name: poison.metadata.name.clone(),
        uid: poison.metadata.uid.clone(),
        ..ObjectReference::default()
    };
    let text = format!("the object cannot be read and is skipped: {}; repair it", poison.error);
    let events = &context.events;
    match kind {
        "Account" => events.warn(&object, AccountReason::UnreadableObject, "Read", &text),
        "EPICNode" => events.warn(&object, EPICNodeReason::UnreadableObject, "Read", &text),
        "LoadBalancer" => events.warn(&object, LoadBalancerReason::UnreadableObject, "Read", &text),
        "Endpoint" => events.warn(&object, EndpointReason::UnreadableObject, "Read", &text),
        _ => events.warn(&object, EpicReason::UnreadableObject, "Read", &text),
    }
}
