//! A thread that lives in a network namespace and connects from there.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Runs `work` on a thread of its own in that namespace.
///
/// # Errors
/// When the namespace cannot be entered; what `work` says.
pub fn within<T: Send>(
    namespace: &Path,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let file = File::open(namespace).with_context(|| format!("opening {}", namespace.display()))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: setns changes the calling thread alone, which ends with this closure.
            if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(std::io::Error::last_os_error()).context("entering the namespace");
            }
            work()
        });
        thread.join().unwrap_or_else(|_| bail!("the measuring thread ended early"))
    })
}

/// Asks an echo server who it is.
pub fn greeting(address: SocketAddr) -> std::io::Result<String> {
    // What is asked too early is lost, and would be asked again by TCP after a second.
    let stream = TcpStream::connect_timeout(&address, Duration::from_millis(5))?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.split_whitespace().next().unwrap_or_default().to_owned())
}

/// How long after `since` a new connection to `address` is answered by `name`.
///
/// # Errors
/// When it is not within `patience`.
pub fn until(
    address: SocketAddr,
    name: &str,
    since: Instant,
    patience: Duration,
) -> anyhow::Result<Duration> {
    let mut last = String::from("nothing");
    while since.elapsed() < patience {
        match greeting(address) {
            Ok(seen) if seen == name => return Ok(since.elapsed()),
            Ok(other) => last = other,
            Err(error) => last = error.to_string(),
        }
    }
    bail!("{address} was not answered by {name} within {} s, but by: {last}", patience.as_secs())
}

/// The body of `http://address/path`, asked from the calling thread's namespace; an answer but 200 is an error.
pub fn page(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(500))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    if head.split_whitespace().nth(1) != Some("200") {
        bail!("{}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}
