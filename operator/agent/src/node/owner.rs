//! Whose the EPICNode and the Lease are: this agent's Node's, so that they go when it goes.
//!
//! A Node may be deleted and made again under its name while the agent runs (`kubectl delete node`, then a start of the
//! kubelet). What names the uid of the earlier one is collected, however often it is made. So the uid is that of the Node
//! as it is watched, and objects that name another one are mended.

use epic_crds::well_known::EPIC_NAMESPACE;
use epic_crds::{EPIC, EPICNode};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kates::{Accumulator, Key, Snapshot};

use super::{is_uninstalled, watched};

/// The owner as it is at any time.
#[derive(Clone)]
pub struct Owner {
    /// Name of the Node.
    pub node: String,
    /// What was read at the start: it counts until the watch knows more.
    pub first: OwnerReference,
    /// The watch.
    pub accumulator: Accumulator,
}

impl Owner {
    /// Under whose name objects are to be made now; `None` when none are to be made.
    pub fn now(&self) -> Option<OwnerReference> {
        match self.accumulator.snapshot() {
            Some(snapshot) => self.of(&snapshot),
            None => Some(self.first.clone()),
        }
    }

    /// Whether the EPICNode has to be written although there may be nothing new to say.
    pub fn misses_epic_node(&self, snapshot: &Snapshot) -> bool {
        let own = snapshot.get::<EPICNode>(&Key::namespaced(EPIC_NAMESPACE, self.node.as_str()));
        is_astray(own.map(|own| &own.metadata), self.of(snapshot).as_ref())
    }

    /// How many nodes report, as far as is known.
    pub fn nodes(&self) -> usize {
        self.accumulator.snapshot().map_or(1, |snapshot| snapshot.list::<EPICNode>().count())
    }

    fn of(&self, snapshot: &Snapshot) -> Option<OwnerReference> {
        let node = snapshot.get::<Node>(&Key::cluster(self.node.as_str()));
        owner(watched::epic(snapshot).map(|epic| &**epic), node.map(|node| &**node))
    }
}

/// The Node, unless EPIC is being uninstalled: what is deleted then is not to come back.
pub fn owner(epic: Option<&EPIC>, node: Option<&Node>) -> Option<OwnerReference> {
    if epic.is_some_and(is_uninstalled) { None } else { node.map(reference) }
}

/// The reference to a Node.
pub fn reference(node: &Node) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    }
}

/// Whether an object that should be this owner's is missing, or another one's. Without an owner there should be none.
pub fn is_astray(object: Option<&ObjectMeta>, owner: Option<&OwnerReference>) -> bool {
    let Some(owner) = owner else { return false };
    let is_held =
        |meta: &ObjectMeta| meta.owner_references.iter().flatten().any(|held| held.uid == owner.uid);
    !object.is_some_and(is_held)
}
