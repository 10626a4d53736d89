//! The store in an etcd cluster, keys below a prefix (`/registry/`).
//!
//! All watchers of a process share one etcd watch of the whole prefix: its events come in the order of revisions, so
//! having seen revision N of any key means having seen everything up to N. That holds for every etcd 3.4 and later,
//! unlike etcd's own progress notifications (etcd issue 15220: they could overtake events before 3.4.25 and 3.5.8).

mod follow;
mod lease;
mod link;
mod transaction;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{GetOptions, KeyValue};
use futures::future::BoxFuture;
use link::{Failed, Link, QUICK};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::hub::Hub;
use crate::{Entry, Page, Read, Result, Revision, Store, StoreError, WatchStream, Write};

/// A key below the prefix that holds nothing: writing it makes every watcher reach the present revision.
const MARK: &str = ".fairlead/mark";

/// The most entries in one answer of etcd.
const PAGE: usize = 500;

/// How long the cluster may take before it counts as lost.
const CHECK: Duration = Duration::from_secs(2);

/// Questions for the newest revision that wait for the one that is on its way.
const QUESTIONS: usize = 1024;

/// How to reach an etcd cluster.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// The members' client URLs: `https://10.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// Certificates for `https` endpoints.
    pub tls: Option<EtcdTls>,
    /// What stands before every key.
    pub prefix: String,
    /// How long history stays available; `None` leaves compaction to etcd or its operator.
    pub history: Option<Duration>,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        EtcdOptions { endpoints: Vec::new(), tls: None, prefix: "/registry".to_owned(), history: None }
    }
}

/// Certificate files (PEM) for etcd.
#[derive(Clone, Debug, Default)]
pub struct EtcdTls {
    /// The authority that signed the members' certificates.
    pub ca: Option<PathBuf>,
    /// Our client certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// A store in an etcd cluster.
pub struct Etcd {
    link: Link,
    hub: Arc<Hub>,
    leases: lease::Leases,
    questions: mpsc::Sender<Question>,
    tasks: Vec<JoinHandle<()>>,
}

/// Somebody who wants to know the newest revision.
type Question = oneshot::Sender<Result<Revision>>;

impl Etcd {
    /// Connects and reads the present revision.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if no member answers or a certificate file cannot be used.
    pub async fn connect(options: EtcdOptions) -> Result<Self> {
        let link = Link::prepare(&options).await?;
        let start = link.mark().await?;
        let hub = Arc::new(Hub::new(start));
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let wanted = watch::Sender::new(start);
        let mut tasks = vec![
            tokio::spawn(follow::run(link.clone(), hub.clone())),
            tokio::spawn(follow::nudge(link.clone(), hub.clone(), wanted.subscribe())),
            tokio::spawn(answer(link.clone(), asked, wanted)),
        ];
        if let Some(history) = options.history {
            tasks.push(tokio::spawn(follow::compact_periodically(link.clone(), history)));
        }
        Ok(Etcd { leases: lease::Leases::default(), link, hub, questions, tasks })
    }

    /// The newest revision, read from the cluster after this call.
    async fn newest(&self) -> Result<Revision> {
        let closed = || StoreError::Unavailable("the store was closed".to_owned());
        let (question, answer) = oneshot::channel();
        self.questions.send(question).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

/// Asks the cluster for its revision, once for all that wait: each of them asked before the question is sent.
async fn answer(link: Link, mut asked: mpsc::Receiver<Question>, wanted: watch::Sender<Revision>) {
    let mut waiting = Vec::new();
    while asked.recv_many(&mut waiting, QUESTIONS).await > 0 {
        let newest = link.revision(QUICK).await.map_err(StoreError::from);
        if let Ok(newest) = newest {
            wanted.send_if_modified(|wanted| std::mem::replace(wanted, newest.max(*wanted)) < newest);
        }
        for question in waiting.drain(..) {
            // The one who asked may have gone.
            let _gone = question.send(newest.clone());
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.hub.fail(StoreError::Unavailable("the store was closed".to_owned()));
    }
}

struct Range {
    entries: Vec<Entry>,
    revision: Revision,
    more: bool,
}

impl Store for Etcd {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Read>> {
        Box::pin(async move {
            let range = self.link.range(self.link.full(key), GetOptions::new()).await?;
            Ok(Read { entry: range.entries.into_iter().next(), revision: range.revision })
        })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
        limit: usize,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Page>> {
        Box::pin(async move {
            let full = |key: &str| self.link.full(key);
            let end = range_end(&full(prefix));
            let mut start = match start_after {
                Some(after) if after >= prefix => full(&format!("{after}\0")),
                _ => full(prefix),
            };
            let mut page = Page { entries: Vec::new(), revision: at.unwrap_or(0), more: true };
            while page.more && (limit == 0 || page.entries.len() < limit) {
                let wanted = if limit == 0 { PAGE } else { PAGE.min(limit - page.entries.len()) };
                let mut options = GetOptions::new().with_range(end.clone()).with_limit(wanted as i64);
                if page.revision > 0 {
                    options = options.with_revision(signed(page.revision));
                }
                let range = self.link.range(start, options).await;
                let range = range.map_err(|error| range_error(error, page.revision, self.hub.published()))?;
                if page.revision == 0 {
                    page.revision = range.revision;
                }
                start = match range.entries.last() {
                    Some(last) => full(&format!("{}\0", last.key)),
                    None => end.clone(),
                };
                page.more = range.more;
                page.entries.extend(range.entries.into_iter().filter(|entry| entry.key.as_ref() != MARK));
            }
            Ok(page)
        })
    }

    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(self.transact(writes))
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> BoxFuture<'a, Result<WatchStream>> {
        Box::pin(async move {
            if after > self.hub.published() {
                let current = self.current_revision().await?;
                if after > current {
                    return Err(StoreError::Future { requested: after, current });
                }
            }
            let past = follow::Past { link: self.link.clone() };
            Ok(self.hub.watch(Arc::new(past), prefix, after))
        })
    }

    fn current_revision(&self) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(self.newest())
    }

    fn oldest_revision(&self) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(async move {
            let options = GetOptions::new().with_count_only().with_revision(1);
            match self.link.range(self.link.full(MARK), options).await {
                Ok(_) => Ok(1),
                Err(failed) if failed.says("compacted") => follow::compacted(&self.link).await,
                Err(failed) => Err(failed.into()),
            }
        })
    }

    fn check(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            match tokio::time::timeout(CHECK, self.newest()).await {
                Ok(outcome) => outcome.map(drop),
                Err(_) => Err(StoreError::Unavailable("etcd does not answer".to_owned())),
            }
        })
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let compact = |client: etcd_client::Client| async move {
                client.kv_client().compact(signed(revision), None).await
            };
            let outcome = self.link.call(QUICK, compact).await;
            outcome.map_err(|failed| range_error(failed, revision, self.hub.published()))?;
            self.hub.forget(revision);
            Ok(())
        })
    }

    fn size_bytes(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            let ask = |client: etcd_client::Client| async move { client.maintenance_client().status().await };
            let status = self.link.once(CHECK, ask).await?;
            Ok(u64::try_from(status.db_size()).unwrap_or(0))
        })
    }
}

impl Link {
    fn entries(&self, found: Vec<KeyValue>) -> Vec<Entry> {
        found.into_iter().filter_map(|found| self.entry(found)).collect()
    }

    /// Our entry for etcd's; `None` for keys that are not ours: below the prefix only UTF-8 is written.
    fn entry(&self, found: KeyValue) -> Option<Entry> {
        let (create_revision, mod_revision) =
            (unsigned(found.create_revision()), unsigned(found.mod_revision()));
        let (key, value) = found.into_key_value();
        let key = std::str::from_utf8(&key).ok()?.strip_prefix(self.prefix())?;
        Some(Entry { key: key.into(), value: Bytes::from(value), create_revision, mod_revision })
    }
}

/// The first key after all keys with this prefix, which ends in a byte below 0xff (a slash at least is).
fn range_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn unsigned(revision: i64) -> Revision {
    Revision::try_from(revision).unwrap_or(0)
}

fn header_revision(header: Option<&etcd_client::ResponseHeader>) -> Revision {
    header.map_or(0, |header| unsigned(header.revision()))
}

/// etcd tells these two apart by words only (its gRPC code is OutOfRange for both).
fn range_error(failed: Failed, requested: Revision, current: Revision) -> StoreError {
    if failed.says("compacted") {
        StoreError::Compacted { requested, oldest: requested.saturating_add(1) }
    } else if failed.says("future revision") {
        StoreError::Future { requested, current }
    } else {
        failed.into()
    }
}
