//! What every store promises, checked against both backends. etcd is started from `/usr/bin/etcd` on a free port of
//! the loopback interface; without it these tests fail.

mod backend;
mod crash;
mod full;
mod members;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backend::{Backend, DEADLINE};
use bytes::Bytes;
use fairlead_store::{
    Embedded, EmbeddedOptions, Event, Expect, MAX_WRITES, Revision, Store, StoreError, WatchItem,
    WatchStream, Write,
};
use futures::StreamExt;

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn keys(store: &dyn Store, prefix: &str, at: Option<Revision>) -> Vec<String> {
    let page = store.list(prefix, None, 0, at).await.expect("list");
    page.entries
        .iter()
        .map(|entry| format!("{}={}", entry.key, String::from_utf8_lossy(&entry.value)))
        .collect()
}

async fn next(stream: &mut WatchStream) -> Result<WatchItem, StoreError> {
    tokio::time::timeout(DEADLINE, stream.next())
        .await
        .expect("a watch item in time")
        .expect("the watch goes on")
}

/// Reads until the watch has reached `upto`.
async fn events_until(stream: &mut WatchStream, upto: Revision) -> Vec<Arc<Event>> {
    let mut events: Vec<Arc<Event>> = Vec::new();
    loop {
        match next(stream).await.expect("watch") {
            WatchItem::Events(revision, group) => {
                assert!(group.iter().all(|event| event.revision == revision));
                events.extend(group);
                if revision >= upto {
                    return events;
                }
            }
            WatchItem::Progress(revision) if revision >= upto => return events,
            WatchItem::Progress(_) => {}
        }
    }
}

async fn a_transaction_is_all_or_nothing(backend: &Backend) {
    let store = backend.store().await;
    let first = store.commit(vec![Write::create("a", value("1"))]).await.expect("create");
    let refused = store.commit(vec![Write::create("b", value("1")), Write::create("a", value("2"))]).await;
    match refused {
        Err(StoreError::Conflict { key, current: Some(entry) }) => {
            assert_eq!((key.as_str(), entry.mod_revision, &entry.value[..]), ("a", first, &b"1"[..]));
        }
        other => panic!("a conflict was expected: {other:?}"),
    }
    assert_eq!(store.get("b").await.expect("get").entry, None);
    let both =
        store.commit(vec![Write::create("b", value("1")), Write::update("a", first, value("2"))]).await;
    let both = both.expect("commit");
    assert!(both > first);
    for key in ["a", "b"] {
        assert_eq!(store.get(key).await.expect("get").entry.expect("there").mod_revision, both);
    }
    let read = store.get("a").await.expect("get").entry.expect("there");
    assert_eq!((read.create_revision, &read.value[..]), (first, &b"2"[..]));
}

async fn conditions_name_the_first_key_that_fails(backend: &Backend) {
    let store = backend.store().await;
    let at = store.commit(vec![Write::create("a", value("1"))]).await.expect("create");
    let stale = store.commit(vec![Write::update("a", at + 7, value("2"))]).await;
    assert!(
        matches!(stale, Err(StoreError::Conflict { current: Some(entry), .. }) if entry.mod_revision == at)
    );
    let gone =
        store.commit(vec![Write::check("a", Expect::Revision(at)), Write::update("x", 3, value("2"))]).await;
    assert!(matches!(gone, Err(StoreError::Conflict { key, current: None }) if key == "x"));
    let gone = store.commit(vec![Write::delete("x", Expect::Revision(3))]).await;
    assert!(matches!(gone, Err(StoreError::Conflict { current: None, .. })));
    let deleted = store.commit(vec![Write::delete("a", Expect::Revision(at))]).await.expect("delete");
    assert!(deleted > at);
    let again = store.commit(vec![Write::create("a", value("3"))]).await.expect("create again");
    let entry = store.get("a").await.expect("get").entry.expect("there");
    assert_eq!((entry.create_revision, entry.mod_revision), (again, again));
}

async fn what_changes_nothing_takes_no_revision(backend: &Backend) {
    let store = backend.store().await;
    let at = store.commit(vec![Write::put("a", value("1"))]).await.expect("put");
    assert_eq!(store.commit(vec![Write::delete("none", Expect::Any)]).await.expect("delete"), at);
    assert_eq!(store.commit(vec![Write::check("a", Expect::Revision(at))]).await.expect("check"), at);
    assert_eq!(store.current_revision().await.expect("revision"), at);
}

async fn transactions_that_no_backend_takes_are_refused(backend: &Backend) {
    let store = backend.store().await;
    let twice = vec![Write::put("a", value("1")), Write::put("a", value("2"))];
    let many = (0..=MAX_WRITES).map(|i| Write::put(format!("k{i}"), value("1"))).collect();
    for writes in [twice, many, vec![Write::put("", value("1"))], vec![Write::put("a\0b", value("1"))]] {
        assert!(matches!(store.commit(writes).await, Err(StoreError::Invalid(_))));
    }
}

async fn a_list_pages_at_one_revision_while_others_write(backend: &Backend) {
    let store = backend.store().await;
    for i in 0..10 {
        store.commit(vec![Write::put(format!("p/{i}"), value("old"))]).await.expect("put");
    }
    store.commit(vec![Write::put("q/1", value("other"))]).await.expect("put");
    let first = store.list("p/", None, 4, None).await.expect("list");
    assert_eq!((first.entries.len(), first.more), (4, true));
    for (key, change) in [("p/5", Some("new")), ("p/7", None), ("p/55", Some("late")), ("p/0", None)] {
        let write = match change {
            Some(text) => Write::put(key, value(text)),
            None => Write::delete(key, Expect::Any),
        };
        store.commit(vec![write]).await.expect("write");
    }
    let mut seen: Vec<_> = first.entries.clone();
    let mut more = true;
    while more {
        let after = seen.last().expect("not empty").key.clone();
        let page = store.list("p/", Some(&after), 4, Some(first.revision)).await.expect("list");
        assert_eq!(page.revision, first.revision);
        more = page.more;
        seen.extend(page.entries);
    }
    let names: Vec<_> = seen.iter().map(|entry| entry.key.to_string()).collect();
    assert_eq!(names, (0..10).map(|i| format!("p/{i}")).collect::<Vec<_>>());
    assert!(seen.iter().all(|entry| entry.value == "old"));
    let now = keys(store.as_ref(), "p/", None).await;
    assert!(now.contains(&"p/5=new".to_owned()) && now.contains(&"p/55=late".to_owned()));
    assert!(!now.iter().any(|key| key.starts_with("p/7=") || key.starts_with("p/0=")));
    assert_eq!(now.len(), 9);
    assert_eq!(keys(store.as_ref(), "", None).await.len(), 10);
}

async fn a_watch_has_every_change_once_and_in_order(backend: &Backend) {
    let store = backend.store().await;
    let start = store.current_revision().await.expect("revision");
    store.commit(vec![Write::put("w/early", value("1"))]).await.expect("put");
    let mut stream = store.watch("w/", start).await.expect("watch");
    let writers: Vec<_> = (0..16)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut revisions = Vec::new();
                for n in 0..50 {
                    let outside = Write::put(format!("other/{writer}"), value("x"));
                    let inside = Write::put(format!("w/{writer}"), value(&n.to_string()));
                    let writes = if n % 5 == 4 { vec![outside] } else { vec![inside, outside] };
                    revisions.push((store.commit(writes).await.expect("commit"), n % 5 != 4));
                }
                revisions
            })
        })
        .collect();
    let mut expected = Vec::new();
    let mut last = 0;
    for writer in writers {
        for (revision, inside) in writer.await.expect("writer") {
            last = last.max(revision);
            if inside {
                expected.push(revision);
            }
        }
    }
    let events = events_until(&mut stream, last).await;
    assert_eq!(events[0].key.as_ref(), "w/early");
    let seen: Vec<_> = events[1..].iter().map(|event| event.revision).collect();
    expected.sort_unstable();
    assert_eq!(seen, expected, "each revision once, in order");
    let mut state: BTreeMap<Arc<str>, Arc<Event>> = BTreeMap::new();
    for event in events {
        let before = state.insert(event.key.clone(), event.clone());
        let previous = event.previous.as_ref().map(|entry| (entry.mod_revision, entry.value.clone()));
        let before = before.map(|event| (event.revision, event.value.clone().expect("a put")));
        assert_eq!(previous, before, "the event before at {}", event.revision);
    }
}

async fn a_watch_shows_deletions_with_what_was_there(backend: &Backend) {
    let store = backend.store().await;
    let made = store.commit(vec![Write::put("w/a", value("1"))]).await.expect("put");
    let mut stream = store.watch("w/", made).await.expect("watch");
    let gone = store.commit(vec![Write::delete("w/a", Expect::Any), Write::put("w/b", value("2"))]).await;
    let gone = gone.expect("commit");
    let events = events_until(&mut stream, gone).await;
    assert_eq!(events.len(), 2);
    let delete = events.iter().find(|event| event.key.as_ref() == "w/a").expect("the deletion");
    assert_eq!((delete.revision, delete.create_revision, &delete.value), (gone, made, &None));
    assert_eq!(delete.previous.as_ref().map(|entry| entry.value.clone()), Some(value("1")));
}

async fn a_watch_resumes_where_another_ended(backend: &Backend) {
    let store = backend.store().await;
    let start = store.current_revision().await.expect("revision");
    let mut revisions = Vec::new();
    for n in 0..20 {
        revisions.push(store.commit(vec![Write::put("w/a", value(&n.to_string()))]).await.expect("put"));
    }
    for (n, after) in revisions.iter().enumerate() {
        let mut stream = store.watch("w/", *after).await.expect("watch");
        let last = revisions[revisions.len() - 1];
        let seen: Vec<_> = events_until(&mut stream, last).await.iter().map(|event| event.revision).collect();
        assert_eq!(seen, revisions[n + 1..]);
    }
    let mut stream = store.watch("w/", start).await.expect("watch");
    assert_eq!(events_until(&mut stream, revisions[19]).await.len(), 20);
}

async fn a_slow_watcher_misses_nothing(backend: &Backend) {
    let store = backend.store().await;
    let start = store.current_revision().await.expect("revision");
    let mut stream = store.watch("w/", start).await.expect("watch");
    // More than is kept in memory for watchers: the rest must come from history.
    let big = "x".repeat(64 << 10);
    let mut last = 0;
    for n in 0..160 {
        last = store.commit(vec![Write::put(format!("w/{n:03}"), value(&big))]).await.expect("put");
    }
    let events = events_until(&mut stream, last).await;
    let names: Vec<_> = events.iter().map(|event| event.key.to_string()).collect();
    assert_eq!(names, (0..160).map(|n| format!("w/{n:03}")).collect::<Vec<_>>());
}

async fn compaction_ends_old_watches_and_lists(backend: &Backend) {
    let store = backend.store().await;
    let mut revisions = Vec::new();
    for n in 0..10 {
        revisions.push(store.commit(vec![Write::put("a", value(&n.to_string()))]).await.expect("put"));
    }
    store.compact(revisions[5]).await.expect("compact");
    let old = store.list("", None, 0, Some(revisions[4])).await;
    assert!(matches!(old, Err(StoreError::Compacted { .. })), "{old:?}");
    assert_eq!(keys(store.as_ref(), "", Some(revisions[5])).await, ["a=5"]);
    assert_eq!(keys(store.as_ref(), "", None).await, ["a=9"]);
    let outcome = match store.watch("", revisions[4]).await {
        Ok(mut stream) => next(&mut stream).await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(matches!(outcome, Err(StoreError::Compacted { .. })), "{outcome:?}");
    let mut stream = store.watch("", revisions[5]).await.expect("watch");
    let seen: Vec<_> = events_until(&mut stream, revisions[9]).await.iter().map(|e| e.revision).collect();
    assert_eq!(seen, revisions[6..]);
    let again = store.compact(revisions[3]).await;
    assert!(matches!(again, Err(StoreError::Compacted { .. })), "{again:?}");
}

async fn history_reaches_back_to_the_oldest_revision(backend: &Backend) {
    let store = backend.store().await;
    let first = store.commit(vec![Write::put("a", value("0"))]).await.expect("put");
    assert!(store.oldest_revision().await.expect("oldest") <= first);
    let mut last = first;
    for n in 1..10 {
        last = store.commit(vec![Write::put("a", value(&n.to_string()))]).await.expect("put");
    }
    store.compact(last - 3).await.expect("compact");
    drop(store);
    // Also after a restart.
    let store = backend.store().await;
    let oldest = store.oldest_revision().await.expect("oldest");
    assert_eq!(oldest, last - 3);
    assert_eq!(keys(store.as_ref(), "", Some(oldest)).await, ["a=6"]);
    let mut stream = store.watch("", oldest).await.expect("watch");
    assert_eq!(events_until(&mut stream, last).await.len(), 3);
}

async fn a_watch_without_changes_of_its_own_tells_how_far_it_is(backend: &Backend) {
    let store = backend.store().await;
    let start = store.current_revision().await.expect("revision");
    let mut stream = store.watch("w/", start).await.expect("watch");
    let other = store.commit(vec![Write::put("other/a", value("1"))]).await.expect("put");
    loop {
        match next(&mut stream).await.expect("watch") {
            WatchItem::Progress(revision) if revision >= other => break,
            WatchItem::Progress(_) => {}
            WatchItem::Events(..) => panic!("nothing was written below the prefix"),
        }
    }
}

async fn a_revision_that_has_not_happened_is_refused(backend: &Backend) {
    let store = backend.store().await;
    let now = store.current_revision().await.expect("revision");
    let list = store.list("", None, 0, Some(now + 100)).await;
    assert!(matches!(list, Err(StoreError::Future { .. })), "{list:?}");
    assert!(matches!(store.watch("", now + 100).await, Err(StoreError::Future { .. })));
}

async fn a_key_with_an_end_goes_by_itself_and_not_before(backend: &Backend) {
    let store = backend.store().await;
    let short = Duration::from_secs(1);
    let begin = Instant::now();
    let made = store.commit(vec![
        Write::create("t/short", value("1")).lasting(short),
        Write::create("t/renewed", value("1")).lasting(short),
        Write::create("t/stays", value("1")),
    ]);
    let made = made.await.expect("commit");
    let mut stream = store.watch("t/", made).await.expect("watch");
    let renewed = store.commit(vec![Write::update("t/renewed", made, value("2"))]).await.expect("update");
    let gone = loop {
        if let WatchItem::Events(_, events) = next(&mut stream).await.expect("watch")
            && let Some(event) = events.iter().find(|event| event.value.is_none())
        {
            break event.clone();
        }
    };
    assert_eq!(gone.key.as_ref(), "t/short");
    assert!(gone.revision > renewed && begin.elapsed() >= short);
    assert_eq!(keys(store.as_ref(), "t/", None).await, ["t/renewed=2", "t/stays=1"]);
}

async fn everything_is_there_after_a_restart(backend: &Backend) {
    let (before, revision) = {
        let store = backend.store().await;
        for n in 0..50 {
            store.commit(vec![Write::put(format!("r/{n:02}"), value(&n.to_string()))]).await.expect("put");
        }
        store.commit(vec![Write::delete("r/07", Expect::Any)]).await.expect("delete");
        (keys(store.as_ref(), "r/", None).await, store.current_revision().await.expect("revision"))
    };
    let store = backend.store().await;
    assert_eq!(keys(store.as_ref(), "r/", None).await, before);
    assert!(store.current_revision().await.expect("revision") >= revision);
    let mut stream = store.watch("r/", revision - 1).await.expect("watch");
    let events = events_until(&mut stream, revision).await;
    assert_eq!((events.len(), events[0].key.as_ref()), (1, "r/07"));
}

macro_rules! both {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&super::Backend::embedded()).await;
            })*
        }
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&super::Backend::etcd()).await;
            })*
        }
    };
}

both!(
    a_transaction_is_all_or_nothing,
    conditions_name_the_first_key_that_fails,
    what_changes_nothing_takes_no_revision,
    transactions_that_no_backend_takes_are_refused,
    a_list_pages_at_one_revision_while_others_write,
    a_watch_has_every_change_once_and_in_order,
    a_watch_shows_deletions_with_what_was_there,
    a_watch_resumes_where_another_ended,
    a_slow_watcher_misses_nothing,
    compaction_ends_old_watches_and_lists,
    history_reaches_back_to_the_oldest_revision,
    a_watch_without_changes_of_its_own_tells_how_far_it_is,
    a_revision_that_has_not_happened_is_refused,
    a_key_with_an_end_goes_by_itself_and_not_before,
    everything_is_there_after_a_restart,
);

#[tokio::test]
async fn a_directory_in_use_is_refused_with_its_name() {
    let backend = Backend::embedded();
    let _first = backend.store().await;
    let second = Embedded::open(backend.directory(), EmbeddedOptions::default());
    let error = second.err().expect("refused");
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    assert!(error.to_string().contains(&backend.directory().display().to_string()), "{error}");
}

#[tokio::test]
async fn history_beyond_its_limit_is_forgotten_by_itself() {
    let backend = Backend::embedded();
    let options = EmbeddedOptions { history_changes: 10, ..EmbeddedOptions::default() };
    let store = Embedded::open(backend.directory(), options).expect("open");
    let first = store.commit(vec![Write::put("a", value("0"))]).await.expect("put");
    for n in 1..100 {
        store.commit(vec![Write::put("a", value(&n.to_string()))]).await.expect("put");
    }
    let begin = Instant::now();
    while store.list("", None, 0, Some(first)).await.is_ok() {
        assert!(begin.elapsed() < DEADLINE, "history was not forgotten");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let outcome = store.list("", None, 0, Some(first)).await;
    assert!(matches!(outcome, Err(StoreError::Compacted { .. })), "{outcome:?}");
    assert_eq!(keys(&store, "", None).await, ["a=99"]);
}

#[tokio::test]
async fn closing_the_store_ends_its_watches() {
    let backend = Backend::embedded();
    let store = Embedded::open(backend.directory(), EmbeddedOptions::default()).expect("open");
    let mut stream = store.watch("", 1).await.expect("watch");
    assert_eq!(next(&mut stream).await.expect("progress"), WatchItem::Progress(1));
    drop(store);
    assert!(matches!(next(&mut stream).await, Err(StoreError::Unavailable(_))));
    assert!(stream.next().await.is_none());
}
