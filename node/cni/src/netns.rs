//! Work inside another network namespace, on a thread of its own.

use std::{
    fs::File,
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::Path,
};

/// Socket option that reads the cookie of the socket's network namespace (linux/socket.h, since 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Opens a network namespace by path, such as `/proc/PID/ns/net`.
///
/// # Errors
/// What opening the file gives.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(File::open(path)?.into())
}

/// Runs `work` on a new thread that has entered `namespace`; the caller's own namespace does not change.
///
/// # Errors
/// When the thread cannot be made, or the kernel refuses entry (CAP_SYS_ADMIN).
pub fn within<T: Send>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
            enter(namespace)?;
            Ok(work())
        })?;
        worker.join().unwrap_or_else(|_| Err(io::Error::other("the thread inside the namespace failed")))
    })
}

/// Moves the calling thread, and threads it makes later, into `namespace` for good.
///
/// # Errors
/// When the kernel refuses (CAP_SYS_ADMIN) or the descriptor is no network namespace.
pub fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns takes a descriptor and a flag and touches no memory of ours; the descriptor is borrowed, so open.
    if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Cookie of the calling thread's network namespace: the number `bpf_get_netns_cookie` gives in the kernel.
///
/// # Errors
/// When the kernel is older than 5.14 or no socket can be made.
pub fn cookie() -> io::Result<u64> {
    // SAFETY: socket() takes three integers; the result is checked before it is owned.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `raw` was just returned by socket() and is owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let mut cookie: u64 = 0;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, which is that long, and the new length to `length`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result != 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}
