//! Whether EPIC's ranges can be used, beside each other and beside what the cluster has. Pure.

use epic_crds::{EPIC, EpicReason as Reason};
use epic_model::address;
use epic_model::endpoint::Surroundings;
use ipnet::IpNet;

/// Fewest bits that a range has to give away.
const HOST_BITS: u8 = 2;

/// Judges the settings.
///
/// # Errors
/// Reason and text of the first thing to mend.
pub(super) fn check(around: &Surroundings, epic: &EPIC) -> Result<(), (Reason, String)> {
    let spec = &epic.spec;
    let ipv6 = |ranges: &Option<epic_crds::AddressRanges>| ranges.clone().and_then(|ranges| ranges.ipv6);
    let mut ours: Vec<(&str, IpNet)> = Vec::new();
    for (field, text) in [
        ("proxy-addresses.ipv4", Some(spec.proxy_ipv4().to_owned())),
        ("proxy-addresses.ipv6", ipv6(&spec.proxy_addresses)),
        ("alias-addresses.ipv4", Some(spec.alias_ipv4().to_owned())),
        ("alias-addresses.ipv6", ipv6(&spec.alias_addresses)),
    ] {
        let Some(text) = text else { continue };
        let invalid = |text: String| (Reason::InvalidRange, format!("spec.{field}: {text}"));
        let network = address::parse_network(&text).map_err(|error| invalid(error.to_string()))?;
        if field.ends_with("ipv4") != network.network().is_ipv4() {
            return Err(invalid(format!("{network} is of the other address family")));
        }
        if network.max_prefix_len() - network.prefix_len() < HOST_BITS {
            return Err(invalid(format!("{network} is too small; give a larger network")));
        }
        if let Some((other, theirs)) = ours.iter().find(|(_, theirs)| overlap(*theirs, network)) {
            let text =
                format!("spec.{field} {network} and spec.{other} {theirs} overlap; choose another one");
            return Err((Reason::RangesOverlap, text));
        }
        ours.push((field, network));
    }
    for (field, network) in ours {
        let inside = |what: &str| {
            let text = format!("spec.{field} {network} overlaps {what}; choose another one");
            Err((Reason::RangesOverlap, text))
        };
        if let Some(address) = around.node_addresses.iter().find(|address| network.contains(*address)) {
            return inside(&format!("the address {address} of a node"));
        }
        if let Some(theirs) = around.cluster_networks.iter().find(|theirs| overlap(**theirs, network)) {
            return inside(&format!("{theirs} of pods or Services"));
        }
        if let Some(pool) = around.pools.iter().find(|pool| {
            network.contains(&pool.first())
                || network.contains(&pool.last())
                || pool.contains(network.network())
        }) {
            return inside(&format!("{pool} of an AddressPool"));
        }
    }
    Ok(())
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}
