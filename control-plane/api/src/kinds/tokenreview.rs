//! authentication.k8s.io/v1 TokenReview.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "authentication.k8s.io",
    kind: "TokenReview",
    plural: "tokenreviews",
    singular: "tokenreview",
    namespaced: false,
    verbs: &["create"],
    schema: "io.k8s.api.authentication.v1.TokenReview",
    message: "api.authentication.v1.TokenReview",
    storage: "tokenreviews",
    ..Kind::BASE
};
