//! apiextensions.k8s.io/v1 CustomResourceDefinition.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    group: "apiextensions.k8s.io",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    namespaced: false,
    schema: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    message: "apiextensions_apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    storage: "customresourcedefinitions",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    ..Kind::BASE
};
