//! apiregistration.k8s.io/v1 APIService.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    group: "apiregistration.k8s.io",
    kind: "APIService",
    plural: "apiservices",
    singular: "apiservice",
    categories: &["api-extensions"],
    namespaced: false,
    schema: "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService",
    message: "kube_aggregator.pkg.apis.apiregistration.v1.APIService",
    storage: "apiservices",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    ..Kind::BASE
};
