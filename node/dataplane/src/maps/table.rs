//! One pinned map with the types of its keys and values.

use std::{
    collections::HashMap,
    hash::Hash,
    io,
    marker::PhantomData,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use fairlead_abi::{Addr, RangeKey, RuleKey};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::MapError;
use crate::bpf::{self, MapInfo};

/// What can be a key or a value: any bytes are valid, and there is no padding.
pub trait Wire: FromBytes + IntoBytes + Immutable + Copy {}

impl<T: FromBytes + IntoBytes + Immutable + Copy> Wire for T {}

/// Key of a longest-prefix map of addresses: length in bits, then the data (bpf_lpm_trie_key).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct AddrPrefix {
    /// How many leading bits count.
    pub length: u32,
    /// The address.
    pub addr: Addr,
}

/// Key of the longest-prefix map of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct RulePrefix {
    /// How many leading bits count.
    pub length: u32,
    /// The rule's key.
    pub key: RuleKey,
}

/// Key of the longest-prefix map of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct RangePrefix {
    /// How many leading bits count.
    pub length: u32,
    /// The Service and the client.
    pub key: RangeKey,
}

/// A map of the kernel.
#[derive(Debug)]
pub struct Table<K, V> {
    name: &'static str,
    fd: OwnedFd,
    info: MapInfo,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Wire, V: Wire> Table<K, V> {
    /// Opens the map that is pinned as `name` in `directory`.
    ///
    /// # Errors
    /// When it is not pinned, or its sizes are not those of the types.
    pub fn open(directory: &Path, name: &'static str) -> Result<Self, MapError> {
        let failed = |source| MapError { map: name, action: "opening", source };
        let fd = bpf::pinned(&directory.join(name)).map_err(failed)?;
        let info = bpf::map_info(fd.as_fd()).map_err(failed)?;
        if info.key_size as usize != size_of::<K>() || info.value_size as usize != size_of::<V>() {
            return Err(failed(io::Error::other(format!(
                "its entries are {}+{} bytes, not {}+{}",
                info.key_size,
                info.value_size,
                size_of::<K>(),
                size_of::<V>()
            ))));
        }
        Ok(Table { name, fd, info, types: PhantomData })
    }

    /// Name of the map.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Entries it can hold.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.info.max_entries
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> MapError {
        let map = self.name;
        move |source| MapError { map, action, source }
    }

    /// Value of a key.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn get(&self, key: &K) -> Result<Option<V>, MapError> {
        let mut bytes = vec![0; size_of::<V>()];
        let found =
            bpf::lookup(self.fd.as_fd(), key.as_bytes(), &mut bytes).map_err(self.failed("reading"))?;
        Ok(if found { V::read_from_bytes(&bytes).ok() } else { None })
    }

    /// Writes an entry, in the place of one with the same key.
    ///
    /// # Errors
    /// When the map is full.
    pub fn set(&self, key: &K, value: &V) -> Result<(), MapError> {
        bpf::update(self.fd.as_fd(), key.as_bytes(), value.as_bytes()).map_err(self.failed("writing to"))
    }

    /// Removes an entry; one that is not there is fine.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(&self, key: &K) -> Result<(), MapError> {
        bpf::delete(self.fd.as_fd(), key.as_bytes()).map(drop).map_err(self.failed("removing from"))
    }

    /// Gives every entry to `each`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn for_each(&self, mut each: impl FnMut(K, V)) -> Result<(), MapError> {
        bpf::entries(self.fd.as_fd(), self.info, |key, value| {
            if let (Ok(key), Ok(value)) = (K::read_from_bytes(key), V::read_from_bytes(value)) {
                each(key, value);
            }
        })
        .map_err(self.failed("listing"))
    }
}

impl<K: Wire + Eq + Hash, V: Wire> Table<K, V> {
    /// Every entry.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn entries(&self) -> Result<HashMap<K, V>, MapError> {
        let mut entries = HashMap::new();
        self.for_each(|key, value| {
            entries.insert(key, value);
        })?;
        Ok(entries)
    }
}

/// A per-CPU map of the kernel; every key has one value per possible CPU.
#[derive(Debug)]
pub struct PerCpu<K, V> {
    name: &'static str,
    fd: OwnedFd,
    cpus: usize,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Wire, V: Wire + Default> PerCpu<K, V> {
    /// Opens the map that is pinned as `name` in `directory`.
    ///
    /// # Errors
    /// When it is not pinned, or its sizes are not those of the types.
    pub fn open(directory: &Path, name: &'static str) -> Result<Self, MapError> {
        let table = Table::<K, V>::open(directory, name)?;
        let cpus = bpf::possible_cpus().map_err(|source| MapError {
            map: name,
            action: "counting CPUs for",
            source,
        })?;
        Ok(PerCpu { name, fd: table.fd, cpus, types: PhantomData })
    }

    /// Distance between the values of two CPUs.
    fn stride() -> usize {
        size_of::<V>().next_multiple_of(8)
    }

    /// The key's values, one per CPU; empty when the key is not there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn get(&self, key: &K) -> Result<Vec<V>, MapError> {
        let mut bytes = vec![0; Self::stride() * self.cpus];
        let found = bpf::lookup(self.fd.as_fd(), key.as_bytes(), &mut bytes).map_err(|source| MapError {
            map: self.name,
            action: "reading",
            source,
        })?;
        if !found {
            return Ok(Vec::new());
        }
        Ok(bytes
            .chunks_exact(Self::stride())
            .filter_map(|chunk| V::read_from_prefix(chunk).ok().map(|(value, _)| value))
            .collect())
    }

    /// Adds a key with empty values, unless it is there.
    ///
    /// # Errors
    /// When the map is full.
    pub fn add(&self, key: &K) -> Result<(), MapError> {
        if self.get(key)?.is_empty() {
            let empty = vec![0; Self::stride() * self.cpus];
            return bpf::update(self.fd.as_fd(), key.as_bytes(), &empty).map_err(|source| MapError {
                map: self.name,
                action: "writing to",
                source,
            });
        }
        Ok(())
    }

    /// Removes a key; one that is not there is fine.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(&self, key: &K) -> Result<(), MapError> {
        bpf::delete(self.fd.as_fd(), key.as_bytes()).map(drop).map_err(|source| MapError {
            map: self.name,
            action: "removing from",
            source,
        })
    }
}
