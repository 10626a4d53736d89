//! The descriptor of one kind: everything that router, discovery, OpenAPI, table printing, patch, apply and watch
//! need to know about it. A kind is one file in `kinds/` and one line in `kinds::REGISTRY`.

use serde_json::Value;

use crate::field::ErrorList;

/// One served version of one API kind. `Kind::BASE` holds the answers that suit most kinds.
pub struct Kind {
    /// API group, `""` for core.
    pub group: &'static str,
    pub version: &'static str,
    /// `Deployment`
    pub kind: &'static str,
    /// `deployments`
    pub plural: &'static str,
    /// `deployment`
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    /// In upstream's discovery order.
    pub verbs: &'static [&'static str],
    /// Name of the type in the schema tree: `io.k8s.api.apps.v1.Deployment`.
    pub schema: &'static str,
    /// Name of the message in the protobuf tag table: `api.apps.v1.Deployment`.
    pub message: &'static str,
    /// Directory below `/registry/` that holds the objects; versions of one kind name the same one.
    pub storage: &'static str,
    /// For a version that is not the one stored: how to get there and back. `None` stores as it is served.
    pub convert: Option<Conversion>,
    pub subresources: &'static [Subresource],
    /// Rule that `metadata.name` follows (upstream's `ValidateNameFunc`).
    pub name: NameRule,
    /// Fills in upstream's defaults. Runs on every decoded body of this version, before admission.
    pub default: fn(&mut Value),
    /// What the kind's strategy does to a new object: drops `status`, sets `metadata.generation`, phases, derived fields.
    pub prepare_create: fn(&mut Value),
    /// What the strategy does to an update of the main resource: status is taken from `old`, generation counted.
    pub prepare_update: fn(new: &mut Value, old: &Value),
    /// What the strategy does to an update of `/status`: all but status (and what upstream allows) is taken from `old`.
    pub prepare_status: fn(new: &mut Value, old: &Value),
    /// Validation of everything but `metadata` (which is generic), with upstream's paths, reasons and words.
    pub validate: fn(&Value) -> ErrorList,
    /// Validation of what an update may change. `validate` runs too.
    pub validate_update: fn(new: &Value, old: &Value) -> ErrorList,
    pub validate_status: fn(new: &Value, old: &Value) -> ErrorList,
    /// Warnings (RFC 7234 `Warning: 299`) that upstream gives for this object.
    pub warnings: fn(new: &Value, old: Option<&Value>) -> Vec<String>,
    /// Cells of the printed row, in the order of the column table (`facts`: print-columns) for this resource.
    pub cells: fn(&Value, &Printing) -> Vec<Value>,
    /// Field selectors that the kind knows beyond `metadata.name` and `metadata.namespace`.
    pub fields: &'static [FieldLabel],
    /// An update may carry an empty resourceVersion (last write wins).
    pub unconditional_update: bool,
    /// PUT or apply of an absent object creates it (Lease, Endpoints, Event, EndpointSlice …).
    pub create_on_update: bool,
    /// A field of raw JSON that is kept as it was written and may not change by a byte.
    pub verbatim: Option<&'static str>,
    /// `metadata.generation` is kept and counted.
    pub generation: bool,
    /// What `propagationPolicy` means when the client does not say.
    pub deletion: Deletion,
    /// Grace in seconds at deletion, `None` for kinds that go at once.
    pub grace: Option<fn(&Value) -> i64>,
    /// A deprecation warning that every answer of this version carries.
    pub deprecated: Option<&'static str>,
}

/// Conversion between a served version and the stored one.
pub struct Conversion {
    pub to_storage: fn(&mut Value),
    /// The same without the defaults of the stored version: what is not set stays so.
    pub lift: fn(&mut Value),
    pub from_storage: fn(&mut Value),
}

/// One subresource in discovery and in the router.
pub struct Subresource {
    pub name: &'static str,
    pub verbs: &'static [&'static str],
    pub act: Act,
}

/// What a subresource does. The generic ones need nothing more; the others are served by the handler that the
/// server registers under this value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    Status,
    /// autoscaling/v1 Scale over the JSON pointers of replicas in spec, in status, and of the selector.
    Scale {
        spec: &'static str,
        status: &'static str,
        selector: &'static str,
    },
    /// POST of a Binding: `spec.nodeName`.
    Binding,
    Eviction,
    Log,
    Exec,
    Attach,
    PortForward,
    Proxy,
    EphemeralContainers,
    Resize,
    /// TokenRequest on a ServiceAccount.
    Token,
    /// Namespace `/finalize`.
    Finalize,
    /// CertificateSigningRequest `/approval`.
    Approval,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deletion {
    Background,
    Orphan,
}

/// Which characters a name may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameRule {
    /// RFC 1123 subdomain, at most 253.
    DnsSubdomain,
    /// RFC 1123 label, at most 63.
    DnsLabel,
    /// RFC 1035 label, at most 63 (Service).
    Dns1035Label,
    /// A path segment: no `/`, `%`, not `.` or `..` (RBAC).
    PathSegment,
}

/// A field selector: its name and the text that the selector compares with.
pub struct FieldLabel {
    pub label: &'static str,
    pub value: fn(&Value) -> String,
}

/// What a table row may depend on beside the object.
pub struct Printing {
    /// Seconds since the epoch; ages are printed relative to it.
    pub now: i64,
}

fn none(_: &mut Value) {}
fn none_update(_: &mut Value, _: &Value) {}
fn valid(_: &Value) -> ErrorList {
    ErrorList::new()
}
fn valid_update(_: &Value, _: &Value) -> ErrorList {
    ErrorList::new()
}
fn no_warnings(_: &Value, _: Option<&Value>) -> Vec<String> {
    Vec::new()
}

/// The verbs of an ordinary kind, in discovery order.
pub const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

impl Kind {
    /// The answers that suit most kinds, for `..Kind::BASE`.
    pub const BASE: Kind = Kind {
        group: "",
        version: "v1",
        kind: "",
        plural: "",
        singular: "",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        schema: "",
        message: "",
        storage: "",
        convert: None,
        subresources: &[],
        name: NameRule::DnsSubdomain,
        default: none,
        prepare_create: none,
        prepare_update: none_update,
        prepare_status: none_update,
        validate: valid,
        validate_update: valid_update,
        validate_status: valid_update,
        warnings: no_warnings,
        cells: crate::table::name_and_age,
        fields: &[],
        unconditional_update: true,
        create_on_update: false,
        verbatim: None,
        generation: false,
        deletion: Deletion::Background,
        grace: None,
        deprecated: None,
    };

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.into() } else { format!("{}/{}", self.group, self.version) }
    }
}
