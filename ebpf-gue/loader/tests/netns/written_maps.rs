//! The maps as their writers see them: the reconciler's trait in the kernel, and the text of a dump.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use epic_abi::gue::Key;
use epic_abi::maps::{
    Alias, AliasKey, CONFIG_KEY, Config, Endpoint, EndpointAliasKey, EndpointKey, FAMILY_V4, KeySlot, LbKeys,
    Listener, ListenerKey, LocalProxy, MAGLEV_SLOTS, Node, PROXY_DRAINING, Pass, PassKey, Proxy, REMOTE_NAT,
    Remote, Route, Service, ServiceKey, Side, SourceKey, SourceRange, SourceRangeKey, Tunnel, VIP_OWNED, Vip,
};
use epic_abi::{Ip, IpRange, Lb, PROTOCOL_TCP, PROTOCOL_UDP};
use epic_datapath::dump::{Extent, dump};
use epic_datapath::{BpfMaps, Datapath, Options, SourcePrefix};
use epic_lb::maglev::MaglevTable;
use epic_lb::maps::{MapError, MapId, MapKey, MapValue, Maps, Op};
use epic_testnet::Bpffs;

const LB: Lb = Lb { group: 3, service: 7 };

fn open(bpffs: &Bpffs, side: Side) -> Datapath {
    let mut options = Options::new(bpffs.path("epic"), side);
    options.max_entries =
        [("flows", 64), ("learned_proxies", 64), ("passes", 2)].map(|(k, v)| (k.to_owned(), v)).into();
    Datapath::open(&options).expect("open the data plane")
}

/// One operation, by itself.
fn apply(maps: &mut BpfMaps, key: &MapKey, value: Option<&MapValue>) -> Result<(), MapError> {
    let mut outcome = None;
    let op = Op { key: *key, value: value.cloned() };
    maps.apply(key.map() as usize, &[op], &mut |_, result| outcome = Some(result));
    outcome.expect("an operation has an outcome")
}

fn update(maps: &mut BpfMaps, key: &MapKey, value: &MapValue) -> Result<(), MapError> {
    apply(maps, key, Some(value))
}

fn delete(maps: &mut BpfMaps, key: &MapKey) {
    apply(maps, key, None).expect("a removal");
}

/// All entries of all maps of this side.
fn read(maps: &BpfMaps) -> Vec<(MapKey, MapValue)> {
    let mut entries = Vec::new();
    for map in 0..MapId::ALL.len() {
        maps.read(map, &mut |key, value| entries.push((key, value))).expect("a map to read");
    }
    entries
}

fn ip(text: &str) -> Ip {
    text.parse::<std::net::IpAddr>().expect("an address").into()
}

fn tunnel() -> Tunnel {
    Tunnel {
        lb: LB,
        ifindex: 2,
        mtu: 1500,
        generation: 4,
        key: Key([0xAB; 16]),
        local: ip("192.0.2.1"),
        ..Tunnel::default()
    }
}

fn keys() -> LbKeys {
    let slot = |generation| KeySlot { generation, key: Key([0xCD; 16]) };
    LbKeys {
        data: [slot(5), slot(3), slot(4)],
        node: [slot(4), slot(5), KeySlot::default()],
        node_current: 0,
    }
}

fn pass(port: u16) -> PassKey {
    PassKey { lb: Lb::default(), address: ip("10.96.0.7"), port, protocol: PROTOCOL_TCP, _reserved: 0 }
}

/// One entry of every map that an EPIC node's reconciler writes.
fn node_entries() -> Vec<(MapKey, MapValue)> {
    let mut slots = vec![1; MAGLEV_SLOTS as usize];
    slots[0] = 2;
    let here = Proxy { lb: LB, ifindex: 9, pod_v4: ip("10.244.1.7"), ..Proxy::default() };
    let there = Proxy { lb: LB, flags: PROXY_DRAINING, node: ip("192.0.2.2"), ..Proxy::default() };
    let local = LocalProxy {
        proxy: 1,
        lb: LB,
        pod_v4: ip("10.244.1.7"),
        address_v4: ip("100.64.0.1"),
        ..LocalProxy::default()
    };
    let back = EndpointAliasKey {
        tunnel: 11,
        address: ip("10.0.0.5"),
        port: 8080,
        protocol: PROTOCOL_TCP,
        _reserved: 0,
    };
    let alias = Alias { tunnel: 11, port: 8080, protocol: PROTOCOL_TCP, flags: 0, address: ip("10.0.0.5") };
    let listener = ListenerKey { lb: LB, port: 10_000, protocol: PROTOCOL_TCP, family: FAMILY_V4 };
    let public = Listener { address: ip("192.0.2.80"), port: 80, flags: 0 };
    let service = ServiceKey { address: ip("192.0.2.80"), port: 80, protocol: PROTOCOL_TCP, _reserved: 0 };
    vec![
        (MapKey::TunnelStats(11), MapValue::TunnelStats),
        (MapKey::Node(ip("192.0.2.2")), MapValue::Node(Node::default())),
        (MapKey::Tunnel(11), MapValue::Tunnel(tunnel())),
        (MapKey::Keys(LB), MapValue::Keys(keys())),
        (MapKey::EndpointAlias(back), MapValue::EndpointAlias(ip("100.127.0.1"))),
        (MapKey::Proxy(1), MapValue::Proxy(here)),
        (MapKey::Proxy(2), MapValue::Proxy(there)),
        (MapKey::LocalProxy(9), MapValue::LocalProxy(local)),
        (MapKey::Alias(AliasKey { lb: LB, address: ip("100.127.0.1") }), MapValue::Alias(alias)),
        (MapKey::Pass(pass(18_000)), MapValue::Pass(Pass::default())),
        (MapKey::Maglev(LB), MapValue::Maglev(MaglevTable::new(slots).into())),
        (MapKey::Listener(listener), MapValue::Listener(public)),
        (
            MapKey::Service(service),
            MapValue::Service(Service {
                lb: LB,
                listener_port: 10_000,
                source_ranges: 1,
                ..Service::default()
            }),
        ),
        (MapKey::Vip(ip("192.0.2.80")), MapValue::Vip(Vip { flags: VIP_OWNED })),
        (MapKey::Vip(ip("2001:db8::80")), MapValue::Vip(Vip { flags: 0 })),
    ]
}

/// One entry of every map that a client's reconciler writes.
fn client_entries() -> Vec<(MapKey, MapValue)> {
    let endpoint =
        EndpointKey { lb: LB, address: ip("10.0.0.5"), port: 53, protocol: PROTOCOL_UDP, _reserved: 0 };
    vec![
        (MapKey::TunnelStats(11), MapValue::TunnelStats),
        (MapKey::Node(ip("192.0.2.1")), MapValue::Node(Node::default())),
        (MapKey::Tunnel(11), MapValue::Tunnel(tunnel())),
        (MapKey::Keys(LB), MapValue::Keys(LbKeys { data: keys().data, ..LbKeys::default() })),
        (MapKey::Route(ip("100.64.0.1")), MapValue::Route(Route { tunnel: 11, lb: LB })),
        (MapKey::Endpoint(endpoint), MapValue::Endpoint(Endpoint::default())),
    ]
}

#[test]
fn what_is_written_is_read_back_and_what_is_deleted_is_gone() {
    for (side, entries) in [(Side::Node, node_entries()), (Side::Client, client_entries())] {
        let bpffs = Bpffs::new();
        let datapath = open(&bpffs, side);
        let mut maps = BpfMaps::new(Arc::clone(datapath.maps()));
        assert!(read(&maps).is_empty());
        for _ in 0..2 {
            for (key, value) in &entries {
                update(&mut maps, key, value).unwrap();
            }
        }
        let mut found = read(&maps);
        found.sort_by_key(|(key, _)| *key);
        let mut expected = entries.clone();
        expected.sort_by_key(|(key, _)| *key);
        assert_eq!(found, expected);
        for _ in 0..2 {
            for (key, _) in entries.iter().rev() {
                delete(&mut maps, key);
            }
        }
        assert!(read(&maps).is_empty());
    }
}

#[test]
fn entries_are_counted_as_they_are_read() {
    for (side, entries) in [(Side::Node, node_entries()), (Side::Client, client_entries())] {
        let bpffs = Bpffs::new();
        let datapath = open(&bpffs, side);
        let mut maps = BpfMaps::new(Arc::clone(datapath.maps()));
        assert!(maps.usage().unwrap().into_values().all(|usage| usage.entries == 0 && usage.capacity > 0));
        for (key, value) in &entries {
            update(&mut maps, key, value).unwrap();
        }
        let mut counted: BTreeMap<MapId, usize> = BTreeMap::new();
        for (key, _) in read(&maps) {
            *counted.entry(key.map()).or_default() += 1;
        }
        let usage = maps.usage().unwrap().into_iter().map(|(map, usage)| (map, usage.entries));
        assert_eq!(usage.collect::<BTreeMap<_, _>>(), counted);
    }
}

#[test]
fn a_full_map_says_so_and_keeps_what_it_has() {
    let bpffs = Bpffs::new();
    let datapath = open(&bpffs, Side::Node);
    let mut maps = BpfMaps::new(Arc::clone(datapath.maps()));
    let value = MapValue::Pass(Pass::default());
    update(&mut maps, &MapKey::Pass(pass(1)), &value).unwrap();
    update(&mut maps, &MapKey::Pass(pass(2)), &value).unwrap();
    assert_eq!(update(&mut maps, &MapKey::Pass(pass(3)), &value), Err(MapError::Full));
    assert_eq!(read(&maps).len(), 2);
}

#[test]
fn counters_survive_repeated_writes_and_a_large_map_is_read_whole() {
    let bpffs = Bpffs::new();
    let datapath = open(&bpffs, Side::Node);
    let mut maps = BpfMaps::new(Arc::clone(datapath.maps()));
    let begun = std::time::Instant::now();
    for id in 1..=20_000 {
        update(&mut maps, &MapKey::Tunnel(id), &MapValue::Tunnel(tunnel())).unwrap();
    }
    let written = begun.elapsed();
    assert_eq!(read(&maps).len(), 20_000);
    assert!(written < std::time::Duration::from_secs(5), "20,000 writes took {written:?}");
}

#[test]
fn a_tunnel_that_goes_takes_its_learned_end_with_it() {
    let bpffs = Bpffs::new();
    let datapath = open(&bpffs, Side::Node);
    let mut maps = BpfMaps::new(Arc::clone(datapath.maps()));
    let kernel = datapath.maps();
    for (id, flags, port) in [(11, 0, 0), (12, REMOTE_NAT, 40_001)] {
        update(&mut maps, &MapKey::Tunnel(id), &MapValue::Tunnel(tunnel())).unwrap();
        let address = ip("198.51.100.9");
        let remote =
            Remote { address, port: if port == 0 { 6080 } else { port }, flags, ..Remote::default() };
        kernel.remotes.set(&id, &remote).unwrap();
        kernel.sources.set(&SourceKey { address, port, _reserved: 0, lb: LB }, &id).unwrap();
    }
    delete(&mut maps, &MapKey::Tunnel(11));
    assert_eq!(kernel.remotes.entries().unwrap().into_keys().collect::<Vec<_>>(), [12]);
    assert_eq!(kernel.sources.entries().unwrap().into_values().collect::<Vec<_>>(), [12]);
    delete(&mut maps, &MapKey::Tunnel(12));
    assert!(kernel.sources.entries().unwrap().is_empty());
}

#[test]
fn a_dump_says_everything_but_keys() {
    let bpffs = Bpffs::new();
    let datapath = open(&bpffs, Side::Node);
    let mut maps = BpfMaps::new(Arc::clone(datapath.maps()));
    for (key, value) in node_entries() {
        update(&mut maps, &key, &value).unwrap();
    }
    let kernel = datapath.maps();
    let config = Config {
        gue_port: 6080,
        ops_port: 9901,
        public_ifindex: 2,
        underlay_ifindex: 2,
        underlay_mtu: 1500,
        maglev_seed: 7,
        mac: [2, 0, 0, 0, 0, 0x11],
        proxies_v4: IpRange::new(ip("100.64.0.0"), 11),
        aliases_v4: IpRange::new(ip("100.127.0.0"), 16),
        underlay: ip("192.0.2.1"),
        ..Config::default()
    };
    kernel.config.set(&CONFIG_KEY, &config).unwrap();
    let remote = Remote { address: ip("198.51.100.9"), port: 40_001, flags: REMOTE_NAT, ..Remote::default() };
    kernel.remotes.set(&11, &remote).unwrap();
    let network = SourcePrefix {
        bits: 32 + 96 + 24,
        key: SourceRangeKey { set: 1, address: Ip::from(Ipv4Addr::new(203, 0, 113, 0)) },
    };
    kernel.source_ranges.set(&network, &SourceRange::default()).unwrap();

    let text = dump(kernel, Extent { flows: true, counters: true }).unwrap();
    assert_eq!(text, EXPECTED);
    assert!(
        !text.to_lowercase().contains("cdcd") && !text.to_lowercase().contains("abab"),
        "no key is shown"
    );
}

const EXPECTED: &str = "\
layout 1 node
config gue-port=6080 ops-port=9901 public-ifindex=2 underlay-ifindex=2 underlay-mtu=1500 underlay=192.0.2.1 \
device-ifindex=0 mac=02:00:00:00:00:11 new-flows=0/s learned=0s
range proxies 100.64.0.0/11
range aliases 100.127.0.0/16
node 192.0.2.2
keys 3/7 data=3,4,5 node=4,5 node-sends=4
tunnel 11 lb=3/7 ifindex=2 mtu=1500 generation=4 local=192.0.2.1
remote 11 198.51.100.9:40001 fixed-ports
vip 192.0.2.80 owned
vip 2001:db8::80
service 192.0.2.80:80/tcp lb=3/7 listener=10000 source-ranges=1 affinity=0s
source-range 1 203.0.113.0/24
maglev 3/7 1:2038 2:1
proxy 1 lb=3/7 ifindex=9 pod=10.244.1.7
proxy 2 lb=3/7 node=192.0.2.2 draining
local-proxy ifindex=9 proxy=1 lb=3/7 pod=10.244.1.7 address=100.64.0.1
listener lb=3/7 ipv4 10000/tcp vip=192.0.2.80:80
alias lb=3/7 100.127.0.1 tunnel=11 endpoint=10.0.0.5:8080/tcp
endpoint-alias tunnel=11 10.0.0.5:8080/tcp alias=100.127.0.1
pass lb=0/0 10.96.0.7:18000/tcp
traffic tunnel=11 sent=0/0B received=0/0B
";
