//! DELETE of one object and of a collection: grace, finalizers, propagation, preconditions
//! (`k8s.io/apiserver/pkg/registry/generic/registry`, `…/registry/rest/delete.go`).

use std::sync::Arc;

use bytes::Bytes;
use fairlead_api::{
    decode::{self, Decoded},
    field::{ErrorList, Path, invalid_str, not_supported},
    kind::{Deletion, Kind},
    schema,
    status::{self, Status},
};
use fairlead_store::{Expect, StoreError, Write};
use serde_json::{Value, json};

use crate::{
    admit::{self, Attributes, Operation},
    api::{Api, Call, not_found, store_key, unavailable},
    cache::to_stored,
    ingest::{self, dry_run_errors},
    options::ListOptions,
    read,
    reply::{self, Answer, Items, List},
    select::Selector,
    write::{self, Current, finished, insert_revision, now},
};

const RETRIES: usize = 20;
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// Upstream's warning about the odd default of Jobs.
const JOBS: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to \
                    remove them or set propagationPolicy=Orphan to suppress this warning";

/// Kinds that answer a deletion with the object rather than with a Status, as upstream's strategies say.
const RETURN_DELETED: &[&str] = &[
    "pods",
    "services",
    "serviceaccounts",
    "podtemplates",
    "resourcequotas",
    "persistentvolumes",
    "persistentvolumeclaims",
    "namespaces",
    "storageclasses",
    "csidrivers",
    "csinodes",
    "volumeattachments",
    "volumeattributesclasses",
    "resourceclaims",
    "resourceclaimtemplates",
    "resourceslices",
    "deviceclasses",
];

/// `DeleteOptions`, from the body and the query.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub grace: Option<i64>,
    pub propagation: Option<String>,
    pub orphan: Option<bool>,
    pub dry_run: bool,
    pub uid: Option<String>,
    pub version: Option<String>,
}

impl Options {
    /// Reads the options of a deletion; a body overrides the query.
    ///
    /// # Errors
    /// 400 for what does not parse, 422 for what contradicts itself.
    pub fn parse(call: &Call, media: &str, body: &Bytes) -> Result<Self, Status> {
        if !body.is_empty() {
            return Self::from_value(&read_body(media, body)?);
        }
        let flag = |name: &str| call.params.set(name).map(|_| call.params.flag(name));
        let options = json!({
            "gracePeriodSeconds": crate::options::integer(&call.params, "gracePeriodSeconds")?,
            "propagationPolicy": call.params.set("propagationPolicy"),
            "orphanDependents": flag("orphanDependents"),
            "dryRun": call.params.all("dryRun").collect::<Vec<_>>(),
        });
        Self::from_value(&options)
    }

    /// Reads a DeleteOptions object.
    ///
    /// # Errors
    /// 422 with upstream's words.
    pub fn from_value(value: &Value) -> Result<Self, Status> {
        let text = |v: &Value| v.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
        let dry_run: Vec<&str> =
            value["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let options = Options {
            grace: value["gracePeriodSeconds"].as_i64(),
            propagation: value["propagationPolicy"].as_str().map(str::to_owned),
            orphan: value["orphanDependents"].as_bool(),
            dry_run: !dry_run.is_empty(),
            uid: text(&value["preconditions"]["uid"]),
            version: text(&value["preconditions"]["resourceVersion"]),
        };
        let mut errors = options.errors();
        errors.extend(dry_run_errors(&dry_run));
        if errors.is_empty() {
            Ok(options)
        } else {
            Err(status::invalid("meta.k8s.io", "DeleteOptions", "", &errors))
        }
    }

    /// The default of Jobs is not what most expect.
    fn warn(&self, call: &Call) {
        if call.kind.storage == "jobs" && self.propagation.is_none() && self.orphan.is_none() {
            call.warnings.lock().push(JOBS.to_owned());
        }
    }

    fn errors(&self) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("propagationPolicy");
        if let (Some(_), Some(policy)) = (self.orphan, &self.propagation) {
            let words = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(invalid_str(&path, policy, words));
        }
        if let Some(policy) = &self.propagation
            && !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan")
        {
            let supported = ["Foreground", "Background", "Orphan", "nil"];
            errors.push(not_supported(&path, &json!(policy), &supported));
        }
        errors
    }
}

fn read_body(media: &str, body: &Bytes) -> Result<Value, Status> {
    let decoded = match media {
        "application/yaml" => decode::yaml(body),
        "application/vnd.kubernetes.protobuf" => decode::protobuf(body),
        "application/json" => decode::json(body),
        _ => return Err(status::unsupported_media_type(&ingest::MEDIA)),
    };
    let refuse = |words: String| {
        let words = if media == "application/json" {
            format!("couldn't get version/kind; json parse error: {words}")
        } else {
            words
        };
        status::bad_request(words)
    };
    let Decoded { value, .. } = decoded.map_err(|error| refuse(error.to_string()))?;
    let (version, kind) = decode::type_meta(&value).map_err(|error| refuse(error.to_string()))?;
    if !matches!(kind, "" | "DeleteOptions") {
        let version = if version.is_empty() { "v1" } else { version };
        return Err(status::bad_request(format!(
            "no kind {} is registered for version {} in scheme \
             \"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27\"",
            status::quoted(kind),
            status::quoted(version)
        )));
    }
    if let Some(schema) = schema::of("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions") {
        schema::check(schema, &value).map_err(status::bad_request)?;
    }
    Ok(value)
}

/// What became of an object.
pub enum Outcome {
    /// It is gone; `Some` if the kind answers with the object.
    Gone(Current, Option<Value>),
    /// It stays for now: finalizers or a grace period hold it.
    Held(Value),
}

/// DELETE of the named object.
pub async fn delete(api: &Arc<Api>, call: &Call, media: &str, body: &Bytes) -> Answer {
    let options = Options::parse(call, media, body)?;
    let include = read::include(call)?;
    options.warn(call);
    let outcome = one(api, call, &call.resource.name, &options).await?;
    let object = match outcome {
        Outcome::Held(object) | Outcome::Gone(_, Some(object)) => object,
        Outcome::Gone(last, None) => {
            let uid = last.object["metadata"]["uid"].as_str().unwrap_or_default();
            let kind = call.kind;
            let done = status::deleted(kind.group, kind.plural, &call.resource.name, uid);
            return Ok(reply::status(call.form, &done));
        }
    };
    let bytes = serde_json::to_vec(&object).unwrap_or_default().into();
    Ok(reply::object(call.form, call.kind, 200, include, bytes))
}

/// DELETE of a collection: every object that the selectors select; answers with the list of them.
pub async fn collection(api: &Arc<Api>, call: &Call, media: &str, body: &Bytes) -> Answer {
    let options = Options::parse(call, media, body)?;
    let include = read::include(call)?;
    options.warn(call);
    let list = ListOptions::parse(&call.params)?;
    let selector = Selector::parse(call.kind, &call.params)?;
    let stored = api.cache(call.kind)?.kind;
    let snapshot = read::snapshot(api, call, &list, &selector).await?;
    let mut deleted = Vec::with_capacity(snapshot.items.len());
    for item in snapshot.items {
        let mut own = call.resource.clone();
        own.namespace = item.namespace().to_owned();
        own.name = item.name().to_owned();
        let own = call.named(own);
        match one(api, &own, item.name(), &options).await {
            Ok(_) => deleted.push(item),
            Err(refused) if refused.code() == 404 => {}
            Err(refused) => return Err(refused),
        }
    }
    let meta = json!({"resourceVersion": api.caches.applied().to_string()});
    let values = deleted.iter().map(|item| crate::select::converted(call.kind, item.value(stored))).collect();
    let list = List { stored, items: Items::Parsed(values), meta, gzip: call.gzip };
    Ok(reply::list(call.form, call.kind, include, list))
}

/// Deletes one object as the options say.
///
/// # Errors
/// 404, 409 for preconditions, or what admission refuses.
pub async fn one(api: &Arc<Api>, call: &Call, name: &str, options: &Options) -> Result<Outcome, Status> {
    let kind = call.kind;
    let key = crate::api::key(kind, &call.resource.namespace, name);
    let mut options = options.clone();
    for _ in 0..RETRIES {
        let current = write::current(api, kind, &key).await?.ok_or_else(|| not_found(kind, name))?;
        precondition(kind, name, &options, &current)?;
        let attributes = Attributes {
            kind,
            subresource: "",
            operation: Operation::Delete,
            namespace: &call.resource.namespace,
            name,
            prefix: "",
            user: &call.user,
            old: Some(&current.object),
            dry_run: options.dry_run,
        };
        admit::validate(api, &attributes, &Value::Null).await?;
        if let Some(outcome) = attempt(api, kind, &key, &mut options, current).await? {
            return Ok(outcome);
        }
    }
    Err(status::timeout("the deletion kept losing against other writes", 1))
}

/// Whether the object is the one that the options mean.
///
/// # Errors
/// 409 with upstream's words.
pub fn precondition(kind: &Kind, name: &str, options: &Options, current: &Current) -> Result<(), Status> {
    let conflict = |message: String| Err(status::conflict(kind.group, kind.kind, name, &message));
    let uid = current.object["metadata"]["uid"].as_str().unwrap_or_default();
    match (&options.uid, &options.version) {
        (Some(asked), _) if asked != uid => conflict(format!(
            "the UID in the precondition ({asked}) does not match the UID in record ({uid}). The object might have \
             been deleted and then recreated"
        )),
        (_, Some(asked)) if *asked != current.revision.to_string() => conflict(format!(
            "the ResourceVersion in the precondition ({asked}) does not match the ResourceVersion in record ({}). \
             The object might have been modified",
            current.revision
        )),
        _ => Ok(()),
    }
}

/// One attempt; `None` if another write came between.
async fn attempt(
    api: &Api,
    kind: &'static Kind,
    key: &str,
    options: &mut Options,
    current: Current,
) -> Result<Option<Outcome>, Status> {
    let mut new = current.object.clone();
    let marked = mark(kind, options, &mut new);
    if marked == Mark::Pending {
        return Ok(Some(Outcome::Held(current.object)));
    }
    let mut current = current;
    if new != current.object {
        match save(api, kind, key, options, &new, &current).await? {
            Some(saved) => {
                // The condition was met, and this mark is what changed the version since.
                options.version = options.version.take().map(|_| saved.revision.to_string());
                current = saved;
            }
            None => return Ok(None),
        }
    }
    if marked == Mark::Hold {
        return Ok(Some(Outcome::Held(current.object)));
    }
    let mut shown = current.object.clone();
    if !options.dry_run {
        let mut writes = vec![Write::delete(store_key(kind, key), Expect::Revision(current.revision))];
        writes.extend(api.allocators.release(kind, &current.object));
        match api.store.commit(writes).await {
            // What a kubelet or finalizer had a say in is answered as it was marked, the rest as it went.
            Ok(revision) if kind.grace.is_none() => {
                shown["metadata"]["resourceVersion"] = revision.to_string().into()
            }
            Ok(_) => {}
            Err(StoreError::Conflict { .. }) => return Ok(None),
            Err(error) => return Err(unavailable(error)),
        }
    }
    let shown = RETURN_DELETED.contains(&kind.plural).then_some(shown);
    Ok(Some(Outcome::Gone(current, shown)))
}

/// Writes the marks; answers with the object as it is now.
async fn save(
    api: &Api,
    kind: &'static Kind,
    key: &str,
    options: &Options,
    new: &Value,
    current: &Current,
) -> Result<Option<Current>, Status> {
    if options.dry_run {
        return Ok(Some(Current {
            object: new.clone(),
            revision: current.revision,
            pristine: false,
            verbatim: None,
        }));
    }
    let bytes = match (&kind.convert, api.caches.of(kind)) {
        (Some(conversion), Some(cache)) => {
            let mut stored = new.clone();
            (conversion.to_storage)(&mut stored);
            to_stored(cache.kind, &stored)
        }
        _ => to_stored(kind, new),
    };
    let write = Write::update(store_key(kind, key), current.revision, bytes.clone());
    match api.store.commit(vec![write]).await {
        Ok(revision) => {
            let object = crate::cache::parse(&insert_revision(&bytes, revision));
            Ok(Some(Current {
                object: crate::select::converted(kind, object),
                revision,
                pristine: false,
                verbatim: None,
            }))
        }
        Err(StoreError::Conflict { .. }) => Ok(None),
        Err(error) => Err(unavailable(error)),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mark {
    /// It goes now.
    Now,
    /// It is marked and stays.
    Hold,
    /// It is being deleted already and nothing changes.
    Pending,
}

/// Puts the marks of a deletion on an object.
fn mark(kind: &Kind, options: &Options, object: &mut Value) -> Mark {
    if kind.storage == "namespaces" {
        return mark_namespace(object);
    }
    let graceful = match grace(kind, options, object) {
        Grace::Pending if finished(kind, object) => return Mark::Now,
        Grace::Pending => return Mark::Pending,
        Grace::None => None,
        Grace::Period(period) => Some(period),
    };
    garbage_collection(kind, options, object);
    let pending = object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    match graceful {
        Some(period) if period > 0 || pending => Mark::Hold,
        Some(_) => Mark::Now,
        None if pending => {
            deleting(object, 0);
            Mark::Hold
        }
        None => Mark::Now,
    }
}

/// A namespace goes through phase Terminating, and only when its content is gone does it go.
fn mark_namespace(object: &mut Value) -> Mark {
    if object["metadata"]["deletionTimestamp"].is_null() {
        object["metadata"]["deletionTimestamp"] = now().into();
        object["status"]["phase"] = "Terminating".into();
        return Mark::Hold;
    }
    let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    if empty(&object["metadata"]["finalizers"]) && empty(&object["spec"]["finalizers"]) {
        Mark::Now
    } else {
        Mark::Pending
    }
}

enum Grace {
    /// The kind knows no grace.
    None,
    /// It is on its way already.
    Pending,
    /// The object is marked with this many seconds.
    Period(i64),
}

fn grace(kind: &Kind, options: &Options, object: &mut Value) -> Grace {
    let Some(own) = kind.grace else { return Grace::None };
    if object["metadata"]["deletionTimestamp"].is_null() {
        let period = period(own, options, object);
        deleting(object, period);
        return Grace::Period(period);
    }
    let Some(before) = object["metadata"]["deletionGracePeriodSeconds"].as_i64() else { return Grace::None };
    match options.grace {
        // Only a shorter grace period can be asked for now.
        Some(period) if period < before => {
            let at = object["metadata"]["deletionTimestamp"]
                .as_str()
                .and_then(|t| t.parse::<jiff::Timestamp>().ok());
            let at = at.map(|at| at.as_second() - before + period.max(0));
            if let Some(at) = at.and_then(|at| jiff::Timestamp::from_second(at).ok()) {
                object["metadata"]["deletionTimestamp"] =
                    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
            }
            object["metadata"]["deletionGracePeriodSeconds"] = period.max(0).into();
            Grace::Period(period.max(0))
        }
        _ => Grace::Pending,
    }
}

/// The grace of a pod: asked for, or its own; none if no kubelet has anything to stop.
fn period(own: fn(&Value) -> i64, options: &Options, object: &Value) -> i64 {
    let unscheduled = object["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    let over = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if unscheduled || over {
        return 0;
    }
    match options.grace.unwrap_or_else(|| own(object)) {
        negative if negative < 0 => 1,
        period => period,
    }
}

/// Marks as being deleted in `period` seconds.
fn deleting(object: &mut Value, period: i64) {
    let meta = &mut object["metadata"];
    if meta["deletionTimestamp"].is_null() {
        // A client may ask for more seconds than time has.
        let period = std::time::Duration::from_secs(u64::try_from(period).unwrap_or(0));
        let at = jiff::Timestamp::now().checked_add(period).unwrap_or(jiff::Timestamp::MAX);
        meta["deletionTimestamp"] = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
        if let Some(generation) = meta["generation"].as_i64().filter(|generation| *generation > 0) {
            meta["generation"] = (generation + 1).into();
        }
    }
    meta["deletionGracePeriodSeconds"] = period.into();
}

/// Sets the finalizers that the garbage collector works by.
fn garbage_collection(kind: &Kind, options: &Options, object: &mut Value) {
    if kind.storage == "events" {
        return;
    }
    let present: Vec<String> = object["metadata"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|f| f.as_str().map(str::to_owned))
        .collect();
    let policy = match (options.orphan, options.propagation.as_deref()) {
        (Some(true), _) | (_, Some("Orphan")) => ORPHAN,
        (_, Some("Foreground")) => FOREGROUND,
        (Some(false), _) | (_, Some(_)) => "",
        _ if present.iter().any(|f| f == ORPHAN) => ORPHAN,
        _ if present.iter().any(|f| f == FOREGROUND) => FOREGROUND,
        _ if kind.deletion == Deletion::Orphan => ORPHAN,
        _ => "",
    };
    let mut wanted: Vec<String> =
        present.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned().collect();
    if !policy.is_empty() {
        wanted.push(policy.to_owned());
    }
    let same = wanted.len() == present.len() && wanted.iter().all(|f| present.contains(f));
    if same {
        return;
    }
    if wanted.is_empty() {
        if let Some(meta) = object["metadata"].as_object_mut() {
            meta.remove("finalizers");
        }
    } else {
        object["metadata"]["finalizers"] = wanted.into();
    }
}

#[cfg(test)]
mod tests {
    use fairlead_api::registry;

    use super::*;

    #[track_caller]
    fn check(
        plural: &str,
        group: &str,
        options: Options,
        object: Value,
        want: Mark,
        finalizers: &[&str],
    ) -> Value {
        let kind = registry::find(group, "v1", plural).unwrap();
        let mut object = object;
        assert_eq!(mark(kind, &options, &mut object), want);
        let seen: Vec<&str> = object["metadata"]["finalizers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(seen, finalizers);
        object
    }

    fn with(propagation: &str) -> Options {
        Options { propagation: Some(propagation.into()), ..Options::default() }
    }

    #[test]
    fn propagation_becomes_finalizers() {
        let plain = || json!({"metadata": {"name": "x"}});
        check("configmaps", "", Options::default(), plain(), Mark::Now, &[]);
        check("configmaps", "", with("Foreground"), plain(), Mark::Hold, &[FOREGROUND]);
        check("configmaps", "", with("Orphan"), plain(), Mark::Hold, &[ORPHAN]);
        check("replicationcontrollers", "", Options::default(), plain(), Mark::Hold, &[ORPHAN]);
        check("replicationcontrollers", "", with("Background"), plain(), Mark::Now, &[]);
        let held = json!({"metadata": {"finalizers": [FOREGROUND]}});
        check("configmaps", "", with("Orphan"), held, Mark::Hold, &[ORPHAN]);
    }

    #[test]
    fn a_running_pod_is_given_its_grace_and_an_unscheduled_one_goes_at_once() {
        let pod = |node: &str| json!({"metadata": {"generation": 1}, "spec": {"nodeName": node, "terminationGracePeriodSeconds": 30}});
        let marked = check("pods", "", Options::default(), pod("n"), Mark::Hold, &[]);
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
        assert_eq!(marked["metadata"]["generation"], 2);
        let again = check("pods", "", Options::default(), marked.clone(), Mark::Pending, &[]);
        assert_eq!(again, marked);
        let forced = Options { grace: Some(0), ..Options::default() };
        check("pods", "", forced, marked, Mark::Now, &[]);
        check("pods", "", Options::default(), pod(""), Mark::Now, &[]);
    }

    #[test]
    fn a_namespace_terminates_until_its_finalizers_are_gone() {
        let new = json!({"metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let mut object = check("namespaces", "", Options::default(), new, Mark::Hold, &[]);
        assert_eq!(object["status"]["phase"], "Terminating");
        object = check("namespaces", "", Options::default(), object, Mark::Pending, &[]);
        object["spec"]["finalizers"] = json!([]);
        check("namespaces", "", Options::default(), object, Mark::Now, &[]);
    }
}
