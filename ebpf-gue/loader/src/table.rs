//! Maps with types: keys and values of `epic-abi`, read and written by value.
//!
//! Every call is one system call, takes effect at once and is atomic for the entry (hash maps), so all methods take
//! `&self` and tables may be used by several threads. Nothing is cached.

use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::OwnedFd;

use aya::Pod;
use epic_abi::maps::MapSpec;
use parking_lot::Mutex;

use crate::error::Error;
use crate::sys;

/// Entries that are asked for at once when a whole map is read.
const CHUNK: u32 = 1_024;

/// A map with one value for a key.
#[derive(Debug)]
pub struct Table<K, V> {
    name: &'static str,
    fd: OwnedFd,
    capacity: u32,
    /// A map of the same form that gets every write too.
    mirror: Mutex<Option<OwnedFd>>,
    _types: PhantomData<fn(K) -> V>,
}

impl<K: Pod + Ord, V: Pod> Table<K, V> {
    pub(crate) fn new(spec: &MapSpec, fd: OwnedFd) -> Result<Self, Error> {
        debug_assert_eq!(
            (size_of::<K>(), size_of::<V>()),
            (spec.key_size as usize, spec.value_size as usize)
        );
        let capacity = capacity(spec.name, &fd)?;
        Ok(Self { name: spec.name, fd, capacity, mirror: Mutex::default(), _types: PhantomData })
    }

    /// How many entries there may be.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// From now on every write goes to this map too, or to this one alone. It is of the same form.
    pub(crate) fn mirror(&self, other: Option<OwnedFd>) {
        *self.mirror.lock() = other;
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn get(&self, key: &K) -> Result<Option<V>, Error> {
        let mut value = vec![0; size_of::<V>()];
        let found = sys::map_lookup(&self.fd, bytes_of(key), &mut value).map_err(self.refused("read"))?;
        Ok(found.then(|| read::<V>(&value)))
    }

    /// Sets the value of `key`, replacing what was there.
    ///
    /// # Errors
    /// The kernel refused; `E2BIG` when the map is full.
    pub fn set(&self, key: &K, value: &V) -> Result<(), Error> {
        let mirror = self.mirror.lock();
        for map in mirror.iter().chain([&self.fd]) {
            sys::map_update(map, bytes_of(key), bytes_of(value)).map_err(self.refused("write"))?;
        }
        Ok(())
    }

    /// Removes `key`; says whether it was there.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove(&self, key: &K) -> Result<bool, Error> {
        let mirror = self.mirror.lock();
        let mut found = false;
        for map in mirror.iter().chain([&self.fd]) {
            found = sys::map_delete(map, bytes_of(key)).map_err(self.refused("remove from"))?;
        }
        Ok(found)
    }

    /// All entries. Entries that change meanwhile may or may not be among them.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn entries(&self) -> Result<BTreeMap<K, V>, Error> {
        let mut entries = BTreeMap::new();
        each(&self.fd, size_of::<K>(), size_of::<V>(), |key, value| {
            entries.insert(read::<K>(key), read::<V>(value));
        })
        .map_err(self.refused("list"))?;
        Ok(entries)
    }

    /// How many entries there are.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn count(&self) -> Result<usize, Error> {
        count(&self.fd, size_of::<K>(), size_of::<V>()).map_err(self.refused("count"))
    }

    fn refused(&self, verb: &str) -> impl FnOnce(io::Error) -> Error {
        Error::refused(format!("{verb} the map {}", self.name))
    }
}

/// A map in which every CPU has a value of its own, which nobody else writes.
#[derive(Debug)]
pub struct PerCpuTable<K, V> {
    name: &'static str,
    fd: OwnedFd,
    capacity: u32,
    cpus: usize,
    _types: PhantomData<fn(K) -> V>,
}

impl<K: Pod + Ord, V: Pod + Default> PerCpuTable<K, V> {
    pub(crate) fn new(spec: &MapSpec, fd: OwnedFd) -> Result<Self, Error> {
        debug_assert_eq!(
            (size_of::<K>(), size_of::<V>()),
            (spec.key_size as usize, spec.value_size as usize)
        );
        let capacity = capacity(spec.name, &fd)?;
        let cpus = cpus().map_err(Error::refused("read the number of CPUs"))?;
        Ok(Self { name: spec.name, fd, capacity, cpus, _types: PhantomData })
    }

    /// How many entries there may be.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    fn stride() -> usize {
        stride(size_of::<V>())
    }

    /// The values of all CPUs.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn get(&self, key: &K) -> Result<Option<Vec<V>>, Error> {
        let mut values = vec![0; Self::stride() * self.cpus];
        let found = sys::map_lookup(&self.fd, bytes_of(key), &mut values).map_err(self.refused("read"))?;
        Ok(found.then(|| Self::split(&values)))
    }

    /// Creates the entry of `key` with the default value for every CPU, unless it exists.
    ///
    /// # Errors
    /// The kernel refused; `E2BIG` when the map is full.
    pub fn ensure(&self, key: &K) -> Result<(), Error> {
        if self.get(key)?.is_some() {
            return Ok(());
        }
        let mut values = vec![0; Self::stride() * self.cpus];
        for value in values.chunks_mut(Self::stride()) {
            value[..size_of::<V>()].copy_from_slice(bytes_of(&V::default()));
        }
        sys::map_update(&self.fd, bytes_of(key), &values).map_err(self.refused("write"))
    }

    /// Removes `key`; says whether it was there.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove(&self, key: &K) -> Result<bool, Error> {
        sys::map_delete(&self.fd, bytes_of(key)).map_err(self.refused("remove from"))
    }

    /// All entries with the values of all CPUs.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn entries(&self) -> Result<BTreeMap<K, Vec<V>>, Error> {
        let mut entries = BTreeMap::new();
        each(&self.fd, size_of::<K>(), Self::stride() * self.cpus, |key, values| {
            entries.insert(read::<K>(key), Self::split(values));
        })
        .map_err(self.refused("list"))?;
        Ok(entries)
    }

    /// How many entries there are.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn count(&self) -> Result<usize, Error> {
        count(&self.fd, size_of::<K>(), Self::stride() * self.cpus).map_err(self.refused("count"))
    }

    fn split(values: &[u8]) -> Vec<V> {
        values.chunks(Self::stride()).map(|value| read::<V>(&value[..size_of::<V>()])).collect()
    }

    fn refused(&self, verb: &str) -> impl FnOnce(io::Error) -> Error {
        Error::refused(format!("{verb} the map {}", self.name))
    }
}

/// How many entries a map may have.
pub(crate) fn capacity(name: &str, map: &OwnedFd) -> Result<u32, Error> {
    Ok(sys::map_info(map).map_err(Error::refused(format!("read the map {name}")))?.max_entries)
}

/// The kernel pads each CPU's value to eight bytes.
fn stride(value_size: usize) -> usize {
    value_size.next_multiple_of(8)
}

fn cpus() -> io::Result<usize> {
    aya::util::nr_cpus().map_err(|(_, source)| source)
}

/// Bytes of the values of all CPUs.
pub(crate) fn per_cpu(value_size: usize) -> io::Result<usize> {
    Ok(stride(value_size) * cpus()?)
}

/// How many entries a map has. The kernel tells of no map how many it holds.
pub(crate) fn count(map: &OwnedFd, key_size: usize, value_size: usize) -> io::Result<usize> {
    let mut found = 0;
    each(map, key_size, value_size, |_, _| found += 1)?;
    Ok(found)
}

/// Calls `take` with the bytes of every entry.
pub(crate) fn each(
    map: &OwnedFd,
    key_size: usize,
    value_size: usize,
    mut take: impl FnMut(&[u8], &[u8]),
) -> io::Result<()> {
    let mut count = CHUNK;
    // Hash maps keep a bucket number as position, others the last key.
    let mut position = vec![0; key_size.max(4)];
    let mut before: Option<Vec<u8>> = None;
    loop {
        let mut keys = vec![0; key_size * count as usize];
        let mut values = vec![0; value_size * count as usize];
        let read =
            sys::map_lookup_batch(map, before.as_deref(), &mut position, &mut keys, &mut values, count);
        let (found, ended) = match read {
            Ok(read) => read,
            // A bucket of the hash has more entries than there was room for.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && count < u32::MAX / 2 => {
                count *= 2;
                continue;
            }
            Err(error) => return Err(error),
        };
        let pairs = keys.chunks(key_size).zip(values.chunks(value_size));
        pairs.take(found as usize).for_each(|(key, value)| take(key, value));
        if ended {
            return Ok(());
        }
        before = Some(position.clone());
    }
}

/// The bytes of a key or value.
pub(crate) fn bytes_of<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: `Pod` in this crate is implemented for integers and for the structs of `epic-abi`, which are repr(C)
    // without padding (asserted there), so every byte is initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The value that has these bytes.
pub(crate) fn read<T: Pod>(bytes: &[u8]) -> T {
    assert_eq!(bytes.len(), size_of::<T>(), "bytes of another type");
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the lengths are equal, and `Pod` says that any bytes are a value.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), value.as_mut_ptr().cast(), bytes.len());
        value.assume_init()
    }
}
