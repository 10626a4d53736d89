//! A disk that is full, and has space again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fairlead_store::{Embedded, EmbeddedOptions, Store, StoreError, Write};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::backend::{DEADLINE, Directory};
use crate::{events_until, value};

/// A small file system in memory, as long as this lives.
struct SmallDisk(Directory);

impl SmallDisk {
    fn new(size: &str) -> Self {
        let directory = Directory::new();
        let options = std::ffi::CString::new(format!("size={size}")).expect("options");
        mount("tmpfs", directory.path(), "tmpfs", MountFlags::empty(), options.as_c_str())
            .expect("mounting a tmpfs (these tests need root)");
        SmallDisk(directory)
    }

    fn store(&self) -> PathBuf {
        self.0.path().join("store")
    }

    /// Takes all space that is left.
    fn fill(&self) -> PathBuf {
        let path = self.0.path().join("ballast");
        let mut file = File::create(&path).expect("create");
        for block in [64 << 10, 4 << 10] {
            while file.write_all(&vec![1; block]).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a failed test may still have files open.
        let _gone = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

async fn until_it_takes_writes(store: &dyn Store) {
    let begin = Instant::now();
    while let Err(error) = store.check().await {
        assert!(begin.elapsed() < DEADLINE, "the store did not recover: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn open(path: &Path) -> Embedded {
    Embedded::open(path, EmbeddedOptions::default()).expect("open")
}

/// Two keys of one transaction; gives whether it was acknowledged.
async fn write(store: &dyn Store, n: usize) -> Result<u64, StoreError> {
    let text = value(&format!("{n} {}", "x".repeat(2000)));
    let writes =
        vec![Write::create(format!("a/{n:05}"), text.clone()), Write::create(format!("b/{n:05}"), text)];
    store.commit(writes).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_writes_whole_and_the_store_comes_back_with_space() {
    let disk = SmallDisk::new("32m");
    let store = open(&disk.store());
    let mut acknowledged = BTreeMap::new();
    let start = store.current_revision().await.expect("revision");
    let mut stream = store.watch("", start).await.expect("watch");
    for round in 0..3 {
        for n in 0..20 {
            let n = round * 100_000 + n;
            acknowledged.insert(n, write(&store, n).await.expect("a write with space"));
        }
        store.check().await.expect("healthy");
        let ballast = disk.fill();
        let mut refused = 0;
        for n in 20..2000 {
            let n = round * 100_000 + n;
            match write(&store, n).await {
                Ok(revision) => {
                    acknowledged.insert(n, revision);
                }
                Err(StoreError::Storage { reason, .. }) => {
                    assert!(!reason.is_empty());
                    refused += 1;
                    if refused == 5 {
                        break;
                    }
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(refused, 5, "the disk was not full");
        store.check().await.expect_err("the store is not healthy");
        // What was acknowledged can still be asked for.
        assert!(
            store.current_revision().await.expect("revision") >= *acknowledged.values().max().expect("some")
        );
        std::fs::remove_file(ballast).expect("make space");
        until_it_takes_writes(&store).await;
    }
    let last = write(&store, 999_999).await.expect("a write after space came back");
    assert!(acknowledged.values().all(|revision| *revision < last), "a revision came twice");
    acknowledged.insert(999_999, last);
    let mut seen = BTreeMap::new();
    for event in events_until(&mut stream, last).await {
        assert!(seen.insert(event.key.to_string(), event.revision).is_none(), "{} came twice", event.key);
    }
    check(&store, &acknowledged, &seen).await;
    drop((stream, store));
    check(&open(&disk.store()), &acknowledged, &seen).await;
}

/// Everything acknowledged is there, nothing is there by half, and the watch saw exactly what is there.
async fn check(store: &dyn Store, acknowledged: &BTreeMap<usize, u64>, seen: &BTreeMap<String, u64>) {
    let page = store.list("", None, 0, None).await.expect("list");
    let there: BTreeMap<String, u64> =
        page.entries.iter().map(|entry| (entry.key.to_string(), entry.mod_revision)).collect();
    assert_eq!(&there, seen);
    for (n, revision) in acknowledged {
        for key in [format!("a/{n:05}"), format!("b/{n:05}")] {
            assert_eq!(there.get(&key), Some(revision), "{key}");
        }
    }
    let half = there.iter().find(|(key, revision)| {
        let other = format!("{}{}", if key.starts_with('a') { "b" } else { "a" }, &key[1..]);
        there.get(&other) != Some(*revision)
    });
    assert_eq!(half, None, "half of a transaction");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_taken_away_is_told_and_never_replaced_by_an_empty_store() {
    let directory = Directory::new();
    let path = directory.path().join("store");
    let store = open(&path);
    write(&store, 1).await.expect("write");
    std::fs::rename(&path, directory.path().join("elsewhere")).expect("move away");
    let begin = Instant::now();
    while store.check().await.is_ok() {
        assert!(begin.elapsed() < DEADLINE, "nobody noticed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let error = write(&store, 2).await.expect_err("a write into a directory that is gone");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    std::fs::rename(directory.path().join("elsewhere"), &path).expect("bring back");
    until_it_takes_writes(&store).await;
    write(&store, 3).await.expect("write again");
    let page = store.list("a/", None, 0, None).await.expect("list");
    let names: Vec<_> = page.entries.iter().map(|entry| entry.key.to_string()).collect();
    assert_eq!(names, ["a/00001", "a/00003"]);
}
