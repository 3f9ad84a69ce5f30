//! What no Endpoint may reach, out of a snapshot.

use epic_crds::well_known::{EPIC_NAME, EPIC_NAMESPACE};
use epic_crds::{AddressClaim, EPIC, EPICNode};
use epic_model::address;
use epic_model::endpoint::Surroundings;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kates::{Key, Snapshot};

use crate::claim::pools;

/// What no Endpoint may reach.
pub fn surroundings(snapshot: &Snapshot) -> Surroundings {
    let mut found = Surroundings::default();
    let networks = |texts: &[String]| -> Vec<IpNet> {
        texts.iter().filter_map(|text| address::parse_network(text).ok()).collect()
    };
    if let Some(epic) = snapshot.get::<EPIC>(&Key::namespaced(EPIC_NAMESPACE, EPIC_NAME)) {
        let status = epic.status.clone().unwrap_or_default();
        let range = |ranges: Option<epic_crds::AddressRanges>, default: &str| {
            let ranges = ranges.unwrap_or_default();
            networks(&[ranges.ipv4.unwrap_or_else(|| default.to_owned()), ranges.ipv6.unwrap_or_default()])
        };
        found.proxy_addresses = range(status.proxy_addresses, epic.spec.proxy_ipv4());
        found.alias_addresses = range(status.alias_addresses, epic.spec.alias_ipv4());
        found.protected = networks(&epic.spec.protected_addresses);
        found.protected.extend(
            epic.spec
                .protected_addresses
                .iter()
                .filter_map(|text| address::parse(text).ok())
                .map(address::host),
        );
        found.untunnelled = networks(&epic.spec.untunnelled_networks);
    }
    let claims = snapshot.list::<AddressClaim>();
    found.vips = claims.filter_map(|claim| address::parse(&claim.spec.address).ok()).collect();
    for node in snapshot.list::<Node>() {
        let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        found.node_addresses.extend(addresses.filter_map(|known| address::parse(&known.address).ok()));
        let cidrs = node.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
        found.cluster_networks.extend(cidrs.filter_map(|text| address::parse_network(text).ok()));
    }
    for node in snapshot.list::<EPICNode>() {
        let addresses = node.status.iter().flat_map(|status| &status.addresses);
        found.node_addresses.extend(addresses.filter_map(|text| address::parse(text).ok()));
        let gateways = node.status.iter().flat_map(|status| &status.gateways);
        found.gateways.extend(gateways.filter_map(|text| address::parse(text).ok()));
    }
    for cidr in snapshot.list::<ServiceCIDR>() {
        let cidrs = cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
        found.cluster_networks.extend(cidrs.filter_map(|text| address::parse_network(text).ok()));
    }
    found.pools = pools(snapshot).iter().flat_map(|pool| pool.intervals().to_vec()).collect();
    found
}
