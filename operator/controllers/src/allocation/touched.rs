//! Which parents a change concerns: one walk over the changes, however many parents there are.

use std::collections::BTreeSet;

use epic_crds::{Account, AddressClaim, EPIC, EPICNode, Endpoint, LoadBalancer};
use k8s_openapi::api::apps::v1::Deployment;
use kates::Snapshot;
use kube::ResourceExt;

use super::need;
use crate::proxy::ReplicaSet;

/// What differs between two snapshots, as far as plans are made of it.
#[derive(Debug, Default)]
pub struct Touched {
    /// There is no earlier snapshot, or what every plan is made of differs.
    everything: bool,
    /// Something that EPIC's plan is made of.
    epic: bool,
    /// Nodes have passed revisions, or claims have gone.
    nodes: bool,
    /// Names of Accounts, of whatever namespace: a namesake counts as well.
    accounts: BTreeSet<String>,
    /// Namespaces of LoadBalancers, Endpoints and owners of claims.
    namespaces: BTreeSet<String>,
    /// Whether a LoadBalancer is gone.
    pub balancers_gone: bool,
}

impl Touched {
    /// What differs. Costs in proportion to the changes.
    pub fn between(before: Option<&Snapshot>, after: &Snapshot) -> Self {
        let Some(before) = before else {
            return Self { everything: true, balancers_gone: true, ..Self::default() };
        };
        let mut touched = Self {
            everything: after.differs(before, |epic: &EPIC| epic.spec.clone()),
            epic: after.differs(before, |epic: &EPIC| epic.metadata.resource_version.clone()),
            ..Self::default()
        };
        for change in after.changes_since::<Account>(Some(before)) {
            touched.epic = true;
            touched.accounts.insert(change.key.name().to_owned());
        }
        for change in after.changes_since::<LoadBalancer>(Some(before)) {
            touched.epic = true;
            touched.balancers_gone |= change.after.is_none();
            touched.in_namespace(change.key.namespace());
        }
        for change in after.changes_since::<Endpoint>(Some(before)) {
            let part = |endpoint: Option<&Endpoint>| endpoint.map(need::part_of_endpoint);
            touched.epic |= part(change.before.as_deref()) != part(change.after.as_deref());
            touched.in_namespace(change.key.namespace());
        }
        for change in after.changes_since::<AddressClaim>(Some(before)) {
            (touched.epic, touched.nodes) = (true, true);
            touched.in_namespace(change.object().map(|claim| claim.spec.owner.namespace.as_str()));
        }
        let status = |node: &EPICNode| node.status.clone().unwrap_or_default();
        touched.epic |= after.differs(before, |node: &EPICNode| status(node).addresses)
            || after.differs(before, need::part_of_pod)
            || after.differs(before, |set: &ReplicaSet| set.owner_references().to_vec())
            || after.differs(before, |deployment: &Deployment| deployment.owner_references().to_vec());
        touched.nodes |= after.differs(before, |node: &EPICNode| {
            let status = status(node);
            (status.load_balancers_revision, status.behind)
        });
        touched
    }

    fn in_namespace(&mut self, namespace: Option<&str>) {
        if let Some(namespace) = namespace.filter(|namespace| !self.namespaces.contains(*namespace)) {
            self.namespaces.insert(namespace.to_owned());
        }
    }

    /// Whether nothing of interest differs.
    pub fn is_nothing(&self) -> bool {
        !self.everything
            && !self.epic
            && !self.nodes
            && self.accounts.is_empty()
            && self.namespaces.is_empty()
    }

    /// Whether EPIC's plan may be another one; `awaits_nodes`: a requested value of the last one waited for nodes.
    pub fn epic(&self, awaits_nodes: bool) -> bool {
        self.everything || self.epic || (awaits_nodes && self.nodes)
    }

    /// Whether the plan of the Account with this tenant namespace may be another one.
    pub fn account(&self, name: &str, namespace: Option<&str>, awaits_nodes: bool) -> bool {
        self.everything
            || (awaits_nodes && self.nodes)
            || self.accounts.contains(name)
            || namespace.is_some_and(|namespace| self.namespaces.contains(namespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_in_one_namespace_wakes_one_account() {
        let mut touched = Touched { epic: true, ..Touched::default() };
        touched.in_namespace(Some("epic-red"));
        assert!(touched.account("red", Some("epic-red"), false));
        assert!(!touched.account("blue", Some("epic-blue"), false));
        assert!(touched.epic(false) && !touched.is_nothing());
    }

    #[test]
    fn a_node_that_moves_on_wakes_who_waits_for_it_and_nobody_else() {
        let touched = Touched { nodes: true, ..Touched::default() };
        assert!(!touched.account("red", Some("epic-red"), false) && !touched.epic(false));
        assert!(touched.account("red", Some("epic-red"), true) && touched.epic(true));
    }

    #[test]
    fn a_namesake_wakes_the_account_that_it_may_take_the_place_of() {
        let touched = Touched { accounts: ["red".to_owned()].into(), ..Touched::default() };
        assert!(touched.account("red", None, false));
        assert!(!touched.account("blue", Some("epic-blue"), true));
    }
}
