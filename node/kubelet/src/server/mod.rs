//! The kubelet's own API: logs, exec, attach, and what monitoring asks for. TLS, and only for the API server and
//! administrators.

pub mod answer;
pub mod identity;
pub mod logs;
pub mod route;
pub mod stream;
pub mod summary;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::pod::manager::Manager;
use crate::settings::Args;

/// Connections at the same time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 512;
/// How long a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate or key.
    #[error("{path}: {reason}")]
    Pem {
        /// Its path.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificates and key do not make a server.
    #[error("TLS: {0}")]
    Tls(String),
    /// The port.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let failed = |reason: String| Error::Pem { path: path.display().to_string(), reason };
    let all = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
    let all = all.collect::<Result<Vec<_>, _>>().map_err(|error| failed(error.to_string()))?;
    if all.is_empty() { Err(failed("holds no certificate".to_owned())) } else { Ok(all) }
}

fn tls(args: &Args) -> Result<TlsAcceptor, Error> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&args.client_ca_file)? {
        roots.add(certificate).map_err(|error| Error::Tls(error.to_string()))?;
    }
    // Who shows no certificate is told 401 in HTTP, as upstream does, rather than being cut off.
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
        .allow_unauthenticated()
        .build()
        .map_err(|error| Error::Tls(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&args.tls_private_key_file).map_err(|error| Error::Pem {
        path: args.tls_private_key_file.display().to_string(),
        reason: error.to_string(),
    })?;
    let mut config = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&args.tls_cert_file)?, key)
        .map_err(|error| Error::Tls(error.to_string()))?;
    // Exec and attach take over the connection, which HTTP/2 does not have.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The listening side, before pods are known.
pub struct Listener {
    socket: TcpListener,
    tls: TlsAcceptor,
    port: u16,
}

impl Listener {
    /// Reads certificates and takes the port.
    ///
    /// # Errors
    /// Says which file is wrong, or that the port is taken.
    pub async fn bind(args: &Args) -> Result<Self, Error> {
        let any = match args.node_ip.first() {
            Some(IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        let address = SocketAddr::new(any, args.port);
        let tls = tls(args)?;
        let failed = |source| Error::Listen { address, source };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        let port = socket.local_addr().map_err(failed)?.port();
        Ok(Self { socket, tls, port })
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Serves until the process ends.
    pub async fn serve(self, manager: Manager) {
        let turns = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(turn) = turns.clone().acquire_owned().await else { return };
            match self.socket.accept().await {
                Ok((stream, peer)) => {
                    let (tls, manager) = (self.tls.clone(), manager.clone());
                    tokio::spawn(async move {
                        if let Err(error) = connection(stream, tls, manager).await {
                            tracing::debug!(%peer, %error, "connection ended");
                        }
                        drop(turn);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, manager: Manager) -> Result<(), std::io::Error> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await??;
    let peer = identity::peer(stream.get_ref().1.peer_certificates());
    let service = service_fn(move |request| {
        let (manager, peer) = (manager.clone(), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(route::handle(request, &manager, &peer).await) }
    });
    hyper::server::conn::http1::Builder::new()
        .header_read_timeout(Duration::from_secs(30))
        .timer(hyper_util::rt::TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await
        .map_err(std::io::Error::other)
}
