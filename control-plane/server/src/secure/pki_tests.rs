use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::super::fixture::Directory;
use super::super::tls;
use super::*;

fn names(extra: &[&str]) -> ServingNames {
    ServingNames {
        addresses: vec!["10.9.8.7".parse().expect("address"), "0.0.0.0".parse().expect("address")],
        service_ip: "10.96.0.1".parse().expect("address"),
        extra: extra.iter().map(|name| (*name).to_owned()).collect(),
        server_url: "https://127.0.0.1:6443".to_owned(),
    }
}

fn contents(directory: &Path) -> std::collections::BTreeMap<String, String> {
    let entries = std::fs::read_dir(directory).expect("directory").map(|entry| entry.expect("entry").path());
    entries.map(|path| (path.display().to_string(), std::fs::read_to_string(&path).expect("text"))).collect()
}

#[test]
fn a_second_start_keeps_everything() {
    let directory = Directory::new();
    Pki::ensure(&directory.0, &names(&[])).expect("first");
    let before = contents(&directory.0.join("pki"));
    Pki::ensure(&directory.0, &names(&[])).expect("second");
    assert_eq!(contents(&directory.0.join("pki")), before);
    for file in [
        "ca.crt",
        "ca.key",
        "admin.crt",
        "admin.key",
        "apiserver.crt",
        "apiserver-kubelet-client.key",
        "sa.key",
        "sa.pub",
    ] {
        let mode = std::fs::metadata(directory.0.join("pki").join(file)).expect(file).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let mode =
        std::fs::metadata(directory.0.join("admin.kubeconfig")).expect("kubeconfig").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_new_name_or_another_authority_makes_a_new_serving_certificate() {
    let directory = Directory::new();
    let first = Pki::ensure(&directory.0, &names(&[])).expect("first");
    let more = Pki::ensure(&directory.0, &names(&["api.example.org", "192.0.2.1"])).expect("second");
    assert_ne!(first.server.certificate, more.server.certificate);
    assert_eq!(first.ca, more.ca);
    let again = Pki::ensure(&directory.0, &names(&["api.example.org"])).expect("third");
    assert_eq!(again.server.certificate, more.server.certificate, "it holds all names that are asked for");
    for file in ["ca.crt", "ca.key"] {
        std::fs::remove_file(directory.0.join("pki").join(file)).expect("remove");
    }
    let other = Pki::ensure(&directory.0, &names(&[])).expect("fourth");
    assert_ne!(other.ca, first.ca);
    assert_ne!(other.kubelet_client.certificate, first.kubelet_client.certificate);
}

#[test]
fn a_lost_authority_key_is_told_not_replaced() {
    let directory = Directory::new();
    Pki::ensure(&directory.0, &names(&[])).expect("first");
    std::fs::remove_file(directory.0.join("pki/ca.key")).expect("remove");
    let error = Pki::ensure(&directory.0, &names(&[])).err().expect("refused").to_string();
    assert!(error.contains("ca.key is missing"), "{error}");
}

#[test]
fn concurrent_starts_agree() {
    let directory = Arc::new(Directory::new());
    let starts: Vec<_> = (0..4)
        .map(|n| {
            let directory = directory.clone();
            std::thread::spawn(move || {
                if n % 2 == 0 {
                    return Pki::ensure(&directory.0, &names(&[])).expect("start").ca;
                }
                let out = directory.0.join(format!("node{n}"));
                issue_node(&directory.0, &request("n", out.clone())).expect("issue");
                std::fs::read_to_string(out.join("ca.crt")).expect("ca")
            })
        })
        .collect();
    let mut authorities: Vec<_> = starts.into_iter().map(|start| start.join().expect("thread")).collect();
    authorities.dedup();
    assert_eq!(authorities.len(), 1);
}

fn request(node: &str, out: PathBuf) -> NodeRequest {
    let addresses = vec!["10.1.2.3".parse().expect("address")];
    NodeRequest { node: node.to_owned(), addresses, server: "https://10.9.8.7:6443".to_owned(), out }
}

fn pem(text: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(text.as_bytes()).expect("pem")
}

#[test]
fn a_node_gets_its_name_and_what_it_serves_with() {
    let directory = Directory::new();
    let out = directory.0.join("out");
    issue_node(&directory.0, &request("worker-1", out.clone())).expect("issue");
    let kubeconfig: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("kubeconfig")).expect("kubeconfig"))
            .expect("json");
    assert_eq!(kubeconfig["clusters"][0]["cluster"]["server"], "https://10.9.8.7:6443");
    let encoded = kubeconfig["users"][0]["user"]["client-certificate-data"].as_str().expect("data");
    let certificate = base64::engine::general_purpose::STANDARD.decode(encoded).expect("base64");
    let user = tls::peer_user(Some(&[pem(&String::from_utf8(certificate).expect("text"))])).expect("user");
    assert_eq!(user.name, "system:node:worker-1");
    assert_eq!(user.groups, ["system:nodes", "system:authenticated"]);
    let serving = pem(&std::fs::read_to_string(out.join("kubelet.crt")).expect("serving"));
    let (_, serving) = X509Certificate::from_der(&serving).expect("parsed");
    assert!(holds_names(&serving, &["worker-1".to_owned(), "10.1.2.3".to_owned()]));
    assert!(issue_node(&directory.0, &request("", out.clone())).is_err());
    assert!(issue_node(&directory.0, &request("a b", out)).is_err());
}

/// Lets a client and a server shake hands in memory and gives the user that the server sees.
fn shake(
    pki: &Pki,
    client: rustls::ClientConfig,
    name: &str,
) -> Result<Option<Arc<super::super::User>>, rustls::Error> {
    let mut server = rustls::ServerConnection::new(tls::server_config(pki).expect("server")).expect("server");
    let name = ServerName::try_from(name.to_owned()).expect("name");
    let mut client = rustls::ClientConnection::new(Arc::new(client), name).expect("client");
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("write");
        server.read_tls(&mut wire.as_slice()).expect("read");
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire).expect("write");
        client.read_tls(&mut wire.as_slice()).expect("read");
        client.process_new_packets()?;
    }
    Ok(tls::peer_user(server.peer_certificates()))
}

fn client(trusts: &Pki, shows: Option<&Pair>) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pem(&trusts.ca)).expect("root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("versions").with_root_certificates(roots);
    match shows {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("key");
            builder.with_client_auth_cert(vec![pem(&pair.certificate)], key).expect("client certificate")
        }
    }
}

#[test]
fn the_server_is_trusted_by_all_its_names_and_sees_who_comes() {
    let directory = Directory::new();
    let pki = Pki::ensure(&directory.0, &names(&["api.example.org"])).expect("pki");
    for name in [
        "localhost",
        "127.0.0.1",
        "::1",
        "10.9.8.7",
        "10.96.0.1",
        "kubernetes.default.svc",
        "api.example.org",
    ] {
        assert_eq!(shake(&pki, client(&pki, None), name).expect(name), None);
    }
    assert!(shake(&pki, client(&pki, None), "elsewhere.example.org").is_err());
    let user =
        shake(&pki, client(&pki, Some(&pki.kubelet_client)), "localhost").expect("handshake").expect("user");
    assert_eq!(user.name, "kube-apiserver-kubelet-client");
    assert_eq!(user.groups, ["system:masters", "system:authenticated"]);
    let foreign = Directory::new();
    let other = Pki::ensure(&foreign.0, &names(&[])).expect("pki");
    assert!(
        shake(&pki, client(&pki, Some(&other.kubelet_client)), "localhost").is_err(),
        "of another authority"
    );
    assert!(tls::kubelet_client_config(&pki).is_ok());
}
