//! Endpoints: which are accepted, and the alias under which Envoy dials one.
//!
//! An Endpoint's address may be anything a tenant's network holds, equal to other tenants' and to EPIC's own pods:
//! Envoy dials an alias, and the tunnel decides where that leads. Refused is only what could never be meant, or what
//! would let a tenant reach what is not his. Addresses are values here ([`crate::address`]), so every spelling of one
//! is judged alike.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::address;
use crate::id::{EndpointId, ObjectName, Seconds, Uid};
use crate::port::{EndpointPort, NoMatchingPort, Protocol, PublicPort, served};

/// An Endpoint of one LoadBalancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name.
    pub name: ObjectName,
    /// Its uid.
    pub uid: Uid,
    /// When it was created; the older of two equal ones is accepted.
    pub created: Seconds,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: EndpointPort,
    /// The client node it is behind; absent: no tunnel.
    pub node_address: Option<IpAddr>,
    /// The cluster its node belongs to.
    pub cluster: Option<String>,
}

/// What must not be reached: the networks and addresses of the system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Public addresses: all that are claimed.
    pub vips: BTreeSet<IpAddr>,
    /// `proxy-addresses`, of both families.
    pub proxy_addresses: Vec<IpNet>,
    /// `alias-addresses`, of both families.
    pub alias_addresses: Vec<IpNet>,
    /// `protected-addresses`.
    pub protected: Vec<IpNet>,
    /// `untunnelled-networks`: where Endpoints without a node may lie.
    pub untunnelled: Vec<IpNet>,
    /// Addresses of the EPIC cluster's Nodes and EPICNodes. For endpoints without a node.
    pub node_addresses: BTreeSet<IpAddr>,
    /// `Node.spec.podCIDRs`, ServiceCIDR objects and the networks of pools. For endpoints without a node.
    pub cluster_networks: Vec<IpNet>,
    /// Address pools, as intervals. For endpoints without a node.
    pub pools: Vec<crate::claim::Interval>,
    /// Routers that EPIC nodes send by. For pools: who answers for one cuts off its network.
    pub gateways: BTreeSet<IpAddr>,
}

/// Why an address is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Forbidden {
    /// `0.0.0.0`, `::` and all of `0.0.0.0/8`.
    Unspecified,
    /// The host itself.
    Loopback,
    /// Addresses of one link.
    LinkLocal,
    /// Groups.
    Multicast,
    /// `255.255.255.255` and reserved addresses.
    Reserved,
    /// A public address of EPIC.
    Vip,
    /// An address of a proxy.
    ProxyAddress,
    /// An alias.
    AliasAddress,
    /// In `protected-addresses`.
    Protected,
    /// Without a node, and outside of `untunnelled-networks`.
    NotUntunnelled,
    /// Without a node, and an address of an EPIC node.
    NodeAddress,
    /// Without a node, and a pod, a service or a pool address of the EPIC cluster.
    ClusterNetwork,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Forbidden::Unspecified => "is no host's address",
            Forbidden::Loopback => "is a loopback address",
            Forbidden::LinkLocal => "is a link-local address",
            Forbidden::Multicast => "is a multicast address",
            Forbidden::Reserved => "is a reserved address",
            Forbidden::Vip => "is a public address of EPIC",
            Forbidden::ProxyAddress => "lies in EPIC's proxy addresses",
            Forbidden::AliasAddress => "lies in EPIC's alias addresses",
            Forbidden::Protected => "is protected by the administrator of EPIC",
            Forbidden::NotUntunnelled => {
                "lies outside of the networks that may be reached without a tunnel; set node-address"
            }
            Forbidden::NodeAddress => "is an address of an EPIC node",
            Forbidden::ClusterNetwork => "lies in a network of the EPIC cluster",
        })
    }
}

/// Why an Endpoint is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its address may not be an endpoint's.
    #[error("address {address} {why}")]
    Address {
        /// The address.
        address: IpAddr,
        /// Why.
        why: Forbidden,
    },
    /// Its `node-address` is no host's address.
    #[error("node-address {0} is no host's address")]
    NodeAddress(IpAddr),
    /// It serves no public port.
    #[error(transparent)]
    Port(#[from] NoMatchingPort),
    /// An older Endpoint is the same.
    #[error("endpoint {0} has the same node address, address, port and protocol; delete one of the two")]
    Duplicate(ObjectName),
    /// Its node address belongs to another cluster.
    #[error(
        "node address {node} belongs to cluster {theirs:?} by endpoint {by}; a node address belongs to one cluster within a load balancer"
    )]
    OtherCluster {
        /// The node address.
        node: IpAddr,
        /// The cluster it belongs to.
        theirs: String,
        /// The Endpoint that says so.
        by: ObjectName,
    },
}

/// Addresses that no endpoint can have, whatever the surroundings.
pub fn forbidden_everywhere(address: IpAddr) -> Option<Forbidden> {
    let address = address.to_canonical();
    let found = match address {
        IpAddr::V4(v4) => [
            (v4.octets()[0] == 0, Forbidden::Unspecified),
            (v4.is_loopback(), Forbidden::Loopback),
            (v4.is_link_local(), Forbidden::LinkLocal),
            (v4.is_multicast(), Forbidden::Multicast),
            (v4.octets()[0] >= 240, Forbidden::Reserved),
        ],
        IpAddr::V6(v6) => {
            // IPv4-compatible addresses would be a further spelling of IPv4 ones; nobody uses them.
            let compatible = v6.segments()[..6] == [0; 6] && !v6.is_loopback() && !v6.is_unspecified();
            [
                (v6.is_unspecified(), Forbidden::Unspecified),
                (v6.is_loopback(), Forbidden::Loopback),
                (v6.is_unicast_link_local(), Forbidden::LinkLocal),
                (v6.is_multicast(), Forbidden::Multicast),
                (compatible, Forbidden::Reserved),
            ]
        }
    };
    found.into_iter().find_map(|(is, why)| is.then_some(why))
}

impl Surroundings {
    /// Whether an Endpoint may have this address, and why not.
    pub fn forbids(&self, address: IpAddr, tunnelled: bool) -> Option<Forbidden> {
        let address = address.to_canonical();
        let within = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        let always = forbidden_everywhere(address)
            .or_else(|| self.vips.contains(&address).then_some(Forbidden::Vip))
            .or_else(|| within(&self.proxy_addresses).then_some(Forbidden::ProxyAddress))
            .or_else(|| within(&self.alias_addresses).then_some(Forbidden::AliasAddress))
            .or_else(|| within(&self.protected).then_some(Forbidden::Protected));
        if tunnelled || always.is_some() {
            return always;
        }
        let in_pool = self.pools.iter().any(|interval| interval.contains(address));
        (!within(&self.untunnelled))
            .then_some(Forbidden::NotUntunnelled)
            .or_else(|| self.node_addresses.contains(&address).then_some(Forbidden::NodeAddress))
            .or_else(|| (within(&self.cluster_networks) || in_pool).then_some(Forbidden::ClusterNetwork))
    }
}

/// Judges all Endpoints of one LoadBalancer, by uid: `Ok` holds the public ports (number, protocol) it serves.
///
/// (node address, address, port, protocol) is unique within a LoadBalancer, and a node address belongs to one
/// cluster; the older one counts. One that is refused for another reason does not stand in the way of a younger one.
pub fn judge(
    endpoints: &[Endpoint],
    public: &[PublicPort],
    surroundings: &Surroundings,
) -> BTreeMap<Uid, Result<Vec<(u16, Protocol)>, Refusal>> {
    let mut by_age: Vec<&Endpoint> = endpoints.iter().collect();
    by_age.sort_by(|a, b| (a.created, &a.name, &a.uid).cmp(&(b.created, &b.name, &b.uid)));
    let mut identities: BTreeMap<(Option<IpAddr>, IpAddr, u16, Protocol), &ObjectName> = BTreeMap::new();
    let mut clusters: BTreeMap<IpAddr, (&Option<String>, &ObjectName)> = BTreeMap::new();
    let mut judged = BTreeMap::new();
    for endpoint in by_age {
        let verdict = judge_alone(endpoint, public, surroundings).and_then(|ports| {
            let node = endpoint.node_address.map(|node| node.to_canonical());
            let identity =
                (node, endpoint.address.to_canonical(), endpoint.port.port, endpoint.port.protocol);
            if let Some(older) = identities.get(&identity) {
                return Err(Refusal::Duplicate((*older).clone()));
            }
            if let Some(node) = node {
                let (cluster, by) = clusters.entry(node).or_insert((&endpoint.cluster, &endpoint.name));
                if **cluster != endpoint.cluster {
                    let theirs = cluster.clone().unwrap_or_default();
                    return Err(Refusal::OtherCluster { node, theirs, by: (*by).clone() });
                }
            }
            identities.insert(identity, &endpoint.name);
            Ok(ports)
        });
        judged.insert(endpoint.uid.clone(), verdict);
    }
    judged
}

/// Whether an Endpoint is accepted as long as no other one stands in its way.
pub fn is_good(endpoint: &Endpoint, public: &[PublicPort], surroundings: &Surroundings) -> bool {
    judge_alone(endpoint, public, surroundings).is_ok()
}

fn judge_alone(
    endpoint: &Endpoint,
    public: &[PublicPort],
    surroundings: &Surroundings,
) -> Result<Vec<(u16, Protocol)>, Refusal> {
    let Endpoint { address, node_address, .. } = endpoint;
    if let Some(why) = surroundings.forbids(*address, node_address.is_some()) {
        return Err(Refusal::Address { address: *address, why });
    }
    // An identity, checked no further: what matters is the address that says hello.
    if let Some(node) = node_address.filter(|node| node.is_unspecified() || node.is_multicast()) {
        return Err(Refusal::NodeAddress(node));
    }
    let ports = served(public, &endpoint.port)?;
    Ok(ports.into_iter().map(|port| (port.port, port.protocol)).collect())
}

/// The alias of an Endpoint: base of `alias-addresses` plus its ID. `None` if the range is too small.
pub fn alias(alias_addresses: IpNet, id: EndpointId) -> Option<IpAddr> {
    address::offset(alias_addresses, u32::from(id.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        address::parse(text).unwrap()
    }

    fn endpoint(name: &str, created: i64, address: &str, node: Option<&str>) -> Endpoint {
        Endpoint {
            name: name.into(),
            uid: format!("uid-{name}").into(),
            created: Seconds(created),
            address: ip(address),
            port: EndpointPort { name: None, port: 8080, protocol: Protocol::Tcp },
            node_address: node.map(ip),
            cluster: None,
        }
    }

    fn public() -> Vec<PublicPort> {
        vec![PublicPort { name: None, port: 8080, protocol: Protocol::Tcp, target_port: None }]
    }

    fn surroundings() -> Surroundings {
        let network = |text: &str| text.parse().unwrap();
        Surroundings {
            vips: [ip("192.168.77.2")].into(),
            proxy_addresses: vec![network("100.64.0.0/11")],
            alias_addresses: vec![network("100.127.0.0/16")],
            protected: vec![network("10.9.0.0/16")],
            untunnelled: vec![network("172.16.0.0/12"), network("192.168.77.0/24")],
            node_addresses: [ip("192.168.77.11")].into(),
            cluster_networks: vec![network("172.20.0.0/16")],
            pools: vec!["192.168.77.100-192.168.77.120".parse().unwrap()],
            ..Surroundings::default()
        }
    }

    fn verdicts(endpoints: &[Endpoint]) -> Vec<Result<Vec<(u16, Protocol)>, Refusal>> {
        let judged = judge(endpoints, &public(), &surroundings());
        endpoints.iter().map(|endpoint| judged[&endpoint.uid].clone()).collect()
    }

    #[test]
    fn addresses_that_are_never_an_endpoints_are_refused_in_every_spelling() {
        let cases = [
            ("127.0.0.1", Forbidden::Loopback),
            ("::ffff:127.0.0.1", Forbidden::Loopback),
            ("::1", Forbidden::Loopback),
            ("169.254.169.254", Forbidden::LinkLocal),
            ("::ffff:169.254.169.254", Forbidden::LinkLocal),
            ("fe80::1", Forbidden::LinkLocal),
            ("224.0.0.1", Forbidden::Multicast),
            ("ff02::1", Forbidden::Multicast),
            ("0.0.0.0", Forbidden::Unspecified),
            ("0.1.2.3", Forbidden::Unspecified),
            ("::", Forbidden::Unspecified),
            ("255.255.255.255", Forbidden::Reserved),
            ("::127.0.0.1", Forbidden::Reserved),
            ("192.168.77.2", Forbidden::Vip),
            ("::ffff:192.168.77.2", Forbidden::Vip),
            ("100.64.0.5", Forbidden::ProxyAddress),
            ("100.127.0.5", Forbidden::AliasAddress),
            ("10.9.1.1", Forbidden::Protected),
        ];
        for (text, why) in cases {
            assert_eq!(surroundings().forbids(ip(text), true), Some(why), "{text}");
        }
        assert_eq!(surroundings().forbids(ip("10.244.1.5"), true), None);
        assert_eq!(
            surroundings().forbids(ip("172.20.0.7"), true),
            None,
            "behind a tunnel it is the tenant's own"
        );
    }

    #[test]
    fn without_a_node_only_untunnelled_networks_may_be_reached() {
        let cases = [
            ("10.244.1.5", Some(Forbidden::NotUntunnelled)),
            ("172.20.0.7", Some(Forbidden::ClusterNetwork)),
            ("192.168.77.11", Some(Forbidden::NodeAddress)),
            ("192.168.77.110", Some(Forbidden::ClusterNetwork)),
            ("172.16.0.7", None),
        ];
        for (text, why) in cases {
            assert_eq!(surroundings().forbids(ip(text), false), why, "{text}");
        }
        assert_eq!(
            Surroundings::default().forbids(ip("172.16.0.7"), false),
            Some(Forbidden::NotUntunnelled),
            "by default nowhere"
        );
    }

    #[test]
    fn the_younger_of_two_equal_endpoints_is_refused() {
        let node = Some("192.168.1.25");
        let found = verdicts(&[
            endpoint("young", 2, "10.244.1.5", node),
            endpoint("old", 1, "10.244.1.5", node),
            endpoint("other-node", 3, "10.244.1.5", Some("192.168.1.26")),
        ]);
        assert_eq!(found[0], Err(Refusal::Duplicate("old".into())));
        assert_eq!(found[1], Ok(vec![(8080, Protocol::Tcp)]));
        assert!(found[2].is_ok(), "equal pod addresses on different nodes are fine");
    }

    #[test]
    fn one_that_is_refused_does_not_stand_in_the_way() {
        let node = Some("192.168.1.25");
        let mut old = endpoint("old", 1, "10.244.1.5", node);
        old.port.name = Some("x".into());
        let public = [PublicPort {
            name: None,
            port: 80,
            protocol: Protocol::Tcp,
            target_port: Some(crate::port::TargetPort::Name("web".into())),
        }];
        let mut young = endpoint("young", 2, "10.244.1.5", node);
        young.port.name = Some("web".into());
        let judged = judge(&[old.clone(), young.clone()], &public, &surroundings());
        assert!(matches!(judged[&old.uid], Err(Refusal::Port(_))));
        assert!(judged[&young.uid].is_ok());
    }

    #[test]
    fn a_node_address_belongs_to_one_cluster() {
        let in_cluster = |name: &str, created, address: &str, cluster: &str| Endpoint {
            cluster: Some(cluster.into()),
            ..endpoint(name, created, address, Some("192.168.1.25"))
        };
        let found =
            verdicts(&[in_cluster("a", 1, "10.244.1.5", "east"), in_cluster("b", 2, "10.244.1.6", "west")]);
        assert!(found[0].is_ok());
        assert_eq!(
            found[1].clone().unwrap_err().to_string(),
            "node address 192.168.1.25 belongs to cluster \"east\" by endpoint a; a node address belongs to one \
             cluster within a load balancer"
        );
    }

    #[test]
    fn an_alias_is_the_base_plus_the_id() {
        let network = "100.127.0.0/16".parse().unwrap();
        assert_eq!(alias(network, EndpointId::new(258).unwrap()), Some(ip("100.127.1.2")));
        assert_eq!(alias("100.127.0.0/24".parse().unwrap(), EndpointId::new(258).unwrap()), None);
    }
}
