//! authorization.k8s.io/v1 SubjectAccessReview.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "authorization.k8s.io",
    kind: "SubjectAccessReview",
    plural: "subjectaccessreviews",
    singular: "subjectaccessreview",
    namespaced: false,
    verbs: &["create"],
    schema: "io.k8s.api.authorization.v1.SubjectAccessReview",
    message: "api.authorization.v1.SubjectAccessReview",
    storage: "subjectaccessreviews",
    ..Kind::BASE
};
