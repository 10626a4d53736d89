//! TLS for the accept loop and towards kubelets, and the user that a client certificate names.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::pki::{Pair, Pki, PkiError};
use super::{AUTHENTICATED, User};

/// The server's side: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN, client certificates of our authority if shown.
///
/// # Errors
/// Certificates or keys that rustls does not take.
pub fn server_config(pki: &Pki) -> Result<Arc<ServerConfig>, PkiError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(pki)?.into(), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| content(pki, "ca.crt", &error))?;
    let (chain, key) = identity(pki, "apiserver", &pki.server)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The client's side towards kubelets, HTTP/1.1: what is proxied there is upgraded.
///
/// # Errors
/// Certificates or keys that rustls does not take.
pub fn kubelet_client_config(pki: &Pki) -> Result<Arc<ClientConfig>, PkiError> {
    let (chain, key) = identity(pki, "apiserver-kubelet-client", &pki.kubelet_client)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(pki)?)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The extra field that says which credential proved who somebody is.
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

/// The user that a verified client certificate names: CN and every O. Call it once for a connection, with
/// `ServerConnection::peer_certificates()`.
pub fn peer_user(chain: Option<&[CertificateDer<'_>]>) -> Option<Arc<User>> {
    let certificate = chain?.first()?;
    let (_, leaf) = X509Certificate::from_der(certificate).ok()?;
    let subject = leaf.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    if name.is_empty() {
        return None;
    }
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
    let groups = groups.chain([AUTHENTICATED]).map(str::to_owned).collect();
    let print = Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let extra = [(CREDENTIAL.to_owned(), vec![format!("X509SHA256={print}")])].into();
    Some(Arc::new(User { name: name.to_owned(), groups, extra, ..User::default() }))
}

fn roots(pki: &Pki) -> Result<RootCertStore, PkiError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pki.ca.as_bytes()) {
        roots.add(certificate.map_err(|error| content(pki, "ca.crt", &error))?)?;
    }
    Ok(roots)
}

fn identity(
    pki: &Pki,
    file: &str,
    pair: &Pair,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PkiError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect();
    let chain = chain.map_err(|error| content(pki, &format!("{file}.crt"), &error))?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes());
    Ok((chain, key.map_err(|error| content(pki, &format!("{file}.key"), &error))?))
}

fn content(pki: &Pki, file: &str, error: &dyn std::fmt::Display) -> PkiError {
    PkiError::Content { path: pki.directory().join(file), reason: error.to_string() }
}
