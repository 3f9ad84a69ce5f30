//! Packets that nobody thought of, in the kernel and beside it: mutants of the corpus must end alike.
//!
//! Verdict and bytes of each are compared, and counters, flows and learned proxies after each batch. What
//! goes on is judged as well ([`epic_fuzz::oracle`]): two programs that are alike may both be wrong.
//!
//! `EPIC_PACKETS` says how many (`make test-full`: more), `EPIC_SEED` another seed. A mutant hangs on the seed, its program and
//! its number alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Instant,
};

use epic_abi::{
    Ip,
    drop::DropReason,
    maps::{Flow, FlowKey, LearnedProxy, Side},
    stats::Event,
};
use epic_fuzz::{
    mutate::{Mutator, Random},
    native::{Host, Packet, Program},
    oracle::judge,
    scene::Routes,
};

use crate::{
    kernel::{Kernel, monotonic, verdict},
    scene,
};

/// Packets, unless `EPIC_PACKETS` says another number.
const PACKETS: u64 = 1_000_000;
/// Of a hundred packets so many are for each program.
const SHARES: [u64; 4] = [40, 30, 15, 15];
/// Packets after which everything is compared and what they have taught forgotten.
const BATCH: u64 = 20_000;
const SEED: u64 = 0x0E91_C0DE;

fn asked(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// A host in the kernel, and the same host beside it.
struct Pair {
    kernel: Kernel,
    beside: Host,
    /// For packets that the kernel cannot make.
    alone: Host,
    routes: Routes,
    frame: Vec<u8>,
}

impl Pair {
    fn new(side: Side, routes: Routes) -> Self {
        let mut kernel = Kernel::load_alone(side, BATCH as u32);
        let host = match side {
            Side::Node => Host::node,
            _ => Host::client,
        };
        match side {
            Side::Node => scene::busy_node(&mut kernel),
            _ => scene::busy_client(&mut kernel),
        }
        Self { kernel, beside: host(routes), alone: host(routes), routes, frame: Vec::new() }
    }

    /// Runs the packet here and there; an error says how the ends differ, or what must not be.
    fn run(&mut self, packet: &Packet) -> Result<(), String> {
        let Self { kernel, beside, alone, routes, frame } = self;
        let is_compared = packet.can_be_made();
        let host = if is_compared { beside } else { alone };
        let (act, drops) = host.run(packet, monotonic());
        judge(packet, act, host.frame(), drops, *routes).map_err(|what| format!("{what} ({act:?})"))?;
        if !is_compared {
            return Ok(());
        }
        let said = kernel.run_packet(packet, *routes, frame);
        if said != verdict(act) {
            return Err(format!("the kernel says {said}, beside it is {act:?}"));
        }
        if frame != host.frame() {
            let (frame, other) = (&**frame, host.frame());
            let at = frame.iter().zip(other).position(|(one, other)| one != other);
            let lengths = (frame.len(), other.len());
            return Err(format!(
                "the frames differ: lengths {lengths:?}, first different byte {at:?} ({act:?})"
            ));
        }
        Ok(())
    }

    /// Compares everything that packets have changed, and forgets what they have taught.
    fn settle(&mut self) {
        self.kernel.assert_counted_as(&self.beside.tables);
        let flows: BTreeMap<FlowKey, Flow> = self.kernel.entries("flows");
        let learned: BTreeMap<Ip, LearnedProxy> = self.kernel.entries("learned_proxies");
        // Times differ.
        let mine: BTreeMap<_, _> = flows.iter().map(|(key, flow)| (*key, (flow.proxy, flow.lb))).collect();
        let other = self.beside.tables.all_flows();
        assert_eq!(mine, other.iter().map(|(key, flow)| (*key, (flow.proxy, flow.lb))).collect(), "flows");
        let mine: BTreeMap<_, _> =
            learned.iter().map(|(ip, proxy)| (*ip, (proxy.tunnel, proxy.lb))).collect();
        let other = self.beside.tables.all_learned();
        assert_eq!(
            mine,
            other.iter().map(|(ip, proxy)| (*ip, (proxy.tunnel, proxy.lb))).collect(),
            "learned"
        );
        for key in flows.into_keys() {
            self.kernel.remove::<_, Flow>("flows", key);
        }
        for address in learned.into_keys() {
            self.kernel.remove::<_, LearnedProxy>("learned_proxies", address);
        }
        self.beside.forget();
        self.alone.forget();
        if self.beside.is_node() {
            scene::busy_flows(&mut self.kernel);
        }
    }
}

/// Runs batches `first`, `first + step`, … of a program.
fn run_batches(pair: &mut Pair, program: Program, [seed, packets, first, step]: [u64; 4]) {
    let mutator = Mutator::new();
    let mut packet = Packet::new(program, Vec::new());
    scene::configure(&mut pair.kernel, program, pair.routes);
    for batch in (first..packets.div_ceil(BATCH)).step_by(step as usize) {
        for index in batch * BATCH..packets.min((batch + 1) * BATCH) {
            let mut random = Random::of(seed ^ ((program as u64 + 1) << 56), index);
            let name = mutator.mutate(&mut random, program, &mut packet);
            if let Err(what) = pair.run(&packet) {
                panic!("mutant {index} of {name}, EPIC_SEED={seed}: {what}; {packet:?}");
            }
        }
        pair.settle();
    }
}

#[test]
fn mutated_packets_end_alike_in_the_kernel_and_beside_it() {
    let (packets, seed) = (asked("EPIC_PACKETS", PACKETS), asked("EPIC_SEED", SEED));
    let shards = thread::available_parallelism().map_or(1, usize::from) as u64;
    scene::in_netns(|routes| {
        thread::scope(|scope| {
            let shards: Vec<_> = (0..shards)
                .map(|shard| {
                    scope.spawn(move || {
                        let started = Instant::now();
                        let mut pairs = [Pair::new(Side::Node, routes), Pair::new(Side::Client, routes)];
                        let loaded = started.elapsed();
                        for (program, share) in Program::ALL.into_iter().zip(SHARES) {
                            let pair = &mut pairs[usize::from(!program.is_of_node())];
                            run_batches(pair, program, [seed, packets * share / 100, shard, shards]);
                        }
                        println!(
                            "shard {shard}: loaded in {loaded:.1?}, ran for {:.1?}",
                            started.elapsed() - loaded
                        );
                        pairs.map(|pair| pair.kernel).iter().flat_map(met).collect::<BTreeSet<_>>()
                    })
                })
                .collect();
            let met: BTreeSet<_> = shards
                .into_iter()
                .flat_map(|shard| shard.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect();
            // Nobody learns anything from mutants that all end early.
            if packets >= PACKETS {
                let all = DropReason::ALL.iter().map(|reason| reason.name());
                let all = all.chain(Event::ALL.iter().map(|event| event.name()));
                let missing: Vec<_> = all.filter(|name| !met.contains(name)).collect();
                assert_eq!(missing, ["not_configured", "flow_capped"], "what no packet alone brings about");
            }
        });
    });
}

/// The names of everything that was counted.
fn met(kernel: &Kernel) -> Vec<&'static str> {
    let reasons = kernel.drops().into_keys().map(DropReason::name);
    reasons.chain(kernel.events().into_keys().map(Event::name)).collect()
}
