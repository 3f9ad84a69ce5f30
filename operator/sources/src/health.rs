//! Between the tables and the health checker: which backends are probed, what comes of it, and who is told.
//!
//! ```text
//! services, backends ──▶ Health ──▶ epic_health::Checker ──▶ backends
//!        verdicts ◀───────┘  ▲              │
//!                            └── Verdicts ◀─┘
//! snapshot ──▶ NodeAnswers ──▶ epic_health::node_port ──▶ load balancers upstream
//! ```
//!
//! A backend is probed if its service says how (`Edge::reach.check` of the most preferred source), if its place is an
//! address with a TCP port or the check names one, and if it is not in maintenance. What cannot be probed is named in
//! [`Probed::unasked`], with the reason. A verdict is of a service and a place; it is written by a writer for
//! [`Source::Local`], what this process knows itself, and goes with the last backend there.
//!
//! [`Checks`] starts all of this in a process.
//!
//! Guarantees: verdicts come into the tables in batches, one transaction each; no verdict of a target that was removed, or of
//! another question than the present one, is written after the tables were followed; one that a source wiped with its backend
//! and put back is written again; a change costs the services and backends that changed.
//! Assumption: nobody else writes verdicts of the services that have a check.
//! Caveat: when it ends, the verdicts stay as they are and grow old.

mod node_ports;
mod started;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use epic_health::{Check, Checker, Driver, Prober, Settings, Stats, Target, Verdicts};
use epic_lb::rows::VerdictKey;
use epic_lb::{BackendState, Protocol, ServiceName, Snapshot, Source, Writer};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use node_ports::NodeAnswers;
pub use started::Checks;

/// Who pays for slow answers: the namespace, which is the account's.
type Group = Arc<str>;

/// Probes what the tables name, and writes what it finds into them.
#[derive(Debug)]
#[must_use = "nothing is probed unless `run` is polled"]
pub struct Health {
    writer: Writer,
    driver: Driver<VerdictKey, Group>,
    verdicts: Verdicts<VerdictKey, Group>,
    targets: Targets,
}

/// How probing stands, for people. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Probed {
    checker: Checker<VerdictKey, Group>,
    unasked: watch::Receiver<BTreeMap<VerdictKey, Unasked>>,
}

/// A backend that its service wants to be probed and that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unasked {
    /// Its service.
    pub service: ServiceName,
    /// Why, and what to change.
    pub why: String,
}

impl Probed {
    /// What the checker is doing.
    pub fn stats(&self) -> Stats {
        self.checker.stats()
    }

    /// Backends that cannot be probed, by service and place. They count as healthy.
    pub fn unasked(&self) -> Vec<Unasked> {
        self.unasked.borrow().values().cloned().collect()
    }
}

impl Health {
    /// For the tables of this writer.
    pub fn new(writer: &Writer, settings: Settings) -> (Self, Probed) {
        let (checker, driver, verdicts) = Checker::new(settings);
        let (unasked, seen) = watch::channel(BTreeMap::new());
        let targets = Targets { checker: checker.clone(), known: BTreeMap::new(), unasked };
        let health = Self { writer: writer.for_source(Source::Local), driver, verdicts, targets };
        (health, Probed { checker, unasked: seen })
    }

    /// Follows the tables until `stop`.
    pub async fn run(self, prober: impl Prober, stop: CancellationToken) {
        let Self { writer, driver, mut verdicts, mut targets } = self;
        // Ends with this function.
        let mut driving = JoinSet::new();
        driving.spawn(driver.run(prober));
        let reader = writer.reader();
        let mut any = reader.watch_any();
        let mut before: Arc<Snapshot> = Arc::default();
        loop {
            any.mark_unchanged();
            let now = reader.snapshot();
            let stale = targets.follow(&before, &now);
            targets.write(&writer, stale);
            before = now;
            tokio::select! {
                changed = any.changed() => if changed.is_err() { return },
                found = verdicts.next() => match found {
                    Some(found) => targets.record(&writer, found),
                    None => return,
                },
                () = stop.cancelled() => return,
            }
        }
    }
}

/// A backend that is probed.
#[derive(Debug)]
struct Known {
    /// Keeps the key's number whose it is.
    service: ServiceName,
    check: Arc<Check>,
    /// What was found out last.
    last: Option<(bool, Option<Arc<str>>)>,
}

/// A backend whose verdict in the tables is not what was found out.
#[derive(Debug)]
enum Stale {
    /// It is to be what is known.
    Wiped(VerdictKey),
    /// It is probed no more.
    Unwanted(ServiceName, VerdictKey),
}

#[derive(Debug)]
struct Targets {
    checker: Checker<VerdictKey, Group>,
    known: BTreeMap<VerdictKey, Known>,
    unasked: watch::Sender<BTreeMap<VerdictKey, Unasked>>,
}

impl Targets {
    /// Makes the targets those of these tables; says which verdicts are to be written or forgotten.
    fn follow(&mut self, before: &Snapshot, now: &Snapshot) -> Vec<Stale> {
        let mut touched: BTreeSet<VerdictKey> = BTreeSet::new();
        for change in now.backends.changes_since(&before.backends) {
            let row = change.row();
            touched.insert(VerdictKey { service: row.service.id(), place: row.place });
        }
        for change in now.services.changes_since(&before.services) {
            let service = change.row().name.id();
            touched.extend(now.backends_of(service).map(|row| VerdictKey { service, place: row.place }));
        }
        touched.into_iter().filter_map(|key| self.follow_one(now, key)).collect()
    }

    fn follow_one(&mut self, now: &Snapshot, key: VerdictKey) -> Option<Stale> {
        let wanted = wanted(now, key);
        let unasked = match &wanted {
            Wanted::Unasked(unasked) => Some(unasked),
            _ => None,
        };
        self.say(key, unasked);
        let Wanted::Asked { service, port, check } = wanted else {
            let known = self.known.remove(&key)?;
            self.checker.remove(key);
            return now.verdicts.contains(key).then_some(Stale::Unwanted(known.service, key));
        };
        let check = self.shared(key, check);
        let address = std::net::SocketAddr::new(key.place.address.ip(), port);
        let group: Group = service.namespace().into();
        self.checker.upsert(key, Target::new(group, address, Arc::clone(&check)));
        let known = self.known.entry(key).or_insert(Known { service, check: Arc::clone(&check), last: None });
        known.check = check;
        (known.last.is_some() && !now.verdicts.contains(key)).then_some(Stale::Wiped(key))
    }

    /// The check of another backend of the service, if it is the same.
    fn shared(&self, key: VerdictKey, check: Check) -> Arc<Check> {
        let first = VerdictKey { place: epic_lb::Place::LEAST, ..key };
        let other = self.known.range(first..).next().filter(|(other, _)| other.service == key.service);
        match other {
            Some((_, known)) if *known.check == check => Arc::clone(&known.check),
            _ => Arc::new(check),
        }
    }

    fn say(&self, key: VerdictKey, unasked: Option<&Unasked>) {
        self.unasked.send_if_modified(|all| {
            if all.get(&key) == unasked {
                return false;
            }
            match unasked {
                Some(unasked) => {
                    tracing::warn!(service = %unasked.service, why = %unasked.why, "a backend is not probed");
                    all.insert(key, unasked.clone());
                }
                None => {
                    all.remove(&key);
                }
            }
            true
        });
    }

    fn write(&self, writer: &Writer, stale: Vec<Stale>) {
        if stale.is_empty() {
            return;
        }
        let mut txn = writer.write();
        for stale in stale {
            match stale {
                Stale::Unwanted(service, key) => {
                    txn.forget_backend_health(&service, key.place);
                }
                Stale::Wiped(key) => {
                    let Some(known) = self.known.get(&key) else { continue };
                    let Some((healthy, reason)) = known.last.clone() else { continue };
                    txn.set_backend_health(&known.service, key.place, healthy, reason);
                }
            }
        }
        txn.commit();
    }

    fn record(&mut self, writer: &Writer, found: Vec<epic_health::Verdict<VerdictKey>>) {
        let mut txn = writer.write();
        for verdict in found {
            // Of one that was removed since nothing is to be said.
            let Some(known) = self.known.get_mut(&verdict.key) else { continue };
            let reason: Option<Arc<str>> = (!verdict.reason.is_empty()).then(|| (*verdict.reason).into());
            let (service, place, healthy) = (&known.service, verdict.key.place, verdict.healthy);
            tracing::info!(%service, backend = %place, healthy, reason = reason.as_deref(), "health");
            txn.set_backend_health(service, place, healthy, reason.clone());
            known.last = Some((healthy, reason));
        }
        txn.commit();
    }
}

enum Wanted {
    Asked { service: ServiceName, port: u16, check: Check },
    Unasked(Unasked),
    Nothing,
}

/// Whether and how a place of a service is to be probed.
fn wanted(tables: &Snapshot, key: VerdictKey) -> Wanted {
    // The row that selection goes by.
    let rows = tables.backends.prefix((key.service, key.place));
    let Some(row) = rows.min_by_key(|row| (row.state.new_flows(), row.source)) else {
        return Wanted::Nothing;
    };
    let check = tables.service(key.service).and_then(|service| service.edge.reach.check.as_ref());
    let Some(check) = check else { return Wanted::Nothing };
    if row.state == BackendState::Maintenance {
        return Wanted::Nothing;
    }
    let place = key.place;
    let why = if place.port == 0 && check.port.is_none() {
        Some(format!("{place} has no port of its own to probe; name the port, or leave the health check out"))
    } else if place.address.ip().is_unspecified() {
        Some(format!("{place} is no address of a host; name the backend's address"))
    } else if place.protocol != Protocol::Tcp && check.port.is_none() {
        Some(format!(
            "{place} is not TCP, which all probes are made over; name a TCP port in the health check, or leave it out"
        ))
    } else {
        None
    };
    match why {
        Some(why) => Wanted::Unasked(Unasked { service: row.service.clone(), why }),
        None => Wanted::Asked {
            service: row.service.clone(),
            port: check.port.unwrap_or(place.port),
            check: (*Check::of_group(check, row.service.name())).clone(),
        },
    }
}
