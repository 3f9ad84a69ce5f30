//! Objects that the API server serves and that do not parse: counted by kind, and named in the log.
//!
//! Such an object stops nothing: kates keeps its last readable state, and everything else goes on without it. The Event
//! on it is the operator's, which reads the same kinds; an agent may not write any.

use epic_ops::Metrics;
use kates::Poison;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

/// Kinds as labels: a closed list, whatever the API server serves.
const KINDS: [&str; 12] = [
    "EPIC",
    "EPICNode",
    "Account",
    "AddressPool",
    "AddressClaim",
    "LoadBalancer",
    "Endpoint",
    "Node",
    "Pod",
    "Secret",
    "Service",
    "ConfigMap",
];

/// The kind something happened to.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

fn label(kind: &str) -> KindLabel {
    KindLabel { kind: KINDS.into_iter().find(|known| *known == kind).unwrap_or("other") }
}

/// Tells of unreadable objects for as long as there is a client.
pub(crate) fn tell(mut reports: Receiver<Poison>, metrics: &Metrics) {
    let counted = Family::<KindLabel, Counter>::default();
    metrics.register(|registry| {
        let help = "Objects that could not be read, by kind";
        registry.register("unreadable_objects", help, counted.clone());
    });
    tokio::spawn(async move {
        loop {
            match reports.recv().await {
                Ok(poison) => {
                    counted.get_or_create(&label(&poison.kind)).inc();
                    tracing::warn!(
                        kind = poison.kind,
                        object = %poison.key,
                        error = poison.error,
                        earlier_state_kept = poison.earlier_state_shown,
                        "unreadable object skipped"
                    );
                }
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "more unreadable objects than can be told");
                }
                Err(RecvError::Closed) => return,
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_nobody_knows_is_another_one() {
        assert_eq!(label("LoadBalancer").kind, "LoadBalancer");
        assert_eq!(label("Surprise").kind, "other");
    }
}
