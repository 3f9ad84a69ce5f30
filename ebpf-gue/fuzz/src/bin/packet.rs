//! A fuzz target: one packet, on hosts that know nothing of others. Run by `hack/fuzz`.

#![no_main]

use std::cell::RefCell;

use epic_fuzz::{
    mutate::{LONGEST, Mutator, Random},
    native::{Hosts, Packet},
};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

/// Long after the hosts' flows have begun.
const NOW: u64 = 1_000_000_000_000;

thread_local! {
    static HOSTS: RefCell<Hosts> = RefCell::default();
    static MUTATOR: Mutator = Mutator::new();
}

fuzz_target!(|bytes: &[u8]| {
    let Some(packet) = Packet::from_bytes(bytes) else { return };
    HOSTS.with_borrow_mut(|hosts| {
        hosts.forget();
        if let Err(what) = hosts.run(&packet, NOW) {
            panic!("{what}");
        }
    });
});

// Half of the changes are those of libFuzzer, who knows nothing of packets and all about what is compared.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut random = Random::new(seed.into());
    let Some(mut packet) = Packet::from_bytes(&data[..size]) else {
        return fuzzer_mutate(data, size, max_size);
    };
    if random.number() & 1 == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    packet.frame.truncate(LONGEST);
    MUTATOR.with(|mutator| mutator.alter(&mut random, &mut packet));
    let bytes = packet.to_bytes();
    let size = bytes.len().min(max_size);
    data[..size].copy_from_slice(&bytes[..size]);
    size
});
