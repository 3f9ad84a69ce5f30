//! What is known of the claims, as a plan asks for it.
//!
//! A plan never needs all claims: the owner's own, the one at an address, and the lowest address that nobody has. Who
//! keeps an index answers these without a list ([`Register`]); tests and the model checker answer out of one
//! ([`Listed`]).

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Asker, Claim, Pool};
use crate::address::Family;
use crate::id::ObjectVersion;

/// Addresses that are not drawn, though no claim holds them. Courtesy and repair: what makes an allocation safe are
/// the claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spared {
    /// In use: shown by another LoadBalancer (an import without claims), or held by a claim that cannot be read.
    pub used: BTreeSet<IpAddr>,
    /// Asked for by others that may come for them ([`Asker::may_come_for`]). Never what anybody merely writes into a
    /// spec, which would empty a pool for everybody else.
    pub asked: BTreeSet<IpAddr>,
}

/// Use of the addresses of one family of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// In use, whoever claimed them.
    pub used: u128,
    /// Asked for by others, and not in use.
    pub asked: u128,
}

/// What is known of the claims.
///
/// # Caveats
/// It may be older than the truth, and each claim may be so by itself: every write of a plan fails then. But what it
/// says of the claims *of the asker* ([`Register::owned`]) must have been known before the LoadBalancer was read.
pub trait Register {
    /// The claims whose owner has the namespace and the name of `object`, of whatever uid.
    fn owned(&self, object: &ObjectVersion) -> Vec<Claim>;

    /// The claim of an address.
    fn at(&self, address: IpAddr) -> Option<Claim>;

    /// How many claims the account of `asker` has.
    fn count(&self, asker: &Asker) -> usize;

    /// The lowest address of a pool that nobody has and that is kept for nobody.
    fn lowest_free(&self, pool: &Pool, family: Family) -> Option<IpAddr>;

    /// How much of a pool is used.
    fn usage(&self, pool: &Pool, family: Family) -> Usage;
}

/// A list of all claims.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// All claims.
    pub claims: &'a [Claim],
    /// What is not drawn.
    pub spared: &'a Spared,
}

impl Listed<'_> {
    fn used(&self) -> BTreeSet<IpAddr> {
        self.claims.iter().map(|claim| claim.address).chain(self.spared.used.iter().copied()).collect()
    }
}

impl Register for Listed<'_> {
    fn owned(&self, object: &ObjectVersion) -> Vec<Claim> {
        let same =
            |claim: &&Claim| (&claim.owner.namespace, &claim.owner.name) == (&object.namespace, &object.name);
        self.claims.iter().filter(same).cloned().collect()
    }

    fn at(&self, address: IpAddr) -> Option<Claim> {
        self.claims.iter().find(|claim| claim.address == address).cloned()
    }

    fn count(&self, asker: &Asker) -> usize {
        self.claims.iter().filter(|claim| claim.owner.namespace == asker.object.namespace).count()
    }

    fn lowest_free(&self, pool: &Pool, family: Family) -> Option<IpAddr> {
        let mut taken = self.used();
        taken.extend(&self.spared.asked);
        pool.first_free(family, &taken)
    }

    fn usage(&self, pool: &Pool, family: Family) -> Usage {
        let used = self.used();
        let asked = self.spared.asked.difference(&used).copied().collect();
        Usage { used: pool.used(family, &used), asked: pool.used(family, &asked) }
    }
}
