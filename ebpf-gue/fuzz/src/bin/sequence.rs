//! A fuzz target: several packets one after the other, each second later than the one before, on hosts that
//! learn from them. Run by `hack/fuzz`.

#![no_main]

use std::cell::RefCell;

use epic_fuzz::{
    mutate::{LONGEST, Mutator, Random},
    native::{Hosts, Packet},
};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

/// Long after the hosts' flows have begun.
const BEGIN: u64 = 1_000_000_000_000;
const SECOND: u64 = 1_000_000_000;

thread_local! {
    static HOSTS: RefCell<Hosts> = RefCell::default();
    static MUTATOR: Mutator = Mutator::new();
}

fuzz_target!(|bytes: &[u8]| {
    HOSTS.with_borrow_mut(|hosts| {
        hosts.forget();
        for (packet, second) in Packet::sequence(bytes).iter().zip(0..) {
            if let Err(what) = hosts.run(packet, BEGIN + second * SECOND) {
                panic!("packet {second}: {what}");
            }
        }
    });
});

// Half of the changes are those of libFuzzer; the others are of one packet, or of their order.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut random = Random::new(seed.into());
    let mut packets = Packet::sequence(&data[..size]);
    if packets.is_empty() || random.number() & 1 == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let (one, other) = (random.below(packets.len()), random.below(packets.len()));
    match random.below(8) {
        0 => packets.swap(one, other),
        1 => packets.insert(one, packets[other].clone()),
        _ => {
            packets[one].frame.truncate(LONGEST);
            MUTATOR.with(|mutator| mutator.alter(&mut random, &mut packets[one]));
        }
    }
    let bytes = Packet::to_sequence(&packets);
    let size = bytes.len().min(max_size);
    data[..size].copy_from_slice(&bytes[..size]);
    size
});
