//! GET and LIST.

use std::sync::Arc;

use fairlead_api::{
    kind::Kind,
    status::{self, Status},
    table::Include,
};
use serde_json::{Value, json};

use crate::{
    accept::Shape,
    api::{Api, Call, behind, unavailable},
    cache::{Item, Query, Snapshot, TooOld},
    component,
    options::{At, ListOptions, token},
    reply::{self, Answer, Items, List},
    select::{Selector, converted},
};

/// What rows of a table carry of their objects: a question that only tables ask.
///
/// # Errors
/// 400 for a policy that does not exist.
pub fn include(call: &Call) -> Result<Include, Status> {
    if !matches!(call.form.shape, Shape::Table(_)) {
        return Ok(Include::Metadata);
    }
    Include::parse(call.params.get("includeObject").unwrap_or_default()).map_err(status::bad_request)
}

/// Waits until the cache is as new as the read asks for.
///
/// # Errors
/// 504 for a revision that has not happened.
pub async fn wait(api: &Api, at: At) -> Result<u64, Status> {
    match at {
        At::Fresh => api.caches.fresh().await.map_err(behind),
        At::Any => Ok(api.caches.applied()),
        At::NotOlderThan(revision) | At::Exactly(revision) => {
            api.caches.reach(revision).await.map_err(behind)?;
            Ok(api.caches.applied())
        }
    }
}

/// GET of one object.
pub async fn get(api: &Api, call: &Call) -> Answer {
    let include = include(call)?;
    let at = match call.params.get("resourceVersion").unwrap_or_default() {
        "" => At::Fresh,
        "0" => At::Any,
        text => At::NotOlderThan(text.parse().map_err(|_| {
            status::bad_request(format!("invalid resource version {}", status::quoted(text)))
        })?),
    };
    if let Some(made) = component::objects(api, call.kind).await {
        let name = call.resource.name.as_str();
        let object = made.iter().find(|object| object["metadata"]["name"] == name);
        let bytes = serde_json::to_vec(object.ok_or_else(|| call.not_found())?).unwrap_or_default();
        return Ok(reply::object(call.form, call.kind, 200, include, bytes.into()));
    }
    wait(api, at).await?;
    let cache = api.cache(call.kind)?;
    let item = cache.get(&call.key()).ok_or_else(|| call.not_found())?;
    Ok(reply::object(call.form, call.kind, 200, include, served(call.kind, cache.kind, &item)))
}

/// An item's bytes in the served version, with their type.
pub fn served(kind: &'static Kind, stored: &Kind, item: &Item) -> bytes::Bytes {
    if kind.convert.is_none() {
        return item.object(kind);
    }
    serde_json::to_vec(&converted(kind, item.value(stored))).unwrap_or_default().into()
}

/// LIST of a collection.
pub async fn list(api: &Api, call: &Call) -> Answer {
    let include = include(call)?;
    let options = ListOptions::parse(&call.params)?;
    let selector = Selector::parse(call.kind, &call.params)?;
    let cache = api.cache(call.kind)?;
    if let Some(made) = component::objects(api, call.kind).await {
        let items = Items::Parsed(made);
        let list = List { stored: cache.kind, items, meta: json!({}), gzip: call.gzip };
        return Ok(reply::list(call.form, call.kind, include, list));
    }
    let snapshot = snapshot(api, call, &options, &selector).await?;
    let mut meta = json!({"resourceVersion": snapshot.revision.to_string()});
    if snapshot.more
        && let Some(last) = snapshot.items.last()
    {
        meta["continue"] = token(Some(snapshot.revision), &last.key).into();
        if selector.is_all() {
            meta["remainingItemCount"] = snapshot.remaining.into();
        }
    }
    let items = if call.kind.convert.is_none() {
        Items::Kept(snapshot.items)
    } else {
        Items::Parsed(parsed(call.kind, cache.kind, &snapshot.items))
    };
    let list = List { stored: cache.kind, items, meta, gzip: call.gzip };
    Ok(reply::list(call.form, call.kind, include, list))
}

fn parsed(kind: &'static Kind, stored: &Kind, items: &[Arc<Item>]) -> Vec<Value> {
    items.iter().map(|item| converted(kind, item.value(stored))).collect()
}

/// The objects that a list selects.
///
/// # Errors
/// 410 for a revision that is no longer known, 504 for one that has not happened.
pub async fn snapshot(
    api: &Api,
    call: &Call,
    options: &ListOptions,
    selector: &Selector,
) -> Result<Snapshot, Status> {
    let cache = api.cache(call.kind)?;
    let applied = wait(api, options.at).await?;
    let prefix = call.prefix();
    let exact = match options.at {
        At::Exactly(revision) => Some(revision),
        _ => None,
    };
    let query = Query { prefix: &prefix, after: options.after.as_deref(), limit: options.limit, at: exact };
    match cache.list(query, applied, |item| selector.matches(cache.kind, item)) {
        Ok(snapshot) => Ok(snapshot),
        Err(TooOld { .. }) => from_store(api, call, query, selector).await.map_err(|error| {
            match (&options.after, error.code()) {
                (Some(after), 410) => expired_token(after),
                (None, 410) => status::expired("The resourceVersion for the provided list is too old."),
                _ => error,
            }
        }),
    }
}

fn expired_token(after: &str) -> Status {
    let mut status = status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of \
         the results. Continuing with the provided token results in an inconsistent list - objects that were \
         created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    status.0["metadata"]["continue"] = token(None, after).into();
    status
}

/// A snapshot that is older than the ring: the store's history may still have it.
async fn from_store(
    api: &Api,
    call: &Call,
    query: Query<'_>,
    selector: &Selector,
) -> Result<Snapshot, Status> {
    let stored = api.cache(call.kind)?.kind;
    let prefix = format!("{}/{}", stored.storage, query.prefix);
    let mut after = query.after.map(|after| format!("{}/{after}", stored.storage));
    let mut snapshot =
        Snapshot { revision: query.at.unwrap_or(0), items: Vec::new(), more: false, remaining: 0 };
    loop {
        let page = api.store.list(&prefix, after.as_deref(), 500, query.at).await.map_err(unavailable)?;
        for entry in &page.entries {
            let key = entry.key.get(stored.storage.len() + 1..).unwrap_or_default();
            let item = Item::from_stored(stored, key, entry.mod_revision, &entry.value)
                .map_err(|error| status::internal(&error.to_string()))?;
            if query.limit > 0 && snapshot.items.len() == query.limit {
                snapshot.remaining += 1;
                snapshot.more = snapshot.more || selector.matches(stored, &item);
            } else if selector.matches(stored, &item) {
                snapshot.items.push(Arc::new(item));
            }
        }
        match page.entries.last() {
            Some(last) if page.more => after = Some(last.key.to_string()),
            _ => return Ok(snapshot),
        }
    }
}
