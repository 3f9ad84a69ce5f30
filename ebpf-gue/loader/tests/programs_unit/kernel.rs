//! The object in the kernel, and running its programs.

use std::collections::BTreeMap;

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, HashOfMaps, MapData, PerCpuArray, PerCpuHashMap},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use epic_abi::{
    Lb,
    drop::DropReason,
    maps::{MAGLEV_SLOTS, Side, TunnelStats},
    stats::Event,
};
use epic_datapath::Program;

/// The interface every packet comes in by: the kernel takes the loopback device of the namespace.
pub(crate) const IFINDEX: u32 = 1;
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

/// The programs of one side and all maps, loaded for one test.
pub(crate) struct Kernel {
    object: Ebpf,
}

impl Kernel {
    pub(crate) fn load(side: Side) -> Self {
        Self::load_object(side, epic_datapath::object_bytes())
    }

    /// Another object with the same maps.
    pub(crate) fn load_object(side: Side, bytes: &[u8]) -> Self {
        epic_testnet::require_root();
        let mut object = EbpfLoader::new()
            .btf(None)
            .map_max_entries("flows", 1024)
            .map_max_entries("learned_proxies", 64)
            .load(bytes)
            .expect("the object of `make bpf` loads; run the tests as root on a kernel of 6.6 or newer");
        for program in Program::ALL.into_iter().filter(|program| program.side() == side) {
            let program: &mut SchedClassifier =
                object.program_mut(program.name()).expect("the object has all programs").try_into().unwrap();
            program.load().expect("the verifier accepts the program");
        }
        Self { object }
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

    pub(crate) fn set<K: Pod, V: Pod>(&mut self, map: &str, key: K, value: V) {
        let mut map: HashMap<_, K, V> = self.object.map_mut(map).expect(map).try_into().unwrap();
        map.insert(key, value, 0).unwrap();
    }

    pub(crate) fn get<K: Pod, V: Pod>(&self, map: &str, key: K) -> Option<V> {
        let map: HashMap<_, K, V> = self.object.map(map).expect(map).try_into().unwrap();
        map.get(&key, 0).ok()
    }

    pub(crate) fn remove<K: Pod, V: Pod>(&mut self, map: &str, key: K) {
        let mut map: HashMap<_, K, V> = self.object.map_mut(map).expect(map).try_into().unwrap();
        map.remove(&key).unwrap();
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
    }

    /// Admits a network to a set of source ranges.
    pub(crate) fn admit(&mut self, set: u32, address: epic_abi::Ip, prefix: u32) {
        let map = self.object.map_mut("source_ranges").unwrap();
        let mut map: aya::maps::LpmTrie<_, [u32; 5], u32> = map.try_into().unwrap();
        let [a, b, c, d] = address.words;
        map.insert(&aya::maps::lpm_trie::Key::new(32 + 96 + prefix, [set, a, b, c, d]), 0, 0).unwrap();
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
    }

    /// What a tunnel has counted.
    pub(crate) fn tunnel_stats(&self, tunnel: u32) -> TunnelStats {
        let map: PerCpuHashMap<_, u32, TunnelStats> =
            self.object.map("tunnel_stats").unwrap().try_into().unwrap();
        let values = map.get(&tunnel, 0).unwrap();
        values.iter().fold(TunnelStats::default(), |sum, value| TunnelStats {
            tx_packets: sum.tx_packets + value.tx_packets,
            tx_bytes: sum.tx_bytes + value.tx_bytes,
            rx_packets: sum.rx_packets + value.rx_packets,
            rx_bytes: sum.rx_bytes + value.rx_bytes,
        })
    }

    /// Runs the program and says what was counted because of it: the only drop there may be.
    pub(crate) fn dropped(&self, program: Program, frame: &[u8]) -> DropReason {
        let before = self.drops();
        let outcome = self.run(program, frame);
        assert_eq!(outcome.verdict, DROP, "the packet is dropped");
        let mut new = self.drops();
        new.retain(|reason, count| *count != before.get(reason).copied().unwrap_or(0));
        assert_eq!(new.len(), 1, "one reason is counted: {new:?}");
        *new.first_key_value().unwrap().0
    }
}
