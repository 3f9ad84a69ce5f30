//! Which node answers for an address: the condition `Advertised` of a LoadBalancer.
//!
//! A node says so itself, in its EPICNode. What it said before its agent fell silent is not known to hold any more.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use epic_crds::{
    AdvertisedBy, ConditionStatus, EPICNode, LoadBalancerReason as Reason, NodeAnswer, NodeConflict,
};
use epic_model::address;
use epic_model::id::NodeName;
use kube::ResourceExt;

use super::Found;
use crate::witness::Heard;

/// What nodes say of one address.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Who answers for it, each with what it said.
    pub answers: Vec<(NodeName, NodeAnswer)>,
    /// Somebody else who answers for it, and the node that heard that.
    pub conflict: Option<(NodeName, NodeConflict)>,
}

/// What nodes say of all addresses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    by_address: BTreeMap<IpAddr, Answer>,
    /// Nodes that do not list all of their addresses, or that have never said anything of them.
    pub incomplete: Vec<NodeName>,
}

impl Answers {
    /// What of an EPICNode is read here.
    pub fn part(node: &EPICNode) -> impl PartialEq + use<> {
        let status = node.status.clone().unwrap_or_default();
        (status.answers, status.answers_truncated, status.conflicts)
    }

    /// What these nodes say.
    pub fn of<'n>(nodes: impl Iterator<Item = &'n Arc<EPICNode>>) -> Self {
        let mut found = Self::default();
        for node in nodes {
            let name: NodeName = node.name_any().into();
            let Some(status) = &node.status else { continue };
            if status.answers_truncated {
                found.incomplete.push(name.clone());
            }
            for answer in &status.answers {
                let Ok(address) = address::parse(&answer.address) else { continue };
                found.by_address.entry(address).or_default().answers.push((name.clone(), answer.clone()));
            }
            for conflict in &status.conflicts {
                let Ok(address) = address::parse(&conflict.address) else { continue };
                found.by_address.entry(address).or_default().conflict =
                    Some((name.clone(), conflict.clone()));
            }
        }
        found
    }

    /// What is said of an address.
    pub fn about(&self, address: IpAddr) -> Answer {
        self.by_address.get(&address).cloned().unwrap_or_default()
    }

    /// Whether any node says anything: agents of earlier releases do not.
    pub fn are_told(&self) -> bool {
        !self.by_address.is_empty() || !self.incomplete.is_empty()
    }
}

/// What is found of the announcement of a LoadBalancer's address.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Announcement {
    /// Whether its pool says to announce it on layer 2.
    pub announced: bool,
    /// What nodes say of it.
    pub answer: Answer,
    /// Whether a node that does not list it may answer for it all the same.
    pub may_be_unlisted: bool,
}

/// The condition, and who answers.
pub(super) fn advertised(
    found: &Found,
    announcement: &Announcement,
    heard: &Heard,
) -> ((ConditionStatus, Reason, String), Option<AdvertisedBy>) {
    use ConditionStatus::{False, True, Unknown};
    let by = |(node, answer): &(NodeName, NodeAnswer)| AdvertisedBy {
        node: node.to_string(),
        interface: answer.interface.clone(),
        since: Some(answer.since.clone()),
        rest: found
            .balancer
            .status
            .iter()
            .flat_map(|it| &it.advertised_by)
            .map(|it| it.rest.clone())
            .next()
            .unwrap_or_default(),
    };
    if !announcement.announced {
        let text = "its pool does not say how to announce it; route it to the EPIC nodes";
        return ((Unknown, Reason::NotAnnounced, text.to_owned()), None);
    }
    if let Some((node, conflict)) = &announcement.answer.conflict {
        let whose = conflict.mac.as_ref().map_or_else(
            || "it is the default gateway of an EPIC node".to_owned(),
            |mac| format!("{mac} answers for it, too, heard by {node} on {}", conflict.interface),
        );
        let text = format!("{whose}; take the address from that machine, or out of the pool");
        return ((False, Reason::AddressConflict, text), None);
    }
    let answers = &announcement.answer.answers;
    // While an address moves two may say so; the later one has it.
    let latest = answers.iter().filter(|(node, _)| !heard.is_silent(node.as_str()));
    if let Some(latest) = latest.max_by_key(|(_, answer)| answer.since.0) {
        let text = format!("{} answers for it on {}", latest.0, latest.1.interface);
        return ((True, Reason::Announced, text), Some(by(latest)));
    }
    if let Some(silent) = answers.iter().max_by_key(|(_, answer)| answer.since.0) {
        let text = format!("{} answered for it on {}, but its agent is silent", silent.0, silent.1.interface);
        return ((Unknown, Reason::AnnouncerSilent, text), Some(by(silent)));
    }
    if found.live.is_empty() {
        let text = "no EPIC node is there to announce it; see kubectl get epicnodes -n epic";
        return ((False, Reason::NoNodeToAnnounce, text.to_owned()), None);
    }
    let text = "no EPIC node says that it answers for it; see kubectl get epicnodes -n epic";
    let status = if announcement.may_be_unlisted { Unknown } else { False };
    ((status, Reason::AnnouncementPending, text.to_owned()), None)
}
