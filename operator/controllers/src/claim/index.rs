//! Which addresses are free, who holds the others, and who waits for one: kept from one snapshot to the next.
//!
//! All that an address costs in reads is kept here: per pool a map of free intervals, claims by address and by owner,
//! LoadBalancers that wait. It follows the changes, so that a look costs O(log n) and neither a list nor a lock over a
//! call to the API server. Addresses that are being claimed in this process are passed over, so two LoadBalancers never
//! race for one here; against another process the API server decides.
//!
//! It only ever moves forward, to the newest snapshot: what it says of claims is as old as the cache at most, with own
//! writes seen, and that is what the protocol asks for ([`epic_model::claim`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use epic_crds::condition::ACCEPTED;
use epic_crds::{Account, AddressClaim, AddressPool, ConditionStatus, HasConditions as _, LoadBalancer};
use epic_model::address::{self, Family};
use epic_model::claim::{self as model, Asker, Claim, Free, Plan, Pool, Register, Usage, Write};
use epic_model::id::{ObjectVersion, PoolName};
use epic_model::name::claim_address;
use kates::{Accumulator, Change, Key, Poison, Snapshot};
use kube::ResourceExt;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::convert;

/// Readers of [`Addresses::given_back`] may fall behind by this many; then they rely on the full pass.
const BEHIND: usize = 1_024;

/// A claim, and the object that it was read from.
#[derive(Clone, Debug)]
pub struct Owned {
    /// As the model sees it.
    pub claim: Claim,
    /// As it was read.
    pub object: Arc<AddressClaim>,
}

/// See the module.
pub struct Addresses {
    watches: Accumulator,
    followed: Mutex<Followed>,
    given_back: broadcast::Sender<Key>,
}

#[derive(Default)]
struct Followed {
    seen: Option<Snapshot>,
    book: Book,
}

/// An address that is being claimed in this process. Dropping it gives the address back: it is claimed by then, or it
/// is free, and then those that wait for one are triggered.
pub struct InFlight<'a> {
    addresses: &'a Addresses,
    address: IpAddr,
    claimed: bool,
}

impl Addresses {
    /// Follows these watches.
    pub fn new(watches: Accumulator) -> Self {
        Self { watches, followed: Mutex::default(), given_back: broadcast::Sender::new(BEHIND) }
    }

    fn now<T>(&self, look: impl FnOnce(&mut Book) -> T) -> T {
        let mut followed = self.followed.lock();
        // Taken under the lock: a state that is older than the one before would unsee own writes.
        if let Some(snapshot) = self.watches.snapshot() {
            followed.follow(snapshot);
        }
        look(&mut followed.book)
    }

    /// The pools, as they are written. What they may give says [`crate::address_pool::judge`].
    pub fn pools(&self) -> Vec<Pool> {
        self.now(|book| book.pools.values().map(|(pool, _)| pool.clone()).collect())
    }

    /// The claims whose owner has this namespace and name. To be read *before* the LoadBalancer.
    pub fn owned(&self, balancer: &Key) -> Vec<Owned> {
        self.now(|book| book.owned(balancer))
    }

    /// What there is to do for `asker`, whose own claims `owned` were read before it was. `may_come` says whether a
    /// LoadBalancer that asks for an address may come for it.
    pub fn look(
        &self,
        asker: &Asker,
        pools: &[Pool],
        owned: &[Owned],
        may_come: &dyn Fn(&Key, IpAddr) -> bool,
    ) -> Plan {
        self.now(|book| model::plan_by(asker, pools, &Look { book, owned, may_come }))
    }

    /// As [`Addresses::look`] says, to be done: the address of a new claim is this one's until the guard is dropped.
    pub fn plan(
        &self,
        asker: &Asker,
        pools: &[Pool],
        owned: &[Owned],
        may_come: &dyn Fn(&Key, IpAddr) -> bool,
    ) -> (Plan, Option<InFlight<'_>>) {
        self.now(|book| {
            let plan = model::plan_by(asker, pools, &Look { book, owned, may_come });
            let created = plan.writes.iter().find_map(|write| match write {
                Write::Create { address, .. } => Some(*address),
                _ => None,
            });
            let guard = created.map(|address| {
                book.begin(address, asker.object.namespace.as_str());
                InFlight { addresses: self, address, claimed: false }
            });
            (plan, guard)
        })
    }

    /// How many addresses of a pool are claimed, whatever pool they were claimed from.
    pub fn claimed(&self, pool: &Pool, family: Family) -> u128 {
        self.now(|book| book.claimed(pool, family))
    }

    /// LoadBalancers that wait for an address of their pools, as keys of those that are told of one that is free after
    /// all: nothing was written that a watch would show.
    pub fn given_back(&self) -> broadcast::Receiver<Key> {
        self.given_back.subscribe()
    }

    /// Who has to look again when what is said of an address has changed: who shows it, who asks for it, and, when it
    /// is free now, who waits for any address.
    pub fn concerned(&self, address: IpAddr) -> Concerned {
        self.now(|book| book.concerned(address))
    }

    /// LoadBalancers of a namespace that wait for an address.
    pub fn waiting_in(&self, namespace: &str) -> Vec<Key> {
        self.now(|book| book.waiting_in(namespace))
    }
}

impl InFlight<'_> {
    /// The claim is there.
    pub fn claimed(mut self) {
        self.claimed = true;
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let waiting = self.addresses.now(|book| {
            book.end(self.address);
            if self.claimed { Vec::new() } else { book.concerned(self.address).waiting }
        });
        for key in waiting {
            // Nobody listens before the controllers run.
            let _ = self.addresses.given_back.send(key);
        }
    }
}

/// Whom an address concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Concerned {
    /// Those that show it, or ask for it.
    pub by_name: Vec<Key>,
    /// Those that wait for any address, if this one is free. Their group may have no pool that holds it.
    pub waiting: Vec<Key>,
}

impl Followed {
    fn follow(&mut self, snapshot: Snapshot) {
        let seen = self.seen.as_ref();
        for Change { before, after, .. } in snapshot.changes_since::<AddressClaim>(seen) {
            self.book.claim(before.as_ref(), after.as_ref());
        }
        for Change { before, after, .. } in snapshot.changes_since::<LoadBalancer>(seen) {
            self.book.balancer(before.as_deref(), after.as_deref());
        }
        self.book.unreadable(snapshot.poisoned());
        let moved = match seen {
            None => true,
            Some(seen) => {
                snapshot.differs(seen, |pool: &AddressPool| {
                    (pool.spec.clone(), pool.metadata.deletion_timestamp.is_some())
                }) || snapshot.differs(seen, |account: &Account| account.metadata.labels.clone())
            }
        };
        if moved {
            self.book.pools(convert::pools(&snapshot));
        }
        self.seen = Some(snapshot);
    }
}

/// What keeps an address from being free.
#[derive(Default)]
struct Use {
    /// Its claim.
    claim: Option<Arc<AddressClaim>>,
    /// Whether there is a claim of it that cannot be read.
    unreadable: bool,
    /// LoadBalancers that show it, with or without a claim.
    shown: BTreeSet<Key>,
    /// Namespace of the LoadBalancer that it is being claimed for, in this process.
    in_flight: Option<String>,
}

impl Use {
    fn is_free(&self) -> bool {
        self.claim.is_none() && !self.unreadable && self.shown.is_empty() && self.in_flight.is_none()
    }
}

/// The books: pure, fed with objects as they were and as they are.
#[derive(Default)]
struct Book {
    uses: BTreeMap<IpAddr, Use>,
    /// Addresses of claims by the LoadBalancer that they name.
    owners: BTreeMap<Key, BTreeSet<IpAddr>>,
    /// How many claims the LoadBalancers of a namespace have.
    counts: BTreeMap<String, usize>,
    /// LoadBalancers without address, by what they ask for.
    waiting: BTreeMap<Option<IpAddr>, BTreeSet<Key>>,
    in_flight: BTreeSet<IpAddr>,
    unreadable: BTreeSet<IpAddr>,
    pools: BTreeMap<PoolName, (Pool, Free)>,
}

/// The address that a claim stands for. It is the name that excludes others, so that counts where the spec does not.
fn address_of(claim: &AddressClaim) -> Option<IpAddr> {
    claim_address(&claim.name_any().into()).or_else(|| address::parse(&claim.spec.address).ok())
}

fn owner_of(claim: &AddressClaim) -> Key {
    Key::namespaced(claim.spec.owner.namespace.as_str(), claim.spec.owner.name.as_str())
}

/// What a LoadBalancer without address asks for; `None` for one that has an address, is to go, or is refused: that one
/// looks for an address when it is accepted.
fn waits_for(balancer: &LoadBalancer) -> Option<Option<IpAddr>> {
    let refused = balancer.condition(ACCEPTED).is_some_and(|known| known.status == ConditionStatus::False);
    let gone = balancer.metadata.deletion_timestamp.is_some();
    let waits = convert::shown(balancer).is_empty() && !refused && !gone;
    let asked = || balancer.spec.public_address.as_deref().and_then(|text| address::parse(text).ok());
    waits.then(asked)
}

impl Book {
    /// Changes what is said of an address, and with it whether that is free.
    fn with(&mut self, address: IpAddr, change: impl FnOnce(&mut Use)) {
        let known = self.uses.entry(address).or_default();
        let was_free = known.is_free();
        change(known);
        let is_free = known.is_free();
        if is_free {
            self.uses.remove(&address);
        }
        if was_free == is_free {
            return;
        }
        for (_, free) in self.pools.values_mut().filter(|(pool, _)| pool.contains(address)) {
            if is_free {
                free.give(address);
            } else {
                free.take(address);
            }
        }
    }

    fn claim(&mut self, before: Option<&Arc<AddressClaim>>, after: Option<&Arc<AddressClaim>>) {
        if let Some((claim, address)) = before.and_then(|claim| Some((claim, address_of(claim)?))) {
            self.with(address, |known| known.claim = None);
            let owner = owner_of(claim);
            if let Some(addresses) = self.owners.get_mut(&owner) {
                addresses.remove(&address);
                if addresses.is_empty() {
                    self.owners.remove(&owner);
                }
            }
            self.count(&claim.spec.owner.namespace, |count| count.saturating_sub(1));
        }
        if let Some((claim, address)) = after.and_then(|claim| Some((claim, address_of(claim)?))) {
            self.with(address, |known| known.claim = Some(Arc::clone(claim)));
            self.owners.entry(owner_of(claim)).or_default().insert(address);
            self.count(&claim.spec.owner.namespace, |count| count + 1);
        }
    }

    fn count(&mut self, namespace: &str, change: impl FnOnce(usize) -> usize) {
        match change(self.counts.get(namespace).copied().unwrap_or(0)) {
            0 => self.counts.remove(namespace),
            count => self.counts.insert(namespace.to_owned(), count),
        };
    }

    fn balancer(&mut self, before: Option<&LoadBalancer>, after: Option<&LoadBalancer>) {
        if let Some(balancer) = before {
            let key = Key::of(balancer);
            for address in convert::shown(balancer) {
                self.with(address, |known| {
                    known.shown.remove(&key);
                });
            }
            if let Some(asked) = waits_for(balancer)
                && let Some(keys) = self.waiting.get_mut(&asked)
            {
                keys.remove(&key);
                if keys.is_empty() {
                    self.waiting.remove(&asked);
                }
            }
        }
        if let Some(balancer) = after {
            let key = Key::of(balancer);
            for address in convert::shown(balancer) {
                self.with(address, |known| {
                    known.shown.insert(key.clone());
                });
            }
            if let Some(asked) = waits_for(balancer) {
                self.waiting.entry(asked).or_default().insert(key);
            }
        }
    }

    /// Claims that cannot be read hold their names all the same.
    fn unreadable<'p>(&mut self, poisoned: impl Iterator<Item = &'p Poison>) {
        let now: BTreeSet<IpAddr> = poisoned
            .filter(|poison| poison.kind == "AddressClaim")
            .filter_map(|poison| claim_address(&poison.key.name().into()))
            .collect();
        let before = std::mem::replace(&mut self.unreadable, now.clone());
        for address in before.symmetric_difference(&now) {
            self.with(*address, |known| known.unreadable = now.contains(address));
        }
    }

    fn pools(&mut self, pools: Vec<Pool>) {
        let mut before = std::mem::take(&mut self.pools);
        for pool in pools {
            let known = before.remove(&pool.name).filter(|(known, _)| known.intervals() == pool.intervals());
            let free = known.map_or_else(|| self.free_of(&pool), |(_, free)| free);
            self.pools.insert(pool.name.clone(), (pool, free));
        }
    }

    fn free_of(&self, pool: &Pool) -> Free {
        let mut free = Free::all(pool);
        for address in self.uses.keys().filter(|address| pool.contains(**address)) {
            free.take(*address);
        }
        free
    }

    fn begin(&mut self, address: IpAddr, namespace: &str) {
        self.in_flight.insert(address);
        self.with(address, |known| known.in_flight = Some(namespace.to_owned()));
    }

    fn end(&mut self, address: IpAddr) {
        self.in_flight.remove(&address);
        self.with(address, |known| known.in_flight = None);
    }

    fn owned(&self, balancer: &Key) -> Vec<Owned> {
        let addresses = self.owners.get(balancer).into_iter().flatten();
        let objects = addresses.filter_map(|address| self.uses.get(address)?.claim.as_ref());
        objects
            .filter_map(|object| Some(Owned { claim: convert::claim(object)?, object: Arc::clone(object) }))
            .collect()
    }

    fn claimed(&self, pool: &Pool, family: Family) -> u128 {
        let intervals = pool.intervals().iter();
        let uses = intervals.flat_map(|interval| self.uses.range(interval.first()..=interval.last()));
        let claimed = uses.filter(|(address, known)| {
            Family::of(**address) == family && (known.claim.is_some() || known.unreadable)
        });
        claimed.count() as u128
    }

    fn concerned(&self, address: IpAddr) -> Concerned {
        let known = self.uses.get(&address);
        let shows = known.into_iter().flat_map(|known| &known.shown);
        let asks = self.waiting.get(&Some(address)).into_iter().flatten();
        let any = self.waiting.get(&None).into_iter().flatten();
        let waiting = if known.is_none() { any.cloned().collect() } else { Vec::new() };
        Concerned { by_name: shows.chain(asks).cloned().collect(), waiting }
    }

    fn waiting_in(&self, namespace: &str) -> Vec<Key> {
        let all = self.waiting.values().flatten();
        all.filter(|key| key.namespace() == Some(namespace)).cloned().collect()
    }
}

/// The books as one plan asks for them.
struct Look<'a> {
    book: &'a Book,
    owned: &'a [Owned],
    may_come: &'a dyn Fn(&Key, IpAddr) -> bool,
}

impl Look<'_> {
    fn is_asked_for(&self, address: IpAddr) -> bool {
        let asks = self.book.waiting.get(&Some(address)).into_iter().flatten();
        asks.into_iter().any(|key| (self.may_come)(key, address))
    }

    fn free(&self, pool: &Pool) -> Option<&Free> {
        let known = self.book.pools.get(&pool.name)?;
        (known.0.intervals() == pool.intervals()).then_some(&known.1)
    }
}

impl Register for Look<'_> {
    fn owned(&self, _: &ObjectVersion) -> Vec<Claim> {
        self.owned.iter().map(|owned| owned.claim.clone()).collect()
    }

    fn at(&self, address: IpAddr) -> Option<Claim> {
        self.book.uses.get(&address)?.claim.as_deref().and_then(convert::claim)
    }

    fn count(&self, asker: &Asker) -> usize {
        let namespace = asker.object.namespace.as_str();
        let coming = self.book.in_flight.iter().filter(|address| {
            let known = self.book.uses.get(address);
            // One whose claim is seen already counts as that.
            known.is_some_and(|known| known.claim.is_none() && known.in_flight.as_deref() == Some(namespace))
        });
        self.book.counts.get(namespace).copied().unwrap_or(0) + coming.count()
    }

    fn lowest_free(&self, pool: &Pool, family: Family) -> Option<IpAddr> {
        self.free(pool)?.iter(family).find(|address| !self.is_asked_for(*address))
    }

    fn usage(&self, pool: &Pool, family: Family) -> Usage {
        let Some(free) = self.free(pool) else { return Usage::default() };
        let asked = self.book.waiting.keys().flatten().filter(|address| {
            Family::of(**address) == family
                && pool.contains(**address)
                && !self.book.uses.contains_key(address)
                && self.is_asked_for(**address)
        });
        let used = pool.total(family).saturating_sub(free.count(family));
        Usage { used, asked: asked.count() as u128 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_objects::object;
    use super::*;
    use epic_model::claim::Refusal;
    use epic_model::id::{AccountName, Kind};
    use serde_json::json;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn claim(last: u8, namespace: &str, owner: &str) -> Arc<AddressClaim> {
        let name = format!("192.0.2.{last}");
        let spec = json!({"address": name, "pool": "default", "owner": {"kind": "LoadBalancer",
            "namespace": namespace, "name": owner, "uid": owner, "resource-version": "1"}});
        Arc::new(object("AddressClaim", "epic", &name, spec))
    }

    fn balancer(name: &str, asks: Option<u8>, shows: Option<u8>) -> LoadBalancer {
        let text = |last: Option<u8>| last.map(|last| format!("192.0.2.{last}"));
        let spec =
            json!({"public-ports": [{"port": 80}], "service-group": "g", "public-address": text(asks)});
        let mut balancer: LoadBalancer = object("LoadBalancer", "epic-red", name, spec);
        balancer.status = serde_json::from_value(json!({"public-address": text(shows)})).unwrap();
        balancer
    }

    fn key(name: &str) -> Key {
        Key::namespaced("epic-red", name)
    }

    fn book() -> Book {
        let mut book = Book::default();
        book.pools(vec![Pool::parse("default", ["192.0.2.1-192.0.2.3"]).unwrap()]);
        book
    }

    fn asker(name: &str) -> Asker {
        Asker {
            object: ObjectVersion {
                kind: Kind::LoadBalancer,
                namespace: "epic-red".into(),
                name: name.into(),
                uid: name.into(),
                resource_version: "7".into(),
            },
            account: AccountName::parse("red").unwrap(),
            deleting: false,
            family: Family::V4,
            requested: None,
            granted: None,
            pool_names: vec!["default".into()],
            most_claims: usize::MAX,
        }
    }

    fn planned(book: &Book, asker: &Asker) -> Result<IpAddr, Refusal> {
        let pools: Vec<Pool> = book.pools.values().map(|(pool, _)| pool.clone()).collect();
        let look = Look { book, owned: &[], may_come: &|_, _| true };
        let plan = model::plan_by(asker, &pools, &look);
        match plan.writes.first() {
            Some(Write::Create { address, .. }) => Ok(*address),
            None => Err(plan.refusal.unwrap()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_address_is_drawn_that_nobody_claims_shows_asks_for_or_is_getting() {
        let mut book = book();
        let web = asker("web");
        assert_eq!(planned(&book, &web), Ok(ip(1)));
        book.claim(None, Some(&claim(1, "epic-blue", "other")));
        assert_eq!(planned(&book, &web), Ok(ip(2)), "claimed");
        book.balancer(None, Some(&balancer("imported", None, Some(2))));
        assert_eq!(planned(&book, &web), Ok(ip(3)), "shown without a claim");
        book.begin(ip(3), "epic-red");
        assert!(planned(&book, &web).is_err(), "being claimed in this process");
        book.end(ip(3));
        assert_eq!(planned(&book, &web), Ok(ip(3)));
        book.balancer(None, Some(&balancer("asks", Some(3), None)));
        assert_eq!(
            planned(&book, &web).unwrap_err().to_string(),
            "address pool \"default\" has no free IPv4 address (2 of 3 in use, 1 asked for by others); \
             add a range to spec.addresses"
        );
        book.balancer(Some(&balancer("asks", Some(3), None)), Some(&balancer("asks", None, None)));
        assert_eq!(planned(&book, &web), Ok(ip(3)), "not asked for any more");
        book.claim(Some(&claim(1, "epic-blue", "other")), None);
        assert_eq!(planned(&book, &web), Ok(ip(1)), "free again");
    }

    #[test]
    fn an_edited_pool_gives_what_is_free_of_it_now() {
        let mut book = book();
        book.claim(None, Some(&claim(1, "epic-red", "other")));
        book.claim(None, Some(&claim(8, "epic-red", "another")));
        book.pools(vec![Pool::parse("default", ["192.0.2.1", "192.0.2.8-192.0.2.9"]).unwrap()]);
        assert_eq!(planned(&book, &asker("web")), Ok(ip(9)));
        let pool = book.pools[&PoolName::new("default")].0.clone();
        assert_eq!(book.claimed(&pool, Family::V4), 2);
        book.begin(ip(9), "epic-red");
        assert_eq!(book.claimed(&pool, Family::V4), 2, "one that is on the way is not there yet");
    }

    #[test]
    fn a_change_of_an_address_concerns_who_shows_or_asks_for_it_and_one_that_is_free_all_that_wait() {
        let mut book = book();
        book.balancer(None, Some(&balancer("shows", None, Some(1))));
        book.balancer(None, Some(&balancer("asks", Some(2), None)));
        book.balancer(None, Some(&balancer("any", None, None)));
        book.claim(None, Some(&claim(2, "epic-blue", "holder")));
        let concerned = |book: &Book, last: u8| {
            let Concerned { by_name, waiting } = book.concerned(ip(last));
            (by_name, waiting)
        };
        assert_eq!(concerned(&book, 1), (vec![key("shows")], vec![]));
        assert_eq!(concerned(&book, 2), (vec![key("asks")], vec![]), "it is claimed: nobody gets it");
        assert_eq!(concerned(&book, 3), (vec![], vec![key("any")]));
        book.claim(Some(&claim(2, "epic-blue", "holder")), None);
        assert_eq!(concerned(&book, 2), (vec![key("asks")], vec![key("any")]));
        assert_eq!(book.waiting_in("epic-red"), [key("any"), key("asks")]);
        assert_eq!(book.waiting_in("epic-blue"), []);
        let mut refused = balancer("any", None, None);
        let conditions = json!({"conditions": [{"type": "Accepted", "status": "False", "reason": "LimitExceeded",
            "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        refused.status = serde_json::from_value(conditions).unwrap();
        book.balancer(Some(&balancer("any", None, None)), Some(&refused));
        assert_eq!(
            concerned(&book, 2),
            (vec![key("asks")], vec![]),
            "one that is refused waits for no address"
        );
    }

    #[test]
    fn claims_are_found_by_owner_and_counted_by_namespace_with_those_that_are_on_the_way() {
        let mut book = book();
        book.claim(None, Some(&claim(1, "epic-red", "web")));
        book.claim(None, Some(&claim(2, "epic-blue", "web")));
        let owned: Vec<IpAddr> = book.owned(&key("web")).iter().map(|owned| owned.claim.address).collect();
        assert_eq!(owned, [ip(1)]);
        let full = Asker { most_claims: 2, ..asker("next") };
        assert_eq!(planned(&book, &full), Ok(ip(3)));
        book.begin(ip(3), "epic-red");
        assert_eq!(planned(&book, &full), Err(Refusal::TooMany { held: 2, most: 2 }));
        book.claim(None, Some(&claim(3, "epic-red", "next")));
        assert_eq!(planned(&book, &full), Err(Refusal::TooMany { held: 2, most: 2 }), "counted once");
        book.end(ip(3));
        assert_eq!(planned(&book, &full), Err(Refusal::TooMany { held: 2, most: 2 }));
    }

    #[test]
    fn a_claim_that_cannot_be_read_holds_its_address() {
        let mut book = book();
        let poison = |name: &str| Poison {
            kind: "AddressClaim".to_owned(),
            key: Key::namespaced("epic", name),
            metadata: Box::default(),
            error: String::new(),
            earlier_state_shown: false,
        };
        book.unreadable([poison("192.0.2.1")].iter());
        assert_eq!(planned(&book, &asker("web")), Ok(ip(2)));
        book.unreadable([].iter());
        assert_eq!(planned(&book, &asker("web")), Ok(ip(1)));
    }

    #[test]
    fn what_came_and_went_leaves_nothing() {
        let mut book = book();
        for last in 0..10 {
            let (held, waits) = (claim(last, "epic-red", "web"), balancer("web", Some(last), None));
            book.claim(None, Some(&held));
            book.balancer(None, Some(&waits));
            let shows = balancer("web", Some(last), Some(last));
            book.balancer(Some(&waits), Some(&shows));
            book.balancer(Some(&shows), None);
            book.claim(Some(&held), None);
        }
        assert!(book.uses.is_empty() && book.owners.is_empty() && book.waiting.is_empty());
        assert!(book.counts.is_empty() && book.in_flight.is_empty());
        assert_eq!(planned(&book, &asker("web")), Ok(ip(1)));
    }
}
