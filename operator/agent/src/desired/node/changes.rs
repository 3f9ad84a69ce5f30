//! A decision that follows changes is the one that is made anew.

use std::collections::BTreeMap;

use epic_lb::Link;
use kates::Key;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::desired::keys::Master;

/// A LoadBalancer, by variants that meet those of others.
#[derive(Clone, Debug, PartialEq)]
struct Balancer {
    ids: u16,
    vip: Option<u8>,
    tunnels: Vec<u16>,
    proxies: Vec<u16>,
    generation: i64,
    age: u8,
}

/// An Endpoint: its LoadBalancer, client node and address.
#[derive(Clone, Debug, PartialEq)]
struct Behind {
    of: usize,
    client: Option<u16>,
    address: u8,
}

#[derive(Clone, Debug)]
enum Step {
    Balancer(usize, Option<Balancer>),
    Endpoint(usize, Option<Behind>),
    /// The address is claimed for this LoadBalancer.
    Claim(usize, Option<usize>),
}

#[derive(Clone, Debug, Default)]
struct World {
    balancers: [Option<Balancer>; 4],
    endpoints: [Option<Behind>; 6],
    claims: [Option<usize>; 4],
}

fn read<K: DeserializeOwned>(object: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(object).expect("an object of this kind"))
}

fn client(n: u16) -> String {
    format!("10.9.0.{n}")
}

fn uid(at: usize) -> String {
    format!("1a8522b9-70a4-4a9c-bdd7-00000000000{at}")
}

impl World {
    fn balancer(&self, at: usize) -> Option<Arc<LoadBalancer>> {
        let it = self.balancers[at].as_ref()?;
        // Of each client node two tunnels are known, so that several show the same one.
        let tunnel = |n: &u16| {
            let port = json!({"port": 6080, "protocol": "UDP", "appProtocol": "gue"});
            let leg = json!({"epic-address": "198.51.100.1", "tunnel-id": n, "epic-port": port});
            (client(n % 3 + 1), leg)
        };
        let proxy = |n: &u16| {
            json!({"pod": format!("p{n}"), "pod-uid": format!("u{n}"), "node": format!("n{}", n % 2 + 1),
                   "epic-address": "198.51.100.2", "proxy-id": n, "proxy-address": format!("100.64.0.{n}"),
                   "state": "Ready"})
        };
        let mut status = json!({
            "group-id": 1, "service-id": it.ids, "key-generation": 1,
            "ports": [{"port": 80, "protocol": "TCP", "slot": 0}],
            "gue-tunnel-endpoints": it.tunnels.iter().map(tunnel).collect::<serde_json::Map<_, _>>(),
            "proxies": it.proxies.iter().map(proxy).collect::<Vec<_>>(),
        });
        if let Some(vip) = it.vip {
            status["public-address"] = format!("192.0.2.{vip}").into();
        }
        Some(read(json!({
            "metadata": {"name": format!("web-{at}"), "namespace": "epic-red", "generation": it.generation,
                         "uid": uid(at), "resourceVersion": "1",
                         "creationTimestamp": format!("2026-01-01T00:00:{:02}Z", it.age)},
            "spec": {"service-group": "shared", "public-ports": [{"port": 80, "protocol": "TCP"}]},
            "status": status,
        })))
    }

    fn endpoint(&self, at: usize) -> Option<Arc<Endpoint>> {
        let it = self.endpoints[at].as_ref()?;
        let mut object = json!({
            "metadata": {"name": format!("e{at}"), "namespace": "epic-red", "generation": 1},
            "spec": {"load-balancer": format!("web-{}", it.of), "address": format!("10.244.1.{}", it.address),
                     "port": {"port": 8080, "protocol": "TCP"}},
            "status": {"alias-address": format!("100.127.0.{at}")},
        });
        if let Some(n) = it.client {
            object["spec"]["node-address"] = client(n).into();
        }
        Some(read(object))
    }

    fn claim(&self, at: usize) -> Option<Arc<AddressClaim>> {
        let (of, address) = (self.claims[at]?, format!("192.0.2.{}", at + 1));
        // The last pool announces nothing, and holds none of them.
        let pool = ["edge", "edge", "gone", "quiet"][at];
        Some(read(json!({"metadata": {"name": address, "namespace": "epic"}, "spec": {
            "address": address, "pool": pool, "owner": {"kind": "LoadBalancer", "namespace": "epic-red",
            "name": format!("web-{of}"), "uid": uid(of), "resource-version": "1"}}})))
    }

    /// Nodes that run proxies.
    fn running(&self) -> BTreeSet<u16> {
        self.balancers.iter().flatten().flat_map(|it| &it.proxies).map(|n| n % 2 + 1).collect()
    }

    fn objects(&self) -> Objects {
        let pool = json!({"metadata": {"name": "edge", "namespace": "epic"},
                          "spec": {"addresses": ["192.0.2.0-192.0.2.3"], "advertise": {"l2": {}}}});
        let ready = json!({"type": "Ready", "status": "True", "reason": "Ready", "message": "",
                           "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let nodes = ["n1", "n2"];
        let pod = |n: u16| {
            let uid = format!("u{n}");
            read(json!({"metadata": {"name": format!("p{n}"), "namespace": "epic-red", "uid": uid},
                        "status": {"phase": "Running", "podIP": format!("10.245.0.{n}")}}))
        };
        Objects {
            load_balancers: (0..4).filter_map(|at| self.balancer(at)).collect(),
            endpoints: (0..6).filter_map(|at| self.endpoint(at)).collect(),
            accounts: vec![read(
                json!({"metadata": {"name": "red"}, "spec": {"client-networks": ["10.9.0.0/16"]},
                                       "status": {"namespace": "epic-red"}}),
            )],
            claims: (0..4).filter_map(|at| self.claim(at)).collect(),
            pools: vec![read(pool)],
            epic_nodes: nodes
                .map(|name| {
                    read(json!({"metadata": {"name": name, "namespace": "epic"}, "status": {
                        "addresses": [name.replace('n', "198.51.100.")], "conditions": [ready]}}))
                })
                .into(),
            nodes: nodes
                .map(|name| {
                    read(json!({"metadata": {"name": name},
                                "status": {"conditions": [{"type": "Ready", "status": "True"}]}}))
                })
                .into(),
            pods: (1..6).map(pod).collect(),
            ..Objects::default()
        }
    }

    fn decide(&self, keyring: &mut Keyring, previous: &BTreeSet<NodeName>) -> Decision {
        let place = Place {
            name: "n1".into(),
            link: Link { ifindex: 2, mtu: 1500, local: [198, 51, 100, 1].into() },
        };
        let veth = |n: u8| {
            let pod_ip = IpAddr::from([10, 245, 0, n]);
            let ifname = format!("veth{n}").into();
            let veth = Veth { ifindex: u32::from(n) + 10, ifname, pod_mac: [0; 6], host_mac: [0; 6], pod_ip };
            (pod_ip, vec![veth])
        };
        let veths = (1..6).map(veth).collect();
        Decision::new(&self.objects(), &place, keyring, &veths, previous, |vip, _| {
            vip.to_string() != "192.0.2.2"
        })
    }
}

fn step() -> impl Strategy<Value = Step> {
    let balancer = (
        1u16..5,
        prop::option::weighted(0.8, 1u8..4),
        prop::sample::subsequence(vec![1u16, 2, 3, 4], 0..3),
        prop::sample::subsequence(vec![1u16, 2, 3, 4, 5], 0..2),
        1i64..3,
        0u8..3,
    );
    let balancer = balancer.prop_map(|(ids, vip, tunnels, proxies, generation, age)| Balancer {
        ids,
        vip,
        tunnels,
        proxies,
        generation,
        age,
    });
    let behind = (0usize..4, prop::option::weighted(0.8, 1u16..4), 1u8..4);
    let behind = behind.prop_map(|(of, client, address)| Behind { of, client, address });
    prop_oneof![
        2 => (0usize..4, prop::option::weighted(0.8, balancer)).prop_map(|(at, it)| Step::Balancer(at, it)),
        3 => (0usize..6, prop::option::weighted(0.8, behind)).prop_map(|(at, it)| Step::Endpoint(at, it)),
        2 => (0usize..4, prop::option::weighted(0.8, 0usize..4)).prop_map(|(at, of)| Step::Claim(at, of)),
    ]
}

/// Rows by LoadBalancer.
fn by_name(rows: Rows) -> BTreeMap<ServiceName, ServiceRows> {
    rows.services.into_iter().map(|rows| (rows.service.name.clone(), rows)).collect()
}

/// Everything but the rows.
fn text(decision: &Decision) -> String {
    let desired = Desired { rows: Rows::default(), ..decision.desired().clone() };
    format!("{desired:#?}")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_decision_that_follows_changes_is_the_one_that_is_made_anew(
        steps in prop::collection::vec(prop::collection::vec(step(), 1..4), 1..16),
        distinct in any::<bool>(),
    ) {
        let mut keyring = Keyring::new(Master::new(&[7; 32]).unwrap());
        let mut world = World::default();
        let mut decision = world.decide(&mut keyring, &BTreeSet::new());
        let mut rows = by_name(decision.take_rows());
        for steps in steps {
            let before = world.clone();
            for step in steps {
                match step {
                    Step::Balancer(at, mut it) => {
                        if let Some(it) = it.as_mut().filter(|_| distinct) {
                            // None of its numbers is another's, so the decision is always followed.
                            let own = at as u16 + 1;
                            let proxy = it.proxies.first().map(|n| if n % 2 == 0 { own } else { own + 4 });
                            (it.ids, it.proxies) = (own, proxy.into_iter().collect());
                            it.vip = it.vip.map(|_| own as u8);
                            it.tunnels = it.tunnels.iter().map(|n| own * 10 + n).collect();
                        }
                        world.balancers[at] = it;
                    }
                    Step::Endpoint(at, it) => world.endpoints[at] = it,
                    Step::Claim(at, of) => world.claims[at] = of,
                }
            }
            let balancers: Vec<Change<LoadBalancer>> = (0..4)
                .filter(|at| before.balancers[*at] != world.balancers[*at])
                .map(|at| Change {
                    key: Key::namespaced("epic-red", format!("web-{at}")),
                    before: before.balancer(at),
                    after: world.balancer(at),
                })
                .collect();
            let endpoints: Vec<Change<Endpoint>> = (0..6)
                .filter(|at| before.endpoints[*at] != world.endpoints[*at])
                .map(|at| Change {
                    key: Key::namespaced("epic-red", format!("e{at}")),
                    before: before.endpoint(at),
                    after: world.endpoint(at),
                })
                .collect();
            let claims: Vec<Change<AddressClaim>> = (0..4)
                .filter(|at| before.claims[*at] != world.claims[*at])
                .map(|at| Change {
                    key: Key::namespaced("epic", format!("192.0.2.{}", at + 1)),
                    before: before.claim(at),
                    after: world.claim(at),
                })
                .collect();
            let changes = Changes { load_balancers: balancers, endpoints, claims };
            let find = |name: &ServiceName| {
                world.balancer(name.name().strip_prefix("web-")?.parse().ok()?)
            };
            let eligible = decision.desired().eligible.clone();
            let old = decision.desired().clone();
            let may_answer = |vip: IpAddr, _: &Claim| vip.to_string() != "192.0.2.2";
            let delta = decision.change(&changes, find, &mut keyring, may_answer);
            let alike = before.running() == world.running();
            prop_assert!(delta.is_some() || !distinct || !alike, "nothing is contested");
            prop_assert!(delta.is_none() || !decision.is_stale());
            let mut anew = world.decide(&mut keyring, &eligible);
            match delta {
                Some(delta) => {
                    // Whoever follows the decision goes by these.
                    let new = decision.desired();
                    prop_assert_eq!(delta.directory, new.directory != old.directory);
                    let addresses = |desired: &Desired| (desired.owned.clone(), desired.answering.clone());
                    prop_assert_eq!(delta.addresses, addresses(new) != addresses(&old));
                    let says = new.left_out.iter().flat_map(|(name, all)| all.iter().map(move |why| (name, why)));
                    let is_new = |(name, why): &(&ServiceName, &String)| {
                        !old.left_out.get(*name).is_some_and(|all| all.contains(why))
                    };
                    let said: Vec<&String> = says.filter(is_new).map(|(_, why)| why).collect();
                    prop_assert_eq!(delta.left_out.iter().collect::<Vec<_>>(), said);
                    for name in delta.gone {
                        rows.remove(&name);
                    }
                    rows.extend(delta.services.into_iter().map(|rows| (rows.service.name.clone(), rows)));
                    prop_assert_eq!(&rows, &by_name(anew.take_rows()));
                    prop_assert_eq!(text(&decision), text(&anew));
                }
                None => {
                    rows = by_name(anew.take_rows());
                    decision = anew;
                }
            }
        }
    }
}

#[test]
fn a_pod_that_is_a_tenant_s_for_being_listed_alone_needs_a_decision_about_everything() {
    let mut keyring = Keyring::new(Master::new(&[7; 32]).unwrap());
    let it = |proxies: &[u16]| Balancer {
        ids: 1,
        vip: None,
        tunnels: Vec::new(),
        proxies: proxies.to_vec(),
        generation: 1,
        age: 0,
    };
    let (mut before, mut after) = (World::default(), World::default());
    // Both nodes run proxies, before and after.
    before.balancers[1] = Some(Balancer { ids: 2, ..it(&[3, 4]) });
    before.balancers[0] = Some(it(&[]));
    (after.balancers, after.balancers[0]) = (before.balancers.clone(), Some(it(&[1])));
    for (tenant, follows) in [(true, true), (false, false)] {
        let mut objects = before.objects();
        if !tenant {
            objects.accounts.clear();
        }
        let place = Place {
            name: "n1".into(),
            link: Link { ifindex: 2, mtu: 1500, local: [198, 51, 100, 1].into() },
        };
        let (veths, none) = (BTreeMap::new(), BTreeSet::new());
        let mut decision = Decision::new(&objects, &place, &mut keyring, &veths, &none, |_, _| true);
        let change = Change {
            key: Key::namespaced("epic-red", "web-0"),
            before: before.balancer(0),
            after: after.balancer(0),
        };
        let changes = Changes { load_balancers: vec![change], ..Changes::default() };
        let delta = decision.change(&changes, |_| after.balancer(0), &mut keyring, |_, _| true);
        assert_eq!(delta.is_some(), follows, "its pod lies in the namespace of an Account: {tenant}");
        assert_eq!(decision.desired().listed.contains("u1"), follows);
    }
}
