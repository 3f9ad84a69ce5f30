//! A small load balancer: services with frontends and backends, and nodes, in five maps that point to each other.
//!
//! ```text
//! frontends  vip ──▶ service, count      points to revnat (of its service) and to slots 0..count (of its service)
//! revnat     nat id ──▶ service          who it is: the service
//! slots      service, i ──▶ backend id   points to the backend (of its service); who it is: the service
//! backends   backend id ──▶ place        who it is: the service
//! nodes      node ──▶ value              of the whole node
//! ```
//!
//! Ids of backends and of reverse NAT are given by the rows, so two rows may disagree, and ids may move.

use std::fmt;
use std::num::NonZeroU64;

use epic_reconciler::{Layout, Render, Unready, digest_of};
use epic_store::{Column, Row, Schema, Snapshot, Sources, StartsWith, tables};

/// A node whose value is at least this is lent to the scope of that name.
pub(crate) const LENT: u32 = 100;

pub(crate) const NODES: usize = 0;
pub(crate) const BACKENDS: usize = 1;
pub(crate) const SLOTS: usize = 2;
pub(crate) const REVNAT: usize = 3;
pub(crate) const FRONTENDS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    Node(u32),
    Backend(u32),
    Slot { service: u32, index: u32 },
    RevNat(u32),
    Frontend(u32),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Node(node) => write!(f, "nodes[{node}]"),
            Key::Backend(id) => write!(f, "backends[{id}]"),
            Key::Slot { service, index } => write!(f, "slots[{service}/{index}]"),
            Key::RevNat(id) => write!(f, "revnat[{id}]"),
            Key::Frontend(vip) => write!(f, "frontends[{vip}]"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    Node(u32),
    Backend { service: u32, place: u32, weight: u32 },
    Slot { service: u32, backend: u32 },
    RevNat { service: u32 },
    Frontend { service: u32, nat: u32, count: u32, generation: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Toy;

impl Layout for Toy {
    type Key = Key;
    type Value = Value;
    const MAPS: &'static [&'static str] = &["nodes", "backends", "slots", "revnat", "frontends"];

    fn map(key: &Key) -> usize {
        match key {
            Key::Node(_) => NODES,
            Key::Backend(_) => BACKENDS,
            Key::Slot { .. } => SLOTS,
            Key::RevNat(_) => REVNAT,
            Key::Frontend(_) => FRONTENDS,
        }
    }

    fn digest(_: &Key, value: &Value) -> NonZeroU64 {
        digest_of(value)
    }

    fn targets(_: &Key, value: &Value, each: &mut dyn FnMut(Key, u32)) {
        match *value {
            Value::Node(_) | Value::Backend { .. } | Value::RevNat { .. } => {}
            Value::Slot { service, backend } => each(Key::Backend(backend), service),
            Value::Frontend { service, nat, count, .. } => {
                each(Key::RevNat(nat), service);
                (0..count).for_each(|index| each(Key::Slot { service, index }, service));
            }
        }
    }

    fn identity(_: &Key, value: &Value) -> u32 {
        match *value {
            Value::Node(_) | Value::Frontend { .. } => 0,
            Value::Backend { service, .. } | Value::Slot { service, .. } | Value::RevNat { service } => {
                service
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) id: u32,
    pub(crate) nat: u32,
    pub(crate) generation: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frontend {
    pub(crate) vip: u32,
    pub(crate) service: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) service: u32,
    pub(crate) place: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) key: Place,
    pub(crate) id: u32,
    pub(crate) weight: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) id: u32,
    pub(crate) value: u32,
}

impl StartsWith<u32> for Place {
    fn cmp_start(&self, service: &u32) -> std::cmp::Ordering {
        self.service.cmp(service)
    }
}

macro_rules! row {
    ($row:ident, $key:ty, $field:ident) => {
        impl Row for $row {
            type Key = $key;
            type Indexes = ();
            fn key(&self) -> $key {
                self.$field
            }
            fn columns() -> &'static [Column<Self>] {
                const { &[Column::new("key", |row| format!("{:?}", row.$field).into())] }
            }
        }
    };
}

row!(Service, u32, id);
row!(Backend, Place, key);
row!(Node, u32, id);

/// Frontends of one service lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Vip {
    pub(crate) service: u32,
    pub(crate) vip: u32,
}

impl StartsWith<u32> for Vip {
    fn cmp_start(&self, service: &u32) -> std::cmp::Ordering {
        self.service.cmp(service)
    }
}

impl Row for Frontend {
    type Key = Vip;
    type Indexes = ();
    fn key(&self) -> Vip {
        Vip { service: self.service, vip: self.vip }
    }
    fn columns() -> &'static [Column<Self>] {
        const { &[Column::new("key", |row| format!("{}/{}", row.service, row.vip).into())] }
    }
}

tables! {
    /// All there is.
    pub(crate) Tables {
        /// Services.
        services: Service,
        /// Their frontends.
        frontends: Frontend,
        /// Their backends.
        backends: Backend,
        /// Nodes.
        nodes: Node,
    }
}

/// Renders rows; counts how often.
#[derive(Debug, Default)]
pub(crate) struct Renderer {
    pub(crate) rendered: u64,
    pub(crate) adopted: usize,
    /// Renders pointers to backends that no row has.
    pub(crate) careless: bool,
}

impl Renderer {
    fn service(now: &Snapshot<Tables>, id: u32) -> Result<&Service, Unready> {
        let service = now.services.get(id);
        service.map(|row| &row.row).ok_or_else(|| Unready(format!("service {id} is not there yet")))
    }
}

/// The source of a service; nodes have one of their own.
pub(crate) fn source_of(service: Option<u32>) -> Sources {
    Sources::one(service.map_or(3, |service| (service % 3) as u8))
}

impl Render<Toy> for Renderer {
    type Tables = Tables;
    type Scope = u32;

    fn adopt(&mut self, held: &[(Key, Value)]) {
        self.adopted = held.len();
    }

    fn affected(&self, before: &Snapshot<Tables>, now: &Snapshot<Tables>, each: &mut dyn FnMut(RowId)) {
        now.changed_rows(before, &mut |row| {
            each(row);
            match row {
                RowId::Node(_) | RowId::Frontend(_) => {}
                RowId::Service(id) => {
                    now.backends.prefix(id).for_each(|row| each(RowId::Backend(row.key)));
                    now.frontends.prefix(id).for_each(|row| each(RowId::Frontend(row.key())));
                }
                RowId::Backend(key) => {
                    each(RowId::Service(key.service));
                    now.frontends.prefix(key.service).for_each(|row| each(RowId::Frontend(row.key())));
                }
            }
        });
    }

    fn scope(&self, now: &Snapshot<Tables>, row: RowId) -> Option<u32> {
        match row {
            RowId::Service(id) => Some(id),
            RowId::Frontend(key) => Some(key.service),
            RowId::Backend(key) => Some(key.service),
            RowId::Node(id) => now.nodes.get(id).map(|row| row.value).filter(|value| *value >= LENT),
        }
    }

    fn sources_of(&self, _: &Snapshot<Tables>, row: RowId) -> Sources {
        source_of(match row {
            RowId::Service(id) => Some(id),
            RowId::Frontend(key) => Some(key.service),
            RowId::Backend(key) => Some(key.service),
            RowId::Node(_) => None,
        })
    }

    fn sources_of_held(&self, _: &Key, value: &Value) -> Sources {
        source_of(match *value {
            Value::Node(_) => None,
            Value::Backend { service, .. }
            | Value::Slot { service, .. }
            | Value::RevNat { service }
            | Value::Frontend { service, .. } => Some(service),
        })
    }

    fn render(
        &mut self,
        now: &Snapshot<Tables>,
        row: RowId,
        out: &mut Vec<(Key, Value)>,
    ) -> Result<(), Unready> {
        self.rendered += 1;
        match row {
            RowId::Service(id) => {
                let Some(row) = now.services.get(id) else { return Ok(()) };
                out.push((Key::RevNat(row.nat), Value::RevNat { service: id }));
                for (index, backend) in (0..).zip(now.backends.prefix(id)) {
                    let astray = if self.careless && backend.weight % 4 == 3 { 100 } else { 0 };
                    let value = Value::Slot { service: id, backend: backend.id + astray };
                    out.push((Key::Slot { service: id, index }, value));
                }
            }
            RowId::Frontend(key) => {
                if now.frontends.contains(key) {
                    let service = Self::service(now, key.service)?;
                    let count = now.backends.prefix(key.service).count() as u32;
                    let (nat, generation) = (service.nat, service.generation);
                    let value = Value::Frontend { service: key.service, nat, count, generation };
                    out.push((Key::Frontend(key.vip), value));
                }
            }
            RowId::Backend(key) => {
                if let Some(row) = now.backends.get(key) {
                    Self::service(now, key.service)?;
                    let value = Value::Backend { service: key.service, place: key.place, weight: row.weight };
                    out.push((Key::Backend(row.id), value));
                }
            }
            RowId::Node(id) => {
                if let Some(row) = now.nodes.get(id) {
                    out.push((Key::Node(id), Value::Node(row.value)));
                }
            }
        }
        Ok(())
    }
}
