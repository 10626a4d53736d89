//! WATCH: a stream of events from the cache's ring.
//!
//! Nothing is queued for a watcher: it holds a revision and reads the ring when its connection can take more. One
//! that falls off the ring is cut off with 410, and never holds back another.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use fairlead_api::{
    encode,
    kind::Kind,
    proto,
    status::{self, Status},
    table::{self, Include},
};
use http::Response;
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};

use crate::{
    accept::{Form, Media, Shape},
    api::{Api, Call},
    body::{self, Body},
    cache::{Cache, Change, EventType, Item, line, parse},
    options::{At, WatchOptions},
    read,
    reply::{self, Answer},
    select::{Selector, converted, transition},
};

/// No watch is asked to last longer than this, in seconds: a year.
const LONGEST_WATCH: u64 = 365 * 86_400;
/// Bytes gathered into one frame.
const FRAME: usize = 32 << 10;
/// Changes read from the ring at once.
const BATCH: usize = 256;
/// Upstream's default of `--min-request-timeout`; the real timeout lies between it and its double.
const MIN_TIMEOUT: u64 = 1800;
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// The words of a watch that is asked for in a form that cannot be streamed.
const STREAMS: &str = "only the following media types are accepted: application/json;stream=watch, \
                       application/vnd.kubernetes.protobuf;stream=watch";

/// Answers with a stream of events.
pub async fn watch(api: &Arc<Api>, call: &Call) -> Answer {
    if call.form.media == Media::Yaml {
        return Err(status::failure(406, "NotAcceptable", STREAMS, None));
    }
    let include = read::include(call)?;
    let options = WatchOptions::parse(&call.params)?;
    let selector = Selector::parse(call.kind, &call.params)?.named(&call.resource.name);
    let cache = api.cache(call.kind)?.clone();
    let seconds = options.timeout.unwrap_or_else(|| MIN_TIMEOUT + rand::random::<u64>() % MIN_TIMEOUT);
    let deadline = Instant::now() + Duration::from_secs(seconds.min(LONGEST_WATCH));
    let mut watcher = Watcher {
        shaper: Shaper { kind: call.kind, stored: cache.kind, form: call.form, include, first: true },
        prefix: call.prefix(),
        moved: cache.moved(),
        progress: api.caches.progress(),
        selector,
        at: 0,
        queue: VecDeque::new(),
        bookmarks: options.bookmarks,
        told: 0,
        next_bookmark: Instant::now() + BOOKMARK_EVERY,
        deadline,
        ended: false,
        registered: api.metrics.watcher(call.kind),
        api: api.clone(),
        cache,
    };
    watcher.start(&options).await?;
    Ok(watcher.response(call.form))
}

/// Turns changes into lines of the form asked for.
struct Shaper {
    kind: &'static Kind,
    stored: &'static Kind,
    form: Form,
    include: Include,
    /// Whether no table has been sent yet: the first one carries the columns.
    first: bool,
}

struct Watcher {
    api: Arc<Api>,
    cache: Arc<Cache>,
    shaper: Shaper,
    selector: Selector,
    prefix: String,
    moved: watch::Receiver<u64>,
    progress: watch::Receiver<u64>,
    /// Every change up to this revision has been sent or passed over.
    at: u64,
    /// Objects of the initial list that are still to be sent; a change is not looked at before they are.
    queue: VecDeque<Initial>,
    bookmarks: bool,
    /// The revision of the last bookmark or event that was sent.
    told: u64,
    next_bookmark: Instant,
    deadline: Instant,
    ended: bool,
    registered: crate::metrics::Registered,
}

enum Initial {
    Object(Arc<Item>),
    End(u64),
}

impl Watcher {
    async fn start(&mut self, options: &WatchOptions) -> Result<(), Status> {
        if let Some(from) = options.from {
            self.at = from;
            return Ok(());
        }
        let applied = match options.at {
            // A watch that starts in the future ends empty, as upstream's does.
            At::NotOlderThan(revision) => match self.api.caches.reach(revision).await {
                Ok(()) => self.api.caches.applied(),
                Err(_) => {
                    self.ended = true;
                    return Ok(());
                }
            },
            at => read::wait(&self.api, at).await?,
        };
        let query = crate::cache::Query { prefix: &self.prefix, ..Default::default() };
        let stored = self.cache.kind;
        let snapshot = self
            .cache
            .list(query, applied, |item| self.selector.matches(stored, item))
            .map_err(|old| status::too_old(applied, old.oldest))?;
        self.at = snapshot.revision;
        if options.initial {
            self.queue.extend(snapshot.items.into_iter().map(Initial::Object));
        }
        if options.initial_end {
            self.queue.push_back(Initial::End(snapshot.revision));
        }
        Ok(())
    }

    fn response(self, form: Form) -> Response<Body> {
        let mut response = reply::respond(200, form.media.content_type(), Bytes::new());
        if form.media == Media::Protobuf {
            let streamed = http::HeaderValue::from_static("application/vnd.kubernetes.protobuf;stream=watch");
            response.headers_mut().insert(http::header::CONTENT_TYPE, streamed);
        }
        let stream = futures::stream::unfold(self, |mut watcher| async move {
            watcher.next().await.map(|frame| (Ok(frame), watcher))
        });
        *response.body_mut() = body::stream(stream);
        response
    }

    /// The next bytes; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.ended {
                return None;
            }
            if let Some(frame) = self.initial() {
                return Some(frame);
            }
            self.moved.borrow_and_update();
            let applied = *self.progress.borrow_and_update();
            match self.cache.since(self.at, BATCH) {
                Err(old) => return Some(self.cut_off(old.oldest)),
                Ok(changes) if changes.is_empty() => self.at = self.at.max(applied),
                Ok(changes) => {
                    if let Some(frame) = self.frame(&changes) {
                        return Some(frame);
                    }
                    continue;
                }
            }
            if let Some(frame) = self.pause().await {
                return Some(frame);
            }
        }
    }

    /// Waits for a change, a bookmark's time or the end.
    async fn pause(&mut self) -> Option<Bytes> {
        let wake = if self.bookmarks { self.deadline.min(self.next_bookmark) } else { self.deadline };
        let stopping = self.api.stopping.clone();
        tokio::select! {
            changed = self.moved.changed() => self.ended = changed.is_err(),
            () = stopping.cancelled() => self.ended = true,
            () = tokio::time::sleep_until(wake) => {
                if Instant::now() >= self.deadline {
                    self.ended = true;
                    // A last bookmark spares the client's next watch everything that it need not see again.
                    return (self.bookmarks && self.at > self.told).then(|| self.bookmark(self.at, false));
                }
                self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                let applied = *self.progress.borrow();
                if self.cache.since(self.at, 1).is_ok_and(|changes| changes.is_empty()) {
                    self.at = self.at.max(applied);
                }
                return Some(self.bookmark(self.at, false));
            }
        }
        None
    }

    fn initial(&mut self) -> Option<Bytes> {
        let (mut out, mut events) = (BytesMut::new(), 0);
        while let Some(initial) = self.queue.pop_front() {
            match initial {
                Initial::Object(item) => {
                    if let Some(line) = self.shaper.object(EventType::Added, &item.body) {
                        out.extend_from_slice(&line);
                        events += 1;
                    }
                }
                Initial::End(revision) => out.extend_from_slice(&self.bookmark(revision, true)),
            }
            if out.len() >= FRAME {
                break;
            }
        }
        self.registered.sent(events, out.len());
        (!out.is_empty()).then(|| out.freeze())
    }

    /// The events of these changes that the watcher is to see.
    fn frame(&mut self, changes: &[Arc<Change>]) -> Option<Bytes> {
        let mut lines: Vec<Bytes> = Vec::new();
        for change in changes {
            self.at = self.at.max(change.revision);
            let Some(item) = change.new.as_ref().or(change.old.as_ref()) else { continue };
            if !item.key.starts_with(&self.prefix) {
                continue;
            }
            let (before, after) =
                transition(&self.selector, self.cache.kind, change.old.as_ref(), change.new.as_ref());
            if let Some(event) = change.seen(before, after)
                && let Some(line) = self.shaper.change(change, event)
            {
                lines.push(line);
                self.told = change.revision;
            }
        }
        self.registered.sent(lines.len(), lines.iter().map(Bytes::len).sum());
        match lines.len() {
            0 => None,
            1 => lines.pop(),
            _ => Some(lines.concat().into()),
        }
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool) -> Bytes {
        self.told = revision;
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        self.shaper.bookmark(metadata)
    }

    /// The event that tells a watcher that it has fallen behind what is kept.
    fn cut_off(&mut self, oldest: u64) -> Bytes {
        self.ended = true;
        self.shaper.event("ERROR", &status::too_old(self.at, oldest).0)
    }
}

impl Shaper {
    fn change(&mut self, change: &Change, event: EventType) -> Option<Bytes> {
        if self.plain() {
            return change.line(self.stored, event);
        }
        self.object(event, &change.body(event)?)
    }

    fn plain(&self) -> bool {
        self.form.media == Media::Json && self.form.shape == Shape::Object && self.kind.convert.is_none()
    }

    fn object(&mut self, event: EventType, body: &Bytes) -> Option<Bytes> {
        if self.plain() {
            return Some(line(self.stored, event, body));
        }
        let object = converted(self.kind, parse(&crate::cache::typed(self.stored, body)));
        let shaped = self.shape(object);
        Some(self.event(event.word(), &shaped))
    }

    fn shape(&mut self, object: Value) -> Value {
        match self.form.shape {
            Shape::Object => object,
            Shape::Partial(version) => reply::partial(version, &object),
            Shape::Table(version) => {
                let meta = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let headers = std::mem::take(&mut self.first);
                let objects = std::slice::from_ref(&object);
                let table = table::table(self.kind, objects, self.include, meta, &reply::printing(), headers);
                reply::versioned(table, version)
            }
        }
    }

    fn bookmark(&mut self, metadata: Value) -> Bytes {
        let object =
            json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata});
        let shaped = match self.form.shape {
            Shape::Table(version) => {
                json!({"kind": "Table", "apiVersion": version, "metadata": metadata, "columnDefinitions": [], "rows": []})
            }
            Shape::Partial(version) => reply::partial(version, &object),
            Shape::Object => object,
        };
        self.event("BOOKMARK", &shaped)
    }

    fn event(&self, word: &str, object: &Value) -> Bytes {
        if self.form.media == Media::Protobuf
            && let Some(frame) = protobuf_event(word, object)
        {
            return frame;
        }
        format!("{{\"type\":\"{word}\",\"object\":{object}}}\n").into()
    }
}

/// One frame of a protobuf watch stream.
fn protobuf_event(word: &str, object: &Value) -> Option<Bytes> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let message = proto::message_of(text("apiVersion"), text("kind"))?;
    let raw = encode::protobuf(message.name, text("apiVersion"), text("kind"), object)?;
    Some(encode::watch_event(word, &raw).into())
}
