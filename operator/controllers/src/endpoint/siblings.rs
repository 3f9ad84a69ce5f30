//! Which Endpoints of a LoadBalancer decide about one of them.
//!
//! [`epic_model::endpoint::judge`] judges all of them together. But the verdict about one follows from few others:
//! those that are the same, and the oldest one on its client node that is good by itself, to whose cluster the node
//! belongs. This index finds those, so that a look at each of n Endpoints costs n log n and not n².

use std::collections::BTreeMap;
use std::net::IpAddr;

use epic_model::endpoint::Endpoint;
use epic_model::id::{ObjectName, Seconds, Uid};
use epic_model::port::Protocol;
use kates::Key;

/// The order in which equal ones count.
type Age = (Seconds, ObjectName, Uid);
/// What is unique within a LoadBalancer.
type Identity = (Option<IpAddr>, IpAddr, u16, Protocol);

/// The Endpoints of one client node.
#[derive(Debug, Default)]
struct Node {
    by_age: BTreeMap<Age, Endpoint>,
    /// How many name each cluster.
    clusters: BTreeMap<Option<String>, usize>,
}

/// Endpoints by the LoadBalancer that they name.
#[derive(Debug, Default)]
pub struct Siblings {
    equal: BTreeMap<(Key, Identity), BTreeMap<Age, Endpoint>>,
    nodes: BTreeMap<(Key, IpAddr), Node>,
}

fn age(endpoint: &Endpoint) -> Age {
    (endpoint.created, endpoint.name.clone(), endpoint.uid.clone())
}

fn node(endpoint: &Endpoint) -> Option<IpAddr> {
    endpoint.node_address.map(|node| node.to_canonical())
}

fn identity(endpoint: &Endpoint) -> Identity {
    (node(endpoint), endpoint.address.to_canonical(), endpoint.port.port, endpoint.port.protocol)
}

impl Siblings {
    /// Adds an Endpoint of this LoadBalancer.
    pub fn insert(&mut self, balancer: &Key, endpoint: Endpoint) {
        if let Some(node) = node(&endpoint) {
            let node = self.nodes.entry((balancer.clone(), node)).or_default();
            node.by_age.insert(age(&endpoint), endpoint.clone());
            *node.clusters.entry(endpoint.cluster.clone()).or_default() += 1;
        }
        let equal = self.equal.entry((balancer.clone(), identity(&endpoint))).or_default();
        equal.insert(age(&endpoint), endpoint);
    }

    /// Takes an Endpoint out that was inserted just so.
    pub fn remove(&mut self, balancer: &Key, endpoint: &Endpoint) {
        let place = (balancer.clone(), identity(endpoint));
        if let Some(equal) = self.equal.get_mut(&place) {
            equal.remove(&age(endpoint));
            if equal.is_empty() {
                self.equal.remove(&place);
            }
        }
        let Some(place) = node(endpoint).map(|node| (balancer.clone(), node)) else { return };
        let Some(node) = self.nodes.get_mut(&place) else { return };
        if node.by_age.remove(&age(endpoint)).is_none() {
            return;
        }
        if let Some(count) = node.clusters.get_mut(&endpoint.cluster) {
            *count -= 1;
            if *count == 0 {
                node.clusters.remove(&endpoint.cluster);
            }
        }
        if node.by_age.is_empty() {
            self.nodes.remove(&place);
        }
    }

    /// Those that decide about `endpoint`, itself included: judged together they give the verdict about it that all
    /// of the LoadBalancer's would. `is_good` says whether one is good by itself.
    pub fn deciding(
        &self,
        balancer: &Key,
        endpoint: &Endpoint,
        is_good: impl Fn(&Endpoint) -> bool,
    ) -> Vec<Endpoint> {
        if !is_good(endpoint) {
            return vec![endpoint.clone()];
        }
        let equal = self.equal.get(&(balancer.clone(), identity(endpoint)));
        let mut deciding: Vec<Endpoint> =
            equal.into_iter().flatten().map(|(_, known)| known.clone()).collect();
        let node = node(endpoint).and_then(|node| self.nodes.get(&(balancer.clone(), node)));
        let mut older = node.into_iter().flat_map(|node| node.by_age.range(..age(endpoint)));
        let settler = older.find(|(_, older)| is_good(older)).map(|(_, older)| older);
        deciding.extend(settler.filter(|settler| identity(settler) != identity(endpoint)).cloned());
        deciding
    }

    /// Names of those about whom `endpoint` may decide: as it is, or as it was when it is there no more.
    pub fn concerned(&self, balancer: &Key, endpoint: &Endpoint) -> Vec<ObjectName> {
        let equal = self.equal.get(&(balancer.clone(), identity(endpoint))).into_iter().flatten();
        let node = node(endpoint).and_then(|node| self.nodes.get(&(balancer.clone(), node)));
        // While all on a node name one cluster, nobody else there cares who settles it.
        let disputed = node.filter(|node| node.clusters.keys().any(|known| *known != endpoint.cluster));
        let all = disputed.into_iter().flat_map(|node| &node.by_age);
        equal.chain(all).map(|(_, known)| known.name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use epic_model::endpoint::{Surroundings, is_good, judge};
    use epic_model::port::{EndpointPort, PublicPort};

    fn public() -> Vec<PublicPort> {
        vec![PublicPort { name: None, port: 8080, protocol: Protocol::Tcp, target_port: None }]
    }

    fn endpoint(n: u32, created: u32, address: u8, node: Option<u8>, port: u16, cluster: u8) -> Endpoint {
        Endpoint {
            name: format!("e{n}").into(),
            uid: format!("u{n}").into(),
            created: Seconds(i64::from(created)),
            address: [10, 0, 0, address].into(),
            port: EndpointPort { name: None, port, protocol: Protocol::Tcp },
            node_address: node.map(|node| [192, 168, 1, node].into()),
            cluster: (cluster > 0).then(|| format!("c{cluster}")),
        }
    }

    /// Every world of a few Endpoints with few values, numbered.
    fn world(mut number: u32) -> Vec<Endpoint> {
        let mut draw = |below: u32| {
            // A linear congruence: plain, and the same in every run.
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (number >> 16) % below
        };
        (0..6)
            .map(|n| {
                let node = [None, Some(1), Some(2), Some(1)][draw(4) as usize];
                let port = [8080, 8080, 8080, 1][draw(4) as usize];
                endpoint(n, draw(3), 1 + draw(2) as u8, node, port, draw(3) as u8)
            })
            .collect()
    }

    fn index(endpoints: &[Endpoint]) -> (Key, Siblings) {
        let (balancer, mut siblings) = (Key::namespaced("epic-red", "web"), Siblings::default());
        for endpoint in endpoints {
            siblings.insert(&balancer, endpoint.clone());
        }
        (balancer, siblings)
    }

    fn surroundings() -> Surroundings {
        Surroundings { untunnelled: vec!["10.0.0.0/8".parse().unwrap()], ..Surroundings::default() }
    }

    fn judged_by_few(balancer: &Key, siblings: &Siblings, endpoint: &Endpoint) -> bool {
        let around = surroundings();
        let few = siblings.deciding(balancer, endpoint, |one| is_good(one, &public(), &around));
        judge(&few, &public(), &around)[&endpoint.uid].is_ok()
    }

    #[test]
    fn the_few_that_decide_give_the_verdict_that_all_would() {
        for number in 0..20_000 {
            let endpoints = world(number);
            let (balancer, siblings) = index(&endpoints);
            let all = judge(&endpoints, &public(), &surroundings());
            for endpoint in &endpoints {
                let expected = all[&endpoint.uid].is_ok();
                assert_eq!(
                    judged_by_few(&balancer, &siblings, endpoint),
                    expected,
                    "{endpoint:?} of {endpoints:?}"
                );
            }
        }
    }

    #[test]
    fn whoever_gets_another_verdict_when_one_comes_or_goes_is_concerned() {
        for number in 0..20_000 {
            let mut endpoints = world(number);
            let before = judge(&endpoints, &public(), &surroundings());
            let (balancer, mut siblings) = index(&endpoints);
            let gone = endpoints.remove((number % 6) as usize);
            let after = judge(&endpoints, &public(), &surroundings());
            let told = siblings.concerned(&balancer, &gone);
            siblings.remove(&balancer, &gone);
            let told_after = siblings.concerned(&balancer, &gone);
            for other in &endpoints {
                if before[&other.uid].is_ok() != after[&other.uid].is_ok() {
                    assert!(told.contains(&other.name), "{} comes: {other:?} of {endpoints:?}", gone.name);
                    assert!(
                        told_after.contains(&other.name),
                        "{} goes: {other:?} of {endpoints:?}",
                        gone.name
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_taken_out_leaves_nothing() {
        let endpoints = world(7);
        let (balancer, mut siblings) = index(&endpoints);
        for endpoint in &endpoints {
            siblings.remove(&balancer, endpoint);
            siblings.remove(&balancer, endpoint);
        }
        assert!(siblings.equal.is_empty() && siblings.nodes.is_empty());
    }

    #[test]
    fn on_a_node_of_one_cluster_a_newcomer_concerns_nobody_else() {
        let endpoints: Vec<Endpoint> = (0..5).map(|n| endpoint(n, n, n as u8, Some(1), 8080, 1)).collect();
        let (balancer, siblings) = index(&endpoints);
        assert_eq!(siblings.concerned(&balancer, &endpoints[4]), [ObjectName::new("e4")]);
    }
}
