//! v1 LimitRange.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    kind: "LimitRange",
    plural: "limitranges",
    singular: "limitrange",
    short_names: &["limits"],
    schema: "io.k8s.api.core.v1.LimitRange",
    message: "api.core.v1.LimitRange",
    storage: "limitranges",
    ..Kind::BASE
};
