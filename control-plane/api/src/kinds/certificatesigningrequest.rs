//! certificates.k8s.io/v1 CertificateSigningRequest.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    group: "certificates.k8s.io",
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    short_names: &["csr"],
    namespaced: false,
    schema: "io.k8s.api.certificates.v1.CertificateSigningRequest",
    message: "api.certificates.v1.CertificateSigningRequest",
    storage: "certificatesigningrequests",
    subresources: &[
        Subresource { name: "approval", verbs: &["get", "patch", "update"], act: Act::Approval },
        Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status },
    ],
    ..Kind::BASE
};
