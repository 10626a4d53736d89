//! networking.k8s.io/v1 NetworkPolicy.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "NetworkPolicy",
    plural: "networkpolicies",
    singular: "networkpolicy",
    short_names: &["netpol"],
    schema: "io.k8s.api.networking.v1.NetworkPolicy",
    message: "api.networking.v1.NetworkPolicy",
    storage: "networkpolicies",
    ..Kind::BASE
};
