//! Every mention of an object in a world: by these, equal worlds are brought to one form.

use super::{ClaimObject, Operator, Put, Ref, World};

impl World {
    /// Every mention of a load balancer at a version, and whether it is what an operator read.
    pub(super) fn each_owner(&mut self, visit: &mut dyn FnMut(&mut Ref, bool)) {
        fn put(put: &mut Put, visit: &mut dyn FnMut(&mut Ref, bool)) {
            match put {
                Put::Create { owner, .. }
                | Put::Retag { owner, .. }
                | Put::Show { owner, .. }
                | Put::Touch { owner } => visit(owner, true),
                Put::Mark { .. } | Put::Delete { .. } => {}
            }
        }
        self.owners.iter_mut().flatten().for_each(|owner| visit(&mut owner.at, false));
        self.claims.iter_mut().flatten().for_each(|claim| visit(&mut claim.owner, false));
        for cache in &mut self.caches {
            cache.claims.iter_mut().flatten().for_each(|claim| visit(&mut claim.owner, false));
            cache.owners.iter_mut().flatten().for_each(|owner| visit(&mut owner.at, true));
        }
        for operator in &mut self.operators {
            match operator {
                Operator::Idle => {}
                Operator::ListedClaims(claims) => {
                    claims.iter_mut().flatten().for_each(|claim| visit(&mut claim.owner, false));
                }
                Operator::GotOwner(owner) => visit(&mut owner.at, true),
                Operator::GotClaim(claim) => visit(&mut claim.owner, false),
                Operator::ListedOwners(owners, _) => {
                    owners.iter_mut().flatten().for_each(|owner| visit(&mut owner.at, true));
                }
                Operator::Working(puts) => puts.iter_mut().for_each(|known| put(known, visit)),
            }
        }
        if let Some(late) = &mut self.late {
            put(late, visit);
        }
    }

    /// Every owner that the node programs, by name and uid.
    pub(super) fn each_programmed(&mut self, visit: &mut dyn FnMut(u8, &mut u8)) {
        for node in std::iter::once(&mut self.node).chain(&mut self.cache) {
            node.programs.iter_mut().for_each(|(_, name, uid)| visit(*name, uid));
        }
    }

    /// Every mention of a claim: address, uid, version. What does not mention one of the two gives a place for it.
    pub(super) fn each_claim(&mut self, visit: &mut dyn FnMut(u8, &mut u8, &mut u8)) {
        fn put(put: &mut Put, visit: &mut dyn FnMut(u8, &mut u8, &mut u8)) {
            match put {
                Put::Create { .. } | Put::Show { .. } | Put::Touch { .. } => {}
                Put::Retag { address, rv, .. } | Put::Mark { address, rv, .. } => visit(*address, &mut 0, rv),
                Put::Delete { address, uid } => visit(*address, uid, &mut 0),
            }
        }
        for claim in self.claims.iter_mut().flatten() {
            visit(claim.address, &mut claim.uid, &mut claim.rv);
        }
        for claim in self.caches.iter_mut().flat_map(|cache| &mut cache.claims).flatten() {
            visit(claim.address, &mut claim.uid, &mut claim.rv);
        }
        for operator in &mut self.operators {
            match operator {
                Operator::GotClaim(claim) => visit(claim.address, &mut claim.uid, &mut claim.rv),
                Operator::ListedClaims(claims) => {
                    for claim in claims.iter_mut().flatten() {
                        visit(claim.address, &mut claim.uid, &mut claim.rv);
                    }
                }
                Operator::Working(puts) => puts.iter_mut().for_each(|known| put(known, visit)),
                _ => {}
            }
        }
        if let Some(late) = &mut self.late {
            put(late, visit);
        }
    }

    /// Every revision.
    pub(super) fn each_revision(&mut self, visit: &mut dyn FnMut(&mut u8)) {
        fn claim(claim: &mut ClaimObject, visit: &mut dyn FnMut(&mut u8)) {
            if let Some(revision) = &mut claim.releasing {
                visit(revision);
            }
        }
        fn put(put: &mut Put, visit: &mut dyn FnMut(&mut u8)) {
            if let Put::Mark { revision, .. } = put {
                visit(revision);
            }
        }
        self.claims.iter_mut().flatten().for_each(|known| claim(known, visit));
        for known in self.caches.iter_mut().flat_map(|cache| &mut cache.claims).flatten() {
            claim(known, visit);
        }
        for operator in &mut self.operators {
            match operator {
                Operator::GotClaim(known) => claim(known, visit),
                Operator::ListedClaims(claims) => {
                    claims.iter_mut().flatten().for_each(|known| claim(known, visit));
                }
                Operator::ListedOwners(_, revision) => visit(revision),
                Operator::Working(puts) => puts.iter_mut().for_each(|known| put(known, visit)),
                Operator::Idle | Operator::GotOwner(_) => {}
            }
        }
        if let Some(late) = &mut self.late {
            put(late, visit);
        }
        for node in std::iter::once(&mut self.node).chain(&mut self.cache) {
            visit(&mut node.revision);
        }
        visit(&mut self.revision);
    }
}
