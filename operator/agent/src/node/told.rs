//! What is told of the addresses of this node: Events on its EPICNode when somebody else has one, and when he is gone.

use epic_crds::{EPICNode, EPICNodeReason};
use kube::Resource as _;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use super::arp;
use super::guard::News;

/// Publishes as the agent of this node.
pub fn recorder(client: &kube::Client, node: &str) -> Recorder {
    let reporter = Reporter { controller: "epic-agent".into(), instance: Some(node.to_owned()) };
    Recorder::new(client.clone(), reporter)
}

/// Publishes on the node's EPICNode what is new of an address.
///
/// # Errors
/// What the API server answers.
pub async fn publish(events: &Recorder, node: &EPICNode, news: &News) -> Result<(), kube::Error> {
    let (type_, reason) = match news.conflict {
        Some(_) => (EventType::Warning, EPICNodeReason::AddressConflict),
        None => (EventType::Normal, EPICNodeReason::AddressConflictEnded),
    };
    let event = Event {
        type_,
        reason: reason.as_str().to_owned(),
        note: Some(note(news)),
        action: "Answering".to_owned(),
        secondary: None,
    };
    events.publish(&event, &node.object_ref(&())).await
}

/// For people: who has the address, and what follows.
pub(super) fn note(news: &News) -> String {
    let address = news.address;
    let Some(conflict) = &news.conflict else {
        return format!("nobody else answers for {address} any more; this node does");
    };
    let who = match conflict.mac {
        Some(mac) => format!("{} answers for {address}, which is no EPIC node", arp::text(mac)),
        None => format!("{address} is the gateway of a default route of EPIC nodes"),
    };
    let what = match news.answers {
        true => "this node goes on answering; take the address away from there",
        false => "this node does not answer for it; take the address out of its pool, or away from there",
    };
    format!("{who}; {what}")
}
