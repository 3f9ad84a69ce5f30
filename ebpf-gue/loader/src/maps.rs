//! The maps of a host by name and type, opened from their pins.
//!
//! The agent, its commands (`maps dump`, `status`, `tunnels`) and the tests use the same handles. Opening needs
//! neither the object nor the hold of an agent; whoever opens the maps may also write them, so commands must not.

use std::path::Path;

use epic_abi::maps::{self as abi, MapKind, MapSpec, Side};
use epic_abi::{Ip, Lb};

use crate::error::Error;
use crate::maglev::Maglev;
use crate::pins::Pins;
use crate::sys::{self, MapInfo};
use crate::table::{PerCpuTable, Table};

/// Every map of `epic-abi`. Maps of the other side exist with room for one entry.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is described in `epic_abi::maps` under its name")]
pub struct Maps {
    pub config: Table<u32, abi::Config>,
    pub locals: Table<Ip, abi::Local>,
    pub nodes: Table<Ip, abi::Node>,
    pub keys: Table<Lb, abi::LbKeys>,
    pub tunnels: Table<u32, abi::Tunnel>,
    pub remotes: Table<u32, abi::Remote>,
    pub sources: Table<abi::SourceKey, u32>,
    pub tunnel_stats: PerCpuTable<u32, abi::TunnelStats>,
    pub drops: PerCpuTable<u32, u64>,
    pub stats: PerCpuTable<u32, u64>,
    pub vips: Table<Ip, abi::Vip>,
    pub services: Table<abi::ServiceKey, abi::Service>,
    pub source_ranges: Table<SourcePrefix, abi::SourceRange>,
    pub maglev: Maglev,
    pub flows: Table<abi::FlowKey, abi::Flow>,
    pub proxies: Table<u32, abi::Proxy>,
    pub local_proxies: Table<u32, abi::LocalProxy>,
    pub listeners: Table<abi::ListenerKey, abi::Listener>,
    pub aliases: Table<abi::AliasKey, abi::Alias>,
    pub endpoint_aliases: Table<abi::EndpointAliasKey, Ip>,
    pub passes: Table<abi::PassKey, abi::Pass>,
    pub routes: Table<Ip, abi::Route>,
    pub learned_proxies: Table<Ip, abi::LearnedProxy>,
    pub endpoints: Table<abi::EndpointKey, abi::Endpoint>,
    side: Side,
}

/// A key of `source_ranges` as the trie wants it: how many bits count, then the bits.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourcePrefix {
    /// 32 for the set and those of the network, 96 more for IPv4.
    pub bits: u32,
    /// The set and the network.
    pub key: abi::SourceRangeKey,
}

// SAFETY: repr(C), an integer and a struct of integers without padding, none between them.
unsafe impl aya::Pod for SourcePrefix {}

impl Maps {
    /// Opens the maps that an agent has pinned in `dir`.
    ///
    /// # Errors
    /// There are none, or they are of another layout or shape.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let pins = Pins::new(dir);
        if pinned_layout(&pins)?.is_none() {
            return Err(Error::NoMaps(dir.to_owned()));
        }
        Self::from_pins(&pins)
    }

    pub(crate) fn from_pins(pins: &Pins) -> Result<Self, Error> {
        let fd = |spec: &MapSpec| {
            let fd = pins.open(&pins.map(spec.name))?;
            fd.ok_or_else(|| Error::NoMaps(pins.dir().to_owned()))
        };
        let vips = fd(&abi::VIPS)?;
        let side = match sys::map_info(&vips).map_err(Error::refused("read the map vips"))?.max_entries {
            1 => Side::Client,
            _ => Side::Node,
        };
        macro_rules! tables {
            ($($field:ident: $spec:ident,)+) => {
                Self {
                    vips: Table::new(&abi::VIPS, vips),
                    tunnel_stats: PerCpuTable::new(&abi::TUNNEL_STATS, fd(&abi::TUNNEL_STATS)?)?,
                    drops: PerCpuTable::new(&abi::DROPS, fd(&abi::DROPS)?)?,
                    stats: PerCpuTable::new(&abi::STATS, fd(&abi::STATS)?)?,
                    maglev: Maglev::new(pins.clone(), fd(&abi::MAGLEV)?),
                    side,
                    $($field: Table::new(&abi::$spec, fd(&abi::$spec)?),)+
                }
            };
        }
        Ok(tables! {
            config: CONFIG,
            locals: LOCALS,
            nodes: NODES,
            keys: KEYS,
            tunnels: TUNNELS,
            remotes: REMOTES,
            sources: SOURCES,
            services: SERVICES,
            source_ranges: SOURCE_RANGES,
            flows: FLOWS,
            proxies: PROXIES,
            local_proxies: LOCAL_PROXIES,
            listeners: LISTENERS,
            aliases: ALIASES,
            endpoint_aliases: ENDPOINT_ALIASES,
            passes: PASSES,
            routes: ROUTES,
            learned_proxies: LEARNED_PROXIES,
            endpoints: ENDPOINTS,
        })
    }

    /// Which agent these maps belong to.
    pub fn side(&self) -> Side {
        self.side
    }
}

/// Entries of a map when the agent of `side` creates it.
pub(crate) fn entries_for(spec: &MapSpec, side: Side) -> u32 {
    if spec.side == Side::Both || spec.side == side { spec.max_entries } else { 1 }
}

/// Checks all that is pinned before anything is loaded onto it. Says whether there was anything.
pub(crate) fn check_pinned(pins: &Pins) -> Result<bool, Error> {
    match pinned_layout(pins)? {
        None => match pins.map_names()?.into_iter().next() {
            None => return Ok(false),
            Some(example) => return Err(Error::Foreign { dir: pins.dir().to_owned(), example }),
        },
        Some(abi::LAYOUT_VERSION) => {}
        Some(found) => {
            return Err(Error::Layout { dir: pins.dir().to_owned(), found, known: abi::LAYOUT_VERSION });
        }
    }
    for spec in abi::MAPS {
        let Some(fd) = pins.open(&pins.map(spec.name))? else { continue };
        let info = sys::map_info(&fd).map_err(Error::refused(format!("read the map {}", spec.name)))?;
        let shape = |kind, key, value| format!("kind {kind}, keys of {key}, values of {value} bytes");
        let found = shape(info.kind, info.key_size, info.value_size);
        let expected = shape(kind_number(spec.kind), spec.key_size, spec.value_size);
        if found != expected {
            return Err(Error::Shape { dir: pins.dir().to_owned(), name: spec.name, found, expected });
        }
    }
    Ok(true)
}

/// Creates the map that says of which layout the others are, before any of them.
pub(crate) fn write_layout(pins: &Pins) -> Result<(), Error> {
    let spec = &abi::LAYOUT;
    let make = || {
        let fd = sys::map_create(
            spec.name,
            kind_number(spec.kind),
            spec.key_size,
            spec.value_size,
            spec.max_entries,
        )?;
        sys::map_update(&fd, &0u32.to_ne_bytes(), &abi::LAYOUT_VERSION.to_ne_bytes())?;
        sys::pin(&fd, &pins.map(spec.name))
    };
    make().map_err(Error::refused("create the map layout"))
}

fn pinned_layout(pins: &Pins) -> Result<Option<u32>, Error> {
    let Some(fd) = pins.open(&pins.map(abi::LAYOUT.name))? else { return Ok(None) };
    let read = || {
        let MapInfo { kind, key_size, value_size, .. } = sys::map_info(&fd)?;
        let mut value = [0; 4];
        // Whatever has another shape is of a layout that nobody knows.
        if (kind, key_size, value_size) == (sys::MAP_TYPE_ARRAY, 4, 4) {
            sys::map_lookup(&fd, &0u32.to_ne_bytes(), &mut value)?;
        }
        Ok(u32::from_ne_bytes(value))
    };
    read().map(Some).map_err(Error::refused("read the map layout"))
}

/// Numbers of `enum bpf_map_type`.
fn kind_number(kind: MapKind) -> u32 {
    match kind {
        MapKind::Hash => 1,
        MapKind::Array => sys::MAP_TYPE_ARRAY,
        MapKind::PerCpuHash => 5,
        MapKind::PerCpuArray => 6,
        MapKind::LruHash => 9,
        MapKind::LpmTrie => 11,
        MapKind::HashOfArrays => 13,
    }
}
