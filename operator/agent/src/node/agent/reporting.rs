//! What the node says of itself, made of what it does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use epic_crds::{MapUsage, NodeProgram, NodeTunnels};
use epic_datapath::{BpfMaps, Usage};
use epic_lb::Progress;
use imbl::OrdSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kates::Version;

use super::{Agent, Look, Passed, SETTLED};
use crate::node::inputs::LASTING;
use crate::node::judgement::Judgement;
use crate::node::report;
use crate::node::watched;
use crate::wakes::TICK;
use crate::{hello, inspect};

impl Agent {
    pub(super) fn report(
        &mut self,
        passed: &Passed,
        (complete, in_force): (bool, OrdSet<IpAddr>),
        progress: &Progress,
        look: Look,
    ) {
        let current = self.reports.borrow().clone();
        let reported = current.revision.clone().or_else(|| self.before.load_balancers_revision.clone());
        self.awaited.follow(&passed.snapshot);
        let reached = if complete { self.reached(passed) } else { None };
        let behind = complete.then(|| self.leaving.behind(progress, passed.tables));
        // Of many tunnels some change at any moment: a look at all of them once a second will do.
        let is_due = look >= Look::Around || current.tunnels.is_none();
        let tunnels = is_due.then(|| self.tunnels(passed, current.tunnels.as_ref()));
        let programs = is_due.then(|| self.programs(passed));
        let usage = if look == Look::Everything { self.usage() } else { None };
        let ready = self.readiness_of_node(passed, complete, progress);
        let public = &passed.interfaces.public;
        // Until the maps hold the addresses and the program hangs nothing answers.
        let answers = (complete && self.refused.of_node.is_none()).then(|| (in_force, public.name.clone()));
        let conflicts = (self.guard.conflicts(), public.name.clone());
        self.reports.send_if_modified(|report| {
            let mut next = report.clone();
            next.addresses = Some(vec![passed.interfaces.address]);
            next.macs = Some(vec![public.mac]);
            next.gateways = self.gateways.clone().or(next.gateways);
            next.answers = answers.or(next.answers);
            next.conflicts = Some(conflicts);
            next.programs = programs.or(next.programs);
            let awaited = self.awaited.revisions();
            next.revision = report::revision(reported.as_deref(), reached.as_ref(), awaited).or(reported);
            next.behind = behind.or(next.behind);
            next.tunnels = tunnels.or(next.tunnels);
            next.map_usage = usage.or(next.map_usage);
            next.ready = ready.or(next.ready);
            let changed = next != *report;
            *report = next;
            changed
        });
    }

    /// Up to which revision of LoadBalancers the maps, which hold this pass, are complete. While nothing happens the
    /// watch says little about that, so for somebody who waits a list of the same content proves it.
    fn reached(&self, passed: &Passed) -> Option<Version> {
        let mut reached = passed.balancers.clone()?;
        if let Some(now) = self.accumulator.snapshot() {
            let quiet = now.changes_since::<epic_crds::LoadBalancer>(Some(&passed.snapshot)).is_empty();
            if let Some(later) = now.revision::<epic_crds::LoadBalancer>().filter(|_| quiet) {
                reached = later.clone();
            }
        }
        if self.awaited.revisions().all(|awaited| reached.reaches(awaited)) {
            return Some(reached);
        }
        let mut listed = self.listed.lock();
        match listed.take() {
            Some((versions, revision)) if versions == self.basis.lock().load_balancers => Some(revision),
            _ => {
                let (client, cell) = (self.client.clone(), Arc::clone(&self.listed));
                if let Ok(turn) = Arc::clone(&self.listing).try_acquire_owned() {
                    tokio::spawn(async move {
                        if let Ok(found) = watched::list_versions(&client).await {
                            *cell.lock() = Some(found);
                        }
                        tokio::time::sleep(TICK / 2).await;
                        drop(turn);
                    });
                }
                Some(reached)
            }
        }
    }

    fn tunnels(&self, passed: &Passed, before: Option<&NodeTunnels>) -> NodeTunnels {
        let desired = passed.decision.desired();
        let ids: BTreeSet<u32> = desired.directory.tunnels.keys().copied().collect();
        let before = before.or(self.before.tunnels.as_ref());
        let settled = self.started.elapsed() >= SETTLED;
        let (time, answering) = (Time(Timestamp::now()), desired.answering.len());
        let clock = (hello::now(), &time);
        self.answering.heard(|heard| report::tunnels(&ids, heard, before, settled, answering, clock))
    }

    fn readiness_of_node(&self, passed: &Passed, complete: bool, progress: &Progress) -> Option<Judgement> {
        let now = Instant::now();
        let refused = self.refused.lasting(now, LASTING);
        // An operation that fails once is tried again at once; what lasts has to be said.
        let node = &progress.health.node;
        let lasting: Vec<String> = match node.has_lasted(now, LASTING) {
            true => node.named.iter().map(|error| error.text.to_string()).collect(),
            false => Vec::new(),
        };
        let complete = complete && self.refused.of_node.is_none();
        Judgement::of_maps(passed.interfaces.down(), refused, &lasting, complete)
    }

    fn programs(&self, passed: &Passed) -> Vec<NodeProgram> {
        let names: BTreeMap<u32, &str> = passed
            .decision
            .desired()
            .fences
            .iter()
            .map(|(ifindex, name)| (*ifindex, &**name))
            .chain(
                [&passed.interfaces.public, &passed.interfaces.underlay]
                    .map(|l| (l.ifindex, l.name.as_str())),
            )
            .collect();
        let attached = self.attached.iter().filter_map(|attachment| {
            let name = names.get(&attachment.ifindex)?;
            Some(NodeProgram {
                hook: format!("{} {name}", attachment.program),
                mode: "tcx".to_owned(),
                tag: inspect::object_tag().to_owned(),
                ..Default::default()
            })
        });
        // The API takes 64 of them; the node's own come first.
        attached.take(64).collect()
    }

    fn usage(&self) -> Option<Vec<MapUsage>> {
        let usage = BpfMaps::new(Arc::clone(&self.maps)).usage().ok()?;
        let by_name: BTreeMap<&'static str, Usage> =
            usage.into_iter().map(|(map, usage)| (map.name(), usage)).collect();
        let maps = epic_abi::maps::MAPS.iter().filter_map(|spec| Some((spec.name, by_name.get(spec.name)?)));
        let usage = maps.map(|(map, usage)| MapUsage {
            map: map.to_owned(),
            entries: i64::try_from(usage.entries).unwrap_or(i64::MAX),
            capacity: i64::from(usage.capacity),
            ..Default::default()
        });
        Some(usage.collect())
    }
}
