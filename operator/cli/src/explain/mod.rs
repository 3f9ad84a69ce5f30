//! `explain lb`: follows what a LoadBalancer depends on, and says the one thing to fix.
//!
//! The way is that of the packets and of the objects behind them: EPIC and its operator, the Account, the object itself,
//! its group, its ID and its address, the proxies' Deployment and pods, what Envoy answered, the nodes' maps, who
//! answers for the address, the Endpoints and their tunnels. The first link that does not hold is the one to mend: what
//! comes after it follows from it. [`gather`] reads, [`explain`] decides, [`render`] prints; the last two are pure.
//!
//! It has no opinion of its own on what the operator has judged: a condition's message is passed on, with what to do
//! about its reason. What the operator cannot see, such as its own absence, is judged here.

mod chain;
mod pods;
mod reasons;

use std::fmt::Write as _;

use epic_crds::condition::READY;
use epic_crds::well_known::{EPIC_NAMESPACE, LABEL_LOAD_BALANCER};
use epic_crds::{HasConditions as _, LoadBalancer};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use serde::Serialize;

use crate::api::{self, is_forbidden};
use crate::overview;

pub use chain::explain;

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// EPIC's own objects: those of the cluster, and those of the LoadBalancer's namespace.
    pub epic: overview::Found,
    /// Pods of proxies in the namespace.
    pub pods: Vec<Pod>,
    /// Deployments of proxies in the namespace.
    pub deployments: Vec<Deployment>,
}

/// The LoadBalancer that is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Found {
    /// The LoadBalancer itself, if it is there.
    pub fn balancer(&self, subject: &Subject) -> Option<&LoadBalancer> {
        self.epic.balancers.items.iter().find(|balancer| {
            balancer.namespace().as_deref() == Some(subject.namespace.as_str())
                && balancer.name_any() == subject.name
        })
    }
}

/// Something that does not hold, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// What is wrong.
    pub problem: String,
    /// What mends it.
    pub remedy: String,
}

impl Fix {
    pub(crate) fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { problem: problem.into(), remedy: remedy.into() }
    }
}

/// A link that holds, with what to know of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// What was looked at.
    pub what: &'static str,
    /// What was found.
    pub found: String,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Explanation {
    /// Who was asked about.
    pub subject: Subject,
    /// The links that hold, in order.
    pub holds: Vec<Link>,
    /// The first that does not; none where nothing is to be fixed.
    pub fix: Option<(&'static str, Fix)>,
    /// Whether it takes traffic now, whatever is to be fixed.
    pub serves: bool,
    /// Kinds that this caller may not read, so that their links were taken for sound.
    pub unread: Vec<String>,
}

/// Reads what a LoadBalancer depends on: its namespace, and namespace `epic`.
///
/// # Errors
/// The API server cannot be asked. What it refuses is in [`overview::Found::forbidden`].
pub async fn gather(client: &Client, namespace: &str) -> Result<Found, api::Error> {
    let epic = overview::gather_namespace(client, namespace).await?;
    let mut found = Found { epic, ..Found::default() };
    let ours = ListParams::default().labels(LABEL_LOAD_BALANCER);
    match Api::<Pod>::namespaced(client.clone(), namespace).list(&ours).await {
        Ok(pods) => found.pods = pods.items,
        Err(error) if is_forbidden(&error) => found.epic.forbidden.push("pods".to_owned()),
        Err(error) => return Err(api::Error::call("list pods", error)),
    }
    match Api::<Deployment>::namespaced(client.clone(), namespace).list(&ours).await {
        Ok(deployments) => found.deployments = deployments.items,
        Err(error) if is_forbidden(&error) => found.epic.forbidden.push("deployments".to_owned()),
        Err(error) => return Err(api::Error::call("list deployments", error)),
    }
    Ok(found)
}

/// The answer for people.
pub fn render(explanation: &Explanation) -> String {
    let Subject { namespace, name } = &explanation.subject;
    let mut text = format!("LoadBalancer {namespace}/{name}\n");
    let width = explanation.holds.iter().map(|link| link.what.len()).max().unwrap_or(0);
    for link in &explanation.holds {
        let _ = writeln!(text, "  ok   {:width$}  {}", link.what, link.found);
    }
    match &explanation.fix {
        Some((what, fix)) => {
            let _ = writeln!(text, "  FIX  {what:width$}  {}", fix.problem);
            let _ = writeln!(text, "\nTo do: {}", fix.remedy);
            let traffic = match explanation.serves {
                true => "Meanwhile it serves what was in force before.",
                false => "Until then it takes no traffic.",
            };
            let _ = writeln!(text, "{traffic}");
        }
        None => text.push_str("\nNothing is to be fixed.\n"),
    }
    if !explanation.unread.is_empty() {
        let kinds = explanation.unread.join(", ");
        let _ = writeln!(text, "You may not read {kinds}; what they show was taken for sound.");
    }
    text
}

/// The answer for programs.
pub fn json(explanation: &Explanation) -> String {
    serde_json::to_string_pretty(explanation).map(|text| text + "\n").unwrap_or_default()
}

/// Whether traffic reaches the LoadBalancer's proxies, by its own word.
fn serves(balancer: Option<&LoadBalancer>) -> bool {
    balancer.is_some_and(|balancer| balancer.is_condition_true(READY))
}

/// Whether the objects of a kind were read.
fn may_read(found: &Found, plural: &str) -> bool {
    !found.epic.forbidden.iter().any(|kind| kind == plural)
}

/// How old something is, in words.
fn ago(since: Timestamp, now: Timestamp) -> String {
    let seconds = (now.as_second() - since.as_second()).max(0);
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Name of the namespace where EPIC's own objects are, for commands.
const SYSTEM: &str = EPIC_NAMESPACE;
