//! The few bpf(2) commands that are called directly: map access by bytes (also in batches), pins, and links.
//!
//! Links are driven here rather than through the loader because a cgroup link cannot be replaced through it, and one
//! way serves tcx and cgroup links alike.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const MAP_LOOKUP_BATCH: libc::c_int = 24;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const LINK_GET_FD_BY_ID: libc::c_int = 30;

/// Longest key of any map, and so the space for a batch's position.
const MAX_KEY: usize = 128;

/// `union bpf_attr` (linux/bpf.h); every command here uses less, and the rest must be zero.
#[repr(C, align(8))]
struct Attributes([u8; 128]);

impl Attributes {
    fn new() -> Self {
        Attributes([0; 128])
    }

    fn word(mut self, at: usize, value: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn long(mut self, at: usize, value: u64) -> Self {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn descriptor(self, at: usize, fd: BorrowedFd<'_>) -> Self {
        self.word(at, fd.as_raw_fd() as u32)
    }
}

/// Calls bpf(2).
///
/// # Safety
/// Every address in `attributes` must point to memory that the command may read or write as far as it does.
unsafe fn bpf(command: libc::c_int, attributes: &mut Attributes) -> io::Result<i64> {
    // SAFETY: the attributes are ours and as long as stated; what they point to is the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.0.as_mut_ptr(), attributes.0.len()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn descriptor(result: i64) -> io::Result<OwnedFd> {
    let raw = i32::try_from(result).map_err(|_| io::Error::other("descriptor out of range"))?;
    // SAFETY: the kernel has just returned this descriptor to us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn path_bytes(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Opens what is pinned at `path`.
///
/// # Errors
/// ENOENT when nothing is.
pub fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = path_bytes(path)?;
    let mut attributes = Attributes::new().long(0, path.as_ptr() as u64);
    // SAFETY: the path is a zero-terminated string that lives across the call.
    descriptor(unsafe { bpf(OBJ_GET, &mut attributes) }?)
}

/// Pins a map or link at `path`.
///
/// # Errors
/// EEXIST when something is pinned there.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = path_bytes(path)?;
    let mut attributes = Attributes::new().long(0, path.as_ptr() as u64).descriptor(8, object);
    // SAFETY: the path is a zero-terminated string that lives across the call.
    unsafe { bpf(OBJ_PIN, &mut attributes) }.map(drop)
}

/// Where a program can be attached.
#[derive(Clone, Copy, Debug)]
pub enum Hook<'a> {
    /// tcx on an interface of the calling thread's network namespace (since 6.6).
    Tcx {
        /// Number of the interface.
        ifindex: u32,
        /// Packets that come in through it, or those that leave.
        ingress: bool,
    },
    /// The driver of an interface of the calling thread's network namespace (since 5.9).
    Xdp {
        /// Number of the interface.
        ifindex: u32,
    },
    /// A hook of a cgroup.
    Cgroup {
        /// The cgroup's directory.
        directory: BorrowedFd<'a>,
        /// `enum bpf_attach_type`.
        attach_type: u32,
    },
    /// The sockets of a map (since 6.10).
    Sockets {
        /// The map.
        map: BorrowedFd<'a>,
        /// `enum bpf_attach_type`.
        attach_type: u32,
    },
}

/// Attaches a program and gives the link that holds it.
///
/// # Errors
/// What the kernel says: ENODEV for an interface that is gone, EINVAL for a program of another kind.
pub fn attach(program: BorrowedFd<'_>, hook: Hook<'_>) -> io::Result<OwnedFd> {
    const TCX_INGRESS: u32 = 46;
    const TCX_EGRESS: u32 = 47;
    const XDP: u32 = 37;
    // Never the kernel's own substitute for a driver, which comes after the `skb` and gains nothing.
    const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
    let attributes = Attributes::new().descriptor(0, program);
    let mut attributes = match hook {
        Hook::Tcx { ifindex, ingress } => {
            attributes.word(4, ifindex).word(8, if ingress { TCX_INGRESS } else { TCX_EGRESS })
        }
        Hook::Xdp { ifindex } => attributes.word(4, ifindex).word(8, XDP).word(12, XDP_FLAGS_DRV_MODE),
        Hook::Cgroup { directory: target, attach_type } | Hook::Sockets { map: target, attach_type } => {
            attributes.descriptor(4, target).word(8, attach_type)
        }
    };
    // SAFETY: this command takes no addresses in the form used here.
    descriptor(unsafe { bpf(LINK_CREATE, &mut attributes) }?)
}

/// Puts another program in the place of the one a link holds; no packet sees neither.
///
/// # Errors
/// ENOLINK when what it was attached to is gone.
pub fn replace(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = Attributes::new().descriptor(0, link).descriptor(4, program);
    // SAFETY: this command takes no addresses.
    unsafe { bpf(LINK_UPDATE, &mut attributes) }.map(drop)
}

/// Number of what a link is attached to: of the interface for tcx and XDP (0 when that is gone), of the map for sockets.
///
/// # Errors
/// When the descriptor is no link.
pub fn link_target(link: BorrowedFd<'_>) -> io::Result<u32> {
    // The first fields of struct bpf_link_info: type, id, prog_id, then after four bytes the target and attach type.
    let mut info = [0_u32; 32];
    object_info(link, &mut info)?;
    Ok(info[4])
}

/// The kernel's number of a map.
///
/// # Errors
/// When the descriptor is no map.
pub fn map_id(map: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = [0_u32; 32];
    object_info(map, &mut info)?;
    Ok(info[1])
}

/// The kernel's number of a link.
///
/// # Errors
/// When the descriptor is no link.
pub fn link_id(link: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = [0_u32; 32];
    object_info(link, &mut info)?;
    Ok(info[1])
}

/// Whether the kernel has a link of that number.
///
/// # Errors
/// What the kernel says otherwise (CAP_SYS_ADMIN).
pub fn link_exists(id: u32) -> io::Result<bool> {
    let mut attributes = Attributes::new().word(0, id);
    // SAFETY: this command takes no addresses.
    match unsafe { bpf(LINK_GET_FD_BY_ID, &mut attributes) } {
        Ok(result) => descriptor(result).map(|_| true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn object_info(object: BorrowedFd<'_>, info: &mut [u32; 32]) -> io::Result<()> {
    let mut attributes = Attributes::new()
        .descriptor(0, object)
        .word(4, size_of_val(info) as u32)
        .long(8, info.as_mut_ptr() as u64);
    // SAFETY: the kernel writes at most the stated length to `info`.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attributes) }.map(drop)
}

/// Sizes of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapInfo {
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries it can hold.
    pub max_entries: u32,
}

/// Asks the kernel for the sizes of a map.
///
/// # Errors
/// When the descriptor is no map.
pub fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    // The first fields of struct bpf_map_info: type, id, key_size, value_size, max_entries.
    let mut info = [0_u32; 32];
    object_info(map, &mut info)?;
    Ok(MapInfo { key_size: info[2], value_size: info[3], max_entries: info[4] })
}

fn element(map: BorrowedFd<'_>, key: *const u8, value: *const u8) -> Attributes {
    Attributes::new().descriptor(0, map).long(8, key as u64).long(16, value as u64)
}

/// Reads the value of a key into `value`, which must be as long as the map's values are (for a per-CPU map, that times
/// the possible CPUs). False when there is none.
///
/// # Errors
/// What the kernel says.
pub fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attributes = element(map, key.as_ptr(), value.as_mut_ptr());
    // SAFETY: callers hold keys and values as long as the map says, which `Table::open` has compared.
    match unsafe { bpf(MAP_LOOKUP_ELEM, &mut attributes) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes the value of a key, whether there is one or not.
///
/// # Errors
/// E2BIG or ENOSPC when the map is full.
pub fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attributes = element(map, key.as_ptr(), value.as_ptr());
    // SAFETY: callers hold keys and values as long as the map says, which `Table::open` has compared.
    unsafe { bpf(MAP_UPDATE_ELEM, &mut attributes) }.map(drop)
}

/// Writes the value of a key unless there is one; false when there is.
///
/// # Errors
/// E2BIG or ENOSPC when the map is full.
pub fn insert(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<bool> {
    const NOEXIST: u64 = 1;
    let mut attributes = element(map, key.as_ptr(), value.as_ptr()).long(24, NOEXIST);
    // SAFETY: callers hold keys and values as long as the map says.
    match unsafe { bpf(MAP_UPDATE_ELEM, &mut attributes) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a key; false when it is not there.
///
/// # Errors
/// What the kernel says.
pub fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    let mut attributes = element(map, key.as_ptr(), std::ptr::null());
    // SAFETY: callers hold keys as long as the map says, which `Table::open` has compared.
    match unsafe { bpf(MAP_DELETE_ELEM, &mut attributes) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads every entry in batches (kernel 5.6 and later; tries since 5.13). `each` gets keys and values back to back.
/// Entries that come and go meanwhile may or may not be seen.
///
/// # Errors
/// What the kernel says.
pub fn entries(map: BorrowedFd<'_>, info: MapInfo, mut each: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
    let (key_size, value_size) = (info.key_size as usize, info.value_size as usize);
    let mut batch = 4096_usize.min(info.max_entries.max(1) as usize);
    let mut keys = vec![0; batch * key_size];
    let mut values = vec![0; batch * value_size];
    let (mut position, mut next) = ([0_u8; MAX_KEY], [0_u8; MAX_KEY]);
    let mut started = false;
    loop {
        let mut attributes = Attributes::new()
            .long(0, if started { position.as_ptr() as u64 } else { 0 })
            .long(8, next.as_mut_ptr() as u64)
            .long(16, keys.as_mut_ptr() as u64)
            .long(24, values.as_mut_ptr() as u64)
            .word(32, batch as u32)
            .descriptor(36, map);
        // SAFETY: keys and values have room for `batch` entries of the map's own sizes; positions for any key.
        let result = unsafe { bpf(MAP_LOOKUP_BATCH, &mut attributes) };
        let count =
            u32::from_ne_bytes([attributes.0[32], attributes.0[33], attributes.0[34], attributes.0[35]]);
        let done = match result {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            // One bucket holds more than the batch: the same place again with more room.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && batch < 1 << 20 => {
                batch *= 2;
                keys.resize(batch * key_size, 0);
                values.resize(batch * value_size, 0);
                continue;
            }
            Err(error) => return Err(error),
        };
        let count = (count as usize).min(batch);
        for (key, value) in keys.chunks_exact(key_size).zip(values.chunks_exact(value_size)).take(count) {
            each(key, value);
        }
        if done || count == 0 {
            return Ok(());
        }
        (position, started) = (next, true);
    }
}

/// How many CPUs a per-CPU value has slots for.
///
/// # Errors
/// When /sys does not say.
pub fn possible_cpus() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit([',', '-']).next().and_then(|last| last.parse::<usize>().ok());
    last.map(|last| last + 1).ok_or_else(|| io::Error::other(format!("possible CPUs {text:?} do not parse")))
}
