//! The client agent's loop: LoadBalancers, Endpoints, keys and routes in; device, rules, rows and calls out.
//!
//! A tunnel is called for when the maps hold it, and no longer before its entries go. A way that is lost keeps being
//! used: without a route nothing leaves anyhow, and when it is back everything goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use epic_abi::maps::{CONFIG_KEY, Config, Local, Side};
use epic_crds::well_known::{CONFIG_MAP_CLIENT, SECRET_GUE_KEYS};
use epic_crds::{Endpoint, LoadBalancer};
use epic_datapath::{Attachment, Datapath, Maps, Program};
use epic_lb::render::ClientSide;
use epic_lb::{Ask, Link, MapKey, RowId, TunnelId, Writer};
use epic_ops::readiness::Pending;
use epic_ops::{Metrics, Readiness};
use epic_reconciler::{ConfirmPrune, Status};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kates::{Accumulator, Client, Key, Query, Snapshot};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::calling::Calling;
use super::renewal::Connection;
use super::{Error, Settings, ways};
use crate::desired::client::{Desired, Facts, Objects, Ways, desired, epic_addresses};
use crate::device::{self, Device};
use crate::hello::caller::Caller;
use crate::netlink::Netlink;
use crate::netlink::watch::Interest;
use crate::node::interfaces::by_family;
use crate::plane::Plane;
use crate::wakes::{self, TICK, Wake, Wakes};
use crate::{inspect, nft, unreadable};

/// How long a proxy address that only packets announced is answered to, in seconds.
const LEARNED_SECONDS: u32 = 60;
/// MTU of the underlay while there is no tunnel to take it from.
const USUAL_MTU: u32 = 1_500;

/// A pass whose rows are written.
struct Passed {
    desired: Desired,
    device: Device,
    /// Revision of the tables.
    tables: u64,
}

struct Agent {
    settings: Settings,
    namespace: String,
    accumulator: Accumulator,
    netlink: Netlink,
    datapath: Datapath,
    maps: Arc<Maps>,
    calling: Calling,
    port: watch::Sender<Option<u16>>,
    plane: Plane,
    basis: Arc<Mutex<BTreeSet<String>>>,
    ways: Ways,
    ruled: Option<Facts>,
    /// What was said of routes that the kernel refused.
    unrouted: Vec<(IpNet, String)>,
    attached: BTreeSet<Attachment>,
    passed: Option<Passed>,
    starting: Option<Pending>,
    readiness: Readiness,
}

fn watch_namespace(client: &Client, namespace: &str) -> Accumulator {
    let all = || Query::namespace(namespace);
    client
        .accumulate()
        .watch::<LoadBalancer>(all())
        .watch::<Endpoint>(all())
        .watch::<Secret>(all().field("metadata.name", SECRET_GUE_KEYS))
        .watch::<ConfigMap>(all().field("metadata.name", CONFIG_MAP_CLIENT))
        .start()
}

fn facts(snapshot: &Snapshot, namespace: &str) -> Result<Facts, String> {
    let found = snapshot.get::<ConfigMap>(&Key::namespaced(namespace, CONFIG_MAP_CLIENT));
    let config = found.ok_or_else(|| format!("there is no ConfigMap epic-client in {namespace} yet"))?;
    Facts::read(config).map_err(|error| error.to_string())
}

fn objects(snapshot: &Snapshot, namespace: &str) -> Objects {
    Objects {
        load_balancers: snapshot.list().cloned().collect(),
        endpoints: snapshot.list().cloned().collect(),
        keys: snapshot.get(&Key::namespaced(namespace, SECRET_GUE_KEYS)).cloned(),
    }
}

/// Asks the API server again before more than half of the map entries go.
struct AskAgain {
    client: Client,
    namespace: String,
    basis: Arc<Mutex<BTreeSet<String>>>,
}

impl ConfirmPrune<MapKey> for AskAgain {
    fn confirm_prune(&mut self, ask: Ask) -> std::pin::Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async move {
            let query = Query::namespace(self.namespace.as_str());
            let balancers = self.client.list::<LoadBalancer>(&query).await;
            let endpoints = self.client.list::<Endpoint>(&query).await;
            let (Ok(balancers), Ok(endpoints)) = (balancers, endpoints) else { return false };
            let balancers = balancers.items.into_iter().filter_map(|object| object.metadata.uid);
            let endpoints = endpoints.items.into_iter().filter_map(|object| object.metadata.uid);
            let same = balancers.chain(endpoints).collect::<BTreeSet<_>>() == *self.basis.lock();
            tracing::info!(
                removals = ask.entries.len(),
                entries = ask.held,
                confirmed = same,
                "asked the API server before a large removal"
            );
            same
        })
    }
}

/// Runs until asked to end.
pub(super) async fn run(
    settings: Settings,
    connection: Connection,
    namespace: String,
    (readiness, starting): (Readiness, Pending),
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let client = Client::new(connection.kube.clone());
    unreadable::tell(client.poison_reports(), &metrics);
    let accumulator = watch_namespace(&client, &namespace);
    let netlink = Netlink::connect()?;
    let Some(first) = first_facts(&accumulator, &namespace, &starting, &shutdown).await else {
        return Ok(());
    };
    // Before anything of this host is touched.
    device::check_conflicts(&netlink, &first.proxies).await?;
    let datapath = Datapath::open(&settings.host.datapath(Side::Client))?;
    let maps = Arc::clone(datapath.maps());
    let mut session = [0; 8];
    getrandom::fill(&mut session).map_err(Error::Random)?;
    let caller = Arc::new(Mutex::new(Caller::new(u64::from_ne_bytes(session))));
    let basis = Arc::new(Mutex::new(BTreeSet::new()));
    let ask = AskAgain { client: client.clone(), namespace: namespace.clone(), basis: Arc::clone(&basis) };
    let reconciler = settings.host.reconciler;
    let mut plane: Plane =
        Plane::start::<_, _, Error>(Writer::new(), &maps, (ClientSide, ask), reconciler, &metrics)?;
    let (port, port_changes) = watch::channel(None);
    let calling =
        Calling { caller: Arc::clone(&caller), maps: Arc::clone(&maps), changed: Arc::new(Notify::new()) };
    let hello = tokio::spawn(calling.clone().run(port_changes, shutdown.clone()));
    let view = inspect::client_view(
        settings.node_address.to_string(),
        Arc::clone(&maps),
        caller,
        plane.writer.clone(),
        plane.handle.clone(),
        readiness.clone(),
    );
    let looks = (epic_shell::Side::Client, view, Arc::new(Vec::new) as inspect::Parts);
    plane.answer(settings.host.socket.clone(), looks, shutdown.clone());
    tracing::info!(adopted = ?datapath.adopted(), "the data plane is loaded");
    let mut agent = Agent {
        settings,
        namespace,
        accumulator,
        netlink,
        attached: datapath.adopted().links.clone(),
        datapath,
        maps,
        calling,
        port,
        plane,
        basis,
        ways: BTreeMap::new(),
        ruled: None,
        unrouted: Vec::new(),
        passed: None,
        starting: Some(starting),
        readiness,
    };
    agent.turn(shutdown).await?;
    hello.abort();
    agent.plane.end().await;
    Ok(())
}

/// Waits for the ConfigMap; `None` when asked to end meanwhile.
async fn first_facts(
    accumulator: &Accumulator,
    namespace: &str,
    starting: &Pending,
    shutdown: &CancellationToken,
) -> Option<Facts> {
    let mut updates = accumulator.updates();
    loop {
        tokio::select! {
            update = updates.next() => match facts(&update.snapshot, namespace) {
                Ok(facts) => return Some(facts),
                Err(why) => {
                    tracing::warn!(why, "waiting");
                    starting.because(why);
                }
            },
            () = tokio::time::sleep(TICK) => {
                if let Some((kind, why)) = accumulator.pending().into_iter().next() {
                    starting.because(format!("{kind}: {why}"));
                }
            }
            () = shutdown.cancelled() => return None,
        }
    }
}

impl Agent {
    async fn turn(&mut self, shutdown: CancellationToken) -> Result<(), Error> {
        let mut wakes = Wakes::new(&self.accumulator, &self.plane.handle, Interest::Routes, shutdown)?;
        loop {
            let (mut pass, mut moved) = (false, false);
            match wakes.next().await? {
                Wake::Objects(_) => pass = true,
                Wake::Host(changed) => {
                    moved = changed.links;
                    wakes::quiet().await;
                    pass = true;
                }
                Wake::Maps | Wake::Time => {}
                Wake::End => return Ok(()),
            }
            let full = wakes.take_full();
            if pass || full {
                self.pass(full).await;
            }
            // An interface that was made anew may have the index of the one before, and nothing hangs there then.
            self.settle(full || moved);
        }
    }

    fn not_ready(&self, what: &str, why: &str) {
        crate::not_ready(&self.readiness, what, why);
    }

    async fn pass(&mut self, full: bool) {
        let Some(snapshot) = self.accumulator.snapshot() else { return };
        let facts = match facts(&snapshot, &self.namespace) {
            Ok(facts) => facts,
            Err(why) => return self.not_ready("epic-client", &why),
        };
        self.readiness.gate("epic-client").open();
        let objects = objects(&snapshot, &self.namespace);
        if objects.keys.is_none() {
            return self.not_ready("keys", "there is no Secret epic-gue-keys in the namespace yet");
        }
        self.readiness.gate("keys").open();
        self.find_ways(&epic_addresses(&objects, self.settings.node_address)).await;
        let device = match self.prepare_host(&facts, full).await {
            Ok(device) => device,
            Err(error) => return self.not_ready("host", &error.to_string()),
        };
        self.readiness.gate("host").open();
        let mut desired = desired(&objects, self.settings.node_address, &facts, &self.ways);
        if self.passed.as_ref().is_none_or(|passed| passed.desired.left_out != desired.left_out) {
            for why in &desired.left_out {
                tracing::info!(why, "left out");
            }
        }
        if let Err(error) = self.configure(&facts, &device) {
            return self.not_ready("config", &error.to_string());
        }
        self.readiness.gate("config").open();
        self.call_for(&desired, |_| false);
        let balancers = objects.load_balancers.iter().filter_map(|o| o.metadata.uid.clone());
        let endpoints = objects.endpoints.iter().filter_map(|o| o.metadata.uid.clone());
        *self.basis.lock() = balancers.chain(endpoints).collect();
        let rows = std::mem::take(&mut desired.rows);
        let (tables, refused) = rows.write(&self.plane.writer, self.plane.initializer.take().as_ref());
        for error in refused {
            tracing::warn!(%error, "refused by the tables");
        }
        self.port.send_if_modified(|port| port.replace(facts.port) != Some(facts.port));
        self.passed = Some(Passed { desired, device, tables });
    }

    /// The ways to EPIC nodes as the routes are now.
    async fn find_ways(&mut self, addresses: &BTreeSet<IpAddr>) {
        let mut found = Ways::new();
        for address in addresses {
            found.insert(*address, ways::find(&self.netlink, *address).await);
        }
        self.ways = ways::after(std::mem::take(&mut self.ways), found);
        match ways::unsupported(&self.ways) {
            Some(why) => self.not_ready("ways", &why),
            None => self.readiness.gate("ways").open(),
        }
    }

    fn links(&self) -> impl Iterator<Item = &Link> {
        self.ways.values().filter_map(|way| way.as_ref().ok())
    }

    async fn prepare_host(&mut self, facts: &Facts, full: bool) -> Result<Device, Error> {
        let underlay = self.links().map(|way| way.mtu).min().unwrap_or(USUAL_MTU);
        let mtu = underlay.saturating_sub(facts.overhead);
        // To look for conflicts is to read every route of the host, which may have very many and changes of them always.
        let look = full || self.ruled.as_ref() != Some(facts);
        let device = device::ensure(&self.netlink, mtu, &facts.proxies, look).await?;
        if self.unrouted != device.unrouted {
            for (range, why) in &device.unrouted {
                tracing::warn!(%range, why, "this host has no IPv6 for EPIC; IPv4 is carried all the same");
            }
            self.unrouted.clone_from(&device.unrouted);
        }
        if look {
            nft::ensure(device::NAME, &facts.proxies).await?;
            let drops = nft::forward_drops().await?;
            if !drops.is_empty() {
                tracing::warn!(
                    chains = drops.join(", "),
                    "other chains drop what they do not accept; let epic0 pass"
                );
            }
            self.ruled = Some(facts.clone());
        }
        Ok(device)
    }

    /// Writes what the reconciler does not: the configuration and the addresses that tunnels start from.
    fn configure(&self, facts: &Facts, device: &Device) -> Result<(), epic_datapath::Error> {
        let (proxies_v4, proxies_v6) = by_family(&facts.proxies);
        let config = Config {
            gue_port: facts.port,
            device_ifindex: device.ifindex,
            learned_seconds: LEARNED_SECONDS,
            mac: device.mac,
            proxies_v4,
            proxies_v6,
            ..Config::default()
        };
        let own: BTreeMap<epic_abi::Ip, Local> =
            self.links().map(|way| (way.local.into(), Local { ifindex: way.ifindex })).collect();
        let held = self.maps.locals.entries()?;
        for (address, local) in own.iter().filter(|(address, local)| held.get(*address) != Some(local)) {
            self.maps.locals.set(address, local)?;
        }
        if self.maps.config.get(&CONFIG_KEY)?.as_ref() != Some(&config) {
            self.maps.config.set(&CONFIG_KEY, &config)?;
        }
        for stray in held.keys().filter(|address| !own.contains_key(address)) {
            self.maps.locals.remove(stray)?;
        }
        Ok(())
    }

    /// Calls for the wanted tunnels that are called for already or whose entries are in the maps.
    fn call_for(&self, desired: &Desired, is_done: impl Fn(u32) -> bool) {
        let mut caller = self.calling.caller.lock();
        let mut wanted = desired.wanted.clone();
        wanted.retain(|id, _| caller.wanted().contains_key(id) || is_done(*id));
        if wanted != *caller.wanted() {
            caller.set_wanted(wanted);
            self.calling.changed.notify_one();
        }
    }

    /// Everything that waits for the maps. `check` looks at every attached program again.
    fn settle(&mut self, check: bool) {
        match self.accumulator.pending().into_iter().next() {
            Some((kind, why)) => self.readiness.gate("watches").close(format!("{kind}: {why}")),
            None => self.readiness.gate("watches").open(),
        }
        let Some(passed) = self.passed.take() else { return };
        let (tables, progress) = (self.plane.writer.snapshot(), self.plane.handle.progress());
        self.call_for(&passed.desired, |id| {
            let id = TunnelId::new(id).ok();
            id.and_then(|id| tables.status(RowId::Tunnel(id), &progress)) == Some(Status::Done)
        });
        let attached = self.attach(&passed.device, check);
        // What fails of one LoadBalancer holds up nothing of the others.
        let complete = progress.has_attempted(passed.tables) && progress.covers_node(passed.tables);
        let serving = crate::take_over(&mut self.datapath, complete, &progress.health, &self.readiness);
        if complete && attached && serving {
            self.starting = None;
        } else if let Some(starting) = &self.starting {
            starting.because(format!("maps are being written: {}", progress.health));
        }
        self.passed = Some(passed);
    }

    fn attach(&mut self, device: &Device, check: bool) -> bool {
        let mut wanted =
            BTreeSet::from([Attachment { program: Program::ClientEgress, ifindex: device.ifindex }]);
        let ingress = |ifindex| Attachment { program: Program::ClientIngress, ifindex };
        wanted.extend(self.links().map(|way| ingress(way.ifindex)));
        if !check && wanted == self.attached {
            return true;
        }
        match crate::hang(&self.datapath, &wanted) {
            Ok(kept) => {
                self.attached = kept.done.into_keys().collect();
                if let Some((_, error)) = kept.refused.first_key_value() {
                    self.not_ready("programs", &error.to_string());
                    return false;
                }
                self.readiness.gate("programs").open();
                true
            }
            Err(error) => {
                self.attached.clear();
                self.not_ready("programs", &error.to_string());
                false
            }
        }
    }
}
