//! Requests over many connections at once, and watchers; what they saw.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::task::{JoinSet, LocalSet};

use crate::bench::client::{Connection, Target, get};

/// What one load saw.
pub struct Seen {
    pub elapsed: Duration,
    /// Time from request to whole answer, sorted.
    pub latencies: Vec<Duration>,
    /// Bytes of all bodies.
    pub bytes: usize,
}

impl Seen {
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that this share of requests did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        self.latencies.get(at).copied().unwrap_or_default()
    }
}

/// Opens connections, all of them before any is used.
pub async fn connect(target: &Target, count: usize) -> anyhow::Result<Vec<Connection>> {
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        connections.push(target.connect().await.context("connecting")?);
    }
    Ok(connections)
}

/// Sends every request once; each connection takes the next one as soon as its last is answered.
pub async fn drive(
    connections: &mut Vec<Connection>,
    requests: Vec<Vec<u8>>,
    expected: u16,
) -> anyhow::Result<Seen> {
    let requests = Rc::new(requests);
    let next = Rc::new(Cell::new(0));
    let local = LocalSet::new();
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for mut connection in connections.drain(..) {
        let (requests, next) = (requests.clone(), next.clone());
        tasks.spawn_local_on(
            async move {
                let (mut latencies, mut bytes) = (Vec::new(), 0);
                while let Some(request) = requests.get(next.replace(next.get() + 1)) {
                    let asked = Instant::now();
                    bytes += connection.ask(request, expected).await?;
                    latencies.push(asked.elapsed());
                }
                anyhow::Ok((connection, latencies, bytes))
            },
            &local,
        );
    }
    let mut seen = Seen { elapsed: Duration::ZERO, latencies: Vec::new(), bytes: 0 };
    local
        .run_until(async {
            while let Some(done) = tasks.join_next().await {
                let (connection, latencies, bytes) = done??;
                connections.push(connection);
                seen.latencies.extend(latencies);
                seen.bytes += bytes;
            }
            anyhow::Ok(())
        })
        .await?;
    seen.elapsed = start.elapsed();
    seen.latencies.sort();
    Ok(seen)
}

/// What watchers saw.
pub struct Watched {
    pub elapsed: Duration,
    pub events: usize,
    /// Writes by which the events came, per second.
    pub writes: f64,
    /// From the last answered write to the last event.
    pub lag: Duration,
}

/// Writes while `watchers` watch `path`; ends when each of them has seen every write.
pub async fn fan_out(
    target: &Target,
    path: &str,
    watchers: usize,
    writers: &mut Vec<Connection>,
    requests: Vec<Vec<u8>>,
) -> anyhow::Result<Watched> {
    let wanted = requests.len();
    let from = revision(target, path).await?;
    let local = LocalSet::new();
    let mut tasks = JoinSet::new();
    for mut watcher in connect(target, watchers).await? {
        watcher.watch(&format!("{path}?watch=1&resourceVersion={from}")).await?;
        tasks.spawn_local_on(
            async move {
                let mut seen = 0;
                while seen < wanted.cast_signed() {
                    seen += watcher.events().await.with_context(|| format!("after {seen} events"))?;
                }
                anyhow::Ok(())
            },
            &local,
        );
    }
    let start = Instant::now();
    let written = local.run_until(drive(writers, requests, 201)).await?;
    let last = start.elapsed();
    let all = async {
        while let Some(done) = tasks.join_next().await {
            done?.context("a watcher was cut off")?;
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(Duration::from_secs(30), local.run_until(all)).await {
        Err(_) => bail!("watchers did not see all of {wanted} events within 30 s"),
        Ok(ended) => ended?,
    }
    let elapsed = start.elapsed();
    Ok(Watched {
        elapsed,
        events: wanted * watchers,
        writes: written.rate(),
        lag: elapsed.saturating_sub(last),
    })
}

/// The revision of a collection.
async fn revision(target: &Target, path: &str) -> anyhow::Result<String> {
    let (_, body) = target.connect().await?.text(&get(&format!("{path}?limit=1"))).await?;
    let list: serde_json::Value = serde_json::from_slice(&body)?;
    list["metadata"]["resourceVersion"].as_str().map(str::to_owned).context("a list without a revision")
}
