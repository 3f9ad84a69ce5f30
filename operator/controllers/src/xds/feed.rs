//! From snapshots to the load-balancing tables: a LoadBalancer is a service, its public ports are frontends, its
//! accepted Endpoints are backends.
//!
//! Reads status alone for everything that was decided (addresses, slots, aliases, acceptance), so that every replica
//! fills its tables alike. Endpoint rows that cannot be served are left out; the Endpoint's conditions say why.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use epic_crds::condition::{ACCEPTED, PROGRAMMED};
use epic_crds::{
    Endpoint, HasConditions, LbPolicy as Policy, LoadBalancer, Protocol as Written, ServiceGroup,
};
use epic_lb::{
    Backend, BackendState, FrontendKey, FrontendParams, LbPolicy, Protocol, Service, ServiceName, Source,
    TargetPort, Timeouts, WriteTxn, Writer,
};
use epic_model::address;
use epic_model::id::{EndpointId, GroupId, ServiceId};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kates::{Key, Snapshot, Update};
use kube::ResourceExt;
use tokio_util::sync::CancellationToken;

use crate::context::Shared;
use crate::service_group::group_of;

/// Follows the watches until `shutdown`.
pub(super) async fn run(context: Shared, writer: Writer, shutdown: CancellationToken) {
    let initializer = writer.register_initializer("load-balancers");
    let mut initializer = Some(initializer);
    let mut updates = context.watches.updates();
    let mut left = BTreeSet::new();
    loop {
        let update = tokio::select! {
            () = shutdown.cancelled() => return,
            update = updates.next() => update,
        };
        let mut touched = touched(&update);
        touched.append(&mut left);
        let mut txn = writer.write();
        left = fill(&mut txn, &update.snapshot, touched);
        if let Some(initializer) = initializer.take() {
            initializer.complete(&mut txn);
        }
        txn.commit();
    }
}

/// Makes the rows of these LoadBalancers what the snapshot says. What goes makes room first; an address that changes
/// hands within one update may need a second try. Returns those that could not be served.
fn fill(txn: &mut WriteTxn<'_>, snapshot: &Snapshot, touched: BTreeSet<Key>) -> BTreeSet<Key> {
    let mut left = Vec::new();
    for key in touched {
        let object = snapshot.get::<LoadBalancer>(&key);
        match object.map(|object| rows(snapshot, object)) {
            None | Some(None) => {
                txn.delete_service_and_frontends(&service_name(&key));
            }
            Some(Some(rows)) => left.push((key, rows)),
        }
    }
    loop {
        let before = left.len();
        left.retain(|(key, (service, frontends, backends))| {
            match txn.upsert_service_and_frontends(service.clone(), frontends.clone()) {
                Ok(()) => {
                    txn.set_backends(&service_name(key), Source::Resource, backends.clone());
                    false
                }
                Err(error) => {
                    tracing::debug!(load_balancer = %key, %error, "not served yet");
                    true
                }
            }
        });
        if left.is_empty() || left.len() == before {
            break;
        }
    }
    for (key, _) in &left {
        tracing::warn!(load_balancer = %key, "not served: its address and port belong to another one");
    }
    left.into_iter().map(|(key, _)| key).collect()
}

/// The LoadBalancers whose rows may differ.
fn touched(update: &Update) -> BTreeSet<Key> {
    let balancers = update.changes::<LoadBalancer>().into_iter().map(|change| change.key);
    let endpoints = update.changes::<Endpoint>();
    let of_endpoints =
        endpoints.iter().flat_map(|change| change.before.iter().chain(&change.after)).map(|endpoint| {
            Key::namespaced(endpoint.namespace().unwrap_or_default(), endpoint.spec.load_balancer.as_str())
        });
    let mut touched: BTreeSet<Key> = balancers.chain(of_endpoints).collect();
    let groups = update.changes::<ServiceGroup>();
    let edited: BTreeSet<&str> = groups
        .iter()
        .filter(|change| {
            change.before.as_ref().map(|group| &group.spec) != change.after.as_ref().map(|group| &group.spec)
        })
        .map(|change| change.key.name())
        .collect();
    if !edited.is_empty() {
        let members = update.snapshot.list::<LoadBalancer>();
        let members = members.filter(|balancer| edited.contains(balancer.spec.service_group.as_str()));
        touched.extend(members.map(|balancer| Key::of(balancer.as_ref())));
    }
    touched
}

fn service_name(key: &Key) -> ServiceName {
    ServiceName::new(key.namespace().unwrap_or_default(), key.name())
}

type Rows = (Service, Vec<FrontendParams>, Vec<Backend>);

/// The rows of a LoadBalancer; `None` while it lacks an ID or an address, which only one that was accepted gets. One
/// that is refused afterwards is served on, with defaults where its group is gone.
fn rows(snapshot: &Snapshot, balancer: &LoadBalancer) -> Option<Rows> {
    if balancer.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = balancer.status.as_ref()?;
    let name = service_name(&Key::of(balancer));
    let group_id = GroupId::try_from(status.group_id?).ok()?;
    let service_id = ServiceId::try_from(status.service_id?).ok()?;
    let vip = address::parse(status.public_address.as_deref()?).ok()?;
    let group = group_of(snapshot, balancer).map(|group| group.spec.clone()).unwrap_or_default();
    let service = Service {
        // The generation whose slots the status shows: what a proxy acknowledges is that, not what is being written.
        generation: balancer.condition(PROGRAMMED).and_then(|known| known.observed_generation)?,
        lb_policy: policy(group.lb_policy()),
        timeouts: Timeouts { drain: Some(group.drain()), ..Timeouts::default() },
        key_generation: status.key_generation.and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
        ..Service::new(name.clone(), balancer.uid()?, group_id, service_id)
    };
    let frontends = frontends(balancer, &name, vip);
    let backends = snapshot
        .in_namespace::<Endpoint>(&balancer.namespace()?)
        .filter(|endpoint| endpoint.spec.load_balancer == balancer.name_any())
        .filter_map(|endpoint| backend(&name, endpoint))
        .collect();
    Some((service, frontends, backends))
}

fn frontends(balancer: &LoadBalancer, name: &ServiceName, vip: IpAddr) -> Vec<FrontendParams> {
    let slots = balancer.status.iter().flat_map(|status| &status.ports);
    slots
        .filter_map(|slot| {
            let port = balancer
                .spec
                .public_ports
                .iter()
                .find(|port| port.port == slot.port && port.protocol == slot.protocol)?;
            let number = u16::try_from(port.port).ok()?;
            let target = match &port.target_port {
                None => TargetPort::Number(number),
                Some(IntOrString::Int(target)) => TargetPort::Number(u16::try_from(*target).ok()?),
                Some(IntOrString::String(target)) => TargetPort::Name(target.as_str().into()),
            };
            let key = FrontendKey::new(vip, number, protocol(port.protocol));
            Some(FrontendParams {
                port_name: port.name.as_deref().map(Arc::from),
                target_port: Some(target),
                ..FrontendParams::new(key, name.clone(), u16::try_from(slot.slot).ok()?)
            })
        })
        .collect()
}

fn backend(service: &ServiceName, endpoint: &Endpoint) -> Option<Backend> {
    if endpoint.metadata.deletion_timestamp.is_some() || !endpoint.is_condition_true(ACCEPTED) {
        return None;
    }
    let status = endpoint.status.as_ref()?;
    let real = address::parse(&endpoint.spec.address).ok()?;
    let dialled = match endpoint.spec.node_address {
        // Behind a tunnel Envoy dials the alias; without one yet there is no way there.
        Some(_) => address::parse(status.alias_address.as_deref()?).ok()?,
        None => real,
    };
    let weight = u16::try_from(endpoint.spec.weight()).ok()?;
    let port = &endpoint.spec.port;
    Some(Backend {
        state: if weight == 0 { BackendState::Draining } else { BackendState::Active },
        weight,
        port_names: port.name.as_deref().map(Arc::from).into_iter().collect(),
        node: endpoint.spec.node_address.as_deref().map(Arc::from),
        object: Some(format!("{}/{}", endpoint.namespace()?, endpoint.name_any()).into()),
        uid: endpoint.uid().map(Arc::from),
        generation: endpoint.metadata.generation.unwrap_or(0),
        real_address: Some(real),
        endpoint_id: status.endpoint_id.and_then(|id| EndpointId::try_from(id).ok()),
        ..Backend::new(service.clone(), dialled, u16::try_from(port.port).ok()?, protocol(port.protocol))
    })
}

fn protocol(written: Written) -> Protocol {
    match written {
        Written::Tcp => Protocol::Tcp,
        Written::Udp => Protocol::Udp,
        Written::Sctp => Protocol::Sctp,
    }
}

fn policy(written: Policy) -> LbPolicy {
    match written {
        Policy::RoundRobin => LbPolicy::RoundRobin,
        Policy::LeastRequest => LbPolicy::LeastRequest,
        Policy::Random => LbPolicy::Random,
        Policy::RingHash => LbPolicy::RingHash,
        Policy::Maglev => LbPolicy::Maglev,
    }
}
