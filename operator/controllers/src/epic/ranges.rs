//! The address ranges in force: those of the spec, else the defaults; for IPv6 one that is drawn once.

use std::net::Ipv6Addr;

use epic_crds::{AddressRanges, EPIC};

/// Subnets of the drawn prefix.
const PROXIES: u16 = 1;
const ALIASES: u16 = 2;

/// The ranges of proxies and of aliases. What the status shows is drawn already and stays.
pub(super) fn in_force(epic: &EPIC) -> (Option<AddressRanges>, Option<AddressRanges>) {
    let status = epic.status.clone().unwrap_or_default();
    let asked = |ranges: &Option<AddressRanges>| ranges.as_ref().and_then(|ranges| ranges.ipv6.clone());
    let kept = |ranges: Option<AddressRanges>| ranges.and_then(|ranges| ranges.ipv6);
    let (proxies, aliases) = (kept(status.proxy_addresses), kept(status.alias_addresses));
    let mut drawn = None;
    let mut subnet = |number: u16| {
        let prefix = *drawn.get_or_insert_with(unique_local_prefix);
        let [a, b, c, ..] = prefix.segments();
        format!("{}/64", Ipv6Addr::new(a, b, c, number, 0, 0, 0, 0))
    };
    let spec = &epic.spec;
    let proxies = asked(&spec.proxy_addresses).or(proxies).unwrap_or_else(|| subnet(PROXIES));
    let aliases = asked(&spec.alias_addresses).or(aliases).unwrap_or_else(|| subnet(ALIASES));
    let ranges = |ipv4: &str, ipv6| {
        Some(AddressRanges { ipv4: Some(ipv4.to_owned()), ipv6: Some(ipv6), ..Default::default() })
    };
    (ranges(spec.proxy_ipv4(), proxies), ranges(spec.alias_ipv4(), aliases))
}

/// A /48 out of fd00::/8 with 40 random bits (RFC 4193).
fn unique_local_prefix() -> Ipv6Addr {
    let [a, b, c, d, e]: [u8; 5] = rand::random();
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(pair(0xfd, a), pair(b, c), pair(d, e), 0, 0, 0, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use epic_crds::{EPICSpec, EPICStatus};

    #[test]
    fn a_range_is_drawn_once_and_of_one_prefix() {
        let epic = EPIC::new("epic", EPICSpec::default());
        let (proxies, aliases) = in_force(&epic);
        let (first, second) =
            (proxies.clone().unwrap().ipv6.unwrap(), aliases.clone().unwrap().ipv6.unwrap());
        assert_eq!(first.replace(":1::/64", ""), second.replace(":2::/64", ""));
        assert!(first.starts_with("fd"), "{first}");
        let status = EPICStatus {
            proxy_addresses: proxies.clone(),
            alias_addresses: aliases.clone(),
            ..EPICStatus::default()
        };
        let drawn = EPIC { status: Some(status), ..epic };
        assert_eq!(in_force(&drawn), (proxies, aliases));
    }
}
