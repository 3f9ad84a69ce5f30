//! Which interfaces of this node are EPIC's, and what the programs have to know of them.
//!
//! A name in `gue.interfaces` wins, then what its match says, then the interface that has the node's InternalIP. A name may
//! be an alternative one. Nothing is guessed: where several interfaces match, the node says so and stays out.

use std::net::IpAddr;

use epic_abi::maps::Config;
use epic_abi::{Ip, IpRange};
use epic_crds::{EPIC, EPICNodeReason, InterfaceMatch};
use epic_model::address::parse_network;
use ipnet::IpNet;

use crate::desired::node::{alias_ranges, proxy_ranges};
use crate::netlink::Error as NetlinkError;
use crate::netlink::link::Link;

/// TCP port of a proxy's readiness and stats listener, fixed by its bootstrap.
const OPS_PORT: u16 = 9901;
/// Flows a CPU may enter into the flow table within a second. More are served by Maglev alone, which only matters
/// when proxies come or go.
const NEW_FLOWS_PER_SECOND: u32 = 50_000;
/// Interfaces that a message names.
const MOST_NAMED: usize = 16;
/// Seed of Maglev tables. The same on all nodes and in all versions; which cell a flow meets is a matter of the flow hash,
/// whose seed is a secret.
pub const MAGLEV_SEED: u32 = 0x4550_4943;

/// The interfaces of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interfaces {
    /// Towards the internet.
    pub public: Link,
    /// Towards clients and other EPIC nodes; may be the same.
    pub underlay: Link,
    /// The address at which this node receives GUE.
    pub address: IpAddr,
}

/// Why they are not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Named in the EPIC object, but not there.
    #[error(
        "interface {0:?}, which gue.interfaces of the EPIC object names, does not exist on this node; where names differ \
         by node, give one an alternative name (ip link property add dev INTERFACE altname {0}) or use public-match and \
         underlay-match"
    )]
    NotFound(String),
    /// Nothing matches.
    #[error(
        "no interface of this node fits gue.interfaces.{field} of the EPIC object ({wanted}); there are: {there}"
    )]
    NoMatch {
        /// The field.
        field: &'static str,
        /// What it says.
        wanted: String,
        /// Interfaces that could have matched.
        there: String,
    },
    /// Several match.
    #[error(
        "several interfaces of this node fit gue.interfaces.{field} of the EPIC object: {}; make its patterns or subnets \
         narrower", .found.join(", ")
    )]
    Ambiguous {
        /// The field.
        field: &'static str,
        /// Those that do.
        found: Vec<String>,
    },
    /// Nothing has the node's address.
    #[error(
        "no interface of this node has its InternalIP ({0}); name the interfaces in gue.interfaces of the EPIC object"
    )]
    NoInternalAddress(String),
    /// The node has IPv6 addresses alone.
    #[error(
        "the Node's only InternalIP is {0}, and tunnels need an IPv4 address; give the node an IPv4 address and name the \
         interface that has it in gue.interfaces of the EPIC object (public, underlay, or public-match, underlay-match)"
    )]
    OnlyIpv6(String),
    /// The Node does not say where it is.
    #[error("the Node has no InternalIP yet, and gue.interfaces of the EPIC object names no interface")]
    NoInternalIp,
    /// The programs could not read what it carries.
    #[error(
        "frames of interface {0:?} have no Ethernet header (as those of tun, WireGuard and PPP devices), so EPIC cannot \
         attach there; name an Ethernet interface in gue.interfaces of the EPIC object"
    )]
    NotEthernet(String),
    /// Tunnels need an IPv4 address.
    #[error(
        "interface {0:?} has no IPv4 address for tunnels; give it one, or name another interface in \
         gue.interfaces.underlay of the EPIC object"
    )]
    NoAddress(String),
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl Error {
    /// The reason of the node's condition.
    pub fn reason(&self) -> EPICNodeReason {
        match self {
            Self::NotEthernet(_) => EPICNodeReason::InterfaceNotSupported,
            Self::Ambiguous { .. } => EPICNodeReason::InterfaceAmbiguous,
            Self::OnlyIpv6(_) | Self::NoAddress(_) => EPICNodeReason::NoTunnelAddress,
            _ => EPICNodeReason::InterfaceNotFound,
        }
    }
}

impl Interfaces {
    /// Why nothing is reached by one of them, if so.
    pub fn down(&self) -> Option<String> {
        let of = [("public", &self.public), ("underlay", &self.underlay)];
        let down = of.into_iter().find(|(_, link)| !link.up || !link.carrier);
        down.map(|(what, link)| {
            let name = &link.name;
            match link.up {
                false => {
                    format!("the {what} interface {name:?} is down; `ip link set {name} up` brings it up")
                }
                true => format!(
                    "the {what} interface {name:?} has no carrier; see to its cable, switch or members"
                ),
            }
        })
    }
}

/// Chooses them among the interfaces and addresses of this node.
///
/// # Errors
/// [`Error`]; nothing is guessed.
pub fn choose(
    links: &[Link],
    addresses: &[(u32, IpAddr)],
    epic: &EPIC,
    internal: &[IpAddr],
) -> Result<Interfaces, Error> {
    let there = There { links, addresses, internal };
    let spec = &epic.spec;
    let public = there.one(spec.public_interface(), spec.public_match(), "public-match")?;
    let underlay = there.one(spec.underlay_interface(), spec.underlay_match(), "underlay-match")?;
    if let Some(link) = [public, underlay].into_iter().find(|link| !link.ethernet) {
        return Err(Error::NotEthernet(link.name.clone()));
    }
    let held: Vec<IpAddr> = there.addresses_of(underlay).filter(IpAddr::is_ipv4).collect();
    let subnets = match spec.underlay_interface() {
        Some(_) => Vec::new(),
        None => spec.underlay_match().map(subnets).unwrap_or_default(),
    };
    let address = held.iter().find(|address| subnets.iter().any(|subnet| subnet.contains(*address)));
    let address = address.or_else(|| internal.iter().find(|address| held.contains(address))).or(held.first());
    let address = *address.ok_or_else(|| Error::NoAddress(underlay.name.clone()))?;
    Ok(Interfaces { public: public.clone(), underlay: underlay.clone(), address })
}

/// What is on this node.
struct There<'n> {
    links: &'n [Link],
    addresses: &'n [(u32, IpAddr)],
    internal: &'n [IpAddr],
}

impl<'n> There<'n> {
    fn addresses_of(&self, link: &Link) -> impl Iterator<Item = IpAddr> {
        let ifindex = link.ifindex;
        self.addresses.iter().filter(move |(index, _)| *index == ifindex).map(|(_, address)| *address)
    }

    fn one(
        &self,
        name: Option<&str>,
        wanted: Option<&InterfaceMatch>,
        field: &'static str,
    ) -> Result<&'n Link, Error> {
        if let Some(name) = name {
            let named = |link: &&Link| link.name == name;
            let also_named = |link: &&Link| link.altnames.iter().any(|other| other == name);
            let found = self.links.iter().find(named).or_else(|| self.links.iter().find(also_named));
            return found.ok_or_else(|| Error::NotFound(name.to_owned()));
        }
        match wanted {
            Some(wanted) => self.matching(wanted, field),
            None => self.with_internal_address(),
        }
    }

    fn with_internal_address(&self) -> Result<&'n Link, Error> {
        let v4: Vec<&IpAddr> = self.internal.iter().filter(|address| address.is_ipv4()).collect();
        let holder = |address: &&IpAddr| {
            let (ifindex, _) = self.addresses.iter().find(|(_, held)| held == *address)?;
            self.links.iter().find(|link| link.ifindex == *ifindex)
        };
        let listed =
            |addresses: &[&IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        v4.iter().find_map(holder).ok_or_else(|| match (v4.is_empty(), self.internal.is_empty()) {
            (_, true) => Error::NoInternalIp,
            (true, false) => Error::OnlyIpv6(listed(&self.internal.iter().collect::<Vec<_>>())),
            (false, false) => Error::NoInternalAddress(listed(&v4)),
        })
    }

    /// The one that fits. Members of a bond or bridge carry no packets of their own, and loopback none at all.
    fn matching(&self, wanted: &InterfaceMatch, field: &'static str) -> Result<&'n Link, Error> {
        let subnets = subnets(wanted);
        let lies = |link: &Link| {
            wanted.subnets.is_empty()
                || self.addresses_of(link).any(|address| subnets.iter().any(|net| net.contains(&address)))
        };
        let able: Vec<&Link> =
            self.links.iter().filter(|link| !link.loopback && link.controller.is_none()).collect();
        let named = |pattern: &str| -> Vec<&'n Link> {
            let fits = |link: &&&Link| {
                let mut names = std::iter::once(&link.name).chain(&link.altnames);
                names.any(|name| is_like(pattern, name)) && lies(link)
            };
            able.iter().filter(fits).copied().collect()
        };
        let any = ["*".to_owned()];
        let patterns = if wanted.names.is_empty() { &any[..] } else { &wanted.names };
        let found = patterns.iter().map(|pattern| named(pattern)).find(|found| !found.is_empty());
        match found.as_deref() {
            Some([link]) => Ok(link),
            Some(several) => {
                Err(Error::Ambiguous { field, found: several.iter().map(|link| link.name.clone()).collect() })
            }
            None => Err(Error::NoMatch {
                field,
                wanted: [wanted.names.join(", "), wanted.subnets.join(", ")].join(" in ").trim().to_owned(),
                there: able
                    .iter()
                    .map(|link| link.name.as_str())
                    .take(MOST_NAMED)
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        }
    }
}

fn subnets(wanted: &InterfaceMatch) -> Vec<IpNet> {
    wanted.subnets.iter().filter_map(|subnet| parse_network(subnet).ok()).collect()
}

/// Whether a pattern stands for a name: `*` for any characters, `?` for one, everything else for itself.
fn is_like(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut of) = (0, 0);
    // Where the last star stood, and how far it reaches.
    let mut star: Option<(usize, usize)> = None;
    while of < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, of));
                at += 1;
            }
            Some(wanted) if *wanted == '?' || *wanted == name[of] => {
                at += 1;
                of += 1;
            }
            _ => {
                let Some((place, reach)) = star else { return false };
                star = Some((place, reach + 1));
                at = place + 1;
                of = reach + 1;
            }
        }
    }
    pattern[at..].iter().all(|rest| *rest == '*')
}

/// What the programs have to know. `seed` is that of flow hashes.
pub fn config(interfaces: &Interfaces, epic: &EPIC, seed: u32) -> Config {
    let (proxies_v4, proxies_v6) = by_family(&proxy_ranges(epic));
    let (aliases_v4, aliases_v6) = by_family(&alias_ranges(epic));
    Config {
        gue_port: epic.spec.gue_port(),
        ops_port: OPS_PORT,
        public_ifindex: interfaces.public.ifindex,
        underlay_ifindex: interfaces.underlay.ifindex,
        underlay_mtu: epic.spec.underlay_mtu(interfaces.underlay.mtu),
        new_flows_per_second: NEW_FLOWS_PER_SECOND,
        maglev_seed: seed,
        mac: interfaces.public.mac,
        proxies_v4,
        proxies_v6,
        aliases_v4,
        aliases_v6,
        underlay: interfaces.address.into(),
        ..Config::default()
    }
}

/// The first range of each family as programs have it.
pub fn by_family(ranges: &[IpNet]) -> (IpRange, IpRange) {
    let range = |network: Option<&IpNet>| {
        network.map_or_else(IpRange::default, |n| IpRange::new(Ip::from(n.network()), n.prefix_len()))
    };
    let v4 = ranges.iter().find(|range| matches!(range, IpNet::V4(_)));
    let v6 = ranges.iter().find(|range| matches!(range, IpNet::V6(_)));
    (range(v4), range(v6))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(ifindex: u32, name: &str) -> Link {
        let name = name.to_owned();
        Link { ifindex, name, up: true, carrier: true, ethernet: true, mtu: 1_500, ..Link::default() }
    }

    /// A node with two cards and a bond.
    fn links() -> Vec<Link> {
        vec![
            Link { loopback: true, ..link(1, "lo") },
            Link { altnames: vec!["public0".to_owned()], ..link(2, "enp3s0") },
            link(3, "enp4s0"),
            link(4, "bond0"),
            Link { controller: Some(4), ..link(5, "enp5s0") },
            link(6, "eth1"),
        ]
    }

    fn addresses() -> Vec<(u32, IpAddr)> {
        let held = [
            (1, "127.0.0.1"),
            (2, "192.0.2.4"),
            (3, "198.51.100.4"),
            (4, "10.0.0.4"),
            (6, "10.1.0.4"),
            (6, "10.2.0.4"),
        ];
        held.map(|(ifindex, address)| (ifindex, address.parse().unwrap())).to_vec()
    }

    fn chosen(interfaces: &str, internal: &[&str]) -> Result<(String, String, String), Error> {
        let epic: EPIC = serde_yaml::from_str(&format!(
            "{{metadata: {{name: epic}}, spec: {{gue: {{interfaces: {{{interfaces}}}}}}}}}"
        ))
        .unwrap();
        let internal: Vec<IpAddr> = internal.iter().map(|address| address.parse().unwrap()).collect();
        let found = choose(&links(), &addresses(), &epic, &internal)?;
        Ok((found.public.name, found.underlay.name, found.address.to_string()))
    }

    fn names(public: &str, underlay: &str, address: &str) -> (String, String, String) {
        (public.to_owned(), underlay.to_owned(), address.to_owned())
    }

    #[test]
    fn a_name_wins_over_a_match_and_a_match_over_the_internal_address() {
        let internal = ["198.51.100.4"];
        assert_eq!(chosen("", &internal).unwrap(), names("enp4s0", "enp4s0", "198.51.100.4"));
        let matched = "public-match: {subnets: [192.0.2.0/24]}";
        assert_eq!(chosen(matched, &internal).unwrap(), names("enp3s0", "enp4s0", "198.51.100.4"));
        let named = format!("{matched}, public: eth1");
        assert_eq!(chosen(&named, &internal).unwrap(), names("eth1", "enp4s0", "198.51.100.4"));
    }

    #[test]
    fn an_interface_goes_by_its_alternative_names_as_well() {
        let internal = ["198.51.100.4"];
        assert_eq!(chosen("public: public0", &internal).unwrap().0, "enp3s0");
        assert_eq!(chosen("public-match: {names: ['pub*']}", &internal).unwrap().0, "enp3s0");
    }

    #[test]
    fn of_several_addresses_the_one_in_the_subnet_that_was_asked_for_receives_tunnels() {
        let matched = |subnet: &str| format!("underlay-match: {{subnets: [{subnet}]}}, public: eth1");
        assert_eq!(chosen(&matched("10.1.0.0/16"), &[]).unwrap().2, "10.1.0.4");
        assert_eq!(chosen(&matched("10.2.0.0/16"), &["10.1.0.4"]).unwrap().2, "10.2.0.4");
    }

    #[test]
    fn names_and_subnets_must_both_fit_and_the_first_pattern_that_fits_decides() {
        let of = |text: &str| chosen(text, &["10.0.0.4"]).map(|found| found.0);
        assert_eq!(of("public-match: {names: ['enp*'], subnets: [198.51.100.0/24]}").unwrap(), "enp4s0");
        assert_eq!(of("public-match: {names: ['wan?', 'eth?', 'bond0']}").unwrap(), "eth1");
        let none = of("public-match: {names: [eth1], subnets: [192.0.2.0/24]}").unwrap_err();
        assert_eq!(none.reason(), EPICNodeReason::InterfaceNotFound);
        let text = none.to_string();
        assert!(text.contains("public-match") && text.contains("eth1 in 192.0.2.0/24"), "{text}");
    }

    #[test]
    fn several_that_fit_are_told_and_none_is_taken_but_members_of_a_bond_do_not_fit() {
        let error = chosen("public-match: {names: ['enp*']}", &["10.0.0.4"]).unwrap_err();
        assert_eq!(error.reason(), EPICNodeReason::InterfaceAmbiguous);
        assert!(error.to_string().contains("enp3s0, enp4s0;"), "{error}");
    }

    #[test]
    fn a_node_with_ipv6_alone_is_told_what_it_lacks() {
        let error = chosen("", &["2001:db8::4"]).unwrap_err();
        assert_eq!(error.reason(), EPICNodeReason::NoTunnelAddress);
        assert!(error.to_string().contains("only InternalIP is 2001:db8::4"), "{error}");
        assert!(matches!(chosen("", &[]), Err(Error::NoInternalIp)));
        assert!(matches!(chosen("", &["203.0.113.9"]), Err(Error::NoInternalAddress(_))));
        let named = chosen("public: eth1, underlay: eth1", &["2001:db8::4"]);
        assert_eq!(named.unwrap(), names("eth1", "eth1", "10.1.0.4"), "an interface with one is named");
        let none = chosen("underlay: enp5s0", &["198.51.100.4"]).unwrap_err();
        assert_eq!(none.reason(), EPICNodeReason::NoTunnelAddress);
    }

    #[test]
    fn patterns_are_those_of_file_names() {
        let like = ["*", "en*", "*s0", "e*p*0", "enp3s?", "enp3s0", "enp3s0*", "**0"];
        assert!(like.iter().all(|pattern| is_like(pattern, "enp3s0")));
        let unlike = ["", "en", "eth*", "?", "*1", "enp3s0?", "ENP3S0", "e*p*1", "enp3s00"];
        assert!(!unlike.iter().any(|pattern| is_like(pattern, "enp3s0")));
    }

    #[test]
    fn an_interface_that_is_down_or_without_carrier_is_named() {
        let good =
            Interfaces { public: link(2, "eth1"), underlay: link(3, "eth0"), address: addresses()[0].1 };
        assert_eq!(good.down(), None);
        let mut cut = good.clone();
        cut.public.carrier = false;
        assert!(cut.down().unwrap().starts_with("the public interface \"eth1\" has no carrier"));
        let mut down = good;
        (down.underlay.up, down.underlay.carrier) = (false, false);
        assert!(down.down().unwrap().starts_with("the underlay interface \"eth0\" is down"));
    }

    #[test]
    fn the_way_of_tunnels_is_no_wider_than_the_epic_object_says_nor_than_the_interface() {
        let wan = link(2, "wan0");
        let address = [192, 0, 2, 11].into();
        let interfaces = Interfaces { public: wan.clone(), underlay: wan, address };
        for (said, wanted) in [(None, 1_500), (Some(1_400), 1_400), (Some(9_000), 1_500)] {
            let gue = serde_json::json!({"underlay-mtu": said});
            let epic = serde_json::json!({"metadata": {"name": "epic"}, "spec": {"gue": gue}});
            let epic: EPIC = serde_json::from_value(epic).expect("an EPIC object");
            assert_eq!(config(&interfaces, &epic, 0).underlay_mtu, wanted, "{said:?}");
        }
    }
}
