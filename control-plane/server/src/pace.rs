//! How slow a client may be. One that takes nothing of what it asked for, or that asks nothing, is cut off: what is
//! held for it is memory that others need.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use crate::body::{Body, BoxError};

/// A socket that fails once its peer has taken nothing for a while.
pub struct Patient<S> {
    socket: S,
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub fn new(socket: S, limit: Duration) -> Self {
        Patient { socket, limit, waiting: None }
    }

    fn wait<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        waiting.as_mut().poll(cx).map(|()| {
            self.waiting = None;
            Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing"))
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.wait(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.wait(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        self.wait(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.socket).poll_shutdown(cx);
        self.wait(cx, closed)
    }
}

/// Milliseconds on the process's own clock, never 0.
fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

/// What one connection has open.
#[derive(Default)]
pub struct Traffic {
    open: AtomicUsize,
    /// When the last request ended.
    ended: AtomicU64,
}

impl Traffic {
    pub fn begin(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Relaxed);
        Open(self.clone())
    }

    /// Returns once nothing has been open for `limit`, at the latest after twice that time.
    pub async fn idle(&self, limit: Duration) {
        self.ended.store(now(), Relaxed);
        loop {
            tokio::time::sleep(limit).await;
            let quiet = Duration::from_millis(now().saturating_sub(self.ended.load(Relaxed)));
            if self.open.load(Relaxed) == 0 && quiet >= limit {
                return;
            }
        }
    }
}

/// A request that is not answered to its end.
pub struct Open(Arc<Traffic>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.ended.store(now(), Relaxed);
        self.0.open.fetch_sub(1, Relaxed);
    }
}

tokio::task_local! {
    static TAKER: Arc<Taker>;
}

/// When the answer of an HTTP/2 stream was last handed bytes on that its client has not made room for; 0 while it
/// is the server that has nothing to send.
#[derive(Default)]
struct Taker(AtomicU64);

impl Taker {
    async fn stalls(&self, limit: Duration) {
        loop {
            let since = match self.0.load(Relaxed) {
                0 => Duration::ZERO,
                handed => Duration::from_millis(now().saturating_sub(handed)),
            };
            if since >= limit {
                return;
            }
            tokio::time::sleep(limit.saturating_sub(since)).await;
        }
    }
}

/// Runs the streams of HTTP/2 connections. The connection's socket is taken from as long as any stream is, so each
/// stream is watched by itself: one whose client makes no room is reset.
#[derive(Clone)]
pub struct Streams {
    pub limit: Duration,
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let limit = self.limit;
        tokio::spawn(async move {
            let taker = Arc::new(Taker::default());
            tokio::select! {
                _ = TAKER.scope(taker.clone(), stream) => {}
                () = taker.stalls(limit) => tracing::debug!("a stream whose client takes nothing is reset"),
            }
        });
    }
}

/// A body that knows whether it is the client that is waited for.
pub struct Paced {
    body: Body,
    taker: Option<Arc<Taker>>,
    _open: Open,
}

impl Paced {
    pub fn new(body: Body, open: Open) -> Self {
        Paced { body, taker: TAKER.try_with(Arc::clone).ok(), _open: open }
    }
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(taker) = &self.taker {
            taker.0.store(if frame.is_ready() { now() } else { 0 }, Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
