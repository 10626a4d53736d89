//! networking.k8s.io/v1 IngressClass.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "IngressClass",
    plural: "ingressclasses",
    singular: "ingressclass",
    namespaced: false,
    schema: "io.k8s.api.networking.v1.IngressClass",
    message: "api.networking.v1.IngressClass",
    storage: "ingressclasses",
    ..Kind::BASE
};
