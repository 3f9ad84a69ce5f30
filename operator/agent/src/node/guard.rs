//! Who else has an address that this node is to answer for (RFC 5227, IPv4 Address Conflict Detection).
//!
//! An address that no EPIC node has answered for since it was claimed is probed first: [`PROBES`] times, [`BETWEEN`] apart,
//! and [`WAIT`] after the last. The RFC has 3 probes over 1 to 2 seconds each after a random second, for hosts that boot all
//! at once and links that have to learn where they are. Here the link has been up, the host is no newcomer, and whoever
//! waits is a tenant whose proxies start meanwhile; so a second in all has to do. An address that another EPIC node has
//! answered for is not probed: its takeover would cost that second, and who had it was asked when it was new.
//!
//! What is found while probing, or is the gateway of a default route, is not answered for. What is heard later is
//! reported and defended, once in [`DEFEND`], and this node goes on (RFC 5227 §2.4 (c)): the address was free when it was
//! claimed, and flows go by it. Both are asked again every [`RECHECK`], and are over when nobody answers.
//!
//! A node that has lost the API server gives an address up when another EPIC node announces it: the others have decided
//! without it. It answers again when it has heard the decision.
//!
//! Pure: time is given, frames are returned. IPv6 addresses are not probed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use imbl::OrdMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::arp::{Arp, Mac};
use crate::desired::node::Claim;

/// Probes before the first answer.
pub const PROBES: u32 = 3;
/// Between two of them.
pub const BETWEEN: Duration = Duration::from_millis(250);
/// After the last.
pub const WAIT: Duration = Duration::from_millis(500);
/// Between two announcements of an address that somebody else claims.
pub const DEFEND: Duration = Duration::from_secs(10);
/// Between two questions whether somebody still has it.
pub const RECHECK: Duration = Duration::from_secs(30);

/// Somebody who is no EPIC node has the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Who, if he was heard.
    pub mac: Option<Mac>,
    /// Since when.
    pub since: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Asked whether somebody has it: so many probes are sent, and at this time goes the next, or it is free.
    Probing { sent: u32, next: Instant },
    /// Answered for.
    Free,
    /// Somebody had it when it was asked for.
    Taken,
    /// Another EPIC node has it; this one was not told.
    Yielded,
}

#[derive(Clone, Debug)]
struct Entry {
    uid: Arc<str>,
    gateway: bool,
    state: State,
    conflict: Option<Conflict>,
    heard: Instant,
    /// When it is asked for again while there is a conflict.
    recheck: Instant,
    defended: Option<Instant>,
}

impl Entry {
    fn is_active(&self) -> bool {
        matches!(self.state, State::Probing { .. }) || self.conflict.is_some()
    }
}

/// What is to be done now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// To be asked for.
    pub probes: Vec<Ipv4Addr>,
    /// To be announced once.
    pub defences: Vec<Ipv4Addr>,
    /// What may be answered for has changed.
    pub changed: bool,
}

/// A conflict that began or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The address.
    pub address: IpAddr,
    /// Who has it too; `None` when nobody does any more.
    pub conflict: Option<Conflict>,
    /// Whether this node answers for it.
    pub answers: bool,
}

/// The addresses of this node.
#[derive(Debug, Default)]
pub struct Guard {
    entries: BTreeMap<IpAddr, Entry>,
    /// Those of them that are asked for or that somebody else has: time changes nothing of the others.
    active: BTreeSet<IpAddr>,
    news: Vec<News>,
}

impl Guard {
    /// Whether this node may answer for an address that it owns. `is_known` says that EPIC has answered for it since it
    /// was claimed.
    pub fn may_answer(
        &mut self,
        address: IpAddr,
        claim: &Claim,
        is_known: bool,
        now: Instant,
        time: &Time,
    ) -> bool {
        if address.is_ipv6() {
            return true;
        }
        let entry = match self.entries.get_mut(&address) {
            Some(entry) if entry.uid == claim.uid => entry,
            _ => {
                let state = if is_known { State::Free } else { State::Probing { sent: 0, next: now } };
                let (uid, gateway) = (Arc::clone(&claim.uid), false);
                let (conflict, defended) = (None, None);
                let entry =
                    Entry { uid, gateway, state, conflict, heard: now, recheck: now + RECHECK, defended };
                self.entries.entry(address).insert_entry(entry).into_mut()
            }
        };
        if claim.gateway && !entry.gateway {
            entry.state = State::Taken;
            entry.recheck = now;
            if entry.conflict.is_none() {
                let conflict = Conflict { mac: None, since: time.clone() };
                entry.conflict = Some(conflict.clone());
                self.news.push(News { address, conflict: Some(conflict), answers: false });
            }
        }
        if entry.gateway && !claim.gateway {
            entry.state = State::Probing { sent: 0, next: now };
        }
        entry.gateway = claim.gateway;
        let (is_active, is_free) = (entry.is_active(), entry.state == State::Free);
        if is_active {
            self.active.insert(address);
        }
        is_free
    }

    /// Forgets addresses that this node does not own any more.
    pub fn retain(&mut self, owned: &OrdMap<IpAddr, Claim>) {
        self.entries.retain(|address, _| owned.contains_key(address));
        self.active.retain(|address| owned.contains_key(address));
    }

    /// Addresses that something may be said about.
    pub fn watched(&self) -> BTreeSet<Ipv4Addr> {
        let v4 = |address: &IpAddr| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        };
        self.entries.keys().filter_map(v4).collect()
    }

    /// Takes what was heard from somebody who is no EPIC node. Says whether what may be answered for has changed.
    pub fn hear(&mut self, arp: &Arp, now: Instant, time: &Time) -> bool {
        let address = IpAddr::V4(arp.about());
        let Some(entry) = self.entries.get_mut(&address) else { return false };
        // Somebody asks whether he may have the address, which is answered by us; while we ask the same, he has it.
        let is_probe = arp.sender.is_unspecified();
        if is_probe && !matches!(entry.state, State::Probing { .. }) {
            return false;
        }
        entry.heard = now;
        let before = entry.state;
        if matches!(before, State::Probing { .. }) {
            entry.state = State::Taken;
        }
        if entry.conflict.as_ref().and_then(|conflict| conflict.mac) != Some(arp.mac) {
            let since = entry.conflict.as_ref().map_or(time, |conflict| &conflict.since);
            let conflict = Conflict { mac: Some(arp.mac), since: since.clone() };
            entry.conflict = Some(conflict.clone());
            entry.recheck = now + RECHECK;
            let answers = entry.state == State::Free;
            self.news.push(News { address, conflict: Some(conflict), answers });
        }
        self.active.insert(address);
        before != entry.state
    }

    /// Another EPIC node announces an address that this one owns, as it believes. `is_cut_off` says that it has not
    /// reached the API server for some time.
    pub fn hear_of_epic(&mut self, arp: &Arp, is_cut_off: bool) -> bool {
        let announces = arp.sender == arp.target;
        let entry = self.entries.get_mut(&IpAddr::V4(arp.about()));
        match entry {
            Some(entry) if is_cut_off && announces && entry.state == State::Free => {
                entry.state = State::Yielded;
                true
            }
            _ => false,
        }
    }

    /// The API server is reached and what it says is known: what was given up meanwhile is this node's again, unless it
    /// says otherwise. Says whether what may be answered for has changed.
    pub fn reconnected(&mut self) -> bool {
        let mut changed = false;
        for entry in self.entries.values_mut().filter(|entry| entry.state == State::Yielded) {
            entry.state = State::Free;
            changed = true;
        }
        changed
    }

    /// What is due at this time.
    pub fn due(&mut self, now: Instant) -> Due {
        let mut due = Due::default();
        let mut over = Vec::new();
        for address in &self.active {
            let (IpAddr::V4(v4), Some(entry)) = (*address, self.entries.get_mut(address)) else { continue };
            if !entry.is_active() {
                over.push(*address);
                continue;
            }
            match entry.state {
                State::Probing { sent, next } if next <= now => {
                    if sent == PROBES {
                        entry.state = State::Free;
                        due.changed = true;
                        if entry.conflict.take().is_some() {
                            self.news.push(News { address: *address, conflict: None, answers: true });
                        }
                    } else {
                        due.probes.push(v4);
                        let pause = if sent + 1 == PROBES { WAIT } else { BETWEEN };
                        entry.state = State::Probing { sent: sent + 1, next: now + pause };
                    }
                }
                State::Free | State::Taken if entry.conflict.is_some() => {
                    if entry.state == State::Free
                        && entry.heard + DEFEND > now
                        && entry.defended.is_none_or(|at| at + DEFEND <= now)
                    {
                        entry.defended = Some(now);
                        due.defences.push(v4);
                    }
                    if entry.recheck > now {
                        continue;
                    }
                    let is_silent = entry.heard + RECHECK < now;
                    if is_silent && !entry.gateway && entry.state == State::Taken {
                        // It is for three probes to say that it is free.
                        entry.state = State::Probing { sent: 0, next: now };
                    } else if is_silent && entry.state == State::Free {
                        entry.conflict = None;
                        self.news.push(News { address: *address, conflict: None, answers: true });
                    } else {
                        due.probes.push(v4);
                    }
                    entry.recheck = now + RECHECK;
                }
                _ => {}
            }
        }
        for address in over {
            self.active.remove(&address);
        }
        due
    }

    /// The probes of these addresses could not be sent: they begin anew.
    pub fn not_sent(&mut self, addresses: &[Ipv4Addr], now: Instant) {
        for address in addresses {
            if let Some(entry) = self.entries.get_mut(&IpAddr::V4(*address))
                && matches!(entry.state, State::Probing { .. })
            {
                entry.state = State::Probing { sent: 0, next: now + BETWEEN * PROBES };
            }
        }
    }

    /// When something is due next, if anything is.
    pub fn next(&self) -> Option<Instant> {
        let next = |entry: &Entry| match entry.state {
            State::Probing { next, .. } => Some(next),
            State::Free | State::Taken if entry.conflict.is_some() => Some(entry.recheck),
            _ => None,
        };
        self.active().map(|(_, entry)| entry).filter_map(next).min()
    }

    /// Addresses that somebody else has, too.
    pub fn conflicts(&self) -> BTreeMap<IpAddr, Conflict> {
        let conflict = |(address, entry): (&IpAddr, &Entry)| Some((*address, entry.conflict.clone()?));
        self.active().filter_map(conflict).collect()
    }

    fn active(&self) -> impl Iterator<Item = (&IpAddr, &Entry)> {
        self.active.iter().filter_map(|address| self.entries.get_key_value(address))
    }

    /// What began and ended since this was asked last.
    pub fn news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }
}

/// Hardware addresses of EPIC nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// Those of this node.
    pub own: BTreeSet<Mac>,
    /// Those of all others.
    pub others: BTreeSet<Mac>,
    /// Some node does not say, being of an earlier release: then nobody is called a stranger.
    pub incomplete: bool,
}

/// Whom a frame is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// This node.
    Own,
    /// Another EPIC node.
    Epic,
    /// Somebody else.
    Stranger,
    /// It cannot be told.
    Unknown,
}

impl Neighbours {
    /// Whose hardware address it is.
    pub fn whose(&self, mac: Mac) -> From {
        if self.own.contains(&mac) {
            From::Own
        } else if self.others.contains(&mac) {
            From::Epic
        } else if self.incomplete {
            From::Unknown
        } else {
            From::Stranger
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    const ROUTER: Mac = [2, 0, 0, 0, 0, 9];

    fn vip() -> IpAddr {
        "192.0.2.7".parse().unwrap()
    }

    fn v4() -> Ipv4Addr {
        "192.0.2.7".parse().unwrap()
    }

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    fn claim(uid: &str, gateway: bool) -> Claim {
        Claim { uid: uid.into(), gateway }
    }

    fn reply() -> Arp {
        Arp { mac: ROUTER, sender: v4(), target: "192.0.2.1".parse().unwrap() }
    }

    fn announcement() -> Arp {
        Arp { mac: ROUTER, sender: v4(), target: v4() }
    }

    /// Everything that is due until `end`, with when it was.
    fn until(guard: &mut Guard, start: Instant, end: Duration) -> Vec<(u128, Due)> {
        let mut seen = Vec::new();
        while let Some(next) = guard.next().filter(|next| *next <= start + end) {
            let due = guard.due(next);
            seen.push((next.duration_since(start).as_millis(), due));
        }
        seen
    }

    #[test]
    fn a_new_address_is_answered_for_a_second_after_it_was_asked_for_and_nobody_answered() {
        let (mut guard, start) = (Guard::default(), Instant::now());
        let may = |guard: &mut Guard| guard.may_answer(vip(), &claim("u", false), false, start, &at(0));
        assert!(!may(&mut guard));
        let probe = || Due { probes: vec![v4()], ..Due::default() };
        let free = Due { changed: true, ..Due::default() };
        assert_eq!(
            until(&mut guard, start, Duration::from_secs(60)),
            [(0, probe()), (250, probe()), (500, probe()), (1_000, free)]
        );
        assert!(may(&mut guard));
        assert_eq!((guard.conflicts(), guard.news()), (BTreeMap::new(), vec![]));
        guard.retain(&OrdMap::new());
        assert!(!may(&mut guard), "it went and came back");
    }

    #[test]
    fn what_an_epic_node_has_answered_for_is_taken_over_at_once_but_not_for_somebody_else() {
        let (mut guard, start) = (Guard::default(), Instant::now());
        assert!(guard.may_answer(vip(), &claim("u", false), true, start, &at(0)));
        assert!(guard.may_answer(vip(), &claim("u", false), false, start, &at(0)), "it is known to be free");
        assert!(!guard.may_answer(vip(), &claim("heir", false), false, start, &at(0)));
        let v6: IpAddr = "2001:db8::7".parse().unwrap();
        assert!(guard.may_answer(v6, &claim("u", false), false, start, &at(0)));
    }

    #[test]
    fn an_address_that_somebody_has_is_not_answered_for_until_he_is_gone() {
        let (mut guard, start) = (Guard::default(), Instant::now());
        let own = claim("u", false);
        assert!(!guard.may_answer(vip(), &own, false, start, &at(0)));
        guard.due(start);
        assert!(guard.hear(&reply(), start, &at(5)));
        let conflict = Conflict { mac: Some(ROUTER), since: at(5) };
        assert_eq!(guard.conflicts(), [(vip(), conflict.clone())].into());
        let news = News { address: vip(), conflict: Some(conflict), answers: false };
        assert_eq!(guard.news(), [news]);
        // Asked every half a minute, he answers.
        for round in 1..4 {
            let due = guard.due(start + RECHECK * round);
            assert_eq!(due, Due { probes: vec![v4()], ..Due::default() }, "round {round}");
            assert!(!guard.hear(&reply(), start + RECHECK * round, &at(9)));
        }
        assert!(!guard.may_answer(vip(), &own, true, start, &at(0)));
        assert_eq!(guard.news(), [], "it is told once");
        // Gone: one question stays without answer, then three.
        let later = start + RECHECK * 4;
        assert_eq!(guard.due(later).probes, [v4()]);
        let seen = until(&mut guard, later, RECHECK + Duration::from_secs(2));
        assert!(seen.last().unwrap().1.changed, "{seen:?}");
        assert!(guard.may_answer(vip(), &own, false, later, &at(0)));
        assert_eq!(guard.news(), [News { address: vip(), conflict: None, answers: true }]);
    }

    #[test]
    fn a_conflict_that_comes_later_is_told_and_the_address_defended_but_not_given_up() {
        let (mut guard, start) = (Guard::default(), Instant::now());
        let own = claim("u", false);
        assert!(guard.may_answer(vip(), &own, true, start, &at(0)));
        let probe = Arp { sender: Ipv4Addr::UNSPECIFIED, target: v4(), mac: ROUTER };
        assert!(!guard.hear(&probe, start, &at(1)));
        assert_eq!(guard.conflicts(), BTreeMap::new(), "who asks is answered and goes elsewhere");
        assert!(!guard.hear(&announcement(), start, &at(2)));
        assert_eq!(guard.due(start).defences, [v4()]);
        assert!(!guard.hear(&announcement(), start, &at(3)));
        assert_eq!(guard.due(start), Due::default(), "not at every frame");
        assert!(
            guard.hear(&announcement(), start + DEFEND, &at(3))
                || guard.due(start + DEFEND).defences == [v4()]
        );
        assert!(guard.may_answer(vip(), &own, true, start, &at(0)));
        assert_eq!(guard.news().len(), 1);
        let seen = until(&mut guard, start, RECHECK * 3);
        assert!(seen.iter().any(|(_, due)| due.probes == [v4()]), "he is asked for");
        assert_eq!(guard.conflicts(), BTreeMap::new(), "and said nothing more");
        assert_eq!(guard.news(), [News { address: vip(), conflict: None, answers: true }]);
    }

    #[test]
    fn a_gateway_s_address_is_never_answered_for_and_its_holder_is_found() {
        let (mut guard, start) = (Guard::default(), Instant::now());
        let may = |guard: &mut Guard, gateway, now| {
            guard.may_answer(vip(), &claim("u", gateway), true, now, &at(7))
        };
        assert!(may(&mut guard, false, start));
        assert!(!may(&mut guard, true, start), "the default route came later");
        assert_eq!(guard.conflicts()[&vip()], Conflict { mac: None, since: at(7) });
        assert_eq!(guard.due(start).probes, [v4()]);
        guard.hear(&reply(), start, &at(8));
        assert_eq!(guard.conflicts()[&vip()], Conflict { mac: Some(ROUTER), since: at(7) });
        until(&mut guard, start, RECHECK * 5);
        assert!(!may(&mut guard, true, start + RECHECK * 5), "silence does not make it free");
        let later = start + RECHECK * 5;
        assert!(!may(&mut guard, false, later), "another route: now it is asked for");
        until(&mut guard, later, Duration::from_secs(2));
        assert!(may(&mut guard, false, later));
    }

    #[test]
    fn a_node_cut_off_from_the_api_gives_up_what_another_one_announces() {
        let (mut guard, start) = (Guard::default(), Instant::now());
        let own = claim("u", false);
        assert!(guard.may_answer(vip(), &own, true, start, &at(0)));
        assert!(!guard.hear_of_epic(&announcement(), false), "the objects will say so");
        assert!(!guard.hear_of_epic(&reply(), true), "an answer may be an old one");
        assert!(guard.hear_of_epic(&announcement(), true));
        assert!(!guard.may_answer(vip(), &own, true, start, &at(0)));
        assert!(guard.reconnected());
        assert!(guard.may_answer(vip(), &own, true, start, &at(0)));
        assert!(!guard.reconnected());
    }

    #[test]
    fn probes_that_could_not_be_sent_prove_nothing() {
        let (mut guard, start) = (Guard::default(), Instant::now());
        let own = claim("u", false);
        guard.may_answer(vip(), &own, false, start, &at(0));
        let mut now = start;
        for _ in 0..5 {
            let due = guard.due(now);
            assert_eq!(due.probes, [v4()]);
            guard.not_sent(&due.probes, now);
            now = guard.next().unwrap();
        }
        assert!(!guard.may_answer(vip(), &own, false, now, &at(0)));
    }

    #[test]
    fn only_who_is_no_epic_node_is_a_stranger() {
        let known = Neighbours { own: [[1; 6]].into(), others: [[2; 6]].into(), incomplete: false };
        assert_eq!([1, 2, 3].map(|n| known.whose([n; 6])), [From::Own, From::Epic, From::Stranger]);
        let upgrading = Neighbours { incomplete: true, ..known };
        assert_eq!(upgrading.whose([3; 6]), From::Unknown);
    }
}
