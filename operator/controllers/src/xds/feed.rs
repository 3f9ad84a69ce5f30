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
        let wanted = touched.into_iter().map(|key| {
            let object = update.snapshot.get::<LoadBalancer>(&key);
            let rows = object.and_then(|object| rows(&update.snapshot, object));
            (key, rows)
        });
        left = fill(&mut txn, wanted);
        if let Some(initializer) = initializer.take() {
            initializer.complete(&mut txn);
        }
        txn.commit();
    }
}

/// Makes the rows of these LoadBalancers what is given. What goes makes room first; an address that changes
/// hands within one update may need a second try. Returns those that could not be served.
fn fill(txn: &mut WriteTxn<'_>, wanted: impl IntoIterator<Item = (Key, Option<Rows>)>) -> BTreeSet<Key> {
    let mut left = Vec::new();
    for (key, rows) in wanted {
        match rows {
            Some(rows) => left.push((key, rows)),
            None => {
                txn.delete_service_and_frontends(&service_name(&key));
            }
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
    let group = group_of(snapshot, balancer);
    let endpoints = snapshot.in_namespace::<Endpoint>(balancer.metadata.namespace.as_deref()?);
    rows_of(balancer, group.as_deref(), endpoints.map(AsRef::as_ref))
}

fn rows_of<'e>(
    balancer: &LoadBalancer,
    group: Option<&ServiceGroup>,
    endpoints: impl Iterator<Item = &'e Endpoint>,
) -> Option<Rows> {
    let status = balancer.status.as_ref()?;
    let name = service_name(&Key::of(balancer));
    let group_id = GroupId::try_from(status.group_id?).ok()?;
    let service_id = ServiceId::try_from(status.service_id?).ok()?;
    let vip = address::parse(status.public_address.as_deref()?).ok()?;
    let group = group.map(|group| group.spec.clone()).unwrap_or_default();
    let service = Service {
        // The generation whose slots the status shows: what a proxy acknowledges is that, not what is being written.
        generation: balancer.condition(PROGRAMMED).and_then(|known| known.observed_generation)?,
        lb_policy: policy(group.lb_policy()),
        timeouts: Timeouts { drain: Some(group.drain()), ..Timeouts::default() },
        key_generation: status.key_generation.and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
        ..Service::new(name.clone(), balancer.uid()?, group_id, service_id)
    };
    let frontends = frontends(balancer, &name, vip);
    let backends = endpoints
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

#[cfg(test)]
mod tests {
    use super::*;
    use epic_lb::Tables;
    use serde_json::{Value, json};

    fn condition(type_: &str, status: &str, generation: i64) -> Value {
        json!({"type": type_, "status": status, "reason": "x", "message": "", "observedGeneration": generation,
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    fn balancer(name: &str, accepted: &str, address: &str) -> LoadBalancer {
        serde_json::from_value(json!({
            "apiVersion": "epic.acnodal.io/v1", "kind": "LoadBalancer",
            "metadata": {"name": name, "namespace": "epic-red", "uid": format!("uid-{name}"), "generation": 3},
            "spec": {"public-ports": [{"port": 80, "targetPort": 8080}, {"port": 443}], "service-group": "g"},
            "status": {
                "group-id": 1, "service-id": 2, "public-address": address,
                "ports": [{"port": 80, "protocol": "TCP", "slot": 0}, {"port": 81, "protocol": "TCP", "slot": 1}],
                "conditions": [condition("Accepted", accepted, 3), condition("Programmed", "False", 2)],
            },
        }))
        .unwrap()
    }

    fn endpoint(name: &str, accepted: &str, alias: Option<&str>) -> Endpoint {
        serde_json::from_value(json!({
            "apiVersion": "epic.acnodal.io/v1", "kind": "Endpoint",
            "metadata": {"name": name, "namespace": "epic-red", "uid": name},
            "spec": {"load-balancer": "web", "address": "10.0.0.9", "node-address": "10.0.0.1",
                "port": {"port": 8080}},
            "status": {"alias-address": alias, "conditions": [condition("Accepted", accepted, 1)]},
        }))
        .unwrap()
    }

    #[test]
    fn one_that_is_refused_or_lost_its_group_is_served_on_at_the_generation_its_slots_are_of() {
        let endpoints = [
            endpoint("a", "True", Some("100.127.0.1")),
            endpoint("without-alias", "True", None),
            endpoint("refused", "False", Some("100.127.0.2")),
        ];
        for accepted in ["True", "False", "Unknown"] {
            let rows = rows_of(&balancer("web", accepted, "192.0.2.1"), None, endpoints.iter());
            let (service, frontends, backends) = rows.unwrap();
            assert_eq!(service.generation, 2, "{accepted}");
            let ports: Vec<u16> = frontends.iter().map(|frontend| frontend.key.port).collect();
            assert_eq!(ports, [80], "443 has no slot yet, 81 is on its way out");
            let objects: Vec<_> = backends.iter().filter_map(|backend| backend.object.as_deref()).collect();
            assert_eq!(objects, ["epic-red/a"]);
        }
    }

    #[test]
    fn nothing_is_served_before_it_has_an_address() {
        let mut fresh = balancer("web", "True", "192.0.2.1");
        fresh.status.as_mut().unwrap().public_address = None;
        assert!(rows_of(&fresh, None, [].iter()).is_none());
    }

    #[test]
    fn an_address_that_changes_hands_within_one_update_is_served_by_its_new_owner() {
        let writer = Writer::new(Tables::new());
        let mut txn = writer.write();
        let rows = |name: &str, address: &str| {
            let object = balancer(name, "True", address);
            (Key::of(&object), rows_of(&object, None, [].iter()))
        };
        let served = |txn: &mut WriteTxn<'_>, list: Vec<(Key, Option<Rows>)>| fill(txn, list);
        assert!(served(&mut txn, vec![rows("b", "192.0.2.1")]).is_empty());
        // The new owner comes first by name.
        let left = served(&mut txn, vec![rows("a", "192.0.2.1"), rows("b", "192.0.2.2")]);
        assert!(left.is_empty(), "{left:?}");
        let left = served(&mut txn, vec![rows("c", "192.0.2.2")]);
        assert_eq!(left, [Key::namespaced("epic-red", "c")].into(), "tried again with the next update");
    }
}
