//! What releasing an address by hand would mean. Pure.
//!
//! The rules are the operator's own (`epic_model::claim::release`), with one liberty: a claim whose LoadBalancer lives
//! but does not show the address may be let go although it would still fit. What is not taken is the risk of two
//! owners: a claim made for the very version of the LoadBalancer that is stored may be half of a grant whose other
//! half is under way, and an address that is shown is in use.

use std::fmt::Write as _;
use std::net::IpAddr;

use epic_crds::{AddressClaim, LoadBalancer};
use epic_model::revision::{NodeRevision, Revision};
use kube::ResourceExt as _;

/// The owner of a claim, read after the claim.
#[derive(Clone, Copy, Debug)]
pub enum Owner<'a> {
    /// No object has the owner's uid.
    Gone,
    /// There is one that this program cannot read.
    Unreadable,
    /// It is there.
    Present(&'a LoadBalancer),
}

/// A node that may still have the address in its maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Its name.
    pub node: String,
    /// Whether its agent lives.
    pub live: bool,
}

/// What releasing would mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: nobody has it.
    NotClaimed,
    /// It must not be released.
    Refused {
        /// Why, and what to do.
        why: String,
    },
    /// Mark the claim; the operator does the rest.
    Mark {
        /// `namespace/name` of the owner.
        owner: String,
        /// Whether the owner still exists.
        owner_lives: bool,
        /// What nodes must have passed.
        release_revision: Revision,
    },
    /// Delete the claim.
    Delete {
        /// `namespace/name` of the last owner.
        owner: String,
        /// Nodes that may still have the address in their maps.
        behind: Vec<Behind>,
    },
}

/// What releasing `address` would mean. `listed` is the resourceVersion of the list that showed `owner`; `nodes` are
/// all EPICNodes there are.
pub fn judge(
    address: IpAddr,
    claim: &AddressClaim,
    owner: &Owner<'_>,
    listed: &str,
    nodes: &[NodeRevision],
) -> Verdict {
    let spec = &claim.spec.owner;
    let name = format!("{}/{}", spec.namespace, spec.name);
    let refused = |why: String| Verdict::Refused { why };
    if let Owner::Present(balancer) = owner
        && shows(balancer, address)
    {
        return refused(format!(
            "LoadBalancer {name} has it. Delete the LoadBalancer: kubectl -n {} delete loadbalancers.epic.acnodal.io {}",
            spec.namespace, spec.name
        ));
    }
    if matches!(owner, Owner::Unreadable) {
        return refused(format!(
            "LoadBalancer {name}, its owner, cannot be read, so it may have it. Repair that object first, or use an epicctl of the operator's version"
        ));
    }
    let revision = claim.status.as_ref().and_then(|status| status.release_revision.as_deref());
    if let (true, Some(Ok(awaited))) = (claim.is_releasing(), revision.map(str::parse::<Revision>)) {
        let behind = nodes
            .iter()
            .filter(|node| !node.has_passed(awaited))
            .map(|node| Behind { node: node.node.to_string(), live: node.live })
            .collect();
        return Verdict::Delete { owner: name, behind };
    }
    let owner_lives = matches!(owner, Owner::Present(_));
    if let Owner::Present(balancer) = owner
        && !claim.is_releasing()
        && balancer.resource_version().as_deref() == Some(spec.resource_version.as_str())
    {
        return refused(format!(
            "it was just claimed for LoadBalancer {name}, which may be about to show it. If nothing happens, the operator does not run (epicctl get)"
        ));
    }
    match listed.parse() {
        Ok(release_revision) => Verdict::Mark { owner: name, owner_lives, release_revision },
        Err(error) => {
            refused(format!("the API server's revisions cannot be compared with those of nodes: {error}"))
        }
    }
}

fn shows(balancer: &LoadBalancer, address: IpAddr) -> bool {
    let status = balancer.status.iter();
    let mut shown = status.flat_map(|status| status.public_address.iter().chain(&status.alt_address));
    shown.any(|text| text.parse() == Ok(address))
}

/// What will be done and what follows from it, for people.
pub fn describe(address: IpAddr, verdict: &Verdict) -> String {
    let mut text = String::new();
    match verdict {
        Verdict::NotClaimed => {
            let _ = writeln!(text, "{address} is not claimed; there is nothing to release");
        }
        Verdict::Refused { why } => {
            let _ = writeln!(text, "{address} is not released: {why}");
        }
        Verdict::Mark { owner, owner_lives, .. } => {
            let state = if *owner_lives { "does not show it" } else { "is gone" };
            let _ = writeln!(
                text,
                "{address} is claimed for LoadBalancer {owner}, which {state}.\n\
                 The claim will be marked Releasing, which is final. The operator deletes it as soon as every EPIC\n\
                 node has taken the address out of its maps; then it is free."
            );
        }
        Verdict::Delete { owner, behind } if behind.is_empty() => {
            let _ = writeln!(
                text,
                "{address} is being released by LoadBalancer {owner}, and no EPIC node has it in its maps any more.\n\
                 The claim will be deleted, which the operator would do as well."
            );
        }
        Verdict::Delete { owner, behind } => {
            let _ = writeln!(
                text,
                "{address} is being released by LoadBalancer {owner}, but these EPIC nodes have not said that they took\n\
                 it out of their maps:"
            );
            for Behind { node, live } in behind {
                let said = if *live {
                    "its agent runs; wait for it, or look at its log"
                } else {
                    "its agent is silent"
                };
                let _ = writeln!(text, "  {node}: {said}");
            }
            let _ = writeln!(
                text,
                "If the claim is deleted now and the address goes to another LoadBalancer, packets that still reach such\n\
                 a node go to the proxies of {owner}. For a node that is gone for good, rather delete what is\n\
                 left of it, and the operator does the rest:"
            );
            for Behind { node, .. } in behind.iter().filter(|node| !node.live) {
                let _ = writeln!(text, "  kubectl -n epic delete epicnodes.epic.acnodal.io {node}");
            }
            let _ = writeln!(text, "The claim will be deleted.");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(phase: Option<&str>, revision: Option<&str>) -> AddressClaim {
        let mut status = json!({});
        if let Some(phase) = phase {
            status["phase"] = phase.into();
        }
        if let Some(revision) = revision {
            status["release-revision"] = revision.into();
        }
        serde_json::from_value(json!({
            "apiVersion": "epic.acnodal.io/v1",
            "kind": "AddressClaim",
            "metadata": { "name": "192.0.2.7", "namespace": "epic", "uid": "c", "resourceVersion": "5" },
            "spec": {
                "address": "192.0.2.7",
                "pool": "default",
                "owner": {
                    "kind": "LoadBalancer", "namespace": "epic-a", "name": "web", "uid": "u",
                    "resource-version": "4",
                },
            },
            "status": status,
        }))
        .unwrap()
    }

    fn balancer(version: &str, status: Value) -> LoadBalancer {
        serde_json::from_value(json!({
            "apiVersion": "epic.acnodal.io/v1",
            "kind": "LoadBalancer",
            "metadata": { "name": "web", "namespace": "epic-a", "uid": "u", "resourceVersion": version },
            "spec": { "public-ports": [{ "port": 80 }], "service-group": "shared" },
            "status": status,
        }))
        .unwrap()
    }

    fn node(name: &str, revision: Option<u64>, live: bool) -> NodeRevision {
        NodeRevision { node: name.into(), revision: revision.map(Revision::new), live }
    }

    fn address() -> IpAddr {
        "192.0.2.7".parse().unwrap()
    }

    fn text(claim: &AddressClaim, owner: &Owner<'_>, nodes: &[NodeRevision]) -> String {
        describe(address(), &judge(address(), claim, owner, "9", nodes))
    }

    #[test]
    fn an_address_in_use_is_never_released() {
        let owner = balancer("4", json!({ "public-address": "192.0.2.7" }));
        for claim in [claim(None, None), claim(Some("Releasing"), None), claim(Some("Releasing"), Some("3"))]
        {
            let verdict = judge(address(), &claim, &Owner::Present(&owner), "9", &[]);
            assert!(
                matches!(&verdict, Verdict::Refused { why } if why.contains("epic-a/web has it")),
                "{verdict:?}"
            );
        }
    }

    #[test]
    fn a_claim_for_the_stored_version_may_be_half_of_a_grant() {
        let owner = balancer("4", json!({}));
        let verdict = judge(address(), &claim(None, None), &Owner::Present(&owner), "9", &[]);
        assert!(matches!(&verdict, Verdict::Refused { why } if why.contains("just claimed")), "{verdict:?}");
    }

    #[test]
    fn an_owner_that_cannot_be_read_may_have_it() {
        let verdict = judge(address(), &claim(None, None), &Owner::Unreadable, "9", &[]);
        assert!(matches!(verdict, Verdict::Refused { .. }), "{verdict:?}");
    }

    #[test]
    fn a_claim_of_an_owner_that_went_on_without_it_is_marked() {
        let owner = balancer("6", json!({ "public-address": "192.0.2.8" }));
        let verdict = judge(address(), &claim(None, None), &Owner::Present(&owner), "9", &[]);
        let expected = Verdict::Mark {
            owner: "epic-a/web".to_owned(),
            owner_lives: true,
            release_revision: Revision::new(9),
        };
        assert_eq!(verdict, expected);
        insta::assert_snapshot!(describe(address(), &verdict), @r#"
192.0.2.7 is claimed for LoadBalancer epic-a/web, which does not show it.
The claim will be marked Releasing, which is final. The operator deletes it as soon as every EPIC
node has taken the address out of its maps; then it is free.
"#);
    }

    #[test]
    fn a_claim_marked_by_hand_without_a_revision_gets_one() {
        let verdict = judge(address(), &claim(Some("Releasing"), None), &Owner::Gone, "9", &[]);
        assert!(matches!(verdict, Verdict::Mark { owner_lives: false, .. }), "{verdict:?}");
    }

    #[test]
    fn what_no_node_has_any_more_is_deleted_without_a_warning() {
        let nodes = [node("node1", Some(8), true), node("node2", Some(9), false)];
        insta::assert_snapshot!(text(&claim(Some("Releasing"), Some("8")), &Owner::Gone, &nodes), @r#"
192.0.2.7 is being released by LoadBalancer epic-a/web, and no EPIC node has it in its maps any more.
The claim will be deleted, which the operator would do as well.
"#);
    }

    #[test]
    fn nodes_that_may_still_have_it_are_named_with_what_to_do() {
        let nodes = [node("node1", Some(9), true), node("node2", Some(7), true), node("node3", None, false)];
        insta::assert_snapshot!(text(&claim(Some("Releasing"), Some("8")), &Owner::Gone, &nodes), @r#"
192.0.2.7 is being released by LoadBalancer epic-a/web, but these EPIC nodes have not said that they took
it out of their maps:
  node2: its agent runs; wait for it, or look at its log
  node3: its agent is silent
If the claim is deleted now and the address goes to another LoadBalancer, packets that still reach such
a node go to the proxies of epic-a/web. For a node that is gone for good, rather delete what is
left of it, and the operator does the rest:
  kubectl -n epic delete epicnodes.epic.acnodal.io node3
The claim will be deleted.
"#);
    }
}
