//! Everything that waits for the maps: attachments, announcements, readiness gates.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use epic_datapath::{Attachment, Kept, Program};
use epic_lb::{Address, Progress, RowId, Tables};
use epic_reconciler::Status;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kates::Key;
use kube::api::{Patch, PatchParams};

use super::{Agent, Passed, TICK};
use crate::metrics::chain;
use crate::node::{announce, gate};

impl Agent {
    /// Everything that waits for the maps. `check` looks at every attached program again.
    pub(super) fn settle(&mut self, full: bool, check: bool) {
        let pending = self.accumulator.pending();
        let gate = self.readiness.gate("watches");
        match pending.iter().next() {
            Some((kind, why)) => gate.close(format!("{kind}: {why}")),
            None => gate.open(),
        }
        // What was begun to be decided and could not be is nobody's basis.
        let Some(passed) = self.passed.take_if(|passed| !passed.decision.is_stale()) else { return };
        let tables = self.writer.snapshot();
        let progress = self.handle.progress();
        // What fails of one LoadBalancer holds up nothing of the others.
        let complete = progress.has_attempted(passed.tables) && progress.covers_node(passed.tables);
        self.leaving.follow(&tables, &progress);
        self.answering.grow(&passed.decision.desired().directory, &tables, &progress);
        self.attach(&passed, check);
        let in_force = in_force(&passed.decision.desired().answering, &tables, &progress);
        self.announce(&passed, &in_force);
        if complete {
            if self.refused.of_node.is_none() {
                self.starting = None;
            }
        } else if let Some(starting) = &self.starting {
            starting.because(format!("maps are being written: {}", progress.health));
        }
        self.open_gates(&passed, &tables, &progress);
        self.report(&passed, (complete, in_force), &progress, full);
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
    fn announce(&self, passed: &Passed, in_force: &BTreeSet<IpAddr>) {
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

    fn open_gates(&mut self, passed: &Passed, tables: &epic_lb::Snapshot, progress: &Progress) {
        let heard = self.answering.heard();
        let now = Instant::now();
        let local = &passed.decision.desired().local;
        self.patience
            .retain(now, |service, id| local.values().any(|l| l.service == *service && l.id.get() == id));
        let current = self.accumulator.snapshot().unwrap_or_else(|| passed.snapshot.clone());
        let listed: BTreeSet<String> = current
            .list::<epic_crds::LoadBalancer>()
            .filter_map(|object| object.status.as_ref())
            .flat_map(|status| status.proxies.iter().map(|proxy| proxy.pod_uid.clone()))
            .collect();
        for pod in current.list::<Pod>() {
            let Some(uid) = pod.metadata.uid.as_deref().filter(|uid| listed.contains(*uid)) else { continue };
            let local = local.get(uid);
            let programmed = match local {
                None => Err("the host side of the pod's veth is not found".to_owned()),
                Some(local) => gate::entries(tables, progress, local)
                    .and_then(|()| {
                        let wanted = Attachment { program: Program::FromProxy, ifindex: local.veth.ifindex };
                        let hangs = self.attached.contains(&wanted);
                        hangs.then_some(()).ok_or_else(|| self.refused.why(wanted))
                    })
                    .and_then(|()| {
                        let unheard = gate::unheard(&local.clients, |id| heard.contains_key(&id));
                        self.patience.judge(local, &unheard, now)
                    })
                    .and_then(|()| gate::configured(pod, &local.veth, &self.boot_id)),
            };
            let veth = local.map(|local| &local.veth);
            let time = Time(Timestamp::now());
            let worth_saying = self.patience.is_worth_saying(pod, &programmed, now);
            if worth_saying && let Some(patch) = gate::patch(pod, veth, &self.boot_id, &programmed, &time) {
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

/// Addresses to answer for whose ports the maps hold. What fails behind one of them, an endpoint perhaps, keeps its clients
/// from nothing else.
fn in_force(answering: &BTreeSet<IpAddr>, tables: &Tables, progress: &Progress) -> BTreeSet<IpAddr> {
    let holds = |address: &IpAddr| {
        let mut ports = tables.frontends.prefix(Address::from(*address)).peekable();
        let done = |key| tables.status(RowId::Frontend(key), progress) == Some(Status::Done);
        ports.peek().is_some() && ports.all(|row| done(row.key))
    };
    answering.iter().copied().filter(holds).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use epic_lb::render::NodeSide;
    use epic_lb::{
        Alias, DataKey, FakeMaps, Frontend, FrontendKey, GroupId, Link, MapId, Place, Protocol, Service,
        ServiceId, ServiceKeys, ServiceName, Tunnel, TunnelId, Writer,
    };
    use epic_reconciler::{Budget, Reconciler};

    use super::*;

    /// A LoadBalancer with a port, a tunnel and an endpoint.
    fn put(writer: &Writer, id: u16) -> IpAddr {
        let name = ServiceName::new("epic-red", format!("web-{id}"));
        let vip = IpAddr::from([192, 0, 2, id as u8]);
        let keys = ServiceKeys { data: [DataKey([1; 16]); 3], node: None };
        let row =
            Service::new(name.clone(), "uid").granted(GroupId::new(1).unwrap(), ServiceId::new(id).unwrap());
        let mut txn = writer.write();
        let port = Frontend::proxied(FrontendKey::new(vip, 80, Protocol::Tcp), name.clone(), 0);
        txn.upsert_service_and_frontends(Service { keys: Some(keys.into()), ..row }, vec![port]).unwrap();
        let tunnel = TunnelId::new(id).unwrap();
        txn.upsert_tunnel(Tunnel {
            id: tunnel,
            service: name.clone(),
            client_node: [203, 0, 113, 9].into(),
            epic_node: "n1".into(),
            epic_address: [198, 51, 100, 1].into(),
            epic_port: 6080,
            link: Link { ifindex: 2, mtu: 1500, local: [198, 51, 100, 1].into() },
        });
        txn.upsert_alias(Alias {
            service: name,
            address: IpAddr::from([100, 127, 0, id as u8]).into(),
            tunnel: Some(tunnel),
            real: Place::new([10, 244, 1, 7].into(), 8080, Protocol::Tcp),
            endpoint: "e".into(),
        });
        txn.commit();
        vip
    }

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

    #[test]
    fn an_endpoint_that_finds_no_room_keeps_no_address_from_being_announced() {
        let writer = Writer::new();
        let vips: BTreeSet<IpAddr> = [put(&writer, 1), put(&writer, 2)].into();
        let unknown = IpAddr::from([192, 0, 2, 99]);
        for (full, announced) in [(MapId::Aliases, 2), (MapId::Services, 1)] {
            let mut maps = FakeMaps::new();
            maps.set_room(MapId::ALL.iter().position(|map| *map == full).unwrap(), 1);
            let side = NodeSide::new("n1", 1);
            let mut reconciler = Reconciler::new(writer.reader(), maps, side, Default::default()).unwrap();
            reconciler.round(Instant::now(), Budget::UNLIMITED);
            let progress = reconciler.progress();
            let tables = writer.snapshot();
            assert!(!progress.covers(tables.revision()), "something finds no room");
            let wanted = vips.iter().copied().chain([unknown]).collect();
            assert_eq!(in_force(&wanted, &tables, &progress).len(), announced, "{full:?}");
        }
    }
}
