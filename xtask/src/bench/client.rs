//! An HTTP/1.1 client over TLS that costs as little as it can: requests are bytes made beforehand, answers are read
//! only as far as their code and their length.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where the server listens and who asks.
#[derive(Clone)]
pub struct Target {
    pub port: u16,
    tls: Arc<ClientConfig>,
}

impl Target {
    /// The administrator of the control plane in `data`.
    pub fn admin(data: &Path, port: u16) -> anyhow::Result<Target> {
        let pki = data.join("pki");
        let chain = CertificateDer::pem_file_iter(pki.join("admin.crt"))?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(pki.join("admin.key"))?;
        let builder = builder(&pki)?;
        Ok(Target { port, tls: Arc::new(builder.with_client_auth_cert(chain, key)?) })
    }

    /// Nobody in particular: enough to ask whether the server is ready.
    pub fn anonymous(data: &Path, port: u16) -> anyhow::Result<Target> {
        Ok(Target { port, tls: Arc::new(builder(&data.join("pki"))?.with_no_client_auth()) })
    }

    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let tcp = TcpStream::connect(("127.0.0.1", self.port)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("127.0.0.1").context("naming the server")?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, tcp).await?;
        Ok(Connection { stream, buffer: vec![0; 64 << 10], start: 0, end: 0 })
    }
}

fn builder(
    pki: &Path,
) -> anyhow::Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(pki.join("ca.crt"))? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots))
}

/// A request as it goes over the wire.
pub fn request(method: &str, path: &str, media: &str, body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench/1\r\n");
    text.push_str("Accept: application/json\r\n");
    if !body.is_empty() {
        text.push_str(&format!("Content-Type: {media}\r\nContent-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

pub fn get(path: &str) -> Vec<u8> {
    request("GET", path, "", "")
}

/// One connection that stays open.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    /// Bytes between `start` and `end` were received and not yet looked at.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// How long a body is.
enum Length {
    Known(usize),
    Chunked,
}

impl Connection {
    /// Asks and reads the whole answer; returns the length of its body.
    ///
    /// # Errors
    /// An answer with another code than `expected`, with what it says.
    pub async fn ask(&mut self, request: &[u8], expected: u16) -> anyhow::Result<usize> {
        self.send(request).await?;
        let (code, length) = self.head().await?;
        let mut said = Vec::new();
        let keep = if code == expected { None } else { Some(&mut said) };
        let read = self.body(&length, keep).await?;
        if code != expected {
            bail!("the server answered {code}: {}", String::from_utf8_lossy(&said));
        }
        Ok(read)
    }

    /// Asks and returns the code and the body.
    pub async fn text(&mut self, request: &[u8]) -> anyhow::Result<(u16, Vec<u8>)> {
        self.send(request).await?;
        let (code, length) = self.head().await?;
        let mut said = Vec::new();
        self.body(&length, Some(&mut said)).await?;
        Ok((code, said))
    }

    async fn send(&mut self, request: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Receives more; what was looked at makes room first.
    async fn fill(&mut self) -> anyhow::Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.buffer.len() {
            bail!("the server sent a line of more than {} bytes", self.end);
        }
        let got = self.stream.read(&mut self.buffer[self.end..]).await?;
        if got == 0 {
            bail!("the server closed the connection");
        }
        self.end += got;
        Ok(())
    }

    /// Reads the code and the headers.
    async fn head(&mut self) -> anyhow::Result<(u16, Length)> {
        let end = loop {
            let seen = &self.buffer[self.start..self.end];
            if let Some(at) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
                break self.start + at;
            }
            self.fill().await?;
        };
        let head = std::str::from_utf8(&self.buffer[self.start..end]).context("headers that are no text")?;
        let code = head.get(9..12).and_then(|code| code.parse().ok()).context("no status code")?;
        let header = |name: &str| {
            let mut lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
            lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
        };
        let length = match header("content-length") {
            Some(text) => Length::Known(text.parse().context("reading Content-Length")?),
            None if header("transfer-encoding").is_some() => Length::Chunked,
            None => Length::Known(0),
        };
        self.start = end + 4;
        Ok((code, length))
    }

    async fn body(&mut self, length: &Length, mut keep: Option<&mut Vec<u8>>) -> anyhow::Result<usize> {
        let mut total = 0;
        loop {
            let part = match length {
                Length::Known(all) => *all,
                Length::Chunked => self.chunk_size().await?,
            };
            self.take(part, keep.as_deref_mut()).await?;
            total += part;
            if matches!(length, Length::Known(_)) {
                return Ok(total);
            }
            self.take(2, None).await?;
            if part == 0 {
                return Ok(total);
            }
        }
    }

    async fn chunk_size(&mut self) -> anyhow::Result<usize> {
        loop {
            let seen = &self.buffer[self.start..self.end];
            if let Some(at) = seen.windows(2).position(|window| window == b"\r\n") {
                let digits = std::str::from_utf8(&seen[..at]).context("reading a chunk's size")?;
                let size = usize::from_str_radix(digits, 16).context("reading a chunk's size")?;
                self.start += at + 2;
                return Ok(size);
            }
            self.fill().await?;
        }
    }

    async fn take(&mut self, mut wanted: usize, mut keep: Option<&mut Vec<u8>>) -> anyhow::Result<()> {
        while wanted > 0 {
            if self.start == self.end {
                self.fill().await?;
            }
            let got = wanted.min(self.end - self.start);
            if let Some(keep) = keep.as_deref_mut() {
                keep.extend_from_slice(&self.buffer[self.start..self.start + got]);
            }
            self.start += got;
            wanted -= got;
        }
        Ok(())
    }

    /// Starts a watch; [`Connection::events`] reads it.
    pub async fn watch(&mut self, path: &str) -> anyhow::Result<()> {
        self.send(&get(path)).await?;
        let (code, _) = self.head().await?;
        if code != 200 {
            bail!("the server answered {code} to a watch");
        }
        Ok(())
    }

    /// Receives once and counts the events in it. Raw line feeds end events and the lines of HTTP's framing, the latter
    /// after a carriage return; the difference is right as soon as a frame is whole.
    pub async fn events(&mut self) -> anyhow::Result<isize> {
        if self.start == self.end {
            self.fill().await?;
        }
        let seen = &self.buffer[self.start..self.end];
        let count = |wanted: u8| seen.iter().filter(|byte| **byte == wanted).count();
        let events = count(b'\n').cast_signed() - count(b'\r').cast_signed();
        self.start = self.end;
        Ok(events)
    }
}
