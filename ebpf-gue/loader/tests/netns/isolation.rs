//! Tenants with the same addresses, and endpoints with addresses that mean something else elsewhere.

use std::net::Ipv4Addr;

use epic_abi::drop::DropReason;
use epic_abi::maps::{Pass, PassKey};
use epic_abi::{Lb, PROTOCOL_TCP};

use crate::support::program::{Epic, SERVICE, alias_address, all_drops, drops};
use crate::support::scene::{Plan, Scene};
use crate::support::traffic::{endpoint, request, requests};

const SECOND: Lb = Lb { group: 2, service: 1 };

fn second_tenant() -> Plan {
    Plan {
        lb: SECOND,
        vip: Ipv4Addr::new(192, 168, 77, 3),
        owner: 1,
        proxies: vec![(11, 0, 17), (12, 1, 18)],
        // Equal to the first tenant's in id, alias and address.
        endpoints: vec![(1, 1, Ipv4Addr::new(10, 244, 1, 5))],
    }
}

#[test]
fn two_tenants_with_equal_endpoint_addresses_never_meet() {
    let mut epic = Epic::new();
    let first = Scene::start(&mut epic, &Plan::simple().with_proxies(&[(1, 0, 7), (3, 1, 9)]));
    let second = Scene::start(&mut epic, &second_tenant());
    std::thread::scope(|scope| {
        for (tenant, name) in [(&first.tenant, "1e1"), (&second.tenant, "2e1")] {
            let internet = &epic.site.internet;
            scope.spawn(move || {
                for answer in requests(internet, tenant.public(), 150, 10, 3_000) {
                    assert_eq!(answer.expect("an answer").name, name);
                }
            });
        }
    });
}

#[test]
fn an_endpoint_may_have_the_address_of_a_proxy_pod_of_the_gateway_or_of_its_own_node() {
    let mut epic = Epic::new();
    // T1: equal to the proxy pod's own address. T2: equal to the gateway of the pod network on both sides, and the
    // client node's own address (host network).
    let plan = Plan::simple().with_endpoints(&[(1, 0, [10, 244, 1, 7])]);
    let mut scene = Scene::start(&mut epic, &plan);
    let answer = request(&epic.site.internet, scene.tenant.public(), 1, 500).unwrap();
    assert_eq!(answer.name, "1e1");

    for (id, address, name) in
        [(2u16, Ipv4Addr::new(10, 244, 1, 1), "gateway"), (3, epic.site.clients[0].address, "host")]
    {
        scene.tenant.endpoints.push(crate::support::program::EndpointAt {
            id,
            client: 0,
            address,
            port: SERVICE + id,
        });
        scene.endpoints.push(endpoint(&epic.site.clients[0].netns, SERVICE + id, name));
    }
    epic.add(&scene.tenant);
    for (id, name) in [(2u16, "gateway"), (3, "host")] {
        let alias = (alias_address(id), SERVICE + id).into();
        let answer = request(&scene.proxy_pods[0].netns, alias, 1, 500)
            .unwrap_or_else(|error| panic!("{name}: {error}; {:?}", all_drops(&epic.clients[0])));
        assert_eq!(answer.name, name);
    }
}

#[test]
fn a_proxy_reaches_its_own_endpoints_and_nothing_else() {
    let mut epic = Epic::new();
    let first = Scene::start(&mut epic, &Plan::simple());
    let second = Scene::start(&mut epic, &second_tenant());
    let pod = &first.proxy_pods[0].netns;
    let node = &epic.nodes[0];
    let refused = |to: (Ipv4Addr, u16), reason: DropReason, what: &str| {
        let before = drops(node, reason);
        let result = pod
            .run(|| std::net::TcpStream::connect_timeout(&to.into(), std::time::Duration::from_millis(400)));
        assert!(result.is_err(), "{what} must not be reached");
        assert!(drops(node, reason) > before, "{what}: counted as {}: {:?}", reason.name(), all_drops(node));
    };
    refused((alias_address(1), SERVICE + 1), DropReason::UnknownAlias, "another port of the endpoint");
    refused((alias_address(9), SERVICE), DropReason::UnknownAlias, "an alias that nobody has");
    refused((second.proxy_pods[0].address, 10_000), DropReason::ProxyNotAllowed, "another tenant's proxy");
    refused((epic.site.nodes[0].address, 10_250), DropReason::ProxyNotAllowed, "the node");
    refused((epic.site.clients[0].address, SERVICE), DropReason::ProxyNotAllowed, "a client node");
    refused((crate::support::lab::INTERNET, 80), DropReason::ProxyNotAllowed, "the internet");
}

#[test]
fn a_pod_is_fenced_from_the_moment_the_program_hangs_and_works_once_it_is_listed() {
    let mut epic = Epic::new();
    let scene = Scene::start(&mut epic, &Plan::simple());
    let (node, host) = (&epic.nodes[0], &epic.site.nodes[0]);
    // As after the discovery of a pod that no LoadBalancer lists yet: its program, xDS, and no entry of its own.
    let pod = &scene.proxy_pods[0];
    node.maps().local_proxies.remove(&pod.ifindex).unwrap();
    let xds = PassKey {
        lb: Lb::default(),
        address: host.address.into(),
        port: 18_000,
        protocol: PROTOCOL_TCP,
        _reserved: 0,
    };
    node.maps().passes.set(&xds, &Pass::default()).unwrap();
    let _xds = endpoint(&host.netns, 18_000, "xds");
    let _kubelet = endpoint(&host.netns, 10_250, "kubelet");
    let _ops = endpoint(&pod.netns, 9_901, "ready");
    assert_eq!(request(&pod.netns, (host.address, 18_000).into(), 1, 100).unwrap().name, "xds");
    assert_eq!(request(&host.netns, (pod.address, 9_901).into(), 1, 100).unwrap().name, "ready");
    let before = drops(node, DropReason::NotListed);
    for to in [(host.address, 10_250), (alias_address(1), SERVICE)] {
        let result = pod
            .netns
            .run(|| std::net::TcpStream::connect_timeout(&to.into(), std::time::Duration::from_millis(400)));
        assert!(result.is_err(), "{to:?} must not be reached");
    }
    assert!(drops(node, DropReason::NotListed) >= before + 2, "{:?}", all_drops(node));

    epic.add(&scene.tenant);
    assert_eq!(request(&epic.site.internet, scene.tenant.public(), 1, 100).unwrap().name, "1e1");
}
