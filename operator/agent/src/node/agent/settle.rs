//! Everything that waits for the maps: attachments, announcements, readiness gates.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use epic_datapath::{Attachment, Kept, Program};
use epic_lb::{Progress, ServiceName, Veth};
use imbl::OrdSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kates::Key;
use kube::api::{Patch, PatchParams};

use super::{Agent, Look, Passed};
use crate::metrics::chain;
use crate::node::{announce, gate};
use crate::wakes::TICK;

impl Agent {
    /// Everything that waits for the maps. `check` looks at every attached program again. But for what `look` asks for, the
    /// cost is that of what changed since the last time, and of what is late.
    pub(super) fn settle(&mut self, look: Look, check: bool) {
        let pending = self.accumulator.pending();
        let gate = self.readiness.gate("watches");
        match pending.iter().next() {
            Some((kind, why)) => gate.close(format!("{kind}: {why}")),
            None => gate.open(),
        }
        // What was begun to be decided and could not be is nobody's basis.
        let Some(passed) = self.passed.take_if(|passed| !passed.decision.is_stale()) else { return };
        let tables = self.plane.writer.snapshot();
        let progress = self.plane.handle.progress();
        // What fails of one LoadBalancer holds up nothing of the others.
        let complete = progress.has_attempted(passed.tables) && progress.covers_node(passed.tables);
        if !crate::take_over(&mut self.datapath, complete, &progress.health, &self.readiness) {
            self.attach(&passed, check);
            self.passed = Some(passed);
            return;
        }
        let desired = passed.decision.desired();
        self.leaving.follow(&tables, &progress);
        self.answering.grow(&desired.directory, &tables, &progress);
        self.attach(&passed, check);
        let in_force = self.in_force.follow(&desired.answering, &tables, &progress).clone();
        self.announce(&passed, &in_force);
        if complete {
            if self.refused.of_node.is_none() {
                self.starting = None;
            }
        } else if let Some(starting) = &self.starting {
            starting.because(format!("maps are being written: {}", progress.health));
        }
        self.open_gates(&passed, &tables, &progress, look);
        self.report(&passed, (complete, in_force), &progress, look);
        self.passed = Some(passed);
    }

    /// Programs on the node's interfaces, and on the veth of every tenant's pod. There it does not wait for entries in the
    /// maps: without them it is the fence around a pod that nobody has listed yet.
    fn attach(&mut self, passed: &Passed, check: bool) {
        let ingress = |ifindex| Attachment { program: Program::Ingress, ifindex };
        let fence = |ifindex| Attachment { program: Program::FromProxy, ifindex };
        let interfaces = &passed.interfaces;
        let mut wanted: BTreeSet<Attachment> =
            passed.decision.desired().fences.keys().map(|ifindex| fence(*ifindex)).collect();
        wanted.extend([ingress(interfaces.public.ifindex), ingress(interfaces.underlay.ifindex)]);
        let is_right = wanted.is_subset(&self.attached)
            && self.attached.difference(&wanted).all(|surplus| {
                surplus.program == Program::FromProxy
                    && !passed.decision.desired().others.contains(&surplus.ifindex)
            });
        if is_right && !check {
            return;
        }
        match self.hang(wanted, &passed.decision.desired().others) {
            Ok(kept) => {
                self.attached = kept.done.into_keys().collect();
                self.refused.take(kept.refused);
            }
            Err(error) => {
                self.attached.clear();
                self.refused.take_all(error.to_string());
            }
        }
    }

    /// Attaches what is wanted and detaches the rest, but for fences: one stays for as long as its veth exists, for the pod
    /// behind it may go on sending when the API has forgotten it. Unless the veth is known to be another pod's.
    fn hang(
        &self,
        mut wanted: BTreeSet<Attachment>,
        others: &BTreeSet<u32>,
    ) -> Result<Kept, epic_datapath::Error> {
        let alive = self.datapath.links()?.into_iter().filter(|link| link.alive).map(|link| link.attachment);
        wanted.extend(alive.filter(|at| at.program == Program::FromProxy && !others.contains(&at.ifindex)));
        crate::hang(&self.datapath, &wanted)
    }

    /// Tells the link about addresses that came here, as soon as the maps hold them.
    fn announce(&self, passed: &Passed, in_force: &OrdSet<IpAddr>) {
        let link = passed.interfaces.public.clone();
        let new = self.announced.lock().take_up(&link, in_force);
        if new.is_empty() {
            return;
        }
        let announced = Arc::clone(&self.announced);
        tokio::spawn(async move {
            match announce::announce(&link, &new).await {
                Ok(()) => tracing::info!(addresses = ?new, interface = link.name, "announced"),
                Err(error) => {
                    tracing::warn!(%error, "addresses were not announced; trying again");
                    announced.lock().put_back(&link, &new);
                }
            }
        });
    }

    /// Looks at the gates of listed pods of this node: at those that were found open and right only when it is time to look
    /// around, or their pods changed.
    fn open_gates(&mut self, passed: &Passed, tables: &epic_lb::Snapshot, progress: &Progress, look: Look) {
        let now = Instant::now();
        let desired = passed.decision.desired();
        let local = &desired.local;
        if look >= Look::Around {
            let proxies: BTreeSet<(&ServiceName, u32)> =
                local.values().map(|local| (&local.service, local.id.get())).collect();
            self.patience.retain(now, |service, id| proxies.contains(&(service, id)));
            self.opened.clear();
        }
        let current = self.accumulator.snapshot().unwrap_or_else(|| passed.snapshot.clone());
        for pod in current.list::<Pod>() {
            let Some(uid) = pod.metadata.uid.as_deref().filter(|uid| desired.listed.contains(*uid)) else {
                continue;
            };
            let local = local.get(uid);
            let veth = local.map(|local| &local.veth);
            let is_known = |(known, at): &(Arc<Pod>, Veth)| Arc::ptr_eq(known, pod) && veth == Some(at);
            if self.opened.get(uid).is_some_and(is_known) {
                continue;
            }
            let programmed = match local {
                None => Err("the host side of the pod's veth is not found".to_owned()),
                Some(local) => gate::entries(tables, progress, local)
                    .and_then(|()| {
                        let wanted = Attachment { program: Program::FromProxy, ifindex: local.veth.ifindex };
                        let hangs = self.attached.contains(&wanted);
                        hangs.then_some(()).ok_or_else(|| self.refused.why(wanted))
                    })
                    .and_then(|()| {
                        let unheard = self
                            .answering
                            .heard(|heard| gate::unheard(&local.clients, |id| heard.contains_key(&id)));
                        self.patience.judge(local, &unheard, now)
                    })
                    .and_then(|()| gate::configured(pod, &local.veth, &self.boot_id)),
            };
            let time = Time(Timestamp::now());
            let patch = gate::patch(pod, veth, &self.boot_id, &programmed, &time);
            if let (Ok(()), Some(veth), None) = (&programmed, veth, &patch) {
                self.opened.insert(uid.into(), (Arc::clone(pod), veth.clone()));
            }
            let worth_saying = self.patience.is_worth_saying(pod, &programmed, now);
            if let Some(patch) = patch.filter(|_| worth_saying) {
                self.patch(Key::of(&**pod), patch);
            }
        }
    }

    /// One patch at a time for each pod; one that fails is decided again.
    fn patch(&self, key: Key, patch: serde_json::Value) {
        if !self.patching.lock().insert(key.clone()) {
            return;
        }
        let (client, patching) = (self.client.clone(), Arc::clone(&self.patching));
        tokio::spawn(async move {
            let params = PatchParams::default();
            match client.patch_status::<Pod, _>(&key, &params, &Patch::Strategic(patch)).await {
                Ok(_) => tracing::info!(pod = %key, "wrote the readiness gate"),
                Err(error) => {
                    tracing::warn!(pod = %key, error = chain(&error), "the readiness gate was not written");
                    tokio::time::sleep(TICK).await;
                }
            }
            patching.lock().remove(&key);
        });
    }
}

/// Programs that the kernel would not attach, or not detach.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// Since when something of the node's own interfaces fails, and what.
    pub(super) of_node: Option<(Instant, String)>,
    /// Everything, for whom it concerns.
    each: BTreeMap<Attachment, String>,
}

impl Refused {
    /// Takes what one try came to. What fails at the veth of one pod concerns that pod alone.
    fn take(&mut self, refused: BTreeMap<Attachment, epic_datapath::Error>) {
        let each: BTreeMap<Attachment, String> =
            refused.into_iter().map(|(attachment, error)| (attachment, error.to_string())).collect();
        for (attachment, error) in &each {
            if self.each.get(attachment) != Some(error) {
                tracing::warn!(%attachment, error, "not as it should be; trying again");
            }
        }
        self.each = each;
        let of_node = self.each.iter().find(|(attachment, _)| attachment.program == Program::Ingress);
        self.of_node = of_node.map(|(_, error)| (self.since(), error.clone()));
    }

    /// Nothing could be attached.
    fn take_all(&mut self, error: String) {
        if self.of_node.as_ref().is_none_or(|(_, before)| *before != error) {
            tracing::warn!(error, "programs are not where they should be; trying again");
        }
        self.of_node = Some((self.since(), error));
    }

    fn since(&self) -> Instant {
        self.of_node.as_ref().map_or_else(Instant::now, |(since, _)| *since)
    }

    /// Why a program does not hang.
    fn why(&self, attachment: Attachment) -> String {
        let refused = self.each.get(&attachment);
        refused.map_or_else(|| "the program is not attached yet".to_owned(), Clone::clone)
    }

    /// What of the node's own interfaces fails for so long.
    pub(super) fn lasting(&self, now: Instant, lasting: Duration) -> Option<&str> {
        let (since, error) = self.of_node.as_ref()?;
        (now >= *since + lasting).then_some(error.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_at_a_pod_s_veth_concerns_that_pod_and_at_the_node_s_interface_the_node_once_it_lasts()
    {
        let at = |program, ifindex| Attachment { program, ifindex };
        let refuse = |attachment| BTreeMap::from([(attachment, epic_datapath::Error::NoProgram("why"))]);
        let (pod, other) = (at(Program::FromProxy, 7), at(Program::FromProxy, 8));
        let lasting = Duration::from_secs(5);
        let later = || Instant::now() + lasting;
        let mut refused = Refused::default();
        refused.take(refuse(pod));
        assert_eq!((&refused.of_node, refused.lasting(later(), lasting)), (&None, None));
        assert!(refused.why(pod).contains("why"), "its gate says so");
        assert!(!refused.why(other).contains("why"));

        refused.take(refuse(at(Program::Ingress, 2)));
        assert!(refused.of_node.is_some(), "nothing is announced meanwhile");
        assert_eq!(refused.lasting(Instant::now(), lasting), None, "it may be over at once");
        let since = refused.of_node.clone().unwrap().0;
        refused.take_all("all".to_owned());
        assert_eq!(refused.of_node.clone().unwrap().0, since, "it goes on");
        assert_eq!(refused.lasting(since + lasting, lasting), Some("all"));
        refused.take(BTreeMap::new());
        assert_eq!(refused.lasting(later(), lasting), None);
    }
}
