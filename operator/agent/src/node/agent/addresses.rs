//! The addresses of this node: who has answered for them before, who else has them, and what follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use epic_crds::{AddressClaim, EPICNode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kates::{Change, Key};

use super::Agent;
use crate::desired::node::Objects;
use crate::node::arp::{Arp, Mac, Sender};
use crate::node::guard::{From as Whose, Neighbours, News};
use crate::node::interfaces::Interfaces;
use crate::node::told;

/// Addresses that EPIC has answered for since they were claimed: nobody has to be asked for them.
#[derive(Clone, Debug, Default)]
pub(super) struct Answered {
    /// uid of the LoadBalancer that each is claimed for.
    known: BTreeMap<IpAddr, Arc<str>>,
    /// Since when any node has answered for each, the latest of what was said.
    told: BTreeMap<IpAddr, Timestamp>,
    /// Answered for by the programs of this node when this agent started.
    adopted: BTreeSet<IpAddr>,
}

impl Answered {
    /// With those that the programs answer for.
    pub(super) fn adopt(owned: impl IntoIterator<Item = epic_abi::Ip>) -> Self {
        let adopted = owned.into_iter().map(IpAddr::from).collect();
        Self { known: BTreeMap::new(), told: BTreeMap::new(), adopted }
    }

    /// Takes down what nodes say, and forgets addresses that are claimed no more. Nodes that are gone for good may go on
    /// saying it; what they said of an earlier claim does not count.
    pub(super) fn note(&mut self, objects: &Objects) {
        self.told.clear();
        objects.epic_nodes.iter().for_each(|node| drop(self.hear(node)));
        let claims: BTreeMap<IpAddr, &AddressClaim> = objects
            .claims
            .iter()
            .filter_map(|claim| Some((claim.spec.address.parse().ok()?, &**claim)))
            .collect();
        // What was answered for at the start is for whoever has it now; a later claim is another one.
        for address in std::mem::take(&mut self.adopted) {
            if let Some(claim) = claims.get(&address) {
                self.known.insert(address, claim.spec.owner.uid.as_str().into());
            }
        }
        self.known
            .retain(|address, uid| claims.get(address).is_some_and(|claim| claim.spec.owner.uid == **uid));
        claims.iter().for_each(|(address, claim)| self.recognise(*address, claim));
    }

    /// Follows claims and nodes that changed. `find` gives the claim of an address as it is now.
    pub(super) fn follow(
        &mut self,
        claims: &[Change<AddressClaim>],
        nodes: &[Change<EPICNode>],
        find: impl Fn(IpAddr) -> Option<Arc<AddressClaim>>,
    ) {
        let address = |claim: &AddressClaim| claim.spec.address.parse::<IpAddr>().ok();
        let told: Vec<IpAddr> = nodes
            .iter()
            .filter_map(|change| change.after.as_ref())
            .flat_map(|node| self.hear(node))
            .collect();
        for address in told {
            if let Some(claim) = find(address) {
                self.recognise(address, &claim);
            }
        }
        for Change { before, after, .. } in claims {
            let stays = |uid: &str| after.as_ref().is_some_and(|after| after.spec.owner.uid == uid);
            if let Some(address) = before.as_deref().and_then(address)
                && self.known.get(&address).is_some_and(|uid| !stays(uid))
            {
                self.known.remove(&address);
            }
            if let Some((address, claim)) = after.as_deref().and_then(|claim| Some((address(claim)?, claim)))
            {
                self.recognise(address, claim);
            }
        }
    }

    /// Takes down what a node says; returns of which addresses that is news.
    fn hear(&mut self, node: &EPICNode) -> Vec<IpAddr> {
        let mut news = Vec::new();
        for answer in node.status.iter().flat_map(|status| &status.answers) {
            let Ok(address) = answer.address.parse() else { continue };
            let since = self.told.get(&address);
            if since.is_none_or(|since| *since < answer.since.0) {
                self.told.insert(address, answer.since.0);
                news.push(address);
            }
        }
        news
    }

    /// Knows an address for which a node has answered since this claim was made.
    fn recognise(&mut self, address: IpAddr, claim: &AddressClaim) {
        let Some(since) = self.told.get(&address) else { return };
        if claim.metadata.creation_timestamp.as_ref().is_none_or(|made| *since >= made.0) {
            self.known.insert(address, claim.spec.owner.uid.as_str().into());
        }
    }

    /// Whether EPIC has answered for it since it was claimed for this LoadBalancer.
    pub(super) fn knows(&self, address: IpAddr, uid: &str) -> bool {
        self.known.get(&address).is_some_and(|known| &**known == uid)
    }
}

/// Hardware addresses of EPIC nodes, as their agents say.
pub(super) fn neighbours(objects: &Objects, node: &str, interfaces: &Interfaces) -> Neighbours {
    let mut found =
        Neighbours { own: [interfaces.public.mac, interfaces.underlay.mac].into(), ..Neighbours::default() };
    for other in objects.epic_nodes.iter().filter(|other| other.metadata.name.as_deref() != Some(node)) {
        let Some(status) = &other.status else { continue };
        found.others.extend(status.hardware_addresses.iter().filter_map(|text| mac(text)));
        found.incomplete |= status.hardware_addresses.is_empty() && !status.addresses.is_empty();
    }
    found
}

fn mac(text: &str) -> Option<Mac> {
    let octets: Option<Vec<u8>> = text.split(':').map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    octets?.try_into().ok()
}

impl Agent {
    /// Takes what was heard about an address of this node. Says whether a pass has to follow.
    pub(super) fn hear(&mut self, arp: &Arp) -> bool {
        match self.neighbours.whose(arp.mac) {
            Whose::Own | Whose::Unknown => false,
            Whose::Stranger => self.guard.hear(arp, Instant::now(), &Time(Timestamp::now())),
            Whose::Epic => {
                let yields = self.guard.hear_of_epic(arp, self.contact.is_lost(Instant::now()));
                if yields {
                    let address = arp.about();
                    tracing::warn!(%address, "another node has taken the address over, and the API server is not reached");
                }
                yields
            }
        }
    }

    /// Sends what is due, and says what is new. Says whether a pass has to follow.
    pub(super) fn watch_addresses(&mut self) -> bool {
        let is_told = self.contact.is_back(Instant::now()) && self.accumulator.pending().is_empty();
        let returned = is_told && self.guard.reconnected();
        self.ask_for_addresses() || returned
    }

    /// As [`Self::watch_addresses`], for addresses that have just come.
    pub(super) fn ask_for_addresses(&mut self) -> bool {
        let now = Instant::now();
        let due = self.guard.due(now);
        if !due.probes.is_empty() || !due.defences.is_empty() {
            let sent = self.send(&due.probes, &due.defences);
            if let Err(error) = sent {
                tracing::warn!(%error, "addresses cannot be asked for; trying again");
                self.guard.not_sent(&due.probes, now);
            }
        }
        for news in self.guard.news() {
            self.tell(&news);
        }
        due.changed
    }

    fn send(&self, probes: &[Ipv4Addr], defences: &[Ipv4Addr]) -> std::io::Result<()> {
        let Some(passed) = &self.passed else { return Ok(()) };
        let link = &passed.interfaces.public;
        let sender = Sender::open(link.ifindex)?;
        for address in probes {
            sender.send(&Arp::request(link.mac, Ipv4Addr::UNSPECIFIED, *address))?;
        }
        for address in defences {
            sender.send(&Arp::request(link.mac, *address, *address))?;
        }
        Ok(())
    }

    fn tell(&self, news: &News) {
        match news.conflict {
            Some(_) => tracing::warn!(address = %news.address, "{}", told::note(news)),
            None => tracing::info!(address = %news.address, "{}", told::note(news)),
        }
        let key = Key::namespaced(epic_crds::well_known::EPIC_NAMESPACE, self.settings.node.as_str());
        let own = self.passed.as_ref().and_then(|passed| passed.snapshot.get::<EPICNode>(&key));
        let Some(own) = own.cloned() else { return };
        let (events, news) = (self.events.clone(), news.clone());
        tokio::spawn(async move {
            if let Err(error) = told::publish(&events, &own, &news).await {
                tracing::debug!(%error, "event not published");
            }
        });
    }

    /// Finds the gateways of this node's default routes. It is done seldom: a node may hold very many routes.
    pub(super) async fn find_gateways(&mut self) {
        match self.netlink.default_gateways().await {
            Ok(found) => self.gateways = Some(found),
            Err(error) => tracing::warn!(%error, "the gateways of this node are not known"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::netlink::link::Link;

    fn read<K: DeserializeOwned>(yaml: &str) -> Arc<K> {
        Arc::new(serde_yaml::from_str(yaml).unwrap())
    }

    fn claim(uid: &str, second: u8) -> Arc<AddressClaim> {
        read(&format!(
            "
metadata: {{name: 192.0.2.7, namespace: epic, creationTimestamp: '2026-01-01T00:00:{second:02}Z'}}
spec: {{address: 192.0.2.7, pool: p, owner: {{kind: k, namespace: n, name: x, uid: {uid}, resource-version: '1'}}}}
"
        ))
    }

    fn node(name: &str, status: &str) -> Arc<EPICNode> {
        read(&format!("{{metadata: {{name: {name}, namespace: epic}}, status: {{{status}}}}}"))
    }

    const ANSWERS: &str = "answers: [{address: 192.0.2.7, interface: eth0, since: '2026-01-01T00:00:05Z'}]";

    fn vip() -> IpAddr {
        "192.0.2.7".parse().unwrap()
    }

    #[test]
    fn an_address_is_known_while_the_claim_lasts_that_a_node_answered_for() {
        let objects = |claims: &[Arc<AddressClaim>], status: &str| Objects {
            claims: claims.to_vec(),
            epic_nodes: vec![node("n2", status)],
            ..Objects::default()
        };
        let mut answered = Answered::default();
        answered.note(&objects(&[claim("u", 1)], ""));
        assert!(!answered.knows(vip(), "u"));
        answered.note(&objects(&[claim("u", 1)], ANSWERS));
        assert!(answered.knows(vip(), "u") && !answered.knows(vip(), "heir"));
        answered.note(&objects(&[claim("u", 1)], ""));
        assert!(answered.knows(vip(), "u"), "it left that node's list when it moved");
        answered.note(&objects(&[], ANSWERS));
        answered.note(&objects(&[claim("u", 9)], ANSWERS));
        assert!(!answered.knows(vip(), "u"), "what a dead node says is of an earlier claim");
    }

    #[test]
    fn following_changes_knows_what_looking_at_everything_knows() {
        fn change<K: kates::Object>(before: Option<Arc<K>>, after: Option<Arc<K>>) -> Change<K> {
            let key = Key::of(&**before.as_ref().or(after.as_ref()).unwrap());
            Change { key, before, after }
        }
        let (mut answered, silent, says) = (Answered::default(), node("n2", ""), node("n2", ANSWERS));
        let (first, heir) = (claim("u", 1), claim("heir", 9));
        answered.follow(&[change(None, Some(Arc::clone(&first)))], &[], |_| None);
        assert!(!answered.knows(vip(), "u"));
        answered.follow(&[], &[change(Some(silent), Some(Arc::clone(&says)))], |_| Some(Arc::clone(&first)));
        assert!(answered.knows(vip(), "u"), "the claim is the same as before");
        answered.follow(&[], &[change(Some(says), None)], |_| Some(Arc::clone(&first)));
        assert!(answered.knows(vip(), "u"), "the node is gone");
        answered.follow(&[change(Some(Arc::clone(&first)), Some(Arc::clone(&heir)))], &[], |_| None);
        assert!(
            !answered.knows(vip(), "u") && !answered.knows(vip(), "heir"),
            "it was said before that claim"
        );
        answered.follow(&[change(Some(heir), Some(first))], &[], |_| None);
        assert!(answered.knows(vip(), "u"));
    }

    #[test]
    fn what_the_programs_answer_for_at_the_start_is_known_once() {
        let adopted = || Answered { adopted: [vip()].into(), ..Answered::default() };
        let claimed = |uid: &str| Objects { claims: vec![claim(uid, 1)], ..Objects::default() };
        let mut answered = adopted();
        answered.note(&claimed("u"));
        assert!(answered.knows(vip(), "u"));
        answered.note(&claimed("heir"));
        assert!(!answered.knows(vip(), "heir"));
        let mut answered = adopted();
        answered.note(&Objects::default());
        answered.note(&claimed("u"));
        assert!(!answered.knows(vip(), "u"), "nobody had it when the agent started");
    }

    #[test]
    fn epic_nodes_are_known_by_what_they_say_and_while_one_says_nothing_nobody_is_a_stranger() {
        let link = Link { mac: [1; 6], ..Link::default() };
        let interfaces =
            Interfaces { public: link.clone(), underlay: link, address: "10.0.0.1".parse().unwrap() };
        let with = |status: &str| Objects {
            epic_nodes: vec![node("n1", ""), node("n2", status), node("n3", "")],
            ..Objects::default()
        };
        let says = with("addresses: [10.0.0.2], hardware-addresses: ['02:02:02:02:02:0a']");
        let known = neighbours(&says, "n1", &interfaces);
        assert_eq!(known.whose([1; 6]), Whose::Own);
        assert_eq!(known.whose([2, 2, 2, 2, 2, 10]), Whose::Epic);
        assert_eq!(known.whose([3; 6]), Whose::Stranger);
        let earlier = neighbours(&with("addresses: [10.0.0.2]"), "n1", &interfaces);
        assert_eq!(earlier.whose([3; 6]), Whose::Unknown);
    }
}
