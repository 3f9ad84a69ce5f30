//! Releasing: when a claim's address may be given to somebody else.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Claim, Phase};
use crate::address::Family;
use crate::id::{NodeName, ObjectName, ObjectVersion, ResourceVersion, Uid};
use crate::revision::{NodeRevision, Revision, behind};

/// The owner of a claim, read after the claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnerSeen {
    /// No object has the owner's uid.
    Gone,
    /// It is there.
    Present {
        /// Its version.
        resource_version: ResourceVersion,
        /// The addresses that its status shows, of both families.
        shown: BTreeSet<IpAddr>,
        /// Whether the claim would still fit: what its spec asks for, and the pools of its group.
        fits: bool,
    },
}

/// What to do with a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Release {
    /// Its owner has it, or may still come for it.
    Keep,
    /// PUT its status: phase Releasing, with this revision.
    Mark {
        /// The claim.
        name: ObjectName,
        /// Write at this version only.
        at: ResourceVersion,
        /// What the nodes must have passed.
        release_revision: Revision,
    },
    /// Nodes may still program the old owner.
    Wait {
        /// Those that have not passed the revision; a node that is gone for good is waited for until its EPICNode is
        /// deleted.
        nodes: Vec<NodeName>,
    },
    /// DELETE it, with this uid as precondition.
    Delete {
        /// The claim.
        name: ObjectName,
        /// The uid that was read in Releasing.
        uid: Uid,
    },
}

/// The rules of releasing, for the model checker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// A living owner's surplus claim is released.
    pub release_surplus: bool,
    /// A claim made for the owner's present version is kept: its write may be on the way.
    pub tag: bool,
    /// Nodes are waited for.
    pub wait: bool,
    /// What does not fit any more is released.
    pub release_misfit: bool,
}

impl Rules {
    pub(super) const ALL: Rules =
        Rules { release_surplus: true, tag: true, wait: true, release_misfit: true };
}

/// What to do with a claim, given its owner as it was read *after* the claim.
///
/// `listed` is the revision of the list of LoadBalancers that showed `owner`; `nodes` are all EPICNodes that exist.
pub fn release(claim: &Claim, owner: &OwnerSeen, listed: Revision, nodes: &[NodeRevision]) -> Release {
    release_with(claim, owner, listed, nodes, Rules::ALL)
}

pub(super) fn release_with(
    claim: &Claim,
    owner: &OwnerSeen,
    listed: Revision,
    nodes: &[NodeRevision],
    rules: Rules,
) -> Release {
    let mark = || Release::Mark {
        name: claim.name.clone(),
        at: claim.resource_version.clone(),
        release_revision: listed,
    };
    match claim.phase {
        Phase::Bound if is_releasable(claim, owner, rules) => mark(),
        Phase::Bound => Release::Keep,
        // Marked by hand. It is final all the same; the owner has lost it unless it shows it.
        Phase::Releasing { release_revision: None } => match owner {
            OwnerSeen::Present { shown, .. } if shown.contains(&claim.address) => Release::Keep,
            _ => mark(),
        },
        Phase::Releasing { release_revision: Some(revision) } => {
            let nodes = if rules.wait { behind(nodes, revision) } else { Vec::new() };
            if nodes.is_empty() {
                Release::Delete { name: claim.name.clone(), uid: claim.uid.clone() }
            } else {
                Release::Wait { nodes }
            }
        }
    }
}

/// The uid is gone; or the owner is at another version, does not show the address, and has another one of this
/// family or does not fit any more (design §4). Anything else stays.
fn is_releasable(claim: &Claim, owner: &OwnerSeen, rules: Rules) -> bool {
    match owner {
        OwnerSeen::Gone => true,
        OwnerSeen::Present { resource_version, shown, fits } => {
            let family = Family::of(claim.address);
            let has_another =
                shown.iter().any(|address| *address != claim.address && Family::of(*address) == family);
            let moved_on = !rules.tag || *resource_version != claim.owner.resource_version;
            moved_on
                && !shown.contains(&claim.address)
                && ((has_another && rules.release_surplus) || (!fits && rules.release_misfit))
        }
    }
}

/// The nodes that may still program a load balancer that is gone, for IDs: a *requested* group or service ID may have
/// been such a load balancer's, and is granted when nobody is named here
/// ([`crate::allocation::Request::programmed_by`]).
///
/// Claims are the witnesses. A load balancer was only ever programmed with an address, and its claim lasts until
/// every node has passed the revision that showed it gone; so no memory is needed, and a claim on its way out makes
/// the agents report. `concerns` says whether a gone owner may have had the value: for a service ID those of the
/// account's namespace, for a group ID all. `is_alive` says whether a load balancer of that uid is listed.
pub fn remembered_by(
    claims: &[Claim],
    concerns: impl Fn(&ObjectVersion) -> bool,
    is_alive: impl Fn(&Uid) -> bool,
    nodes: &[NodeRevision],
) -> Vec<NodeName> {
    let mut remembering: BTreeSet<NodeName> = BTreeSet::new();
    for claim in claims.iter().filter(|claim| concerns(&claim.owner) && !is_alive(&claim.owner.uid)) {
        match claim.phase {
            Phase::Releasing { release_revision: Some(revision) } => {
                remembering.extend(behind(nodes, revision));
            }
            // Not marked yet: nothing is known of any node.
            _ => remembering.extend(nodes.iter().map(|node| node.node.clone())),
        }
    }
    remembering.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Kind;

    fn claim(phase: Phase) -> Claim {
        Claim {
            name: "192.0.2.1".into(),
            uid: "claim-uid".into(),
            resource_version: "5".into(),
            address: "192.0.2.1".parse().unwrap(),
            pool: "default".into(),
            owner: ObjectVersion {
                kind: Kind::LoadBalancer,
                namespace: "epic-sample".into(),
                name: "web".into(),
                uid: "web-uid".into(),
                resource_version: "1".into(),
            },
            phase,
            waiting_for: Vec::new(),
        }
    }

    fn owner(version: &str, shown: &[&str], fits: bool) -> OwnerSeen {
        OwnerSeen::Present {
            resource_version: version.into(),
            shown: shown.iter().map(|text| text.parse().unwrap()).collect(),
            fits,
        }
    }

    fn judged(claim: &Claim, owner: &OwnerSeen) -> Release {
        release(claim, owner, Revision::new(40), &[])
    }

    #[test]
    fn a_claim_of_a_gone_owner_is_released() {
        let expected =
            Release::Mark { name: "192.0.2.1".into(), at: "5".into(), release_revision: Revision::new(40) };
        assert_eq!(judged(&claim(Phase::Bound), &OwnerSeen::Gone), expected);
    }

    #[test]
    fn a_claim_stays_while_its_owner_shows_it_or_may_come_for_it() {
        let bound = claim(Phase::Bound);
        assert_eq!(judged(&bound, &owner("7", &["192.0.2.1"], false)), Release::Keep);
        assert_eq!(judged(&bound, &owner("1", &[], true)), Release::Keep, "its write may be on the way");
        assert_eq!(judged(&bound, &owner("1", &[], false)), Release::Keep, "its write may be on the way");
        assert_eq!(judged(&bound, &owner("7", &[], true)), Release::Keep, "it may be adopted");
        assert_eq!(judged(&bound, &owner("7", &["2001:db8::1"], true)), Release::Keep, "another family");
    }

    #[test]
    fn a_surplus_or_misfitting_claim_of_a_living_owner_is_released() {
        let bound = claim(Phase::Bound);
        assert!(matches!(judged(&bound, &owner("7", &["192.0.2.9"], true)), Release::Mark { .. }));
        assert!(matches!(judged(&bound, &owner("7", &[], false)), Release::Mark { .. }));
    }

    #[test]
    fn a_released_claim_lasts_until_every_node_has_forgotten_its_owner() {
        let releasing = claim(Phase::Releasing { release_revision: Some(Revision::new(40)) });
        let node = |name: &str, revision: Option<u64>, live| NodeRevision {
            node: name.into(),
            revision: revision.map(Revision::new),
            live,
        };
        let judge = |nodes: &[NodeRevision]| release(&releasing, &OwnerSeen::Gone, Revision::new(90), nodes);
        assert_eq!(
            judge(&[node("a", Some(40), true), node("b", Some(39), false), node("c", None, true)]),
            Release::Wait { nodes: vec!["b".into(), "c".into()] }
        );
        assert_eq!(
            judge(&[node("a", Some(40), true), node("b", Some(41), true)]),
            Release::Delete { name: "192.0.2.1".into(), uid: "claim-uid".into() }
        );
    }

    #[test]
    fn a_gone_load_balancer_is_remembered_by_the_nodes_its_claim_waits_for() {
        let nodes = [("a", 41), ("b", 39)].map(|(node, revision)| NodeRevision {
            node: node.into(),
            revision: Some(Revision::new(revision)),
            live: true,
        });
        let releasing = claim(Phase::Releasing { release_revision: Some(Revision::new(40)) });
        let remembered = |claim: &Claim, alive: bool, concerned: bool| {
            remembered_by(std::slice::from_ref(claim), |_| concerned, |_| alive, &nodes)
        };
        assert_eq!(remembered(&releasing, false, true), ["b".into()]);
        assert_eq!(remembered(&claim(Phase::Bound), false, true), ["a".into(), "b".into()], "not marked yet");
        assert_eq!(remembered(&releasing, true, true), [], "its owner lives and keeps its IDs");
        assert_eq!(remembered(&releasing, false, false), []);
    }
}
