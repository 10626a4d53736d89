//! The paths of a kind, with what clients look for in them: the GVK extension, the `fieldValidation` parameter and the
//! media types of PATCH.

use serde_json::{Map, Value, json};

use super::types::{Format, Types};
use crate::kind::{Act, Kind, Subresource};

const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
const BODY_TYPES: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";

/// Parameters as (name, type, words).
type Parameters = &'static [(&'static str, &'static str, &'static str)];

const WRITE: Parameters = &[
    ("dryRun", "string", "With All, nothing is stored."),
    ("fieldManager", "string", "The name of who makes these changes, at most 128 characters."),
    ("fieldValidation", "string", "What to do about unknown or duplicate fields: Ignore, Warn or Strict."),
];
const FORCE: Parameters = &[("force", "boolean", "Takes fields over from other managers (apply only).")];
const LIST: Parameters = &[
    ("allowWatchBookmarks", "boolean", "Asks for BOOKMARK events."),
    ("continue", "string", "Where the list goes on, from the answer before."),
    ("fieldSelector", "string", "Selects by fields."),
    ("labelSelector", "string", "Selects by labels."),
    ("limit", "integer", "How many objects to answer with."),
    ("resourceVersion", "string", "Which version of the data to read."),
    ("resourceVersionMatch", "string", "How resourceVersion is meant."),
    ("sendInitialEvents", "boolean", "Starts a watch with what there is."),
    ("timeoutSeconds", "integer", "Ends the call after this time."),
    ("watch", "boolean", "Streams changes instead of listing."),
];
const DELETE: Parameters = &[
    ("dryRun", "string", "With All, nothing is stored."),
    ("gracePeriodSeconds", "integer", "Time that the object has to end."),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ("propagationPolicy", "string", "What happens to dependents: Orphan, Background or Foreground."),
];

fn parameter(format: Format, name: &str, kind: &str, words: &str, place: &str) -> Value {
    let mut body = json!({"name": name, "in": place, "description": words});
    match format {
        Format::V2 => {
            body["type"] = kind.into();
            body["uniqueItems"] = true.into();
        }
        Format::V3 => body["schema"] = json!({"type": kind, "uniqueItems": true}),
    }
    if place == "path" {
        body["required"] = true.into();
    }
    body
}

/// One operation to describe.
struct Operation<'o> {
    /// `list`, `post`, `get`, `put`, `patch`, `delete`, `deletecollection`, `connect`
    action: &'o str,
    gvk: Value,
    tag: &'o str,
    parameters: Vec<Parameters>,
    /// Media types and type of the body.
    body: Option<(&'o [&'o str], Value)>,
    answer: Value,
}

fn operation(format: Format, op: Operation<'_>, id: &str) -> Value {
    let mut parameters: Vec<Value> = op
        .parameters
        .iter()
        .flat_map(|list| list.iter())
        .map(|(name, kind, words)| parameter(format, name, kind, words, "query"))
        .collect();
    let mut body = Map::new();
    body.insert("operationId".into(), id.into());
    body.insert("tags".into(), json!([op.tag]));
    body.insert("x-kubernetes-action".into(), op.action.into());
    body.insert("x-kubernetes-group-version-kind".into(), op.gvk);
    let ok = |schema: Value| match format {
        Format::V2 => json!({"description": "OK", "schema": schema}),
        Format::V3 => {
            let content: Map<String, Value> =
                BODY_TYPES.iter().map(|t| ((*t).into(), json!({"schema": schema.clone()}))).collect();
            json!({"description": "OK", "content": content})
        }
    };
    let mut responses = Map::new();
    responses.insert("200".into(), ok(op.answer.clone()));
    if matches!(op.action, "post" | "put" | "patch") {
        responses.insert("201".into(), ok(op.answer));
    }
    responses.insert("401".into(), json!({"description": "Unauthorized"}));
    body.insert("responses".into(), Value::Object(responses));
    if let Some((types, schema)) = op.body {
        match format {
            Format::V2 => {
                body.insert("consumes".into(), json!(types));
                parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": schema}));
            }
            Format::V3 => {
                let content: Map<String, Value> =
                    types.iter().map(|t| ((*t).into(), json!({"schema": schema.clone()}))).collect();
                body.insert("requestBody".into(), json!({"required": true, "content": content}));
            }
        }
    }
    if format == Format::V2 {
        body.insert("produces".into(), json!(BODY_TYPES));
    }
    if !parameters.is_empty() {
        body.insert("parameters".into(), Value::Array(parameters));
    }
    Value::Object(body)
}

/// The kind's part of an operation id: `AppsV1NamespacedDeployment`.
fn id(verb: &str, kind: &Kind, namespaced: bool, tail: &str) -> String {
    let group = match kind.group {
        "" => "core",
        group => group.split('.').next().unwrap_or(group),
    };
    let scope = if namespaced { "Namespaced" } else { "" };
    format!("{verb}{}{}{scope}{}{tail}", capital(group), capital(kind.version), kind.kind)
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

/// Adds the paths of one kind.
pub fn add(format: Format, kind: &Kind, types: &mut Types<'_>, paths: &mut Map<String, Value>) {
    let root = match kind.group {
        "" => format!("/api/{}", kind.version),
        group => format!("/apis/{group}/{}", kind.version),
    };
    let group = kind.group.split('.').next().unwrap_or_default();
    let tag = format!("{}_{}", if group.is_empty() { "core" } else { group }, kind.version);
    let gvk = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let builder = Builder { format, kind, gvk, tag: &tag };
    let collection = match kind.namespaced {
        true => format!("{root}/namespaces/{{namespace}}/{}", kind.plural),
        false => format!("{root}/{}", kind.plural),
    };
    let scope = if kind.namespaced { vec!["namespace"] } else { vec![] };
    let item: Vec<&str> = ["name"].into_iter().chain(scope.iter().copied()).collect();
    let has = |verb: &str| kind.verbs.contains(&verb);
    if kind.namespaced && has("list") {
        let list = builder.list(types, "ForAllNamespaces", false);
        paths.insert(format!("{root}/{}", kind.plural), builder.path(&[], vec![("get", list)]));
    }
    let mut operations = Vec::new();
    if has("list") {
        operations.push(("get", builder.list(types, "", kind.namespaced)));
    }
    if has("create") {
        operations.push(("post", builder.write(types, "post", "create", "", kind.schema)));
    }
    if has("deletecollection") {
        operations.push(("delete", builder.delete(types, "deletecollection")));
    }
    paths.insert(collection.clone(), builder.path(&scope, operations));
    let mut operations = Vec::new();
    if has("get") {
        operations.push(("get", builder.read(types, "", kind.schema)));
    }
    if has("update") {
        operations.push(("put", builder.write(types, "put", "replace", "", kind.schema)));
    }
    if has("patch") {
        operations.push(("patch", builder.write(types, "patch", "patch", "", kind.schema)));
    }
    if has("delete") {
        operations.push(("delete", builder.delete(types, "delete")));
    }
    if !operations.is_empty() {
        paths.insert(format!("{collection}/{{name}}"), builder.path(&item, operations));
    }
    for subresource in kind.subresources {
        let operations = builder.subresource(types, subresource);
        let path = format!("{collection}/{{name}}/{}", subresource.name);
        paths.insert(path, builder.path(&item, operations));
    }
}

struct Builder<'b> {
    format: Format,
    kind: &'b Kind,
    gvk: Value,
    tag: &'b str,
}

impl Builder<'_> {
    fn path(&self, places: &[&str], operations: Vec<(&str, Value)>) -> Value {
        let mut body: Map<String, Value> =
            operations.into_iter().map(|(method, op)| (method.to_owned(), op)).collect();
        let words = |place: &str| match place {
            "name" => "name of the object",
            _ => "namespace of the object",
        };
        let parameters: Vec<Value> =
            places.iter().map(|p| parameter(self.format, p, "string", words(p), "path")).collect();
        if !parameters.is_empty() {
            body.insert("parameters".into(), Value::Array(parameters));
        }
        Value::Object(body)
    }

    fn make(&self, op: Operation<'_>, verb: &str, namespaced: bool, tail: &str) -> Value {
        operation(self.format, op, &id(verb, self.kind, namespaced, tail))
    }

    fn list(&self, types: &mut Types<'_>, tail: &str, namespaced: bool) -> Value {
        let op = Operation {
            action: "list",
            gvk: self.gvk.clone(),
            tag: self.tag,
            parameters: vec![LIST],
            body: None,
            answer: types.list(self.kind),
        };
        self.make(op, "list", namespaced, tail)
    }

    fn read(&self, types: &mut Types<'_>, tail: &str, answer: &str) -> Value {
        let op = Operation {
            action: "get",
            gvk: self.gvk.clone(),
            tag: self.tag,
            parameters: Vec::new(),
            body: None,
            answer: types.reference(answer),
        };
        self.make(op, "read", self.kind.namespaced, tail)
    }

    fn write(&self, types: &mut Types<'_>, action: &str, verb: &str, tail: &str, schema: &str) -> Value {
        let patch = action == "patch";
        let body = if patch { "io.k8s.apimachinery.pkg.apis.meta.v1.Patch" } else { schema };
        let op = Operation {
            action,
            gvk: self.gvk.clone(),
            tag: self.tag,
            parameters: if patch { vec![WRITE, FORCE] } else { vec![WRITE] },
            body: Some((if patch { &PATCH_TYPES } else { &BODY_TYPES }, types.reference(body))),
            answer: types.reference(schema),
        };
        self.make(op, verb, self.kind.namespaced, tail)
    }

    fn delete(&self, types: &mut Types<'_>, action: &str) -> Value {
        let collection = action == "deletecollection";
        let op = Operation {
            action,
            gvk: self.gvk.clone(),
            tag: self.tag,
            parameters: if collection { vec![DELETE, LIST] } else { vec![DELETE] },
            body: Some((&BODY_TYPES, types.reference(DELETE_OPTIONS))),
            answer: types.reference(STATUS),
        };
        let verb = if collection { "deleteCollection" } else { "delete" };
        self.make(op, verb, self.kind.namespaced, "")
    }

    fn subresource(&self, types: &mut Types<'_>, sub: &Subresource) -> Vec<(&'static str, Value)> {
        let schema = match sub.act {
            Act::Scale { .. } => "io.k8s.api.autoscaling.v1.Scale",
            Act::Eviction => "io.k8s.api.policy.v1.Eviction",
            Act::Token => "io.k8s.api.authentication.v1.TokenRequest",
            Act::Binding => "io.k8s.api.core.v1.Binding",
            _ => self.kind.schema,
        };
        let gvk = match sub.act {
            Act::Scale { .. } => json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}),
            Act::Eviction => json!({"group": "policy", "version": "v1", "kind": "Eviction"}),
            Act::Token => {
                json!({"group": "authentication.k8s.io", "version": "v1", "kind": "TokenRequest"})
            }
            Act::Binding => json!({"group": "", "version": "v1", "kind": "Binding"}),
            _ => self.gvk.clone(),
        };
        let builder = Builder { gvk, ..*self };
        let tail = capital(sub.name);
        let stream = matches!(sub.act, Act::Log | Act::Exec | Act::Attach | Act::PortForward | Act::Proxy);
        let mut operations = Vec::new();
        for verb in sub.verbs {
            let entry = match *verb {
                "get" | "create" if stream => {
                    let op = Operation {
                        action: "connect",
                        gvk: builder.gvk.clone(),
                        tag: self.tag,
                        parameters: Vec::new(),
                        body: None,
                        answer: json!({"type": "string"}),
                    };
                    let method = if *verb == "get" { "get" } else { "post" };
                    (
                        method,
                        builder.make(op, &format!("connect{}", capital(method)), self.kind.namespaced, &tail),
                    )
                }
                "get" => ("get", builder.read(types, &tail, schema)),
                "create" => ("post", builder.write(types, "post", "create", &tail, schema)),
                "update" => ("put", builder.write(types, "put", "replace", &tail, schema)),
                "patch" => ("patch", builder.write(types, "patch", "patch", &tail, schema)),
                _ => continue,
            };
            operations.push(entry);
        }
        operations
    }
}
