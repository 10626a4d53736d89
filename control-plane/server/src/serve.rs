//! Sockets: accept, TLS, HTTP/1.1 and HTTP/2, and an orderly end.

use std::{
    net::SocketAddr,
    os::fd::{FromRawFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use http::Request;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::Api,
    body,
    pace::{Paced, Patient, Streams, Traffic},
    route::{self, Peer},
    secure,
};

/// Connections that are open at once; more wait in the socket's queue.
const MAX_CONNECTIONS: usize = 16 << 10;
/// Descriptors that connections leave to the store and to whatever else the process opens.
const OTHER_FILES: usize = 512;
/// What a head of HTTP/1 (the request line and all headers) may measure, and what is buffered of an answer.
const MAX_HEAD: usize = 128 << 10;
/// What the headers of an HTTP/2 request may measure.
const MAX_HEADER_LIST: u32 = 64 << 10;
/// Requests that one HTTP/2 connection may have open, watches among them.
const MAX_STREAMS: u32 = 250;
/// What is buffered of each answer on HTTP/2.
const MAX_SEND: usize = 128 << 10;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long connections may take to finish what they began once the server stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Sockets that systemd (or whoever speaks its protocol) has opened for this process: `LISTEN_PID`, `LISTEN_FDS`.
///
/// # Errors
/// If a passed descriptor is no listening TCP socket.
pub fn activated() -> std::io::Result<Vec<TcpListener>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    let ours = number("LISTEN_PID").is_some_and(|pid| u32::try_from(pid) == Ok(std::process::id()));
    let count = number("LISTEN_FDS").filter(|_| ours).unwrap_or(0);
    (3..3 + count).map(adopt).collect()
}

fn adopt(fd: i32) -> std::io::Result<TcpListener> {
    // SAFETY: by the activation protocol descriptors 3 and up belong to this process and to nobody in it yet;
    // `activated` is called once, before any other descriptor is opened on purpose.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let listener = std::net::TcpListener::from(fd);
    listener.local_addr()?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Serves all listeners until `shutdown`, then lets connections finish.
pub async fn serve(
    api: Arc<Api>,
    listeners: Vec<TcpListener>,
    tls: Arc<rustls::ServerConfig>,
    shutdown: CancellationToken,
) {
    let connections = max_connections();
    let door = Door {
        acceptor: TlsAcceptor::from(tls),
        limit: Arc::new(Semaphore::new(connections)),
        api,
        open: TaskTracker::new(),
        shutdown,
    };
    let mut tasks = tokio::task::JoinSet::new();
    for listener in listeners {
        tasks.spawn(door.clone().accept(listener));
    }
    while tasks.join_next().await.is_some() {}
    door.open.close();
    if tokio::time::timeout(DRAIN, door.open.wait()).await.is_err() {
        tracing::info!("connections that did not end in time are closed");
    }
}

/// As many connections as there are descriptors for, with some left for the store. Raises the process's own bound
/// as far as it may.
fn max_connections() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the bound on open files stays as it is");
        }
    }
    let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
    files.map_or(MAX_CONNECTIONS, |files| MAX_CONNECTIONS.min(files - (files / 2).min(OTHER_FILES)))
}

/// Where connections come in.
#[derive(Clone)]
struct Door {
    api: Arc<Api>,
    acceptor: TlsAcceptor,
    limit: Arc<Semaphore>,
    open: TaskTracker,
    shutdown: CancellationToken,
}

impl Door {
    async fn accept(self, listener: TcpListener) {
        loop {
            let Ok(permit) = self.limit.clone().acquire_owned().await else { break };
            let (stream, address) = tokio::select! {
                () = self.shutdown.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of descriptors, as a rule: wait for some to be given back.
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let door = self.clone();
            self.open.spawn(async move {
                if let Err(error) = door.connection(stream).await {
                    tracing::debug!(%address, %error, "a connection ended");
                }
                drop(permit);
            });
        }
    }

    async fn connection(self, stream: TcpStream) -> Result<(), body::BoxError> {
        stream.set_nodelay(true)?;
        keep_alive(&stream)?;
        let limits = &self.api.limits;
        let (idle, stall) = (limits.idle_timeout(), limits.stall_timeout());
        let stream = Patient::new(stream, stall);
        let tls = tokio::time::timeout(HANDSHAKE_TIMEOUT.min(idle), self.acceptor.accept(stream)).await??;
        let user = secure::tls::peer_user(tls.get_ref().1.peer_certificates());
        // This server's own certificate towards kubelets: who shows it here is the server itself, sent by a node that
        // gave the server's address as its own.
        let peer = Peer(user.filter(|user| user.name != secure::pki::KUBELET_CLIENT_NAME));
        // What was agreed on is spoken: waiting to see what comes would be waiting without end.
        let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let traffic = Arc::new(Traffic::default());
        let (api, counted) = (self.api.clone(), traffic.clone());
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            let api = api.clone();
            let open = counted.begin();
            let mut request = request.map(body::wrap);
            request.extensions_mut().insert(peer.clone());
            async move {
                let response = route::handle_caught(api, request).await;
                Ok::<_, std::convert::Infallible>(response.map(|body| Paced::new(body, open)))
            }
        });
        let builder = builder(http2, idle, stall);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(tls), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = self.shutdown.cancelled() => {}
            () = traffic.idle(idle) => {}
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            ended = connection => ended,
            // One that has nothing open and does not say goodbye in time.
            () = traffic.idle(DRAIN) => Ok(()),
        }
    }
}

fn builder(http2: bool, idle: Duration, stall: Duration) -> auto::Builder<Streams> {
    let builder = auto::Builder::new(Streams { limit: stall });
    let mut builder = if http2 { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Some(idle)).max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(MAX_SEND)
        .max_header_list_size(MAX_HEADER_LIST)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// Finds out about peers that went away without a word, such as nodes that lost power under an open watch.
fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
    rustix::net::sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    rustix::net::sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}

/// Opens the server's own socket.
///
/// # Errors
/// If the address cannot be bound.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}
