//! Who asks: the certificate's CN and O, and whether they may.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The API server's user.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
/// Administrators.
const MASTERS: &str = "system:masters";

/// A client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// It showed no certificate.
    Anonymous,
    /// It showed one that the CA signed.
    Known {
        /// CN.
        user: String,
        /// O.
        groups: Vec<String>,
    },
}

impl Peer {
    /// Whether the client may use this API.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        match self {
            Self::Anonymous => false,
            Self::Known { user, groups } => user == API_SERVER || groups.iter().any(|group| group == MASTERS),
        }
    }
}

/// Reads the first certificate, which the handshake has verified.
#[must_use]
pub fn peer(certificates: Option<&[CertificateDer<'_>]>) -> Peer {
    let Some(first) = certificates.and_then(<[_]>::first) else { return Peer::Anonymous };
    let Ok((_, certificate)) = X509Certificate::from_der(first) else { return Peer::Anonymous };
    let subject = certificate.subject();
    let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().ok().map(str::to_owned);
    Peer::Known {
        user: subject.iter_common_name().find_map(text).unwrap_or_default(),
        groups: subject.iter_organization().filter_map(text).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_api_server_and_masters_may_ask() {
        let known = |user: &str, groups: &[&str]| Peer::Known {
            user: user.to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        };
        for (peer, allowed) in [
            (Peer::Anonymous, false),
            (known("kube-apiserver-kubelet-client", &[]), true),
            (known("admin", &["system:masters"]), true),
            (known("system:node:a", &["system:nodes"]), false),
            (known("", &[]), false),
        ] {
            assert_eq!(peer.is_allowed(), allowed, "{peer:?}");
        }
    }
}
