//! What may happen: random transactions, and readers who come, look and go.

use std::fmt::Debug;

use epic_store::{Since, Watched};
use proptest::prelude::*;

use crate::support::{Address, Backend, BackendKey, Service, backend, service};

/// Names of services, places of backends, and ids of nodes are below these.
pub(super) const SERVICES: u8 = 6;
pub(super) const PLACES: u8 = 4;
pub(super) const NODES: u32 = 40;
pub(super) const SOURCES: [&str; 2] = ["file", "kubernetes"];

/// What a compare-and-swap expects.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expected {
    Stored,
    Absent,
    Older,
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Service(Service),
    ServiceIf(Service, Expected),
    RemoveService(u8),
    RemoveServiceIf(u8, Expected),
    Backend(Backend),
    RemoveBackend(BackendKey),
    Nodes { from: u32, count: u32, value: u64 },
    RemoveNodes { from: u32, count: u32 },
    Complete(usize),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    Service(Watched<u8>),
    Backend(Watched<BackendKey>),
    Node(Watched<u32>),
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Write { ops: Vec<Op>, commit: bool },
    Register(usize),
    Abandon(usize),
    Iterate { table: u8, since: Since },
    Poll(usize),
    StopIterating(usize),
    Watch(Wanted),
    Look(usize),
    StopWatching(usize),
    Keep,
}

fn services() -> impl Strategy<Value = Service> {
    let ports = prop::collection::vec(80u16..83, 0..4);
    (0..SERVICES, prop::option::weighted(0.7, 0..4u8), ports, 0..2u8)
        .prop_map(|(name, id, ports, zone)| service(name, id, &ports, zone))
}

fn places() -> impl Strategy<Value = BackendKey> {
    (0..SERVICES, 0..PLACES).prop_map(|(service, place)| BackendKey { service, place })
}

fn backends() -> impl Strategy<Value = Backend> {
    (places(), 0..2u8, 0..3u8).prop_map(|(key, weight, host)| Backend {
        address: Address { net: host / 2, host },
        ..backend(key.service, key.place, weight)
    })
}

fn expected() -> impl Strategy<Value = Expected> {
    prop_oneof![4 => Just(Expected::Stored), 1 => Just(Expected::Absent), 1 => Just(Expected::Older)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => services().prop_map(Op::Service),
        3 => (services(), expected()).prop_map(|(row, expected)| Op::ServiceIf(row, expected)),
        2 => (0..SERVICES).prop_map(Op::RemoveService),
        1 => (0..SERVICES, expected()).prop_map(|(name, expected)| Op::RemoveServiceIf(name, expected)),
        5 => backends().prop_map(Op::Backend),
        3 => places().prop_map(Op::RemoveBackend),
        2 => (0..NODES, 1..NODES, 0..3u64).prop_map(|(from, count, value)| Op::Nodes { from, count, value }),
        1 => (0..NODES, 1..NODES).prop_map(|(from, count)| Op::RemoveNodes { from, count }),
        1 => (0..8usize).prop_map(Op::Complete),
    ]
}

fn watched<K: Copy + Ord + Debug>(
    keys: impl Strategy<Value = K> + Clone,
) -> impl Strategy<Value = Watched<K>> {
    prop_oneof![
        2 => keys.clone().prop_map(Watched::Key),
        2 => (keys.clone(), keys).prop_map(|(first, last)| Watched::Range(first, last)),
        1 => Just(Watched::Table),
    ]
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let places = (0..SERVICES, 0..PLACES).prop_map(|(service, place)| BackendKey { service, place }).boxed();
    prop_oneof![
        watched(0..SERVICES).prop_map(Wanted::Service),
        watched(places).prop_map(Wanted::Backend),
        watched(0..NODES).prop_map(Wanted::Node),
    ]
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let since = prop_oneof![Just(Since::Start), Just(Since::Now)];
    let step = prop_oneof![
        10 => (prop::collection::vec(op(), 0..6), prop::bool::weighted(0.8))
            .prop_map(|(ops, commit)| Step::Write { ops, commit }),
        1 => (0..SOURCES.len()).prop_map(Step::Register),
        1 => (0..8usize).prop_map(Step::Abandon),
        1 => (0..3u8, since).prop_map(|(table, since)| Step::Iterate { table, since }),
        4 => (0..8usize).prop_map(Step::Poll),
        1 => (0..8usize).prop_map(Step::StopIterating),
        3 => wanted().prop_map(Step::Watch),
        6 => (0..8usize).prop_map(Step::Look),
        1 => (0..8usize).prop_map(Step::StopWatching),
        1 => Just(Step::Keep),
    ];
    prop::collection::vec(step, 1..40)
}
