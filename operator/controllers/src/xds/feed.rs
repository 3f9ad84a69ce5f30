//! From snapshots to the load-balancing tables: a LoadBalancer is a service, its public ports are frontends, its
//! accepted Endpoints are backends.
//!
//! Reads status alone for everything that was decided (addresses, ports, aliases, acceptance), so that every replica
//! fills its tables alike and an edit that is refused takes nothing from what is served. What comes from the group is
//! not in the status: while the edit of a LoadBalancer or of its group is not accepted, the row stays as it is, as long
//! as this process runs. Endpoint rows that cannot be served are left out; the Endpoint's conditions say why.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use epic_crds::condition::{ACCEPTED, PROGRAMMED};
use epic_crds::{
    Endpoint, HasConditions, LbPolicy as Policy, LoadBalancer, Protocol as Written, ServiceGroup,
};
use epic_lb::{
    Backend, BackendKind, BackendState, EndpointObject, Frontend, FrontendKey, LbPolicy, Locality, Name,
    Protocol, Service, ServiceName, Since, TargetPort, WriteTxn, Writer,
};
use epic_model::address;
use epic_model::id::{EndpointId, GroupId, ServiceId};
use epic_model::port::TargetPort as PlainTarget;
use kates::{Key, Update};
use kube::ResourceExt;
use tokio_util::sync::CancellationToken;

use super::edge::edge;
use crate::context::Shared;
use crate::load_balancer::served;
use crate::reconcile::is_accepted_now;
use crate::service_group::group_of;

/// Follows the watches until `shutdown`.
pub(super) async fn run(context: Shared, writer: Writer, shutdown: CancellationToken) {
    let mut initializer = Some(writer.register_initializer("load-balancers"));
    let mut updates = context.watches.updates();
    loop {
        let update = tokio::select! {
            () = shutdown.cancelled() => return,
            update = updates.next() => update,
        };
        let touched = touched(&update);
        let namespaces: BTreeSet<&str> = touched.iter().filter_map(Key::namespace).collect();
        let endpoints =
            namespaces.into_iter().flat_map(|name| update.snapshot.in_namespace::<Endpoint>(name));
        let members: Members<'_> = endpoints.map(AsRef::as_ref).collect();
        // Nobody else writes: what is read here is still so in the transaction, which need not wait for this.
        let tables = writer.snapshot();
        let wanted: Vec<(ServiceName, Option<Rows>)> = touched
            .iter()
            .map(|key| {
                let name = service_name(key);
                let object = update.snapshot.get::<LoadBalancer>(key);
                let before = tables.service(name.id()).map(|row| &row.row);
                let rows = object.and_then(|object| {
                    let group = group_of(&update.snapshot, object);
                    rows(object, group.as_deref(), before, &members)
                });
                (name, rows)
            })
            .collect();
        let mut txn = writer.write();
        fill(&mut txn, wanted);
        if let Some(initializer) = initializer.take() {
            txn.complete(&initializer);
        }
        txn.commit();
    }
}

/// Makes the rows of these LoadBalancers what is given.
fn fill(txn: &mut WriteTxn<'_>, wanted: impl IntoIterator<Item = (ServiceName, Option<Rows>)>) {
    for (name, rows) in wanted {
        let Some((service, frontends, backends)) = rows else {
            txn.delete_service_and_frontends(&name);
            continue;
        };
        match txn.upsert_service_and_frontends(service, frontends) {
            Ok(()) => txn.set_backends(&name, backends),
            Err(error) => tracing::error!(load_balancer = %name, %error, "not served"),
        }
        for waits in txn.tables().wishes_of(name.id()) {
            let holder = txn.tables().frontends.get(waits.0.key).map(|row| row.service.to_string());
            tracing::warn!(
                load_balancer = %name, port = %waits.0.key, holder,
                "not served there: address and port belong to another one until it leaves them"
            );
        }
    }
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
            let part = |group: &Arc<ServiceGroup>| (group.spec.clone(), is_accepted_now(group.as_ref()));
            change.before.as_ref().map(part) != change.after.as_ref().map(part)
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

/// What makes a LoadBalancer in the tables.
pub type Rows = (Service, Vec<Frontend>, Vec<Backend>);

/// Endpoints by namespace and by the LoadBalancer that they name, so that each is looked at once however many
/// LoadBalancers there are beside its own.
#[derive(Debug, Default)]
pub struct Members<'o>(HashMap<(&'o str, &'o str), Vec<&'o Endpoint>>);

impl<'o> FromIterator<&'o Endpoint> for Members<'o> {
    fn from_iter<I: IntoIterator<Item = &'o Endpoint>>(endpoints: I) -> Self {
        let mut members = Self::default();
        for endpoint in endpoints {
            let namespace = endpoint.metadata.namespace.as_deref().unwrap_or_default();
            members.0.entry((namespace, &endpoint.spec.load_balancer)).or_default().push(endpoint);
        }
        members
    }
}

impl Members<'_> {
    fn of<'a>(&'a self, balancer: &'a LoadBalancer) -> &'a [&'a Endpoint] {
        let metadata = &balancer.metadata;
        let key =
            (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default());
        self.0.get(&key).map_or(&[], Vec::as_slice)
    }
}

/// The rows of a LoadBalancer, with its service as it was `before`; `None` while it lacks an ID or an address, which
/// only one that was accepted gets. One that is refused afterwards is served on.
pub fn rows(
    balancer: &LoadBalancer,
    group: Option<&ServiceGroup>,
    before: Option<&Service>,
    members: &Members<'_>,
) -> Option<Rows> {
    if balancer.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = balancer.status.as_ref()?;
    let name = service_name(&Key::of(balancer));
    let group_id = GroupId::try_from(status.group_id?).ok()?;
    let service_id = ServiceId::try_from(status.service_id?).ok()?;
    let vip = address::parse(status.public_address.as_deref()?).ok()?;
    let uid = balancer.uid()?;
    let accepted = is_accepted_now(balancer) && group.is_some_and(is_accepted_now);
    let before = before.filter(|before| !accepted && *before.uid == *uid);
    let (lb_policy, edge) = match before {
        Some(before) => (before.lb_policy, Arc::clone(&before.edge)),
        None => {
            let group = group.map(|group| group.spec.clone()).unwrap_or_default();
            (policy(group.lb_policy()), Arc::new(edge(&group)))
        }
    };
    let service = Service {
        // The generation whose slots the status shows: what a proxy acknowledges is that, not what is being written.
        generation: balancer.condition(PROGRAMMED).and_then(|known| known.observed_generation)?,
        lb_policy,
        edge,
        key_generation: status.key_generation.and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
        since: balancer
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| Since::from_seconds(time.0.as_second()))
            .unwrap_or_default(),
        ..Service::new(name.clone(), uid).granted(group_id, service_id)
    };
    let frontends = frontends(balancer, &name, vip);
    let backends = members.of(balancer).iter().filter_map(|endpoint| backend(&name, endpoint)).collect();
    Some((service, frontends, backends))
}

fn frontends(balancer: &LoadBalancer, name: &ServiceName, vip: IpAddr) -> Vec<Frontend> {
    let slots = balancer.status.iter().flat_map(|status| &status.ports);
    slots
        .filter_map(|slot| {
            let port = served(slot)?;
            let target = match port.target_port {
                None => TargetPort::Number(port.port),
                Some(PlainTarget::Number(number)) => TargetPort::Number(number),
                Some(PlainTarget::Name(name)) => TargetPort::Name(Name::new(&name)),
            };
            let key = FrontendKey::new(vip, port.port, protocol(slot.protocol));
            Some(Frontend {
                port_name: port.name.as_deref().map(Name::new),
                target_port: Some(target),
                ..Frontend::proxied(key, name.clone(), u16::try_from(slot.slot).ok()?)
            })
        })
        .collect()
}

fn backend(service: &ServiceName, endpoint: &Endpoint) -> Option<Backend> {
    if endpoint.metadata.deletion_timestamp.is_some() || !endpoint.is_condition_true(ACCEPTED) {
        return None;
    }
    let status = endpoint.status.as_ref()?;
    let (real, dialled, port) = match endpoint.spec.node_address {
        // Behind a tunnel Envoy dials the alias; without one yet there is no way there.
        Some(_) => {
            let alias = address::parse(status.alias_address.as_deref()?).ok()?;
            (address::parse(&endpoint.spec.address).ok()?, alias, &endpoint.spec.port)
        }
        // What nodes let pass, and nothing else.
        None => {
            let (real, port) = endpoint.accepted_target()?;
            let real = address::parse(real).ok()?;
            (real, real, port)
        }
    };
    let weight = u16::try_from(endpoint.spec.weight()).ok()?;
    let object = EndpointObject {
        object: format!("{}/{}", endpoint.namespace()?, endpoint.name_any()).into(),
        uid: endpoint.uid()?.into(),
        generation: endpoint.metadata.generation.unwrap_or(0),
        real_address: real,
        id: status.endpoint_id.and_then(|id| EndpointId::try_from(id).ok()),
    };
    Some(Backend {
        state: if weight == 0 { BackendState::Draining } else { BackendState::Active },
        weight,
        port_names: port.name.as_deref().map(|name| [Name::new(name)].into()),
        locality: Locality {
            node: endpoint.spec.node_address.as_deref().map(Name::new),
            ..Locality::default()
        },
        kind: BackendKind::Endpoint(Arc::new(object)),
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
    use epic_crds::PublicPort;
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
                "ports": [{"port": 80, "protocol": "TCP", "slot": 0, "target-port": 8080},
                    {"port": 81, "protocol": "TCP", "slot": 1}],
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

    fn of(balancer: &LoadBalancer, endpoints: &[Endpoint]) -> Option<Rows> {
        rows(balancer, None, None, &endpoints.iter().collect())
    }

    #[test]
    fn the_backends_of_a_load_balancer_are_the_endpoints_of_its_namespace_that_name_it() {
        let mut stranger = endpoint("b", "True", Some("100.127.0.2"));
        stranger.metadata.namespace = Some("epic-blue".into());
        let mut neighbour = endpoint("c", "True", Some("100.127.0.3"));
        neighbour.spec.load_balancer = "dns".into();
        let endpoints = [endpoint("a", "True", Some("100.127.0.1")), stranger, neighbour];
        let objects = |name: &str| -> Vec<String> {
            let (_, _, backends) = of(&balancer(name, "True", "192.0.2.1"), &endpoints).unwrap();
            backends.iter().filter_map(|row| row.endpoint()).map(|of| of.object.to_string()).collect()
        };
        assert_eq!(objects("web"), ["epic-red/a"]);
        assert_eq!(objects("dns"), ["epic-red/c"]);
        assert_eq!(objects("none"), [""; 0]);
    }

    #[test]
    fn an_edit_of_an_endpoint_without_a_node_is_served_once_it_is_judged_and_what_it_replaces_until_then() {
        let mut direct = endpoint("a", "True", None);
        direct.spec.node_address = None;
        direct.metadata.generation = Some(1);
        let served = |endpoint: &Endpoint| {
            let (_, _, backends) =
                of(&balancer("web", "True", "192.0.2.1"), std::slice::from_ref(endpoint)).unwrap();
            let of = |b: &Backend| (b.place.address.to_string(), b.place.port, b.weight);
            backends.iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(served(&direct), [("10.0.0.9".to_owned(), 8080, 1)]);
        let status = direct.status.as_mut().unwrap();
        status.accepted_address = Some("10.0.0.9".to_owned());
        status.accepted_port = Some(direct.spec.port.clone());
        direct.metadata.generation = Some(2);
        (direct.spec.address, direct.spec.weight) = ("10.0.0.10".to_owned(), Some(7));
        assert_eq!(served(&direct), [("10.0.0.9".to_owned(), 8080, 7)]);
    }

    #[test]
    fn one_that_is_refused_or_lost_its_group_is_served_on_at_the_generation_its_slots_are_of() {
        let endpoints = [
            endpoint("a", "True", Some("100.127.0.1")),
            endpoint("without-alias", "True", None),
            endpoint("refused", "False", Some("100.127.0.2")),
        ];
        for accepted in ["True", "False", "Unknown"] {
            let rows = of(&balancer("web", accepted, "192.0.2.1"), &endpoints);
            let (service, frontends, backends) = rows.unwrap();
            assert_eq!(service.generation, 2, "{accepted}");
            let ports: Vec<u16> = frontends.iter().map(|frontend| frontend.key.port).collect();
            assert_eq!(ports, [80], "443 has no slot yet, 81 is on its way out");
            let objects: Vec<_> =
                backends.iter().filter_map(|row| row.endpoint()).map(|of| &*of.object).collect();
            assert_eq!(objects, ["epic-red/a"]);
        }
    }

    #[test]
    fn ports_are_served_as_the_status_has_them_whatever_an_edit_says_that_is_not_in_force() {
        for accepted in ["True", "False", "Unknown"] {
            let mut edited = balancer("web", accepted, "192.0.2.1");
            edited.metadata.generation = Some(4);
            edited.spec.public_ports = vec![PublicPort { port: 443, ..PublicPort::default() }];
            let (_, frontends, _) = of(&edited, &[]).unwrap();
            let ports: Vec<_> = frontends
                .iter()
                .map(|row| (row.key.port, row.target_port.clone(), row.listener_port()))
                .collect();
            assert_eq!(ports, [(80, Some(TargetPort::Number(8080)), Some(10_000))], "{accepted}");
        }
    }

    fn group(accepted: &str, policy: &str) -> ServiceGroup {
        serde_json::from_value(json!({
            "apiVersion": "epic.acnodal.io/v1", "kind": "ServiceGroup",
            "metadata": {"name": "g", "namespace": "epic", "generation": 1},
            "spec": {"lb-policy": policy}, "status": {"conditions": [condition("Accepted", accepted, 1)]},
        }))
        .unwrap()
    }

    #[test]
    fn a_group_that_is_refused_or_named_by_a_refused_edit_changes_nothing_that_is_served() {
        let of = |balancer: &LoadBalancer, group: Option<ServiceGroup>, before: Option<&Service>| {
            rows(balancer, group.as_ref(), before, &Members::default()).unwrap().0
        };
        let (fine, refused) = (balancer("web", "True", "192.0.2.1"), balancer("web", "False", "192.0.2.1"));
        let before = of(&fine, Some(group("True", "Maglev")), None);
        assert_eq!(before.lb_policy, LbPolicy::Maglev);
        assert_eq!(of(&fine, Some(group("True", "Random")), Some(&before)).lb_policy, LbPolicy::Random);
        for (balancer, group) in [
            (&fine, Some(group("False", "Random"))),
            (&refused, Some(group("True", "Random"))),
            (&refused, None),
        ] {
            assert_eq!(of(balancer, group, Some(&before)).lb_policy, LbPolicy::Maglev);
        }
        let successor = Service { uid: "another".into(), ..before };
        assert_eq!(of(&refused, None, Some(&successor)).lb_policy, LbPolicy::RoundRobin);
    }

    #[test]
    fn nothing_is_served_before_it_has_an_address() {
        let mut fresh = balancer("web", "True", "192.0.2.1");
        fresh.status.as_mut().unwrap().public_address = None;
        assert!(of(&fresh, &[]).is_none());
    }

    #[test]
    fn an_address_is_served_by_the_one_that_precedes_and_by_the_next_as_soon_as_that_leaves_it() {
        let writer = Writer::new();
        let mut txn = writer.write();
        let rows = |(name, address): (&str, &str)| {
            let object = balancer(name, "True", address);
            (service_name(&Key::of(&object)), of(&object, &[]))
        };
        let served = |txn: &WriteTxn<'_>| -> Vec<(String, String)> {
            let rows = txn.tables().frontends.iter();
            rows.map(|row| (row.service.name().to_owned(), row.key.address.to_string())).collect()
        };
        let (one, two, three) = ("192.0.2.1", "192.0.2.2", "192.0.2.3");
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, address)| ((*name).to_owned(), (*address).to_owned())).collect()
        };
        // Exchanged within one update, whoever comes first.
        for addresses in [[("a", one), ("b", two), ("c", three)], [("c", one), ("a", two), ("b", three)]] {
            fill(&mut txn, addresses.map(rows));
            assert_eq!(served(&txn), pairs(&addresses));
        }
        fill(&mut txn, [("b", two)].map(rows));
        assert_eq!(served(&txn), pairs(&[("c", one), ("a", two)]), "a was there before");
        fill(&mut txn, [("a", three)].map(rows));
        assert_eq!(served(&txn), pairs(&[("c", one), ("b", two), ("a", three)]));
    }
}
