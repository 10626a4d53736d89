//! networking.k8s.io/v1 IPAddress.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "IPAddress",
    plural: "ipaddresses",
    singular: "ipaddress",
    short_names: &["ip"],
    namespaced: false,
    schema: "io.k8s.api.networking.v1.IPAddress",
    message: "api.networking.v1.IPAddress",
    storage: "ipaddresses",
    ..Kind::BASE
};
