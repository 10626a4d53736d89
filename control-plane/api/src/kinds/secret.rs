//! v1 Secret.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    schema: "io.k8s.api.core.v1.Secret",
    message: "api.core.v1.Secret",
    storage: "secrets",
    ..Kind::BASE
};
