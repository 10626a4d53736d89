//! The cluster's own certificate authority and everything that it signs, as files in `D/pki`.
//!
//! Server start and `issue-node` both come here, also at the same time: a lock file orders them. What exists and is
//! still good is kept.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use rand::RngCore;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SerialNumber,
};
use rsa::pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey, LineEnding};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{MASTERS, NODES};

const CA_NAME: &str = "fairlead-ca";
const DAY: Duration = Duration::from_secs(24 * 3600);
const CA_DAYS: u32 = 3650;
const LEAF_DAYS: u32 = 365;

/// A certificate that ends sooner than this is made anew.
const RENEW_DAYS: u32 = 30;

/// Clocks of machines differ: certificates begin a little in the past.
const SKEW: Duration = Duration::from_secs(3600);

/// Why a certificate or key could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{action} {}", .path.display())]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{} is not usable: {reason}", .path.display())]
    Content { path: PathBuf, reason: String },
    #[error("making {what}")]
    Sign { what: String, source: rcgen::Error },
    #[error("making the service-account key: {0}")]
    Rsa(String),
    #[error("{0} is not a name or address that a certificate can hold")]
    Name(String),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Where the API server is reached.
#[derive(Clone, Debug)]
pub struct ServingNames {
    /// `--advertise-address`, `--bind-address`.
    pub addresses: Vec<IpAddr>,
    /// The first address of the Service range: `kubernetes.default.svc`.
    pub service_ip: IpAddr,
    /// `--tls-san`: names or addresses.
    pub extra: Vec<String>,
    /// What admin.kubeconfig and the components' kubeconfigs name: `https://127.0.0.1:6443`.
    pub server_url: String,
}

/// What `issue-node` is asked for.
#[derive(Clone, Debug)]
pub struct NodeRequest {
    pub node: String,
    pub addresses: Vec<IpAddr>,
    /// The API server as the node reaches it: `https://IP:PORT`.
    pub server: String,
    /// Gets `kubeconfig`, `ca.crt`, `kubelet.crt`, `kubelet.key`.
    pub out: PathBuf,
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// The directory with all certificates and keys that a server needs.
pub struct Pki {
    directory: PathBuf,
    pub ca: String,
    pub server: Pair,
    /// What the server shows to kubelets.
    pub kubelet_client: Pair,
    /// RSA key (PKCS #8 PEM) that signs service-account tokens.
    pub service_account_key: String,
}

/// A client certificate that every server start makes sure of: file name, CN, O.
struct Client {
    file: &'static str,
    name: &'static str,
    groups: &'static [&'static str],
}

const ADMIN: Client = Client { file: "admin", name: "admin", groups: &[MASTERS] };
/// The server towards kubelets. It is nobody towards the server.
pub const KUBELET_CLIENT_NAME: &str = "kube-apiserver-kubelet-client";
const KUBELET_CLIENT: Client =
    Client { file: "apiserver-kubelet-client", name: KUBELET_CLIENT_NAME, groups: &[MASTERS] };
/// Components that run outside of the server when it was told not to run them itself.
const COMPONENTS: [Client; 2] = [
    Client { file: "controller-manager", name: "system:kube-controller-manager", groups: &[] },
    Client { file: "scheduler", name: "system:kube-scheduler", groups: &[] },
];

impl Pki {
    /// Loads what is in `data_dir/pki` and makes what is missing, about to expire or short of a name; writes
    /// `data_dir/admin.kubeconfig`. Blocks: reads files and may make keys.
    ///
    /// # Errors
    /// A file that cannot be read or written, or that holds something else than it should.
    pub fn ensure(data_dir: &Path, names: &ServingNames) -> Result<Pki, PkiError> {
        let store = Files::open(data_dir)?;
        let ca = store.authority()?;
        let server = store.server(&ca, names)?;
        let admin = store.client(&ca, &ADMIN)?;
        let kubelet_client = store.client(&ca, &KUBELET_CLIENT)?;
        write(
            &data_dir.join("admin.kubeconfig"),
            &kubeconfig(ADMIN.name, &names.server_url, &ca.certificate, &admin),
        )?;
        for component in &COMPONENTS {
            let pair = store.client(&ca, component)?;
            let path = store.directory.join(format!("{}.kubeconfig", component.file));
            write(&path, &kubeconfig(component.name, &names.server_url, &ca.certificate, &pair))?;
        }
        let service_account_key = store.service_account_key()?;
        Ok(Pki {
            directory: store.directory.clone(),
            ca: ca.certificate,
            server,
            kubelet_client,
            service_account_key,
        })
    }

    /// `data_dir/pki`.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Signs what a node needs, offline: `fairlead-server issue-node`. Makes the authority if there is none yet.
///
/// # Errors
/// As [`Pki::ensure`]; [`PkiError::Name`] for a node name that no certificate can hold.
pub fn issue_node(data_dir: &Path, request: &NodeRequest) -> Result<(), PkiError> {
    let label =
        |name: &str| !name.is_empty() && name.len() <= 253 && !name.contains(|c: char| !c.is_ascii_graphic());
    if !label(&request.node) {
        return Err(PkiError::Name(request.node.clone()));
    }
    let store = Files::open(data_dir)?;
    let ca = store.authority()?;
    let user = format!("system:node:{}", request.node);
    let client = ca.sign(&params(&user, &[NODES], &[], ExtendedKeyUsagePurpose::ClientAuth)?, &user)?;
    let mut names = vec![request.node.clone()];
    names.extend(request.addresses.iter().map(ToString::to_string));
    let serving = params(&user, &[NODES], &names, ExtendedKeyUsagePurpose::ServerAuth)?;
    let serving = ca.sign(&serving, "the kubelet's serving certificate")?;
    make_directory(&request.out)?;
    write(&request.out.join("ca.crt"), &ca.certificate)?;
    write(&request.out.join("kubelet.crt"), &serving.certificate)?;
    write(&request.out.join("kubelet.key"), &serving.key)?;
    write(&request.out.join("kubeconfig"), &kubeconfig(&user, &request.server, &ca.certificate, &client))
}

/// The locked directory.
struct Files {
    directory: PathBuf,
    /// Released when dropped.
    _lock: File,
}

struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Files {
    fn open(data_dir: &Path) -> Result<Files, PkiError> {
        let directory = data_dir.join("pki");
        make_directory(&directory)?;
        let path = directory.join(".lock");
        let failed = |source| PkiError::File { action: "locking", path: path.clone(), source };
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = lock.map_err(failed)?;
        lock.lock().map_err(failed)?;
        Ok(Files { directory, _lock: lock })
    }

    fn path(&self, file: &str, ending: &str) -> PathBuf {
        self.directory.join(format!("{file}.{ending}"))
    }

    /// Both files of a pair, or `None` if one is missing: a half is what a crash leaves.
    fn read_pair(&self, file: &str) -> Result<Option<Pair>, PkiError> {
        let (certificate, key) = (read(&self.path(file, "crt"))?, read(&self.path(file, "key"))?);
        Ok(certificate.zip(key).map(|(certificate, key)| Pair { certificate, key }))
    }

    /// The key goes first: a certificate without its key would be of no use.
    fn write_pair(&self, file: &str, pair: &Pair) -> Result<(), PkiError> {
        write(&self.path(file, "key"), &pair.key)?;
        write(&self.path(file, "crt"), &pair.certificate)
    }

    fn authority(&self) -> Result<Authority, PkiError> {
        const FILE: &str = "ca";
        let (certificate, key) = (read(&self.path(FILE, "crt"))?, read(&self.path(FILE, "key"))?);
        let pair = match (certificate, key) {
            (Some(certificate), Some(key)) => Pair { certificate, key },
            // Everything that was ever signed hangs on it: it is not replaced silently.
            (Some(_), None) => {
                let reason = "its key ca.key is missing; restore it, or remove both to make a new authority";
                return Err(PkiError::Content { path: self.path(FILE, "crt"), reason: reason.to_owned() });
            }
            (None, _) => {
                let pair = new_authority()?;
                self.write_pair(FILE, &pair)?;
                pair
            }
        };
        let content = |reason: String| PkiError::Content { path: self.path(FILE, "key"), reason };
        let key = KeyPair::from_pem(&pair.key).map_err(|error| content(error.to_string()))?;
        let issuer = Issuer::from_ca_cert_pem(&pair.certificate, key);
        let issuer = issuer
            .map_err(|error| PkiError::Content { path: self.path(FILE, "crt"), reason: error.to_string() })?;
        Ok(Authority { certificate: pair.certificate, issuer })
    }

    fn client(&self, ca: &Authority, client: &Client) -> Result<Pair, PkiError> {
        self.keep_or_make(ca, client.file, &[], || {
            params(client.name, client.groups, &[], ExtendedKeyUsagePurpose::ClientAuth)
        })
    }

    fn server(&self, ca: &Authority, names: &ServingNames) -> Result<Pair, PkiError> {
        let mut all: Vec<String> = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            "127.0.0.1",
            "::1",
        ]
        .map(str::to_owned)
        .into();
        let addresses = names.addresses.iter().filter(|address| !address.is_unspecified());
        all.extend(addresses.chain([&names.service_ip]).map(ToString::to_string));
        all.extend(names.extra.iter().cloned());
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|name| seen.insert(name.clone()));
        self.keep_or_make(ca, "apiserver", &all, || {
            params("kube-apiserver", &[], &all, ExtendedKeyUsagePurpose::ServerAuth)
        })
    }

    /// The pair in the files if it is still good for these names, else a new one.
    fn keep_or_make(
        &self,
        ca: &Authority,
        file: &str,
        names: &[String],
        make: impl FnOnce() -> Result<CertificateParams, PkiError>,
    ) -> Result<Pair, PkiError> {
        if let Some(pair) = self.read_pair(file)?
            && is_good(&pair, &ca.certificate, names)
        {
            return Ok(pair);
        }
        let pair = ca.sign(&make()?, file)?;
        self.write_pair(file, &pair)?;
        Ok(pair)
    }

    /// RSA, because clients and relying parties of service-account tokens expect RS256.
    fn service_account_key(&self) -> Result<String, PkiError> {
        let path = self.path("sa", "key");
        let failed = |error: &dyn std::fmt::Display| PkiError::Rsa(error.to_string());
        let (pem, key) = match read(&path)? {
            Some(pem) => {
                let key = rsa::RsaPrivateKey::from_pkcs8_pem(&pem);
                let key = key.map_err(|error| PkiError::Content { path, reason: error.to_string() })?;
                (pem, key)
            }
            None => {
                let key =
                    rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).map_err(|e| failed(&e))?;
                let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|e| failed(&e))?.to_string();
                write(&path, &pem)?;
                (pem, key)
            }
        };
        let public = key.to_public_key().to_public_key_pem(LineEnding::LF).map_err(|e| failed(&e))?;
        write(&self.path("sa", "pub"), &public)?;
        Ok(pem)
    }
}

impl Authority {
    fn sign(&self, params: &CertificateParams, what: &str) -> Result<Pair, PkiError> {
        let failed = |source| PkiError::Sign { what: what.to_owned(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn new_authority() -> Result<Pair, PkiError> {
    let failed = |source| PkiError::Sign { what: "the certificate authority".to_owned(), source };
    let mut params = blank(CA_NAME, &[], CA_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn blank(name: &str, groups: &[&str], days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    for group in groups {
        subject.push(DnType::OrganizationName, *group);
    }
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(SKEW);
    params.not_after = epoch + now + DAY * days;
    let mut serial = [0; 16];
    rand::rng().fill_bytes(&mut serial);
    // A serial number is positive (RFC 5280, 4.1.2.2), so the highest bit stays clear.
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

fn params(
    name: &str,
    groups: &[&str],
    names: &[String],
    usage: ExtendedKeyUsagePurpose,
) -> Result<CertificateParams, PkiError> {
    let mut params = blank(name, groups, LEAF_DAYS);
    let with_names = CertificateParams::new(names).map_err(|_| PkiError::Name(names.join(", ")))?;
    params.subject_alt_names = with_names.subject_alt_names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// Whether a certificate was signed by this authority, lasts long enough and holds all these names.
fn is_good(pair: &Pair, ca: &str, names: &[String]) -> bool {
    let parse = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).ok();
    let (Some(leaf), Some(ca)) = (parse(&pair.certificate), parse(ca)) else { return false };
    let (Ok((_, leaf)), Ok((_, ca))) = (X509Certificate::from_der(&leaf), X509Certificate::from_der(&ca))
    else {
        return false;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let limit = i64::try_from((now + DAY * RENEW_DAYS).as_secs()).unwrap_or(i64::MAX);
    let lasts = leaf.validity().not_after.timestamp() > limit;
    lasts && signed_by(&leaf, &ca) && holds_names(&leaf, names) && KeyPair::from_pem(&pair.key).is_ok()
}

/// By key identifier: two authorities of this program have the same name.
fn signed_by(leaf: &X509Certificate<'_>, ca: &X509Certificate<'_>) -> bool {
    use x509_parser::extensions::ParsedExtension;
    let authority = leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    });
    let own = ca.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    });
    authority.is_some() && authority == own && leaf.issuer() == ca.subject()
}

fn holds_names(leaf: &X509Certificate<'_>, names: &[String]) -> bool {
    let Ok(held) = leaf.subject_alternative_name() else { return false };
    let held: Vec<String> = held
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
                _ => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            },
            _ => None,
        })
        .collect();
    names.iter().all(|name| held.contains(name))
}

/// A kubeconfig with everything in it.
fn kubeconfig(user: &str, server: &str, ca: &str, pair: &Pair) -> String {
    let encode = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    // JSON is YAML, and it needs no care about what a name may hold.
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fairlead", "cluster": {
            "server": server,
            "certificate-authority-data": encode(ca),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate-data": encode(&pair.certificate),
            "client-key-data": encode(&pair.key),
        }}],
        "contexts": [{"name": "fairlead", "context": {"cluster": "fairlead", "user": user}}],
        "current-context": "fairlead",
    });
    format!("{config:#}\n")
}

fn make_directory(path: &Path) -> Result<(), PkiError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| PkiError::File { action: "creating directory", path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File { action: "reading", path: path.to_owned(), source }),
    }
}

/// Replaces a file as a whole, durable, readable by its owner only. What is the same is not touched.
fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    let failed = |source| PkiError::File { action: "writing", path: path.to_owned(), source };
    if read(path)?.as_deref() == Some(text) {
        return Ok(());
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    // A leftover of a crash could have another mode.
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh);
    let mut file = file.map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&fresh, path).map_err(failed)?;
    let directory = path.parent().and_then(|parent| File::open(parent).ok());
    directory.map_or(Ok(()), |directory| directory.sync_all()).map_err(failed)
}

#[cfg(test)]
#[path = "pki_tests.rs"]
mod tests;
