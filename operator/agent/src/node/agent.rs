//! The agent's loop: what changed becomes rows; when the maps hold them, what depends on that follows.
//!
//! A *pass* turns a snapshot and the interfaces into rows. *Settling* is everything that waits for the maps: tunnels
//! enter the hello directory, programs are attached, addresses announced, gates opened, the node reports. Settling is
//! repeatable and runs after every pass, whenever the reconciler got on, and every second. Nothing here waits for the
//! API server: writes to it are tasks of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use epic_abi::maps::{CONFIG_KEY, Config, Local as LocalEntry};
use epic_crds::{EPICNodeReason, EPICNodeStatus, MapUsage, NodeProgram};
use epic_datapath::{Attachment, BpfMaps, Datapath, Maps, Program};
use epic_lb::reconciler::{self, Backoff, Limits, Reconciler};
use epic_lb::render::NodeSide;
use epic_lb::{Initializer, Link, Tables, Writer};
use epic_model::id::NodeName;
use epic_ops::readiness::Pending;
use epic_ops::{Metrics, Readiness};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kates::{Accumulator, Client, Key, Snapshot, Version};
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::announce::Announced;
use super::answering::Answering;
use super::gate::{self, Patience};
use super::interfaces::{self, Interfaces};
use super::report::{self, Judgement, Report};
use super::watched::{self, AskAgain, Basis};
use super::{Error, Settings, announce, is_uninstalled, veths};
use crate::desired::keys::Keyring;
use crate::desired::node::{Desired, Place, desired, local_addresses};
use crate::metrics::{MapsCollector, ReconcilerCollector, chain};
use crate::netlink::{Netlink, watch::Watch};
use crate::{hello, inspect};

/// Between two rounds of what only time changes: tunnels that fall silent, gates that waited long enough.
const TICK: Duration = Duration::from_secs(1);
/// Between two full passes.
const FULL: Duration = Duration::from_secs(30);
/// Bursts of netlink messages are answered once.
const NETLINK_QUIET: Duration = Duration::from_millis(20);
/// How long clients have to call after a start before a tunnel that was up is called down.
const SETTLED: Duration = Duration::from_secs(15);

/// What the agent is made of.
pub(super) struct Parts {
    pub(super) settings: Settings,
    pub(super) client: Client,
    pub(super) accumulator: Accumulator,
    pub(super) datapath: Datapath,
    pub(super) before: EPICNodeStatus,
    pub(super) reports: watch::Sender<Report>,
    pub(super) readiness: Readiness,
    pub(super) registry: Metrics,
    pub(super) shutdown: CancellationToken,
}

/// How it ended.
pub(super) enum End {
    /// It was asked to.
    Asked,
    /// EPIC is being uninstalled, and this came of the removal.
    Uninstalled(Result<(), epic_datapath::Error>),
}

/// A pass whose rows are written.
struct Passed {
    desired: Desired,
    snapshot: Snapshot,
    basis: Basis,
    interfaces: Interfaces,
    /// Revision of the tables.
    tables: u64,
    /// Up to which the LoadBalancers in it are complete.
    balancers: Option<Version>,
}

/// A list of LoadBalancers: uids with versions, and its revision.
type Listed = (BTreeSet<(String, String)>, Version);

struct Agent {
    settings: Settings,
    client: Client,
    accumulator: Accumulator,
    netlink: Netlink,
    datapath: Datapath,
    maps: Arc<Maps>,
    answering: Arc<Answering>,
    /// Where hello messages are answered.
    place: watch::Sender<Option<SocketAddr>>,
    writer: Writer,
    handle: reconciler::Handle,
    initializer: Option<Initializer>,
    basis: Arc<Mutex<Basis>>,
    listed: Arc<Mutex<Option<Listed>>>,
    /// At most one list at a time.
    listing: Arc<Semaphore>,
    patching: Arc<Mutex<BTreeSet<Key>>>,
    keyring: Option<Keyring>,
    passed: Option<Passed>,
    attached: BTreeSet<Attachment>,
    refused_attachment: Option<String>,
    announced: Arc<Mutex<Announced>>,
    patience: Patience,
    boot_id: String,
    before: EPICNodeStatus,
    started: Instant,
    full_at: Instant,
    starting: Option<Pending>,
    readiness: Readiness,
    reports: watch::Sender<Report>,
}

/// Runs until asked to end or to uninstall.
pub(super) async fn run(parts: Parts, starting: Pending) -> Result<End, Error> {
    let Parts { settings, client, accumulator, datapath, before, reports, readiness, registry, shutdown } =
        parts;
    let maps = Arc::clone(datapath.maps());
    let answering = Answering::adopt(Arc::clone(&maps))?;
    let netlink = Netlink::connect()?;
    let writer = Writer::new(Tables::new());
    let initializer = writer.register_initializer("api-server");
    let render = NodeSide::new(settings.node.as_str(), interfaces::MAGLEV_SEED);
    let reconciler =
        Reconciler::new(writer.clone(), BpfMaps::new(Arc::clone(&maps)), render, Backoff::default())?;
    let basis = Arc::new(Mutex::new(Basis::default()));
    let ask = AskAgain { client: client.clone(), basis: Arc::clone(&basis) };
    let (stop, stopped) = watch::channel(false);
    let tables = Arc::clone(writer.tables());
    let (handle, task) = reconciler::run(reconciler, tables, ask, Limits::default(), stopped);
    let (place, place_changes) = watch::channel(None);
    let hello = tokio::spawn(Arc::clone(&answering).run(place_changes, shutdown.clone()));
    let collector = ReconcilerCollector::default();
    collector.watch(handle.clone());
    registry.register(|registry| {
        registry.register_collector(Box::new(MapsCollector::new(Arc::clone(&maps))));
        registry.register_collector(Box::new(collector));
        registry.register("hello_refused", "Hello entries refused", answering.refused.clone());
    });
    let view = inspect::node_view(
        settings.node.clone(),
        Arc::clone(&maps),
        Arc::clone(&answering),
        writer.clone(),
        handle.clone(),
        readiness.clone(),
    );
    let commands = tokio::spawn(inspect::serve(settings.host.socket.clone(), view, shutdown.clone()));
    let attached = datapath.adopted().links.clone();
    tracing::info!(adopted = ?datapath.adopted(), "the data plane is loaded");
    let mut agent = Agent {
        settings,
        client,
        accumulator,
        netlink,
        datapath,
        maps,
        answering,
        place,
        writer,
        handle,
        initializer: Some(initializer),
        basis,
        listed: Arc::default(),
        listing: Arc::new(Semaphore::new(1)),
        patching: Arc::default(),
        keyring: None,
        passed: None,
        attached,
        refused_attachment: None,
        announced: Arc::default(),
        patience: Patience::default(),
        boot_id: super::host::boot_id(),
        before,
        started: Instant::now(),
        full_at: Instant::now(),
        starting: Some(starting),
        readiness,
        reports,
    };
    let uninstalled = agent.turn(&shutdown).await?;
    let _ = stop.send(true);
    hello.abort();
    commands.abort();
    drop(task.await);
    if !uninstalled {
        return Ok(End::Asked);
    }
    Ok(End::Uninstalled(agent.datapath.remove()))
}

impl Agent {
    /// Says whether it ended because EPIC is being uninstalled.
    async fn turn(&mut self, shutdown: &CancellationToken) -> Result<bool, Error> {
        let mut updates = self.accumulator.updates();
        let mut links = Watch::open()?;
        let mut progress = self.handle.watch();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let (mut pass, mut moved) = (false, false);
            tokio::select! {
                update = updates.next() => {
                    if watched::epic(&update.snapshot).is_some_and(|epic| is_uninstalled(epic)) {
                        return Ok(true);
                    }
                    pass = true;
                }
                changed = links.changed() => {
                    moved = changed.as_ref().map_or(true, |changed| changed.links);
                    if changed.is_err() {
                        links = Watch::open()?;
                    }
                    tokio::time::sleep(NETLINK_QUIET).await;
                    pass = true;
                }
                changed = progress.changed() => if changed.is_err() { return Ok(false) },
                _ = tick.tick() => {}
                () = shutdown.cancelled() => return Ok(false),
            }
            let full = Instant::now() >= self.full_at;
            if pass || full {
                self.pass().await;
            }
            // An interface that was made anew may have the index of the one before, and nothing hangs there then.
            self.settle(full, full || moved);
            if full {
                self.full_at = Instant::now() + FULL;
            }
        }
    }

    /// Turns what is known into rows. What cannot be known right now leaves everything as it is.
    async fn pass(&mut self) {
        let Some(snapshot) = self.accumulator.snapshot() else { return };
        let Some(objects) = watched::objects(&snapshot) else {
            return self.without_epic();
        };
        self.readiness.gate("epic").open();
        let Some(master) = watched::master(&snapshot) else {
            self.judge(Judgement::new(
                false,
                EPICNodeReason::KeysUnavailable,
                "Secret epic-gue-master has no usable entry \"master\"",
            ));
            return self.not_ready("keys", "Secret epic-gue-master has no usable entry \"master\"");
        };
        self.readiness.gate("keys").open();
        let found = match snapshot.get::<Node>(&Key::cluster(self.settings.node.as_str())) {
            Some(node) => interfaces::find(&self.netlink, &objects.epic, node).await,
            None => return self.not_ready("node", "the Node of this agent does not exist"),
        };
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                self.judge(Judgement::new(false, error.reason(), error.to_string()));
                return self.not_ready("interfaces", &error.to_string());
            }
        };
        self.readiness.gate("interfaces").open();
        let config = interfaces::config(&found, &objects.epic);
        if let Err(error) = self.configure(&config, &found) {
            return self.not_ready("config", &error.to_string());
        }
        self.readiness.gate("config").open();
        let veths = match veths::find(&self.netlink, &local_addresses(&objects)).await {
            Ok(veths) => veths,
            Err(error) => return self.not_ready("veths", &error.to_string()),
        };
        self.readiness.gate("veths").open();
        let link = Link { ifindex: found.underlay.ifindex, mtu: found.underlay.mtu, local: found.address };
        let place = Place { name: self.settings.node.as_str().into(), link };
        let none = BTreeSet::<NodeName>::new();
        let previous = self.passed.as_ref().map_or(&none, |passed| &passed.desired.eligible);
        let keyring = match &mut self.keyring {
            Some(keyring) => {
                keyring.set_master(master);
                keyring
            }
            none => none.insert(Keyring::new(master)),
        };
        let mut desired = desired(&objects, &place, keyring, &veths, previous);
        if self.passed.as_ref().is_none_or(|passed| passed.desired.left_out != desired.left_out) {
            for why in &desired.left_out {
                tracing::info!(why, "left out");
            }
        }
        // Tunnels that go leave the directory first, or a hello could bring their remotes back.
        self.answering.shrink(&desired.directory);
        let basis = Basis::of(&objects);
        *self.basis.lock() = basis.clone();
        let rows = std::mem::take(&mut desired.rows);
        let (tables, refused) = rows.write(&self.writer, self.initializer.take());
        for error in refused {
            tracing::warn!(%error, "refused by the tables");
        }
        let at = SocketAddr::new(found.address, config.gue_port);
        self.place.send_if_modified(|place| place.replace(at) != Some(at));
        let balancers = snapshot.revision::<epic_crds::LoadBalancer>().cloned();
        self.passed = Some(Passed { desired, snapshot, basis, interfaces: found, tables, balancers });
    }

    /// On a fresh installation there is nothing to do, and helm waits for its pods before anybody can create the EPIC
    /// object: the process is ready then, and its EPICNode says that the node is not.
    fn without_epic(&mut self) {
        let why = "there is no EPIC object epic/epic";
        if self.passed.is_some() {
            return self.not_ready("epic", why);
        }
        self.starting = None;
        self.judge(Judgement::new(false, EPICNodeReason::Starting, why));
    }

    fn not_ready(&self, what: &str, why: &str) {
        crate::not_ready(&self.readiness, what, why);
    }

    /// Writes what the reconciler does not: the configuration and this node's own address.
    fn configure(&self, config: &Config, interfaces: &Interfaces) -> Result<(), epic_datapath::Error> {
        let own = epic_abi::Ip::from(interfaces.address);
        let local = LocalEntry { ifindex: interfaces.underlay.ifindex };
        let held = self.maps.locals.entries()?;
        if held.get(&own) != Some(&local) {
            self.maps.locals.set(&own, &local)?;
        }
        if self.maps.config.get(&CONFIG_KEY)?.as_ref() != Some(config) {
            self.maps.config.set(&CONFIG_KEY, config)?;
        }
        for stray in held.keys().filter(|address| **address != own) {
            self.maps.locals.remove(stray)?;
        }
        Ok(())
    }

    fn judge(&self, judgement: Judgement) {
        self.reports.send_if_modified(|report| {
            let new = report.ready.as_ref() != Some(&judgement);
            report.ready = Some(judgement);
            new
        });
    }

    /// Everything that waits for the maps. `check` looks at every attached program again.
    fn settle(&mut self, full: bool, check: bool) {
        let pending = self.accumulator.pending();
        let gate = self.readiness.gate("watches");
        match pending.iter().next() {
            Some((kind, why)) => gate.close(format!("{kind}: {why}")),
            None => gate.open(),
        }
        let Some(passed) = self.passed.take() else { return };
        let tables = self.writer.snapshot();
        let progress = self.handle.progress();
        let complete = progress.covers(passed.tables);
        self.answering.grow(&passed.desired.directory, &tables);
        self.attach(&passed, check);
        if complete {
            self.announce(&passed);
            if self.refused_attachment.is_none() {
                self.starting = None;
            }
        } else if let Some(starting) = &self.starting {
            starting.because(format!("maps are being written: {}", progress.health));
        }
        self.open_gates(&passed, &tables);
        self.report(&passed, complete, &progress, full);
        self.passed = Some(passed);
    }

    /// Programs on the node's interfaces, and on the veth of every tenant's pod. There it does not wait for entries in the
    /// maps: without them it is the fence around a pod that nobody has listed yet.
    fn attach(&mut self, passed: &Passed, check: bool) {
        let ingress = |ifindex| Attachment { program: Program::Ingress, ifindex };
        let fence = |ifindex| Attachment { program: Program::FromProxy, ifindex };
        let interfaces = &passed.interfaces;
        let mut wanted: BTreeSet<Attachment> =
            passed.desired.fences.keys().map(|ifindex| fence(*ifindex)).collect();
        wanted.extend([ingress(interfaces.public.ifindex), ingress(interfaces.underlay.ifindex)]);
        let is_right = wanted.is_subset(&self.attached)
            && self.attached.difference(&wanted).all(|surplus| {
                surplus.program == Program::FromProxy && !passed.desired.others.contains(&surplus.ifindex)
            });
        if is_right && !check {
            return;
        }
        match self.hang(wanted, &passed.desired.others) {
            Ok(attached) => {
                self.attached = attached;
                self.refused_attachment = None;
            }
            Err(error) => {
                tracing::warn!(%error, "programs are not where they should be; trying again");
                self.attached.clear();
                self.refused_attachment = Some(error.to_string());
            }
        }
    }

    /// Attaches what is wanted and detaches the rest, but for fences: one stays for as long as its veth exists, for the pod
    /// behind it may go on sending when the API has forgotten it. Unless the veth is known to be another pod's.
    fn hang(
        &self,
        mut wanted: BTreeSet<Attachment>,
        others: &BTreeSet<u32>,
    ) -> Result<BTreeSet<Attachment>, epic_datapath::Error> {
        let alive = self.datapath.links()?.into_iter().filter(|link| link.alive).map(|link| link.attachment);
        wanted.extend(alive.filter(|at| at.program == Program::FromProxy && !others.contains(&at.ifindex)));
        crate::hang(&self.datapath, &wanted)
    }

    /// Tells the link about addresses that came here.
    fn announce(&self, passed: &Passed) {
        let link = passed.interfaces.public.clone();
        let new = self.announced.lock().take_up(&link, &passed.desired.owned);
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

    fn open_gates(&mut self, passed: &Passed, tables: &epic_lb::Snapshot) {
        let heard = self.answering.heard();
        let now = Instant::now();
        let local = &passed.desired.local;
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
                Some(local) => gate::entries(tables, local)
                    .and_then(|()| {
                        let wanted = Attachment { program: Program::FromProxy, ifindex: local.veth.ifindex };
                        let hangs = self.attached.contains(&wanted);
                        hangs.then_some(()).ok_or_else(|| "the program is not attached yet".to_owned())
                    })
                    .and_then(|()| {
                        let unheard = gate::unheard(&local.clients, |id| heard.contains_key(&id));
                        self.patience.judge(local, &unheard, now)
                    }),
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

    fn report(&mut self, passed: &Passed, complete: bool, progress: &reconciler::Progress, full: bool) {
        let current = self.reports.borrow().clone();
        let reported = current.revision.clone().or_else(|| self.before.load_balancers_revision.clone());
        let awaited = report::awaited(
            passed.snapshot.list().map(|object| &**object),
            passed.snapshot.list().map(|object| &**object),
        );
        let reached = if complete { self.reached(passed, &awaited) } else { None };
        let ids: BTreeSet<u32> = passed.desired.directory.tunnels.keys().copied().collect();
        let before = current.tunnels.as_ref().or(self.before.tunnels.as_ref());
        let settled = self.started.elapsed() >= SETTLED;
        let time = Time(Timestamp::now());
        let tunnels = report::tunnels(&ids, &self.answering.heard(), before, settled, hello::now(), &time);
        let usage = if full { self.usage() } else { None };
        let ready = self.readiness_of_node(complete, progress);
        self.reports.send_if_modified(|report| {
            let mut next = report.clone();
            next.addresses = Some(vec![passed.interfaces.address]);
            next.programs = Some(self.programs(passed));
            next.revision = report::revision(reported.as_deref(), reached.as_ref(), &awaited).or(reported);
            next.tunnels = Some(tunnels);
            next.map_usage = usage.or(next.map_usage);
            next.ready = ready.or(next.ready);
            let changed = next != *report;
            *report = next;
            changed
        });
    }

    /// Up to which revision of LoadBalancers the maps, which hold this pass, are complete. While nothing happens the
    /// watch says little about that, so for somebody who waits a list of the same content proves it.
    fn reached(&self, passed: &Passed, awaited: &[Version]) -> Option<Version> {
        let mut reached = passed.balancers.clone()?;
        if let Some(now) = self.accumulator.snapshot() {
            let quiet = now.changes_since::<epic_crds::LoadBalancer>(Some(&passed.snapshot)).is_empty();
            if let Some(later) = now.revision::<epic_crds::LoadBalancer>().filter(|_| quiet) {
                reached = later.clone();
            }
        }
        if awaited.iter().all(|awaited| reached.reaches(awaited)) {
            return Some(reached);
        }
        let mut listed = self.listed.lock();
        match listed.take() {
            Some((versions, revision)) if versions == passed.basis.load_balancers => Some(revision),
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

    fn readiness_of_node(&self, complete: bool, progress: &reconciler::Progress) -> Option<Judgement> {
        if let Some(why) = &self.refused_attachment {
            return Some(Judgement::new(false, EPICNodeReason::ProgramsNotAttached, why.as_str()));
        }
        let health = &progress.health;
        if !health.errors.is_empty() {
            let full = health.errors.iter().any(|error| error.contains("the map is full"));
            let reason = if full { EPICNodeReason::MapFull } else { EPICNodeReason::MapsNotProgrammed };
            return Some(Judgement::new(false, reason, health.errors.join("; ")));
        }
        // While rows are on their way nothing new can be said.
        complete.then(|| Judgement::new(true, EPICNodeReason::Ready, ""))
    }

    fn programs(&self, passed: &Passed) -> Vec<NodeProgram> {
        let names: BTreeMap<u32, &str> = passed
            .desired
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
        let counts = BpfMaps::new(Arc::clone(&self.maps)).counts().ok()?;
        let counts: BTreeMap<&'static str, usize> =
            counts.into_iter().map(|(map, count)| (map.name(), count)).collect();
        let node = epic_abi::maps::MAPS.iter().filter(|spec| spec.side != epic_abi::maps::Side::Client);
        let ours = node.filter(|spec| epic_lb::MapId::ALL.iter().any(|map| map.name() == spec.name));
        let usage = ours.map(|spec| MapUsage {
            map: spec.name.to_owned(),
            entries: counts.get(spec.name).map_or(0, |count| i64::try_from(*count).unwrap_or(i64::MAX)),
            capacity: i64::from(spec.max_entries),
            ..Default::default()
        });
        Some(usage.collect())
    }
}
