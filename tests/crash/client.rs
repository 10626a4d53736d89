//! One HTTP/1.1 connection to the server with the admin's certificate. Nothing is ever sent twice.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The longest that one request may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Where the server is and how to speak to it.
#[derive(Clone)]
pub struct Target {
    port: u16,
    tls: TlsConnector,
}

impl Target {
    /// Reads the certificates that the server has made in its data directory.
    pub fn new(directory: &Path, port: u16) -> anyhow::Result<Target> {
        let pki = directory.join("pki");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(pki.join("ca.crt"))?)?;
        let chain = CertificateDer::pem_file_iter(pki.join("admin.crt"))?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(pki.join("admin.key"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Target { port, tls: TlsConnector::from(Arc::new(config)) })
    }

    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("127.0.0.1")?;
        let stream = tokio::time::timeout(LIMIT, self.tls.connect(name, stream)).await??;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Connection(sender))
    }
}

pub struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    /// Sends and waits for the head of the answer.
    pub async fn open(
        &mut self,
        method: Method,
        path: &str,
        media: &str,
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1")
            .header("content-type", media)
            .header("accept", "application/json")
            .body(Full::new(body))?;
        self.0.ready().await?;
        Ok(tokio::time::timeout(LIMIT, self.0.send_request(request)).await??)
    }

    /// Sends and reads the whole answer.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        media: &str,
        body: Bytes,
    ) -> anyhow::Result<(u16, Value)> {
        let answer = self.open(method, path, media, body).await?;
        let code = answer.status().as_u16();
        let body = tokio::time::timeout(LIMIT, answer.into_body().collect()).await??.to_bytes();
        Ok((code, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }

    pub async fn get(&mut self, path: &str) -> anyhow::Result<(u16, Value)> {
        self.send(Method::GET, path, "application/json", Bytes::new()).await
    }
}

/// The resourceVersion of an object or a list.
pub fn revision(object: &Value) -> anyhow::Result<u64> {
    let text = object["metadata"]["resourceVersion"].as_str();
    let Some(text) = text else { bail!("no resourceVersion in {object}") };
    text.parse().with_context(|| format!("resourceVersion {text:?}"))
}
