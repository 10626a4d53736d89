//! CREATE, UPDATE and the write loop that PATCH and the subresources share:
//! decoded object -> admission -> strategy -> validation -> one store transaction.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use fairlead_api::{
    apply,
    field::{ErrorList, Path, invalid},
    kind::{Act, Kind},
    kinds::certificatesigningrequest as requests,
    meta, pod,
    status::{self, Status},
    validate::IMMUTABLE,
};
use fairlead_store::{Expect, StoreError, Write};
use serde_json::Value;

use crate::{
    admit::{self, Attributes, Operation},
    allocate::{self, Claims},
    api::{Api, Call, behind, key, not_found, store_key, unavailable},
    cache::{parse, to_stored},
    ingest::{self, Verb, WriteOptions},
    managed::{self, Tracking},
    read,
    reply::{self, Answer},
    select::converted,
    verbatim,
};

/// How often a write that lost against another one is tried again.
const RETRIES: usize = 20;
/// How often a name is generated before the server gives up.
const NAMES: usize = 8;

/// What a write is about, wherever it came from.
pub struct Writing<'a> {
    pub api: &'a Arc<Api>,
    pub call: &'a Call,
    pub options: WriteOptions,
    pub warnings: Vec<String>,
    pub part: Part,
    /// The change is made from the present object (PATCH, subresources): a present version is no condition.
    pub derived: bool,
    /// Whether this write still has to say whose its fields are.
    pub tracking: Tracking,
    /// The text of the kind's verbatim field, where the client wrote it itself.
    pub verbatim: Option<String>,
}

/// Which strategy an update follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The main resource.
    Main,
    /// `/status`.
    Status,
    /// `/ephemeralcontainers` of a Pod.
    EphemeralContainers,
    /// `/resize` of a Pod.
    Resize,
    /// `/approval` of a CertificateSigningRequest.
    Approval,
    /// A subresource whose handler changes the object itself: no strategy but the metadata's.
    Inner,
}

/// An object as the store has it, in the served version.
pub struct Current {
    pub object: Value,
    pub revision: u64,
    /// It is as it was created.
    pub pristine: bool,
    /// The text of the kind's verbatim field.
    pub verbatim: Option<String>,
}

/// A written object.
pub struct Written {
    /// JSON with type and resourceVersion, in the served version.
    pub bytes: Bytes,
    pub created: bool,
}

impl<'a> Writing<'a> {
    pub fn new(api: &'a Arc<Api>, call: &'a Call, options: WriteOptions, part: Part) -> Self {
        Writing {
            api,
            call,
            options,
            warnings: Vec::new(),
            part,
            derived: false,
            tracking: Tracking::Writer,
            verbatim: None,
        }
    }

    /// Remembers the body's own text of the kind's verbatim field. Only JSON has one.
    fn wrote(&mut self, media: &str, body: &Bytes) {
        if media == "application/json" {
            self.verbatim = self.call.kind.verbatim.and_then(|field| verbatim::text(body, field));
        }
    }

    /// The field manager of this write.
    pub fn manager(&self) -> &str {
        self.options.manager.as_deref().unwrap_or(&self.call.agent)
    }

    pub fn attributes<'b>(
        &'b self,
        operation: Operation,
        namespace: &'b str,
        name: &'b str,
    ) -> Attributes<'b> {
        Attributes {
            kind: self.call.kind,
            subresource: &self.call.resource.subresource,
            operation,
            namespace,
            name,
            prefix: "",
            user: &self.call.user,
            old: None,
            dry_run: self.options.dry_run,
        }
    }

    /// The answer to a write.
    pub fn answer(&self, written: Written) -> Answer {
        let include = read::include(self.call)?;
        let code = if written.created { 201 } else { 200 };
        Ok(reply::object(self.call.form, self.call.kind, code, include, written.bytes))
    }

    /// Creates `object`, which is decoded and defaulted.
    ///
    /// # Errors
    /// Whatever admission, validation or the store refuse.
    pub async fn create(&mut self, object: Value) -> Result<Written, Status> {
        let generated = object["metadata"]["name"].as_str().unwrap_or_default().is_empty()
            && !object["metadata"]["generateName"].as_str().unwrap_or_default().is_empty();
        if !generated {
            return self.create_once(object).await;
        }
        for _ in 1..NAMES {
            match self.create_once(object.clone()).await {
                Err(refused) if refused.reason() == "AlreadyExists" => {}
                done => return done,
            }
        }
        self.create_once(object).await.map_err(|refused| {
            if refused.reason() != "AlreadyExists" {
                return refused;
            }
            let words = "the server was not able to generate a unique name for the object";
            let message = format!("{}, {words}", refused.message());
            refused.with_message(message).with_retry_after(1)
        })
    }

    async fn create_once(&mut self, mut object: Value) -> Result<Written, Status> {
        let kind = self.call.kind;
        let namespace = self.call.resource.namespace.clone();
        managed::track(self, &mut object, None);
        // Names are generated after admission has changed the object: plugins see, and refuse by, the prefix alone.
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (name, prefix) = (text("name"), text("generateName"));
        let attributes =
            Attributes { prefix: &prefix, ..self.attributes(Operation::Create, &namespace, &name) };
        admit::mutate(self.api, &attributes, &mut object).await?;
        self.name(&mut object);
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let now = now();
        let uid = uuid::Uuid::new_v4().to_string();
        let in_namespace = kind.namespaced.then_some(namespace.as_str());
        meta::prepare_create(kind, &mut object, in_namespace, &uid, &now);
        (kind.prepare_create)(&mut object);
        let mut errors = meta::validate_create(kind, &object);
        errors.extend((kind.validate)(&object));
        self.refuse_invalid(&name, errors)?;
        let attributes = self.attributes(Operation::Create, &namespace, &name);
        admit::validate(self.api, &attributes, &object).await?;
        self.warnings.extend((kind.warnings)(&object, None));
        let key = key(kind, &namespace, &name);
        self.insert(&key, object).await
    }

    /// Draws a name where the client asks for one.
    fn name(&self, object: &mut Value) {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let base = text("generateName");
        if text("name").is_empty() && !base.is_empty() {
            object["metadata"]["name"] = meta::generate_name(base, &suffix()).into();
        }
    }

    fn refuse_invalid(&self, name: &str, errors: ErrorList) -> Result<(), Status> {
        let kind = self.call.kind;
        if errors.is_empty() {
            return Ok(());
        }
        // Upstream names the group of the version that it keeps.
        let group = self.api.caches.of(kind).map_or(kind.group, |cache| cache.kind.group);
        Err(status::invalid(group, kind.kind, name, &errors))
    }

    async fn insert(&self, key: &str, mut object: Value) -> Result<Written, Status> {
        let kind = self.call.kind;
        let stored_key = store_key(kind, key);
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let exists = || status::already_exists(kind.group, kind.plural, &name);
        for _ in 0..RETRIES {
            let claims = self.allocate(&mut object, None).await?;
            if self.options.dry_run {
                let taken = self.api.store.get(&stored_key).await.map_err(unavailable)?.entry.is_some();
                return if taken {
                    Err(exists())
                } else {
                    Ok(Written { bytes: dry(&object), created: true })
                };
            }
            let bytes = self.stored(&object);
            let mut write = Write::create(stored_key.as_str(), bytes.clone());
            if let Some(ttl) = lifetime(&self.api, kind) {
                write = write.lasting(ttl);
            }
            match self.commit(write, &claims).await {
                Ok(revision) => {
                    return Ok(Written { bytes: self.with_revision(&bytes, revision), created: true });
                }
                Err(StoreError::Conflict { key, current }) if key == stored_key => {
                    let deleting = current.is_some_and(|entry| {
                        let object = parse(&entry.value);
                        !object["metadata"]["deletionTimestamp"].is_null()
                    });
                    let refused = exists();
                    let words = format!("object is being deleted: {}", refused.message());
                    return Err(if deleting { refused.with_message(words) } else { refused });
                }
                // Another server took an address in the same moment: draw again.
                Err(StoreError::Conflict { .. }) => self.caught_up().await?,
                Err(error) => return Err(unavailable(error)),
            }
        }
        Err(status::timeout("the write kept losing against others", 1))
    }

    /// Claims addresses for a Service. A refusal may come from what was given back a moment ago: it counts only once
    /// everything that was written has been heard of.
    async fn allocate(&self, object: &mut Value, old: Option<&Value>) -> Result<Claims, Status> {
        let (kind, dry_run) = (self.call.kind, self.options.dry_run);
        if kind.storage != "services" {
            return Ok(Claims::default());
        }
        let mut first = object.clone();
        if let Ok(claims) = self.api.allocators.allocate(kind, &mut first, old, dry_run) {
            *object = first;
            return Ok(claims);
        }
        self.caught_up().await?;
        self.api.allocators.allocate(kind, object, old, dry_run)
    }

    /// Waits until this server has heard of everything that was written.
    async fn caught_up(&self) -> Result<(), Status> {
        self.api.caches.fresh().await.map(|_| ()).map_err(behind)
    }

    /// The text of the kind's verbatim field in `object`.
    fn verbatim(&self, field: &str, object: &Value) -> String {
        self.verbatim.clone().unwrap_or_else(|| object[field].to_string())
    }

    /// A verbatim field whose text changes though its value does not: the value's own check says the rest.
    fn reworded(&self, new: &Value, current: &Current) -> ErrorList {
        let Some((field, was)) = self.call.kind.verbatim.zip(current.verbatim.as_ref()) else {
            return ErrorList::new();
        };
        if new[field] != current.object[field] || self.verbatim(field, new) == *was {
            return ErrorList::new();
        }
        vec![invalid(&Path::new(field), &new[field], IMMUTABLE)]
    }

    /// The bytes for the store, in the stored version.
    fn stored(&self, object: &Value) -> Bytes {
        let kind = self.call.kind;
        if let Some(field) = kind.verbatim {
            return verbatim::put(&to_stored(kind, object), field, &self.verbatim(field, object));
        }
        match (&kind.convert, self.api.caches.of(kind)) {
            (Some(conversion), Some(cache)) => {
                let mut object = object.clone();
                (conversion.to_storage)(&mut object);
                to_stored(cache.kind, &object)
            }
            _ => to_stored(kind, object),
        }
    }

    /// The answer's bytes from the stored ones.
    fn with_revision(&self, stored: &Bytes, revision: u64) -> Bytes {
        let kind = self.call.kind;
        let bytes = insert_revision(stored, revision);
        if kind.convert.is_none() {
            return bytes;
        }
        serde_json::to_vec(&converted(kind, parse(&bytes))).unwrap_or_default().into()
    }

    async fn commit(&self, write: Write, claims: &Claims) -> Result<u64, StoreError> {
        let mut writes = vec![write];
        writes.extend(claims.writes());
        let result = self.api.store.commit(writes).await;
        self.api.allocators.settle(claims, result.is_ok());
        result
    }

    /// The object as the store has it now, in the served version.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn current(&self, key: &str) -> Result<Option<Current>, Status> {
        current(self.api, self.call.kind, key).await
    }

    /// Updates the named object: `change` makes the new object from the present one and is called again when another
    /// write comes between.
    ///
    /// # Errors
    /// Whatever `change`, admission, validation or the store refuse.
    pub async fn update(
        &mut self,
        name: &str,
        mut change: impl FnMut(&mut Self, &Current) -> Result<Value, Status>,
    ) -> Result<Written, Status> {
        let kind = self.call.kind;
        let key = key(kind, &self.call.resource.namespace, name);
        for _ in 0..RETRIES {
            let warned = self.warnings.len();
            let current = self.current(&key).await?.ok_or_else(|| not_found(kind, name))?;
            let new = change(self, &current)?;
            if let Some(written) = self.replace(name, &key, new, &current).await? {
                return Ok(written);
            }
            self.warnings.truncate(warned);
        }
        Err(status::timeout("the write kept losing against others", 1))
    }

    /// One attempt to put `new` in the place of the named object.
    ///
    /// # Errors
    /// As [`Writing::update`].
    pub async fn attempt(&mut self, new: Value, current: &Current) -> Result<Option<Written>, Status> {
        let (name, key) = (self.call.resource.name.clone(), self.call.key());
        let warned = self.warnings.len();
        let written = self.replace(&name, &key, new, current).await?;
        if written.is_none() {
            self.warnings.truncate(warned);
        }
        Ok(written)
    }

    /// One attempt of an update; `None` if another write came between and the client did not insist on a version.
    async fn replace(
        &mut self,
        name: &str,
        key: &str,
        mut new: Value,
        current: &Current,
    ) -> Result<Option<Written>, Status> {
        let kind = self.call.kind;
        let insists = self.check_version(&new, current)?;
        new["metadata"]["resourceVersion"] = current.revision.to_string().into();
        let old = &current.object;
        managed::track(self, &mut new, Some(old));
        let namespace = self.call.resource.namespace.clone();
        let attributes =
            Attributes { old: Some(old), ..self.attributes(Operation::Update, &namespace, name) };
        admit::mutate(self.api, &attributes, &mut new).await?;
        meta::prepare_update(&mut new, old);
        let mut errors = self.strategy(&mut new, old);
        let mut before = meta::validate_update(kind, &new, old);
        before.append(&mut errors);
        before.extend(self.reworded(&new, current));
        self.refuse_invalid(name, before)?;
        let attributes =
            Attributes { old: Some(old), ..self.attributes(Operation::Update, &namespace, name) };
        admit::validate(self.api, &attributes, &new).await?;
        self.warnings.extend((kind.warnings)(&new, Some(old)));
        let claims = self.allocate(&mut new, Some(old)).await?;
        let bytes = self.stored(&new);
        let unchanged = apply::same_but_times(&new, old) && !completed_late(kind, current);
        if unchanged || self.options.dry_run {
            self.api.allocators.settle(&claims, false);
            let shown = if unchanged { self.stored(old) } else { bytes };
            let bytes = self.with_revision(&shown, current.revision);
            return Ok(Some(Written { bytes, created: false }));
        }
        if finished(kind, &new) {
            return self.remove(key, current, bytes).await;
        }
        let mut write = Write::update(store_key(kind, key), current.revision, bytes.clone());
        if let Some(ttl) = lifetime(&self.api, kind) {
            write = write.lasting(ttl);
        }
        match self.commit(write, &claims).await {
            Ok(revision) => Ok(Some(Written { bytes: self.with_revision(&bytes, revision), created: false })),
            Err(StoreError::Conflict { key: lost, .. }) if lost == store_key(kind, key) => {
                if insists {
                    Err(self.modified(name))
                } else {
                    Ok(None)
                }
            }
            Err(StoreError::Conflict { .. }) => {
                self.caught_up().await?;
                Ok(None)
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    /// The strategy of the part that is written, and what is invalid then.
    fn strategy(&self, new: &mut Value, old: &Value) -> ErrorList {
        let kind = self.call.kind;
        match self.part {
            Part::Main => {
                (kind.prepare_update)(new, old);
                allocate::inherit(kind, new, old);
                let mut errors = (kind.validate)(new);
                errors.extend((kind.validate_update)(new, old));
                errors
            }
            Part::Status => {
                (kind.prepare_status)(new, old);
                (kind.validate_status)(new, old)
            }
            Part::EphemeralContainers => {
                pod::update::prepare_ephemeral_containers(new, old);
                count(kind, new, old);
                let mut errors = (kind.validate)(new);
                errors.extend(pod::update::ephemeral_containers(new, old));
                errors
            }
            Part::Resize => {
                pod::update::prepare_resize(new, old);
                count(kind, new, old);
                let mut errors = (kind.validate)(new);
                errors.extend(pod::update::resize(new, old));
                errors
            }
            Part::Approval => {
                requests::prepare_approval(new, old, &now());
                requests::validate_approval(new, old)
            }
            Part::Inner => ErrorList::new(),
        }
    }

    /// The last finalizer went: the object goes with it, and is answered as it was.
    async fn remove(&self, key: &str, current: &Current, bytes: Bytes) -> Result<Option<Written>, Status> {
        let kind = self.call.kind;
        let mut writes = vec![Write::delete(store_key(kind, key), Expect::Revision(current.revision))];
        writes.extend(self.api.allocators.release(kind, &current.object));
        match self.api.store.commit(writes).await {
            Ok(_) => {
                let bytes = self.with_revision(&bytes, current.revision);
                Ok(Some(Written { bytes, created: false }))
            }
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Whether the client insists on the version that it names, which must be the present one.
    fn check_version(&self, new: &Value, current: &Current) -> Result<bool, Status> {
        let kind = self.call.kind;
        let name = new["metadata"]["name"].as_str().unwrap_or_default();
        match new["metadata"]["resourceVersion"].as_str().unwrap_or_default() {
            "" | "0" if kind.unconditional_update || self.derived => Ok(false),
            version if self.derived && version == current.revision.to_string() => Ok(false),
            "" | "0" => {
                let path = fairlead_api::field::Path::new("metadata").child("resourceVersion");
                let error = fairlead_api::field::FieldError {
                    cause: fairlead_api::field::Cause::Invalid,
                    path: path.to_string(),
                    value: Some("0".into()),
                    detail: "must be specified for an update".into(),
                };
                Err(status::invalid(kind.group, kind.kind, name, &vec![error]))
            }
            version if version == current.revision.to_string() => Ok(true),
            // Upstream reads it before it compares, and has no status for one that it cannot read.
            version if version.parse::<u64>().is_err() => Err(status::plain(&format!(
                "strconv.ParseUint: parsing {}: invalid syntax",
                status::quoted(version)
            ))),
            _ => Err(self.modified(name)),
        }
    }

    fn modified(&self, name: &str) -> Status {
        let kind = self.call.kind;
        status::conflict(kind.group, kind.plural, name, status::MODIFIED)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.call.warnings.lock().append(&mut self.warnings);
    }
}

/// The object as the store has it now, in the served version.
///
/// # Errors
/// If the store cannot be read.
pub async fn current(api: &Api, kind: &'static Kind, key: &str) -> Result<Option<Current>, Status> {
    let read = api.store.get(&store_key(kind, key)).await.map_err(unavailable)?;
    Ok(read.entry.map(|entry| {
        let bytes = insert_revision(&entry.value, entry.mod_revision);
        Current {
            object: converted(kind, parse(&bytes)),
            revision: entry.mod_revision,
            pristine: entry.create_revision == entry.mod_revision,
            verbatim: kind.verbatim.and_then(|field| verbatim::text(&entry.value, field)),
        }
    }))
}

/// Upstream gives a Job the labels of its template when it reads the Job, not when it creates it: its first update
/// stores them, and so counts as a change whatever else it changes.
fn completed_late(kind: &Kind, current: &Current) -> bool {
    let meta = &current.object["metadata"];
    let own = &meta["labels"]["batch.kubernetes.io/controller-uid"];
    kind.storage == "jobs" && current.pristine && own.is_string() && *own == meta["uid"]
}

/// Counts a changed spec.
fn count(kind: &Kind, new: &mut Value, old: &Value) {
    if kind.generation && new["spec"] != old["spec"] {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        new["metadata"]["generation"] = (generation + 1).into();
    }
}

/// Whether nothing holds a deleted object any more.
pub fn finished(kind: &Kind, object: &Value) -> bool {
    let meta = &object["metadata"];
    let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    !meta["deletionTimestamp"].is_null()
        && empty(&meta["finalizers"])
        && meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && (kind.storage != "namespaces" || empty(&object["spec"]["finalizers"]))
}

/// Puts the resourceVersion into stored bytes.
pub fn insert_revision(stored: &Bytes, revision: u64) -> Bytes {
    const MARK: &[u8] = br#""metadata":{"#;
    let Some(at) = stored.windows(MARK.len()).position(|window| window == MARK).map(|at| at + MARK.len())
    else {
        return stored.clone();
    };
    let mut out = BytesMut::with_capacity(stored.len() + 40);
    out.put_slice(&stored[..at]);
    out.put_slice(format!(r#""resourceVersion":"{revision}""#).as_bytes());
    if stored.get(at) != Some(&b'}') {
        out.put_u8(b',');
    }
    out.put_slice(&stored[at..]);
    out.freeze()
}

fn dry(object: &Value) -> Bytes {
    serde_json::to_vec(object).unwrap_or_default().into()
}

/// How long objects of a kind are kept, if not for ever.
fn lifetime(api: &Api, kind: &Kind) -> Option<std::time::Duration> {
    (kind.storage == "events" && !api.event_ttl.is_zero()).then_some(api.event_ttl)
}

/// Now, as metadata has it.
pub fn now() -> String {
    let now = jiff::Timestamp::now();
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Five characters of generated names.
pub fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5).map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())])).collect()
}

/// POST to a collection.
pub async fn create(api: &Arc<Api>, call: &Call, media: &str, body: &Bytes) -> Answer {
    let kind = call.kind;
    let options = WriteOptions::parse(Verb::Create, &call.params)?;
    let (object, warnings) = ingest::object(kind, media, body, options.validation)?;
    ingest::check_namespace(&object, &call.resource.namespace)?;
    let mut writing = Writing::new(api, call, options, Part::Main);
    writing.warnings.extend(warnings);
    writing.wrote(media, body);
    if !object["metadata"]["resourceVersion"].as_str().unwrap_or_default().is_empty() {
        return Err(status::plain("resourceVersion should not be set on objects to be created"));
    }
    let written = writing.create(object).await?;
    writing.answer(written)
}

/// PUT of the main resource or of `/status`.
pub async fn update(api: &Arc<Api>, call: &Call, part: Part, media: &str, body: &Bytes) -> Answer {
    let kind = call.kind;
    let options = WriteOptions::parse(Verb::Update, &call.params)?;
    let (mut object, warnings) = ingest::object(kind, media, body, options.validation)?;
    ingest::check_identity(&object, &call.resource.name, &call.resource.namespace)?;
    if kind.namespaced {
        object["metadata"]["namespace"] = call.resource.namespace.as_str().into();
    }
    let mut writing = Writing::new(api, call, options, part);
    writing.warnings.extend(warnings);
    writing.wrote(media, body);
    let name = call.resource.name.clone();
    if part == Part::Main && kind.create_on_update && writing.current(&call.key()).await?.is_none() {
        crate::managed::may_create(api, &writing)?;
        match writing.create(object.clone()).await {
            Err(refused) if refused.reason() == "AlreadyExists" => {}
            done => return writing.answer(done?),
        }
    }
    let written = writing
        .update(&name, |writing, current| {
            same_uid(writing.call, &object, current)?;
            Ok(object.clone())
        })
        .await?;
    writing.answer(written)
}

/// A PUT that names another incarnation of the object.
fn same_uid(call: &Call, object: &Value, current: &Current) -> Result<(), Status> {
    let uid = |object: &Value| object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let (asked, present) = (uid(object), uid(&current.object));
    if asked.is_empty() || asked == present {
        return Ok(());
    }
    let message = format!(
        "StorageError: invalid object, Code: 4, Key: /registry/{}/{}, ResourceVersion: 0, AdditionalErrorMsg: \
         Precondition failed: UID in precondition: {asked}, UID in object meta: {present}",
        call.kind.storage,
        call.key()
    );
    Err(status::conflict(call.kind.group, call.kind.plural, &call.resource.name, &message))
}

/// Whether `/status` is served for this kind.
pub fn has_status(kind: &Kind) -> bool {
    kind.subresources.iter().any(|sub| sub.act == Act::Status)
}
