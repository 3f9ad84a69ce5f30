//! The agent's loop: what changed becomes rows; when the maps hold them, what depends on that follows.
//!
//! A *pass* turns a snapshot and the interfaces into rows. A *small pass* does so for those LoadBalancers alone that changed,
//! themselves or by their Endpoints, which is nearly all that ever happens. *Settling* is everything that waits for the maps: tunnels
//! enter the hello directory, programs are attached, addresses announced, gates opened, the node reports. Settling is
//! repeatable and runs after every pass, whenever the reconciler got on, and every second. Beside it addresses are probed
//! and watched ([`addresses`]). Nothing here waits for the API server: writes to it are tasks of their own.

mod addresses;
mod reporting;
mod settle;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use epic_abi::maps::{CONFIG_KEY, Config, Local as LocalEntry};
use epic_crds::EPICNodeStatus;
use epic_crds::well_known::EPIC_NAMESPACE;
use epic_datapath::{Attachment, Datapath, Maps};
use epic_lb::render::NodeSide;
use epic_lb::{Link, Veth, Writer};
use epic_model::id::NodeName;
use epic_ops::readiness::Pending;
use epic_ops::{Metrics, Readiness};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kates::{Accumulator, Client, Key, Snapshot, Version};
use kube::runtime::events::Recorder;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::addresses::Answered;
use self::settle::Refused;
use super::announce::Announced;
use super::answering::Answering;
use super::arp::{Arp, Ears, QUEUE};
use super::awaited::Awaited;
use super::behind::Leaving;
use super::gate::Patience;
use super::guard::{Guard, Neighbours};
use super::in_force::InForce;
use super::inputs::{Inputs, Unknown};
use super::interfaces::{self, Interfaces};
use super::judgement::Judgement;
use super::lease::Contact;
use super::networks;
use super::report::Report;
use super::services::{self, Services};
use super::watched::{self, AskAgain, Basis};
use super::{Error, Settings, is_uninstalled};
use crate::desired::ServiceRows;
use crate::desired::keys::Keyring;
use crate::desired::node::{Claim, Decision, Delta, Place, local_addresses};
use crate::inspect;
use crate::netlink::Netlink;
use crate::netlink::watch::Interest;
use crate::plane::Plane;
use crate::wakes::{self, Wake, Wakes};

/// How long clients have to call after a start before a tunnel that was up is called down.
const SETTLED: Duration = Duration::from_secs(15);

/// What the agent is made of.
pub(super) struct Parts {
    pub(super) settings: Settings,
    pub(super) client: Client,
    pub(super) accumulator: Accumulator,
    pub(super) datapath: Datapath,
    pub(super) before: EPICNodeStatus,
    pub(super) contact: Arc<Contact>,
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
    decision: Decision,
    snapshot: Snapshot,
    interfaces: Interfaces,
    /// Revision of the tables.
    tables: u64,
    /// Up to which the LoadBalancers in it are complete.
    balancers: Option<Version>,
}

/// A list of LoadBalancers: uids with versions, and its revision.
type Listed = (BTreeSet<(String, String)>, Version);

/// Why rows may have to change, the greater reason last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    Nothing,
    /// Objects changed.
    Objects,
    /// Something else did: interfaces, what is heard of addresses, or it is time to look at everything.
    Everything,
}

/// How much of what has settled is looked at beside what changed, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    /// What changed.
    Changes,
    /// What only time changes: once a second.
    Around,
    /// Everything, at full passes.
    Everything,
}

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
    plane: Plane,
    basis: Arc<Mutex<Basis>>,
    listed: Arc<Mutex<Option<Listed>>>,
    /// At most one list at a time.
    listing: Arc<Semaphore>,
    patching: Arc<Mutex<BTreeSet<Key>>>,
    keyring: Option<Keyring>,
    passed: Option<Passed>,
    /// Everything has to be decided again, since it could not be.
    unfinished: bool,
    attached: BTreeSet<Attachment>,
    refused: Refused,
    inputs: Inputs,
    in_force: InForce,
    awaited: Awaited,
    /// Pods whose gates were found open and right, with their veths.
    opened: BTreeMap<Arc<str>, (Arc<Pod>, Veth)>,
    announced: Arc<Mutex<Announced>>,
    guard: Guard,
    answered: Answered,
    neighbours: Neighbours,
    contact: Arc<Contact>,
    ears: Ears,
    /// The interface on which ARP is heard.
    heard_on: watch::Sender<Option<u32>>,
    events: Recorder,
    gateways: Option<BTreeSet<IpAddr>>,
    patience: Patience,
    leaving: Leaving,
    boot_id: String,
    before: EPICNodeStatus,
    started: Instant,
    starting: Option<Pending>,
    readiness: Readiness,
    reports: watch::Sender<Report>,
}

/// Runs until asked to end or to uninstall.
pub(super) async fn run(parts: Parts, starting: Pending) -> Result<End, Error> {
    let Parts { settings, client, accumulator, datapath, before, contact, reports, readiness, .. } = parts;
    let (registry, shutdown) = (parts.registry, parts.shutdown);
    let maps = Arc::clone(datapath.maps());
    let serving = datapath.serving()?;
    let answering = Answering::adopt(Arc::clone(&maps), &serving.tunnels)?;
    let netlink = Netlink::connect()?;
    let render = NodeSide::new(settings.node.as_str(), interfaces::MAGLEV_SEED);
    let basis = Arc::new(Mutex::new(Basis::default()));
    let ask = AskAgain { client: client.clone(), basis: Arc::clone(&basis) };
    let writer = Writer::new();
    let mut services =
        Services::start(&settings.services, &client, &settings.node, &writer, &shutdown).await?;
    let mut plane: Plane =
        Plane::start::<_, _, Error>(writer, &maps, (render, ask), settings.host.reconciler, &registry)?;
    let (place, place_changes) = watch::channel(None);
    let hello = tokio::spawn(Arc::clone(&answering).run(place_changes, shutdown.clone()));
    let (ears, (heard_on, ear_changes), (speak, mut heard)) =
        (Ears::default(), watch::channel(None), mpsc::channel(QUEUE));
    let listening = tokio::spawn(ears.clone().run(ear_changes, speak, shutdown.clone()));
    let answered = Answered::adopt(serving.owned);
    let events = super::told::recorder(client.kube(), &settings.node);
    registry.register(|registry| {
        registry.register("hello_refused", "Hello entries refused", answering.refused.clone());
    });
    let view = inspect::node_view(
        settings.node.clone(),
        Arc::clone(&maps),
        Arc::clone(&answering),
        plane.writer.clone(),
        plane.handle.clone(),
        readiness.clone(),
    );
    let side = epic_shell::Side::Node { name: settings.node.as_str().into(), seed: interfaces::MAGLEV_SEED };
    services.check(&settings.services, &settings.node, &plane.writer, plane.handle.clone(), &shutdown);
    let looks = (side, view, services::look(&Arc::new(services)));
    plane.answer(settings.host.socket.clone(), looks, shutdown.clone());
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
        plane,
        basis,
        listed: Arc::default(),
        listing: Arc::new(Semaphore::new(1)),
        patching: Arc::default(),
        keyring: None,
        passed: None,
        unfinished: true,
        attached,
        refused: Refused::default(),
        inputs: Inputs::default(),
        in_force: InForce::default(),
        awaited: Awaited::default(),
        opened: BTreeMap::new(),
        announced: Arc::default(),
        guard: Guard::default(),
        answered,
        neighbours: Neighbours::default(),
        contact,
        ears,
        heard_on,
        events,
        gateways: None,
        patience: Patience::default(),
        leaving: Leaving::default(),
        boot_id: super::host::boot_id(),
        before,
        started: Instant::now(),
        starting: Some(starting),
        readiness,
        reports,
    };
    let uninstalled = agent.turn(&mut heard, shutdown).await?;
    hello.abort();
    listening.abort();
    agent.plane.end().await;
    if !uninstalled {
        return Ok(End::Asked);
    }
    Ok(End::Uninstalled(agent.datapath.remove()))
}

/// Waits until then; without a time for ever.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Whether this node may answer for an address that it owns.
fn may_answer<'a>(
    guard: &'a mut Guard,
    answered: &'a Answered,
    gateways: &'a Option<BTreeSet<IpAddr>>,
) -> impl FnMut(IpAddr, &Claim) -> bool + use<'a> {
    let (now, time) = (Instant::now(), Time(Timestamp::now()));
    move |address, claim| {
        let gateway = claim.gateway || gateways.iter().flatten().any(|gateway| *gateway == address);
        let claim = &Claim { gateway, ..claim.clone() };
        guard.may_answer(address, claim, answered.knows(address, &claim.uid), now, &time)
    }
}

impl Agent {
    /// Says whether it ended because EPIC is being uninstalled.
    async fn turn(
        &mut self,
        heard: &mut mpsc::Receiver<Arp>,
        shutdown: CancellationToken,
    ) -> Result<bool, Error> {
        let mut wakes = Wakes::new(&self.accumulator, &self.plane.handle, Interest::Interfaces, shutdown)?;
        loop {
            let (mut cause, mut moved, mut look) = (Cause::Nothing, false, Look::Changes);
            tokio::select! {
                wake = wakes.next() => match wake? {
                    Wake::Objects(snapshot) => {
                        if watched::epic(&snapshot).is_some_and(|epic| is_uninstalled(epic)) {
                            return Ok(true);
                        }
                        cause = Cause::Objects;
                    }
                    Wake::Host(changed) => {
                        moved = changed.links;
                        self.inputs.note(changed);
                        wakes::quiet().await;
                        cause = Cause::Everything;
                    }
                    Wake::Maps => {}
                    Wake::Time => look = Look::Around,
                    Wake::End => return Ok(false),
                },
                Some(arp) = heard.recv() => if self.hear(&arp) { cause = Cause::Everything },
                () = until(self.guard.next()) => {}
                () = until(self.inputs.again()) => {
                    self.inputs.look_again();
                    cause = Cause::Everything;
                }
            }
            let full = wakes.take_full();
            if full {
                self.inputs.expire();
                look = Look::Everything;
            }
            if full || self.gateways.is_none() {
                self.find_gateways().await;
            }
            if self.watch_addresses() || full {
                cause = Cause::Everything;
            }
            if cause > Cause::Nothing {
                self.unfinished |= cause == Cause::Everything;
                if !self.small_pass() {
                    self.unfinished = true;
                    self.pass().await;
                }
                self.ask_for_addresses();
            }
            // An interface that was made anew may have the index of the one before, and nothing hangs there then.
            self.settle(look, full || moved);
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
            let why = "Secret epic-gue-master has no usable entry \"master\"";
            self.judge(Judgement::without_key(why));
            return self.not_ready("keys", why);
        };
        self.readiness.gate("keys").open();
        let found = match snapshot.get::<Node>(&Key::cluster(self.settings.node.as_str())) {
            Some(node) => self.inputs.interfaces(&self.netlink, &objects.epic, node, Instant::now()).await,
            None => return self.not_ready("node", "the Node of this agent does not exist"),
        };
        let found = match found {
            Ok(found) => found,
            Err(Unknown { error, lasting }) => {
                if lasting {
                    self.judge(Judgement::without_interfaces(&error));
                }
                return self.not_ready("interfaces", &error.to_string());
            }
        };
        self.readiness.gate("interfaces").open();
        let config = interfaces::config(&found, &objects.epic, master.flow_hash_seed());
        let networks = networks::of(&objects.nodes, &self.settings.node, &objects.epic);
        let configured = self.configure(&config, &found);
        if let Err(error) = configured.and_then(|()| networks::write(&self.maps.source_ranges, &networks)) {
            return self.not_ready("config", &error.to_string());
        }
        self.readiness.gate("config").open();
        let pods = local_addresses(&objects);
        let veths = match self.inputs.veths(&self.netlink, &pods, Instant::now()).await {
            Ok(veths) => veths,
            Err(error) => return self.not_ready("veths", &error.to_string()),
        };
        self.readiness.gate("veths").open();
        let link = Link { ifindex: found.underlay.ifindex, mtu: config.underlay_mtu, local: found.address };
        let place = Place { name: self.settings.node.as_str().into(), link };
        let none = BTreeSet::<NodeName>::new();
        let previous = self.passed.as_ref().map_or(&none, |passed| &passed.decision.desired().eligible);
        let keyring = match &mut self.keyring {
            Some(keyring) => {
                keyring.set_master(master);
                keyring
            }
            none => none.insert(Keyring::new(master)),
        };
        self.answered.note(&objects);
        self.neighbours = addresses::neighbours(&objects, &self.settings.node, &found);
        let may_answer = may_answer(&mut self.guard, &self.answered, &self.gateways);
        let mut decision = Decision::new(&objects, &place, keyring, &veths, previous, may_answer);
        let rows = decision.take_rows();
        let desired = decision.desired();
        self.guard.retain(&desired.owned);
        *self.ears.addresses.lock() = self.guard.watched();
        let index = found.public.ifindex;
        self.heard_on.send_if_modified(|heard_on| heard_on.replace(index) != Some(index));
        if self.passed.as_ref().is_none_or(|p| p.decision.desired().left_out != desired.left_out) {
            desired.left_out().for_each(|why| tracing::info!(why, "left out"));
        }
        // Tunnels that go leave the directory first, or a hello could bring their remotes back.
        self.answering.shrink(&desired.directory);
        *self.basis.lock() = Basis::of(&objects);
        let (tables, refused) = rows.write(&self.plane.writer, self.plane.initializer.take().as_ref());
        for error in refused {
            tracing::warn!(%error, "refused by the tables");
        }
        let at = SocketAddr::new(found.address, config.gue_port);
        self.place.send_if_modified(|place| place.replace(at) != Some(at));
        let balancers = snapshot.revision::<epic_crds::LoadBalancer>().cloned();
        self.passed = Some(Passed { decision, snapshot, interfaces: found, tables, balancers });
        self.unfinished = false;
    }

    /// Decides again about the LoadBalancers that changed, themselves, by Endpoints or by claims, if nothing else did since the
    /// last pass. Says whether that was enough; it costs the same however many others there are.
    fn small_pass(&mut self) -> bool {
        let (Some(snapshot), Some(keyring)) = (self.accumulator.snapshot(), &mut self.keyring) else {
            return false;
        };
        let Some(passed) = self.passed.as_mut().filter(|_| !self.unfinished) else { return false };
        if watched::has_changed_otherwise(&snapshot, &passed.snapshot) {
            return false;
        }
        let changes = watched::changes(&snapshot, &passed.snapshot);
        let nodes = snapshot.changes_since(Some(&passed.snapshot));
        self.answered.follow(&changes.claims, &nodes, |address| {
            snapshot.get(&Key::namespaced(EPIC_NAMESPACE, &*epic_crds::claim_name(address))).cloned()
        });
        let find = |name: &epic_lb::ServiceName| {
            snapshot.get(&Key::namespaced(name.namespace(), name.name())).cloned()
        };
        let may_answer = may_answer(&mut self.guard, &self.answered, &self.gateways);
        let decided = passed.decision.change(&changes, find, keyring, may_answer);
        let Some(Delta { services, gone, directory, addresses, left_out }) = decided else { return false };
        left_out.iter().for_each(|why| tracing::info!(why, "left out"));
        let desired = passed.decision.desired();
        if addresses {
            self.guard.retain(&desired.owned);
            *self.ears.addresses.lock() = self.guard.watched();
        }
        if directory {
            // Tunnels that go leave the directory first, or a hello could bring their remotes back.
            self.answering.shrink(&desired.directory);
        }
        self.basis.lock().change(&changes);
        let (tables, refused) = ServiceRows::write_all(services, &gone, &self.plane.writer);
        for error in refused {
            tracing::warn!(%error, "refused by the tables");
        }
        passed.tables = tables;
        passed.balancers = snapshot.revision::<epic_crds::LoadBalancer>().cloned();
        passed.snapshot = snapshot;
        true
    }

    /// On a fresh installation there is nothing to do, and helm waits for its pods before anybody can create the EPIC
    /// object: the process is ready then, and its EPICNode says that the node is not.
    fn without_epic(&mut self) {
        let why = "there is no EPIC object epic/epic";
        if self.passed.is_some() {
            return self.not_ready("epic", why);
        }
        self.starting = None;
        self.judge(Judgement::without_epic(why));
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
}
