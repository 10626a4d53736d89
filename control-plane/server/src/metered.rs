//! A store whose calls are timed and counted.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
    time::Instant,
};

use fairlead_api::kinds::REGISTRY;
use fairlead_store::{Change, Expect, Page, Read, Result, Revision, Store, StoreError, WatchStream, Write};
use futures::{FutureExt, future::BoxFuture};

use crate::metrics::Metrics;

/// Counts what goes to `store`.
pub struct Metered {
    pub store: Arc<dyn Store>,
    pub metrics: Metrics,
}

/// Storage -> resource, the label that calls are counted under.
static RESOURCES: LazyLock<HashMap<&'static str, &'static str>> =
    LazyLock::new(|| REGISTRY.iter().map(|kind| (kind.storage, kind.plural)).collect());

fn resource(key: &str) -> &'static str {
    let storage = key.split('/').next().unwrap_or_default();
    RESOURCES.get(storage).copied().unwrap_or_default()
}

/// What a transaction does to its object, which it writes first.
fn operation(writes: &[Write]) -> (&'static str, &'static str) {
    let Some(first) = writes.first() else { return ("", "") };
    let operation = match (&first.change, first.expect) {
        (Change::Delete, _) => "delete",
        (Change::Check, _) => "get",
        (_, Expect::Absent) => "create",
        _ => "update",
    };
    (operation, resource(&first.key))
}

impl Metered {
    fn timed<'a, T: Send + 'a>(
        &'a self,
        (operation, resource): (&'static str, &'static str),
        call: BoxFuture<'a, Result<T>>,
    ) -> BoxFuture<'a, Result<T>> {
        let since = Instant::now();
        async move {
            let result = call.await;
            // That a condition did not hold is an answer and no failure.
            let failed = matches!(&result, Err(error) if !matches!(error, StoreError::Conflict { .. }));
            self.metrics.stored(operation, resource, since, failed);
            result
        }
        .boxed()
    }
}

impl Store for Metered {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Read>> {
        self.timed(("get", resource(key)), self.store.get(key))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
        limit: usize,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Page>> {
        self.timed(("list", resource(prefix)), self.store.list(prefix, start_after, limit, at))
    }

    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Revision>> {
        self.timed(operation(&writes), self.store.commit(writes))
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> BoxFuture<'a, Result<WatchStream>> {
        self.store.watch(prefix, after)
    }

    fn current_revision(&self) -> BoxFuture<'_, Result<Revision>> {
        self.store.current_revision()
    }

    fn oldest_revision(&self) -> BoxFuture<'_, Result<Revision>> {
        self.store.oldest_revision()
    }

    fn check(&self) -> BoxFuture<'_, Result<()>> {
        self.store.check()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<()>> {
        self.store.compact(revision)
    }

    fn size_bytes(&self) -> BoxFuture<'_, Result<u64>> {
        self.store.size_bytes()
    }
}
