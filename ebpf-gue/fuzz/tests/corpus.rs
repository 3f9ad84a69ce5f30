//! What becomes of every packet of the corpus, by name.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeSet;
use std::fmt::Write as _;

use epic_abi::{drop::DropReason, stats::Event};
use epic_core::Act;
use epic_fuzz::{
    corpus::{Entry, corpus},
    frame::TO_MAC,
    mutate::{Mutator, Random},
    native::{Host, Hosts, Packet, Program, ROUTES},
    oracle::judge,
};

/// Long after the hosts' flows have begun.
const NOW: u64 = 1_000_000_000_000;

fn host(program: Program) -> Host {
    if program.is_of_node() { Host::node(ROUTES) } else { Host::client(ROUTES) }
}

/// What becomes of a packet on a new host: what is done with it, the reason for which it is dropped, the events.
fn outcome(entry: &Entry) -> String {
    let mut host = host(entry.packet.program);
    let (act, drops) = host.run(&entry.packet, NOW);
    judge(&entry.packet, act, host.frame(), drops, ROUTES)
        .unwrap_or_else(|what| panic!("{}: {what}; {act:?}", entry.name));
    let mut text = match act {
        Act::Next | Act::Pass | Act::Drop => format!("{act:?}").to_lowercase(),
        Act::Peer(_) => "to the pod".to_owned(),
        Act::Neighbour(_) => "out".to_owned(),
        Act::Hop(_) => "out of nic".to_owned(),
        Act::Into(_) => "in".to_owned(),
        Act::Back(_) => "back".to_owned(),
    };
    for reason in DropReason::ALL.iter().filter(|reason| host.tables.drops(**reason) > 0) {
        write!(text, ", {}", reason.name()).unwrap();
    }
    for event in Event::ALL.iter().filter(|event| host.tables.events(**event) > 0) {
        write!(text, " +{}", event.name()).unwrap();
    }
    text
}

#[test]
fn what_becomes_of_every_packet_is_as_written_down() {
    let mut table = String::new();
    for program in Program::ALL {
        writeln!(table, "{program:?}").unwrap();
        for entry in corpus().iter().filter(|entry| entry.packet.program == program) {
            writeln!(table, "  {:<44}{}", entry.name, outcome(entry)).unwrap();
        }
    }
    insta::assert_snapshot!(table);
}

#[test]
fn every_name_is_there_once() {
    let names: Vec<_> = corpus().iter().map(|entry| entry.name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
}

#[test]
fn every_reason_and_event_is_met_but_those_that_no_packet_alone_can_bring_about() {
    let table: Vec<_> = corpus().iter().map(outcome).collect();
    let met = |name: &str| table.iter().any(|text| text.split([' ', ',', '+']).any(|word| word == name));
    let missing: Vec<_> =
        DropReason::ALL.iter().map(|reason| reason.name()).filter(|name| !met(name)).collect();
    assert_eq!(missing, ["not_configured"]);
    let missing: Vec<_> = Event::ALL.iter().map(|event| event.name()).filter(|name| !met(name)).collect();
    assert_eq!(missing, ["flow_capped"]);
}

#[test]
fn a_packet_is_the_bytes_that_a_fuzzer_sees() {
    for entry in corpus() {
        assert_eq!(Packet::from_bytes(&entry.packet.to_bytes()), Some(entry.packet));
    }
    let packets: Vec<_> = corpus().into_iter().map(|entry| entry.packet).collect();
    assert_eq!(Packet::sequence(&Packet::to_sequence(&packets)), packets);
}

#[test]
fn mutants_are_the_same_for_the_same_seed_and_many_get_through() {
    let mutator = Mutator::new();
    let mut hosts = Hosts::new();
    let mut packet = Packet::new(Program::Ingress, TO_MAC.to_vec());
    let mut again = packet.clone();
    let mut acts = std::collections::BTreeMap::new();
    for index in 0..40_000u64 {
        let program = Program::ALL[index as usize % 4];
        let name = mutator.mutate(&mut Random::of(1, index), program, &mut packet);
        assert_eq!(mutator.mutate(&mut Random::of(1, index), program, &mut again), name);
        assert_eq!(packet, again);
        let act = hosts.run(&packet, NOW).unwrap_or_else(|what| panic!("mutant {index} of {name}: {what}"));
        *acts.entry((program, act == Act::Drop)).or_insert(0) += 1;
    }
    for ((program, is_dropped), count) in &acts {
        assert!(*count > 1_000, "{program:?}: {count} of 10,000 are dropped ({is_dropped})");
    }
}
