//! Each number has one LoadBalancer.
//!
//! The operator grants every ID once, but objects can be restored from another time, or be edited by somebody who may. Of two
//! LoadBalancers that show the same IDs, tunnel or proxy the older one has it, and the younger is left out with a
//! reason: rows of both would take turns in the maps, and a packet for one could meet the entries of the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use epic_abi::Lb;
use epic_crds::LoadBalancer;
use epic_lb::{Proxy, ProxyId, ServiceName, Tunnel, TunnelId};

use super::{Identity, since};

/// LoadBalancers by age, so that who comes first has what it shows.
pub(super) fn by_age(objects: &[Arc<LoadBalancer>]) -> Vec<&LoadBalancer> {
    let mut sorted: Vec<&LoadBalancer> = objects.iter().map(|object| &**object).collect();
    let name = |object: &LoadBalancer| (object.metadata.namespace.clone(), object.metadata.name.clone());
    sorted.sort_by_cached_key(|object| (since(object), name(object)));
    sorted
}

/// Who has which number.
#[derive(Debug, Default)]
pub(super) struct Taken {
    ids: BTreeMap<Lb, ServiceName>,
    tunnels: BTreeMap<TunnelId, ServiceName>,
    proxies: BTreeMap<ProxyId, ServiceName>,
}

impl Taken {
    /// Takes the IDs of a LoadBalancer.
    ///
    /// # Errors
    /// An older one has them; says so.
    pub(super) fn ids(&mut self, identity: &Identity) -> Result<(), String> {
        take(&mut self.ids, identity.lb(), &identity.name).map_err(|other| {
            format!(
                "{}: its IDs {}/{} are those of the older {other} as well; delete and create it anew",
                identity.name, identity.group, identity.service
            )
        })
    }

    /// Leaves those tunnels that no older LoadBalancer has.
    pub(super) fn tunnels(&mut self, tunnels: &mut Vec<Tunnel>, left_out: &mut Vec<String>) {
        tunnels.retain(|tunnel| {
            let taken = take(&mut self.tunnels, tunnel.id, &tunnel.service);
            taken.map_err(|other| left_out.push(shared("tunnel", tunnel.id, &tunnel.service, &other))).is_ok()
        });
    }

    /// Leaves those proxies that no older LoadBalancer has.
    pub(super) fn proxies(&mut self, proxies: &mut Vec<Proxy>, left_out: &mut Vec<String>) {
        proxies.retain(|proxy| {
            let taken = take(&mut self.proxies, proxy.id, &proxy.service);
            taken.map_err(|other| left_out.push(shared("proxy", proxy.id, &proxy.service, &other))).is_ok()
        });
    }
}

fn shared(what: &str, id: impl std::fmt::Display, service: &ServiceName, other: &ServiceName) -> String {
    format!("{what} {id} of {service} is one of the older {other} as well")
}

fn take<K: Ord>(
    taken: &mut BTreeMap<K, ServiceName>,
    key: K,
    service: &ServiceName,
) -> Result<(), ServiceName> {
    let holder = taken.entry(key).or_insert_with(|| service.clone());
    if holder == service { Ok(()) } else { Err(holder.clone()) }
}
