//! How many entries maps have.

use epic_abi::maps::{MAX_ENDPOINTS, MAX_FLOWS, MAX_LBS, MAX_TUNNELS, MapSpec, Room, Side};

/// What there has to be room for. All maps follow from these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// LoadBalancers; four public ports and four proxies of each on average.
    pub load_balancers: u32,
    /// Tunnels.
    pub tunnels: u32,
    /// Endpoints.
    pub endpoints: u32,
    /// Flows from the internet that keep their proxy when proxies come and go.
    pub flows: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            load_balancers: MAX_LBS as u32,
            tunnels: MAX_TUNNELS as u32,
            endpoints: MAX_ENDPOINTS as u32,
            flows: MAX_FLOWS as u32,
        }
    }
}

impl Sizes {
    /// Entries of a map when the agent of `side` creates it. Maps of the other side have one.
    pub fn entries(&self, spec: &MapSpec, side: Side) -> u32 {
        if spec.side != Side::Both && spec.side != side {
            return 1;
        }
        let compiled = Self::default();
        let (wanted, usual) = match spec.room {
            Room::Fixed => return spec.max_entries,
            Room::LoadBalancers => (self.load_balancers, compiled.load_balancers),
            Room::Tunnels => (self.tunnels, compiled.tunnels),
            Room::Endpoints => (self.endpoints, compiled.endpoints),
            Room::Flows => (self.flows, compiled.flows),
        };
        let entries = u64::from(spec.max_entries) * u64::from(wanted) / u64::from(usual);
        u32::try_from(entries).unwrap_or(u32::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use epic_abi::maps::{FLOWS, LOCALS, MAPS, SERVICES, SOURCES};

    use super::*;

    #[test]
    fn the_usual_sizes_are_those_compiled_in() {
        for spec in MAPS.iter().filter(|spec| spec.side != Side::Client) {
            assert_eq!(Sizes::default().entries(spec, Side::Node), spec.max_entries, "{}", spec.name);
        }
        assert_eq!(Sizes::default().entries(&FLOWS, Side::Client), 1);
    }

    #[test]
    fn maps_grow_in_proportion() {
        let sizes = Sizes { load_balancers: 1_000, tunnels: 100_000, ..Sizes::default() };
        assert_eq!(sizes.entries(&SERVICES, Side::Node), 4_000);
        assert_eq!(sizes.entries(&SOURCES, Side::Client), 200_000);
        assert_eq!(sizes.entries(&LOCALS, Side::Node), LOCALS.max_entries);
    }
}
