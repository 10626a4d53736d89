//! HTTP requests of probes and hooks, from the node's network, with errors in the words Go's client has.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{HTTPGetAction, HTTPHeader};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Most bytes of an answer that are read (upstream's bound).
const MAX_BODY: usize = 10 * 1024;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Address or name.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path with query.
    pub path: String,
    /// Whether over TLS; certificates are not checked, as upstream.
    pub tls: bool,
    /// Headers.
    pub headers: Vec<(String, String)>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub code: u16,
    /// Beginning of the body.
    pub body: String,
}

/// `host:port` with brackets where needed.
#[must_use]
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The number of a probe's port, which may be one of the container's names.
///
/// # Errors
/// Says which name is not there.
pub fn port(port: &IntOrString, container: &k8s_openapi::api::core::v1::Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(name) => match name.parse::<i64>() {
            Ok(number) => number,
            Err(_) => {
                let mut named =
                    container.ports.iter().flatten().filter(|port| port.name.as_deref() == Some(name));
                named
                    .next()
                    .map(|port| i64::from(port.container_port))
                    .ok_or_else(|| format!("couldn't find port: {name}"))?
            }
        },
    };
    u16::try_from(number)
        .ok()
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}

impl Target {
    /// From a probe's or hook's action; `address` is the pod's.
    ///
    /// # Errors
    /// Says what is wrong with the action.
    pub fn new(
        action: &HTTPGetAction,
        container: &k8s_openapi::api::core::v1::Container,
        address: &str,
    ) -> Result<Self, String> {
        let path = action.path.clone().unwrap_or_default();
        let header = |header: &HTTPHeader| (header.name.clone(), header.value.clone());
        Ok(Self {
            host: action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| address.to_owned()),
            port: port(&action.port, container)?,
            path: if path.starts_with('/') { path } else { format!("/{path}") },
            tls: action.scheme.as_deref() == Some("HTTPS"),
            headers: action.http_headers.iter().flatten().map(header).collect(),
        })
    }

    /// The URL as it is shown.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", authority(&self.host, self.port), self.path)
    }
}

/// What Go says of an error of the system.
#[must_use]
pub fn dial_error(address: &str, error: &std::io::Error) -> String {
    let words = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {address}: {words}")
}

/// Sends one GET.
///
/// # Errors
/// Says what failed, as Go would.
pub async fn get(target: &Target, limit: Duration) -> Result<Answer, String> {
    let url = target.url();
    match tokio::time::timeout(limit, get_unbounded(target)).await {
        Ok(outcome) => outcome.map_err(|error| format!("Get \"{url}\": {error}")),
        Err(_) => Err(format!(
            "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

async fn get_unbounded(target: &Target) -> Result<Answer, String> {
    let address = authority(&target.host, target.port);
    let stream = TcpStream::connect(&address).await.map_err(|error| dial_error(&address, &error))?;
    if !target.tls {
        return send(target, stream).await;
    }
    let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(unchecked_tls()));
    let stream = connector.connect(name, stream).await.map_err(|error| format!("tls: {error}"))?;
    send(target, stream).await
}

async fn send<S>(target: &Target, stream: S) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shown = |error: hyper::Error| {
        if error.is_incomplete_message() { "EOF".to_owned() } else { error.to_string() }
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(shown)?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let response = sender.send_request(request(target)?).await.map_err(shown)?;
        let code = response.status().as_u16();
        let mut body = response.into_body();
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(shown)?;
            let data = frame.data_ref().map(Bytes::as_ref).unwrap_or_default();
            let room = MAX_BODY.saturating_sub(text.len());
            text.extend_from_slice(data.get(..data.len().min(room)).unwrap_or_default());
            if text.len() >= MAX_BODY {
                break;
            }
        }
        Ok(Answer { code, body: String::from_utf8_lossy(&text).into_owned() })
    }
    .await;
    connection.abort();
    answer
}

fn request(target: &Target) -> Result<Request<Empty<Bytes>>, String> {
    let own = |name: &str| target.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    let mut builder = Request::get(&target.path);
    if !own("host") {
        builder = builder.header(header::HOST, authority(&target.host, target.port));
    }
    if !own("user-agent") {
        builder = builder.header(header::USER_AGENT, "kube-probe/1.36");
    }
    if !own("accept") {
        builder = builder.header(header::ACCEPT, "*/*");
    }
    builder = builder.header(header::CONNECTION, "close");
    for (name, value) in &target.headers {
        builder = builder.header(name, value);
    }
    builder.body(Empty::new()).map_err(|error| error.to_string())
}

/// TLS that takes every certificate: a probe asks whether its own pod answers, not who it is (upstream's rule).
fn unchecked_tls() -> rustls::ClientConfig {
    rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unchecked))
        .with_no_client_auth()
}

#[derive(Debug)]
struct Unchecked;

impl rustls::client::danger::ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn targets_resolve_ports_by_name_and_default_to_the_pod() {
        let container =
            serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}))
                .unwrap();
        for (action, expected) in [
            (json!({"port": "web"}), Ok("http://10.0.0.9:8080/")),
            (json!({"port": 80, "path": "x?y=1"}), Ok("http://10.0.0.9:80/x?y=1")),
            (
                json!({"port": "443", "host": "fd00::1", "scheme": "HTTPS", "path": "/"}),
                Ok("https://[fd00::1]:443/"),
            ),
            (json!({"port": "nope"}), Err("couldn't find port: nope")),
            (json!({"port": 0}), Err("invalid port number: 0")),
            (json!({"port": 70000}), Err("invalid port number: 70000")),
        ] {
            let parsed: HTTPGetAction = serde_json::from_value(action.clone()).unwrap();
            let seen = Target::new(&parsed, &container, "10.0.0.9").map(|target| target.url());
            assert_eq!(seen, expected.map(str::to_owned).map_err(str::to_owned), "{action}");
        }
    }

    #[tokio::test]
    async fn refused_connections_read_as_go_says_them() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let target = Target {
            host: "127.0.0.1".to_owned(),
            port,
            path: "/x".to_owned(),
            tls: false,
            headers: Vec::new(),
        };
        let error = get(&target, Duration::from_secs(5)).await.unwrap_err();
        let expected = format!(
            "Get \"http://127.0.0.1:{port}/x\": dial tcp 127.0.0.1:{port}: connect: connection refused"
        );
        assert_eq!(error, expected);
    }
}
