//! Loads the object file: maps are found where they are pinned or made and pinned there, programs are checked by the
//! kernel and kept by descriptor until they are attached.

use std::{
    collections::HashMap,
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, RingBuf},
    programs::Program,
};
use fairlead_abi::{map, program};

use super::{LinkError, btf::Types};

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

/// The hook at which sockets change their state (`BPF_CGROUP_SOCK_OPS`, since 4.13).
pub const SOCK_OPS: u32 = 3;

/// The hook at which sockets of a map send (`BPF_SK_MSG_VERDICT`, since 4.17).
pub const SK_MSG_VERDICT: u32 = 7;

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

/// What is loaded only when it is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Sockets are spliced.
    pub splice: bool,
    /// The uplink's driver may run a program.
    pub xdp: bool,
}

impl Options {
    fn programs(self) -> impl Iterator<Item = &'static str> {
        let splice = [program::SPLICE_ENTER, program::SPLICE_SEND].into_iter().filter(move |_| self.splice);
        splice.chain(self.xdp.then_some(program::FROM_WIRE))
    }
}

/// Programs that the kernel has accepted.
pub struct Programs {
    descriptors: HashMap<&'static str, OwnedFd>,
    object: PathBuf,
    flows: Option<RingBuf<MapData>>,
    /// The sockets that are spliced, if any may be.
    splices: Option<OwnedFd>,
}

impl Programs {
    /// Loads `object` with its maps pinned in `maps`.
    ///
    /// # Errors
    /// [`LinkError`]
    pub fn load(object: &Path, maps: &Path, sizes: Sizes, options: Options) -> Result<Self, LinkError> {
        let splice = options.splice;
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
        let fields = if splice { sock_fields()? } else { [0; 4] };
        loader.override_global(SOCK_FIELDS, &fields[..], splice);
        for name in map::OF_SPLICING {
            let path = maps.join(name);
            if splice {
                loader.map_pin_path(name, path).map_max_entries(name, sizes.flows / 4);
            } else {
                unpin(&path)?;
            }
        }
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
        for name in options.programs() {
            let missing = || LinkError::Missing { object: object.to_owned(), missing: name };
            let found = ebpf.program_mut(name).ok_or_else(missing)?;
            descriptors.insert(name, load_one(name, found)?);
        }
        let splices = if splice { Some(sockets(&ebpf, object)?) } else { None };
        let missing = LinkError::Missing { object: object.to_owned(), missing: map::FLOWS };
        let flows = ebpf.take_map(map::FLOWS).ok_or(missing)?;
        let flows = RingBuf::try_from(flows).map_err(|error| load_error(error.into()))?;
        Ok(Programs { descriptors, object: object.to_owned(), flows: Some(flows), splices })
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

    /// The map of spliced sockets, if there are to be any.
    #[must_use]
    pub fn splices(&self) -> Option<BorrowedFd<'_>> {
        self.splices.as_ref().map(AsFd::as_fd)
    }

    /// The ring buffer of drop records; only the first caller gets it.
    pub fn take_flows(&mut self) -> Option<RingBuf<MapData>> {
        self.flows.take()
    }
}

/// The global of the programs that says where a socket has its fields.
const SOCK_FIELDS: &str = "SOCK_FIELDS";

/// Where this kernel has what splicing must know of a socket, in the order that the programs want it.
fn sock_fields() -> Result<[u32; 4], LinkError> {
    let read = || {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        if !bounds_splices(&release) {
            let text =
                format!("Linux {} does not count what waits in a spliced socket; 6.13 does", release.trim());
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let types = Types::of_kernel()?;
        Ok([
            types.offset("tcp_sock", &["write_seq"])?,
            types.offset("tcp_sock", &["copied_seq"])?,
            types.offset("sock", &["sk_backlog", "rmem_alloc"])?,
            types.offset("sock", &["sk_rcvbuf"])?,
        ])
    };
    read().map_err(|source: io::Error| LinkError::Program {
        program: program::SPLICE_SEND,
        source: source.into(),
    })
}

/// Whether a kernel counts spliced bytes in the receive buffer of their reader, without which nothing bounds them.
fn bounds_splices(release: &str) -> bool {
    let mut numbers = release.split(|byte: char| !byte.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6, 13),
        _ => false,
    }
}

fn sockets(ebpf: &Ebpf, object: &Path) -> Result<OwnedFd, LinkError> {
    let missing = || LinkError::Missing { object: object.to_owned(), missing: map::SPLICES };
    let Some(Map::SockHash(data)) = ebpf.map(map::SPLICES) else { return Err(missing()) };
    let load_error = |error: io::Error| LinkError::Load { object: object.to_owned(), source: error.into() };
    data.fd().as_fd().try_clone_to_owned().map_err(load_error)
}

fn unpin(path: &Path) -> Result<(), LinkError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(LinkError::Pin { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn load_one(name: &'static str, program: &mut Program) -> Result<OwnedFd, LinkError> {
    let failed =
        |source: Box<dyn std::error::Error + Send + Sync>| LinkError::Program { program: name, source };
    match program {
        Program::SchedClassifier(classifier) => classifier.load(),
        Program::CgroupSockAddr(sock_addr) => sock_addr.load(),
        Program::CgroupSock(sock) => sock.load(),
        Program::SockOps(sock_ops) => sock_ops.load(),
        Program::SkMsg(sk_msg) => sk_msg.load(),
        Program::Xdp(xdp) => xdp.load(),
        _ => return Err(failed("is of an unexpected kind".into())),
    }
    .map_err(|error| failed(error.into()))?;
    let fd = program.fd().map_err(|error| failed(error.into()))?;
    fd.as_fd().try_clone_to_owned().map_err(|error| failed(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_bound_what_is_spliced_are_known_by_their_release() {
        for (release, expected) in [
            ("6.18.44-fc-v657\n", true),
            ("6.13.0", true),
            ("7.0-rc1", true),
            ("6.12.9", false),
            ("5.15", false),
            ("x", false),
        ] {
            assert_eq!(bounds_splices(release), expected, "{release}");
        }
    }
}
