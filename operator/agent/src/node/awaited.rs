//! Revisions that somebody waits for: an EPICNode says that it has reached one only if anybody asks.

use std::collections::BTreeMap;

use epic_crds::condition::PROGRAMMED;
use epic_crds::{AddressClaim, ConditionStatus, HasConditions as _, LoadBalancer};
use kates::{Change, Key, Snapshot, Version};

/// Who waits, each for which revision of LoadBalancers. The cost of following is that of what changed.
#[derive(Default)]
pub struct Awaited {
    seen: Option<Snapshot>,
    unprogrammed: BTreeMap<Key, Version>,
    releasing: BTreeMap<Key, Version>,
}

impl Awaited {
    /// Follows the objects.
    pub fn follow(&mut self, snapshot: &Snapshot) {
        let before = self.seen.replace(snapshot.clone());
        self.change(snapshot.changes_since(before.as_ref()), snapshot.changes_since(before.as_ref()));
    }

    fn change(&mut self, balancers: Vec<Change<LoadBalancer>>, claims: Vec<Change<AddressClaim>>) {
        for change in balancers {
            let version = change.after.as_deref().and_then(of_balancer);
            set(&mut self.unprogrammed, change.key, version);
        }
        for change in claims {
            let version = change.after.as_deref().and_then(of_claim);
            set(&mut self.releasing, change.key, version);
        }
    }

    /// The revisions.
    pub fn revisions(&self) -> impl Iterator<Item = &Version> + Clone {
        self.unprogrammed.values().chain(self.releasing.values())
    }
}

fn set(map: &mut BTreeMap<Key, Version>, key: Key, version: Option<Version>) {
    match version {
        Some(version) => drop(map.insert(key, version)),
        None => drop(map.remove(&key)),
    }
}

/// The version that a LoadBalancer has, if the operator waits for nodes to program it.
fn of_balancer(object: &LoadBalancer) -> Option<Version> {
    let waits = object.condition(PROGRAMMED)?.status == ConditionStatus::False;
    object.metadata.resource_version.as_deref().filter(|_| waits).map(Version::from)
}

/// The revision that nodes have to reach before an address that was given back is free.
fn of_claim(claim: &AddressClaim) -> Option<Version> {
    let revision = claim.status.as_ref()?.release_revision.as_deref();
    revision.filter(|_| claim.is_releasing()).map(Version::from)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn balancer(name: &str, status: &str) -> LoadBalancer {
        serde_yaml::from_str(&format!(
            "
metadata: {{name: {name}, resourceVersion: '9'}}
spec: {{service-group: g, public-ports: []}}
status:
  conditions:
  - {{type: Programmed, status: '{status}', reason: x, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}}
"
        ))
        .unwrap()
    }

    fn claim(name: &str, status: &str) -> AddressClaim {
        serde_yaml::from_str(&format!(
            "
metadata: {{name: {name}}}
spec: {{address: 192.0.2.7, pool: p, owner: {{kind: k, namespace: n, name: x, uid: u, resource-version: '1'}}}}
status: {{{status}}}
"
        ))
        .unwrap()
    }

    fn change<K: kates::Object>(after: Option<K>, name: &str) -> Change<K> {
        Change { key: Key::namespaced("epic", name), before: None, after: after.map(Arc::new) }
    }

    #[test]
    fn unprogrammed_load_balancers_and_releasing_claims_wait_for_revisions_until_they_do_not() {
        let mut awaited = Awaited::default();
        let releasing = claim("x", "phase: Releasing, release-revision: '12'");
        let balancers = [("web", "False"), ("api", "True")].map(|(n, s)| change(Some(balancer(n, s)), n));
        awaited
            .change(balancers.into(), vec![change(Some(releasing), "x"), change(Some(claim("y", "")), "y")]);
        let revisions = |awaited: &Awaited| awaited.revisions().cloned().collect::<Vec<_>>();
        assert_eq!(revisions(&awaited), [Version::from("9"), Version::from("12")]);
        awaited.change(vec![change(Some(balancer("web", "True")), "web")], vec![change(None, "x")]);
        assert_eq!(revisions(&awaited), []);
    }
}
