//! xDS in the operator: tables out of a snapshot, a server over them, and what proxies answered as pod conditions.
//!
//! Runs in every replica, with or without the Lease.

mod assigned;
mod condition;

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use kates::{Key, Snapshot};

pub use assigned::Assigned;
pub use condition::{Answer, configured, pod_condition, read};

use crate::settings::Settings;

/// ClusterIP of the xDS Service, which proxies connect to.
pub fn xds_address(snapshot: &Snapshot, settings: &Settings) -> Option<IpAddr> {
    let key = Key::namespaced(settings.namespace.as_str(), settings.xds_service.as_str());
    snapshot.get::<Service>(&key)?.spec.as_ref()?.cluster_ip.as_deref()?.parse().ok()
}
