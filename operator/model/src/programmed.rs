//! Whether what was written is in force everywhere: the condition `Programmed` of a LoadBalancer.
//!
//! A write that changes what is programmed sets the condition False, and the version that write made is awaited. It
//! becomes True when every Ready proxy acknowledged the configuration and every live node's maps are at or past that
//! version; nodes whose agent is gone are named and skipped. Only a change of content withdraws it, so status writes
//! do not chase themselves (design §6).

use std::fmt;

use crate::id::{NodeName, ObjectName};
use crate::proxy::ProxyState;
use crate::revision::{NodeRevision, Revision};

/// What a proxy says in its pod condition `epic.acnodal.io/configured`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configured {
    /// The pod.
    pub pod: ObjectName,
    /// Its state. Only Ready ones are waited for.
    pub state: ProxyState,
    /// The LoadBalancer generation whose listeners and clusters it acknowledged.
    pub generation: Option<i64>,
    /// What it rejected, in Envoy's words.
    pub rejection: Option<String>,
}

impl Configured {
    /// Whether it has acknowledged a generation.
    pub fn has_acknowledged(&self, generation: i64) -> bool {
        self.rejection.is_none() && self.generation.is_some_and(|known| known >= generation)
    }
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Programmed {
    /// In force. Nodes that were skipped, since their agents are gone, are named.
    Yes {
        /// Nodes that may not have it.
        skipped: Vec<NodeName>,
    },
    /// Not yet.
    Waiting {
        /// Proxies that have not acknowledged it.
        proxies: Vec<ObjectName>,
        /// Live nodes whose maps are not that far.
        nodes: Vec<NodeName>,
    },
    /// A proxy refuses it.
    Rejected {
        /// The pod.
        pod: ObjectName,
        /// Envoy's words.
        message: String,
    },
}

impl fmt::Display for Programmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = |nodes: &[NodeName]| {
            nodes.iter().map(|node| node.as_str().to_owned()).collect::<Vec<String>>().join(", ")
        };
        match self {
            Programmed::Yes { skipped } if skipped.is_empty() => {
                f.write_str("in force on every node and proxy")
            }
            Programmed::Yes { skipped } => {
                write!(f, "in force, but the agents of these nodes do not answer: {}", nodes(skipped))
            }
            Programmed::Waiting { proxies, nodes: behind } => {
                let proxies: Vec<&str> = proxies.iter().map(ObjectName::as_str).collect();
                match (proxies.is_empty(), behind.is_empty()) {
                    (false, true) => write!(f, "waiting for proxies {}", proxies.join(", ")),
                    (true, _) => write!(f, "waiting for nodes {}", nodes(behind)),
                    (false, false) => {
                        write!(f, "waiting for proxies {} and nodes {}", proxies.join(", "), nodes(behind))
                    }
                }
            }
            Programmed::Rejected { pod, message } => {
                write!(f, "proxy {pod} rejects the configuration: {message}")
            }
        }
    }
}

/// Decides `Programmed`.
///
/// `generation` is the LoadBalancer's, `awaited` the resourceVersion of the write that set the condition False (after
/// a restart: the object's present one, which is later and therefore safe).
pub fn programmed(
    generation: i64,
    awaited: Revision,
    proxies: &[Configured],
    nodes: &[NodeRevision],
) -> Programmed {
    let ready = || proxies.iter().filter(|proxy| proxy.state == ProxyState::Ready);
    if let Some((pod, message)) =
        ready().find_map(|proxy| proxy.rejection.as_ref().map(|message| (&proxy.pod, message)))
    {
        return Programmed::Rejected { pod: pod.clone(), message: message.clone() };
    }
    let late: Vec<ObjectName> =
        ready().filter(|proxy| !proxy.has_acknowledged(generation)).map(|proxy| proxy.pod.clone()).collect();
    let behind = |live: bool| -> Vec<NodeName> {
        nodes
            .iter()
            .filter(|node| node.live == live && !node.has_passed(awaited))
            .map(|node| node.node.clone())
            .collect()
    };
    let waiting = behind(true);
    if late.is_empty() && waiting.is_empty() {
        Programmed::Yes { skipped: behind(false) }
    } else {
        Programmed::Waiting { proxies: late, nodes: waiting }
    }
}

/// Whether every proxy that exists, Draining ones included, has acknowledged a generation: then no listener of an
/// older one is open, and freed slots may be used again ([`crate::port::assign_slots`]).
pub fn all_acknowledged(generation: i64, proxies: &[Configured]) -> bool {
    proxies.iter().all(|proxy| proxy.has_acknowledged(generation))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(pod: &str, state: ProxyState, generation: Option<i64>) -> Configured {
        Configured { pod: pod.into(), state, generation, rejection: None }
    }

    fn node(name: &str, revision: u64, live: bool) -> NodeRevision {
        NodeRevision { node: name.into(), revision: Some(Revision::new(revision)), live }
    }

    fn decide(proxies: &[Configured], nodes: &[NodeRevision]) -> Programmed {
        programmed(3, Revision::new(50), proxies, nodes)
    }

    #[test]
    fn it_is_in_force_when_ready_proxies_and_live_nodes_have_it() {
        let proxies = [
            proxy("a", ProxyState::Ready, Some(3)),
            proxy("b", ProxyState::Pending, None),
            proxy("c", ProxyState::Draining, Some(2)),
        ];
        assert_eq!(
            decide(&proxies, &[node("n1", 50, true), node("n2", 12, false)]),
            Programmed::Yes { skipped: vec!["n2".into()] }
        );
        assert!(!all_acknowledged(3, &proxies), "a draining proxy still has its listeners");
    }

    #[test]
    fn it_waits_for_proxies_and_nodes_and_names_them() {
        let waiting = decide(
            &[proxy("a", ProxyState::Ready, Some(2))],
            &[node("n1", 49, true), NodeRevision { node: "n2".into(), revision: None, live: true }],
        );
        assert_eq!(waiting.to_string(), "waiting for proxies a and nodes n1, n2");
    }

    #[test]
    fn a_rejection_is_told_in_envoys_words() {
        let mut rejecting = proxy("a", ProxyState::Ready, Some(2));
        rejecting.rejection = Some("duplicate listener".into());
        assert_eq!(
            decide(&[rejecting], &[]).to_string(),
            "proxy a rejects the configuration: duplicate listener"
        );
    }
}
