//! The readiness gate of proxy pods: `epic.acnodal.io/programmed`, and the annotations that travel with it.
//!
//! The message of a gate that is open names what it was opened for: boot id, pod IP, ifindex. A gate from before a
//! reboot, or of a sandbox that was made anew, names something else and is closed until the maps are right again. An
//! open gate that names the truth is never closed because a row is being rewritten.
//!
//! A gate opens only when Envoy has taken its configuration, too (the pod's condition `configured`): one that refused its
//! listeners answers its probe all the same, and a roll-out would replace the pods that serve by such as cannot. Open, it
//! stays open while xDS is merely lost or a later edit is refused: Envoy goes on with what it has.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use epic_crds::well_known::{
    ANNOTATION_IFINDEX, ANNOTATION_IFNAME, POD_CONDITION_CONFIGURED, POD_CONDITION_PROGRAMMED,
};
use epic_lb::{AliasKey, Progress, RowId, ServiceKey, ServiceName, Snapshot, TunnelId, Veth};
use epic_reconciler::Status;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::desired::node::Local;

/// How long a gate waits for clients to say hello.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long something has to be waited for before the pod's condition names it.
pub const WORTH_SAYING: Duration = Duration::from_secs(2);

/// Characters of what Envoy says that a gate repeats.
const MOST_WORDS: usize = 1_024;

/// Whether a proxy is programmed, or what is still missing.
pub type Programmed = Result<(), String>;

/// What the gate of a pod says when it is open.
pub fn message(boot_id: &str, veth: &Veth) -> String {
    format!("boot-id {boot_id}, pod IP {}, ifindex {}", veth.pod_ip, veth.ifindex)
}

/// The strategic merge patch of `pods/status` that the pod needs; `None` when it says the right thing already.
pub fn patch(
    pod: &Pod,
    veth: Option<&Veth>,
    boot_id: &str,
    programmed: &Programmed,
    now: &Time,
) -> Option<Value> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let present = condition_of(pod, POD_CONDITION_PROGRAMMED);
    let truth = veth.map(|veth| message(boot_id, veth));
    let is_open = present.is_some_and(|c| c.status == "True");
    let names_truth = |c: &PodCondition| c.message.is_some() && c.message == truth;
    match (programmed, veth, truth.as_deref()) {
        (Ok(()), Some(veth), Some(truth)) => {
            let annotations = BTreeMap::from([
                (ANNOTATION_IFINDEX.to_owned(), veth.ifindex.to_string()),
                (ANNOTATION_IFNAME.to_owned(), veth.ifname.to_string()),
            ]);
            let carried = annotations.iter().all(|(key, value)| {
                pod.metadata.annotations.as_ref().and_then(|a| a.get(key)) == Some(value)
            });
            if is_open && carried && present.is_some_and(names_truth) {
                return None;
            }
            let since = present.filter(|c| c.status == "True").and_then(|c| c.last_transition_time.as_ref());
            Some(json!({
                "metadata": { "uid": pod.metadata.uid, "annotations": annotations },
                "status": { "conditions": [condition("True", "Programmed", truth, since.unwrap_or(now))] },
            }))
        }
        (waiting, ..) => {
            if is_open && present.is_some_and(names_truth) {
                return None;
            }
            let why = match waiting {
                Err(why) => why.as_str(),
                Ok(()) => "the host side of the pod's veth is not found",
            };
            let reason = if is_open { "Stale" } else { "Pending" };
            if present.is_some_and(|c| c.status == "False" && c.message.as_deref() == Some(why)) {
                return None;
            }
            let since = present.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.as_ref());
            Some(json!({
                "metadata": { "uid": pod.metadata.uid },
                "status": { "conditions": [condition("False", reason, why, since.unwrap_or(now))] },
            }))
        }
    }
}

fn condition_of<'p>(pod: &'p Pod, type_: &str) -> Option<&'p PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

/// Whether Envoy has taken what it is to serve, which is asked before a gate opens. One that is open for the pod as it is
/// now has been asked already.
pub fn configured(pod: &Pod, veth: &Veth, boot_id: &str) -> Programmed {
    let is_open = condition_of(pod, POD_CONDITION_PROGRAMMED)
        .is_some_and(|c| c.status == "True" && c.message.as_deref() == Some(&message(boot_id, veth)));
    if is_open {
        return Ok(());
    }
    match condition_of(pod, POD_CONDITION_CONFIGURED) {
        Some(condition) if condition.status == "True" => Ok(()),
        Some(condition) => {
            let said: String =
                condition.message.iter().flat_map(|text| text.chars()).take(MOST_WORDS).collect();
            Err(format!("Envoy does not take its configuration: {said}"))
        }
        None => {
            Err("Envoy has not taken its configuration yet; does it reach the operator's xDS?".to_owned())
        }
    }
}

fn condition(status: &str, reason: &str, message: &str, since: &Time) -> Value {
    json!({
        "type": POD_CONDITION_PROGRAMMED,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since,
    })
}

/// Whether the maps hold what a proxy of this node needs: itself, its service, its ports, its tunnels and endpoints.
/// What fails of other services is no matter here.
pub fn entries(tables: &Snapshot, progress: &Progress, local: &Local) -> Programmed {
    let service = local.service.id();
    let named = |what: String, row: RowId| match tables.status(row, progress) {
        Some(Status::Done) => Ok(()),
        Some(Status::Pending) => Err(format!("{what} is being written")),
        Some(Status::Error(why)) => Err(format!("{what}: {why}")),
        None => Err(format!("{what} is not in the tables yet")),
    };
    named("the proxy".to_owned(), RowId::Proxy(local.id))?;
    let source = tables.service(service).map(|row| row.source).unwrap_or_default();
    named("the service".to_owned(), RowId::Service(ServiceKey { service, source }))?;
    for row in tables.frontends_of(service) {
        named(format!("port {}", row.key), RowId::Frontend(row.key))?;
    }
    for row in tables.tunnels_of(service) {
        named(format!("tunnel {}", row.id), RowId::Tunnel(row.id))?;
    }
    for row in tables.aliases_of(service) {
        let key = AliasKey { service, address: row.address };
        named(format!("endpoint {}", row.endpoint), RowId::Alias(key))?;
    }
    Ok(())
}

/// Client nodes whose tunnel is missing or has no remote yet.
pub fn unheard(clients: &BTreeMap<IpAddr, Option<u32>>, is_heard: impl Fn(u32) -> bool) -> Vec<IpAddr> {
    let waits = |tunnel: &Option<u32>| tunnel.is_none_or(|id| TunnelId::new(id).is_err() || !is_heard(id));
    clients.iter().filter(|(_, tunnel)| waits(tunnel)).map(|(client, _)| *client).collect()
}

/// Since when each pod has had its entries, so that no gate waits longer than [`PATIENCE`] for clients.
/// And since when each has been waiting for the same thing.
#[derive(Debug, Default)]
pub struct Patience {
    since: BTreeMap<(ServiceName, u32), Instant>,
    waiting: BTreeMap<String, (String, Instant, Instant)>,
}

impl Patience {
    /// Judges a proxy whose entries are in: programmed, or waiting for these clients.
    pub fn judge(&mut self, local: &Local, unheard: &[IpAddr], now: Instant) -> Programmed {
        let since = *self.since.entry((local.service.clone(), local.id.get())).or_insert(now);
        if unheard.is_empty() || now.duration_since(since) >= PATIENCE {
            return Ok(());
        }
        let named: Vec<String> = unheard.iter().take(3).map(ToString::to_string).collect();
        Err(format!("waiting for a hello from {} client nodes ({}, …)", unheard.len(), named.join(", ")))
    }

    /// Whether the API server should hear of this. A pod waits for several things in turn, most of them for
    /// milliseconds: only what lasts for [`WORTH_SAYING`] is, or what closes an open gate.
    pub fn is_worth_saying(&mut self, pod: &Pod, programmed: &Programmed, now: Instant) -> bool {
        let Some(uid) = pod.metadata.uid.as_deref() else { return false };
        let Err(why) = programmed else {
            self.waiting.remove(uid);
            return true;
        };
        let entry = self.waiting.entry(uid.to_owned()).or_insert_with(|| (why.clone(), now, now));
        if entry.0 != *why {
            *entry = (why.clone(), now, now);
        }
        entry.2 = now;
        let is_open = condition_of(pod, POD_CONDITION_PROGRAMMED).is_some_and(|c| c.status == "True");
        is_open || now.duration_since(entry.1) >= WORTH_SAYING
    }

    /// Forgets proxies that are gone.
    pub fn retain(&mut self, now: Instant, is_there: impl Fn(&ServiceName, u32) -> bool) {
        self.since.retain(|(service, id), _| is_there(service, *id));
        self.waiting.retain(|_, (_, _, seen)| now.duration_since(*seen) < PATIENCE);
    }
}
