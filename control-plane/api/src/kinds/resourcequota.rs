//! v1 ResourceQuota.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    kind: "ResourceQuota",
    plural: "resourcequotas",
    singular: "resourcequota",
    short_names: &["quota"],
    schema: "io.k8s.api.core.v1.ResourceQuota",
    message: "api.core.v1.ResourceQuota",
    storage: "resourcequotas",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    ..Kind::BASE
};
