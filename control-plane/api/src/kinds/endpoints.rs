//! v1 Endpoints.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    schema: "io.k8s.api.core.v1.Endpoints",
    message: "api.core.v1.Endpoints",
    storage: "endpoints",
    ..Kind::BASE
};
