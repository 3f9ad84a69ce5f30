//! Map layouts: frozen sizes, names and numbers.

use std::{collections::BTreeSet, net::IpAddr};

use epic_abi::{
    Ip, IpRange,
    drop::DropReason,
    maps::{LAYOUT_VERSION, MAPS},
    stats::Event,
};
use proptest::prelude::*;

/// Name, bytes of key and value. A change here needs a new layout version.
const FROZEN: &[(&str, u32, u32)] = &[
    ("layout", 4, 4),
    ("config", 4, 184),
    ("locals", 16, 4),
    ("nodes", 16, 4),
    ("keys", 4, 124),
    ("tunnels", 4, 52),
    ("remotes", 4, 40),
    ("sources", 24, 4),
    ("tunnel_stats", 4, 32),
    ("drops", 4, 8),
    ("stats", 4, 8),
    ("vips", 16, 4),
    ("services", 20, 16),
    ("source_ranges", 24, 4),
    ("maglev", 4, 4),
    ("flows", 40, 16),
    ("flow_budget", 4, 16),
    ("proxies", 4, 60),
    ("local_proxies", 4, 76),
    ("listeners", 8, 20),
    ("aliases", 20, 24),
    ("endp_aliases", 24, 16),
    ("passes", 24, 4),
    ("routes", 16, 8),
    ("learned_proxies", 16, 16),
    ("endpoints", 24, 4),
];

#[test]
fn layouts_are_frozen_with_their_version() {
    assert_eq!(LAYOUT_VERSION, 1);
    let now: Vec<_> = MAPS.iter().map(|m| (m.name, m.key_size, m.value_size)).collect();
    assert_eq!(now, FROZEN);
}

#[test]
fn names_of_maps_and_labels_are_unique() {
    assert_eq!(MAPS.iter().map(|m| m.name).collect::<BTreeSet<_>>().len(), MAPS.len());
    assert_eq!(
        DropReason::ALL.iter().map(|r| r.name()).collect::<BTreeSet<_>>().len(),
        DropReason::ALL.len()
    );
    assert_eq!(Event::ALL.iter().map(|e| e.name()).collect::<BTreeSet<_>>().len(), Event::ALL.len());
}

#[test]
fn reasons_and_events_are_numbered_in_their_order() {
    for (index, reason) in DropReason::ALL.iter().enumerate() {
        assert_eq!(*reason as usize, index, "{}", reason.name());
        assert!(reason.meaning().ends_with('.'), "{}", reason.name());
    }
    for (index, event) in Event::ALL.iter().enumerate() {
        assert_eq!(*event as usize, index, "{}", event.name());
    }
}

#[test]
fn proxy_addresses_are_base_plus_id() {
    let range = IpRange::new(Ip::v4([100, 64, 0, 0]), 11);
    let address = range.base.offset(258);
    assert_eq!(address, Ip::v4([100, 64, 1, 2]));
    assert!(range.contains(&address) && range.contains_v4(address.v4_word()));
    assert_eq!(range.index(&address), 258);
    assert!(!range.contains(&Ip::v4([100, 96, 0, 0])));
    assert!(!IpRange::default().contains(&address), "an empty range holds nothing");
    assert!(!IpRange::default().contains(&Ip::UNSPECIFIED));
}

#[test]
fn a_range_clears_the_host_bits_of_its_base() {
    assert_eq!(IpRange::new(Ip::v4([100, 64, 3, 4]), 16).base, Ip::v4([100, 64, 0, 0]));
}

proptest! {
    #[test]
    fn addresses_come_back_as_they_were(address: IpAddr) {
        // v4-mapped IPv6 addresses are IPv4 here; no packet carries them.
        let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
        prop_assume!(!mapped);
        prop_assert_eq!(IpAddr::from(Ip::from(address)), address);
        prop_assert_eq!(Ip::v6(Ip::from(address).octets()), Ip::from(address));
        prop_assert_eq!(Ip::from(address).is_v4(), address.is_ipv4());
    }
}
