//! The one etcd watch that feeds all watchers, and the background work beside it.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, EventType, GetOptions, Txn, TxnOp, WatchOptions, WatchResponse,
};
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::link::{Attempt, Link, MESSAGE_BYTES, QUICK};
use super::{MARK, signed, unsigned};
use crate::hub::{History, Hub};
use crate::{Entry, Event, Result, Revision, StoreError};

const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_MOST: Duration = Duration::from_secs(5);

/// How long the events of a revision may take before the mark is written to make one.
const NUDGE_AFTER: Duration = Duration::from_millis(100);

/// Follows the prefix and publishes; opens the watch again whenever it breaks.
pub(super) async fn run(link: Link, hub: Arc<Hub>) {
    let mut wait = RECONNECT_FIRST;
    loop {
        let before = hub.published();
        let Err(error) = follow(&link, &hub).await;
        if hub.published() > before {
            wait = RECONNECT_FIRST;
        }
        if let StoreError::Compacted { .. } = error
            && let Ok(revision) = link.mark().await
        {
            tracing::warn!("etcd compacted history that was not read yet, watchers must list again");
            hub.restart(revision);
            continue;
        }
        tracing::warn!(%error, "the watch of etcd broke, it is opened again");
        let first = wait == RECONNECT_FIRST && hub.published() > before;
        if !(first && link.has_others()) {
            tokio::time::sleep(wait).await;
        }
        wait = (wait * 2).min(RECONNECT_MOST);
    }
}

async fn follow(link: &Link, hub: &Hub) -> Result<std::convert::Infallible> {
    let mut watch = Watch::open(link, hub.published()).await?;
    loop {
        let (events, upto) = watch.next(hub.published()).await?;
        hub.publish(upto, events);
    }
}

/// A watch of everything below the prefix, on one member.
struct Watch<'a> {
    link: &'a Link,
    member: usize,
    stream: etcd_client::WatchStream,
}

impl<'a> Watch<'a> {
    /// A watch that starts at (not after) `after`: etcd then says Compacted exactly if a change after it may be
    /// missing. A deletion at the compacted revision itself is not kept by every version of etcd.
    async fn open(link: &'a Link, after: Revision) -> Result<Self> {
        let (member, _) = link.member();
        let open = |client: Client| async move {
            let options =
                WatchOptions::new().with_prefix().with_start_revision(signed(after)).with_prev_key();
            let mut client = client.watch_client().max_decoding_message_size(MESSAGE_BYTES);
            client.watch(link.prefix(), Some(options)).await
        };
        Ok(Watch { link, member, stream: link.once(QUICK, open).await? })
    }

    /// The next events after `after`, and the revision up to which they are complete (0 if nothing is said of that).
    async fn next(&mut self, after: Revision) -> Result<(Vec<Arc<Event>>, Revision)> {
        let lost = |reason: String| {
            self.link.leave(self.member);
            StoreError::Unavailable(format!("etcd: {reason}"))
        };
        let response = match self.stream.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return Err(lost("the watch was ended".to_owned())),
            Err(error) => return Err(lost(error.to_string())),
        };
        if response.compact_revision() > 0 {
            let oldest = unsigned(response.compact_revision());
            return Err(StoreError::Compacted { requested: after, oldest });
        }
        if response.canceled() {
            return Err(lost(format!("the watch was cancelled: {}", response.cancel_reason())));
        }
        Ok(read(self.link, &response, after))
    }
}

/// The revision that etcd was compacted to, which it tells to watches of what is gone.
pub(super) async fn compacted(link: &Link) -> Result<Revision> {
    let mut watch = Watch::open(link, 1).await?;
    loop {
        match watch.next(0).await {
            Err(StoreError::Compacted { oldest, .. }) => return Ok(oldest),
            Err(error) => return Err(error),
            // The answer that the watch was made.
            Ok((events, _)) if events.is_empty() => {}
            Ok(_) => return Ok(1),
        }
    }
}

fn read(link: &Link, response: &WatchResponse, after: Revision) -> (Vec<Arc<Event>>, Revision) {
    let mut upto = 0;
    let mut events = Vec::new();
    for event in response.events() {
        let Some(kv) = event.kv() else { continue };
        let revision = unsigned(kv.mod_revision());
        upto = upto.max(revision);
        if revision > after
            && let Some(event) = translate(link, event, revision)
        {
            events.push(Arc::new(event));
        }
    }
    (events, upto)
}

fn translate(link: &Link, event: &etcd_client::Event, revision: Revision) -> Option<Event> {
    let Entry { key, value, create_revision, .. } = link.entry(event.kv()?.clone())?;
    if key.as_ref() == MARK {
        return None;
    }
    let previous = event.prev_kv().cloned().and_then(|previous| link.entry(previous));
    let put = event.event_type() == EventType::Put;
    let create_revision =
        if put { create_revision } else { previous.as_ref().map_or(0, |entry| entry.create_revision) };
    Some(Event { key, revision, create_revision, value: put.then_some(value), previous })
}

/// Events that the hub has dropped, read from etcd.
pub(super) struct Past {
    pub(super) link: Link,
}

impl History for Past {
    fn read(&self, after: Revision) -> BoxFuture<'_, Result<(Vec<Arc<Event>>, Revision)>> {
        Box::pin(async move {
            let mut watch = Watch::open(&self.link, after).await?;
            // The hub is ahead, and at its revision lies an event below the prefix: so one comes.
            loop {
                let (events, upto) = watch.next(after).await?;
                if upto > after {
                    return Ok((events, upto));
                }
            }
        })
    }
}

/// Sees to it that the watch reaches every wanted revision although no key below the prefix may have changed at it:
/// somebody else can write into the same etcd.
pub(super) async fn nudge(link: Link, hub: Arc<Hub>, mut wanted: watch::Receiver<Revision>) {
    while wanted.changed().await.is_ok() {
        let revision = *wanted.borrow_and_update();
        if hub.published() >= revision {
            continue;
        }
        tokio::time::sleep(NUDGE_AFTER).await;
        if hub.published() < revision
            && let Err(error) = link.mark().await.map_err(StoreError::from)
        {
            tracing::warn!(%error, "the mark could not be written");
        }
    }
}

/// Compacts what is older than `history`. Every server of a cluster runs this; a key that counts compactions decides
/// who does it, as upstream's API servers agree among themselves.
pub(super) async fn compact_periodically(link: Link, history: Duration) {
    let key = link.full(".fairlead/compactions");
    let (mut version, mut revision) = (0, 0);
    loop {
        match turn(&link, &key, version, revision).await.map_err(StoreError::from) {
            Ok(next) => (version, revision) = next,
            Err(error) => tracing::warn!(%error, "etcd could not be compacted"),
        }
        tokio::time::sleep(history).await;
    }
}

/// One turn: whoever finds the key at the version that it saw one period ago compacts to that time's revision.
async fn turn(link: &Link, key: &[u8], version: i64, revision: Revision) -> Attempt<(i64, Revision)> {
    let mine = Compare::version(key, CompareOp::Equal, version);
    let put = TxnOp::put(key, revision.to_string(), None);
    let txn = Txn::new().when([mine]).and_then([put]).or_else([TxnOp::get(key, Some(GetOptions::new()))]);
    let send = |client: Client| {
        let txn = txn.clone();
        async move { client.kv_client().txn(txn).await }
    };
    // One that is lost on the way costs a period, no more.
    let answer = link.call(QUICK, send).await?;
    let now = super::header_revision(answer.header());
    if answer.succeeded() {
        if revision > 0 {
            let compact =
                |client: Client| async move { client.kv_client().compact(signed(revision), None).await };
            match link.call(QUICK, compact).await {
                Err(failed) if !failed.says("compacted") => return Err(failed),
                _ => {}
            }
        }
        return Ok((version + 1, now));
    }
    let seen = match answer.op_responses().first() {
        Some(etcd_client::TxnOpResponse::Get(got)) => got.kvs().first().map_or(0, |kv| kv.version()),
        _ => 0,
    };
    Ok((seen, now))
}
