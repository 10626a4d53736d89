//! Loads the object file: maps are found where they are pinned or made and pinned there, programs are checked by the
//! kernel and kept by descriptor until they are attached.

use std::{
    collections::HashMap,
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    EbpfLoader,
    maps::{MapData, RingBuf},
    programs::Program,
};
use fairlead_abi::{map, program};

use super::LinkError;

/// Cgroup hooks: name of the program, and `enum bpf_attach_type` of the hook it is named after.
pub const CGROUP_HOOKS: [(&str, u32); 8] = [
    ("connect4", 10),
    ("connect6", 11),
    ("sendmsg4", 14),
    ("sendmsg6", 15),
    ("recvmsg4", 19),
    ("recvmsg6", 20),
    ("getpeername4", 29),
    ("getpeername6", 30),
];

/// The hook at which a socket ends (`BPF_CGROUP_INET_SOCK_RELEASE`, since 5.9).
const SOCK_RELEASE: (&str, u32) = (program::SOCK_RELEASE, 34);

/// Entries of TABLES: one for each set of backends asked from outside. They take memory only as they are written.
const TABLES: u32 = 16_384;

/// Sizes of the maps whose size depends on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Entries of CONNTRACK; NAT gets as many, and what sockets and clients leave behind a part of it.
    pub flows: u32,
}

impl Sizes {
    /// Sizes for a node with so much memory: one flow per 128 KiB, between 65,536 and 1,048,576.
    #[must_use]
    pub fn for_memory(bytes: u64) -> Self {
        let flows = (bytes / (128 * 1024)).clamp(1 << 16, 1 << 20);
        Sizes { flows: flows as u32 }
    }
}

/// Programs that the kernel has accepted.
pub struct Programs {
    descriptors: HashMap<&'static str, OwnedFd>,
    object: PathBuf,
    flows: Option<RingBuf<MapData>>,
}

impl Programs {
    /// Loads `object` with its maps pinned in `maps`.
    ///
    /// # Errors
    /// [`LinkError`]
    pub fn load(object: &Path, maps: &Path, sizes: Sizes) -> Result<Self, LinkError> {
        fs::create_dir_all(maps).map_err(|source| LinkError::Pin { path: maps.to_owned(), source })?;
        let mut loader = EbpfLoader::new();
        for name in map::PINNED {
            loader.map_pin_path(name, maps.join(name));
        }
        for (name, share) in [
            (map::CONNTRACK, 1),
            (map::NAT, 1),
            (map::SOCKETS, 2),
            (map::AFFINITY, 4),
            (map::LOADS, 4),
            (map::FRAGMENTS, 16),
        ] {
            loader.map_max_entries(name, sizes.flows / share);
        }
        loader.map_max_entries(map::TABLES, TABLES);
        let load_error = |source: Box<dyn std::error::Error + Send + Sync>| LinkError::Load {
            object: object.to_owned(),
            source,
        };
        let bytes = fs::read(object).map_err(|error| load_error(error.into()))?;
        let mut ebpf = loader.load(&bytes).map_err(|error| load_error(error.into()))?;
        let mut descriptors = HashMap::new();
        for name in program::TC.into_iter().chain(program::SOCK_ADDR) {
            let missing = || LinkError::Missing { object: object.to_owned(), missing: name };
            let found = ebpf.program_mut(name).ok_or_else(missing)?;
            descriptors.insert(name, load_one(name, found)?);
        }
        // An object that counts no connections has nothing to do when one ends.
        if let Some(found) = ebpf.program_mut(program::SOCK_RELEASE) {
            descriptors.insert(program::SOCK_RELEASE, load_one(program::SOCK_RELEASE, found)?);
        }
        let missing = LinkError::Missing { object: object.to_owned(), missing: map::FLOWS };
        let flows = ebpf.take_map(map::FLOWS).ok_or(missing)?;
        let flows = RingBuf::try_from(flows).map_err(|error| load_error(error.into()))?;
        Ok(Programs { descriptors, object: object.to_owned(), flows: Some(flows) })
    }

    /// A program by name.
    ///
    /// # Errors
    /// [`LinkError::Missing`] for a name that is not in the ABI's tables.
    pub fn get(&self, name: &'static str) -> Result<BorrowedFd<'_>, LinkError> {
        let missing = || LinkError::Missing { object: self.object.clone(), missing: name };
        self.descriptors.get(name).map(AsFd::as_fd).ok_or_else(missing)
    }

    /// Cgroup hooks that the object has programs for.
    #[must_use]
    pub fn cgroup_hooks(&self) -> Vec<(&'static str, u32)> {
        let release = self.descriptors.contains_key(program::SOCK_RELEASE).then_some(SOCK_RELEASE);
        CGROUP_HOOKS.into_iter().chain(release).collect()
    }

    /// The ring buffer of drop records; only the first caller gets it.
    pub fn take_flows(&mut self) -> Option<RingBuf<MapData>> {
        self.flows.take()
    }
}

fn load_one(name: &'static str, program: &mut Program) -> Result<OwnedFd, LinkError> {
    let failed =
        |source: Box<dyn std::error::Error + Send + Sync>| LinkError::Program { program: name, source };
    match program {
        Program::SchedClassifier(classifier) => classifier.load(),
        Program::CgroupSockAddr(sock_addr) => sock_addr.load(),
        Program::CgroupSock(sock) => sock.load(),
        _ => return Err(failed("is of an unexpected kind".into())),
    }
    .map_err(|error| failed(error.into()))?;
    let fd = program.fd().map_err(|error| failed(error.into()))?;
    fd.as_fd().try_clone_to_owned().map_err(|error| failed(error.into()))
}
