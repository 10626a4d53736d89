//! `kill -9` in the middle of writes by many writers: nothing acknowledged is lost, and no revision comes twice.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairlead_store::{Embedded, EmbeddedOptions, Revision, Store, StoreError, Write};

use crate::backend::{Backend, DEADLINE, EtcdProcess};
use crate::{events_until, value};

const WRITERS: usize = 20;
const DIRECTORY: &str = "FAIRLEAD_STORE_CHILD_DIRECTORY";
const ROUND: &str = "FAIRLEAD_STORE_CHILD_ROUND";

/// The child: writes until it is killed, and says on its output what was acknowledged.
#[test]
#[ignore = "runs as the child process of the crash test"]
fn child_writes_until_killed() {
    let (Ok(directory), Ok(round)) = (std::env::var(DIRECTORY), std::env::var(ROUND)) else {
        panic!("only the crash test starts this");
    };
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let store = Arc::new(Embedded::open(directory, EmbeddedOptions::default()).expect("open"));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (store, round) = (store.clone(), round.clone());
                tokio::spawn(async move {
                    for n in 0.. {
                        let key = format!("k/{round}/{writer}/{n}");
                        let text = value(&key.repeat(1 + n % 40));
                        let writes = vec![Write::create(&key, text), Write::put("hot", value(&key))];
                        let revision = store.commit(writes).await.expect("commit");
                        let line = format!("ack {key} {revision}\n");
                        // One write for each line: a killed process leaves no half of one behind another.
                        std::io::stdout().write_all(line.as_bytes()).expect("say so");
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.expect("writer");
        }
    });
}

/// Runs the child, kills it after `enough` acknowledgements, and gives those.
fn crash(directory: &std::path::Path, round: usize, enough: usize) -> HashMap<String, Revision> {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["crash::child_writes_until_killed", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("start the child");
    let output = BufReader::new(child.stdout.take().expect("its output"));
    let mut acknowledged = HashMap::new();
    for line in output.lines() {
        let line = line.expect("a line");
        // The first line shares its line with the test harness's.
        let Some((_, ack)) = line.split_once("ack ") else { continue };
        let Some((key, revision)) = ack.split_once(' ') else { continue };
        let Ok(revision) = revision.parse() else { continue };
        acknowledged.insert(key.to_owned(), revision);
        if acknowledged.len() == enough {
            // SIGKILL; what it had said until then is still read.
            child.kill().expect("kill");
        }
    }
    child.wait().expect("wait");
    assert!(acknowledged.len() >= enough, "the child ended by itself after {}", acknowledged.len());
    acknowledged
}

async fn check_all_there(store: &dyn Store, acknowledged: &HashMap<String, Revision>) {
    let page = store.list("k/", None, 0, None).await.expect("list");
    let there: HashMap<_, _> = page.entries.iter().map(|entry| (entry.key.to_string(), entry)).collect();
    for (key, revision) in acknowledged {
        let entry =
            there.get(key).unwrap_or_else(|| panic!("{key} was acknowledged at {revision} and is lost"));
        assert_eq!((entry.mod_revision, entry.create_revision), (*revision, *revision), "{key}");
        assert!(entry.value.starts_with(key.as_bytes()), "{key} holds something else");
    }
    let mut revisions: Vec<_> = page.entries.iter().map(|entry| entry.mod_revision).collect();
    let count = revisions.len();
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), count, "two transactions have the same revision");
    let newest = acknowledged.values().max().copied().unwrap_or(0);
    assert!(page.revision >= newest, "the revision went back from {newest} to {}", page.revision);
    // Both keys of a transaction are there or none.
    let hot = store.get("hot").await.expect("get").entry.expect("written by every transaction");
    assert_eq!(revisions.last(), Some(&hot.mod_revision), "a transaction was applied by half");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_loses_nothing_when_killed_in_the_middle_of_writes() {
    let backend = Backend::embedded();
    let mut acknowledged = HashMap::new();
    for (round, enough) in [400, 1500, 50, 3000].into_iter().enumerate() {
        let directory = backend.directory().to_owned();
        let newest_before = acknowledged.values().max().copied().unwrap_or(0);
        let more =
            tokio::task::spawn_blocking(move || crash(&directory, round, enough)).await.expect("crash");
        assert!(more.values().all(|revision| *revision > newest_before), "a revision was given twice");
        acknowledged.extend(more);
        let store =
            Embedded::open(backend.directory(), EmbeddedOptions::default()).expect("open after the crash");
        check_all_there(&store, &acknowledged).await;
        let now = store.current_revision().await.expect("revision");
        let mut stream = store.watch("k/", now.saturating_sub(100)).await.expect("watch");
        let events = events_until(&mut stream, now).await;
        assert!(events.windows(2).all(|pair| pair[0].revision < pair[1].revision));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_etcd_goes_on_without_gap_when_etcd_is_killed() {
    let etcd = Arc::new(EtcdProcess::start());
    let store = etcd.connect().await;
    let start = store.current_revision().await.expect("revision");
    let mut stream = store.watch("k/", start).await.expect("watch");
    let stop = Instant::now() + Duration::from_secs(4);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut acknowledged = HashMap::new();
                for n in 0.. {
                    if Instant::now() > stop {
                        break;
                    }
                    let key = format!("k/0/{writer}/{n}");
                    let writes = vec![Write::create(&key, value(&key)), Write::put("hot", value(&key))];
                    match store.commit(writes).await {
                        Ok(revision) => {
                            acknowledged.insert(key, revision);
                        }
                        Err(StoreError::Unavailable(_)) => {
                            tokio::time::sleep(Duration::from_millis(20)).await
                        }
                        Err(other) => panic!("{key}: {other}"),
                    }
                }
                acknowledged
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    etcd.kill();
    tokio::time::sleep(Duration::from_millis(300)).await;
    etcd.start_again();
    let mut acknowledged = HashMap::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("writer"));
    }
    let store_again = etcd.connect().await;
    check_all_there(store_again.as_ref(), &acknowledged).await;
    let now =
        tokio::time::timeout(DEADLINE, store.current_revision()).await.expect("in time").expect("revision");
    let events = events_until(&mut stream, now).await;
    let mut seen = HashMap::new();
    for event in &events {
        assert!(seen.insert(event.key.to_string(), event.revision).is_none(), "{} came twice", event.key);
    }
    for (key, revision) in &acknowledged {
        assert_eq!(seen.get(key), Some(revision), "{key} is missing from the watch");
    }
    assert!(events.windows(2).all(|pair| pair[0].revision < pair[1].revision));
}
