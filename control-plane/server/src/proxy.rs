//! `pods/proxy`, `services/proxy` and `nodes/proxy`: a request passed on to what runs in the cluster
//! (`k8s.io/apimachinery/pkg/util/proxy`).
//!
//! Only addresses that a pod or a node could have are reached: never loopback, link-local or multicast, whatever
//! somebody wrote into a status.

use std::{
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use fairlead_api::{
    registry,
    status::{self, Status},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use serde_json::Value;
use tokio_rustls::TlsConnector;

use crate::{
    api::{Api, Call, key, not_found},
    body::{self, Body},
    kubelet::{self, shown},
    reply::{self, Answer},
    secure::authenticate::is_credential,
    write,
};

/// Where a request goes.
struct Target {
    address: IpAddr,
    port: u16,
    tls: Tls,
}

enum Tls {
    No,
    /// Pods show certificates of their own making: nothing can be checked.
    Unchecked,
    Kubelet,
}

/// `name`, `name:port` or `scheme:name:port`.
struct Id<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

impl<'a> Id<'a> {
    fn parse(text: &'a str, what: &str) -> Result<Id<'a>, Status> {
        let id = match text.split(':').collect::<Vec<_>>().as_slice() {
            [name] => Id { scheme: "", name, port: "" },
            [name, port] => Id { scheme: "", name, port },
            [scheme, name, port] => Id { scheme, name, port },
            _ => Id { scheme: "", name: "", port: "" },
        };
        if id.name.is_empty() || !["", "http", "https"].contains(&id.scheme) {
            return Err(status::bad_request(format!("invalid {what} request {}", status::quoted(text))));
        }
        Ok(id)
    }

    fn tls(&self) -> Tls {
        if self.scheme == "https" { Tls::Unchecked } else { Tls::No }
    }

    /// The port that is named, else the scheme's.
    fn number(&self, port: &str) -> Result<u16, Status> {
        match port {
            "" if self.scheme == "https" => Ok(443),
            "" => Ok(80),
            text => text.parse().map_err(|_| unreachable(&format!("dial tcp: address {text}: invalid port"))),
        }
    }
}

fn unreachable(why: &str) -> Status {
    status::service_unavailable(format!("error trying to reach service: {why}"))
}

/// Any method.
pub async fn proxy(api: &Arc<Api>, call: &Call, mut request: Request<Body>) -> Answer {
    let target = match call.kind.storage {
        "pods" => pod(api, call).await?,
        "services" => service(api, call)?,
        _ => node(api, call)?,
    };
    let (before, path) = split(request.uri().path(), call);
    let upgrade = upgraded(request.headers());
    if path.is_empty() && !upgrade && matches!(*request.method(), Method::GET | Method::HEAD) {
        return moved(request.uri());
    }
    let before = before.to_owned();
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
    let host = host.or_else(|| request.uri().authority().map(ToString::to_string)).unwrap_or_default();
    let mut onward = Request::new(body::empty());
    *onward.method_mut() = request.method().clone();
    *onward.uri_mut() = onward_uri(path, request.uri().query())?;
    pass(request.headers(), onward.headers_mut(), upgrade);
    forwarded(onward.headers_mut(), request.uri().path(), &host);
    let client = upgrade.then(|| hyper::upgrade::on(&mut request));
    *onward.body_mut() = request.into_body();
    let connector = match target.tls {
        Tls::No => None,
        Tls::Unchecked => Some(&*UNCHECKED),
        Tls::Kubelet => Some(api.kubelets.connector()),
    };
    let answer = kubelet::exchange(target.address, target.port, connector, onward).await;
    let answer = answer.map_err(|why| unreachable(&why))?;
    let own = format!("{}:{}", shown(target.address), target.port);
    Ok(respond(api, answer, client, |location| rewritten(location, &before, &[&own, &host])))
}

async fn pod(api: &Api, call: &Call) -> Result<Target, Status> {
    let id = Id::parse(&call.resource.name, "pod")?;
    let at = key(call.kind, &call.resource.namespace, id.name);
    let pod = write::current(api, call.kind, &at).await?.ok_or_else(|| not_found(call.kind, id.name))?.object;
    let mut port = id.port.to_owned();
    if port.is_empty() {
        let ports = pod["spec"]["containers"].as_array().into_iter().flatten();
        let first = ports.flat_map(|c| c["ports"].as_array().into_iter().flatten()).next();
        port = first.and_then(|p| p["containerPort"].as_u64()).map(|n| n.to_string()).unwrap_or_default();
    }
    let address = reachable(pod["status"]["podIP"].as_str().unwrap_or_default())?;
    Ok(Target { address, port: id.number(&port)?, tls: id.tls() })
}

/// An address that may be reached on behalf of somebody.
fn reachable(text: &str) -> Result<IpAddr, Status> {
    let global = |ip: &IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) => {
            !ip.is_unspecified()
                && !ip.is_loopback()
                && !ip.is_link_local()
                && !ip.is_multicast()
                && !ip.is_broadcast()
        }
        IpAddr::V6(ip) => {
            !ip.is_unspecified() && !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_multicast()
        }
    };
    text.parse().ok().filter(global).ok_or_else(|| status::bad_request("address not allowed"))
}

/// A ready endpoint of a Service that is a pod of its namespace.
fn service(api: &Api, call: &Call) -> Result<Target, Status> {
    let id = Id::parse(&call.resource.name, "service")?;
    let namespace = &call.resource.namespace;
    let cache = api.cache(call.kind)?;
    let item = cache.get(&key(call.kind, namespace, id.name)).ok_or_else(|| not_found(call.kind, id.name))?;
    let object = item.value(cache.kind);
    let mut port = id.port.to_owned();
    if let Ok(number) = id.port.parse::<i64>() {
        let mut ports = object["spec"]["ports"].as_array().into_iter().flatten();
        let found = ports.find(|port| port["port"] == number).ok_or_else(|| {
            let name = status::quoted(id.name);
            status::service_unavailable(format!("no service port {number} found for service {name}"))
        })?;
        port = found["name"].as_str().unwrap_or_default().to_owned();
    }
    let mut places = endpoints(api, namespace, id.name, &port)?;
    while !places.is_empty() {
        let (address, port) = places.swap_remove(rand::random_range(0..places.len()));
        if let Ok(address) = reachable(&address) {
            return Ok(Target { address, port, tls: id.tls() });
        }
    }
    let name = status::quoted(&call.resource.name);
    Err(status::service_unavailable(format!("no endpoints available for service {name}")))
}

/// The addresses of a Service's port that belong to pods.
fn endpoints(api: &Api, namespace: &str, service: &str, port: &str) -> Result<Vec<(String, u16)>, Status> {
    let missing = status::no_such_resource;
    let slices = registry::find("discovery.k8s.io", "v1", "endpointslices").ok_or_else(missing)?;
    let pods = registry::find("", "v1", "pods").ok_or_else(missing)?;
    let pods = api.cache(pods)?;
    let is_of = |name: &str, address: &str| {
        let pod = pods.get(&format!("{namespace}/{name}")).map(|item| item.value(pods.kind));
        let ips = pod.as_ref().and_then(|pod| pod["status"]["podIPs"].as_array());
        ips.is_some_and(|ips| ips.iter().any(|ip| ip["ip"] == address))
    };
    let mut places = Vec::new();
    for item in api.cache(slices)?.all(&format!("{namespace}/")) {
        if item.label("kubernetes.io/service-name") != Some(service) {
            continue;
        }
        let slice = item.value(slices);
        let named = |p: &&Value| p["name"].as_str().unwrap_or_default() == port;
        let found = slice["ports"].as_array().into_iter().flatten().find(named);
        let number = found.and_then(|p| p["port"].as_u64()).and_then(|n| u16::try_from(n).ok());
        let Some(number) = number else { continue };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let target = &endpoint["targetRef"];
            let ours = target["kind"] == "Pod" && target["namespace"] == namespace;
            let (Some(name), Some(address)) = (target["name"].as_str(), endpoint["addresses"][0].as_str())
            else {
                continue;
            };
            if ours && endpoint["conditions"]["ready"] != false && is_of(name, address) {
                places.push((address.to_owned(), number));
            }
        }
    }
    Ok(places)
}

fn node(api: &Api, call: &Call) -> Result<Target, Status> {
    let id = Id::parse(&call.resource.name, "node")?;
    let place = kubelet::place(api, id.name, String::new())?;
    if id.port.is_empty() || id.port == place.port.to_string() {
        return Ok(Target { address: place.address, port: place.port, tls: Tls::Kubelet });
    }
    let address = reachable(&place.address.to_string())?;
    Ok(Target { address, port: id.number(id.port)?, tls: id.tls() })
}

/// The path up to `/proxy`, and what follows it as the client wrote it.
fn split<'a>(path: &'a str, call: &Call) -> (&'a str, &'a str) {
    // api, v1, namespaces, NAMESPACE, pods, NAME, proxy; or api, v1, nodes, NAME, proxy
    let segments = if call.kind.namespaced { 7 } else { 5 };
    let (mut seen, mut at) = (0, 0);
    while seen < segments {
        let rest = path.get(at..).unwrap_or_default();
        let start = rest.find(|c| c != '/').unwrap_or(rest.len());
        let end = rest.get(start..).and_then(|rest| rest.find('/')).map_or(rest.len(), |end| start + end);
        at += end;
        seen += 1;
    }
    path.split_at(at.min(path.len()))
}

/// Pages link relative to their own address, which must therefore end in a slash.
fn moved(uri: &Uri) -> Answer {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = reply::text(301, "");
    let location = HeaderValue::from_str(&format!("{}/{query}", uri.path()));
    let location = location.map_err(|error| status::internal(&error.to_string()))?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

fn onward_uri(path: &str, query: Option<&str>) -> Result<Uri, Status> {
    let path = if path.is_empty() { "/" } else { path };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{path}{query}").parse().map_err(|_| status::bad_request("malformed path"))
}

fn upgraded(headers: &HeaderMap) -> bool {
    let tokens = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut tokens = tokens.flat_map(|value| value.split(','));
    headers.contains_key(header::UPGRADE) && tokens.any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

/// Headers that concern one connection alone.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
];

/// Copies headers from one side to the other.
fn pass(from: &HeaderMap, to: &mut HeaderMap, upgrade: bool) {
    let listed: Vec<String> = from
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(|name| name.trim().to_ascii_lowercase()))
        .collect();
    let stays = |name: &HeaderName| {
        HOP_BY_HOP.contains(&name.as_str())
            || name == header::UPGRADE
            || listed.iter().any(|own| own == name.as_str())
    };
    for (name, value) in from {
        if !stays(name) && !is_credential(name) {
            to.append(name.clone(), value.clone());
        }
    }
    if upgrade {
        to.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        for value in from.get_all(header::UPGRADE) {
            to.append(header::UPGRADE, value.clone());
        }
        kubelet::without_token(to);
    }
}

/// Says where the request came from.
fn forwarded(headers: &mut HeaderMap, path: &str, host: &str) {
    let facts = [("x-forwarded-uri", path), ("x-forwarded-host", host), ("x-forwarded-proto", "https")];
    for (name, text) in facts {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    // HTTP/2 has the host in another place.
    if let (false, Ok(value)) = (headers.contains_key(header::HOST), HeaderValue::from_str(host)) {
        headers.insert(header::HOST, value);
    }
}

fn respond(
    api: &Arc<Api>,
    mut answer: Response<hyper::body::Incoming>,
    client: Option<hyper::upgrade::OnUpgrade>,
    relocate: impl Fn(&str) -> String,
) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = answer.status();
    let switched = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
    pass(answer.headers(), response.headers_mut(), switched);
    let foreign: Vec<HeaderName> = answer
        .headers()
        .keys()
        .filter(|name| name.as_str().starts_with("access-control-"))
        .cloned()
        .collect();
    for name in foreign {
        response.headers_mut().remove(name);
    }
    if let Some(location) = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok())
        && let Ok(value) = HeaderValue::from_str(&relocate(location))
    {
        response.headers_mut().insert(header::LOCATION, value);
    }
    match client {
        Some(client) if switched => {
            let (theirs, stopping) = (hyper::upgrade::on(&mut answer), api.stopping.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = stopping.cancelled() => {}
                    result = kubelet::join(client, theirs) => if let Err(error) = result {
                        tracing::debug!(%error, "a proxied stream ended");
                    }
                }
            });
        }
        _ => *response.body_mut() = body::wrap(answer.into_body()),
    }
    response
}

/// A redirection within what is proxied, as the client must follow it.
fn rewritten(location: &str, before: &str, own: &[&str]) -> String {
    let (host, path) =
        match location.split_once("://").map(|(_, rest)| rest).or_else(|| location.strip_prefix("//")) {
            Some(rest) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                (Some(&rest[..end]), &rest[end..])
            }
            None => (None, location),
        };
    let foreign = host.is_some_and(|host| !own.contains(&host));
    if foreign || !path.starts_with('/') || path.starts_with(before) {
        return if foreign || host.is_none() { location.to_owned() } else { path.to_owned() };
    }
    format!("{before}{path}")
}

static UNCHECKED: LazyLock<TlsConnector> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let versions = builder.with_safe_default_protocol_versions();
    #[expect(
        clippy::expect_used,
        reason = "ring supports the default versions; there is no input that could fail"
    )]
    let builder = versions.expect("the provider speaks TLS");
    let verifier = Arc::new(Unchecked(provider));
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
});

/// Takes any certificate, as upstream does for what it proxies to; signatures are checked.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_a_pod_could_have_are_reached() {
        for bad in [
            "",
            "x",
            "127.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "::1",
            "fe80::1",
            "::ffff:127.0.0.1",
        ] {
            assert_eq!(reachable(bad).unwrap_err().message(), "address not allowed", "{bad}");
        }
        for good in ["10.244.0.3", "192.168.1.1", "fd00::1"] {
            assert_eq!(reachable(good).unwrap().to_string(), good);
        }
    }

    #[test]
    fn redirections_within_the_target_stay_below_the_proxy() {
        let before = "/api/v1/namespaces/a/pods/p/proxy";
        let own = ["10.0.0.1:80", "localhost:8001"];
        for (location, wanted) in [
            ("/x/", "/api/v1/namespaces/a/pods/p/proxy/x/"),
            ("http://10.0.0.1:80/x", "/api/v1/namespaces/a/pods/p/proxy/x"),
            ("https://example.com/x", "https://example.com/x"),
            ("x", "x"),
            ("/api/v1/namespaces/a/pods/p/proxy/x", "/api/v1/namespaces/a/pods/p/proxy/x"),
        ] {
            assert_eq!(rewritten(location, before, &own), wanted);
        }
    }

    #[test]
    fn an_id_names_scheme_and_port() {
        let id = Id::parse("https:web:8443", "service").unwrap();
        assert_eq!((id.scheme, id.name, id.port), ("https", "web", "8443"));
        for bad in ["", "ftp:a:1", "a:b:c:d", ":80"] {
            assert!(Id::parse(bad, "pod").is_err(), "{bad}");
        }
    }
}
