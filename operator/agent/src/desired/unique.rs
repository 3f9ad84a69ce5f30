//! Each number has one LoadBalancer.
//!
//! The operator grants every ID once, but objects can be restored from another time, or be edited by somebody who may. Of two
//! LoadBalancers that show the same IDs, tunnel or proxy the older one has it, and the younger is left out with a
//! reason: rows of both would take turns in the maps, and a packet for one could meet the entries of the other.

use std::collections::BTreeMap;
use std::net::IpAddr;
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

/// The numbers of one LoadBalancer.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Numbers {
    ids: Option<Lb>,
    tunnels: Vec<TunnelId>,
    proxies: Vec<ProxyId>,
    /// Its public address.
    pub(super) address: Option<IpAddr>,
}

/// Who has which number.
#[derive(Debug, Default)]
pub(super) struct Taken {
    ids: BTreeMap<Lb, ServiceName>,
    tunnels: BTreeMap<TunnelId, ServiceName>,
    proxies: BTreeMap<ProxyId, ServiceName>,
    addresses: BTreeMap<IpAddr, ServiceName>,
    contested: bool,
}

impl Taken {
    /// Takes the IDs of a LoadBalancer.
    ///
    /// # Errors
    /// An older one has them; says so.
    pub(super) fn ids(&mut self, identity: &Identity, numbers: &mut Numbers) -> Result<(), String> {
        let taken = take(&mut self.ids, identity.lb(), &identity.name);
        let taken = self.note(taken).map_err(|other| {
            format!(
                "{}: its IDs {}/{} are those of the older {other} as well; delete and create it anew",
                identity.name, identity.group, identity.service
            )
        });
        numbers.ids = taken.is_ok().then(|| identity.lb());
        taken
    }

    /// Takes a public address.
    ///
    /// # Errors
    /// Another LoadBalancer has it; says so.
    pub(super) fn address(
        &mut self,
        address: IpAddr,
        identity: &Identity,
        numbers: &mut Numbers,
    ) -> Result<(), String> {
        let taken = take(&mut self.addresses, address, &identity.name);
        let taken = self.note(taken);
        numbers.address = taken.is_ok().then_some(address);
        taken.map_err(|other| format!("{}: {address} is also granted to {other}", identity.name))
    }

    /// Leaves those tunnels that no older LoadBalancer has.
    pub(super) fn tunnels(
        &mut self,
        tunnels: &mut Vec<Tunnel>,
        numbers: &mut Numbers,
        left_out: &mut Vec<String>,
    ) {
        tunnels.retain(|tunnel| {
            let taken = take(&mut self.tunnels, tunnel.id, &tunnel.service);
            let taken = self.note(taken);
            taken.map_err(|other| left_out.push(shared("tunnel", tunnel.id, &tunnel.service, &other))).is_ok()
        });
        numbers.tunnels = tunnels.iter().map(|tunnel| tunnel.id).collect();
    }

    /// Leaves those proxies that no older LoadBalancer has.
    pub(super) fn proxies(
        &mut self,
        proxies: &mut Vec<Proxy>,
        numbers: &mut Numbers,
        left_out: &mut Vec<String>,
    ) {
        proxies.retain(|proxy| {
            let taken = take(&mut self.proxies, proxy.id, &proxy.service);
            let taken = self.note(taken);
            taken.map_err(|other| left_out.push(shared("proxy", proxy.id, &proxy.service, &other))).is_ok()
        });
        numbers.proxies = proxies.iter().map(|proxy| proxy.id).collect();
    }

    /// Gives back what a LoadBalancer has.
    pub(super) fn release(&mut self, numbers: &Numbers) {
        numbers.ids.iter().for_each(|ids| drop(self.ids.remove(ids)));
        numbers.tunnels.iter().for_each(|id| drop(self.tunnels.remove(id)));
        numbers.proxies.iter().for_each(|id| drop(self.proxies.remove(id)));
        numbers.address.iter().for_each(|address| drop(self.addresses.remove(address)));
    }

    /// Whether several have ever wanted the same: then who has what depends on all of them.
    pub(super) fn is_contested(&self) -> bool {
        self.contested
    }

    fn note(&mut self, taken: Result<(), ServiceName>) -> Result<(), ServiceName> {
        self.contested |= taken.is_err();
        taken
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
