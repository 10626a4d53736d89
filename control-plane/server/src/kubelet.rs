//! What the server asks of kubelets: logs, and streams that are passed through without being looked into.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use fairlead_api::{
    field::{ErrorList, Path, forbidden, invalid},
    registry,
    status::{self, Status},
};
use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{io::copy_bidirectional, net::TcpStream};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use crate::{
    api::{Api, Call},
    body::{self, Body},
    reply::{self, Answer},
    secure::Attributes,
    subresource, write,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a kubelet's refusal is shown.
const MAX_REFUSAL: usize = 16 << 10;

/// Connections to kubelets, with the server's client certificate.
pub struct Kubelets {
    connector: TlsConnector,
}

/// Where a pod's kubelet is, and the container that is meant.
pub struct Place {
    pub address: IpAddr,
    pub port: u16,
    container: String,
}

impl Kubelets {
    pub fn new(config: Arc<rustls::ClientConfig>) -> Self {
        Kubelets { connector: TlsConnector::from(config) }
    }

    /// Sends one request on a connection of its own.
    async fn send(
        &self,
        place: &Place,
        request: Request<Body>,
    ) -> Result<Response<hyper::body::Incoming>, Status> {
        let url = format!("https://{}:{}{}", shown(place.address), place.port, request.uri());
        let what = format!("{} {url:?}", method(&request));
        let failed = |why: String| status::internal(&format!("{what}: {why}"));
        exchange(place.address, place.port, Some(&self.connector), request).await.map_err(failed)
    }

    /// The client's side of TLS towards kubelets.
    pub fn connector(&self) -> &TlsConnector {
        &self.connector
    }
}

/// Sends one request on a connection of its own.
///
/// # Errors
/// In the words that Go has for it.
pub async fn exchange(
    address: IpAddr,
    port: u16,
    tls: Option<&TlsConnector>,
    request: Request<Body>,
) -> Result<Response<hyper::body::Incoming>, String> {
    let dial = |why: String| format!("dial tcp {}:{port}: {why}", shown(address));
    let connect = async {
        let tcp =
            TcpStream::connect((address, port)).await.map_err(|e| dial(format!("connect: {}", plain(&e))))?;
        tcp.set_nodelay(true).map_err(|error| dial(plain(&error)))?;
        match tls {
            Some(tls) => {
                let stream = tls.connect(ServerName::from(address), tcp).await;
                talk(stream.map_err(|error| format!("tls: {}", plain(&error)))?, request).await
            }
            None => talk(tcp, request).await,
        }
    };
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect).await;
    connected.unwrap_or_else(|_| Err(dial("i/o timeout".into())))?.await
}

type Talk =
    Result<futures::future::BoxFuture<'static, Result<Response<hyper::body::Incoming>, String>>, String>;

/// HTTP/1.1 over an open stream; the answer is awaited by the caller, for as long as it takes.
async fn talk<S>(stream: S, request: Request<Body>) -> Talk
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    tokio::spawn(connection.with_upgrades());
    Ok(async move { sender.send_request(request).await.map_err(|error| error.to_string()) }.boxed())
}

/// An error of the system without its number.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

fn method(request: &Request<Body>) -> String {
    let name = request.method().as_str();
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| format!("{first}{}", letters.as_str().to_lowercase()))
}

/// An address as URLs write it.
pub fn shown(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

async fn pod(api: &Api, call: &Call) -> Result<Value, Status> {
    let current = write::current(api, call.kind, &call.key()).await?.ok_or_else(|| call.not_found())?;
    Ok(current.object)
}

/// The container that is meant.
fn container(call: &Call, pod: &Value) -> Result<String, Status> {
    let name = &call.resource.name;
    let names = |list: &str| -> Vec<String> {
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        containers.filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
    };
    let (main, init, debug) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    if let Some(asked) = call.params.set("container") {
        let known = main.iter().chain(&init).chain(&debug).any(|name| name == asked);
        return if known {
            Ok(asked.to_owned())
        } else {
            Err(status::bad_request(format!("container {asked} is not valid for pod {name}")))
        };
    }
    match main.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(status::bad_request(format!("a container name must be specified for pod {name}"))),
        many => {
            let mut words = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                many.join(" ")
            );
            if !init.is_empty() {
                words.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(status::bad_request(words))
        }
    }
}

/// The kubelet of a node.
///
/// # Errors
/// 404 for a node that does not exist, 500 for one without an address.
pub fn place(api: &Api, node: &str, container: String) -> Result<Place, Status> {
    let kind = registry::find("", "v1", "nodes").ok_or_else(status::no_such_resource)?;
    let item = api.cache(kind)?.get(node).ok_or_else(|| status::not_found("", "nodes", node))?;
    let node_object = item.value(kind);
    let addresses = node_object["status"]["addresses"].as_array().into_iter().flatten();
    let find = |wanted: &str| {
        let found = addresses.clone().find(|address| address["type"] == wanted)?;
        found["address"].as_str()?.parse::<IpAddr>().ok()
    };
    let address = find("InternalIP").or_else(|| find("ExternalIP")).ok_or_else(|| {
        status::internal(&format!(
            "no preferred addresses found; known addresses: {}",
            node_object["status"]["addresses"]
        ))
    })?;
    let port = node_object["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0).unwrap_or(10250);
    Ok(Place { address, port, container })
}

fn log_errors(call: &Call) -> Result<ErrorList, Status> {
    let mut errors = ErrorList::new();
    for (name, least, words) in [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
        ("limitBytes", 1, "must be greater than 0"),
    ] {
        let given = crate::options::integer(&call.params, name)?;
        if let Some(n) = given.filter(|n| *n < least) {
            errors.push(invalid(&Path::new(name), &json!(n), words));
        }
    }
    if call.params.set("sinceSeconds").is_some() && call.params.set("sinceTime").is_some() {
        errors.push(forbidden(
            &Path::new("[]"),
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        ));
    }
    Ok(errors)
}

/// GET of a pod's log.
pub async fn log(api: &Arc<Api>, call: &Call) -> Answer {
    let pod = pod(api, call).await?;
    let errors = log_errors(call)?;
    if !errors.is_empty() {
        return Err(status::invalid("", "PodLogOptions", &call.resource.name, &errors));
    }
    let container = container(call, &pod)?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        // Nothing has run yet, so that there is nothing to show.
        return Ok(subresource::empty(204));
    }
    let place = place(api, node, container)?;
    let names = [
        "follow",
        "previous",
        "sinceSeconds",
        "sinceTime",
        "timestamps",
        "tailLines",
        "limitBytes",
        "stream",
    ];
    let query: Vec<String> = names
        .iter()
        .filter_map(|name| call.params.set(name).map(|value| format!("{name}={}", encoded(value))))
        .collect();
    let uri = uri("containerLogs", call, &place.container, &query);
    let request = Request::get(uri)
        .header(header::HOST, format!("{}:{}", shown(place.address), place.port))
        .body(body::empty())
        .map_err(|error| status::internal(&error.to_string()))?;
    let answer = api.kubelets.send(&place, request).await?;
    if !answer.status().is_success() {
        return Err(refusal(call, answer).await);
    }
    let mut response = reply::respond(200, "text/plain", Bytes::new());
    *response.body_mut() = body::wrap(answer.into_body());
    Ok(response)
}

fn uri(what: &str, call: &Call, container: &str, query: &[String]) -> String {
    let mut uri = format!("/{what}/{}/{}/{container}", call.resource.namespace, call.resource.name);
    if !query.is_empty() {
        uri.push('?');
        uri.push_str(&query.join("&"));
    }
    uri
}

/// Percent encoding of a query's value.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A kubelet's refusal as upstream passes it on.
async fn refusal(call: &Call, answer: Response<hyper::body::Incoming>) -> Status {
    let code = answer.status().as_u16();
    let collected = Limited::new(answer.into_body(), MAX_REFUSAL).collect().boxed().await;
    let bytes = collected.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    if let Ok(own) = serde_json::from_slice::<Value>(&bytes)
        && own["kind"] == "Status"
    {
        return Status(own);
    }
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    match code {
        400 => status::bad_request(text),
        404 => status::not_found("", "pods/log", &call.resource.name).with_message(text),
        500 => status::internal(&text),
        code => status::failure(code, "", text, None),
    }
}

/// `exec`, `attach` and `portforward`: an upgraded connection to the kubelet, passed through.
pub async fn stream(api: &Arc<Api>, call: &Call, what: &'static str, mut request: Request<Body>) -> Answer {
    may_create(api, call)?;
    let pod = pod(api, call).await?;
    let container = if what == "portForward" { String::new() } else { container(call, &pod)? };
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Err(status::bad_request(format!("pod {} does not have a host assigned", call.resource.name)));
    }
    let place = place(api, node, container)?;
    if !request.headers().contains_key(header::UPGRADE) {
        return Err(status::bad_request("Upgrade request required"));
    }
    let mut query = Vec::new();
    for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if call.params.flag(ours) {
            query.push(format!("{theirs}=1"));
        }
    }
    query.extend(call.params.all("command").map(|word| format!("command={}", encoded(word))));
    query.extend(call.params.all("ports").map(|port| format!("port={}", encoded(port))));
    let uri = uri(what, call, &place.container, &query);
    let mut onward = Request::new(body::empty());
    *onward.method_mut() = request.method().clone();
    *onward.uri_mut() =
        uri.trim_end_matches('/').parse().map_err(|_| status::bad_request("malformed path"))?;
    copy_headers(request.headers(), onward.headers_mut());
    let host = format!("{}:{}", shown(place.address), place.port);
    let host = HeaderValue::from_str(&host).map_err(|error| status::internal(&error.to_string()))?;
    onward.headers_mut().insert(header::HOST, host);
    let client = hyper::upgrade::on(&mut request);
    let answer = api.kubelets.send(&place, onward).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(call, answer).await);
    }
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    copy_headers(answer.headers(), response.headers_mut());
    let stopping = api.stopping.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = stopping.cancelled() => {}
            result = join(client, hyper::upgrade::on(answer)) => if let Err(error) = result {
                tracing::debug!(%error, "a stream to a kubelet ended");
            }
        }
    });
    Ok(response)
}

/// WebSocket clients come with GET, which must not let in those who may only read: the right to create is asked for
/// whatever the method is.
fn may_create(api: &Api, call: &Call) -> Result<(), Status> {
    api.authorizer.check(&Attributes {
        group: &call.resource.group,
        version: &call.resource.version,
        resource: &call.resource.plural,
        subresource: &call.resource.subresource,
        namespace: &call.resource.namespace,
        name: &call.resource.name,
        ..Attributes::new(&call.user, "create")
    })
}

/// Prefix of the WebSocket protocol in which a client that cannot set headers sends its token.
const BEARER_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// The headers of an upgrade: everything that the protocols behind it negotiate with.
fn copy_headers(from: &HeaderMap, to: &mut HeaderMap) {
    let own: [HeaderName; 4] = [header::CONNECTION, header::UPGRADE, header::ORIGIN, header::USER_AGENT];
    for (name, value) in from {
        let negotiates = name.as_str().starts_with("sec-websocket-") || name.as_str().starts_with("x-");
        if negotiates || own.contains(name) {
            to.append(name.clone(), value.clone());
        }
    }
    without_token(to);
}

/// The caller's token may stand among the WebSocket protocols; it is for this server only.
pub fn without_token(headers: &mut HeaderMap) {
    let offered: Vec<String> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(|protocol| protocol.trim().to_owned()))
        .filter(|protocol| !protocol.starts_with(BEARER_PROTOCOL))
        .collect();
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    if let (false, Ok(value)) = (offered.is_empty(), HeaderValue::from_str(&offered.join(", "))) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    }
}

/// Passes bytes on between two upgraded connections until one ends.
///
/// # Errors
/// If one of them breaks.
pub async fn join(
    client: hyper::upgrade::OnUpgrade,
    kubelet: hyper::upgrade::OnUpgrade,
) -> Result<(), body::BoxError> {
    let kubelet = kubelet.await?;
    let client = client.await?;
    copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(kubelet)).await?;
    Ok(())
}
