//! What runs a LoadBalancer's proxies: a Deployment with its ConfigMap and PodDisruptionBudget.
//!
//! Pure: [`Proxies`] in, objects out, equal for equal inputs, so nothing rolls without a reason. The objects are
//! applied by the LoadBalancer's controller; the certificate Secret the pods mount is made elsewhere
//! ([`crate::certificate`]).
//! Each unusual line of the pod is explained where it stands; facts: Envoy has no drain of its own on SIGTERM, so
//! the preStop hook *is* the drain; Envoy ends it by itself when no connection is left.

mod census;
mod child;
mod deployment;
mod placement;
mod pods;
mod trouble;

pub use census::Census;
pub use child::{covers, owned_by};
pub use deployment::{CONTAINER, MIN_READY_SECONDS, Objects, Proxies, objects};
pub use placement::{PullPolicy, awaits_labels, copy, restarted_at, restarts, settings};
pub use pods::{Index, has_ended, is_ready, lacks_volume, listed};
pub use trouble::{Agent, Surroundings, first_trouble, unmade};

/// A ReplicaSet as far as it is read: who it is and whose. Its template and bookkeeping stay at the API server.
pub type ReplicaSet = kube::core::PartialObjectMeta<k8s_openapi::api::apps::v1::ReplicaSet>;
