//! Whether the agents are being taken off the cluster, other than by the uninstallation that asks them to detach.
//!
//! Programs outlive their agent on purpose, so what is taken off without a word goes on answering for addresses that
//! somebody else may get next. An agent that ends therefore detaches if the DaemonSet that it is of has been deleted. It
//! must know that for certain: an ordinary restart, an upgrade, a lost API server or a lost right must leave everything in
//! place. So the DaemonSet is watched, for who deletes it often takes away the agents' rights in the same moment, and only
//! what the watch or the API server has shown counts. One that was deleted may be made again at once (`kubectl replace
//! --force`); it is waited for.
//!
//! What it cannot know (a node killed meanwhile, a DaemonSet that leaves the node out) is left to `epic-agent node
//! --remove`.

use std::time::Duration;

use epic_crds::well_known::EPIC_NAMESPACE;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kates::{Accumulator, Client, Key, Snapshot};
use tokio::time::Instant;

/// How long a DaemonSet that is gone may take to come back. A pod has 30 s to end.
pub const COMES_BACK: Duration = Duration::from_secs(5);
/// For the question whether it is gone.
const ANSWER: Duration = Duration::from_secs(2);

/// The DaemonSet of this agent as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is there.
    There,
    /// It is being deleted.
    Going,
    /// The API server says that it does not exist.
    Gone,
    /// Nothing is known: no answer, or no right to ask.
    Unknown,
}

/// Its name: who controls the pod of this agent. `None` for an agent that is of no DaemonSet.
pub fn daemon_set_of(pod: &Pod) -> Option<String> {
    let owners = pod.metadata.owner_references.iter().flatten();
    let mut controllers = owners.filter(|owner| owner.kind == "DaemonSet" && owner.controller == Some(true));
    controllers.next().map(|owner| owner.name.clone())
}

/// What a snapshot shows of the DaemonSet of this name. A kind that could not be listed shows nothing.
pub fn watched(snapshot: Option<&Snapshot>, name: &str) -> Seen {
    let Some(snapshot) = snapshot else { return Seen::Unknown };
    match snapshot.get::<DaemonSet>(&Key::namespaced(EPIC_NAMESPACE, name)) {
        Some(object) => of(object),
        None => Seen::Gone,
    }
}

fn of(object: &DaemonSet) -> Seen {
    if object.metadata.deletion_timestamp.is_some() { Seen::Going } else { Seen::There }
}

/// Whether the agents are being taken off, by what the watch and the API server show of their DaemonSet.
///
/// A watch that was cut off may show one that is gone, never one as gone that is there; and the answer of the API server
/// is of now. So an answer counts before the watch.
pub fn is_removed(watched: Seen, answered: Seen) -> bool {
    match answered {
        Seen::There => false,
        Seen::Going | Seen::Gone => true,
        Seen::Unknown => matches!(watched, Seen::Going | Seen::Gone),
    }
}

/// Asks both whether the agents are being taken off, and waits for a DaemonSet that is made again.
pub async fn ask(client: &Client, accumulator: &Accumulator, name: &str) -> bool {
    let end = Instant::now() + COMES_BACK;
    let mut updates = accumulator.updates();
    loop {
        let answered = match tokio::time::timeout(ANSWER, answer(client, name)).await {
            Ok(answered) => answered,
            Err(_) => Seen::Unknown,
        };
        if !is_removed(watched(accumulator.snapshot().as_ref(), name), answered) {
            return false;
        }
        // One that is going does not come back under its uid, but another may after it.
        tokio::select! {
            () = tokio::time::sleep_until(end) => return true,
            _ = updates.next() => {}
        }
    }
}

async fn answer(client: &Client, name: &str) -> Seen {
    match client.get_opt::<DaemonSet>(&Key::namespaced(EPIC_NAMESPACE, name)).await {
        Ok(Some(object)) => of(&object),
        Ok(None) => Seen::Gone,
        Err(_) => Seen::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use epic_fake_api::Server;
    use kates::Query;
    use serde_json::json;

    use super::*;

    const NAME: &str = "epic-agent";

    /// An API server with the agents' DaemonSet, and an agent that has seen it.
    async fn seen() -> (Server, Client, Accumulator) {
        let server = Server::new();
        make(&server);
        let client = Client::new(server.client());
        let accumulator = client.accumulate().watch::<DaemonSet>(Query::namespace(EPIC_NAMESPACE)).start();
        until(&accumulator, Seen::There).await;
        (server, client, accumulator)
    }

    fn make(server: &Server) {
        let spec = json!({"selector": {}, "template": {}});
        server.put(
            "daemonsets",
            json!({
                "apiVersion": "apps/v1", "kind": "DaemonSet", "spec": spec,
                "metadata": {"name": NAME, "namespace": EPIC_NAMESPACE},
            }),
        );
    }

    async fn until(accumulator: &Accumulator, wanted: Seen) {
        let mut updates = accumulator.updates();
        while watched(accumulator.snapshot().as_ref(), NAME) != wanted {
            updates.next().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_ends_detaches_after_its_daemon_set_and_waits_for_one_that_comes_back() {
        let (server, client, accumulator) = seen().await;
        let began = Instant::now();
        assert!(!ask(&client, &accumulator, NAME).await, "a restart");
        assert!(began.elapsed() < COMES_BACK, "which waits for nothing");
        server.go_down();
        assert!(!ask(&client, &accumulator, NAME).await, "a restart while the API server is away");
        server.come_up();

        server.remove("daemonsets", EPIC_NAMESPACE, NAME);
        let (again, soon) = (server.clone(), COMES_BACK / 2);
        let comes_back = async move {
            tokio::time::sleep(soon).await;
            make(&again);
        };
        let (removed, ()) = tokio::join!(ask(&client, &accumulator, NAME), comes_back);
        assert!(!removed, "it was replaced by force");

        server.remove("daemonsets", EPIC_NAMESPACE, NAME);
        let began = Instant::now();
        assert!(ask(&client, &accumulator, NAME).await, "it was deleted for good");
        assert!(began.elapsed() >= COMES_BACK, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_deletes_the_rights_with_the_daemon_set_is_understood_and_the_rights_alone_are_not_enough() {
        let (server, client, accumulator) = seen().await;
        server.forbid("daemonsets");
        assert!(!ask(&client, &accumulator, NAME).await, "nothing was seen of a deletion");
        server.allow("daemonsets");
        until(&accumulator, Seen::There).await;
        server.remove("daemonsets", EPIC_NAMESPACE, NAME);
        until(&accumulator, Seen::Gone).await;
        server.forbid("daemonsets");
        assert!(ask(&client, &accumulator, NAME).await, "the watch had shown it");
    }

    #[test]
    fn an_agent_detaches_only_if_its_daemon_set_is_certainly_deleted() {
        use Seen::{Going, Gone, There, Unknown};
        let cases = [
            (There, There, false, "a restart, an upgrade"),
            (There, Unknown, false, "the API server is away, or the rights are, and nothing was seen"),
            (Unknown, Unknown, false, "it never was seen"),
            (Gone, There, false, "it was made again, and the watch is late"),
            (Going, There, false, "likewise"),
            (There, Gone, true, "the watch is late"),
            (There, Going, true, "it waits for its pods"),
            (Gone, Gone, true, "it was deleted"),
            (Gone, Unknown, true, "it was deleted, and the agents' rights with it"),
            (Going, Unknown, true, "likewise"),
            (Unknown, Gone, true, "it was deleted before it could be listed"),
        ];
        for (watched, answered, removed, why) in cases {
            assert_eq!(is_removed(watched, answered), removed, "{why}");
        }
    }

    #[test]
    fn an_agent_is_of_the_daemon_set_that_controls_its_pod() {
        let pod = |owner: &str| -> Pod {
            let owners = format!("{{apiVersion: apps/v1, uid: u, name: epic-agent, {owner}}}");
            serde_yaml::from_str(&format!("metadata: {{name: a, ownerReferences: [{owners}]}}")).unwrap()
        };
        let of = |owner: &str| daemon_set_of(&pod(owner));
        assert_eq!(of("kind: DaemonSet, controller: true").as_deref(), Some("epic-agent"));
        assert_eq!(of("kind: DaemonSet"), None);
        assert_eq!(of("kind: ReplicaSet, controller: true"), None);
        assert_eq!(daemon_set_of(&Pod::default()), None);
    }
}
