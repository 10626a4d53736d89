//! v1 PodTemplate.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    kind: "PodTemplate",
    plural: "podtemplates",
    singular: "podtemplate",
    schema: "io.k8s.api.core.v1.PodTemplate",
    message: "api.core.v1.PodTemplate",
    storage: "podtemplates",
    ..Kind::BASE
};
