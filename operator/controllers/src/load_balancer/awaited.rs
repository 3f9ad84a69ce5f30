//! Which version of a LoadBalancer nodes have to pass before `Programmed` becomes True.
//!
//! It is the version of the write that changed the content, or any later one. It has to stand still while nodes come
//! up to it one by one: the status says whom it waits for, and each such write makes a newer version. So it is kept
//! here; after a restart, or when another replica wrote meanwhile, the present version takes its place.

use std::collections::BTreeMap;

use epic_model::id::Uid;
use epic_model::revision::Revision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kates::Key;
use parking_lot::Mutex;

use super::build::Content;

/// What a version is awaited for.
#[derive(Clone, Debug, PartialEq)]
pub struct Wait {
    /// Whose it is: a successor of the same name waits for something else.
    pub uid: Uid,
    /// Generation of the spec.
    pub generation: i64,
    /// Since when `Programmed` is not True.
    pub since: Option<Time>,
    /// What is to be programmed.
    pub content: Content,
}

/// Awaited versions by LoadBalancer.
#[derive(Debug, Default)]
pub struct Awaited {
    by_balancer: Mutex<BTreeMap<Key, (Wait, Revision)>>,
}

impl Awaited {
    /// The version that is awaited for `wait`: the one of the first time it was asked for, else `present`.
    pub fn version(&self, balancer: &Key, wait: Wait, present: Revision) -> Revision {
        let mut by_balancer = self.by_balancer.lock();
        match by_balancer.get(balancer) {
            Some((known, version)) if *known == wait => *version,
            _ => {
                by_balancer.insert(balancer.clone(), (wait, present));
                present
            }
        }
    }

    /// Forgets a wait that is over: nothing is awaited any more, or the LoadBalancer is gone.
    pub fn forget(&self, balancer: &Key) {
        self.by_balancer.lock().remove(balancer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use epic_crds::LoadBalancerStatus;

    fn wait(generation: i64, address: Option<&str>) -> Wait {
        let status = LoadBalancerStatus {
            public_address: address.map(str::to_owned),
            ..LoadBalancerStatus::default()
        };
        Wait { uid: "u".into(), generation, since: None, content: Content::of(&status) }
    }

    #[test]
    fn the_awaited_version_stands_still_until_what_it_is_awaited_for_changes() {
        let (awaited, web) = (Awaited::default(), Key::namespaced("epic-red", "web"));
        let at = |wait: Wait, present| awaited.version(&web, wait, Revision::new(present)).get();
        assert_eq!(at(wait(1, None), 10), 10);
        assert_eq!(at(wait(1, None), 14), 10, "a message that names other nodes is another version");
        assert_eq!(at(wait(1, Some("192.0.2.1")), 20), 20, "other content");
        assert_eq!(at(wait(2, Some("192.0.2.1")), 30), 30, "another generation");
        let successor = Wait { uid: "v".into(), ..wait(2, Some("192.0.2.1")) };
        assert_eq!(at(successor, 35), 35, "a successor of the same name");
        awaited.forget(&web);
        assert_eq!(at(wait(2, Some("192.0.2.1")), 40), 40, "another wait");
        awaited.forget(&web);
        assert!(awaited.by_balancer.lock().is_empty(), "nothing is left of one that is gone");
    }
}
