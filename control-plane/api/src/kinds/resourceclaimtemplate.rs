//! resource.k8s.io/v1 ResourceClaimTemplate.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "resource.k8s.io",
    kind: "ResourceClaimTemplate",
    plural: "resourceclaimtemplates",
    singular: "resourceclaimtemplate",
    schema: "io.k8s.api.resource.v1.ResourceClaimTemplate",
    message: "api.resource.v1.ResourceClaimTemplate",
    storage: "resourceclaimtemplates",
    ..Kind::BASE
};
