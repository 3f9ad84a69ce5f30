//! Entries for services that are forwarded without a proxy ([`Forwarding::Direct`](crate::Forwarding::Direct)): one entry
//! of one map, and what it points to.
//!
//! **No BPF program reads this layout yet.** It lives in memory: in the stand-alone program, in tests, and in the bench that
//! says what such a service costs. Its shape is that of the data plane to come: a public port leads to a table, a cell of
//! the table to a backend, and each step names its target by a number that the reader can check.
//!
//! | map | key → value |
//! | --- | --- |
//! | `backends` | number → where packets go |
//! | `reverse` | number of a frontend → what replies are rewritten to |
//! | `tables` | number of a frontend → cells that hold backends, one of which a new flow chooses by its hash |
//! | `ranges` | number of a frontend and network → clients from there are admitted |
//! | `services` | public port → number, members, affinity, whether clients are limited to ranges |
//!
//! Numbers are places in arrays, so they are used again. A [`Reference`] is a number with a generation: it is the identity
//! of an entry, and whoever points to an entry expects that identity there. So a cell never leads to who had the number
//! before or has it next. The `set` of table and backend says besides whose they are, for programs that compare. Backends
//! and services name their sources, so that after a restart what one source left need not wait for another.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::num::NonZeroU64;
use std::sync::Arc;

use epic_reconciler::{Layout, digest_of};
#[cfg(doc)]
use epic_store::Sources;
use ipnet::IpNet;

use crate::maglev::MaglevTable;
use crate::rows::{Address, FrontendKey, Place, Protocol, ServiceName, Source};

/// A number with its generation. Never 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference(u32);

impl Reference {
    /// Bits of the number; above them is the generation.
    const BITS: u32 = 24;
    /// The greatest number.
    pub const GREATEST: u32 = (1 << Self::BITS) - 1;

    /// A number, at most [`Reference::GREATEST`], in a generation that is not 0.
    pub const fn new(number: u32, generation: u8) -> Self {
        Self((generation as u32) << Self::BITS | number & Self::GREATEST)
    }

    /// What a cell holds.
    pub(crate) const fn of_word(word: u32) -> Self {
        Self(word)
    }

    /// As cells hold it.
    pub const fn word(self) -> u32 {
        self.0
    }

    /// Key of the entry.
    pub const fn number(self) -> u32 {
        self.0 & Self::GREATEST
    }

    /// Tells it from those who had the number before.
    pub const fn generation(self) -> u8 {
        (self.0 >> Self::BITS) as u8
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.number(), self.generation())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Stands for a service in entries: the same in every run and on every node. Two services may have the same one; then a
/// program that compares tells them apart no more, and references still do.
pub fn set_of(service: &ServiceName) -> u32 {
    let hash = service.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ (hash >> 32)) as u32
}

/// Key of an entry. Ordered by map first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DirectKey {
    /// Backend.
    Backend(u32),
    /// Way back of a frontend.
    Reverse(u32),
    /// Table of a frontend.
    Table(u32),
    /// Network from which clients of a frontend are admitted.
    Range(u32, IpNet),
    /// Public port.
    Service(FrontendKey),
}

/// Where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DirectBackend {
    /// Who it is.
    pub reference: Reference,
    /// Whose it is.
    pub set: u32,
    /// Address.
    pub address: Address,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Which sources have it there: bits of [`Sources`].
    pub sources: u8,
}

impl DirectBackend {
    /// Where it is.
    pub fn place(&self) -> Place {
        Place { address: self.address, port: self.port, protocol: self.protocol }
    }
}

// Entries have a byte for them.
const _: () = assert!(Source::ALL.len() <= 8);

/// What replies are rewritten to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DirectReverse {
    /// Who it is.
    pub reference: Reference,
    /// Whose it is.
    pub set: u32,
    /// The public port.
    pub frontend: FrontendKey,
}

/// Cells of a table, each a [`Reference`] as a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cells {
    /// The only member has the only cell.
    One(Reference),
    /// Several members.
    Many(Arc<MaglevTable>),
}

/// Who takes new flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectTable {
    /// Who it is.
    pub reference: Reference,
    /// Whose members are in the cells: with a redirect those of another service.
    pub set: u32,
    /// The members by cell.
    pub cells: Cells,
}

/// A public port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DirectService {
    /// Its way back, and its table if it has members.
    pub reference: Reference,
    /// How many members the table has; with none there is no table, and new flows are dropped.
    pub members: u32,
    /// For how long a client keeps its backend; 0: it need not.
    pub affinity_seconds: u32,
    /// Whether only clients of its ranges are admitted.
    pub ranges: bool,
    /// Whose it is: bits of [`Sources`]. All that has this number is.
    pub sources: u8,
}

/// Value of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectValue {
    /// Backend.
    Backend(DirectBackend),
    /// Way back.
    Reverse(DirectReverse),
    /// Table.
    Table(DirectTable),
    /// Admitted.
    Range,
    /// Public port.
    Service(DirectService),
}

impl DirectTable {
    /// Members, each once.
    pub fn members(&self) -> &[u32] {
        match &self.cells {
            Cells::One(member) => std::slice::from_ref(&member.0),
            Cells::Many(table) => table.members(),
        }
    }

    /// Cells, each with a member.
    pub fn cells(&self) -> &[u32] {
        match &self.cells {
            Cells::One(member) => std::slice::from_ref(&member.0),
            Cells::Many(table) => table.cells(),
        }
    }
}

/// The maps of services without a proxy, as the reconciler sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectLayout;

/// Maps in memory, with entries of services without a proxy.
pub type DirectMaps = epic_reconciler::FakeMaps<DirectLayout>;

impl Layout for DirectLayout {
    type Key = DirectKey;
    type Value = DirectValue;
    const MAPS: &'static [&'static str] = &["backends", "reverse", "tables", "ranges", "services"];

    fn map(key: &DirectKey) -> usize {
        match key {
            DirectKey::Backend(_) => 0,
            DirectKey::Reverse(_) => 1,
            DirectKey::Table(_) => 2,
            DirectKey::Range(..) => 3,
            DirectKey::Service(_) => 4,
        }
    }

    fn digest(_: &DirectKey, value: &DirectValue) -> NonZeroU64 {
        match value {
            DirectValue::Backend(backend) => digest_of(backend),
            DirectValue::Reverse(reverse) => digest_of(reverse),
            DirectValue::Table(DirectTable { reference, set, cells: Cells::One(member) }) => {
                digest_of(&(reference, set, member))
            }
            DirectValue::Table(DirectTable { reference, set, cells: Cells::Many(table) }) => {
                digest_of(&(reference, set, table.digest()))
            }
            DirectValue::Range => digest_of(&true),
            DirectValue::Service(service) => digest_of(service),
        }
    }

    fn targets(_: &DirectKey, value: &DirectValue, each: &mut dyn FnMut(DirectKey, u32)) {
        match value {
            DirectValue::Table(table) => {
                let members = table.members().iter().map(|word| Reference(*word));
                members.for_each(|member| each(DirectKey::Backend(member.number()), member.word()));
            }
            DirectValue::Service(service) => {
                let reference = service.reference;
                each(DirectKey::Reverse(reference.number()), reference.word());
                if service.members > 0 {
                    each(DirectKey::Table(reference.number()), reference.word());
                }
            }
            DirectValue::Backend(_) | DirectValue::Reverse(_) | DirectValue::Range => {}
        }
    }

    fn identity(_: &DirectKey, value: &DirectValue) -> u32 {
        match value {
            DirectValue::Backend(backend) => backend.reference.word(),
            DirectValue::Reverse(reverse) => reverse.reference.word(),
            DirectValue::Table(table) => table.reference.word(),
            DirectValue::Range | DirectValue::Service(_) => 0,
        }
    }
}

impl fmt::Display for DirectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", DirectLayout::MAPS[DirectLayout::map(self)])?;
        match self {
            DirectKey::Backend(number) | DirectKey::Reverse(number) | DirectKey::Table(number) => {
                write!(f, "{number}")
            }
            DirectKey::Range(number, network) => write!(f, "{number} {network}"),
            DirectKey::Service(frontend) => write!(f, "{frontend}"),
        }
    }
}

/// The entries as text: one a line, sorted. References are shown as number.generation; a table by the share of each member
/// and a digest of the whole.
pub fn dump_direct(entries: impl IntoIterator<Item = (DirectKey, DirectValue)>) -> String {
    let mut sorted: Vec<(DirectKey, DirectValue)> = entries.into_iter().collect();
    sorted.sort_by_key(|(key, _)| *key);
    let mut out = String::new();
    for (key, value) in &sorted {
        // Writing to a String does not fail.
        let _ = line(key, value, &mut out);
    }
    out
}

fn line(key: &DirectKey, value: &DirectValue, out: &mut String) -> fmt::Result {
    write!(out, "{key}")?;
    match value {
        DirectValue::Backend(b) => write!(out, " -> {} {} set {:08x}", b.reference, b.place(), b.set)?,
        DirectValue::Reverse(r) => write!(out, " -> {} {} set {:08x}", r.reference, r.frontend, r.set)?,
        DirectValue::Table(table) => {
            write!(out, " -> {} set {:08x}", table.reference, table.set)?;
            let mut shares: BTreeMap<u32, usize> = BTreeMap::new();
            for word in table.cells() {
                *shares.entry(*word).or_default() += 1;
            }
            for (word, cells) in shares {
                write!(out, " {}×{cells}", Reference(word))?;
            }
            if let Cells::Many(_) = &table.cells {
                write!(out, " digest {:08x}", super::dump::digest(table.cells()))?;
            }
        }
        DirectValue::Range => {}
        DirectValue::Service(service) => {
            write!(out, " -> {} members {}", service.reference, service.members)?;
            if service.affinity_seconds > 0 {
                write!(out, " affinity {}s", service.affinity_seconds)?;
            }
            if service.ranges {
                write!(out, " ranges")?;
            }
        }
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_a_number_in_a_generation_and_never_nothing() {
        let reference = Reference::new(Reference::GREATEST, 255);
        assert_eq!((reference.number(), reference.generation()), (Reference::GREATEST, 255));
        assert_eq!(Reference::new(7, 1).to_string(), "7.1");
        assert_ne!(Reference::new(0, 1).word(), 0);
    }

    #[test]
    fn a_service_is_the_same_set_in_every_run() {
        assert_eq!(set_of(&ServiceName::new("acme", "web")), 0x6c90_e0aa);
    }

    #[test]
    fn keys_and_values_are_small_since_there_are_many() {
        assert_eq!((size_of::<DirectKey>(), size_of::<DirectValue>()), (24, 32));
    }
}
