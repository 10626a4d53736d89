//! Docker's streaming endpoints, spoken directly: terminals and logs need every byte as it comes, without a
//! decoder that guesses from the first byte whether the stream is multiplexed.

use std::path::{Path, PathBuf};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::Error;

/// Largest answer that is read whole (error messages).
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// Talks to Docker Engine's socket, one connection per stream.
#[derive(Debug, Clone)]
pub struct Raw {
    socket: PathBuf,
}

impl Raw {
    /// A client of the socket at `socket`.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_path_buf() }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| Error::Connect { path: self.socket.display().to_string(), source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "docker stream ended");
            }
        });
        Ok(sender.send_request(request).await?)
    }

    /// GETs a path and hands out the body as it comes.
    ///
    /// # Errors
    /// Fails when Docker is not there or answers other than 200.
    pub async fn get(&self, path: &str) -> Result<Incoming, Error> {
        let request = Request::get(path)
            .header(header::HOST, "docker")
            .body(Full::default())
            .map_err(|error| Error::Request(error.to_string()))?;
        let response = self.send(request).await?;
        if response.status() != StatusCode::OK {
            return Err(refused(response).await);
        }
        Ok(response.into_body())
    }

    /// POSTs a path and takes over the connection as a two-way byte stream.
    ///
    /// # Errors
    /// Fails when Docker is not there or does not hand over the connection.
    pub async fn hijack(&self, path: &str, body: String) -> Result<TokioIo<Upgraded>, Error> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, "docker")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "tcp")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Error::Request(error.to_string()))?;
        let response = self.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refused(response).await);
        }
        Ok(TokioIo::new(hyper::upgrade::on(response).await?))
    }
}

async fn refused(response: Response<Incoming>) -> Error {
    let code = response.status().as_u16();
    let mut text = Vec::new();
    let mut body = response.into_body();
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            text.extend_from_slice(data);
        }
        if text.len() > MAX_ERROR_BYTES {
            break;
        }
    }
    let message = serde_json::from_slice::<serde_json::Value>(&text)
        .ok()
        .and_then(|value| value.get("message").and_then(|text| text.as_str()).map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(&text).trim().to_owned());
    Error::Status { code, message }
}

/// Which stream of the container bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Standard output, and everything of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Takes Docker's stream apart: frames of `[stream, 0, 0, 0, length(be32)]` unless the container has a terminal.
///
/// A frame's payload is handed on as it arrives, so nothing is kept however long a frame claims to be.
#[derive(Debug)]
pub struct Demux {
    tty: bool,
    buffer: BytesMut,
    current: Option<(Channel, usize)>,
}

impl Demux {
    /// A fresh reader; `tty` streams are not framed.
    #[must_use]
    pub fn new(tty: bool) -> Self {
        Self { tty, buffer: BytesMut::new(), current: None }
    }

    /// Adds bytes that were read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next piece, if one is complete enough to be passed on.
    pub fn next_piece(&mut self) -> Option<(Channel, Bytes)> {
        if self.tty {
            return (!self.buffer.is_empty()).then(|| (Channel::Stdout, self.buffer.split().freeze()));
        }
        loop {
            match self.current {
                Some((_, 0)) => self.current = None,
                Some((channel, left)) => {
                    if self.buffer.is_empty() {
                        return None;
                    }
                    let take = left.min(self.buffer.len());
                    self.current = Some((channel, left - take));
                    return Some((channel, self.buffer.split_to(take).freeze()));
                }
                None => {
                    let header = self.buffer.first_chunk::<8>()?;
                    let [stream, _, _, _, a, b, c, d] = *header;
                    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                    self.buffer.advance(8);
                    let channel = if stream == 2 { Channel::Stderr } else { Channel::Stdout };
                    self.current = Some((channel, length));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(tty: bool, chunks: &[&[u8]], expected: &[(Channel, &[u8])]) {
        let mut demux = Demux::new(tty);
        let mut seen = Vec::new();
        for chunk in chunks {
            demux.push(chunk);
            while let Some((channel, bytes)) = demux.next_piece() {
                seen.push((channel, bytes.to_vec()));
            }
        }
        let expected: Vec<_> = expected.iter().map(|(channel, bytes)| (*channel, bytes.to_vec())).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn frames_are_told_apart_wherever_they_are_cut() {
        check(
            false,
            &[b"\x01\0\0\0\0\0\0\x02hi\x02\0\0\0\0\0\0\x01!"],
            &[(Channel::Stdout, b"hi"), (Channel::Stderr, b"!")],
        );
        check(
            false,
            &[b"\x02\0\0", b"\0\0\0\0\x04ab", b"cd"],
            &[(Channel::Stderr, b"ab"), (Channel::Stderr, b"cd")],
        );
        check(false, &[b"\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x01x"], &[(Channel::Stdout, b"x")]);
    }

    #[test]
    fn a_terminal_passes_bytes_that_look_like_frames() {
        check(true, &[b"\x01\0\0\0\xff\xff\xff\xff"], &[(Channel::Stdout, b"\x01\0\0\0\xff\xff\xff\xff")]);
    }
}
