//! `lb-maps`: the entries of the maps, and what is wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use epic_abi::{Ip, Lb};
use epic_lb::render::{ClientSide, NodeSide};
use epic_lb::{EpicLayout, MapKey, MapValue, Progress, RowId, Snapshot, Tables};
use epic_reconciler::{Layout as _, Render};
use epic_store::Schema as _;
use serde_json::{Value, json};

use crate::command::Filter;
use crate::{Error, Form, Side, Subject, pretty};

type Entries = Vec<(MapKey, MapValue)>;

/// Entries by key.
type Held = BTreeMap<MapKey, MapValue>;

pub(crate) fn dump(entries: Entries, filter: Option<&Filter>, form: Form) -> String {
    let entries = match filter {
        Some(Filter::Vip(address, port)) => of_vip(entries, *address, *port),
        _ => entries,
    };
    let text = epic_lb::maps::dump(entries);
    let pattern = match filter {
        Some(Filter::Text(pattern)) => pattern.to_lowercase(),
        _ => String::new(),
    };
    let lines = text.lines().filter(|line| line.to_lowercase().contains(&pattern));
    match form {
        Form::Text => lines.map(|line| format!("{line}\n")).collect(),
        Form::Json => pretty(&lines.map(object).collect()),
    }
}

fn object(line: &str) -> Value {
    let (entry, value) = line.split_once(" -> ").map_or((line, None), |(entry, value)| (entry, Some(value)));
    let (map, key) = entry.split_once(' ').unwrap_or((entry, ""));
    json!({"map": map, "key": key, "value": value})
}

/// What packets to this address meet on their way to a proxy and on to an endpoint, and what the answers meet.
fn of_vip(entries: Entries, address: IpAddr, port: Option<u16>) -> Entries {
    let vip: Ip = address.into();
    let is_public =
        |key: &epic_abi::maps::ServiceKey| key.address == vip && port.is_none_or(|port| { key.port } == port);
    let (mut lbs, mut tunnels) = (BTreeSet::new(), BTreeSet::new());
    for (key, value) in &entries {
        if let (MapKey::Service(key), MapValue::Service(service)) = (key, value)
            && is_public(key)
        {
            lbs.insert(service.lb);
        }
    }
    for (key, value) in &entries {
        if let (MapKey::Tunnel(id), MapValue::Tunnel(tunnel)) = (key, value)
            && lbs.contains(&tunnel.lb)
        {
            tunnels.insert(*id);
        }
    }
    let concerned = |(key, value): &(MapKey, MapValue)| match (key, value) {
        (MapKey::Service(key), _) => is_public(key),
        (MapKey::Vip(address), _) => *address == vip,
        (_, MapValue::Listener(listener)) => {
            listener.address == vip && port.is_none_or(|port| { listener.port } == port)
        }
        (MapKey::TunnelStats(id), _) => tunnels.contains(id),
        (MapKey::EndpointAlias(key), _) => tunnels.contains(&{ key.tunnel }),
        (key, value) => lb_of(key, value).is_some_and(|lb| lbs.contains(&lb)),
    };
    entries.into_iter().filter(concerned).collect()
}

/// The LoadBalancer that an entry is of.
fn lb_of(key: &MapKey, value: &MapValue) -> Option<Lb> {
    match (key, value) {
        (MapKey::Keys(lb) | MapKey::Maglev(lb), _) => Some(*lb),
        (MapKey::Alias(key), _) => Some(key.lb),
        (MapKey::Pass(key), _) => Some(key.lb),
        (MapKey::Endpoint(key), _) => Some(key.lb),
        (_, MapValue::Tunnel(value)) => Some(value.lb),
        (_, MapValue::Proxy(value)) => Some(value.lb),
        (_, MapValue::LocalProxy(value)) => Some(value.lb),
        (_, MapValue::Route(value)) => Some(value.lb),
        _ => None,
    }
}

/// Something wrong with an entry.
struct Finding {
    what: &'static str,
    entry: String,
    why: String,
}

/// Entries that point to nothing, and those that differ from what the rows want.
pub(crate) fn check(subject: &impl Subject, form: Form) -> Result<String, Error> {
    let (tables, progress, held) = coherent(subject)?;
    let mut findings = dangling(&held);
    findings.extend(differences(&held, &wanted(&tables, subject.side()), &tables, &progress));
    Ok(match form {
        Form::Json => {
            let found = findings
                .iter()
                .map(|finding| json!({"what": finding.what, "entry": finding.entry, "why": finding.why}));
            pretty(&json!({
                "entries": held.len(),
                "revision": tables.revision(),
                "reconciled": progress.covers(tables.revision()),
                "findings": found.collect::<Vec<_>>(),
            }))
        }
        Form::Text if findings.is_empty() => format!("{} entries, all as the rows want them\n", held.len()),
        Form::Text => findings
            .iter()
            .map(|finding| format!("{:<8}  {}: {}\n", finding.what, finding.entry, finding.why))
            .collect(),
    })
}

/// How often maps are read again that were written meanwhile.
const ATTEMPTS: usize = 5;

/// Tables, progress and entries of one moment, if the reconciler leaves one.
fn coherent(subject: &impl Subject) -> Result<(Arc<Snapshot>, Progress, Held), Error> {
    let mut attempt = 1;
    loop {
        let (tables, progress) = (subject.tables(), subject.progress());
        let held = subject.entries()?.into_iter().collect();
        let same =
            subject.tables().revision() == tables.revision() && subject.progress().writes == progress.writes;
        if same || attempt == ATTEMPTS {
            return Ok((tables, progress, held));
        }
        attempt += 1;
    }
}

fn dangling(held: &Held) -> Vec<Finding> {
    let mut found = Vec::new();
    for (from, value) in held {
        EpicLayout::targets(from, value, &mut |to, expected| {
            let identity = held.get(&to).map(|value| EpicLayout::identity(&to, value));
            let why = match identity {
                None => format!("it names {to}, which is not there"),
                Some(identity) if expected != 0 && identity != expected => {
                    format!("it names {to}, which is of another LoadBalancer")
                }
                Some(_) => return,
            };
            found.push(Finding { what: "dangling", entry: from.to_string(), why });
        });
    }
    found
}

/// What each row wants, entry by entry.
type Wanted = BTreeMap<MapKey, Vec<(RowId, MapValue)>>;

fn wanted(tables: &Snapshot, side: &Side) -> Wanted {
    match side {
        Side::Node { name, seed } => rendered(NodeSide::new(name.as_ref(), *seed), tables),
        Side::Client => rendered(ClientSide, tables),
    }
}

fn rendered<R>(mut side: R, tables: &Snapshot) -> Wanted
where
    R: Render<EpicLayout, Tables = Tables>,
{
    let (mut wanted, mut rows) = (Wanted::new(), Vec::new());
    tables.changed_rows(&Tables::default(), &mut |row| rows.push(row));
    for row in rows {
        let mut entries = Vec::new();
        // A row that is not ready wants nothing yet; `reconciler status` says why.
        if side.render(tables, row, &mut entries).is_ok() {
            for (key, value) in entries {
                wanted.entry(key).or_default().push((row, value));
            }
        }
    }
    wanted
}

fn differences(held: &Held, wanted: &Wanted, tables: &Snapshot, progress: &Progress) -> Vec<Finding> {
    let behind = |row: RowId| {
        let text = progress.failure(row).map(|failing| failing.text.to_string());
        let unseen = || (!progress.has_attempted(tables.revision())).then(|| "not written yet".to_owned());
        let why = text.or_else(unseen);
        let why =
            why.unwrap_or_else(|| "somebody else changed it; the next full pass corrects it".to_owned());
        format!("wanted by {row}: {why}")
    };
    let mut found = Vec::new();
    for (key, wants) in wanted {
        let Some((row, _)) = wants.first() else { continue };
        let what = match held.get(key) {
            None => "missing",
            Some(value) if wants.iter().any(|(_, wanted)| wanted == value) => continue,
            Some(_) => "differs",
        };
        found.push(Finding { what, entry: key.to_string(), why: behind(*row) });
    }
    for key in held.keys().filter(|key| !wanted.contains_key(key)) {
        let why = if !tables.initialized() {
            "no row wants it; nothing is removed before every source has listed"
        } else if progress.health.unconfirmed > 0 {
            "no row wants it; its removal waits for confirmation"
        } else {
            "no row wants it; it is removed by the next round or full pass"
        };
        found.push(Finding { what: "stray", entry: key.to_string(), why: why.to_owned() });
    }
    found
}
