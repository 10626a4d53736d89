//! The checks of one kind, in the order in which its object lives.

use std::{collections::VecDeque, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use fairlead_api::kind::{Act, Kind};
use futures::{StreamExt, stream::BoxStream};
use http::{Method, Request};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};

use super::{Row, running::Running};

/// Where the namespaced kinds live.
pub const NAMESPACE: &str = "conformance";
const FINALIZER: &str = "conformance.example.com/hold";
/// What the patches change of a kind whose row names nothing better.
const MARK: &str = "/metadata/annotations/mark";
const PATIENCE: Duration = Duration::from_secs(30);
const JSON: &str = "application/json";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// One kind under test.
struct Subject<'a> {
    server: &'a Running,
    kind: &'a Kind,
    row: &'a Row,
    body: Value,
    /// `/apis/…/plural`
    collection: String,
    /// `/apis/…/plural/name`
    path: String,
    /// Selects this row's objects.
    selector: String,
}

/// Runs every check that the descriptor of `kind` makes sense of.
pub async fn kind(server: &Running, kind: &Kind, row: &Row) -> Result<()> {
    let subject = Subject::new(server, kind, row)?;
    let has = |verb: &str| kind.verbs.contains(&verb);
    for object in &row.before {
        subject.precondition(object).await?;
    }
    if !has("create") {
        return subject.empty().await.context("list");
    }
    ensure!(!row.invalid.is_empty() || !has("update"), "the row has no invalid body");
    if !has("get") {
        return subject.asked_and_answered().await;
    }
    subject.dry_create().await.context("dry run of create")?;
    subject.refused().await.context("invalid create")?;
    let mut watch = subject.watch().await.context("watch")?;
    let made = subject.created().await.context("create")?;
    subject.read(&made).await.context("get, list and table")?;
    let writes = subject.patched().await.context("patch")?;
    subject.updated().await.context("update")?;
    if let Some(status) = subject.status_path() {
        subject.isolated(&status).await.context("status")?;
    }
    subject.deleted().await.context("delete")?;
    watch.story(&made, writes).await.context("watch")?;
    if has("deletecollection") {
        subject.swept().await.context("deletecollection")?;
    }
    Ok(())
}

/// Sets the value at a pointer, making the objects that lead to it.
fn set(object: &mut Value, pointer: &str, value: &Value) {
    let mut at = object;
    for step in pointer.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        at = match step.parse::<usize>() {
            Ok(index) if at.is_array() => &mut at[index],
            _ => &mut at[step],
        };
    }
    *at = value.clone();
}

/// An object that has nothing but the value at the pointer.
fn nested(pointer: &str, value: &Value) -> Value {
    let mut object = json!({});
    set(&mut object, pointer, value);
    object
}

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default()
}

/// The object without what a list or a later write says otherwise.
fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    for key in ["apiVersion", "kind"] {
        object.as_object_mut().map(|map| map.remove(key));
    }
    object
}

fn causes(status: &Value) -> Vec<&str> {
    let causes = status["details"]["causes"].as_array().map_or(&[][..], Vec::as_slice);
    causes.iter().filter_map(|cause| cause["field"].as_str()).collect()
}

impl<'a> Subject<'a> {
    fn new(server: &'a Running, kind: &'a Kind, row: &'a Row) -> Result<Self> {
        let root = if kind.group.is_empty() { "/api" } else { "/apis" };
        let space = if kind.namespaced { format!("/namespaces/{NAMESPACE}") } else { String::new() };
        let collection = format!("{root}/{}{space}/{}", kind.api_version(), kind.plural);
        let group = kind.group.split('.').next().unwrap_or_default();
        let mark = format!("{}-{}-{group}", kind.plural, kind.version);
        let mark = mark.trim_end_matches('-');
        let mut body = row.body.clone();
        body["apiVersion"] = kind.api_version().into();
        body["kind"] = kind.kind.into();
        body["metadata"]["labels"] = json!({"row": mark});
        if body["metadata"]["name"].is_null() {
            body["metadata"]["name"] = mark.into();
        }
        let name = body["metadata"]["name"].as_str().context("a name")?;
        let path = format!("{collection}/{name}");
        Ok(Subject {
            server,
            kind,
            row,
            path,
            collection,
            selector: format!("labelSelector=row%3D{mark}"),
            body,
        })
    }

    /// One request; the answer must have this code.
    async fn send(&self, method: Method, path: &str, media: &str, body: &Value, code: u16) -> Result<Value> {
        let accept = if method == Method::GET && media == TABLE { TABLE } else { JSON };
        let request = Request::builder()
            .method(&method)
            .uri(path)
            .header("accept", accept)
            .header("content-type", media);
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let response = self.server.client.send(request.body(Body::from(bytes))?).await?;
        let got = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        ensure!(got == code, "{method} {path} answered {got} and not {code}: {answer}");
        Ok(answer)
    }

    async fn get(&self, path: &str, code: u16) -> Result<Value> {
        self.send(Method::GET, path, JSON, &Value::Null, code).await
    }

    async fn merge(&self, path: &str, patch: &Value, code: u16) -> Result<Value> {
        self.send(Method::PATCH, path, "application/merge-patch+json", patch, code).await
    }

    async fn precondition(&self, object: &Value) -> Result<()> {
        let (api_version, kind) = (object["apiVersion"].as_str(), object["kind"].as_str());
        let kind = api_version
            .zip(kind)
            .and_then(|(api_version, kind)| fairlead_api::registry::find_kind(api_version, kind))
            .context("a kind that is registered")?;
        let root = if kind.group.is_empty() { "/api" } else { "/apis" };
        let path = format!("{root}/{}/namespaces/{NAMESPACE}/{}", kind.api_version(), kind.plural);
        self.send(Method::POST, &path, JSON, object, 201).await.map(drop)
    }

    /// A kind that is only read.
    async fn empty(&self) -> Result<()> {
        let list = self.get(&self.collection, 200).await?;
        ensure!(list["kind"] == format!("{}List", self.kind.kind) && list["items"].is_array(), "{list}");
        self.get(&self.path, 404).await?;
        self.send(Method::POST, &self.collection, JSON, &self.body, 405).await.map(drop)
    }

    /// A kind that is a question: nothing is stored.
    async fn asked_and_answered(&self) -> Result<()> {
        self.refused().await.context("invalid create")?;
        self.created().await.context("create")?;
        self.send(Method::GET, &self.collection, JSON, &Value::Null, 405).await.context("list").map(drop)
    }

    async fn dry_create(&self) -> Result<()> {
        let path = format!("{}?dryRun=All", self.collection);
        let answer = self.send(Method::POST, &path, JSON, &self.body, 201).await?;
        self.defaulted(&answer)?;
        self.get(&self.path, 404).await.map(drop)
    }

    async fn refused(&self) -> Result<()> {
        for (pointer, value, field) in &self.row.invalid {
            let mut body = self.body.clone();
            set(&mut body, pointer, value);
            let status = self.send(Method::POST, &self.collection, JSON, &body, self.row.code).await;
            let status = status.with_context(|| format!("{pointer} {value}"))?;
            let named = field.is_empty() || causes(&status).contains(&field.as_str());
            ensure!(status["kind"] == "Status" && named, "{field} is not among the causes of {status}");
        }
        if self.kind.verbs.contains(&"get") {
            self.get(&self.path, 404).await?;
        }
        Ok(())
    }

    fn defaulted(&self, answer: &Value) -> Result<()> {
        ensure!(answer["metadata"]["uid"].is_string() || self.row.status.is_none(), "no uid in {answer}");
        for (pointer, value) in &self.row.defaults {
            ensure!(answer.pointer(pointer) == Some(value), "{pointer} is not {value} in {answer}");
        }
        Ok(())
    }

    async fn created(&self) -> Result<Value> {
        let made = self.send(Method::POST, &self.collection, JSON, &self.body, 201).await?;
        self.defaulted(&made)?;
        if !self.kind.verbs.contains(&"get") {
            return Ok(made);
        }
        let meta = &made["metadata"];
        for name in ["uid", "creationTimestamp", "resourceVersion"] {
            ensure!(meta[name].is_string(), "no {name} in {made}");
        }
        ensure!(meta["managedFields"][0]["operation"] == "Update", "nobody manages the fields of {made}");
        ensure!(meta["generation"].is_i64() == self.kind.generation, "generation of {made}");
        let again = self.send(Method::POST, &self.collection, JSON, &self.body, 409).await?;
        ensure!(again["reason"] == "AlreadyExists", "{again}");
        Ok(made)
    }

    async fn read(&self, made: &Value) -> Result<()> {
        let got = self.get(&self.path, 200).await?;
        ensure!(got == *made, "{got} is not what was made: {made}");
        let listed = format!("{}?{}", self.collection, self.selector);
        let list = self.get(&listed, 200).await?;
        ensure!(list["kind"] == format!("{}List", self.kind.kind), "{list}");
        ensure!(list["items"] == json!([bare(made)]), "{list} is not a list of {made}");
        let table = self.send(Method::GET, &listed, TABLE, &Value::Null, 200).await?;
        let columns = table["columnDefinitions"].as_array().context("columns")?;
        let cells = table["rows"][0]["cells"].as_array().context("a row")?;
        ensure!(table["kind"] == "Table" && columns.len() == cells.len() && !cells.is_empty(), "{table}");
        let name =
            columns.iter().position(|column| column["format"] == "name").context("a column of names")?;
        let shown = cells[name].as_str().unwrap_or_default();
        ensure!(Some(shown) == made["metadata"]["name"].as_str(), "{shown} is not the name of {made}");
        Ok(())
    }

    /// The pointer that patches change, and the two values that they give it in turn.
    fn change(&self) -> (&str, [Value; 2]) {
        match &self.row.change {
            Some((pointer, one, other)) => (pointer, [one.clone(), other.clone()]),
            None => (MARK, [json!("one"), json!("other")]),
        }
    }

    /// The four patches, and the refusal of what may not change. Returns how many writes there were.
    async fn patched(&self) -> Result<usize> {
        let (pointer, values) = self.change();
        if self.row.change.is_none() {
            self.merge(&self.path, &json!({"metadata": {"annotations": {"mark": "zero"}}}), 200).await?;
        }
        let applied = format!("{}?fieldManager=conformance&force=true", self.path);
        let patches = [
            ("application/json-patch+json", &self.path),
            ("application/merge-patch+json", &self.path),
            ("application/strategic-merge-patch+json", &self.path),
            ("application/apply-patch+yaml", &applied),
        ];
        for (turn, (media, path)) in patches.into_iter().enumerate() {
            let value = &values[turn % 2];
            let before = self.get(&self.path, 200).await?;
            let patch = self.patch(media, pointer, value);
            let dry = format!("{path}{}dryRun=All", if path.contains('?') { '&' } else { '?' });
            let promised = self.send(Method::PATCH, &dry, media, &patch, 200).await.context(media)?;
            ensure!(promised.pointer(pointer) == Some(value), "{media} promised {promised}");
            ensure!(self.get(&self.path, 200).await? == before, "a dry run of {media} was stored");
            let after = self.send(Method::PATCH, path, media, &patch, 200).await.context(media)?;
            ensure!(after.pointer(pointer) == Some(value), "{media} of {value} gave {after}");
            ensure!(version(&after) != version(&before), "{media} stored nothing: {after}");
            self.counted(pointer, &before, &after).context(media)?;
        }
        for (pointer, value, field) in &self.row.fixed {
            let there = self.get(&self.path, 200).await?.pointer(pointer).is_some();
            let op = if there { "replace" } else { "add" };
            let patch = json!([{"op": op, "path": pointer, "value": value}]);
            let media = "application/json-patch+json";
            let status = self.send(Method::PATCH, &self.path, media, &patch, 422).await;
            let status = status.context("a change of what may not change")?;
            ensure!(causes(&status).contains(&field.as_str()), "{field} is not among the causes of {status}");
        }
        Ok(patches_count(self.row.change.is_none()))
    }

    /// A patch of this type that sets the value.
    fn patch(&self, media: &str, pointer: &str, value: &Value) -> Value {
        if media.ends_with("json-patch+json") {
            return json!([{"op": "add", "path": pointer, "value": value}]);
        }
        let mut patch = nested(pointer, value);
        if media.ends_with("yaml") {
            patch["apiVersion"] = self.body["apiVersion"].clone();
            patch["kind"] = self.body["kind"].clone();
            patch["metadata"]["name"] = self.body["metadata"]["name"].clone();
        }
        patch
    }

    /// A change of the spec is a new generation of the kinds that count it, and of no other.
    fn counted(&self, pointer: &str, before: &Value, after: &Value) -> Result<()> {
        let generation = |object: &Value| object["metadata"]["generation"].as_i64();
        let step = i64::from(pointer.starts_with("/spec"));
        match (self.kind.generation, generation(before), generation(after)) {
            (false, None, None) => Ok(()),
            (true, Some(was), Some(is)) if is == was + step => Ok(()),
            (_, was, is) => bail!("generation went from {was:?} to {is:?}"),
        }
    }

    /// A PUT of what was read, and one of what is no longer there.
    async fn updated(&self) -> Result<()> {
        let read = self.get(&self.path, 200).await?;
        let mut object = read.clone();
        set(&mut object, "/metadata/annotations", &json!({"put": "1"}));
        let put = self.send(Method::PUT, &self.path, JSON, &object, 200).await?;
        let notes = &put["metadata"]["annotations"];
        ensure!(notes["put"] == "1" && notes["mark"].is_null(), "{put}");
        ensure!(bare(&put)["spec"] == bare(&read)["spec"], "{put} is no longer {read}");
        let stale = self.send(Method::PUT, &self.path, JSON, &object, 409).await?;
        ensure!(stale["reason"] == "Conflict", "{stale}");
        Ok(())
    }

    fn status_path(&self) -> Option<String> {
        let status = self.kind.subresources.iter().find(|sub| sub.act == Act::Status)?;
        Some(format!("{}/{}", self.path, status.name))
    }

    /// The object's own door leaves the status alone, the status' door everything else.
    async fn isolated(&self, path: &str) -> Result<()> {
        let status = self.row.status.as_ref().context("the row has no status")?;
        let before = self.get(&self.path, 200).await?;
        let mut object = before.clone();
        object["status"] = status.clone();
        set(&mut object, "/metadata/annotations/by", &json!("main"));
        let after = self.send(Method::PUT, &self.path, JSON, &object, 200).await?;
        ensure!(after["status"] == before["status"], "a PUT of the object changed the status: {after}");
        let (pointer, values) = self.change();
        let mut object = after.clone();
        object["status"] = status.clone();
        if pointer.starts_with("/spec") {
            set(&mut object, pointer, &values[0]);
        }
        let written = self.send(Method::PUT, path, JSON, &object, 200).await?;
        ensure!(written["spec"] == after["spec"], "a PUT of the status changed the spec: {written}");
        ensure!(written["metadata"]["generation"] == after["metadata"]["generation"], "{written}");
        for (name, value) in status.as_object().into_iter().flatten() {
            ensure!(written["status"][name] == *value, "status.{name} is not {value} in {written}");
        }
        ensure!(self.get(path, 200).await? == written, "the status that is read is another one");
        Ok(())
    }

    /// A finalizer holds the object back; without it, it goes.
    async fn deleted(&self) -> Result<()> {
        let held = self.merge(&self.path, &json!({"metadata": {"finalizers": [FINALIZER]}}), 200).await?;
        let uid = &held["metadata"]["uid"];
        let dry = format!("{}?dryRun=All", self.path);
        self.send(Method::DELETE, &dry, JSON, &Value::Null, 200).await.context("dry run")?;
        ensure!(self.get(&self.path, 200).await? == held, "a dry run deleted");
        let wrong = json!({"preconditions": {"uid": "another"}});
        self.send(Method::DELETE, &self.path, JSON, &wrong, 409).await.context("precondition")?;
        let options = json!({"preconditions": {"uid": uid}, "gracePeriodSeconds": 0});
        let answer = self.send(Method::DELETE, &self.path, JSON, &options, 200).await?;
        ensure!(answer["metadata"]["deletionTimestamp"].is_string(), "{answer}");
        let going = self.get(&self.path, 200).await?;
        ensure!(going["metadata"]["deletionTimestamp"].is_string(), "{going}");
        self.let_go(&going).await?;
        self.get(&self.path, 404).await.map(drop)
    }

    /// Takes the finalizers away.
    async fn let_go(&self, going: &Value) -> Result<()> {
        let free = self.merge(&self.path, &json!({"metadata": {"finalizers": null}}), 200).await?;
        if let Some(finalize) = self.kind.subresources.iter().find(|sub| sub.act == Act::Finalize) {
            let mut object = free;
            object["spec"]["finalizers"] = json!([]);
            let path = format!("{}/{}", self.path, finalize.name);
            self.send(Method::PUT, &path, JSON, &object, 200).await.with_context(|| going.to_string())?;
        }
        Ok(())
    }

    async fn swept(&self) -> Result<()> {
        self.send(Method::POST, &self.collection, JSON, &self.body, 201).await?;
        let selected = format!("{}?{}", self.collection, self.selector);
        let options = json!({"gracePeriodSeconds": 0});
        self.send(Method::DELETE, &selected, JSON, &options, 200).await?;
        let left = self.get(&selected, 200).await?;
        for going in left["items"].as_array().into_iter().flatten() {
            ensure!(going["metadata"]["deletionTimestamp"].is_string(), "{going} is left");
            self.let_go(going).await?;
        }
        self.get(&self.path, 404).await.map(drop)
    }

    /// Begins to watch this row's objects.
    async fn watch(&self) -> Result<Watch> {
        let list = self.get(&format!("{}?{}", self.collection, self.selector), 200).await?;
        ensure!(list["items"] == json!([]), "{list}");
        let path = format!(
            "{}?watch=1&{}&resourceVersion={}&timeoutSeconds=120",
            self.collection,
            self.selector,
            version(&list)
        );
        let request = Request::get(path).body(Body::from(Vec::new()))?;
        let response = self.server.client.send(request).await?;
        ensure!(response.status() == 200, "{}", response.status());
        let stream = response.into_body().into_data_stream();
        Ok(Watch { stream: stream.map(|chunk| Ok(chunk?.to_vec())).boxed(), text: VecDeque::new() })
    }
}

/// Writes that `patched` makes at least.
fn patches_count(marked: bool) -> usize {
    4 + usize::from(marked)
}

struct Watch {
    stream: BoxStream<'static, Result<Vec<u8>>>,
    text: VecDeque<u8>,
}

impl Watch {
    async fn next(&mut self) -> Result<Value> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                return Ok(serde_json::from_slice(&line)?);
            }
            let chunk =
                tokio::time::timeout(PATIENCE, self.stream.next()).await.context("no event in time")?;
            self.text.extend(chunk.context("the watch ended")??);
        }
    }

    /// ADDED as it was made, MODIFIED for each write, DELETED; versions only grow.
    async fn story(&mut self, made: &Value, writes: usize) -> Result<()> {
        let first = self.next().await?;
        ensure!(first["type"] == "ADDED" && first["object"] == *made, "{first} is not how it began: {made}");
        let (mut modified, mut last) = (0, 0);
        loop {
            let event = self.next().await?;
            let at: u64 = version(&event["object"]).parse()?;
            ensure!(at > last, "{event} comes after version {last}");
            last = at;
            match event["type"].as_str() {
                Some("MODIFIED") => modified += 1,
                Some("DELETED") => break,
                _ => bail!("{event} is not expected"),
            }
        }
        ensure!(modified > writes, "{modified} changes were seen, {writes} patches were made");
        Ok(())
    }
}
