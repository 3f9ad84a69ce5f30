//! The object in the kernel, and running its programs.
//!
//! Beside it stand tables with the same entries. Every packet that a test runs goes through `epic-core` over bytes and these
//! tables as well, and must end alike: same verdict, same frame, same counters.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, HashOfMaps, MapData, PerCpuArray, PerCpuHashMap},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use epic_abi::{
    Ip, Lb,
    drop::DropReason,
    maps::{MAGLEV_SLOTS, Side, TunnelStats},
    stats::Event,
};
use epic_core::{Act, Bytes, Tables, Way};
use epic_datapath::Program;
use epic_fuzz::{
    native::{self, Packet},
    scene::Put,
};

pub(crate) use epic_fuzz::scene::{IFINDEX, Routes};

/// TCX_NEXT.
pub(crate) const NEXT: i32 = -1;
/// TC_ACT_OK.
pub(crate) const PASS: i32 = 0;
/// TC_ACT_SHOT.
pub(crate) const DROP: i32 = 2;
/// TC_ACT_REDIRECT.
pub(crate) const REDIRECT: i32 = 7;

/// Offsets in `__sk_buff` and its size.
const SKB_LEN: usize = 192;
const SKB_IFINDEX: usize = 40;
const SKB_GSO_SEGS: usize = 164;
const SKB_GSO_SIZE: usize = 176;

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) verdict: i32,
    pub(crate) frame: Vec<u8>,
}

impl Outcome {
    /// How another outcome differs from this one.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        if self == other {
            return None;
        }
        let at = self.frame.iter().zip(&other.frame).position(|(one, other)| one != other);
        let verdicts = (self.verdict, other.verdict);
        let lengths = (self.frame.len(), other.frame.len());
        Some(format!("verdicts {verdicts:?}, lengths {lengths:?}, first different byte {at:?}"))
    }
}

/// The programs of one side and all maps, loaded for one test.
pub(crate) struct Kernel {
    object: Ebpf,
    /// The same entries, unless the object is another one than that of these sources.
    tables: Option<RefCell<Tables>>,
    /// The routing table, where it is known.
    pub(crate) routes: Option<Routes>,
}

impl Kernel {
    pub(crate) fn load(side: Side) -> Self {
        Self { tables: Some(RefCell::default()), ..Self::load_object(side, epic_datapath::object_bytes()) }
    }

    /// Without tables, and with more room for what packets teach than `entries` of them can fill: none goes before its time.
    pub(crate) fn load_alone(side: Side, entries: u32) -> Self {
        Self::load_sized(side, epic_datapath::object_bytes(), [entries * 4; 2])
    }

    /// Another object with the same maps.
    pub(crate) fn load_object(side: Side, bytes: &[u8]) -> Self {
        Self::load_sized(side, bytes, [1024, 64])
    }

    fn load_sized(side: Side, bytes: &[u8], [flows, learned]: [u32; 2]) -> Self {
        epic_testnet::require_root();
        let mut object = EbpfLoader::new()
            .btf(None)
            .map_max_entries("flows", flows)
            .map_max_entries("learned_proxies", learned)
            .load(bytes)
            .expect("the object of `make bpf` loads; run the tests as root on a kernel of 6.6 or newer");
        for program in Program::ALL.into_iter().filter(|program| program.side() == side) {
            let program: &mut SchedClassifier =
                object.program_mut(program.name()).expect("the object has all programs").try_into().unwrap();
            program.load().expect("the verifier accepts the program");
        }
        Self { object, tables: None, routes: None }
    }

    /// A program of the object.
    pub(crate) fn program(&self, program: Program) -> &SchedClassifier {
        self.object.program(program.name()).unwrap().try_into().unwrap()
    }

    /// Runs `program` on `frame`.
    pub(crate) fn run(&self, program: Program, frame: &[u8]) -> Outcome {
        self.run_segmented(program, frame, 0)
    }

    /// `__sk_buff` of a packet that comes in by an interface, as a super-packet of segments of `gso_size` bytes (0: none).
    pub(crate) fn context(ifindex: u32, gso_size: u32) -> [u8; SKB_LEN] {
        let mut context = [0u8; SKB_LEN];
        let mut put = |at: usize, value: u32| context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        put(SKB_IFINDEX, ifindex);
        put(SKB_GSO_SIZE, gso_size);
        put(SKB_GSO_SEGS, if gso_size == 0 { 0 } else { 2 });
        context
    }

    /// Runs `program` on `frame` as a super-packet of segments of `gso_size` bytes (0: none).
    pub(crate) fn run_segmented(&self, program: Program, frame: &[u8], gso_size: u32) -> Outcome {
        let outcome = self.run_in_kernel(program, frame, gso_size);
        if let Some((native, true)) = self.run_natively(program, frame, gso_size)
            && let Some(difference) = outcome.difference(&native)
        {
            panic!("{} in the kernel and beside it: {difference}; the frame: {frame:02x?}", program.name());
        }
        outcome
    }

    /// The same packet through the core over bytes and tables, if it has the same entries, and whether the outcome can be compared:
    /// not where it hangs on routes that are not known.
    fn run_natively(&self, program: Program, frame: &[u8], segment: u32) -> Option<(Outcome, bool)> {
        let tables = self.tables.as_ref()?.borrow();
        let is_known = Rc::new(Cell::new(true));
        let (known, routes) = (Rc::clone(&is_known), self.routes);
        let route = move |[_, destination]: [Ip; 2], _, _| {
            known.set(known.get() && routes.is_some());
            routes.map_or(Way::Inside, |routes| routes.way(destination))
        };
        let bytes = Bytes::new(frame.to_vec(), IFINDEX);
        let mut bytes =
            Bytes { segment, is_rigid: segment != 0, now: monotonic(), route: Rc::new(route), ..bytes };
        let program = match program {
            Program::Ingress => native::Program::Ingress,
            Program::FromProxy => native::Program::FromPod,
            Program::ClientIngress => native::Program::ClientIngress,
            Program::ClientEgress => native::Program::ClientEgress,
        };
        let verdict = verdict(program.run(&mut bytes, &tables));
        Some((Outcome { verdict, frame: bytes.bytes }, is_known.get()))
    }

    fn run_in_kernel(&self, program: Program, frame: &[u8], gso_size: u32) -> Outcome {
        let program = self.program(program);
        let context = Self::context(IFINDEX, gso_size);
        let mut out = vec![0; frame.len() + 256];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        };
        let result = program.test_run(options).expect("the kernel runs the program");
        out.truncate(result.data_size_out as usize);
        Outcome { verdict: result.return_value as i32, frame: out }
    }

    /// Runs the packet in the kernel, which leaves the frame in `frame`.
    pub(crate) fn run_packet(&self, packet: &Packet, routes: Routes, frame: &mut Vec<u8>) -> i32 {
        let program = self.program(match packet.program {
            native::Program::Ingress => Program::Ingress,
            native::Program::FromPod => Program::FromProxy,
            native::Program::ClientIngress => Program::ClientIngress,
            native::Program::ClientEgress => Program::ClientEgress,
        });
        let context = Self::context(packet.ifindex(routes), packet.segment);
        // No tunnel's headers are longer.
        frame.resize(packet.frame.len() + 64, 0);
        let options = TestRunOptions {
            data_in: Some(&packet.frame),
            data_out: Some(frame),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        };
        let result = program.test_run(options);
        let result =
            result.unwrap_or_else(|error| panic!("the kernel runs no such packet: {error}; {packet:?}"));
        frame.truncate(result.data_size_out as usize);
        result.return_value as i32
    }

    pub(crate) fn set<K: Pod, V: Pod>(&mut self, name: &str, key: K, value: V) {
        let mut map: HashMap<_, K, V> = self.object.map_mut(name).expect(name).try_into().unwrap();
        map.insert(key, value, 0).unwrap();
        if let Some(tables) = &mut self.tables {
            Put::put(tables.get_mut(), name, key, value);
        }
    }

    pub(crate) fn get<K: Pod, V: Pod>(&self, map: &str, key: K) -> Option<V> {
        let map: HashMap<_, K, V> = self.object.map(map).expect(map).try_into().unwrap();
        map.get(&key, 0).ok()
    }

    pub(crate) fn remove<K: Pod, V: Pod>(&mut self, name: &str, key: K) {
        let mut map: HashMap<_, K, V> = self.object.map_mut(name).expect(name).try_into().unwrap();
        map.remove(&key).unwrap();
        if let Some(tables) = &mut self.tables {
            tables.get_mut().remove(name, epic_fuzz::scene::bytes_of(&key));
        }
    }

    /// Puts a Maglev table in place that has nothing but these proxies, in turn.
    pub(crate) fn set_maglev(&mut self, lb: Lb, proxies: &[u32]) {
        let mut table = Array::<MapData, u32>::create(MAGLEV_SLOTS, 0).unwrap();
        for (slot, proxy) in (0..MAGLEV_SLOTS).zip(proxies.iter().cycle()) {
            table.set(slot, proxy, 0).unwrap();
        }
        let mut map: HashOfMaps<_, Lb, Array<MapData, u32>> =
            self.object.map_mut("maglev").unwrap().try_into().unwrap();
        map.insert(lb, &table, 0).unwrap();
        if let Some(tables) = &mut self.tables {
            tables.get_mut().put_maglev(lb, proxies);
        }
    }

    /// Admits a network to a set of source ranges.
    pub(crate) fn admit(&mut self, set: u32, address: Ip, prefix: u32) {
        if let Some(tables) = &mut self.tables {
            tables.get_mut().admit(set, address, prefix);
        }
        let map = self.object.map_mut("source_ranges").unwrap();
        let mut map: aya::maps::LpmTrie<_, [u32; 5], u32> = map.try_into().unwrap();
        let [a, b, c, d] = address.words;
        let bits = 32 + 96 + prefix;
        map.insert(&aya::maps::lpm_trie::Key::new(bits, [set, a, b, c, d]), 0, 0).unwrap();
    }

    /// The entries of a HASH map.
    pub(crate) fn entries<K: Pod + Ord, V: Pod>(&self, map: &str) -> BTreeMap<K, V> {
        let map: HashMap<_, K, V> = self.object.map(map).expect(map).try_into().unwrap();
        map.iter().map(Result::unwrap).collect()
    }

    fn counters(&self, map: &str, len: u32) -> Vec<u64> {
        let map: PerCpuArray<_, u64> = self.object.map(map).unwrap().try_into().unwrap();
        (0..len).map(|index| map.get(&index, 0).unwrap().iter().sum()).collect()
    }

    /// Every reason that packets were dropped for, with their number.
    pub(crate) fn drops(&self) -> BTreeMap<DropReason, u64> {
        let counters = self.counters("drops", DropReason::ALL.len() as u32);
        DropReason::ALL.iter().copied().zip(counters).filter(|(_, count)| *count > 0).collect()
    }

    /// Fails unless the core has counted the same.
    pub(crate) fn assert_counted_alike(&self) {
        if let Some(tables) = &self.tables {
            self.assert_counted_as(&tables.borrow());
        }
    }

    /// Fails unless these tables have the same counts.
    pub(crate) fn assert_counted_as(&self, tables: &Tables) {
        let reasons = DropReason::ALL.iter().map(|reason| (*reason, tables.drops(*reason)));
        assert_eq!(
            self.drops(),
            reasons.filter(|(_, count)| *count > 0).collect(),
            "drops in the kernel, and beside it"
        );
        let events = Event::ALL.iter().map(|event| (*event, tables.events(*event)));
        assert_eq!(
            self.events(),
            events.filter(|(_, count)| *count > 0).collect(),
            "events in the kernel, and beside it"
        );
    }

    /// Every event that was counted, with its number.
    pub(crate) fn events(&self) -> BTreeMap<Event, u64> {
        let counters = self.counters("stats", Event::ALL.len() as u32);
        Event::ALL.iter().copied().zip(counters).filter(|(_, count)| *count > 0).collect()
    }

    /// Makes the counters of a tunnel.
    pub(crate) fn count_tunnel(&mut self, tunnel: u32) {
        let cpus = aya::util::nr_cpus().unwrap();
        let zero = aya::maps::PerCpuValues::try_from(vec![TunnelStats::default(); cpus]).unwrap();
        let mut map: PerCpuHashMap<_, u32, TunnelStats> =
            self.object.map_mut("tunnel_stats").unwrap().try_into().unwrap();
        map.insert(tunnel, zero, 0).unwrap();
        if let Some(tables) = &mut self.tables {
            tables.get_mut().count_tunnel(tunnel);
        }
    }

    /// What a tunnel has counted.
    pub(crate) fn tunnel_stats(&self, tunnel: u32) -> TunnelStats {
        let map: PerCpuHashMap<_, u32, TunnelStats> =
            self.object.map("tunnel_stats").unwrap().try_into().unwrap();
        let values = map.get(&tunnel, 0).unwrap();
        let sum = values.iter().fold(TunnelStats::default(), |sum, value| TunnelStats {
            tx_packets: sum.tx_packets + value.tx_packets,
            tx_bytes: sum.tx_bytes + value.tx_bytes,
            rx_packets: sum.rx_packets + value.rx_packets,
            rx_bytes: sum.rx_bytes + value.rx_bytes,
        });
        if let Some(tables) = &self.tables {
            assert_eq!(tables.borrow().tunnel_counts(tunnel), Some(sum), "what the core has counted");
        }
        sum
    }

    /// Runs the program and says what was counted because of it: the only drop there may be.
    pub(crate) fn dropped(&self, program: Program, frame: &[u8]) -> DropReason {
        let before = self.drops();
        let outcome = self.run(program, frame);
        assert_eq!(outcome.verdict, DROP, "the packet is dropped");
        let mut new = self.drops();
        new.retain(|reason, count| *count != before.get(reason).copied().unwrap_or(0));
        self.assert_counted_alike();
        assert_eq!(new.len(), 1, "one reason is counted: {new:?}");
        *new.first_key_value().unwrap().0
    }
}

impl Put for Kernel {
    fn put<K: Pod, V: Pod>(&mut self, map: &str, key: K, value: V) {
        self.set(map, key, value);
    }

    fn put_maglev(&mut self, lb: Lb, proxies: &[u32]) {
        self.set_maglev(lb, proxies);
    }

    fn count_tunnel(&mut self, tunnel: u32) {
        Self::count_tunnel(self, tunnel);
    }

    fn admit(&mut self, set: u32, address: Ip, prefix: u32) {
        Self::admit(self, set, address, prefix);
    }
}

/// The answer of a program that does this.
pub(crate) fn verdict(act: Act) -> i32 {
    match act {
        Act::Next => NEXT,
        Act::Pass => PASS,
        Act::Drop => DROP,
        Act::Peer(_) | Act::Neighbour(_) | Act::Hop(_) | Act::Into(_) | Act::Back(_) => REDIRECT,
    }
}

/// Nanoseconds of CLOCK_MONOTONIC, which programs see.
pub(crate) fn monotonic() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place for the answer.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) }, 0);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
