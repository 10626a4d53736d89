//! Events: what a controller did, or could not do, for `kubectl describe`.
//!
//! A repeated event is counted on the one that is there already; an object that floods is cut to a trickle.
//! Recording never waits and never fails the work it tells of: when the API is slow, events are dropped.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock;

/// Events waiting to be written; more are dropped.
const BACKLOG: usize = 1024;
/// Distinct events that are remembered for counting.
const REMEMBERED: usize = 2048;
/// Events one object may have at once, before it is limited to one per `REFILL`.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);

/// Whether an event tells of normal work or of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Something was done.
    Normal,
    /// Something could not be done.
    Warning,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Subject {
    component: &'static str,
    kind: String,
    namespace: String,
    name: String,
    uid: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Note {
    subject: Subject,
    severity: Severity,
    reason: &'static str,
    message: String,
}

struct Entry {
    note: Note,
    object: ObjectReference,
    at: Timestamp,
}

/// Takes events of one component; clones are cheap.
#[derive(Clone)]
pub struct Recorder {
    component: &'static str,
    entries: mpsc::Sender<Entry>,
}

impl Recorder {
    /// A recorder and the task that writes its events until `shutdown`.
    pub fn new(client: Client, shutdown: CancellationToken) -> (Self, impl Future<Output = ()> + Send) {
        let (entries, receiver) = mpsc::channel(BACKLOG);
        let writer = Writer { client, seen: Seen::default() };
        (Self { component: "fairlead", entries }, writer.run(receiver, shutdown))
    }

    /// The same recorder, speaking as `component`.
    #[must_use]
    pub fn of(&self, component: &'static str) -> Self {
        Self { component, entries: self.entries.clone() }
    }

    /// Notes that something was done with `object`.
    pub fn normal<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &'static str, message: String) {
        self.note(object.object_ref(&()), Severity::Normal, reason, message);
    }

    /// Notes that something could not be done with `object`.
    pub fn warning<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &'static str, message: String) {
        self.note(object.object_ref(&()), Severity::Warning, reason, message);
    }

    /// Notes an event on any object.
    pub fn note(&self, object: ObjectReference, severity: Severity, reason: &'static str, message: String) {
        let subject = Subject {
            component: self.component,
            kind: object.kind.clone().unwrap_or_default(),
            namespace: object.namespace.clone().unwrap_or_default(),
            name: object.name.clone().unwrap_or_default(),
            uid: object.uid.clone().unwrap_or_default(),
        };
        let message = shorten(message);
        let entry = Entry { note: Note { subject, severity, reason, message }, object, at: clock::now() };
        if self.entries.try_send(entry).is_err() {
            tracing::debug!(reason, "event dropped: the API does not keep up");
        }
    }
}

/// The API takes messages of up to 1024 bytes.
fn shorten(mut message: String) -> String {
    if message.len() > 1024 {
        let mut end = 1021;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str("...");
    }
    message
}

struct Written {
    namespace: String,
    name: String,
    count: i32,
}

#[derive(Default)]
struct Seen {
    written: HashMap<Note, Written>,
    order: VecDeque<Note>,
    budget: HashMap<Subject, (f64, Timestamp)>,
}

impl Seen {
    /// Takes one token of the subject's bucket.
    fn admits(&mut self, subject: &Subject, now: Timestamp) -> bool {
        if self.budget.len() >= REMEMBERED {
            self.budget.retain(|_, (_, at)| clock::since(*at, now) < REFILL);
        }
        let (tokens, at) = self.budget.entry(subject.clone()).or_insert((BURST, now));
        let refilled = clock::since(*at, now).as_secs_f64() / REFILL.as_secs_f64();
        *tokens = (*tokens + refilled).min(BURST);
        *at = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }

    fn remember(&mut self, note: Note, written: Written) {
        if self.written.insert(note.clone(), written).is_none() {
            self.order.push_back(note);
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.written.remove(&oldest);
            }
        }
    }
}

struct Writer {
    client: Client,
    seen: Seen,
}

impl Writer {
    async fn run(mut self, mut entries: mpsc::Receiver<Entry>, shutdown: CancellationToken) {
        loop {
            let entry = tokio::select! {
                () = shutdown.cancelled() => return,
                entry = entries.recv() => entry,
            };
            let Some(entry) = entry else { return };
            if !self.seen.admits(&entry.note.subject, entry.at) {
                continue;
            }
            if let Err(error) = self.write(entry).await {
                tracing::debug!(%error, "event not written");
            }
        }
    }

    async fn write(&mut self, entry: Entry) -> Result<(), kube::Error> {
        if let Some(written) = self.seen.written.get_mut(&entry.note) {
            let api: Api<Event> = Api::namespaced(self.client.clone(), &written.namespace);
            let patch = serde_json::json!({
                "count": written.count.saturating_add(1),
                "lastTimestamp": clock::stamp(entry.at),
            });
            match api.patch(&written.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => {
                    written.count = written.count.saturating_add(1);
                    return Ok(());
                }
                // The old event has expired: a new one starts counting again.
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let event = compose(&entry);
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let name = event.metadata.name.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        api.create(&PostParams::default(), &event).await?;
        self.seen.remember(entry.note, Written { namespace, name, count: 1 });
        Ok(())
    }
}

fn compose(entry: &Entry) -> Event {
    let namespace = entry.object.namespace.clone().filter(|namespace| !namespace.is_empty());
    let namespace = namespace.unwrap_or_else(|| "default".to_owned());
    let nanos = u64::try_from(entry.at.as_nanosecond()).unwrap_or_default();
    let at = clock::stamp(entry.at);
    let component = entry.note.subject.component.to_owned();
    Event {
        metadata: kube::api::ObjectMeta {
            name: Some(format!("{}.{nanos:x}", entry.note.subject.name)),
            namespace: Some(namespace),
            ..Default::default()
        },
        involved_object: entry.object.clone(),
        reason: Some(entry.note.reason.to_owned()),
        message: Some(entry.note.message.clone()),
        type_: Some(entry.note.severity.name().to_owned()),
        source: Some(EventSource { component: Some(component.clone()), host: None }),
        reporting_component: Some(component),
        reporting_instance: Some(String::new()),
        first_timestamp: Some(at.clone()),
        last_timestamp: Some(at),
        count: Some(1),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        Subject {
            component: "test",
            kind: "Pod".into(),
            namespace: "default".into(),
            name: "a".into(),
            uid: "1".into(),
        }
    }

    #[test]
    fn a_flooding_object_is_cut_to_one_event_per_five_minutes() {
        let mut seen = Seen::default();
        let start = Timestamp::UNIX_EPOCH;
        let admitted = (0..100).filter(|_| seen.admits(&subject(), start)).count();
        assert_eq!(admitted, 25);
        let later = start + Duration::from_secs(301);
        assert!(seen.admits(&subject(), later));
        assert!(!seen.admits(&subject(), later));
    }

    #[test]
    fn long_messages_end_at_a_character_within_the_limit() {
        let short = shorten("ä".repeat(2000));
        assert!(short.len() <= 1024 && short.ends_with("..."));
    }
}
