//! The one etcd watch that feeds all watchers, and the background work beside it.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, EventType, GetOptions, Txn, TxnOp, WatchOptions, WatchResponse};
use futures::future::BoxFuture;

use super::{Link, MARK, MESSAGE_BYTES, PREFIX, entry, full, signed, unavailable, unsigned};
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
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RECONNECT_MOST);
    }
}

async fn follow(link: &Link, hub: &Hub) -> Result<std::convert::Infallible> {
    let mut stream = open(link, hub.published()).await?;
    loop {
        let response = stream.message().await.map_err(unavailable)?;
        let response = response.ok_or_else(|| StoreError::Unavailable("etcd ended the watch".to_owned()))?;
        let (events, upto) = read(response, hub.published())?;
        hub.publish(upto, events);
    }
}

/// A watch that starts at (not after) `after`: etcd then says Compacted exactly if a change after it may be missing.
/// A deletion at the compacted revision itself is not kept by every version of etcd.
async fn open(link: &Link, after: Revision) -> Result<etcd_client::WatchStream> {
    let options = WatchOptions::new().with_prefix().with_start_revision(signed(after)).with_prev_key();
    let mut client = link.client.watch_client().max_decoding_message_size(MESSAGE_BYTES);
    client.watch(PREFIX, Some(options)).await.map_err(unavailable)
}

/// The events of a response, and the revision up to which they are complete (0 if it says nothing about that).
fn read(response: WatchResponse, after: Revision) -> Result<(Vec<Arc<Event>>, Revision)> {
    if response.compact_revision() > 0 {
        let oldest = unsigned(response.compact_revision());
        return Err(StoreError::Compacted { requested: after, oldest });
    }
    if response.canceled() {
        let reason = response.cancel_reason();
        return Err(StoreError::Unavailable(format!("etcd cancelled the watch: {reason}")));
    }
    let mut upto = 0;
    let mut events = Vec::new();
    for event in response.events() {
        let Some(kv) = event.kv() else { continue };
        let revision = unsigned(kv.mod_revision());
        upto = upto.max(revision);
        if revision > after
            && let Some(event) = translate(event, revision)
        {
            events.push(Arc::new(event));
        }
    }
    Ok((events, upto))
}

fn translate(event: &etcd_client::Event, revision: Revision) -> Option<Event> {
    let Entry { key, value, create_revision, .. } = entry(event.kv()?.clone())?;
    if key.as_ref() == MARK {
        return None;
    }
    let previous = event.prev_kv().cloned().and_then(entry);
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
            let mut stream = open(&self.link, after).await?;
            // The hub is ahead, and at its revision lies an event below the prefix: so one comes.
            while let Some(response) = stream.message().await.map_err(unavailable)? {
                let (events, upto) = read(response, after)?;
                if upto > after {
                    return Ok((events, upto));
                }
            }
            Err(StoreError::Unavailable("etcd ended the watch".to_owned()))
        })
    }
}

/// Sees to it that the watch reaches `revision` although no key below the prefix may have changed at it: somebody
/// else can write into the same etcd.
pub(super) fn nudge(link: Link, hub: Arc<Hub>, revision: Revision) {
    tokio::spawn(async move {
        tokio::time::sleep(NUDGE_AFTER).await;
        if hub.published() < revision
            && let Err(error) = link.mark().await
        {
            tracing::warn!(%error, "the mark could not be written");
        }
    });
}

/// Compacts what is older than `history`. Every server of a cluster runs this; a key that counts compactions decides
/// who does it, as upstream's API servers agree among themselves.
pub(super) async fn compact_periodically(link: Link, history: Duration) {
    const KEY: &str = ".fairlead/compactions";
    let (mut version, mut revision) = (0, 0);
    loop {
        match turn(&link, &full(KEY), version, revision).await {
            Ok(next) => (version, revision) = next,
            Err(error) => tracing::warn!(%error, "etcd could not be compacted"),
        }
        tokio::time::sleep(history).await;
    }
}

/// One turn: whoever finds the key at the version that it saw one period ago compacts to that time's revision.
async fn turn(link: &Link, key: &[u8], version: i64, revision: Revision) -> Result<(i64, Revision)> {
    let mut kv = link.client.kv_client();
    let mine = Compare::version(key, CompareOp::Equal, version);
    let put = TxnOp::put(key, revision.to_string(), None);
    let txn = Txn::new().when([mine]).and_then([put]).or_else([TxnOp::get(key, Some(GetOptions::new()))]);
    let answer = kv.txn(txn).await.map_err(unavailable)?;
    let now = super::header_revision(answer.header());
    if answer.succeeded() {
        if revision > 0 {
            kv.compact(signed(revision), None).await.map_err(unavailable)?;
        }
        return Ok((version + 1, now));
    }
    let seen = match answer.op_responses().first() {
        Some(etcd_client::TxnOpResponse::Get(got)) => got.kvs().first().map_or(0, |kv| kv.version()),
        _ => 0,
    };
    Ok((seen, now))
}
