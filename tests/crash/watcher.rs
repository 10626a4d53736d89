//! A watcher: goes on where it was after every end of its connection, and never lists again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::Method;
use rand::Rng;
use serde_json::Value;

use crate::client::revision;
use crate::model::{Revision, Seen, Word};
use crate::writer::{World, collection};

/// The longest that a watcher may stay without a connection.
const DEADLINE: Duration = Duration::from_secs(90);

pub struct Watcher {
    world: Arc<World>,
    resource: &'static str,
    /// Only objects with the label.
    selecting: bool,
    /// Leaves its connection now and then by itself.
    restless: bool,
    at: Revision,
    /// Set at the end: how far to read.
    until: Arc<AtomicU64>,
    seen: Vec<Seen>,
    pub resumed: usize,
}

impl Watcher {
    pub fn new(
        world: Arc<World>,
        resource: &'static str,
        (selecting, restless): (bool, bool),
        at: Revision,
        until: Arc<AtomicU64>,
    ) -> Watcher {
        Watcher { world, resource, selecting, restless, at, until, seen: Vec::new(), resumed: 0 }
    }

    /// Watches until the last revision is reached; gives every event, and how often it went on.
    pub async fn run(mut self) -> anyhow::Result<(Vec<Seen>, usize)> {
        let mut since = Instant::now();
        while !self.finished() {
            let before = self.at;
            self.once()
                .await
                .with_context(|| format!("a watch of {} from revision {before}", self.resource))?;
            if self.at > before {
                since = Instant::now();
            }
            if since.elapsed() > DEADLINE {
                bail!("a watch of {} did not get beyond revision {before}", self.resource);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok((self.seen, self.resumed))
    }

    fn finished(&self) -> bool {
        self.at >= self.until.load(Ordering::SeqCst)
    }

    /// One connection, to its end. An error is a fault of the server.
    async fn once(&mut self) -> anyhow::Result<()> {
        let Some(mut connection) = self.world.connect().await else { return Ok(()) };
        let mut path = format!(
            "{}?watch=1&allowWatchBookmarks=true&resourceVersion={}",
            collection(self.resource),
            self.at
        );
        if self.selecting {
            path.push_str("&labelSelector=picked%3Dyes");
        }
        let Ok(answer) = connection.open(Method::GET, &path, "application/json", Bytes::new()).await else {
            return Ok(());
        };
        match answer.status().as_u16() {
            200 => self.resumed += 1,
            429 | 500.. => return Ok(()),
            code => bail!("answered with {code}"),
        }
        let mut body = answer.into_body();
        let leave = self.restless.then(|| Duration::from_millis(rand::rng().random_range(20..400)));
        let leave = Instant::now() + leave.unwrap_or(Duration::from_secs(3600));
        let mut rest = BytesMut::new();
        while !self.finished() && Instant::now() < leave {
            let next = match tokio::time::timeout(Duration::from_millis(100), body.frame()).await {
                Err(_) => continue,
                Ok(Some(Ok(frame))) => frame,
                // The end of the connection. Half a line is no event.
                Ok(_) => return Ok(()),
            };
            rest.extend_from_slice(next.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = rest.split_to(end + 1);
                self.take(&serde_json::from_slice(&line).context("a line of the watch")?)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, event: &Value) -> anyhow::Result<()> {
        let object = &event["object"];
        let word = match event["type"].as_str() {
            Some("ADDED") => Word::Added,
            Some("MODIFIED") => Word::Modified,
            Some("DELETED") => Word::Deleted,
            Some("BOOKMARK") => {
                let at = revision(object)?;
                if at < self.at {
                    bail!("a bookmark goes back from {} to {at}", self.at);
                }
                self.at = at;
                return Ok(());
            }
            _ => bail!("cut off: {event}"),
        };
        let at = revision(object)?;
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if at <= self.at {
            bail!("{name} comes at revision {at} after {} had been seen", self.at);
        }
        self.at = at;
        self.world.newest.fetch_max(at, Ordering::SeqCst);
        // Objects that the server itself keeps have no token.
        let Some(token) = object["metadata"]["annotations"]["token"].as_str() else { return Ok(()) };
        let key = (self.resource, name.to_owned());
        self.seen.push(Seen { revision: at, key, word, token: token.parse()? });
        Ok(())
    }
}
