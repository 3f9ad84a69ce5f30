//! Granting: adopt, retag or create a claim, then show the address.

use std::fmt;
use std::net::IpAddr;

use super::register::{Listed, Register, Spared};
use super::{Claim, Phase, Pool};
use crate::address::Family;
use crate::id::{AccountName, NodeName, ObjectName, ObjectVersion, PoolName, ResourceVersion, Uid};
use crate::name;

/// A LoadBalancer that should have an address of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The LoadBalancer at the version that was read.
    pub object: ObjectVersion,
    /// Its account.
    pub account: AccountName,
    /// Whether it has a deletionTimestamp; then it gets nothing.
    pub deleting: bool,
    /// The family that is asked for.
    pub family: Family,
    /// The address its spec asks for, of that family.
    pub requested: Option<IpAddr>,
    /// The address its status shows, of that family.
    pub granted: Option<IpAddr>,
    /// The pools of its group, in their order (absent in the group: `default`). Those that do not exist are missing
    /// from the pools given to the plan.
    pub pool_names: Vec<PoolName>,
    /// How many claims the account may have, Bound and Releasing ones ([`most_claims`]).
    pub most_claims: usize,
}

/// How many claims an account may have, Bound and Releasing ones, that may have `limit` LoadBalancers: room for as many
/// as it may have, and for half as many that are on their way out. Without a bound, creating and deleting would empty a
/// pool for everybody while one node is silent.
pub fn most_claims(limit: u64) -> usize {
    usize::try_from(limit.saturating_add(limit / 2).saturating_add(8)).unwrap_or(usize::MAX)
}

impl Asker {
    /// The address that it asks for and could be given: it has none of that family, and a pool of its group hands
    /// out this one to it. Who is to be asked at all (a deleted one gets nothing, nor does one that is not accepted)
    /// knows the caller.
    pub fn may_come_for(&self, pools: &[Pool]) -> Option<IpAddr> {
        let waits = !self.deleting && self.granted.is_none();
        self.requested.filter(|address| waits && fits(self, *address, pools))
    }
}

/// One write. Execute in the order of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// POST the claim. AlreadyExists: start again.
    Create {
        /// Its name.
        name: ObjectName,
        /// The address.
        address: IpAddr,
        /// The pool it is taken from.
        pool: PoolName,
        /// The LoadBalancer, at the version that was read.
        owner: ObjectVersion,
    },
    /// PUT the claim with the LoadBalancer's present version in `owner.resource-version`.
    Retag {
        /// Its name.
        name: ObjectName,
        /// Its uid.
        uid: Uid,
        /// Write at this version only: it fails if somebody has begun to release the claim.
        at: ResourceVersion,
        /// The LoadBalancer, at the version that was read.
        owner: ObjectVersion,
    },
    /// Change the LoadBalancer's status in a way that grants nothing: put a condition with a message that holds
    /// `mark`. Its own claim was made for this version and does not fit any more (a pool was edited); at the next
    /// version it can be released, since no write of it can be on the way.
    Touch {
        /// The LoadBalancer; write at this version only.
        owner: ObjectVersion,
        /// A text that differs for each version; without a change the API server would not bump it.
        mark: String,
    },
    /// PUT the LoadBalancer's status with the address, at the version that was read.
    Grant {
        /// The LoadBalancer.
        owner: ObjectVersion,
        /// The address.
        address: IpAddr,
    },
}

/// Why a LoadBalancer does not get an address now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// None of the group's pools exists, is accepted and admits the account.
    #[error("no address pool can be used: {}; have one of them mended, or name another in the service group", .pools.join(", "))]
    NoPool {
        /// The group's pools, each with why it cannot be used.
        pools: Vec<String>,
    },
    /// The requested address lies in no pool that can be used.
    #[error(
        "{address} lies in no address pool of the service group that can be used: {}; set spec.public-address to an address of one that holds some, or leave it out",
        .pools.join(", ")
    )]
    NotInPool {
        /// The address.
        address: IpAddr,
        /// The group's pools, each with what it holds or why it cannot be used.
        pools: Vec<String>,
    },
    /// The requested address is claimed.
    #[error("{address} {}", taken_by(.holder, *.releasing, .waits_for))]
    Taken {
        /// The address.
        address: IpAddr,
        /// Who holds it, in words.
        holder: String,
        /// Whether it is on its way out; then it is free once all EPIC nodes have forgotten its old owner.
        releasing: bool,
        /// The nodes that it waits for then, as far as its claim names them.
        waits_for: Vec<NodeName>,
    },
    /// The account has as many claims as it may have.
    #[error(
        "the account has {held} addresses, those counted that are being released, and may have {most}; delete a LoadBalancer, wait until EPIC nodes have let go of what is being released, or have load-balancer-limit raised"
    )]
    TooMany {
        /// How many it has.
        held: usize,
        /// How many it may have.
        most: usize,
    },
    /// No address is left to be drawn.
    #[error("{}; add a range to spec.addresses", .0)]
    Exhausted(Full),
    /// The address that status shows is claimed by somebody else, or on its way out: an import, or a claim deleted
    /// by hand.
    #[error("{address} is shown here, but claimed by {holder}; delete one of the two")]
    Conflict {
        /// The address.
        address: IpAddr,
        /// Who holds the claim.
        holder: String,
    },
}

/// The pools that are full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Full {
    family: Family,
    pools: Vec<FullPool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FullPool {
    name: PoolName,
    used: u128,
    /// Asked for by others, and not in use.
    asked: u128,
    total: u128,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, FullPool { name, used, asked, total }) in self.pools.iter().enumerate() {
            let separator = if index > 0 { "; " } else { "" };
            let (pool, family) = (name.as_str(), self.family);
            write!(
                f,
                "{separator}address pool {pool:?} has no free {family} address ({used} of {total} in use"
            )?;
            if *asked > 0 {
                write!(f, ", {asked} asked for by others")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// Nodes that a message names before it counts the rest.
const NAMED: usize = 5;

fn taken_by(holder: &str, releasing: bool, waits_for: &[NodeName]) -> String {
    if !releasing {
        return format!("belongs to {holder}; ask for another one, or wait until that is gone");
    }
    if waits_for.is_empty() {
        return format!("is being released by {holder}; it is free once all EPIC nodes have forgotten that");
    }
    let named: Vec<&str> = waits_for.iter().take(NAMED).map(NodeName::as_str).collect();
    let more = match waits_for.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "is being released by {holder}; waits for {}{more}; of a node that is gone for good delete the EPICNode",
        named.join(", ")
    )
}

/// What to do for one LoadBalancer and one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The writes, in order. The first that fails ends the round.
    pub writes: Vec<Write>,
    /// Why there is no address, or what is wrong with the one that is shown.
    pub refusal: Option<Refusal>,
}

impl Plan {
    fn refused(refusal: Refusal) -> Self {
        Plan { writes: Vec::new(), refusal: Some(refusal) }
    }

    fn of(writes: impl Into<Vec<Write>>) -> Self {
        Plan { writes: writes.into(), refusal: None }
    }
}

/// The rules that the plan follows. Always all of them; the model checker switches them off one by one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// An own claim is adopted before another one is made.
    pub adopt: bool,
    /// A claim for another version of its owner is first written with the present one.
    pub retag: bool,
    /// Releasing is final.
    pub releasing_is_final: bool,
    /// Only what fits the request is adopted.
    pub adopt_what_fits: bool,
    /// An owner is its uid, not its name.
    pub by_uid: bool,
    /// A claim for the present version that does not fit is let go.
    pub touch: bool,
}

impl Rules {
    pub(super) const ALL: Rules = Rules {
        adopt: true,
        retag: true,
        releasing_is_final: true,
        adopt_what_fits: true,
        by_uid: true,
        touch: true,
    };
}

/// What to do for the address of one LoadBalancer and one family, out of a list of all claims.
///
/// `pools` are those that exist, in any order; `claims` are all claims, read before the LoadBalancer. `spared` are
/// addresses not to be drawn.
pub fn plan(asker: &Asker, pools: &[Pool], claims: &[Claim], spared: &Spared) -> Plan {
    plan_by(asker, pools, &Listed { claims, spared })
}

/// As [`plan`], out of whatever knows the claims.
pub fn plan_by(asker: &Asker, pools: &[Pool], register: &impl Register) -> Plan {
    plan_with(asker, pools, register, Rules::ALL)
}

pub(super) fn plan_with(asker: &Asker, pools: &[Pool], register: &impl Register, rules: Rules) -> Plan {
    if asker.deleting {
        return Plan::default();
    }
    if let Some(address) = asker.granted {
        return keep(asker, address, pools, register);
    }
    let (usable, unusable) = usable_pools(asker, pools);
    let claims = register.owned(&asker.object);
    if let Some(plan) = rules.adopt.then(|| adopt(asker, &usable, &claims, rules)).flatten() {
        return plan;
    }
    let own_version = |claim: &&Claim| {
        claim.phase == Phase::Bound
            && claim.owner.is_same_version(&asker.object)
            && Family::of(claim.address) == asker.family
    };
    if let Some(claim) = claims.iter().find(own_version).filter(|_| rules.touch) {
        let mark = format!("{}@{}", claim.name, asker.object.resource_version);
        return Plan::of([Write::Touch { owner: asker.object.clone(), mark }]);
    }
    if usable.is_empty() {
        return Plan::refused(Refusal::NoPool { pools: unusable });
    }
    let held = register.count(asker);
    if held >= asker.most_claims {
        return Plan::refused(Refusal::TooMany { held, most: asker.most_claims });
    }
    let chosen = match asker.requested {
        Some(address) => requested(asker, address, &usable, unusable, register),
        None => draw(asker, &usable, register),
    };
    match chosen {
        Err(refusal) => Plan::refused(refusal),
        Ok((address, pool)) => Plan::of([
            Write::Create { name: name::claim(address), address, pool, owner: asker.object.clone() },
            Write::Grant { owner: asker.object.clone(), address },
        ]),
    }
}

/// Whether an address would do for a LoadBalancer that has none: it is what its spec asks for, if that asks, and lies
/// in a pool that hands out addresses to it. The same judgement adopts a claim here and keeps it in
/// [`super::release`] ([`super::OwnerSeen::Present`]).
pub fn fits(asker: &Asker, address: IpAddr, pools: &[Pool]) -> bool {
    let (usable, _) = usable_pools(asker, pools);
    fits_in(asker, address, &usable)
}

fn fits_in(asker: &Asker, address: IpAddr, usable: &[&Pool]) -> bool {
    asker.requested.is_none_or(|requested| requested == address)
        && usable.iter().any(|pool| pool.contains(address))
}

/// The address is shown: see that its claim exists. A lost claim is made anew, whatever the pools say now.
fn keep(asker: &Asker, address: IpAddr, pools: &[Pool], register: &impl Register) -> Plan {
    match register.at(address) {
        Some(claim) if claim.is_bound_to(&asker.object.uid) => Plan::default(),
        Some(claim) => Plan::refused(Refusal::Conflict {
            address,
            holder: format!("{} (claim {})", claim.owner, claim.name),
        }),
        None => {
            let pool = asker
                .pool_names
                .iter()
                .find(|name| pools.iter().any(|pool| pool.name == **name && pool.contains(address)))
                .or(asker.pool_names.first())
                .cloned()
                .unwrap_or_else(|| PoolName::new("default"));
            Plan::of([Write::Create {
                name: name::claim(address),
                address,
                pool,
                owner: asker.object.clone(),
            }])
        }
    }
}

/// The group's pools that hand out addresses to this account, and why the others do not.
fn usable_pools<'p>(asker: &Asker, pools: &'p [Pool]) -> (Vec<&'p Pool>, Vec<String>) {
    let mut usable = Vec::new();
    let mut unusable = Vec::new();
    for name in &asker.pool_names {
        let why = match pools.iter().find(|pool| pool.name == *name) {
            None => "does not exist",
            Some(pool) if !pool.accepted => "is not accepted (see its conditions)",
            Some(pool) if pool.disabled => "is disabled",
            Some(pool) if !pool.admits(&asker.account) => "does not admit this account",
            Some(pool) if pool.total(asker.family) == 0 => "has no address of that family",
            Some(pool) if !pool.auto_assign && asker.requested.is_none() => {
                "gives only what spec.public-address asks for (its auto-assign is false)"
            }
            Some(pool) => {
                usable.push(pool);
                continue;
            }
        };
        unusable.push(format!("{:?} {why}", name.as_str()));
    }
    (usable, unusable)
}

fn adopt(asker: &Asker, usable: &[&Pool], claims: &[Claim], rules: Rules) -> Option<Plan> {
    let is_own = |claim: &Claim| {
        let bound = claim.phase == Phase::Bound || !rules.releasing_is_final;
        let mine = if rules.by_uid {
            claim.owner.uid == asker.object.uid
        } else {
            (&claim.owner.namespace, &claim.owner.name) == (&asker.object.namespace, &asker.object.name)
        };
        bound && mine && Family::of(claim.address) == asker.family
    };
    let fits = |claim: &Claim| !rules.adopt_what_fits || fits_in(asker, claim.address, usable);
    let same_version = |claim: &&Claim| claim.owner.resource_version == asker.object.resource_version;
    let claim = claims
        .iter()
        .filter(|claim| is_own(claim) && fits(claim))
        .min_by_key(|claim| (!same_version(claim), claim.address))?;
    let owner = asker.object.clone();
    let grant = Write::Grant { owner: owner.clone(), address: claim.address };
    Some(if same_version(&claim) || !rules.retag {
        Plan::of([grant])
    } else {
        let retag = Write::Retag {
            name: claim.name.clone(),
            uid: claim.uid.clone(),
            at: claim.resource_version.clone(),
            owner,
        };
        Plan::of([retag, grant])
    })
}

fn requested(
    asker: &Asker,
    address: IpAddr,
    usable: &[&Pool],
    unusable: Vec<String>,
    register: &impl Register,
) -> Result<(IpAddr, PoolName), Refusal> {
    let Some(pool) = usable.iter().find(|pool| pool.contains(address)) else {
        let pools = usable.iter().map(|pool| holds(pool, asker.family)).chain(unusable).collect();
        return Err(Refusal::NotInPool { address, pools });
    };
    match register.at(address) {
        None => Ok((address, pool.name.clone())),
        Some(claim) => {
            let releasing = matches!(claim.phase, Phase::Releasing { .. });
            let own = claim.owner.uid == asker.object.uid;
            let holder = if own { "this load balancer".to_owned() } else { claim.owner.to_string() };
            Err(Refusal::Taken { address, holder, releasing, waits_for: claim.waiting_for })
        }
    }
}

/// Intervals of a pool that a message shows before it leaves out the rest.
const SHOWN: usize = 4;

fn holds(pool: &Pool, family: Family) -> String {
    let mut intervals = pool.intervals().iter().filter(|interval| Family::of(interval.first()) == family);
    let shown: Vec<String> = intervals.by_ref().take(SHOWN).map(ToString::to_string).collect();
    let more = if intervals.next().is_some() { ", …" } else { "" };
    format!("{:?} holds {}{more}", pool.name.as_str(), shown.join(", "))
}

fn draw(asker: &Asker, usable: &[&Pool], register: &impl Register) -> Result<(IpAddr, PoolName), Refusal> {
    let family = asker.family;
    usable.iter().find_map(|pool| Some((register.lowest_free(pool, family)?, pool.name.clone()))).ok_or_else(
        || {
            let full = usable.iter().map(|pool| {
                let usage = register.usage(pool, family);
                FullPool {
                    name: pool.name.clone(),
                    used: usage.used,
                    asked: usage.asked,
                    total: pool.total(family),
                }
            });
            Refusal::Exhausted(Full { family, pools: full.collect() })
        },
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::id::Kind;

    fn object(name: &str, version: &str) -> ObjectVersion {
        ObjectVersion {
            kind: Kind::LoadBalancer,
            namespace: "epic-sample".into(),
            name: name.into(),
            uid: format!("uid-{name}").into(),
            resource_version: version.into(),
        }
    }

    fn asker(name: &str, version: &str) -> Asker {
        Asker {
            object: object(name, version),
            account: AccountName::parse("sample").unwrap(),
            deleting: false,
            family: Family::V4,
            requested: None,
            granted: None,
            pool_names: vec!["default".into()],
            most_claims: usize::MAX,
        }
    }

    fn claim(address: &str, owner: ObjectVersion) -> Claim {
        let address: IpAddr = address.parse().unwrap();
        Claim {
            name: name::claim(address),
            uid: format!("uid-{address}").into(),
            resource_version: "5".into(),
            address,
            pool: "default".into(),
            owner,
            phase: Phase::Bound,
            waiting_for: Vec::new(),
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn pools() -> Vec<Pool> {
        vec![Pool::parse("default", ["192.0.2.0/29"]).unwrap()]
    }

    fn planned(asker: &Asker, claims: &[Claim]) -> Plan {
        plan(asker, &pools(), claims, &Spared::default())
    }

    #[test]
    fn the_lowest_free_address_is_claimed_and_then_shown() {
        let plan = planned(&asker("web", "1"), &[claim("192.0.2.1", object("other", "1"))]);
        let Write::Create { name, address, owner, .. } = &plan.writes[0] else { panic!("{plan:?}") };
        assert_eq!((name.as_str(), *address), ("192.0.2.2", ip("192.0.2.2")));
        assert_eq!(*owner, object("web", "1"));
        assert_eq!(plan.writes[1], Write::Grant { owner: object("web", "1"), address: ip("192.0.2.2") });
    }

    #[test]
    fn an_own_claim_is_adopted_before_another_is_made() {
        let plan = planned(&asker("web", "1"), &[claim("192.0.2.4", object("web", "1"))]);
        assert_eq!(plan.writes, [Write::Grant { owner: object("web", "1"), address: ip("192.0.2.4") }]);
    }

    #[test]
    fn a_claim_for_an_older_version_is_written_anew_before_it_is_shown() {
        let plan = planned(&asker("web", "2"), &[claim("192.0.2.4", object("web", "1"))]);
        assert!(matches!(&plan.writes[0], Write::Retag { at, owner, .. }
            if at.as_str() == "5" && *owner == object("web", "2")));
        assert!(matches!(plan.writes[1], Write::Grant { .. }));
    }

    #[test]
    fn a_claim_on_its_way_out_is_never_adopted() {
        let releasing = Claim {
            phase: Phase::Releasing { release_revision: None },
            ..claim("192.0.2.1", object("web", "1"))
        };
        let drawn = planned(&asker("web", "2"), std::slice::from_ref(&releasing));
        assert!(matches!(&drawn.writes[0], Write::Create { address, .. } if *address == ip("192.0.2.2")));
        let requested =
            planned(&Asker { requested: Some(ip("192.0.2.1")), ..asker("web", "2") }, &[releasing]);
        assert!(matches!(requested.refusal, Some(Refusal::Taken { releasing: true, .. })), "{requested:?}");
    }

    #[test]
    fn a_claim_that_does_not_fit_the_request_is_not_adopted() {
        let asker = Asker { requested: Some(ip("192.0.2.5")), ..asker("web", "2") };
        let plan = planned(&asker, &[claim("192.0.2.1", object("web", "1"))]);
        assert!(matches!(&plan.writes[0], Write::Create { address, .. } if *address == ip("192.0.2.5")));
    }

    #[test]
    fn an_own_claim_that_stopped_fitting_at_this_version_is_let_go_by_moving_the_version() {
        let stranded = claim("198.51.100.9", object("web", "2"));
        let plan = planned(&asker("web", "2"), &[stranded]);
        assert!(
            matches!(&plan.writes[..], [Write::Touch { mark, .. }] if mark == "198.51.100.9@2"),
            "{plan:?}"
        );
    }

    #[test]
    fn a_requested_address_must_lie_in_a_pool_of_the_group_and_be_free() {
        let outside = planned(&Asker { requested: Some(ip("192.0.2.77")), ..asker("web", "1") }, &[]);
        assert_eq!(
            outside.refusal.unwrap().to_string(),
            "192.0.2.77 lies in no address pool of the service group that can be used: \"default\" holds \
             192.0.2.1-192.0.2.6; set spec.public-address to an address of one that holds some, or leave it out"
        );
        let taken = planned(
            &Asker { requested: Some(ip("192.0.2.1")), ..asker("web", "1") },
            &[claim("192.0.2.1", object("other", "1"))],
        );
        assert_eq!(
            taken.refusal.unwrap().to_string(),
            "192.0.2.1 belongs to LoadBalancer epic-sample/other; ask for another one, or wait until that is gone"
        );
    }

    #[test]
    fn an_address_that_is_being_released_names_the_nodes_it_waits_for() {
        let releasing = |nodes: &[&str]| {
            let claim = Claim {
                phase: Phase::Releasing { release_revision: None },
                waiting_for: nodes.iter().map(|node| NodeName::new(*node)).collect(),
                ..claim("192.0.2.1", object("other", "1"))
            };
            let asker = Asker { requested: Some(ip("192.0.2.1")), ..asker("web", "1") };
            planned(&asker, &[claim]).refusal.unwrap().to_string()
        };
        assert_eq!(
            releasing(&["node2"]),
            "192.0.2.1 is being released by LoadBalancer epic-sample/other; waits for node2; \
             of a node that is gone for good delete the EPICNode"
        );
        let many = ["a", "b", "c", "d", "e", "f", "g"];
        assert!(releasing(&many).contains("waits for a, b, c, d, e and 2 more;"), "{}", releasing(&many));
        assert!(releasing(&[]).ends_with("it is free once all EPIC nodes have forgotten that"));
    }

    #[test]
    fn a_pool_without_auto_assign_gives_only_what_is_asked_for() {
        let mut reserved = pools();
        reserved[0].auto_assign = false;
        let refusal = plan(&asker("web", "1"), &reserved, &[], &Spared::default()).refusal.unwrap();
        assert_eq!(
            refusal.to_string(),
            "no address pool can be used: \"default\" gives only what spec.public-address asks for (its \
             auto-assign is false); have one of them mended, or name another in the service group"
        );
        let asks = Asker { requested: Some(ip("192.0.2.3")), ..asker("web", "1") };
        let given = plan(&asks, &reserved, &[], &Spared::default());
        assert!(matches!(&given.writes[0], Write::Create { address, .. } if *address == ip("192.0.2.3")));
        // A later pool that gives to everybody is drawn from instead.
        reserved.push(Pool::parse("open", ["198.51.100.0/29"]).unwrap());
        let either = Asker { pool_names: vec!["default".into(), "open".into()], ..asker("web", "1") };
        let drawn = plan(&either, &reserved, &[], &Spared::default());
        assert!(matches!(&drawn.writes[0], Write::Create { address, .. } if *address == ip("198.51.100.1")));
    }

    #[test]
    fn an_account_with_as_many_claims_as_it_may_have_gets_no_other_and_keeps_what_it_shows() {
        assert_eq!((most_claims(100), most_claims(1), most_claims(u64::MAX)), (158, 9, usize::MAX));
        let releasing = |last: u8| Claim {
            phase: Phase::Releasing { release_revision: None },
            ..claim(&format!("192.0.2.{last}"), object("gone", "1"))
        };
        let claims = [releasing(1), releasing(2)];
        let full = Asker { most_claims: 2, ..asker("web", "1") };
        let refusal = planned(&full, &claims).refusal;
        assert_eq!(refusal, Some(Refusal::TooMany { held: 2, most: 2 }));
        assert_eq!(planned(&Asker { most_claims: 3, ..full.clone() }, &claims).writes.len(), 2);
        let lost = Asker { granted: Some(ip("192.0.2.5")), ..full.clone() };
        assert_eq!(planned(&lost, &claims).writes.len(), 1, "a lost claim of what it shows is made anew");
        let own = claim("192.0.2.4", object("web", "1"));
        let adopts = planned(&full, &[releasing(1), own]);
        assert_eq!(adopts.writes.len(), 1, "{adopts:?}");
        let of_another = Claim {
            owner: ObjectVersion { namespace: "epic-blue".into(), ..object("web", "1") },
            ..releasing(1)
        };
        assert_eq!(planned(&full, &[of_another, releasing(2)]).refusal, None, "another account's");
    }

    #[test]
    fn a_full_pool_says_how_full_it_is() {
        let claims: Vec<Claim> =
            (1..=6).map(|last| claim(&format!("192.0.2.{last}"), object("other", "1"))).collect();
        assert_eq!(
            planned(&asker("web", "1"), &claims).refusal.unwrap().to_string(),
            "address pool \"default\" has no free IPv4 address (6 of 6 in use); add a range to spec.addresses"
        );
    }

    #[test]
    fn pools_that_are_missing_disabled_or_closed_are_named() {
        let mut pools = pools();
        pools[0].accounts = Some(BTreeSet::new());
        let asker = Asker { pool_names: vec!["default".into(), "gone".into()], ..asker("web", "1") };
        let refusal = plan(&asker, &pools, &[], &Spared::default()).refusal.unwrap();
        assert_eq!(
            refusal.to_string(),
            "no address pool can be used: \"default\" does not admit this account, \"gone\" does not exist; \
             have one of them mended, or name another in the service group"
        );
    }

    #[test]
    fn a_pool_that_is_not_accepted_gives_nothing_asked_for_or_not_and_takes_nothing() {
        let mut pools = pools();
        pools[0].accepted = false;
        let any = asker("web", "1");
        let asks = Asker { requested: Some(ip("192.0.2.1")), ..any.clone() };
        for asker in [&any, &asks] {
            let plan = plan(asker, &pools, &[], &Spared::default());
            assert_eq!(plan.writes, []);
            assert_eq!(
                plan.refusal.unwrap().to_string(),
                "no address pool can be used: \"default\" is not accepted (see its conditions); \
                 have one of them mended, or name another in the service group"
            );
        }
        let shows = Asker { granted: Some(ip("192.0.2.1")), ..any };
        let own = claim("192.0.2.1", object("web", "1"));
        assert_eq!(plan(&shows, &pools, &[own], &Spared::default()), Plan::default());
    }

    #[test]
    fn an_address_that_is_shown_stays_whatever_the_pools_say() {
        let asker = Asker { granted: Some(ip("198.51.100.1")), ..asker("web", "9") };
        assert_eq!(planned(&asker, &[claim("198.51.100.1", object("web", "1"))]), Plan::default());
        let lost = planned(&asker, &[]);
        assert!(
            matches!(&lost.writes[..], [Write::Create { address, .. }] if *address == ip("198.51.100.1"))
        );
        let conflict = planned(&asker, &[claim("198.51.100.1", object("other", "1"))]);
        assert!(matches!(conflict.refusal, Some(Refusal::Conflict { .. })));
    }

    #[test]
    fn addresses_that_others_show_or_ask_for_are_not_drawn() {
        let spared = Spared { used: [ip("192.0.2.1")].into(), asked: [ip("192.0.2.2")].into() };
        let plan = plan(&asker("web", "1"), &pools(), &[], &spared);
        assert!(matches!(&plan.writes[0], Write::Create { address, .. } if *address == ip("192.0.2.3")));
    }

    #[test]
    fn what_is_only_asked_for_is_not_in_use() {
        let asked = (2..=6).map(|last| ip(&format!("192.0.2.{last}"))).collect();
        let spared = Spared { used: [ip("192.0.2.1"), ip("192.0.2.2")].into(), asked };
        let refusal = plan(&asker("web", "1"), &pools(), &[], &spared).refusal.unwrap();
        assert_eq!(
            refusal.to_string(),
            "address pool \"default\" has no free IPv4 address (2 of 6 in use, 4 asked for by others); \
             add a range to spec.addresses"
        );
    }

    #[test]
    fn a_request_that_can_never_be_granted_holds_nothing() {
        let asks = Asker { requested: Some(ip("192.0.2.1")), ..asker("web", "1") };
        assert_eq!(asks.may_come_for(&pools()), Some(ip("192.0.2.1")));
        assert_eq!(asker("web", "1").may_come_for(&pools()), None, "it takes any");
        let mut closed = pools();
        closed[0].accounts = Some(BTreeSet::new());
        assert_eq!(asks.may_come_for(&closed), None, "the pool is for others");
        let elsewhere = Asker { pool_names: vec!["gone".into()], ..asks.clone() };
        assert_eq!(elsewhere.may_come_for(&pools()), None, "its group has no such pool");
        let has_another = Asker { granted: Some(ip("192.0.2.2")), ..asks.clone() };
        assert_eq!(has_another.may_come_for(&pools()), None, "an address that is shown stays");
        assert_eq!(Asker { deleting: true, ..asks }.may_come_for(&pools()), None);
    }
}
