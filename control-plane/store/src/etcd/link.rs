//! The connection to a cluster: one channel to each member, one of them in use.
//!
//! A member that breaks a connection, does not answer in time or has no leader is left for the next one. The client
//! library could balance over all members itself, but goes on to choose those that are down.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Certificate, Client, ConnectOptions, Error, GetOptions, Identity, TlsOptions};

use super::{EtcdOptions, EtcdTls, MARK, Range, header_revision};
use crate::{Result, Revision, StoreError};

/// How long one member may take to answer.
pub(super) const QUICK: Duration = Duration::from_secs(5);
/// The same for a page of a long list.
const LONG: Duration = Duration::from_secs(20);

/// How long the whole cluster may take, an election included.
const PATIENCE: Duration = Duration::from_secs(12);

const WAIT_FIRST: Duration = Duration::from_millis(10);
const WAIT_MOST: Duration = Duration::from_millis(500);

/// The largest answer or event batch that is taken from etcd: 1000 revisions of 1.5 MiB would not fit, so etcd's own
/// limits come first.
pub(super) const MESSAGE_BYTES: usize = 512 << 20;

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// etcd understood the request and did not do it.
    Refused(Error),
    /// The member or the cluster was lost on the way: the request was carried out or not.
    Lost(String),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        // The gRPC codes that say that nothing was done: invalid argument, not found, already exists, permission
        // denied, resource exhausted, failed precondition, out of range, unimplemented, unauthenticated.
        const REFUSALS: [i32; 9] = [3, 5, 6, 7, 8, 9, 11, 12, 16];
        match &error {
            Error::GRpcStatus(status) if REFUSALS.contains(&(status.code() as i32)) => Failed::Refused(error),
            Error::GRpcStatus(_) | Error::TransportError(_) | Error::IoError(_) => {
                Failed::Lost(error.to_string())
            }
            _ => Failed::Refused(error),
        }
    }
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Refused(error) => StoreError::Unavailable(format!("etcd: {error}")),
            Failed::Lost(reason) => StoreError::Unavailable(format!("etcd: {reason}")),
        }
    }
}

impl Failed {
    /// Whether etcd refused with these words.
    pub(super) fn says(&self, words: &str) -> bool {
        matches!(self, Failed::Refused(Error::GRpcStatus(status)) if status.message().contains(words))
    }
}

/// What came of a request to the cluster.
pub(super) type Attempt<T> = std::result::Result<T, Failed>;

struct Member {
    url: String,
    client: Client,
}

/// Cheap to clone; all clones leave a lost member together.
#[derive(Clone)]
pub(crate) struct Link {
    members: Arc<[Member]>,
    used: Arc<AtomicUsize>,
    /// What stands before every key of ours, with a slash at the end.
    prefix: Arc<str>,
}

impl Link {
    /// Prepares the channels; nothing is sent yet.
    pub(super) async fn prepare(options: &EtcdOptions) -> Result<Self> {
        let mut members = Vec::with_capacity(options.endpoints.len());
        for url in &options.endpoints {
            let mut connect = ConnectOptions::new()
                .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
                .with_keep_alive_while_idle(true)
                .with_connect_timeout(Duration::from_secs(3))
                .with_require_leader(true);
            if url.starts_with("https://") {
                connect = connect.with_tls(tls_options(options.tls.as_ref())?);
            }
            let client = Client::connect([url], Some(connect)).await;
            let client =
                client.map_err(|error| StoreError::Unavailable(format!("etcd at {url}: {error}")))?;
            members.push(Member { url: url.clone(), client });
        }
        if members.is_empty() {
            return Err(StoreError::Unavailable("no member of an etcd cluster is named".to_owned()));
        }
        let prefix = format!("/{}/", options.prefix.trim_matches('/'));
        Ok(Link { members: members.into(), used: Arc::default(), prefix: prefix.into() })
    }

    /// The member in use, with its number.
    pub(super) fn member(&self) -> (usize, Client) {
        let number = self.used.load(Ordering::Relaxed) % self.members.len();
        (number, self.members[number].client.clone())
    }

    /// Leaves a member, unless somebody did so before.
    pub(super) fn leave(&self, number: usize) {
        let next = (number + 1) % self.members.len();
        let _left = self.used.compare_exchange(number, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether there is a member to turn to when one is lost.
    pub(super) fn has_others(&self) -> bool {
        self.members.len() > 1
    }

    /// Asks one member once.
    pub(super) async fn once<T, F>(&self, limit: Duration, work: impl Fn(Client) -> F) -> Attempt<T>
    where
        F: Future<Output = std::result::Result<T, Error>>,
    {
        let (number, client) = self.member();
        let failed = match tokio::time::timeout(limit, work(client)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Failed::from(error),
            Err(_) => Failed::Lost(format!("no answer within {} s", limit.as_secs())),
        };
        if let Failed::Lost(reason) = failed {
            self.leave(number);
            return Err(Failed::Lost(format!("{}: {reason}", self.members[number].url)));
        }
        Err(failed)
    }

    /// Asks one member after the other until one answers. Only for what may be done twice.
    pub(super) async fn call<T, F>(&self, limit: Duration, work: impl Fn(Client) -> F) -> Attempt<T>
    where
        F: Future<Output = std::result::Result<T, Error>>,
    {
        let mut patience = Patience::new();
        loop {
            match self.once(limit, &work).await {
                Err(Failed::Lost(_)) if patience.wait().await => {}
                outcome => return outcome,
            }
        }
    }

    /// Our key as etcd has it.
    pub(super) fn full(&self, key: &str) -> Vec<u8> {
        [&self.prefix, key].concat().into_bytes()
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Reads one range.
    pub(super) async fn range(&self, key: Vec<u8>, options: GetOptions) -> Attempt<Range> {
        let mut answer = self
            .call(LONG, |client| {
                let (key, options) = (key.clone(), options.clone());
                async move {
                    let mut kv = client.kv_client().max_decoding_message_size(MESSAGE_BYTES);
                    kv.get(key, Some(options)).await
                }
            })
            .await?;
        let (revision, more) = (header_revision(answer.header()), answer.more());
        Ok(Range { entries: self.entries(answer.take_kvs()), revision, more })
    }

    /// Writes the mark; answers with its revision, at which therefore an event lies below the prefix.
    pub(super) async fn mark(&self) -> Attempt<Revision> {
        let key = self.full(MARK);
        let put = |client: Client| {
            let key = key.clone();
            async move { client.kv_client().put(key, Vec::new(), None).await }
        };
        Ok(header_revision(self.call(QUICK, put).await?.header()))
    }

    /// The newest revision, linearizable.
    pub(super) async fn revision(&self, limit: Duration) -> Attempt<Revision> {
        let key = self.full(MARK);
        let get = |client: Client| {
            let key = key.clone();
            async move { client.kv_client().get(key, Some(GetOptions::new().with_keys_only())).await }
        };
        Ok(header_revision(self.call(limit, get).await?.header()))
    }
}

/// Growing pauses up to an end.
pub(super) struct Patience {
    end: Instant,
    next: Duration,
}

impl Patience {
    pub(super) fn new() -> Self {
        Patience { end: Instant::now() + PATIENCE, next: WAIT_FIRST }
    }

    /// Pauses; false when it is time to give up.
    pub(super) async fn wait(&mut self) -> bool {
        if Instant::now() + self.next >= self.end {
            return false;
        }
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(WAIT_MOST);
        true
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
