//! Whether a replica reaches the replicas on other nodes.
//!
//! A proxy's stream to a replica on its own node never leaves that node, so it says nothing about the network of the
//! node: it stays open when the node's routes are gone. Such a stream counts as a witness for the node only while the
//! replica itself reaches another node. So each replica writes into its Lease where it runs and where it can be asked,
//! asks the others there, and says whether it reaches none of them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use epic_crds::well_known::{ANNOTATION_ISOLATED, ANNOTATION_NODE, ANNOTATION_OPS};
use epic_model::id::NodeName;
use futures::future::join_all;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a replica may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// The port of a replica's pod where it can be asked.
const PORT: &str = "ops";

/// Where a replica runs, and where it can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    node: NodeName,
    ops: SocketAddr,
}

impl Place {
    /// Of a replica's pod; `None` until it has an address, and for one that has no such port.
    pub(super) fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
        let port = ports.into_iter().find(|port| port.name.as_deref() == Some(PORT))?.container_port;
        let address = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
        let ops = SocketAddr::new(address, u16::try_from(port).ok()?);
        Some(Self { node: NodeName::new(spec.node_name.as_deref()?), ops })
    }

    /// What a replica's Lease says of it.
    fn named(lease: &Lease) -> Option<Self> {
        let ops = lease.annotations().get(ANNOTATION_OPS)?.parse().ok()?;
        Some(Self { node: node(lease)?, ops })
    }

    /// The annotations that say all this; `is_isolated` is what [`Peers::is_isolated`] found.
    pub(super) fn annotations(&self, is_isolated: bool) -> BTreeMap<String, String> {
        [
            (ANNOTATION_NODE, self.node.to_string()),
            (ANNOTATION_OPS, self.ops.to_string()),
            (ANNOTATION_ISOLATED, is_isolated.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

/// The node that a replica's Lease names.
pub(super) fn node(lease: &Lease) -> Option<NodeName> {
    lease.annotations().get(ANNOTATION_NODE).map(|node| NodeName::new(node.as_str()))
}

/// The node of a replica that says that it reaches no other node.
fn isolated(lease: &Lease) -> Option<NodeName> {
    let says_so = lease.annotations().get(ANNOTATION_ISOLATED).is_some_and(|value| value == "true");
    node(lease).filter(|_| says_so)
}

/// Whether the streams of this replica say nothing about this node: the replica runs there and reaches none of the
/// others, one of which, on another node, is heard. `heard` are the Leases that count.
pub(super) fn is_deaf_to(lease: &Lease, heard: &[&Lease], on: &NodeName) -> bool {
    isolated(lease).is_some_and(|own| {
        own == *on && heard.iter().any(|other| node(other).is_some_and(|elsewhere| elsewhere != own))
    })
}

/// What a replica finds out about the others.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Whether one on another node has ever answered. Until then it may be a policy that keeps them apart.
    reached: bool,
}

impl Peers {
    /// Asks the replicas on other nodes. Says whether none of them answers any more, though there are some.
    pub(super) async fn is_isolated<'l>(
        &mut self,
        own: &Place,
        leases: impl IntoIterator<Item = &'l Lease>,
    ) -> bool {
        let others = leases.into_iter().filter_map(Place::named).filter(|other| other.node != own.node);
        let all = join_all(others.map(|other| answers(other.ops))).await;
        self.reached |= all.contains(&true);
        self.reached && !all.is_empty() && !all.contains(&true)
    }
}

/// A host that refuses a connection has answered.
async fn answers(to: SocketAddr) -> bool {
    match timeout(PATIENCE, TcpStream::connect(to)).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lease(place: &Place, is_isolated: bool) -> Lease {
        let annotations = place.annotations(is_isolated);
        serde_json::from_value(json!({"metadata": {"annotations": annotations}, "spec": {}})).unwrap()
    }

    fn place(node: &str, ops: SocketAddr) -> Place {
        Place { node: node.into(), ops }
    }

    #[test]
    fn a_place_is_read_from_the_pod_and_from_the_lease() {
        let pod = json!({
            "metadata": {},
            "spec": {"nodeName": "n1", "containers": [{"name": "operator", "ports": [
                {"name": "ops", "containerPort": 8080}, {"name": "xds", "containerPort": 18000}]}]},
            "status": {"podIP": "10.244.0.7"},
        });
        let found = Place::of(&serde_json::from_value(pod).unwrap()).unwrap();
        assert_eq!(found, place("n1", "10.244.0.7:8080".parse().unwrap()));
        assert_eq!(Place::named(&lease(&found, false)), Some(found));
    }

    #[tokio::test]
    async fn one_that_answers_or_refuses_is_reached_and_one_on_the_same_node_is_not_asked() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let (own, other) = (place("n1", open), lease(&place("n2", open), false));
        // Nobody listens on a port that was just given up.
        let shut = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut peers = Peers::default();
        assert!(!peers.is_isolated(&own, []).await, "there is no other");
        assert!(
            !peers.is_isolated(&own, [&lease(&own, false)]).await,
            "the only other one is on the same node"
        );
        assert!(!peers.reached);
        assert!(!peers.is_isolated(&own, [&lease(&place("n2", shut), false)]).await, "its host has answered");
        assert!(!peers.is_isolated(&own, [&other]).await);
        assert!(peers.reached);
    }

    #[tokio::test]
    async fn one_that_never_answered_may_be_kept_away_by_a_policy_and_one_that_did_is_missed() {
        // TCP connects to no multicast address: the kernel says that it is not reached (tcp_v4_connect).
        let away = lease(&place("n2", "224.0.0.1:8080".parse().unwrap()), false);
        let own = place("n1", "127.0.0.1:1".parse().unwrap());
        let mut peers = Peers::default();
        assert!(!peers.is_isolated(&own, [&away]).await);
        peers.reached = true;
        assert!(peers.is_isolated(&own, [&away]).await);
        assert!(!peers.is_isolated(&own, []).await, "it is gone");
    }

    #[test]
    fn streams_on_the_own_node_say_nothing_while_the_replica_reaches_nobody_else() {
        let at = "10.244.0.7:8080".parse().unwrap();
        let (here, there) = (lease(&place("n1", at), true), lease(&place("n2", at), false));
        let both = [&here, &there];
        assert!(is_deaf_to(&here, &both, &"n1".into()));
        assert!(
            !is_deaf_to(&here, &both, &"n2".into()),
            "a stream from another node has come over the network"
        );
        assert!(!is_deaf_to(&here, &[&here], &"n1".into()), "nobody is there to be reached");
        assert!(!is_deaf_to(&lease(&place("n1", at), false), &both, &"n1".into()));
    }
}
