//! Caller and responder against each other over a network that loses, replays and translates.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use epic_abi::Lb;
use epic_abi::hello::{Kind, Status, decode};
use epic_abi::keys::CookieSecret;
use epic_abi::maps::{REMOTE_FIXED_PORT, REMOTE_NAT, Remote, SourceKey};
use epic_crds::SourcePorts;
use imbl::OrdSet;

use super::caller::{Caller, EAGER, FIRST, PERIOD, Reached, Wanted};
use super::responder::{Directory, Learned, Outcome, Protected, Refusal, Responder, Tunnel};
use super::silence::Silence;
use super::{Nanos, Outgoing, SECOND};

/// Every tunnel of these tests belongs to a LoadBalancer of its own, as the tunnels of one client to one node do.
fn lb(tunnel: u32) -> Lb {
    Lb::new(1, u16::try_from(tunnel).unwrap())
}

const KEY: [u8; 32] = [7; 32];
const START: Nanos = 1_000 * SECOND;
/// Enough for the next regular hello to be due.
const LATER: Nanos = PERIOD + SECOND;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn epic() -> SocketAddr {
    address("192.168.77.11:6080")
}

fn inside() -> SocketAddr {
    address("10.0.0.5:6080")
}

fn responder(tunnels: &[u32]) -> Responder {
    let mut responder = Responder::new(CookieSecret::new([9; 32]));
    set_directory(&mut responder, directory(tunnels));
    responder
}

/// Makes this the directory of the responder; the sources of tunnels that were heard and are not in it.
fn set_directory(responder: &mut Responder, directory: Directory) -> Vec<(u32, SourceKey)> {
    let held = responder.directory().tunnels.keys().chain(responder.heard().keys());
    let gone: BTreeSet<u32> = held.filter(|id| !directory.tunnels.contains_key(*id)).copied().collect();
    directory.tunnels.iter().for_each(|(id, tunnel)| responder.put(*id, tunnel.clone()));
    responder.protect(directory.protected);
    gone.into_iter().filter_map(|id| Some((id, responder.remove(id)?))).collect()
}

fn directory(tunnels: &[u32]) -> Directory {
    let tunnel = |id| Tunnel { lb: lb(id), keys: Arc::new([(1, KEY)].into()), client_networks: None };
    Directory {
        tunnels: tunnels.iter().map(|id| (*id, tunnel(*id))).collect(),
        source_ports: SourcePorts::Fixed,
        protected: Protected {
            hosts: OrdSet::unit(address("203.0.113.1:0").ip()),
            networks: vec!["192.168.77.0/24".parse().unwrap()],
        },
    }
}

fn caller(session: u64, tunnels: &[u32]) -> Caller {
    let mut caller = Caller::new(session);
    caller.set_wanted(tunnels.iter().map(|id| (*id, wanted(*id, KEY))).collect());
    caller
}

fn wanted(tunnel: u32, key: [u8; 32]) -> Wanted {
    Wanted {
        lb: lb(tunnel),
        node: epic(),
        local: inside(),
        generation: 1,
        key,
        source_ports: SourcePorts::Fixed,
    }
}

/// Lets the caller speak from `from` until nobody has anything to say; returns what both sides learned.
fn converse(
    caller: &mut Caller,
    responder: &mut Responder,
    from: SocketAddr,
    mut now: Nanos,
) -> (Vec<Learned>, Vec<Reached>) {
    let (mut learned, mut reached) = (Vec::new(), Vec::new());
    let mut messages = caller.poll(now);
    while let Some(message) = messages.pop() {
        let outcome = responder.receive(from, &message.bytes, now);
        learned.extend(outcome.learned);
        if let Some(answer) = outcome.answer {
            assert!(answer.bytes.len() <= message.bytes.len(), "the responder must not amplify");
            assert_eq!(answer.to, from);
            now += SECOND / 100;
            let (more, up) = caller.receive(epic(), &answer.bytes, now);
            messages.extend(more);
            reached.extend(up);
        }
    }
    (learned, reached)
}

/// The hello that carries a good cookie, as an eavesdropper could record it.
fn good_hello(caller: &mut Caller, responder: &mut Responder, from: SocketAddr, now: Nanos) -> Outgoing {
    converse(caller, responder, from, now);
    caller.poll(now + LATER).remove(0)
}

#[test]
fn a_tunnel_is_learned_once_the_cookie_came_back() {
    let (mut caller, mut responder) = (caller(1, &[4, 5]), responder(&[4, 5]));
    let (learned, reached) = converse(&mut caller, &mut responder, inside(), START);
    assert_eq!(learned.iter().map(|l| l.tunnel).collect::<Vec<_>>(), [4, 5]);
    assert!(
        learned
            .iter()
            .all(|l| l.remote.flags == REMOTE_FIXED_PORT && l.source.port == 0 && l.replaced.is_none())
    );
    assert_eq!(reached.iter().map(|r| r.tunnel).collect::<Vec<_>>(), [4, 5]);
    assert!(caller.states().values().all(|s| s.is_up(START) && s.round_trip_micros == 10_000));
}

#[test]
fn a_hello_without_the_cookie_moves_nothing() {
    let (mut caller, mut responder) = (caller(1, &[4]), responder(&[4]));
    let hello = caller.poll(START).remove(0);
    let outcome = responder.receive(inside(), &hello.bytes, START);
    assert_eq!(outcome.refused, [Refusal::Cookie]);
    assert!(outcome.learned.is_empty() && responder.heard().is_empty());
    let challenge = outcome.answer.unwrap();
    assert_eq!(decode(&challenge.bytes).unwrap().header.kind, Kind::Challenge);
}

#[test]
fn a_recorded_hello_sent_from_elsewhere_is_challenged() {
    let (mut caller, mut responder) = (caller(1, &[4]), responder(&[4]));
    let hello = good_hello(&mut caller, &mut responder, inside(), START);
    let outcome = responder.receive(address("203.0.113.66:6080"), &hello.bytes, START + LATER);
    assert_eq!(outcome.refused, [Refusal::Cookie]);
    assert_eq!(responder.heard()[&4].remote, inside());
}

#[test]
fn a_hello_played_back_from_an_address_left_behind_moves_nothing() {
    let (mut caller, mut responder) = (caller(1, &[4]), responder(&[4]));
    let recorded = good_hello(&mut caller, &mut responder, inside(), START);
    responder.receive(inside(), &recorded.bytes, START + LATER);
    let moved = address("10.0.9.9:6080");
    let (learned, _) = converse(&mut caller, &mut responder, moved, START + 2 * LATER);
    assert_eq!(learned.len(), 1, "roaming is learned");
    assert_eq!(learned[0].replaced.map(|s| s.address), Some(epic_abi::Ip::from(inside().ip())));
    let outcome = responder.receive(inside(), &recorded.bytes, START + 2 * LATER + 1);
    assert_eq!(outcome.refused, [Refusal::Replayed]);
    assert_eq!(responder.heard()[&4].remote, moved);
}

#[test]
fn a_hello_of_an_earlier_session_moves_nothing_once_a_later_one_spoke() {
    let (mut first, mut responder) = (caller(1, &[4]), responder(&[4]));
    let recorded = good_hello(&mut first, &mut responder, inside(), START);
    let moved = address("10.0.9.9:6080");
    converse(&mut caller(2, &[4]), &mut responder, moved, START + SECOND);
    let outcome = responder.receive(inside(), &recorded.bytes, START + LATER);
    assert_eq!(outcome.refused, [Refusal::Replayed]);
    assert_eq!(responder.heard()[&4].remote, moved);
}

#[test]
fn a_client_behind_a_nat_gets_fixed_ports() {
    let (mut caller, mut responder) = (caller(1, &[4]), responder(&[4]));
    let outside = address("198.51.100.7:41234");
    let (learned, reached) = converse(&mut caller, &mut responder, outside, START);
    assert_eq!((learned[0].remote.flags, learned[0].remote.port), (REMOTE_NAT, 41234));
    assert_eq!(learned[0].source.port, 41234);
    assert_eq!((reached[0].remote.flags, reached[0].source.port), (REMOTE_NAT, 6080));
    let (learned, _) = converse(&mut caller, &mut responder, address("198.51.100.7:50000"), START + LATER);
    assert_eq!(learned[0].replaced.map(|s| s.port), Some(41234), "a remapped port replaces the old one");
}

#[test]
fn a_wrong_key_is_refused_and_named() {
    let mut caller = Caller::new(1);
    caller.set_wanted(BTreeMap::from([(4, wanted(4, [8; 32]))]));
    let mut responder = responder(&[4]);
    let (learned, reached) = converse(&mut caller, &mut responder, inside(), START);
    assert!(learned.is_empty() && reached.is_empty());
    assert_eq!(caller.states()[&4].refusal, Some(Status::WrongMac));
}

#[test]
fn a_client_cannot_call_from_a_protected_address_or_from_outside_its_networks() {
    let elsewhere: Arc<[ipnet::IpNet]> = [ipnet::IpNet::V4("172.16.0.0/12".parse().unwrap())].into();
    for (from, networks) in
        [("192.168.77.2:6080", None), ("203.0.113.1:6080", None), ("10.0.0.5:6080", Some(elsewhere))]
    {
        let (mut caller, mut responder) = (caller(1, &[4]), responder(&[4]));
        let mut directory = directory(&[4]);
        directory.tunnels.get_mut(&4).unwrap().client_networks = networks;
        set_directory(&mut responder, directory);
        let (learned, _) = converse(&mut caller, &mut responder, address(from), START);
        assert!(learned.is_empty());
        assert_eq!(caller.states()[&4].refusal, Some(Status::AddressRefused));
    }
}

#[test]
fn an_address_of_a_live_tunnel_cannot_be_taken_but_a_silent_ones_can() {
    let mut directory = directory(&[4, 5]);
    directory.tunnels.get_mut(&5).unwrap().lb = lb(4);
    let mut responder = responder(&[]);
    set_directory(&mut responder, directory);
    converse(&mut caller(1, &[4]), &mut responder, inside(), START);
    let mut other = caller(2, &[5]);
    let (learned, _) = converse(&mut other, &mut responder, inside(), START + SECOND);
    assert!(learned.is_empty());
    assert_eq!(other.states()[&5].refusal, Some(Status::AddressTaken));
    let (learned, _) = converse(&mut other, &mut responder, inside(), START + 60 * SECOND);
    assert_eq!(learned.len(), 1);
}

#[test]
fn an_address_that_a_tunnel_left_is_free_at_once() {
    let mut directory = directory(&[4, 5]);
    directory.tunnels.get_mut(&5).unwrap().lb = lb(4);
    let mut responder = responder(&[]);
    set_directory(&mut responder, directory.clone());
    let (mut first, mut other) = (caller(1, &[4]), caller(2, &[5]));
    converse(&mut first, &mut responder, inside(), START);
    converse(&mut first, &mut responder, address("10.0.0.6:6080"), START + LATER);
    let (learned, _) = converse(&mut other, &mut responder, inside(), START + LATER);
    assert_eq!(learned.len(), 1, "it moved on");

    directory.tunnels.remove(&5);
    set_directory(&mut responder, directory);
    let (learned, _) = converse(&mut first, &mut responder, inside(), START + 2 * LATER);
    assert_eq!(learned.len(), 1, "the other one's tunnel went");
}

#[test]
fn a_silent_tunnel_is_down_and_its_remote_stays() {
    let (mut caller, mut responder) = (caller(1, &[4]), responder(&[4]));
    converse(&mut caller, &mut responder, inside(), START);
    let later = START + 60 * SECOND;
    assert!(!responder.heard()[&4].is_up(later) && !caller.states()[&4].is_up(later));
    assert_eq!(responder.heard()[&4].remote, inside());
}

#[test]
fn both_sides_send_from_the_ports_they_are_told_and_say_it_again_when_told_otherwise() {
    let (mut caller, mut responder) = (caller(1, &[4]), responder(&[4]));
    let mut now = START;
    for (ports, flags) in [
        (SourcePorts::Fixed, REMOTE_FIXED_PORT),
        (SourcePorts::Flow, 0),
        (SourcePorts::Fixed, REMOTE_FIXED_PORT),
    ] {
        responder.send_from(ports);
        caller.set_wanted([(4, Wanted { source_ports: ports, ..wanted(4, KEY) })].into());
        let (learned, reached) = converse(&mut caller, &mut responder, inside(), now);
        assert_eq!(learned.iter().map(|l| (l.remote.flags, l.source.port)).collect::<Vec<_>>(), [(flags, 0)]);
        assert_eq!(reached.iter().map(|r| (r.remote.flags, r.source.port)).collect::<Vec<_>>(), [(flags, 0)]);
        now += LATER;
        let (learned, reached) = converse(&mut caller, &mut responder, inside(), now);
        assert_eq!((learned.len(), reached.len()), (0, 0), "once");
        now += LATER;
    }
}

#[test]
fn what_an_earlier_version_sent_from_other_ports_is_learned_again() {
    let (mut caller, mut first) = (caller(1, &[4]), responder(&[4]));
    let (learned, _) = converse(&mut caller, &mut first, inside(), START);
    let mut second = Responder::new(CookieSecret::new([3; 32]));
    second.adopt(4, lb(4), &Remote { flags: 0, ..learned[0].remote });
    set_directory(&mut second, directory(&[4]));
    let (learned, _) = converse(&mut caller, &mut second, inside(), START + LATER);
    assert_eq!(learned.iter().map(|l| l.remote.flags).collect::<Vec<_>>(), [REMOTE_FIXED_PORT]);
}

/// No tunnel.
const NONE: [u32; 0] = [];

/// Looks this often at a responder, and has it forget what was found silent.
fn look(
    silence: &mut Silence,
    responder: &mut Responder,
    looks: usize,
    now: Nanos,
    mut packets: impl FnMut() -> Option<u64>,
) -> Vec<u32> {
    let mut forgotten = Vec::new();
    for _ in 0..looks {
        for id in silence.look(responder.heard(), now, |_| packets()) {
            forgotten.extend(responder.forget(id).map(|_| id));
        }
    }
    forgotten
}

#[test]
fn the_remote_of_a_tunnel_that_stays_silent_is_forgotten_and_learned_again() {
    let (mut caller, mut responder, mut silence) = (caller(1, &[4]), responder(&[4]), Silence::default());
    converse(&mut caller, &mut responder, inside(), START);
    assert_eq!(look(&mut silence, &mut responder, 100, START + SECOND, || Some(0)), NONE, "it is up");
    let down = START + 60 * SECOND;
    assert_eq!(look(&mut silence, &mut responder, 6, down, || Some(0)), NONE, "not at once");
    assert_eq!(look(&mut silence, &mut responder, 100, down, || Some(0)), [4], "once");
    assert!(!responder.heard()[&4].is_up(down));
    let (learned, _) = converse(&mut caller, &mut responder, inside(), down);
    assert_eq!(learned.len(), 1, "the same place is news again");
    assert!(responder.heard()[&4].is_up(down) && !responder.heard()[&4].is_forgotten());
}

#[test]
fn old_hellos_of_a_forgotten_tunnel_stay_old_and_its_address_is_free() {
    let (mut first, mut responder, mut silence) = (caller(1, &[4]), responder(&[4]), Silence::default());
    let recorded = good_hello(&mut first, &mut responder, inside(), START);
    responder.receive(inside(), &recorded.bytes, START + LATER);
    let down = START + LATER + 30 * SECOND;
    assert_eq!(look(&mut silence, &mut responder, 7, down, || Some(0)), [4]);
    let replayed = responder.receive(inside(), &recorded.bytes, down);
    assert_eq!(
        (replayed.refused, replayed.learned.len()),
        (vec![Refusal::Replayed], 0),
        "its cookie is good"
    );
    let mut other = caller(2, &[5]);
    set_directory(&mut responder, directory(&[4, 5]));
    let (learned, _) = converse(&mut other, &mut responder, inside(), down);
    assert_eq!(learned.len(), 1, "the address is free");
    assert!(responder.heard()[&4].is_forgotten());
}

#[test]
fn packets_that_pass_hold_a_remote_and_so_does_not_knowing() {
    let (mut caller, mut responder, mut silence) = (caller(1, &[4]), responder(&[4]), Silence::default());
    converse(&mut caller, &mut responder, inside(), START);
    let down = START + 60 * SECOND;
    let mut packets = 0;
    let mut more = || {
        packets += 1;
        Some(packets / 5)
    };
    assert_eq!(look(&mut silence, &mut responder, 200, down, &mut more), NONE, "a packet in fifty seconds");
    assert_eq!(look(&mut silence, &mut responder, 200, down, || None), NONE, "counters that cannot be read");
    for _ in 0..50 {
        assert_eq!(look(&mut silence, &mut responder, 6, down, || Some(9)), NONE);
        silence.begin();
    }
    assert_eq!(
        look(&mut silence, &mut responder, 6, down + 3_600 * SECOND, || Some(9)),
        NONE,
        "no time is counted"
    );
}

#[test]
fn a_restarted_responder_keeps_remotes_and_challenges_without_moving_them() {
    let (mut caller, mut first) = (caller(1, &[4]), responder(&[4]));
    let (learned, _) = converse(&mut caller, &mut first, inside(), START);
    let mut second = Responder::new(CookieSecret::new([3; 32]));
    second.adopt(4, lb(4), &learned[0].remote);
    set_directory(&mut second, directory(&[4]));
    assert_eq!(second.heard()[&4].remote, inside());
    let (learned, _) = converse(&mut caller, &mut second, inside(), START + LATER);
    assert!(learned.is_empty(), "the same place is nothing new");
    assert!(second.heard()[&4].is_up(START + LATER));
}

#[test]
fn a_tunnel_that_leaves_the_directory_takes_its_remote_along() {
    let (mut caller, mut responder) = (caller(1, &[4, 5]), responder(&[4, 5]));
    converse(&mut caller, &mut responder, inside(), START);
    let gone = set_directory(&mut responder, directory(&[5]));
    assert_eq!(gone.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [4]);
    assert_eq!(responder.heard().keys().copied().collect::<Vec<_>>(), [5]);
}

#[test]
fn an_answer_from_a_stranger_or_for_another_session_is_nothing() {
    let (mut victim, mut responder) = (caller(1, &[4]), responder(&[4]));
    let Outcome { answer, .. } = responder.receive(inside(), &victim.poll(START).remove(0).bytes, START);
    let challenge = answer.unwrap();
    assert_eq!(victim.receive(address("203.0.113.66:6080"), &challenge.bytes, START), (vec![], vec![]));
    let mut other = caller(2, &[4]);
    other.poll(START);
    assert_eq!(other.receive(epic(), &challenge.bytes, START), (vec![], vec![]));
    assert_eq!(victim.receive(epic(), &challenge.bytes, START).0.len(), 1, "the right one is answered");
}

#[test]
fn garbage_is_refused_at_every_length() {
    let (mut caller, mut responder) = (caller(1, &[4]), responder(&[4]));
    let hello = good_hello(&mut caller, &mut responder, inside(), START);
    for length in 0..hello.bytes.len() {
        let outcome = responder.receive(inside(), &hello.bytes[..length], START + LATER);
        assert_eq!(outcome.refused, [Refusal::Malformed]);
        assert!(outcome.answer.is_none());
    }
}

#[test]
fn many_tunnels_share_few_messages() {
    let ids: Vec<u32> = (1..=100).collect();
    let (mut caller, mut responder) = (caller(1, &ids), responder(&ids));
    assert_eq!(caller.poll(START).len(), 3);
    let later = START + SECOND;
    let (learned, _) = converse(&mut caller, &mut responder, inside(), later);
    let (again, _) = converse(&mut caller, &mut responder, inside(), later + SECOND);
    assert_eq!(learned.len() + again.len(), 100);
}

#[test]
fn what_could_not_be_written_is_learned_and_confirmed_again() {
    let (mut caller, mut responder) = (caller(1, &[4]), responder(&[4]));
    converse(&mut caller, &mut responder, inside(), START);
    responder.not_written(4);
    caller.not_written(4);
    assert!(!caller.states()[&4].is_up(START));
    let (learned, reached) = converse(&mut caller, &mut responder, inside(), START + LATER);
    assert_eq!((learned.len(), reached.len()), (1, 1));
    let (learned, reached) = converse(&mut caller, &mut responder, inside(), START + 2 * LATER);
    assert_eq!((learned.len(), reached.len()), (0, 0));
}

#[test]
fn a_tunnel_that_leads_elsewhere_is_confirmed_again() {
    let (mut caller, mut responder) = (caller(1, &[4]), responder(&[4]));
    converse(&mut caller, &mut responder, inside(), START);
    let renewed = Wanted { generation: 2, ..wanted(4, KEY) };
    caller.set_wanted([(4, renewed)].into());
    assert!(caller.states()[&4].is_up(START + SECOND), "another key changes nothing of where it leads");

    // As after a change of gue.port.
    let node = address("192.168.77.11:7080");
    caller.set_wanted([(4, Wanted { node, ..wanted(4, KEY) })].into());
    assert!(!caller.states()[&4].is_up(START + SECOND));
    let mut reached = Vec::new();
    let mut messages = caller.poll(START + SECOND);
    while let Some(message) = messages.pop() {
        assert_eq!(message.to, node);
        let answer = responder.receive(inside(), &message.bytes, START + SECOND).answer.unwrap();
        let (more, up) = caller.receive(node, &answer.bytes, START + SECOND);
        messages.extend(more);
        reached.extend(up);
    }
    assert_eq!(reached.iter().map(|r| (r.tunnel, r.remote.port)).collect::<Vec<_>>(), [(4, 7080)]);
}

/// Times between hellos that nobody answers, from `START` on.
fn pauses(caller: &mut Caller, count: usize) -> Vec<Nanos> {
    let mut now = START;
    let mut pause = || {
        assert!(!caller.poll(now).is_empty());
        let next = caller.deadline().unwrap();
        next - std::mem::replace(&mut now, next)
    };
    (0..count).map(|_| pause()).collect()
}

#[test]
fn a_tunnel_that_nobody_knows_yet_is_called_often_at_first_and_no_less_than_before_in_the_end() {
    let mut caller = caller(1, &[4]);
    let expected = [FIRST, FIRST * 2, FIRST * 4, FIRST * 8, EAGER, EAGER];
    assert_eq!(pauses(&mut caller, 6), expected);
    // One more tunnel to the same node is as new as the first was.
    caller.set_wanted([4, 5].map(|id| (id, wanted(id, KEY))).into());
    assert_eq!(pauses(&mut caller, 6), expected);
}
