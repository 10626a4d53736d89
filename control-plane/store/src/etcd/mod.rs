//! The store in an etcd cluster, keys below `/registry/`.
//!
//! All watchers of a process share one etcd watch of the whole prefix: its events come in the order of revisions, so
//! having seen revision N of any key means having seen everything up to N. That holds for every etcd 3.4 and later,
//! unlike etcd's own progress notifications (etcd issue 15220: they could overtake events before 3.4.25 and 3.5.8).

mod follow;
mod lease;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, GetOptions, Identity, KeyValue, PutOptions,
    TlsOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use futures::future::BoxFuture;
use tokio::task::JoinHandle;

use crate::hub::Hub;
use crate::{
    Change, Entry, Expect, Page, Read, Result, Revision, Store, StoreError, WatchStream, Write, check_writes,
};

/// Every key of ours in etcd starts with this; upstream uses the same.
pub(crate) const PREFIX: &str = "/registry/";

/// A key below the prefix that holds nothing: writing it makes every watcher reach the present revision.
const MARK: &str = ".fairlead/mark";

/// The most entries in one answer of etcd.
const PAGE: usize = 500;

/// The largest answer or event batch that is taken from etcd: 1000 revisions of 1.5 MiB would not fit, so etcd's own
/// limits come first.
const MESSAGE_BYTES: usize = 512 << 20;

const ATTEMPTS: u32 = 4;

/// How to reach an etcd cluster.
#[derive(Clone, Debug, Default)]
pub struct EtcdOptions {
    /// The members' client URLs: `https://10.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// Certificates for `https` endpoints.
    pub tls: Option<EtcdTls>,
    /// How long history stays available; `None` leaves compaction to etcd or its operator.
    pub history: Option<Duration>,
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
    tasks: Vec<JoinHandle<()>>,
}

/// A connection, cheap to clone.
#[derive(Clone)]
pub(crate) struct Link {
    client: Client,
}

impl Etcd {
    /// Connects and reads the present revision.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if no member answers or a certificate file cannot be used.
    pub async fn connect(options: EtcdOptions) -> Result<Self> {
        let mut connect = ConnectOptions::new()
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
            .with_keep_alive_while_idle(true)
            .with_connect_timeout(Duration::from_secs(5))
            .with_require_leader(true);
        if options.endpoints.iter().any(|url| url.starts_with("https://")) {
            connect = connect.with_tls(tls_options(options.tls.as_ref())?);
        }
        let client = Client::connect(&options.endpoints, Some(connect)).await.map_err(unavailable)?;
        let link = Link { client };
        let start = link.mark().await?;
        let hub = Arc::new(Hub::new(start));
        let mut tasks = vec![tokio::spawn(follow::run(link.clone(), hub.clone()))];
        if let Some(history) = options.history {
            tasks.push(tokio::spawn(follow::compact_periodically(link.clone(), history)));
        }
        Ok(Etcd { leases: lease::Leases::default(), link, hub, tasks })
    }

    async fn compares_and_effects(&self, writes: &[Write]) -> Result<(Vec<Compare>, Vec<TxnOp>, Vec<TxnOp>)> {
        let (mut compares, mut effects, mut looks) = (Vec::new(), Vec::new(), Vec::new());
        for write in writes {
            let key = full(&write.key);
            match write.expect {
                Expect::Any => {}
                Expect::Absent => compares.push(Compare::version(key.clone(), CompareOp::Equal, 0)),
                Expect::Revision(revision) => {
                    let revision = signed(revision);
                    compares.push(Compare::mod_revision(key.clone(), CompareOp::Equal, revision));
                }
            }
            if write.expect != Expect::Any {
                looks.push(TxnOp::get(key.clone(), None));
            }
            match &write.change {
                Change::Check => {}
                Change::Delete => effects.push(TxnOp::delete(key, None)),
                Change::Put(value) => effects.push(TxnOp::put(key, value.to_vec(), None)),
                Change::PutFor(value, ttl) => {
                    let lease = self.leases.of(&self.link, *ttl).await?;
                    let options = PutOptions::new().with_lease(lease);
                    effects.push(TxnOp::put(key, value.to_vec(), Some(options)));
                }
            }
        }
        Ok((compares, effects, looks))
    }

    async fn transact(&self, writes: Vec<Write>) -> Result<Revision> {
        check_writes(&writes)?;
        if writes.is_empty() {
            return self.current_revision().await;
        }
        let (compares, effects, looks) = self.compares_and_effects(&writes).await?;
        let txn = Txn::new().when(compares).and_then(effects).or_else(looks);
        // Not repeated on failure: whether it was applied is not known, and the caller must be told so.
        let mut kv = self.link.client.kv_client();
        let answer = kv.txn(txn).await.map_err(unavailable)?;
        let revision = header_revision(answer.header());
        if answer.succeeded() { Ok(revision) } else { Err(first_conflict(&writes, &answer)) }
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

impl Link {
    /// Reads one range, again if the connection broke: a read may be repeated.
    async fn range(
        &self,
        key: Vec<u8>,
        options: GetOptions,
    ) -> std::result::Result<Range, etcd_client::Error> {
        let mut wait = Duration::from_millis(50);
        let mut attempt = 1;
        loop {
            let mut kv = self.client.kv_client().max_decoding_message_size(MESSAGE_BYTES);
            match kv.get(key.clone(), Some(options.clone())).await {
                Ok(mut answer) => {
                    let revision = header_revision(answer.header());
                    let more = answer.more();
                    return Ok(Range { entries: entries(answer.take_kvs()), revision, more });
                }
                Err(error) if attempt < ATTEMPTS && passing(&error) => {
                    attempt += 1;
                    tokio::time::sleep(wait).await;
                    wait *= 4;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes the mark; answers with its revision, at which therefore an event lies below the prefix.
    pub(crate) async fn mark(&self) -> Result<Revision> {
        let mut kv = self.client.kv_client();
        let answer = kv.put(full(MARK), Vec::new(), None).await.map_err(unavailable)?;
        Ok(header_revision(answer.header()))
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
            let range = self.link.range(full(key), GetOptions::new()).await.map_err(unavailable)?;
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
        Box::pin(async move {
            let options = GetOptions::new().with_keys_only();
            let range = self.link.range(full(MARK), options).await.map_err(unavailable)?;
            if range.revision > self.hub.published() {
                follow::nudge(self.link.clone(), self.hub.clone(), range.revision);
            }
            Ok(range.revision)
        })
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let mut kv = self.link.client.kv_client();
            let outcome = kv.compact(signed(revision), None).await;
            outcome.map_err(|error| range_error(error, revision, self.hub.published()))?;
            self.hub.forget(revision);
            Ok(())
        })
    }

    fn size_bytes(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            let mut maintenance = self.link.client.maintenance_client();
            let status = maintenance.status().await.map_err(unavailable)?;
            Ok(u64::try_from(status.db_size()).unwrap_or(0))
        })
    }
}

fn tls_options(tls: Option<&EtcdTls>) -> Result<TlsOptions> {
    let read = |path: &PathBuf| {
        std::fs::read(path)
            .map_err(|error| StoreError::Unavailable(format!("etcd certificate {}: {error}", path.display())))
    };
    let mut options = TlsOptions::new();
    if let Some(ca) = tls.and_then(|tls| tls.ca.as_ref()) {
        options = options.ca_certificate(Certificate::from_pem(read(ca)?));
    }
    if let Some((certificate, key)) = tls.and_then(|tls| tls.client.as_ref()) {
        options = options.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(options)
}

/// The failed condition that comes first in the transaction. The `else` branch read each key that has one, in order.
fn first_conflict(writes: &[Write], answer: &TxnResponse) -> StoreError {
    let conditional = writes.iter().filter(|write| write.expect != Expect::Any);
    for (write, response) in conditional.zip(answer.op_responses()) {
        let TxnOpResponse::Get(mut got) = response else { continue };
        let current = entries(got.take_kvs()).into_iter().next();
        let held = match write.expect {
            Expect::Any => true,
            Expect::Absent => current.is_none(),
            Expect::Revision(revision) => {
                current.as_ref().is_some_and(|entry| entry.mod_revision == revision)
            }
        };
        if !held {
            return StoreError::Conflict { key: write.key.clone(), current: current.map(Box::new) };
        }
    }
    StoreError::Unavailable("etcd refused a transaction whose conditions hold".to_owned())
}

fn entries(found: Vec<KeyValue>) -> Vec<Entry> {
    found.into_iter().filter_map(entry).collect()
}

/// Our entry for etcd's; `None` for keys that are not ours: below the prefix only UTF-8 is written.
fn entry(found: KeyValue) -> Option<Entry> {
    let (create_revision, mod_revision) = (unsigned(found.create_revision()), unsigned(found.mod_revision()));
    let (key, value) = found.into_key_value();
    let key = std::str::from_utf8(&key).ok()?.strip_prefix(PREFIX)?;
    Some(Entry { key: key.into(), value: Bytes::from(value), create_revision, mod_revision })
}

fn full(key: &str) -> Vec<u8> {
    [PREFIX, key].concat().into_bytes()
}

/// The first key after all keys with this prefix, which ends in a byte below 0xff (the last byte of `/registry/` is).
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

pub(crate) fn unsigned(revision: i64) -> Revision {
    Revision::try_from(revision).unwrap_or(0)
}

fn header_revision(header: Option<&etcd_client::ResponseHeader>) -> Revision {
    header.map_or(0, |header| unsigned(header.revision()))
}

pub(crate) fn unavailable(error: etcd_client::Error) -> StoreError {
    StoreError::Unavailable(format!("etcd: {error}"))
}

/// Whether a read that failed so may succeed when repeated.
fn passing(error: &etcd_client::Error) -> bool {
    !is(error, "compacted") && !is(error, "future revision")
}

fn is(error: &etcd_client::Error, words: &str) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.message().contains(words))
}

/// etcd tells these two apart by words only (its gRPC code is OutOfRange for both).
fn range_error(error: etcd_client::Error, requested: Revision, current: Revision) -> StoreError {
    if is(&error, "compacted") {
        StoreError::Compacted { requested, oldest: requested.saturating_add(1) }
    } else if is(&error, "future revision") {
        StoreError::Future { requested, current }
    } else {
        unavailable(error)
    }
}
