//! Sockets: accept, TLS, HTTP/1.1 and HTTP/2, and an orderly end.

use std::{
    net::SocketAddr,
    os::fd::{FromRawFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use http::Request;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    api::Api,
    body,
    route::{self, Peer},
    secure,
};

/// Connections that are open at once; more wait in the socket's queue.
const MAX_CONNECTIONS: usize = 16 << 10;
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
    let acceptor = TlsAcceptor::from(tls);
    let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut tasks = tokio::task::JoinSet::new();
    for listener in listeners {
        tasks.spawn(accept(api.clone(), listener, acceptor.clone(), limit.clone(), shutdown.clone()));
    }
    while tasks.join_next().await.is_some() {}
}

async fn accept(
    api: Arc<Api>,
    listener: TcpListener,
    acceptor: TlsAcceptor,
    limit: Arc<Semaphore>,
    shutdown: CancellationToken,
) {
    let graceful = GracefulShutdown::new();
    loop {
        let Ok(permit) = limit.clone().acquire_owned().await else { break };
        let (stream, address) = tokio::select! {
            () = shutdown.cancelled() => break,
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
        let watcher = graceful.watcher();
        let (api, acceptor) = (api.clone(), acceptor.clone());
        tokio::spawn(async move {
            if let Err(error) = connection(api, stream, acceptor, watcher).await {
                tracing::debug!(%address, %error, "a connection ended");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::info!("connections that did not end in time are closed");
    }
}

async fn connection(
    api: Arc<Api>,
    stream: TcpStream,
    acceptor: TlsAcceptor,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), body::BoxError> {
    stream.set_nodelay(true)?;
    keep_alive(&stream)?;
    let tls = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let peer = Peer(secure::tls::peer_user(tls.get_ref().1.peer_certificates()));
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let api = api.clone();
        let mut request = request.map(body::wrap);
        request.extensions_mut().insert(peer.clone());
        async move { Ok::<_, std::convert::Infallible>(route::handle(api, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Some(Duration::from_secs(90)));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1000)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(tls), service).into_owned();
    watcher.watch(connection).await
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
