//! The parent that holds the sockets and runs the server as its child, started again whenever it ends. Queries wait in
//! the sockets meanwhile: a server that crashes, or is killed, is a pause for clients and no failure.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::io::FdFlags;
use rustix::process::Signal;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// Environment variable that tells the child its sockets: file descriptors, comma-separated, UDP before `/`, TCP after.
pub const SOCKETS: &str = "FAIRLEAD_DNS_SOCKETS";
/// A server that ran this long starts again at once.
const STEADY: Duration = Duration::from_secs(5);
/// Pauses before a server that keeps ending is started again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long the server has to end by itself.
const GRACE: Duration = Duration::from_secs(2);

/// Runs this program again, with the same arguments and these sockets, until `shutdown` is cancelled.
///
/// # Errors
/// When the program cannot be found or the sockets cannot be handed on.
pub async fn run(
    datagrams: &[OwnedFd],
    listeners: &[OwnedFd],
    shutdown: CancellationToken,
) -> io::Result<()> {
    for socket in datagrams.iter().chain(listeners) {
        rustix::io::fcntl_setfd(socket, FdFlags::empty())?;
    }
    let list = |sockets: &[OwnedFd]| {
        let numbers: Vec<_> = sockets.iter().map(|socket| socket.as_raw_fd().to_string()).collect();
        numbers.join(",")
    };
    let sockets = format!("{}/{}", list(datagrams), list(listeners));
    let program = std::env::current_exe()?;
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut pause = Duration::ZERO;
    while !shutdown.is_cancelled() {
        let start = Instant::now();
        let mut command = Command::new(&program);
        command.args(&words).env(SOCKETS, &sockets).stdin(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn()?;
        tokio::select! {
            ended = child.wait() => match ended {
                Ok(status) => tracing::warn!(%status, "the server ended and is started again"),
                Err(error) => tracing::warn!(%error, "the server cannot be waited for and is started again"),
            },
            () = shutdown.cancelled() => {
                stop(&mut child).await;
                return Ok(());
            }
        }
        pause = if start.elapsed() >= STEADY {
            Duration::ZERO
        } else {
            (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE)
        };
        // Also the end of a wait that the signal cuts short.
        let _ = tokio::time::timeout(pause, shutdown.cancelled()).await;
    }
    Ok(())
}

async fn stop(child: &mut Child) {
    let number = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = number {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(GRACE, child.wait()).await.is_err()
        && let Err(error) = child.kill().await
    {
        tracing::warn!(%error, "the server could not be ended");
    }
}

/// The sockets that a parent handed on, UDP and TCP; None when there is no parent.
///
/// # Errors
/// When the variable does not name open sockets.
pub fn inherited() -> io::Result<Option<(Vec<OwnedFd>, Vec<OwnedFd>)>> {
    let Some(text) = std::env::var_os(SOCKETS) else { return Ok(None) };
    // Without the parent nobody would start this process again, and its successor would wait for the port.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let text = text.to_string_lossy();
    let (datagrams, listeners) = text.split_once('/').ok_or_else(|| not_sockets(&text))?;
    let take = |list: &str| -> io::Result<Vec<OwnedFd>> {
        let words = list.split(',').filter(|word| !word.is_empty());
        words.map(|word| take(word.parse().map_err(|_| not_sockets(&text))?)).collect()
    };
    Ok(Some((take(datagrams)?, take(listeners)?)))
}

fn not_sockets(text: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{SOCKETS}={text} names no sockets: it is not for users to set"),
    )
}

fn take(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(not_sockets(&number.to_string()));
    }
    // SAFETY: the descriptor is only borrowed to ask about it; a closed one gives an error and no other effect.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::net::getsockname(borrowed)?;
    rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    // SAFETY: it is an open socket that the parent handed on for this process to own, taken once at the start, before
    // anything else could have opened a descriptor that was named here.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
