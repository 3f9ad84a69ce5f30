//! A parent of IDs as the plan sees it, and a plan's write as the parent's new status.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use epic_crds::rest;
use epic_crds::well_known::FINALIZER;
use epic_crds::{Account, EPIC, Reservation as Written};
use epic_model::allocation::{Counter, CounterState, Parent, ParentWrite, Reservation};
use epic_model::id::{Kind, ObjectVersion};
use kube::api::ObjectMeta;

/// A parent that cannot be used for allocation as it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It was not read from the API server.
    #[error("the object has no uid or resourceVersion")]
    NotRead,
    /// A reservation names a kind this version does not know: a newer operator wrote it.
    #[error("reservation {0} names an unknown kind; run the operator version that wrote it")]
    UnknownReservation(String),
}

/// The kinds whose status holds counters and reservations.
pub trait ParentObject {
    /// Value that was handed out last, of one of its counters.
    fn last(&self, counter: Counter) -> Option<i64>;
    /// Sets that value.
    fn set_last(&mut self, counter: Counter, value: i64);
    /// Its reservations.
    fn reservations(&self) -> &[Written];
    /// Replaces its reservations.
    fn set_reservations(&mut self, reservations: Vec<Written>);
    /// Its metadata.
    fn metadata(&self) -> &ObjectMeta;
}

impl ParentObject for EPIC {
    fn last(&self, counter: Counter) -> Option<i64> {
        let status = self.status.as_ref()?;
        match counter {
            Counter::Group => status.current_group_id,
            Counter::Tunnel => status.current_tunnel_id,
            Counter::Proxy => status.current_proxy_id,
            Counter::Service | Counter::Endpoint => None,
        }
    }

    fn set_last(&mut self, counter: Counter, value: i64) {
        let status = self.status.get_or_insert_default();
        match counter {
            Counter::Group => status.current_group_id = Some(value),
            Counter::Tunnel => status.current_tunnel_id = Some(value),
            Counter::Proxy => status.current_proxy_id = Some(value),
            Counter::Service | Counter::Endpoint => {}
        }
    }

    fn reservations(&self) -> &[Written] {
        self.status.as_ref().map(|status| status.reservations.as_slice()).unwrap_or_default()
    }

    fn set_reservations(&mut self, reservations: Vec<Written>) {
        self.status.get_or_insert_default().reservations = reservations;
    }

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl ParentObject for Account {
    fn last(&self, counter: Counter) -> Option<i64> {
        let status = self.status.as_ref()?;
        match counter {
            Counter::Service => status.current_service_id,
            Counter::Endpoint => status.current_endpoint_id,
            Counter::Group | Counter::Tunnel | Counter::Proxy => None,
        }
    }

    fn set_last(&mut self, counter: Counter, value: i64) {
        let status = self.status.get_or_insert_default();
        match counter {
            Counter::Service => status.current_service_id = Some(value),
            Counter::Endpoint => status.current_endpoint_id = Some(value),
            Counter::Group | Counter::Tunnel | Counter::Proxy => {}
        }
    }

    fn reservations(&self) -> &[Written] {
        self.status.as_ref().map(|status| status.reservations.as_slice()).unwrap_or_default()
    }

    fn set_reservations(&mut self, reservations: Vec<Written>) {
        self.status.get_or_insert_default().reservations = reservations;
    }

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// The parent as the plan reads it, with the ranges its counters draw from.
///
/// # Errors
/// [`Unusable`]: nothing may be allocated from it.
pub fn read(
    object: &impl ParentObject,
    ranges: &BTreeMap<Counter, RangeInclusive<u32>>,
) -> Result<Parent, Unusable> {
    let meta = object.metadata();
    let (Some(uid), Some(version)) = (meta.uid.as_deref(), meta.resource_version.as_deref()) else {
        return Err(Unusable::NotRead);
    };
    let counters = ranges
        .iter()
        .map(|(counter, range)| {
            let last = object.last(*counter).and_then(|last| u32::try_from(last).ok()).unwrap_or(0);
            (*counter, CounterState { last, range: range.clone() })
        })
        .collect();
    let reservations = object.reservations().iter().map(reservation).collect::<Result<Vec<_>, _>>()?;
    Ok(Parent {
        uid: uid.into(),
        resource_version: version.into(),
        finalizer: meta.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER),
        deleting: meta.deletion_timestamp.is_some(),
        counters,
        reservations,
    })
}

/// The status after a plan's write; everything else in it stays.
pub fn apply(object: &mut impl ParentObject, write: &ParentWrite) {
    for (counter, value) in &write.counters {
        object.set_last(*counter, i64::from(*value));
    }
    let mut reservations: Vec<Written> = write.reservations.iter().map(written).collect();
    rest::carry_keyed(&mut reservations, object.reservations(), Written::key);
    object.set_reservations(reservations);
}

fn reservation(written: &Written) -> Result<Reservation, Unusable> {
    let unknown = || Unusable::UnknownReservation(format!("{:?} {}", written.counter, written.value));
    Ok(Reservation {
        counter: counter(written.counter),
        value: u32::try_from(written.value).map_err(|_| unknown())?,
        owner: ObjectVersion {
            kind: written.kind.parse::<Kind>().map_err(|_| unknown())?,
            namespace: written.namespace.as_str().into(),
            name: written.name.as_str().into(),
            uid: written.uid.as_str().into(),
            resource_version: written.resource_version.as_str().into(),
        },
        subkey: written.subkey.clone().unwrap_or_default(),
    })
}

fn written(reservation: &Reservation) -> Written {
    let owner = &reservation.owner;
    Written {
        counter: match reservation.counter {
            Counter::Group => epic_crds::Counter::Group,
            Counter::Tunnel => epic_crds::Counter::Tunnel,
            Counter::Proxy => epic_crds::Counter::Proxy,
            Counter::Service => epic_crds::Counter::Service,
            Counter::Endpoint => epic_crds::Counter::Endpoint,
        },
        value: i64::from(reservation.value),
        kind: owner.kind.to_string(),
        namespace: owner.namespace.to_string(),
        name: owner.name.to_string(),
        uid: owner.uid.to_string(),
        resource_version: owner.resource_version.to_string(),
        subkey: Some(reservation.subkey.clone()).filter(|subkey| !subkey.is_empty()),
        rest: Default::default(),
    }
}

fn counter(written: epic_crds::Counter) -> Counter {
    match written {
        epic_crds::Counter::Group => Counter::Group,
        epic_crds::Counter::Tunnel => Counter::Tunnel,
        epic_crds::Counter::Proxy => Counter::Proxy,
        epic_crds::Counter::Service => Counter::Service,
        epic_crds::Counter::Endpoint => Counter::Endpoint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epic() -> EPIC {
        let mut epic = EPIC::new("epic", epic_crds::EPICSpec::default());
        epic.metadata.uid = Some("u".into());
        epic.metadata.resource_version = Some("7".into());
        epic
    }

    fn ranges() -> BTreeMap<Counter, RangeInclusive<u32>> {
        BTreeMap::from([(Counter::Group, 1..=65_535), (Counter::Tunnel, 1..=u32::MAX)])
    }

    #[test]
    fn a_write_is_read_back_as_it_was_planned() {
        let mut object = epic();
        let reservation = Reservation {
            counter: Counter::Tunnel,
            value: 4,
            owner: ObjectVersion {
                kind: Kind::LoadBalancer,
                namespace: "epic-red".into(),
                name: "web".into(),
                uid: "w".into(),
                resource_version: "9".into(),
            },
            subkey: "10.0.0.1/10.0.0.2".into(),
        };
        let write = ParentWrite {
            at: "7".into(),
            reservations: vec![reservation.clone()],
            counters: BTreeMap::from([(Counter::Tunnel, 4)]),
        };
        apply(&mut object, &write);
        let parent = read(&object, &ranges()).unwrap();
        assert_eq!(parent.reservations, [reservation]);
        assert_eq!(parent.counters[&Counter::Tunnel].last, 4);
        assert_eq!(parent.counters[&Counter::Group].last, 0);
    }

    #[test]
    fn an_object_that_was_never_read_allocates_nothing() {
        assert_eq!(read(&EPIC::new("epic", Default::default()), &ranges()), Err(Unusable::NotRead));
    }
}
