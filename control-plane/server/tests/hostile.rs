//! Clients that mean harm, or are broken: each is refused or cut off, and the server goes on for everybody else.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use fairlead_server::{Limits, ServeArgs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(15);
const STALL: Duration = Duration::from_secs(1);
const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    serve: ServeArgs,
}

/// A directory that goes when the test ends.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Target {
    address: SocketAddr,
    admin: Arc<rustls::ClientConfig>,
    nobody: Arc<rustls::ClientConfig>,
}

fn client(pki: &Path, admin: bool) -> Arc<rustls::ClientConfig> {
    let read = |file: &str| CertificateDer::from_pem_file(pki.join(file)).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(read("ca.crt")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.unwrap().with_root_certificates(roots);
    Arc::new(match admin {
        false => builder.with_no_client_auth(),
        true => {
            let key = PrivateKeyDer::from_pem_file(pki.join("admin.key")).unwrap();
            builder.with_client_auth_cert(vec![read("admin.crt")], key).unwrap()
        }
    })
}

/// What a server answered on HTTP/1.1.
struct Answer {
    code: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn read(bytes: &[u8]) -> Option<Answer> {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let code = head.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { code, head, body: bytes[end + 4..].to_vec() })
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Target {
    async fn tcp(&self, receive: Option<u32>) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(bytes) = receive {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        socket.connect(self.address).await.unwrap()
    }

    async fn tls(&self, admin: bool, http2: bool, receive: Option<u32>) -> TlsStream<TcpStream> {
        let mut config = rustls::ClientConfig::clone(if admin { &self.admin } else { &self.nobody });
        config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let name = ServerName::from(self.address.ip());
        TlsConnector::from(Arc::new(config)).connect(name, self.tcp(receive).await).await.unwrap()
    }

    /// Sends bytes on a fresh connection and reads until the server closes it.
    async fn raw(&self, admin: bool, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.tls(admin, false, None).await;
        // The server may close before it has read all.
        let _ = stream.write_all(bytes).await;
        drain(&mut stream).await
    }

    async fn ask(&self, admin: bool, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}");
        let length = format!("Content-Length: {}\r\n\r\n", body.len());
        let bytes = [head.as_bytes(), length.as_bytes(), body].concat();
        let answer = self.raw(admin, &bytes).await;
        Answer::read(&answer).unwrap_or_else(|| panic!("{method} {path}: no answer"))
    }

    async fn send(&self, method: &str, path: &str, media: &str, body: impl AsRef<[u8]>) -> Answer {
        self.ask(true, method, path, &format!("Content-Type: {media}\r\n"), body.as_ref()).await
    }

    async fn alive(&self) {
        assert_eq!(self.ask(true, "GET", "/readyz", "", b"").await.code, 200);
    }
}

/// What comes until the end, however that looks.
async fn drain(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    let read = async {
        while let Ok(n @ 1..) = stream.read(&mut chunk).await {
            all.extend_from_slice(&chunk[..n]);
        }
    };
    timeout(SOON, read).await.expect("the server closes the connection");
    all
}

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_clients_are_refused_or_cut_off_and_the_server_goes_on() {
    let path = std::env::temp_dir().join(format!("fairlead-hostile-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    let directory = Directory(path);
    let data = directory.0.to_str().unwrap();
    let fixed =
        ["x", "--data-dir", data, "--secure-port", "0", "--controllers", "none", "--scheduler", "false"];
    let mut args = Cli::parse_from(fixed).serve;
    args.limits = Limits {
        request_timeout_seconds: 3,
        stall_timeout_seconds: STALL.as_secs(),
        idle_timeout_seconds: 2,
        ..Limits::default()
    };
    let stop = CancellationToken::new();
    let server = fairlead_server::start(args, stop.clone()).await.unwrap();
    let pki = directory.0.join("pki");
    let target = Target { address: server.address, admin: client(&pki, true), nobody: client(&pki, false) };
    let done = tokio::spawn(server.wait());
    target.alive().await;
    large_bodies(&target).await;
    deep_and_swelling_bodies(&target).await;
    patches(&target).await;
    heads(&target).await;
    paths_without_proof(&target).await;
    paths_out_of_a_namespace(&target).await;
    let before = resident();
    tokio::join!(
        broken_transport(&target),
        slow_senders(&target),
        http2_floods(&target),
        takers_of_nothing(&target),
        takers_of_nothing_on_http2(&target),
    );
    target.alive().await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 256 << 20, "{} MiB more than before", grown >> 20);
    stop.cancel();
    done.await.unwrap().unwrap();
}

async fn large_bodies(target: &Target) {
    let large = format!(r#"{{"metadata":{{"name":"l"}},"data":{{"k":"{}"}}}}"#, "x".repeat(3 << 20));
    for (method, path) in [
        ("POST", CONFIGMAPS.to_owned()),
        ("PUT", format!("{CONFIGMAPS}/l")),
        ("DELETE", format!("{CONFIGMAPS}/l")),
    ] {
        let refused = target.send(method, &path, "application/json", &large).await;
        let status = refused.json();
        assert_eq!((refused.code, &status["reason"]), (413, &json!("RequestEntityTooLarge")), "{method}");
        assert_eq!(status["message"], "Request entity too large: limit is 3145728");
    }
    let head = format!(
        "POST {CONFIGMAPS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let chunk = format!("100000\r\n{}\r\n", "x".repeat(1 << 20));
    let chunked = [head.as_bytes(), chunk.repeat(4).as_bytes(), b"0\r\n\r\n"].concat();
    assert_eq!(Answer::read(&target.raw(true, &chunked).await).unwrap().code, 413);
    let packed = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut encoder, &vec![b' '; 32 << 20]).unwrap();
        encoder.finish().unwrap()
    };
    let headers = "Content-Type: application/json\r\nContent-Encoding: gzip\r\n";
    assert_eq!(
        target.ask(true, "POST", CONFIGMAPS, headers, &packed).await.code,
        400,
        "bodies are not unpacked"
    );
    target.alive().await;
}

async fn deep_and_swelling_bodies(target: &Target) {
    let laughs = (0..30).fold("a0: &a0 [x,x]\n".to_owned(), |text, i| {
        let alias = format!("*a{i},").repeat(9);
        format!("{text}a{}: &a{} [{alias}]\n", i + 1, i + 1)
    });
    let swelling = format!("data:\n  a: &a {}\n{}", "x".repeat(1 << 20), "  b: *a\n".repeat(20_000));
    for (media, body) in [
        ("application/json", "[".repeat(1 << 20)),
        ("application/json", r#"{"a":"#.repeat(1 << 18)),
        ("application/json", format!("{}{}", "[".repeat(5000), "]".repeat(5000))),
        ("application/yaml", "[".repeat(1 << 20)),
        ("application/yaml", "- ".repeat(1 << 20)),
        ("application/yaml", "{a: ".repeat(1 << 18)),
        ("application/yaml", laughs),
        ("application/yaml", swelling),
        ("application/yaml", "&a [*a]".to_owned()),
        ("application/vnd.kubernetes.protobuf", "k8s\0\n\u{3}\u{a}\u{1}v\u{12}\u{7f}".to_owned()),
    ] {
        let start = Instant::now();
        let refused = target.send("POST", CONFIGMAPS, media, &body).await;
        assert_eq!(refused.code, 400, "{media} {:.40}: {}", body, refused.json());
        assert!(start.elapsed() < Duration::from_secs(5), "{media} {:.40} took {:?}", body, start.elapsed());
    }
    target.alive().await;
}

async fn patches(target: &Target) {
    let path = format!("{CONFIGMAPS}/p");
    let body = json!({"metadata": {"name": "p"}, "data": {"k": "x".repeat(100_000)}}).to_string();
    assert_eq!(target.send("POST", CONFIGMAPS, "application/json", body).await.code, 201);
    let media = "application/json-patch+json";
    let many = json!(vec![json!({"op": "test", "path": "/data/k", "value": ""}); 10_001]);
    let refused = target.send("PATCH", &path, media, many.to_string()).await;
    let status = refused.json();
    assert_eq!((refused.code, &status["reason"]), (413, &json!("RequestEntityTooLarge")));
    let copies: Vec<Value> = (0..10_000)
        .map(|i| json!({"op": "copy", "from": "/data/k", "path": format!("/data/k{i}")}))
        .collect();
    let nested = format!("{}{}{}", r#"{"x":"#.repeat(100), "0", "}".repeat(100));
    let nested: Value = serde_json::from_str(&nested).unwrap();
    let inside = format!("/b{}", "/x".repeat(100));
    let deeper = (0..3000).flat_map(|_| {
        [
            json!({"op": "add", "path": "/b", "value": nested}),
            json!({"op": "move", "from": "/data", "path": inside}),
            json!({"op": "move", "from": "/b", "path": "/data"}),
        ]
    });
    for (what, operations) in [("copies", copies), ("depth", deeper.collect())] {
        let start = Instant::now();
        let refused = target.send("PATCH", &path, media, Value::Array(operations).to_string()).await;
        assert_eq!(refused.code, 422, "{what}: {}", refused.json());
        assert!(start.elapsed() < Duration::from_secs(5), "{what} took {:?}", start.elapsed());
    }
    target.alive().await;
}

async fn heads(target: &Target) {
    let long = "x".repeat(200 << 10);
    assert_eq!(target.ask(true, "GET", "/version", &format!("X-Long: {long}\r\n"), b"").await.code, 431);
    assert_eq!(target.ask(true, "GET", "/version", &"X-Many: 1\r\n".repeat(1000), b"").await.code, 431);
    let code = target.ask(true, "GET", &format!("/version?a={}", &long[..100 << 10]), "", b"").await.code;
    assert_eq!(code, 414);
    for selector in ["(".repeat(60_000), "a,".repeat(20_000), "!".repeat(60_000)] {
        let start = Instant::now();
        let path = format!("{CONFIGMAPS}?labelSelector={selector}");
        assert!(matches!(target.ask(true, "GET", &path, "", b"").await.code, 200 | 400));
        assert!(start.elapsed() < Duration::from_secs(2), "{:.10} took {:?}", selector, start.elapsed());
    }
    for garbage in
        ["\0\0\0\0\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        let answer = target.raw(true, garbage.as_bytes()).await;
        let code = Answer::read(&answer).map(|answer| answer.code);
        assert!(matches!(code, None | Some(400..)), "{garbage:?}: {code:?}");
    }
    for smuggled in [
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 1\r\nContent-Length: 2\r\n",
        "Content-Length: -1\r\n",
    ] {
        let bytes =
            format!("POST {CONFIGMAPS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{smuggled}\r\n0\r\n\r\n");
        let answer = target.raw(true, bytes.as_bytes()).await;
        let code = Answer::read(&answer).map(|answer| answer.code);
        assert!(matches!(code, None | Some(400..=499)), "{smuggled}: {code:?}");
    }
    target.alive().await;
}

/// Who has shown nothing gets nothing, whatever the path looks like.
async fn paths_without_proof(target: &Target) {
    for path in [
        "/api/v1/secrets",
        "//api/v1/secrets",
        "/api//v1/secrets",
        "/api/v1/secrets/",
        "/./api/v1/secrets",
        "/healthz/../api/v1/secrets",
        "/healthz/%2e%2e/api/v1/secrets",
        "/version/../api/v1/secrets",
        "/%61pi/v1/secrets",
        "/api%2fv1%2fsecrets",
        "/api/v1/namespaces/default/configmaps/..%2f..%2fsecrets",
        "/api/v1/watch/secrets",
        "/api/v1/secrets?watch=1",
        "/API/v1/secrets",
        "/healthz?x=/api/v1/secrets",
        "/metrics",
        "/readyz/../metrics",
        "https://x/api/v1/secrets",
    ] {
        for headers in [
            "",
            "X-HTTP-Method-Override: GET\r\n",
            "Impersonate-User: admin\r\nImpersonate-Group: system:masters\r\n",
            "X-Remote-User: admin\r\nX-Remote-Group: system:masters\r\n",
            "Authorization: Bearer x\r\n",
            "Authorization: Basic YWRtaW46YWRtaW4=\r\n",
        ] {
            let answer = target.ask(false, "GET", path, headers, b"").await;
            let text = String::from_utf8_lossy(&answer.body);
            let shown = text.contains("SecretList") || text.contains("apiserver_request_total");
            let health = path.starts_with("/healthz?") || headers.starts_with("Authorization: Basic");
            assert!(!shown && (answer.code >= 400 || health), "{path} {headers}: {} {text}", answer.code);
        }
    }
    target.alive().await;
}

/// Who may do everything in one namespace may do nothing outside it, whatever the path looks like.
async fn paths_out_of_a_namespace(target: &Target) {
    let binding = json!({
        "metadata": {"name": "tenant"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "tenant"}],
    });
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    assert_eq!(target.send("POST", bindings, "application/json", binding.to_string()).await.code, 201);
    let tenant = "Impersonate-User: tenant\r\nContent-Type: application/json\r\n";
    let start = Instant::now();
    while target.ask(true, "GET", CONFIGMAPS, tenant, b"").await.code != 200 {
        assert!(start.elapsed() < SOON, "the binding is seen");
    }
    for (method, path) in [
        ("GET", "/api/v1/namespaces/default/namespaces"),
        ("GET", "/api/v1/namespaces/default/namespaces?watch=1"),
        ("GET", "/api/v1/namespaces/default/namespaces/kube-system"),
        ("DELETE", "/api/v1/namespaces/default/namespaces/kube-system"),
        ("POST", "/api/v1/namespaces/default/namespaces"),
        ("PUT", "/api/v1/namespaces/default/namespaces/kube-system/finalize"),
        ("GET", "/api/v1/namespaces/default/nodes"),
        ("GET", "/api/v1/namespaces/default/persistentvolumes"),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/clusterroles"),
        ("GET", "/api/v1/namespaces/default%2F..%2Fkube-system/configmaps"),
        ("GET", "/api/v1/namespaces/default/../kube-system/configmaps"),
        (
            "GET",
            "/api/v1/namespaces/default/configmaps/..%2F..%2Fkube-system%2Fextension-apiserver-authentication",
        ),
        ("GET", "/api/v1/watch/namespaces/default/namespaces"),
        ("GET", "/api/v1/namespaces/kube-system/configmaps?namespace=default"),
        ("GET", "/api/v1/configmaps?fieldSelector=metadata.namespace%3Ddefault"),
    ] {
        let body = json!({"metadata": {"name": "kube-system"}}).to_string();
        let code = target.ask(true, method, path, tenant, body.as_bytes()).await.code;
        assert!(matches!(code, 403..=405), "{method} {path}: {code}");
    }
    assert_eq!(target.ask(true, "GET", "/api/v1/namespaces/kube-system", "", b"").await.code, 200);
}

async fn broken_transport(target: &Target) {
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff], &[0; 4096], &[0xff; 4096], b""] {
        let mut stream = target.tcp(None).await;
        let _ = stream.write_all(bytes).await;
        // Also when nothing more comes: a handshake has its time.
        drain(&mut stream).await;
    }
    let mut many = Vec::new();
    for _ in 0..300 {
        many.push(target.tcp(None).await);
    }
    target.alive().await;
    drain(&mut many.pop().unwrap()).await;
}

async fn slow_senders(target: &Target) {
    let mut nothing = target.tls(true, false, None).await;
    let mut nothing2 = target.tls(true, true, None).await;
    let mut head = target.tls(true, false, None).await;
    head.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\nX-").await.unwrap();
    let mut body = target.tls(true, false, None).await;
    let start = format!(
        "POST {CONFIGMAPS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
    );
    body.write_all(start.as_bytes()).await.unwrap();
    let (_, _, _, late) =
        tokio::join!(drain(&mut nothing), drain(&mut nothing2), drain(&mut head), drain(&mut body));
    let late = Answer::read(&late).expect("a body that does not come is answered");
    assert_eq!((late.code, &late.json()["reason"]), (504, &json!("Timeout")), "{}", late.head);
    assert_eq!(late.json()["message"], "Timeout: request did not complete within the allotted timeout");
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// A header block: GET of `path`.
fn get(path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    assert!(length < 127);
    [&[0x82, 0x87, 0x04, length][..], path.as_bytes(), &[0x01, 1, b'x']].concat()
}

/// The kinds of frames in what a server sent, with the stream and the first bytes of each.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u32, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let Some((payload, next)) = rest.split_at_checked(length) else { break };
        all.push((head[3], stream, payload[..length.min(16)].to_vec()));
        bytes = next;
    }
    all
}

async fn http2_floods(target: &Target) {
    let settings = frame(SETTINGS, 0, 0, &[]);
    let reset: Vec<u8> = (0..5000u32)
        .flat_map(|i| {
            let stream = i * 2 + 1;
            [frame(HEADERS, 5, stream, &get("/version")), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])]
                .concat()
        })
        .collect();
    let continued = [
        frame(HEADERS, 0, 1, &get("/version")),
        frame(CONTINUATION, 0, 1, &[[0x00, 1, b'a', 100].to_vec(), vec![b'b'; 100]].concat()).repeat(50_000),
    ]
    .concat();
    let empty = frame(DATA, 0, 1, &[]).repeat(50_000);
    for (what, flood) in [
        ("rapid reset", reset),
        ("continuation", continued),
        ("empty data", [frame(HEADERS, 4, 1, &get("/version")), empty].concat()),
        ("settings", settings.repeat(50_000)),
        ("pings", frame(6, 0, 0, &[0; 8]).repeat(50_000)),
        ("too long", [&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1][..], &[0; 100]].concat()),
        ("window", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]).repeat(3)),
        ("garbage", vec![0xab; 10_000]),
    ] {
        let mut stream = target.tls(true, true, None).await;
        let bytes = [PREFACE, &settings, &flood].concat();
        let (mut read, mut write) = tokio::io::split(&mut stream);
        let sent = async {
            let _ = write.write_all(&bytes).await;
        };
        let (answer, ()) = tokio::join!(drain(&mut read), sent);
        let answer = frames(&answer);
        if matches!(what, "rapid reset" | "too long" | "window" | "garbage") {
            assert!(answer.iter().any(|(kind, ..)| *kind == GOAWAY), "{what}: {answer:?}");
        }
    }
}

/// Objects whose list is more than sockets buffer.
async fn fill(target: &Target) {
    for i in 0..24 {
        let body = json!({"metadata": {"name": format!("full-{i}")}, "data": {"k": "x".repeat(700_000)}});
        let code = target.send("POST", CONFIGMAPS, "application/json", body.to_string()).await.code;
        assert!(matches!(code, 201 | 409), "{code}");
    }
}

/// How many requests of a verb are open, as the server counts them.
async fn open(target: &Target, verb: &str) -> usize {
    let metrics = target.ask(true, "GET", "/metrics", "", b"").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let lines = text.lines().filter(|l| l.starts_with("apiserver_longrunning_requests") && l.contains(verb));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
}

async fn until_closed(target: &Target, verb: &str) {
    let start = Instant::now();
    while open(target, verb).await > 0 {
        assert!(start.elapsed() < SOON, "a {verb} that nobody takes is kept");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn takers_of_nothing(target: &Target) {
    fill(target).await;
    for path in [CONFIGMAPS.to_owned(), format!("{CONFIGMAPS}?watch=1")] {
        let mut stream = target.tls(true, false, Some(4096)).await;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        tokio::time::sleep(STALL * 3).await;
        let taken = drain(&mut stream).await;
        assert!(taken.len() < 16 << 20, "{path}: the answer was cut off, not sent: {}", taken.len());
        assert!(!taken.ends_with(b"0\r\n\r\n"), "{path}: and does not look whole");
    }
    until_closed(target, "WATCH").await;
}

async fn takers_of_nothing_on_http2(target: &Target) {
    fill(target).await;
    let mut stream = target.tls(true, true, None).await;
    // No room for a single byte of any stream, and the connection is read all the time.
    let no_window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let list = frame(HEADERS, 5, 1, &get(CONFIGMAPS));
    let watch = frame(HEADERS, 5, 3, &get(&format!("{CONFIGMAPS}?watch=1")));
    stream.write_all(&[PREFACE, &no_window, &list, &watch].concat()).await.unwrap();
    let answer = frames(&drain(&mut stream).await);
    for id in [1, 3] {
        let reset = answer.iter().any(|(kind, stream, _)| (*kind, *stream) == (RST_STREAM, id));
        assert!(reset, "stream {id} is reset: {answer:?}");
    }
    until_closed(target, "WATCH").await;
}
