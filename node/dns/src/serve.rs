//! Sockets: threads that answer datagrams in batches, tasks that answer connections.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::SocketType;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::answer::{Area, Dice};
use crate::datagram::{Batch, Datagrams, open};
use crate::message::{HEADER, Rcode};
use crate::metrics::{Metrics, Path};
use crate::resolve::{First, Resolver, Transport};

/// Connections served at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 512;
/// A connection without a query for so long is closed, and so is one that does not take its answer.
const IDLE: Duration = Duration::from_secs(10);
/// Most threads for one address.
const MAX_THREADS: usize = 4;

/// Bound sockets, not yet served: what comes in waits.
#[derive(Default)]
pub struct Sockets {
    datagrams: Vec<Arc<Datagrams>>,
    listeners: Vec<StdListener>,
    /// A parent holds them too.
    shared: bool,
}

/// An address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("listening on {address} ({protocol}): {source}")]
pub struct ListenError {
    /// Which.
    pub address: SocketAddr,
    /// UDP or TCP.
    pub protocol: &'static str,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl Sockets {
    /// Binds every address for UDP, once for each thread, and TCP.
    ///
    /// # Errors
    /// [`ListenError`]; but where the machine has no IPv6, an unspecified IPv6 address beside an IPv4 one is left out
    /// with a word in the log.
    pub fn bind(addresses: &[SocketAddr]) -> Result<Sockets, ListenError> {
        let mut sockets = Sockets::default();
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        for address in addresses {
            let beside_v4 = addresses.iter().any(SocketAddr::is_ipv4) && address.ip().is_unspecified();
            match sockets.bind_one(*address, threads) {
                Ok(()) => {}
                Err(error) if address.is_ipv6() && beside_v4 && is_absent(&error.source) => {
                    tracing::info!(%address, "this machine has no IPv6: serving IPv4 only");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(sockets)
    }

    /// Takes the sockets that a parent bound.
    #[must_use]
    pub fn inherit(datagrams: Vec<OwnedFd>, listeners: Vec<OwnedFd>) -> Sockets {
        let datagrams = datagrams.into_iter().map(|socket| Arc::new(Datagrams::from_socket(socket)));
        let listeners = listeners.into_iter().map(StdListener::from);
        Sockets { datagrams: datagrams.collect(), listeners: listeners.collect(), shared: true }
    }

    /// The sockets alone, UDP and TCP, to hand them on.
    #[must_use]
    pub fn into_parts(self) -> (Vec<OwnedFd>, Vec<OwnedFd>) {
        let datagrams = self.datagrams.into_iter().filter_map(Arc::into_inner).map(Datagrams::into_socket);
        (datagrams.collect(), self.listeners.into_iter().map(OwnedFd::from).collect())
    }

    fn bind_one(&mut self, address: SocketAddr, threads: usize) -> Result<(), ListenError> {
        let failed = |protocol| move |source| ListenError { address, protocol, source };
        // TCP first: when port 0 lets the system choose, UDP follows it.
        let listener = listen(address).map_err(failed("TCP"))?;
        let bound = listener.local_addr().map_err(failed("TCP"))?;
        let made: Result<Vec<_>, _> = (0..threads).map(|_| Datagrams::bind(bound).map(Arc::new)).collect();
        self.datagrams.extend(made.map_err(failed("UDP"))?);
        self.listeners.push(listener);
        Ok(())
    }

    /// The addresses that are served.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Serves until `shutdown` is cancelled.
    ///
    /// # Errors
    /// When a thread cannot be started or a listener cannot be waited on.
    pub async fn serve(
        self,
        resolver: Resolver,
        metrics: Arc<Metrics>,
        shutdown: CancellationToken,
    ) -> io::Result<()> {
        let stop = shutdown.child_token();
        let _stop_all = stop.clone().drop_guard();
        let mut threads = Vec::new();
        for (number, socket) in self.datagrams.iter().enumerate() {
            let worker = Worker {
                socket: socket.clone(),
                resolver: resolver.clone(),
                metrics: metrics.clone(),
                runtime: tokio::runtime::Handle::current(),
                stop: stop.clone(),
            };
            let named = std::thread::Builder::new().name(format!("dns-udp-{number}")).stack_size(256 << 10);
            threads.push(named.spawn(move || worker.run())?);
        }
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        for listener in self.listeners {
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            let connections = Connections {
                resolver: resolver.clone(),
                metrics: metrics.clone(),
                permits: permits.clone(),
            };
            tokio::spawn(stop.clone().run_until_cancelled_owned(connections.accept(listener)));
        }
        shutdown.cancelled().await;
        stop.cancel();
        if self.shared {
            // Waking the threads would close the sockets for the next child as well: the process ends under them.
            return Ok(());
        }
        self.datagrams.iter().for_each(|socket| socket.wake());
        tokio::task::block_in_place(|| {
            // A thread that panicked has said so.
            threads.into_iter().for_each(|thread| drop(thread.join()));
        });
        Ok(())
    }
}

fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let socket: OwnedFd = open(address, SocketType::STREAM)?;
    rustix::net::listen(&socket, 1024)?;
    Ok(socket.into())
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// One thread and its socket.
struct Worker {
    socket: Arc<Datagrams>,
    resolver: Resolver,
    metrics: Arc<Metrics>,
    runtime: tokio::runtime::Handle,
    stop: CancellationToken,
}

impl Worker {
    fn run(self) {
        let (mut batch, mut dice) = (Batch::default(), Dice::default());
        // Buffers of answers, used again and again.
        let (mut answers, mut spare) = (Vec::new(), Vec::<Vec<u8>>::new());
        while !self.stop.is_cancelled() {
            match self.socket.receive(&mut batch) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::warn!(%error, "a datagram could not be received");
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                }
            }
            let start = Instant::now();
            {
                let zone = self.resolver.zone.read();
                for (query, peer) in batch.iter() {
                    let mut out = spare.pop().unwrap_or_default();
                    match self.resolver.first(&zone, query, Transport::Udp, start, &mut dice, &mut out) {
                        First::Answered(area, kind, rcode) => {
                            self.metrics.answered(area, kind, rcode);
                            answers.push((out, *peer));
                        }
                        First::Ignored => spare.push(out),
                        First::Slow => {
                            spare.push(out);
                            self.later(query.to_vec(), *peer, start);
                        }
                    }
                }
            }
            self.socket.send(&answers);
            self.metrics.took(Path::Memory, start.elapsed(), answers.len() as u64);
            spare.extend(answers.drain(..).map(|(octets, _)| octets));
        }
    }

    fn later(&self, query: Vec<u8>, peer: crate::datagram::Peer, start: Instant) {
        let (socket, resolver, metrics) = (self.socket.clone(), self.resolver.clone(), self.metrics.clone());
        self.runtime.spawn(async move {
            if let Some((octets, area, kind, rcode)) = resolver.finish(&query, Transport::Udp).await {
                socket.send(&[(octets, peer)]);
                metrics.answered(area, kind, rcode);
                metrics.took(Path::Upstream, start.elapsed(), 1);
            }
        });
    }
}

/// Connections of one listener.
struct Connections {
    resolver: Resolver,
    metrics: Arc<Metrics>,
    permits: Arc<Semaphore>,
}

impl Connections {
    async fn accept(self, listener: TcpListener) {
        // The semaphore is never closed.
        while let Ok(permit) = self.permits.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let (resolver, metrics) = (self.resolver.clone(), self.metrics.clone());
                    tokio::spawn(async move {
                        if let Err(error) = converse(stream, &resolver, &metrics).await {
                            tracing::debug!(%error, %peer, "a connection ended");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }
}

/// Answers the queries of one connection in their order (RFC 7766).
async fn converse(mut stream: TcpStream, resolver: &Resolver, metrics: &Metrics) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut query, mut dice) = (Vec::new(), Dice::default());
    loop {
        match tokio::time::timeout(IDLE, read_query(&mut stream, &mut query)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) | Err(_) => return Ok(()),
            Ok(Err(error)) => return Err(error),
        }
        let start = Instant::now();
        let mut out = Vec::new();
        let first = {
            let zone = resolver.zone.read();
            resolver.first(&zone, &query, Transport::Tcp, start, &mut dice, &mut out)
        };
        let (path, told): (Path, (Area, u16, Rcode)) = match first {
            First::Answered(area, kind, rcode) => (Path::Memory, (area, kind, rcode)),
            First::Ignored => return Ok(()),
            First::Slow => match resolver.finish(&query, Transport::Tcp).await {
                Some((octets, area, kind, rcode)) => {
                    out = octets;
                    (Path::Upstream, (area, kind, rcode))
                }
                None => return Ok(()),
            },
        };
        metrics.answered(told.0, told.1, told.2);
        metrics.took(path, start.elapsed(), 1);
        let length = u16::try_from(out.len()).map_err(io::Error::other)?;
        out.splice(0..0, length.to_be_bytes());
        tokio::time::timeout(IDLE, stream.write_all(&out)).await??;
    }
}

/// Reads one query; false at the end of the connection, or when what comes is too short to be one.
async fn read_query(stream: &mut TcpStream, query: &mut Vec<u8>) -> io::Result<bool> {
    let length = match stream.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    };
    if length < HEADER {
        return Ok(false);
    }
    query.resize(length, 0);
    stream.read_exact(query).await?;
    Ok(true)
}
