//! The shell of the script tests: one command a line, the transcript is the result.
//!
//! Rows: `service NAME GROUP/SERVICE [generation=N] [no-keys] [since=N] [external=Local] [distribution=zone|node]
//! [clusters=local|remote|NAMES] [panic=N]`, `frontend NAME VIP:PORT slot=N [owner] [name=N] [target=PORT|NAME]`,
//! `backend NAME IP:PORT [weight=N] [state=S] [names=N,…] [node=N] [zone=Z] [cluster=C]`, `health NAME IP:PORT[/ANY] yes|no`,
//! `redirect NAME NAME nothing-serves|serves-here [port=N]`,
//! `proxy NAME ID node=NODE [state=STATE] [weight=N] [no-veth]` (also the backend of that proxy), `tunnel NAME ID client=IP`,
//! `alias NAME ID tunnel=ID real=IP:PORT`, `pass NAME|all IP:PORT`, `node IP NAME`, `delete KIND KEY…`.
//! Between `begin` and `commit` they are one transaction; `abort` drops it. A row of its own may come from another source:
//! `source=NAME`.
//! Maps: `round`, `settle`, `confirm`, `fail P`, `crash N` (after so many writes), `room MAP N`, `stray VIP` (which nobody
//! wants, found by a restart), `lose VIP`, `tamper VIP` (somebody else changes the maps), `restart`, `refresh`.
//! Output: `tables`, `maps`, `failing`, `health`, `writes`, `select VIP:PORT`. `register NAME [source=NAME]`,
//! `complete NAME`, `die NAME` (before it has listed). `#` begins a comment.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use epic_lb::rows::{ClusterAffinity, Distribution, TrafficPolicy};
use epic_lb::{
    AliasKey, Ask, Backend, BackendState, Claimed, EpicNode, FakeMaps, Frontend, FrontendKey, Initializer,
    Locality, MapId, MapKey, MapValue, Name, Pass, Place, Protocol, ProxyId, ProxyState, Redirect,
    RedirectWhen, Selection, Since, Source, TableId, TargetPort, Traffic, TunnelId, WriteTxn, Writer,
};
use epic_reconciler::{Faults, FaultyMaps, Op};
use epic_store::{Query, Schema as _};

use super::{CheckedMaps, Node, alias, alias_address, frontend, ip, name, node_reconciler, proxy};
use super::{proxy_backend, round, service, settle, tunnel};

type Maps = FaultyMaps<CheckedMaps>;

pub(crate) struct Shell {
    writer: Writer,
    reconciler: Option<Node<Maps>>,
    now: Instant,
    ask: Option<Ask>,
    writes_seen: u64,
    initializers: BTreeMap<String, Initializer>,
}

/// Runs a script and returns its transcript.
pub(crate) fn run(script: &str) -> String {
    let mut shell = Shell::new();
    let mut out = String::new();
    let mut lines = script.lines();
    while let Some(line) = lines.next() {
        let command = !line.is_empty() && !line.starts_with('#');
        writeln!(out, "{}{line}", if command { "> " } else { "" }).unwrap();
        if line == "begin" {
            shell.block(&mut lines, &mut out);
        } else if command {
            shell.line(line, &mut out);
        }
    }
    out
}

impl Shell {
    fn new() -> Self {
        let writer = Writer::new();
        let maps = FaultyMaps::new(CheckedMaps(FakeMaps::new()), Faults::default(), 1);
        let reconciler = Some(node_reconciler(&writer, maps));
        Self {
            writer,
            reconciler,
            now: Instant::now(),
            ask: None,
            writes_seen: 0,
            initializers: BTreeMap::new(),
        }
    }

    fn reconciler(&mut self) -> &mut Node<Maps> {
        self.reconciler.as_mut().expect("there is always one between commands")
    }

    fn block<'a>(&mut self, lines: &mut impl Iterator<Item = &'a str>, out: &mut String) {
        let writer = self.writer.clone();
        let mut txn = writer.write();
        for line in lines {
            writeln!(out, "> {line}").unwrap();
            match line {
                "commit" => {
                    txn.commit();
                    return;
                }
                "abort" => return txn.abort(),
                line => row(&mut txn, line, out),
            }
        }
        panic!("a block without commit or abort");
    }

    fn line(&mut self, line: &str, out: &mut String) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["tables"] => self.tables(out),
            ["failing"] => self.failing(out),
            ["maps"] => out.push_str(&self.reconciler().maps().inner().dump()),
            ["select", frontend] => self.select(frontend, out),
            ["health"] => writeln!(out, "{}", self.reconciler().progress().health).unwrap(),
            ["writes"] => {
                let writes = self.reconciler().maps().inner().0.writes();
                writeln!(out, "{}", writes - self.writes_seen).unwrap();
                self.writes_seen = writes;
            }
            ["round"] => {
                let now = self.now;
                let done = round(self.reconciler(), now);
                if let Some(ask) = &done.ask {
                    writeln!(out, "asks to remove {} of {} entries", ask.entries.len(), ask.held).unwrap();
                }
                if done.retry_at.is_some() {
                    writeln!(out, "will retry").unwrap();
                }
                self.ask = done.ask;
                self.now += Duration::from_secs(61);
            }
            ["settle"] => {
                let now = self.now;
                self.now = settle(self.reconciler(), now);
            }
            ["confirm"] => {
                let ask = self.ask.take().expect("a question to answer");
                self.reconciler().confirm(&ask);
            }
            ["fail", probability] => {
                let faults = Faults { probability: probability.parse().unwrap(), writes_left: None };
                self.reconciler().maps_mut().set_faults(faults);
            }
            ["crash", writes] => {
                let faults = Faults { probability: 0.0, writes_left: Some(writes.parse().unwrap()) };
                self.reconciler().maps_mut().set_faults(faults);
            }
            ["lose", vip] => {
                let op = Op { key: MapKey::Vip(ip(vip).into()), value: None };
                self.reconciler().maps_mut().inner_mut().0.write(op).unwrap();
            }
            ["tamper", vip] => {
                let value = Some(MapValue::Vip(epic_abi::maps::Vip { flags: epic_abi::maps::VIP_OWNED }));
                let op = Op { key: MapKey::Vip(ip(vip).into()), value };
                self.reconciler().maps_mut().inner_mut().0.write(op).unwrap();
            }
            ["room", map, entries] => {
                let map = MapId::ALL.into_iter().position(|m| m.name() == map).expect("a map of this name");
                self.change_maps(|maps| maps.set_room(map, entries.parse().unwrap()));
            }
            ["stray", address] => self.change_maps(|maps| {
                let value = Some(MapValue::Vip(epic_abi::maps::Vip { flags: 0 }));
                maps.write(Op { key: MapKey::Vip(ip(address).into()), value }).unwrap();
            }),
            ["restart"] => self.change_maps(|_| ()),
            ["refresh"] => {
                self.reconciler().refresh();
                while self.reconciler().read_back().unwrap() {}
            }
            ["register", name, ..] => {
                let initializer = self.writer.for_source(source(&words)).register_initializer(name);
                self.initializers.insert(name.to_owned(), initializer);
            }
            ["die", name] => drop(self.initializers.remove(name).expect("registered")),
            ["complete", name] => {
                let initializer = self.initializers.remove(name).expect("registered");
                let mut txn = self.writer.write();
                txn.complete(&initializer);
                txn.commit();
            }
            _ => {
                let writer = self.writer.for_source(source(&words));
                let mut txn = writer.write();
                row(&mut txn, line, out);
                txn.commit();
            }
        }
    }

    fn tables(&self, out: &mut String) {
        let snapshot = self.writer.snapshot();
        for table in TableId::ALL.iter().filter(|table| snapshot.len_of(**table) > 0) {
            write!(out, "== {table}\n{}", snapshot.listing_of(*table, Query::All)).unwrap();
        }
        for pending in snapshot.pending() {
            writeln!(out, "waiting for {}", pending.name).unwrap();
        }
    }

    fn failing(&mut self, out: &mut String) {
        let progress = self.reconciler().progress();
        let failing = progress.failing.iter().chain(&progress.failing_of_node);
        let mut lines: Vec<String> =
            failing.map(|(row, failing)| format!("{row}: {}\n", failing.text)).collect();
        lines.sort_by(|a, b| epic_store::natural(a, b));
        out.extend(lines);
    }

    fn select(&self, frontend: &str, out: &mut String) {
        let snapshot = self.writer.snapshot();
        let (address, port) = place(frontend);
        let key = FrontendKey::new(address, port, Protocol::Tcp);
        let row = snapshot.frontends.get(key).expect("such a frontend");
        let here = epic_lb::Here { node: Some(super::NODE), zone: Some("zone1"), cluster: None };
        let selection = Selection::of(&snapshot, row, here);
        if let Some(other) = selection.redirected_to() {
            writeln!(out, "redirected to {other}").unwrap();
        }
        if selection.in_panic() {
            writeln!(out, "in panic").unwrap();
        }
        for selected in selection.iter() {
            writeln!(out, "{} {} {:?}", selected.backend.service, selected.backend.place, selected.role)
                .unwrap();
        }
    }

    /// Ends the reconciler, changes its maps behind its back, and starts another one on them.
    fn change_maps(&mut self, change: impl FnOnce(&mut FakeMaps)) {
        let mut maps = self.reconciler.take().expect("there is always one").into_maps().into_inner();
        change(&mut maps.0);
        let maps = FaultyMaps::new(maps, Faults::default(), 1);
        self.reconciler = Some(node_reconciler(&self.writer, maps));
    }
}

/// Whose a row or an initializer is; EPIC's objects' if nothing is said.
fn source(words: &[&str]) -> Source {
    option(words, "source").map_or(Source::Resource, |name| {
        Source::ALL.into_iter().find(|source| source.to_string() == name).expect("a source")
    })
}

fn option<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
}

fn place(text: &str) -> (std::net::IpAddr, u16) {
    let (address, port) = text.rsplit_once(':').unwrap_or_else(|| panic!("{text:?} is not IP:PORT"));
    (ip(address), port.parse().unwrap())
}

fn row(txn: &mut WriteTxn<'_>, line: &str, out: &mut String) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |key: &str, default: u32| option(&words, key).map_or(default, |v| v.parse().unwrap());
    match words[..] {
        ["service", of, ids, ..] => {
            let (group, id) = ids.split_once('/').unwrap();
            let mut row = service(of, group.parse().unwrap(), id.parse().unwrap(), number("generation", 1));
            if words.contains(&"no-keys") {
                row.keys = None;
            }
            row.since = Since(number("since", 0));
            row.traffic = traffic(&words);
            txn.upsert_service(row);
        }
        ["frontend", of, at, ..] => {
            let (vip, port) = place(at);
            let row = Frontend {
                announced: words.contains(&"owner"),
                port_name: option(&words, "name").map(Name::new),
                target_port: option(&words, "target").map(|target| match target.parse() {
                    Ok(number) => TargetPort::Number(number),
                    Err(_) => TargetPort::Name(Name::new(target)),
                }),
                ..frontend(of, &vip.to_string(), port, number("slot", 0) as u16)
            };
            match txn.upsert_frontend(row) {
                Ok(Claimed::Has) => {}
                Ok(Claimed::Waits(holder)) => writeln!(out, "waits for {holder}").unwrap(),
                Err(error) => writeln!(out, "{error}").unwrap(),
            }
        }
        ["backend", of, at, ..] => {
            let (address, port) = place(at);
            let mut row = Backend::new(name(of), address, port, Protocol::Tcp);
            row.weight = number("weight", 1) as u16;
            row.state = match option(&words, "state") {
                None | Some("Active") => BackendState::Active,
                Some("Terminating") => BackendState::Terminating,
                Some("TerminatingNotServing") => BackendState::TerminatingNotServing,
                Some("Draining") => BackendState::Draining,
                Some("Quarantined") => BackendState::Quarantined,
                Some("Maintenance") => BackendState::Maintenance,
                Some(other) => panic!("no such state: {other}"),
            };
            row.port_names = option(&words, "names")
                .map(|names| names.split(',').map(Name::new).collect::<Vec<_>>().into());
            row.locality = Locality {
                node: option(&words, "node").map(Name::new),
                zone: option(&words, "zone").map(Name::new),
                cluster: option(&words, "cluster").map(Name::new),
            };
            txn.upsert_backends(&name(of), [row]);
        }
        ["health", of, at, healthy] => {
            let (at, protocol) = match at.strip_suffix("/ANY") {
                Some(at) => (at, Protocol::Any),
                None => (at, Protocol::Tcp),
            };
            let (address, port) = place(at);
            let place = Place::new(address, port, protocol);
            txn.set_backend_health(&name(of), place, healthy == "yes", None);
        }
        ["redirect", of, to, when, ..] => {
            let when = match when {
                "nothing-serves" => RedirectWhen::NothingServes,
                "serves-here" => RedirectWhen::ServesHere,
                other => panic!("no such condition: {other}"),
            };
            let port = option(&words, "port").map(|port| TargetPort::Number(port.parse().unwrap()));
            let row = Redirect { service: name(of), source: Source::Resource, to: name(to), when, port };
            txn.set_redirect(&name(of), Some(row));
        }
        ["proxy", of, id, ..] => {
            let state = match option(&words, "state") {
                None | Some("Ready") => ProxyState::Ready,
                Some("Draining") => ProxyState::Draining,
                Some("OutOfService") => ProxyState::OutOfService,
                _ => ProxyState::Pending,
            };
            let mut row = proxy(of, id.parse().unwrap(), option(&words, "node").unwrap_or("node1"), state);
            if words.contains(&"no-veth") {
                row.local = None;
            }
            let mut backend = proxy_backend(of, id.parse().unwrap());
            backend.weight = number("weight", 1) as u16;
            backend.state = match state {
                ProxyState::Ready => BackendState::Active,
                ProxyState::Draining => BackendState::Draining,
                ProxyState::OutOfService => BackendState::Terminating,
                ProxyState::Pending => BackendState::Maintenance,
            };
            let row_node = row.node.clone();
            txn.upsert_proxy(row);
            backend.locality.node = Some(row_node);
            txn.upsert_backends(&name(of), [backend]);
        }
        ["tunnel", of, id, ..] => {
            let client = option(&words, "client").unwrap_or("203.0.113.9");
            txn.upsert_tunnel(tunnel(of, id.parse().unwrap(), client, "node1"));
        }
        ["alias", of, id, ..] => {
            let (real, port) = place(option(&words, "real").unwrap());
            let tunnel = option(&words, "tunnel").map(|t| t.parse().unwrap());
            txn.upsert_alias(alias(of, id.parse().unwrap(), tunnel, &real.to_string(), port));
        }
        ["pass", of, at] => {
            let (address, port) = place(at);
            let service = (of != "all").then(|| name(of));
            let place = Place::new(address, port, Protocol::Tcp);
            txn.upsert_pass(Pass { service, place, purpose: "test".into() });
        }
        ["node", address, node] => {
            txn.upsert_node(EpicNode::new(ip(address), node));
        }
        ["delete", "service", of, ..] => assert!(txn.delete_service_and_frontends(&name(of))),
        ["delete", "frontend", of, at, ..] => {
            let (vip, port) = place(at);
            assert!(txn.delete_frontend(&name(of), FrontendKey::new(vip, port, Protocol::Tcp)));
        }
        ["delete", "proxy", of, id] => {
            let id: u32 = id.parse().unwrap();
            txn.delete_proxy(ProxyId::new(id).unwrap());
            txn.release_backend(&name(of), proxy_backend(of, id).place);
        }
        ["delete", "tunnel", id] => {
            assert!(txn.delete_tunnel(TunnelId::new(id.parse::<u32>().unwrap()).unwrap()))
        }
        ["delete", "alias", of, id] => {
            let address = alias_address(id.parse().unwrap());
            txn.delete_alias(AliasKey { service: name(of).id(), address: address.into() });
        }
        ["delete", "backend", of, at, ..] => {
            let (address, port) = place(at);
            assert!(txn.release_backend(&name(of), Place::new(address, port, Protocol::Tcp)));
        }
        ["delete", "pass", of] => txn.set_passes(Some(&name(of)), []),
        ["delete", "redirect", of] => txn.set_redirect(&name(of), None),
        ["delete", "node", address] => assert!(txn.delete_node(ip(address))),
        _ => panic!("no such command: {line}"),
    }
}

/// What a line says about traffic.
fn traffic(words: &[&str]) -> Option<Arc<Traffic>> {
    let mut traffic = Traffic::default();
    if option(words, "external") == Some("Local") {
        traffic.external = TrafficPolicy::Local;
    }
    match option(words, "distribution") {
        None => {}
        Some("zone") => traffic.distribution = Distribution::SameZone,
        Some("node") => traffic.distribution = Distribution::SameNode,
        Some(other) => panic!("no such distribution: {other}"),
    }
    match option(words, "clusters") {
        None => {}
        Some("local") => traffic.clusters = ClusterAffinity::Local,
        Some("remote") => traffic.clusters = ClusterAffinity::Remote,
        Some(names) => {
            let names: Vec<Arc<str>> = names.split(',').map(Arc::from).collect();
            traffic.clusters = ClusterAffinity::Named(names.into());
        }
    }
    traffic.panic_threshold = option(words, "panic").map_or(0, |text| text.parse().unwrap());
    (traffic != Traffic::default()).then(|| Arc::new(traffic))
}
