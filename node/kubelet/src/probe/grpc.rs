//! gRPC health checks (grpc.health.v1.Health/Check), over plain HTTP/2 as upstream probes them.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::http::{authority, dial_error};

/// Most bytes of an answer that are read.
const MAX_ANSWER: usize = 1024;
/// `SERVING` of the health protocol.
const SERVING: u8 = 1;

/// Asks whether `service` serves.
///
/// # Errors
/// Says why it does not, or cannot be asked.
pub async fn check(host: &str, port: u16, service: &str, limit: Duration) -> Result<(), String> {
    match tokio::time::timeout(limit, ask(host, port, service)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("timeout: health rpc did not complete within {limit:?}")),
    }
}

async fn ask(host: &str, port: u16, service: &str) -> Result<(), String> {
    let address = authority(host, port);
    let failed = |error: String| format!("timeout: failed to connect service \"{address}\": {error}");
    let stream = TcpStream::connect(&address).await.map_err(|error| failed(dial_error(&address, &error)))?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| failed(error.to_string()))?;
    let connection = tokio::spawn(connection);
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "kube-probe/1.36")
        .body(Full::new(frame(service)))
        .map_err(|error| error.to_string())?;
    let outcome = async {
        let response = sender.send_request(request).await.map_err(|error| failed(error.to_string()))?;
        let mut trailers = response.headers().clone();
        let mut body = response.into_body();
        let mut data = Vec::new();
        while let Some(part) = body.frame().await {
            let part = part.map_err(|error| error.to_string())?;
            if let Some(bytes) = part.data_ref()
                && data.len() < MAX_ANSWER
            {
                data.extend_from_slice(bytes);
            }
            if let Some(more) = part.trailers_ref() {
                trailers.extend(more.clone());
            }
        }
        verdict(trailers.get("grpc-status").and_then(|value| value.to_str().ok()), &data)
    }
    .await;
    connection.abort();
    outcome
}

/// A length-prefixed `HealthCheckRequest { service }`.
fn frame(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    let name = service.as_bytes().get(..service.len().min(127)).unwrap_or_default();
    if !name.is_empty() {
        // Field 1, length-delimited; a name of up to 127 bytes needs one byte of length.
        message.put_u8(0x0a);
        message.put_u8(u8::try_from(name.len()).unwrap_or(0));
        message.extend_from_slice(name);
    }
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).unwrap_or(0));
    out.extend_from_slice(&message);
    out.freeze()
}

fn verdict(grpc_status: Option<&str>, data: &[u8]) -> Result<(), String> {
    match grpc_status {
        Some("0") | None => {}
        Some("12") => {
            return Err(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)"
                    .to_owned(),
            );
        }
        Some(code) => return Err(format!("error: health rpc probe failed with grpc status {code}")),
    }
    // Five bytes of prefix, then field 1 as a varint.
    match data.get(5..) {
        Some([0x08, SERVING, ..]) => Ok(()),
        Some([0x08, status, ..]) => {
            Err(format!("service unhealthy (responded with {:?})", status_name(*status)))
        }
        _ => Err("service unhealthy (responded with \"UNKNOWN\")".to_owned()),
    }
}

fn status_name(status: u8) -> &'static str {
    match status {
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_serving_is_healthy() {
        for (status, data, fine) in [
            (Some("0"), &b"\0\0\0\0\x02\x08\x01"[..], true),
            (None, b"\0\0\0\0\x02\x08\x01", true),
            (Some("0"), b"\0\0\0\0\x02\x08\x02", false),
            (Some("0"), b"\0\0\0\0\0", false),
            (Some("12"), b"", false),
            (Some("5"), b"", false),
        ] {
            assert_eq!(verdict(status, data).is_ok(), fine, "{status:?} {data:?}");
        }
        assert_eq!(&frame("ab")[..], b"\0\0\0\0\x04\x0a\x02ab");
        assert_eq!(&frame("")[..], b"\0\0\0\0\0");
    }
}
