//! From one map layout to the next: what an older agent's programs have written goes into the new maps, so that
//! connections, translations and verdicts survive an upgrade.
//!
//! Each layout has a directory of its own. Policies, endpoints and counters are carried over before the new tables are
//! compared with the maps; flows just before the programs are switched, and those that opened meanwhile just after. Then
//! the other directories go: whatever layout is started next, the only maps it finds are those in use, and it carries
//! over from there if it knows them, or begins with empty ones, written before its own switch.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use fairlead_abi::{ABI_VERSION, map};

use super::MapError;
use crate::bpf::{self, MapInfo};

const DIRECTORY: &str = "maps_v";

/// A layout that this one can read.
#[derive(Debug)]
struct Layout {
    version: u32,
    /// Maps whose entries are other ones; all others are the same byte for byte.
    differ: &'static [&'static str],
}

/// Layout 1 knew no algorithm and no table of a Service, and numbered fragments with 16 bits. Services are written from
/// the API before the switch, and fragments live for seconds.
const LAYOUTS: [Layout; 1] = [Layout { version: 1, differ: &[map::SERVICES, map::FRAGMENTS] }];

/// What the tables compare themselves with. Identities and rules keep their numbers and pods their revisions, so that no
/// established flow is evaluated again for nothing.
const STATE: [&str; 4] = [map::ENDPOINTS, map::BACKENDS, map::IDENTITIES, map::RULES];

/// What each CPU counts for itself.
const COUNTERS: [&str; 3] = [map::DROPS, map::METRICS, map::RULE_HITS];

/// What packets and sockets write.
const FLOWS: [&str; 4] = [map::CONNTRACK, map::NAT, map::AFFINITY, map::SOCKETS];

/// Where the maps of a layout are pinned.
#[must_use]
pub fn directory(pins: &Path, version: u32) -> PathBuf {
    pins.join(format!("{DIRECTORY}{version}"))
}

/// Maps of an older layout that are still in use.
#[derive(Debug)]
pub struct Older {
    directory: PathBuf,
    layout: &'static Layout,
}

/// One map without its types.
struct Raw {
    name: &'static str,
    fd: OwnedFd,
    info: MapInfo,
}

impl Raw {
    fn open(directory: &Path, name: &'static str, cpus: Option<usize>) -> Result<Self, MapError> {
        let failed = |source| MapError { map: name, action: "opening", source };
        let fd = bpf::pinned(&directory.join(name)).map_err(failed)?;
        let mut info = bpf::map_info(fd.as_fd()).map_err(failed)?;
        // Userspace sees the values of all CPUs back to back, each rounded up to eight bytes.
        if let Some(cpus) = cpus {
            info.value_size = info.value_size.next_multiple_of(8) * cpus as u32;
        }
        Ok(Raw { name, fd, info })
    }

    fn failed(&self, action: &'static str) -> impl Fn(io::Error) -> MapError {
        let map = self.name;
        move |source| MapError { map, action, source }
    }

    fn is_like(&self, other: &Raw) -> bool {
        (self.info.key_size, self.info.value_size) == (other.info.key_size, other.info.value_size)
    }

    /// Copies every entry that fits into `to`; gives how many.
    fn copy(&self, to: &Raw, missing_only: bool) -> Result<u64, MapError> {
        let (mut count, mut full) = (0, None);
        bpf::entries(self.fd.as_fd(), self.info, |key, value| {
            let written = if missing_only {
                bpf::insert(to.fd.as_fd(), key, value)
            } else {
                bpf::update(to.fd.as_fd(), key, value).map(|()| true)
            };
            match written {
                Ok(new) => count += u64::from(new),
                Err(error) => full = Some(error),
            }
        })
        .map_err(self.failed("listing the older"))?;
        match full {
            Some(error) => Err(to.failed("carrying over to")(error)),
            None => Ok(count),
        }
    }
}

impl Older {
    /// The newest older layout whose maps are there. This layout's own maps may be there too, when an upgrade was cut
    /// short or undone: the older ones are then those that were used last.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn find(pins: &Path) -> io::Result<Option<Self>> {
        let there = versions(pins)?;
        let known = LAYOUTS.iter().rev().find(|layout| there.contains(&layout.version));
        Ok(known.map(|layout| Older { directory: directory(pins, layout.version), layout }))
    }

    /// Which layout it is.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.layout.version
    }

    /// Carries over what the tables compare themselves with, and counters, to maps that were just made.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn carry_state(&self, to: &Path) -> Result<u64, MapError> {
        let mut count = self.carry(&STATE, to, None, false)?;
        let cpus = bpf::possible_cpus().map_err(|source| MapError {
            map: map::METRICS,
            action: "counting CPUs for",
            source,
        })?;
        count += self.carry(&COUNTERS, to, Some(cpus), false)?;
        Ok(count)
    }

    /// Carries over what packets and sockets have written: everything, or what is not there yet.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn carry_flows(&self, to: &Path, missing_only: bool) -> Result<u64, MapError> {
        self.carry(&FLOWS, to, None, missing_only)
    }

    fn carry(
        &self,
        names: &[&'static str],
        to: &Path,
        cpus: Option<usize>,
        missing_only: bool,
    ) -> Result<u64, MapError> {
        let mut count = 0;
        for name in names.iter().filter(|name| !self.layout.differ.contains(name)) {
            let (old, new) = (Raw::open(&self.directory, name, cpus)?, Raw::open(to, name, cpus)?);
            if !old.is_like(&new) {
                let source = io::Error::other("its entries are not what the layout's number says");
                return Err(old.failed("reading the older")(source));
            }
            count += old.copy(&new, missing_only)?;
        }
        Ok(count)
    }
}

/// Layouts whose maps are there.
fn versions(pins: &Path) -> io::Result<Vec<u32>> {
    let entries = match fs::read_dir(pins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut versions = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number: Option<u32> = name.to_str().and_then(|name| name.strip_prefix(DIRECTORY)?.parse().ok());
        versions.extend(number);
    }
    Ok(versions)
}

/// Unpins the maps of every other layout: no program uses them any more but those of sockets that were spliced, which
/// are told to stop.
///
/// # Errors
/// When a pin cannot be removed.
pub fn remove_others(pins: &Path) -> io::Result<()> {
    for version in versions(pins)?.into_iter().filter(|version| *version != ABI_VERSION) {
        let directory = directory(pins, version);
        withdraw(&directory.join(map::CONFIG))?;
        fs::remove_dir_all(directory)?;
    }
    Ok(())
}

/// Takes the configuration away from programs that cannot be replaced: a socket keeps the program that it was given when
/// it was connected, with its maps, in which policies change no more.
fn withdraw(config: &Path) -> io::Result<()> {
    if !config.exists() {
        return Ok(());
    }
    let fd = bpf::pinned(config)?;
    let size = bpf::map_info(fd.as_fd())?.value_size as usize;
    bpf::update(fd.as_fd(), &0_u32.to_ne_bytes(), &vec![0; size])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_maps_are_found_beside_others() {
        let pins = std::env::temp_dir().join(format!("fairlead-carry-{}", std::process::id()));
        let _ = fs::remove_dir_all(&pins);
        assert!(Older::find(&pins).expect("an answer").is_none(), "there is nothing yet");
        for name in ["maps_v1", "maps_v2", "maps_v99", "links", "maps_vx"] {
            fs::create_dir_all(pins.join(name)).expect("a directory");
        }
        assert_eq!(Older::find(&pins).expect("an answer").map(|older| older.version()), Some(1));
        remove_others(&pins).expect("removed");
        let mut left: Vec<PathBuf> =
            fs::read_dir(&pins).expect("it").map(|entry| entry.expect("one").path()).collect();
        left.sort();
        assert_eq!(left, [pins.join("links"), directory(&pins, ABI_VERSION), pins.join("maps_vx")]);
        fs::remove_dir_all(&pins).expect("removed");
    }

    #[test]
    fn every_older_layout_is_known() {
        let known: Vec<u32> = LAYOUTS.iter().map(|layout| layout.version).collect();
        assert_eq!(known, (1..ABI_VERSION).collect::<Vec<_>>(), "a new layout says what it has in common");
    }
}
