//! The protocol for claims as a model: an API server, users, one EPIC node, and two operators that run
//! [`super::plan`] and [`super::release`]. Tests only.
//!
//! Each API call is one atomic step; operators may die between any two; one write of a dead operator may land any
//! time later. With a cache ([`Setup::cached`]) an operator plans on copies of the claims, each of which may be as old
//! as it likes, but for its own writes; catching up is a step for each. Versions and revisions are numbers that are never used twice; equal worlds are brought to one form by
//! taking their ranks.

mod visit;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use super::grant::{self, Asker, Write, plan_with};
use super::register::{Listed, Spared};
use super::release::{self, OwnerSeen, Release, release_with};
use super::{Claim, Phase, Pool};
use crate::address::Family;
use crate::explore::Model;
use crate::id::{AccountName, Kind, ObjectVersion, Uid};
use crate::name;
use crate::revision::{NodeRevision, Revision};

/// What is explored, and which rules hold.
#[derive(Clone)]
pub(super) struct Setup {
    pub load_balancers: usize,
    pub addresses: u8,
    /// What load balancers may ask for; 0 is no request. An address beyond `addresses` is in no pool.
    pub requests: &'static [u8],
    pub edits: bool,
    pub touches: bool,
    /// The pool is taken out of the group and put back.
    pub pool_edits: bool,
    pub late_write: bool,
    pub grant: grant::Rules,
    pub release: release::Rules,
    pub claims_before_asker: bool,
    pub claim_before_owner: bool,
    pub mark_by_version: bool,
    pub delete_by_uid: bool,
    pub show_by_version: bool,
    pub agent_keeps_its_place: bool,
    /// Operators read claims out of a cache that lags claim by claim.
    pub cached: bool,
    /// They read load balancers out of one, too (which is wrong).
    pub asker_from_cache: bool,
    /// Claims get other versions meanwhile: conditions, and the pool's name.
    pub claim_touches: bool,
    /// Check that everything comes to a good end.
    pub ends: bool,
}

impl Setup {
    pub(super) const FINAL: Setup = Setup {
        load_balancers: 2,
        addresses: 1,
        requests: &[0],
        edits: false,
        touches: false,
        pool_edits: false,
        late_write: false,
        grant: grant::Rules::ALL,
        release: release::Rules::ALL,
        claims_before_asker: true,
        claim_before_owner: true,
        mark_by_version: true,
        delete_by_uid: true,
        show_by_version: true,
        agent_keeps_its_place: true,
        cached: false,
        asker_from_cache: false,
        claim_touches: false,
        ends: true,
    };
}

/// A load balancer at a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ref {
    name: u8,
    uid: u8,
    rv: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LoadBalancer {
    at: Ref,
    request: u8,
    /// 0 while it shows no address.
    shown: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClaimObject {
    address: u8,
    uid: u8,
    rv: u8,
    owner: Ref,
    /// Releasing, with the revision to be passed.
    releasing: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Put {
    Create { address: u8, owner: Ref },
    Retag { address: u8, rv: u8, owner: Ref },
    Show { owner: Ref, address: u8 },
    Touch { owner: Ref },
    Mark { address: u8, rv: u8, revision: u8 },
    Delete { address: u8, uid: u8 },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Operator {
    Idle,
    /// Has listed the claims.
    ListedClaims(Vec<Option<ClaimObject>>),
    /// Has read the load balancer before the claims (a rule left out).
    GotOwner(LoadBalancer),
    GotClaim(ClaimObject),
    /// Has listed the owners before it read the claim (a rule left out), at this revision.
    ListedOwners(Vec<Option<LoadBalancer>>, u8),
    /// The next write is the last element.
    Working(Vec<Put>),
}

/// What an operator has seen by watching. Empty where it does not plan on that.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Cache {
    claims: Vec<Option<ClaimObject>>,
    owners: Vec<Option<LoadBalancer>>,
}

impl Cache {
    /// Own writes are seen at once.
    fn see(&mut self, put: &Put, claims: &[Option<ClaimObject>], owners: &[Option<LoadBalancer>]) {
        match put {
            Put::Create { address, .. }
            | Put::Retag { address, .. }
            | Put::Mark { address, .. }
            | Put::Delete { address, .. } => {
                let index = *address as usize - 1;
                if let Some(known) = self.claims.get_mut(index) {
                    known.clone_from(&claims[index]);
                }
            }
            Put::Show { owner, .. } | Put::Touch { owner } => {
                let index = owner.name as usize;
                if let Some(known) = self.owners.get_mut(index) {
                    known.clone_from(&owners[index]);
                }
            }
        }
    }
}

/// The one EPIC node: what it programs (address, name and uid of the owner), and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Node {
    revision: u8,
    programs: Vec<(u8, u8, u8)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    owners: Vec<Option<LoadBalancer>>,
    claims: Vec<Option<ClaimObject>>,
    operators: [Operator; 2],
    caches: [Cache; 2],
    late: Option<Put>,
    node: Node,
    /// What a restarted agent may still find in an old cache (a rule left out).
    cache: Option<Node>,
    /// Whether the group has the pool.
    pool: bool,
    /// The revision of the load balancers.
    revision: u8,
    next: u8,
    wrong: Option<&'static str>,
}

#[derive(Clone, Debug)]
#[expect(dead_code, reason = "read through Debug, when a run is printed")]
pub(super) enum Step {
    Create(usize, u8),
    Delete(usize),
    Edit(usize, u8),
    Touch(usize),
    EditPool(bool),
    TouchClaim(usize),
    SeeClaim(usize),
    SeeOwner(usize),
    ListClaims,
    GetOwner(usize),
    GetClaim(usize),
    ListOwners,
    Plan(Vec<Put>),
    Call(Put),
    CallAndDie(Put),
    Die,
    DieWithWriteOnTheWay(Put),
    LateWrite(Put),
    LateWriteLost,
    NodeFollows,
    OldCache,
    NodeRestartsFromOldCache,
}

/// A world in which nothing is on the way.
type Quiet = (Vec<Option<LoadBalancer>>, Vec<Option<ClaimObject>>, Node, bool);

pub(super) struct Protocol {
    pub setup: Setup,
    pool: Pool,
    ends_well: HashSet<Quiet>,
}

fn ip(address: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, address))
}

fn number(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(_) => panic!("the model knows IPv4 alone"),
    }
}

fn object(at: Ref) -> ObjectVersion {
    ObjectVersion {
        kind: Kind::LoadBalancer,
        namespace: "n".into(),
        name: at.name.to_string().into(),
        uid: Uid::new(format!("{}.{}", at.name, at.uid)),
        resource_version: at.rv.to_string().into(),
    }
}

fn reference(object: &ObjectVersion) -> Ref {
    Ref {
        name: object.name.as_str().parse().unwrap(),
        uid: object.uid.as_str().split_once('.').unwrap().1.parse().unwrap(),
        rv: object.resource_version.as_str().parse().unwrap(),
    }
}

fn claim(object_: &ClaimObject) -> Claim {
    Claim {
        name: name::claim(ip(object_.address)),
        uid: object_.uid.to_string().into(),
        resource_version: object_.rv.to_string().into(),
        address: ip(object_.address),
        pool: "default".into(),
        owner: object(object_.owner),
        phase: match object_.releasing {
            None => Phase::Bound,
            Some(revision) => Phase::Releasing { release_revision: Some(Revision::new(revision.into())) },
        },
        waiting_for: Vec::new(),
    }
}

impl Protocol {
    pub(super) fn new(setup: Setup) -> Self {
        let range = format!("{}-{}", ip(1), ip(setup.addresses));
        let pool = Pool::parse("default", [range.as_str()]).unwrap();
        Protocol { setup, pool, ends_well: HashSet::new() }
    }

    fn granting(&self, owner: &LoadBalancer, claims: &[Option<ClaimObject>], world: &World) -> Vec<Put> {
        let asker = Asker {
            object: object(owner.at),
            account: AccountName::parse("sample").unwrap(),
            deleting: false,
            family: Family::V4,
            requested: (owner.request != 0).then(|| ip(owner.request)),
            granted: (owner.shown != 0).then(|| ip(owner.shown)),
            pool_names: vec!["default".into()],
            most_claims: usize::MAX,
        };
        let claims: Vec<Claim> = claims.iter().flatten().map(claim).collect();
        let pools: &[Pool] = if world.pool { std::slice::from_ref(&self.pool) } else { &[] };
        let register = Listed { claims: &claims, spared: &Spared::default() };
        let plan = plan_with(&asker, pools, &register, self.setup.grant);
        let mut puts: Vec<Put> = plan
            .writes
            .iter()
            .map(|write| match write {
                Write::Create { address, owner, .. } => {
                    Put::Create { address: number(*address), owner: reference(owner) }
                }
                Write::Retag { name, at, owner, .. } => Put::Retag {
                    address: number(name::claim_address(name).unwrap()),
                    rv: at.as_str().parse().unwrap(),
                    owner: reference(owner),
                },
                Write::Touch { owner, .. } => Put::Touch { owner: reference(owner) },
                Write::Grant { owner, address } => {
                    Put::Show { owner: reference(owner), address: number(*address) }
                }
            })
            .collect();
        puts.reverse();
        puts
    }

    fn releasing(
        &self,
        object: &ClaimObject,
        owners: &[Option<LoadBalancer>],
        listed: u8,
        world: &World,
    ) -> Vec<Put> {
        let owner =
            owners[object.owner.name as usize].as_ref().filter(|owner| owner.at.uid == object.owner.uid);
        let seen = match owner {
            None => OwnerSeen::Gone,
            Some(owner) => OwnerSeen::Present {
                resource_version: owner.at.rv.to_string().into(),
                shown: (owner.shown != 0).then(|| ip(owner.shown)).into_iter().collect(),
                fits: world.pool && (owner.request == 0 || owner.request == object.address),
            },
        };
        let nodes = [NodeRevision {
            node: "node1".into(),
            revision: Some(Revision::new(world.node.revision.into())),
            live: true,
        }];
        let address = object.address;
        let listed = Revision::new(listed.into());
        match release_with(&claim(object), &seen, listed, &nodes, self.setup.release) {
            Release::Keep | Release::Wait { .. } => Vec::new(),
            Release::Mark { release_revision, .. } => {
                vec![Put::Mark { address, rv: object.rv, revision: release_revision.get() as u8 }]
            }
            Release::Delete { .. } => vec![Put::Delete { address, uid: object.uid }],
        }
    }

    fn is_doomed(&self, world: &World, put: &Put) -> bool {
        let claim = |address: u8| world.claims[address as usize - 1].as_ref();
        match put {
            Put::Create { address, .. } => claim(*address).is_some(),
            Put::Retag { address, rv, .. } => claim(*address).is_none_or(|claim| claim.rv != *rv),
            Put::Mark { address, rv, .. } => {
                claim(*address).is_none_or(|claim| self.setup.mark_by_version && claim.rv != *rv)
            }
            Put::Delete { address, uid } => {
                claim(*address).is_none_or(|claim| self.setup.delete_by_uid && claim.uid != *uid)
            }
            Put::Show { owner, .. } | Put::Touch { owner } => {
                world.owners[owner.name as usize].as_ref().is_none_or(|known| {
                    known.at.uid != owner.uid || (self.setup.show_by_version && known.at.rv != owner.rv)
                })
            }
        }
    }

    /// Makes a write; `false` for a conflict.
    fn call(&self, world: &mut World, put: &Put) -> bool {
        // A Create is never hopeless for good (the other claim may go), but it fails now.
        if self.is_doomed(world, put) {
            return false;
        }
        world.next += 1;
        let version = world.next;
        match put {
            Put::Create { address, owner } => {
                world.claims[*address as usize - 1] = Some(ClaimObject {
                    address: *address,
                    uid: version,
                    rv: version,
                    owner: *owner,
                    releasing: None,
                });
            }
            Put::Retag { address, owner, .. } => {
                if let Some(claim) = &mut world.claims[*address as usize - 1] {
                    claim.owner = *owner;
                    claim.rv = version;
                }
            }
            Put::Mark { address, revision, .. } => {
                if let Some(claim) = &mut world.claims[*address as usize - 1] {
                    claim.releasing = Some(*revision);
                    claim.rv = version;
                }
            }
            Put::Delete { address, .. } => world.claims[*address as usize - 1] = None,
            Put::Touch { owner } => {
                if let Some(known) = &mut world.owners[owner.name as usize] {
                    known.at.rv = version;
                    world.revision = version;
                }
            }
            Put::Show { owner, address } => {
                if let Some(known) = &mut world.owners[owner.name as usize] {
                    if known.shown != 0 && known.shown != *address {
                        world.wrong = Some("an address changed");
                    } else if known.request != 0 && known.request != *address {
                        world.wrong = Some("an address is not the request");
                    }
                    known.shown = *address;
                    known.at.rv = version;
                    world.revision = version;
                }
            }
        }
        true
    }

    /// Brings equal worlds to one form. Of a version it only matters whether it is the present one; of a revision,
    /// whether the node has passed it; of a uid, whether it is the same. Operators have no names, and a write that
    /// must fail is as good as none.
    fn normal(&self, mut world: World) -> World {
        for index in 0..2 {
            let hopeless = match &world.operators[index] {
                Operator::Working(puts) => puts.last().is_none_or(|put| self.is_hopeless(&world, put)),
                Operator::GotClaim(known) => {
                    let now = world.claims[known.address as usize - 1].as_ref();
                    let same_uid = now.is_some_and(|now| now.uid == known.uid) || !self.setup.delete_by_uid;
                    let same_rv = now.is_some_and(|now| now.rv == known.rv) || !self.setup.mark_by_version;
                    if known.releasing.is_some() { !same_uid } else { !same_rv }
                }
                _ => false,
            };
            if hopeless {
                world.operators[index] = Operator::Idle;
            }
        }
        if world.late.as_ref().is_some_and(|put| self.is_hopeless(&world, put)) {
            world.late = None;
        }
        let owners: Vec<Option<Ref>> =
            world.owners.iter().map(|owner| owner.as_ref().map(|owner| owner.at)).collect();
        let mut uids: Vec<(u8, u8)> = Vec::new();
        world.each_owner(&mut |at, _| uids.push((at.name, at.uid)));
        world.each_programmed(&mut |name, uid| uids.push((name, *uid)));
        uids.sort_unstable();
        uids.dedup();
        let rank = |name: u8, uid: u8| {
            let of_name = || uids.iter().filter(|known| known.0 == name);
            of_name().position(|known| known.1 == uid).map_or(0, |rank| rank as u8 + 1)
        };
        world.each_owner(&mut |at, is_snapshot| {
            // What an operator read and what a claim was made for count as two different old versions.
            let old = if is_snapshot { 2 } else { 0 };
            at.rv = if owners[at.name as usize] == Some(*at) { 1 } else { old };
            at.uid = rank(at.name, at.uid);
        });
        world.each_programmed(&mut |name, uid| *uid = rank(name, *uid));
        let claims: Vec<(u8, u8)> = world
            .claims
            .iter()
            .map(|claim| claim.as_ref().map_or((u8::MAX, u8::MAX), |claim| (claim.uid, claim.rv)))
            .collect();
        world.each_claim(&mut |address, uid, rv| {
            let (now_uid, now_rv) = claims[address as usize - 1];
            *uid = u8::from(*uid == now_uid);
            *rv = u8::from(*rv == now_rv);
        });
        let passed = world.node.revision;
        world.each_revision(&mut |revision| *revision = u8::from(*revision > passed));
        world.next = 10;
        if (&world.operators[0], &world.caches[0]) > (&world.operators[1], &world.caches[1]) {
            world.operators.swap(0, 1);
            world.caches.swap(0, 1);
        }
        world
    }

    /// Whether a write must fail now and for ever. A Create may still find its name free again.
    fn is_hopeless(&self, world: &World, put: &Put) -> bool {
        !matches!(put, Put::Create { .. }) && self.is_doomed(world, put)
    }

    fn users(&self, world: &World, out: &mut Vec<(Step, World)>) {
        if self.setup.pool_edits {
            out.push((Step::EditPool(!world.pool), World { pool: !world.pool, ..world.clone() }));
        }
        if self.setup.claim_touches {
            for index in (0..world.claims.len()).filter(|index| world.claims[*index].is_some()) {
                let mut next = world.clone();
                next.next += 1;
                let version = next.next;
                if let Some(claim) = &mut next.claims[index] {
                    claim.rv = version;
                }
                out.push((Step::TouchClaim(index), next));
            }
        }
        for index in 0..world.owners.len() {
            let mut add = |step: Step, change: &dyn Fn(&mut World, u8)| {
                let mut next = world.clone();
                next.next += 1;
                let version = next.next;
                next.revision = version;
                change(&mut next, version);
                out.push((step, next));
            };
            let Some(owner) = &world.owners[index] else {
                for request in self.setup.requests {
                    add(Step::Create(index, *request), &|next, version| {
                        let at = Ref { name: index as u8, uid: version, rv: version };
                        next.owners[index] = Some(LoadBalancer { at, request: *request, shown: 0 });
                    });
                }
                continue;
            };
            add(Step::Delete(index), &|next, _| next.owners[index] = None);
            let changed = |next: &mut World, version: u8, request: u8| {
                if let Some(owner) = &mut next.owners[index] {
                    owner.request = request;
                    owner.at.rv = version;
                }
            };
            if self.setup.edits && owner.shown == 0 {
                for request in self.setup.requests.iter().filter(|request| **request != owner.request) {
                    add(Step::Edit(index, *request), &|next, version| changed(next, version, *request));
                }
            }
            if self.setup.touches {
                add(Step::Touch(index), &|next, version| changed(next, version, owner.request));
            }
        }
    }

    fn operator(&self, world: &World, index: usize, out: &mut Vec<(Step, World)>) {
        let with = |operator: Operator| {
            let mut next = world.clone();
            next.operators[index] = operator;
            next
        };
        match &world.operators[index] {
            Operator::Idle => {
                if self.setup.cached {
                    self.cached(world, index, out);
                } else if self.setup.claims_before_asker {
                    out.push((Step::ListClaims, with(Operator::ListedClaims(world.claims.clone()))));
                } else {
                    for owner in world.owners.iter().flatten() {
                        let step = Step::GetOwner(owner.at.name.into());
                        out.push((step, with(Operator::GotOwner(owner.clone()))));
                    }
                }
                if !self.setup.claim_before_owner {
                    out.push((
                        Step::ListOwners,
                        with(Operator::ListedOwners(world.owners.clone(), world.revision)),
                    ));
                    return;
                }
                for claim in world.claims.iter().flatten() {
                    out.push((Step::GetClaim(claim.address.into()), with(Operator::GotClaim(claim.clone()))));
                }
            }
            Operator::GotOwner(owner) => {
                let puts = self.granting(owner, &world.claims, world);
                out.push((Step::Plan(puts.clone()), with(Operator::Working(puts))));
            }
            Operator::ListedClaims(claims) => {
                for owner in world.owners.iter().flatten() {
                    let puts = self.granting(owner, claims, world);
                    out.push((Step::Plan(puts.clone()), with(Operator::Working(puts))));
                }
            }
            Operator::GotClaim(claim) => {
                let puts = self.releasing(claim, &world.owners, world.revision, world);
                out.push((Step::Plan(puts.clone()), with(Operator::Working(puts))));
            }
            Operator::ListedOwners(owners, revision) => {
                for claim in world.claims.iter().flatten() {
                    let puts = self.releasing(claim, owners, *revision, world);
                    out.push((Step::Plan(puts.clone()), with(Operator::Working(puts))));
                }
            }
            Operator::Working(puts) => {
                let Some((put, rest)) = puts.split_last() else { return };
                let mut done = with(Operator::Working(rest.to_vec()));
                if self.call(&mut done, put) {
                    done.caches[index].see(put, &done.claims, &done.owners);
                    if !rest.is_empty() {
                        let mut dead = done.clone();
                        dead.operators[index] = Operator::Idle;
                        out.push((Step::CallAndDie(put.clone()), dead));
                    }
                    out.push((Step::Call(put.clone()), done));
                }
                out.push((Step::Die, with(Operator::Idle)));
                if self.setup.late_write && world.late.is_none() {
                    let mut next = with(Operator::Idle);
                    next.late = Some(put.clone());
                    out.push((Step::DieWithWriteOnTheWay(put.clone()), next));
                }
            }
        }
    }

    /// An operator that plans on what it has seen. The claims are read before the load balancer: what it has not seen
    /// of them by then may as well come later, so both are one step.
    fn cached(&self, world: &World, index: usize, out: &mut Vec<(Step, World)>) {
        let cache = &world.caches[index];
        for (number, now) in world.claims.iter().enumerate().filter(|(at, now)| cache.claims[*at] != **now) {
            let mut next = world.clone();
            next.caches[index].claims[number].clone_from(now);
            out.push((Step::SeeClaim(number), next));
        }
        if self.setup.asker_from_cache {
            for (number, now) in
                world.owners.iter().enumerate().filter(|(at, now)| cache.owners[*at] != **now)
            {
                let mut next = world.clone();
                next.caches[index].owners[number].clone_from(now);
                out.push((Step::SeeOwner(number), next));
            }
        }
        let owners = if self.setup.asker_from_cache { &cache.owners } else { &world.owners };
        for owner in owners.iter().flatten() {
            let puts = self.granting(owner, &cache.claims, world);
            if !puts.is_empty() {
                let mut next = world.clone();
                next.operators[index] = Operator::Working(puts.clone());
                out.push((Step::Plan(puts), next));
            }
        }
    }

    fn follow(world: &mut World) {
        world.node = Node {
            revision: world.revision,
            programs: world
                .owners
                .iter()
                .flatten()
                .filter(|owner| owner.shown != 0)
                .map(|owner| (owner.shown, owner.at.name, owner.at.uid))
                .collect(),
        };
    }

    /// Users and faults have stopped; one operator and the node go on until nothing changes.
    fn run_to_the_end(&self, world: &World) -> Option<String> {
        let mut world = World {
            operators: [Operator::Idle, Operator::Idle],
            caches: [Cache::default(), Cache::default()],
            late: None,
            cache: None,
            ..world.clone()
        };
        for _ in 0..20 {
            let mut changed = false;
            Self::follow(&mut world);
            for claim in world.claims.clone().iter().flatten() {
                let mut puts = self.releasing(claim, &world.owners, world.revision, &world);
                while let Some(put) = puts.pop() {
                    changed |= self.call(&mut world, &put);
                }
            }
            for index in 0..world.owners.len() {
                let Some(owner) = world.owners[index].clone() else { continue };
                let mut puts = self.granting(&owner, &world.claims, &world);
                while let Some(put) = puts.pop() {
                    if !self.call(&mut world, &put) {
                        break;
                    }
                    changed = true;
                }
            }
            if let Some(wrong) = self.wrong(&world) {
                return Some(wrong);
            }
            if !changed {
                return self.wrong_at_rest(&world);
            }
            world = self.normal(world);
        }
        Some("an operator alone does not come to rest".into())
    }

    fn wrong_at_rest(&self, world: &World) -> Option<String> {
        let owners = || world.owners.iter().flatten();
        for claim in world.claims.iter().flatten() {
            let shown = owners().any(|owner| owner.at.uid == claim.owner.uid && owner.shown == claim.address);
            if !shown {
                return Some("a claim is left that nobody shows".into());
            }
        }
        let is_free = |address: u8| {
            world.pool && address <= self.setup.addresses && owners().all(|owner| owner.shown != address)
        };
        let served = owners().filter(|owner| owner.shown == 0).all(|owner| match owner.request {
            0 => !(1..=self.setup.addresses).any(is_free),
            request => !is_free(request),
        });
        (!served).then(|| "a load balancer that could have an address has none".into())
    }
}

impl Model for Protocol {
    type State = World;
    type Step = Step;

    fn initial(&self) -> World {
        World {
            owners: vec![None; self.setup.load_balancers],
            claims: vec![None; self.setup.addresses.into()],
            operators: [Operator::Idle, Operator::Idle],
            caches: std::array::from_fn(|_| Cache {
                claims: if self.setup.cached { vec![None; self.setup.addresses.into()] } else { Vec::new() },
                owners: if self.setup.asker_from_cache {
                    vec![None; self.setup.load_balancers]
                } else {
                    Vec::new()
                },
            }),
            late: None,
            node: Node { revision: 0, programs: Vec::new() },
            cache: None,
            pool: true,
            revision: 0,
            next: 10,
            wrong: None,
        }
    }

    fn steps(&self, world: &World, out: &mut Vec<(Step, World)>) {
        self.users(world, out);
        for index in 0..2 {
            self.operator(world, index, out);
        }
        if let Some(put) = &world.late {
            let mut next = World { late: None, ..world.clone() };
            out.push((Step::LateWriteLost, next.clone()));
            if self.call(&mut next, put) {
                out.push((Step::LateWrite(put.clone()), next));
            }
        }
        let mut next = world.clone();
        Self::follow(&mut next);
        out.push((Step::NodeFollows, next));
        if !self.setup.agent_keeps_its_place {
            match &world.cache {
                None => {
                    out.push((Step::OldCache, World { cache: Some(world.node.clone()), ..world.clone() }))
                }
                Some(old) => {
                    // It still reports the revision that it reported before.
                    let node = Node { revision: world.node.revision, programs: old.programs.clone() };
                    out.push((Step::NodeRestartsFromOldCache, World { node, ..world.clone() }));
                }
            }
        }
        let normal: Vec<(Step, World)> =
            out.drain(..).map(|(step, next)| (step, self.normal(next))).collect();
        out.extend(normal);
    }

    fn wrong(&self, world: &World) -> Option<String> {
        if let Some(wrong) = world.wrong {
            return Some(wrong.into());
        }
        for owner in world.owners.iter().flatten().filter(|owner| owner.shown != 0) {
            let held = world.claims[owner.shown as usize - 1]
                .as_ref()
                .is_some_and(|claim| claim.owner.uid == owner.at.uid && claim.releasing.is_none());
            if !held {
                return Some("an address is shown without a claim that holds it".into());
            }
            let other = world.node.programs.iter().any(|(address, name, uid)| {
                *address == owner.shown && (*name, *uid) != (owner.at.name, owner.at.uid)
            });
            if other {
                return Some("a node serves an address for its old owner".into());
            }
        }
        None
    }

    fn wrong_in_the_end(&mut self, world: &World) -> Option<String> {
        let key = (world.owners.clone(), world.claims.clone(), world.node.clone(), world.pool);
        if !self.setup.ends || !self.ends_well.insert(key) {
            return None;
        }
        self.run_to_the_end(world)
    }
}
