//! EndpointSlices as backends.
//!
//! | ready | serving | terminating | state |
//! | --- | --- | --- | --- |
//! | yes, or nothing is said | | no | Active |
//! | | yes | yes | Terminating |
//! | | no | yes | TerminatingNotServing |
//! | no | | no | Quarantined; Active with `publishNotReadyAddresses` |
//!
//! An address that several slices name is taken once, as the best of them has it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use epic_lb::{Backend, BackendState, Locality, Name, Place, ServiceName, Source};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::service::protocol;

/// Says whether hints of slices count (Kubernetes, topology aware routing).
const ANNOTATION_TOPOLOGY: &str = "service.kubernetes.io/topology-mode";

/// Whether the slices of a Service say for which zone an endpoint is meant.
pub(super) fn is_hinted(object: &core::Service) -> bool {
    let mode = object.metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION_TOPOLOGY));
    mode.is_some_and(|mode| mode.eq_ignore_ascii_case("auto"))
}

/// The backends of a Service. `publish`: those that are not ready take flows as well.
pub(super) fn rows<'a>(
    name: &ServiceName,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    publish: bool,
    hinted: bool,
) -> Vec<Backend> {
    let mut rows: BTreeMap<Place, Backend> = BTreeMap::new();
    for slice in slices {
        // Names of hosts are no addresses.
        if slice.metadata.deletion_timestamp.is_some() || slice.address_type == "FQDN" {
            continue;
        }
        for endpoint in slice.endpoints.iter().flatten() {
            for row in of_endpoint(name, slice, endpoint, publish, hinted) {
                merge(&mut rows, row);
            }
        }
    }
    rows.into_values().collect()
}

fn of_endpoint(
    name: &ServiceName,
    slice: &EndpointSlice,
    endpoint: &Endpoint,
    publish: bool,
    hinted: bool,
) -> Vec<Backend> {
    let state = state(endpoint, publish);
    let zone = match hinted.then(|| hint(endpoint)).flatten() {
        Some(zone) => Some(zone),
        None => endpoint.zone.as_deref(),
    };
    let locality = Locality {
        node: endpoint.node_name.as_deref().map(Name::new),
        zone: zone.map(Name::new),
        cluster: None,
    };
    let mut rows = Vec::new();
    for text in &endpoint.addresses {
        let Ok(address) = text.parse::<IpAddr>() else { continue };
        for port in slice.ports.iter().flatten() {
            let Some(number) = port.port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
            else {
                continue;
            };
            let port_name = port.name.as_deref().filter(|name| !name.is_empty());
            rows.push(Backend {
                source: Source::Kubernetes,
                state,
                port_names: port_name.map(|name| [Name::new(name)].into()),
                locality: locality.clone(),
                ..Backend::new(name.clone(), address, number, protocol(port.protocol.as_deref()))
            });
        }
    }
    rows
}

/// Several ports of a Service may lead to one port of a pod, each under its own name.
fn merge(rows: &mut BTreeMap<Place, Backend>, row: Backend) {
    let Some(known) = rows.get_mut(&row.place) else {
        rows.insert(row.place, row);
        return;
    };
    let mut names: Vec<Name> = known.port_names().iter().chain(row.port_names()).cloned().collect();
    names.sort();
    names.dedup();
    if row.state.new_flows() < known.state.new_flows() {
        *known = row;
    }
    known.port_names = (!names.is_empty()).then(|| names.into());
}

fn state(endpoint: &Endpoint, publish: bool) -> BackendState {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let serving = conditions.serving.unwrap_or(ready);
    match (conditions.terminating.unwrap_or(false), ready || publish) {
        (true, _) if serving => BackendState::Terminating,
        (true, _) => BackendState::TerminatingNotServing,
        (false, true) => BackendState::Active,
        (false, false) => BackendState::Quarantined,
    }
}

/// The zone that an endpoint is meant for.
fn hint(endpoint: &Endpoint) -> Option<&str> {
    let zones = endpoint.hints.as_ref()?.for_zones.as_ref()?;
    zones.first().map(|zone| zone.name.as_str())
}
