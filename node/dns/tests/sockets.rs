//! The whole server on loopback, without a cluster: UDP and TCP clients, an upstream server of the test's own.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fairlead_dns::config::{Config, Routes};
use fairlead_dns::forward::Forwarder;
use fairlead_dns::metrics::Metrics;
use fairlead_dns::name::{Label, Name};
use fairlead_dns::resolve::Resolver;
use fairlead_dns::serve::Sockets;
use fairlead_dns::zone::{Endpoint, Service, ServiceKey, Slice, Target, Zone};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name as WireName, RData, Record, RecordType, rdata};
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

/// A server with the names the tests ask for, stopped when it is dropped.
struct Server {
    address: SocketAddr,
    zone: Arc<RwLock<Zone>>,
    forwarder: Arc<Forwarder>,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn zone() -> Zone {
    let mut zone = Zone::new(name("cluster.local"));
    zone.namespace(Label::new("demo").expect("a label"));
    let key = |service: &str| ServiceKey::new("demo", service).expect("a key");
    let service = |target| Service { target, ports: vec![], publish_not_ready: false };
    zone.service(&key("web"), service(Target::Cluster(vec!["10.96.0.5".parse().expect("an address")])));
    zone.service(&key("ext"), service(Target::External(name("www.example"))));
    zone.service(&key("gone"), service(Target::External(name("nx.example"))));
    zone.service(&key("inner"), service(Target::External(name("web.demo.svc.cluster.local"))));
    zone.service(&key("loop"), service(Target::External(name("loop.demo.svc.cluster.local"))));
    zone.service(&key("many"), service(Target::Headless));
    let endpoint = |i: u32| Endpoint {
        addresses: vec![IpAddr::from((0x0a01_0000 + i).to_be_bytes())],
        hostname: None,
        ready: true,
    };
    zone.slice(
        "demo/many-1",
        Slice { service: key("many"), endpoints: (0..500).map(endpoint).collect(), ports: vec![] },
    );
    zone.set_synced();
    zone
}

impl Server {
    fn start(upstreams: &[SocketAddr]) -> Server {
        let sockets = Sockets::bind(&["127.0.0.1:0".parse().expect("an address")]).expect("sockets");
        let address = sockets.addresses()[0];
        let config = Config { upstreams: upstreams.to_vec(), ..Config::default() };
        let forwarder = Arc::new(Forwarder::new(Routes::new(&config, &[], |_| false)));
        let zone = Arc::new(RwLock::new(zone()));
        let resolver = Resolver { zone: zone.clone(), forwarder: forwarder.clone() };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let serving = sockets.serve(resolver, Arc::new(Metrics::new(&[])), stopped);
            runtime.expect("a runtime").block_on(serving).expect("it serves");
        });
        Server { address, zone, forwarder, stop, thread: Some(thread) }
    }

    fn udp(&self, octets: &[u8]) -> Option<Vec<u8>> {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(6))).expect("a timeout");
        socket.connect(self.address).expect("a route");
        socket.send(octets).expect("it is sent");
        let mut buffer = vec![0; 65_536];
        let length = socket.recv(&mut buffer).ok()?;
        buffer.truncate(length);
        Some(buffer)
    }

    fn tcp(&self, octets: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).expect("a connection");
        exchange(&mut stream, octets)
    }

    fn ask(&self, of: &str, kind: RecordType) -> Message {
        let octets = self.udp(&query(of, kind, Some(1232))).expect("an answer");
        Message::from_vec(&octets).expect("a message")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it ends");
        }
    }
}

fn exchange(stream: &mut TcpStream, octets: &[u8]) -> Vec<u8> {
    let length = u16::try_from(octets.len()).expect("a short one");
    stream.write_all(&[&length.to_be_bytes()[..], octets].concat()).expect("it is sent");
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("a length");
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).expect("an answer");
    answer
}

fn query(of: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(0x4242, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(WireName::from_ascii(of).expect("a name"), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message.to_vec().expect("octets")
}

fn shown(message: &Message) -> Vec<String> {
    let mut lines: Vec<_> =
        message.answers.iter().map(|r| format!("{} {} {}", r.name, r.record_type(), r.data)).collect();
    lines.sort();
    lines
}

/// An upstream server: `nx.` does not exist, `big.` is cut over UDP, `fail.` fails, everything else has one address.
struct Upstream {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

fn upstream_answer(octets: &[u8], stream: bool) -> Vec<u8> {
    let asked = Message::from_vec(octets).expect("a query");
    let mut answer = Message::response(asked.metadata.id, OpCode::Query);
    let question = asked.queries[0].clone();
    let (of, text) = (question.name().clone(), question.name().to_ascii());
    answer.add_query(question);
    let address = |i: u8| Record::from_rdata(of.clone(), 30, RData::A(rdata::A::new(192, 0, 2, i)));
    match text.split('.').next() {
        Some("nx") => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            let root = WireName::root();
            let soa = rdata::SOA::new(root.clone(), root.clone(), 1, 2, 3, 4, 60);
            answer.add_authority(Record::from_rdata(root, 60, RData::SOA(soa)));
        }
        Some("fail") => answer.metadata.response_code = ResponseCode::ServFail,
        Some("big") if !stream => answer.metadata.truncation = true,
        Some("big") => {
            answer.add_answers((0..200).map(address));
        }
        _ => {
            answer.add_answer(address(1));
        }
    }
    answer.to_vec().expect("octets")
}

fn upstream() -> Upstream {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("an address");
    let socket = UdpSocket::bind(address).expect("a socket");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            count.fetch_add(1, Ordering::SeqCst);
            let answer = upstream_answer(&buffer[..length], false);
            // First something that answers another question, as a forger would.
            let mut forged = answer.clone();
            forged[0] ^= 0xff;
            for octets in [forged, answer] {
                socket.send_to(&octets, peer).expect("it is sent");
            }
        }
    });
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut length = [0; 2];
            stream.read_exact(&mut length).expect("a length");
            let mut octets = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut octets).expect("a query");
            let answer = upstream_answer(&octets, true);
            let length = u16::try_from(answer.len()).expect("a short one");
            stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).expect("it is sent");
        }
    });
    Upstream { address, asked }
}

#[test]
fn cluster_names_are_answered_over_udp_and_tcp() {
    let server = Server::start(&[]);
    let asked = query("WEB.demo.svc.cluster.local.", RecordType::A, None);
    for octets in [server.udp(&asked).expect("an answer"), server.tcp(&asked)] {
        let answer = Message::from_vec(&octets).expect("a message");
        assert_eq!(shown(&answer), ["WEB.demo.svc.cluster.local. A 10.96.0.5"]);
        assert_eq!((answer.metadata.id, answer.metadata.recursion_desired), (0x4242, true));
    }
    // Several queries on one connection.
    let mut stream = TcpStream::connect(server.address).expect("a connection");
    for _ in 0..3 {
        let answer = Message::from_vec(&exchange(&mut stream, &asked)).expect("a message");
        assert_eq!(answer.answers.len(), 1);
    }
}

#[test]
fn large_answers_are_cut_over_udp_and_whole_over_tcp() {
    let server = Server::start(&[]);
    for (payload, most) in [(None, 512), (Some(700), 700), (Some(65_535), 1232), (Some(0), 512)] {
        let octets =
            server.udp(&query("many.demo.svc.cluster.local.", RecordType::A, payload)).expect("an answer");
        let answer = Message::from_vec(&octets).expect("a message");
        assert!(octets.len() <= most && answer.metadata.truncation, "{payload:?}: {}", octets.len());
        assert_eq!(answer.edns.is_some(), payload.is_some());
    }
    let whole = server.tcp(&query("many.demo.svc.cluster.local.", RecordType::A, None));
    assert_eq!(Message::from_vec(&whole).expect("a message").answers.len(), 500);
}

#[test]
fn malformed_queries_are_refused_or_ignored_and_the_server_goes_on() {
    let server = Server::start(&[]);
    let whole = query("web.demo.svc.cluster.local.", RecordType::A, Some(1232));
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for length in 0..12 {
        socket.send_to(&whole[..length], server.address).expect("it is sent");
    }
    for length in 12..whole.len() {
        let octets = server.udp(&whole[..length]).expect("an answer");
        let code = Message::from_vec(&octets).expect("a message").metadata.response_code;
        assert_eq!(code, ResponseCode::FormErr, "{length}");
    }
    let mut update = whole.clone();
    update[2] = 0x28;
    let octets = server.udp(&update).expect("an answer");
    assert_eq!(octets[3] & 0x0f, 4, "NOTIMP");
    let mut looped = whole.clone();
    (looped[12], looped[13]) = (0xc0, 12);
    assert_eq!(server.udp(&looped).expect("an answer")[3] & 0x0f, 1, "FORMERR");
    let long = vec![0xff; 4000];
    socket.send_to(&long, server.address).expect("it is sent");
    // A connection that says less than it announces, and one that says nothing.
    let mut stream = TcpStream::connect(server.address).expect("a connection");
    stream.write_all(&[0, 40, 1, 2, 3]).expect("it is sent");
    let _silent = TcpStream::connect(server.address).expect("a connection");
    assert_eq!(server.ask("web.demo.svc.cluster.local.", RecordType::A).answers.len(), 1);
}

#[test]
fn other_names_are_asked_upstream_once() {
    let upstream = upstream();
    let server = Server::start(&[upstream.address]);
    for round in 0..3 {
        let answer = server.ask("Www.Example.", RecordType::A);
        // The question's own name comes back in each round's spelling; upstream was asked in lower case.
        assert_eq!(answer.answers.len(), 1, "{round}");
        assert_eq!(answer.answers[0].data.to_string(), "192.0.2.1");
        assert_eq!(answer.queries[0].name().to_ascii(), "Www.Example.");
        assert!(!answer.metadata.authoritative);
    }
    assert_eq!(upstream.asked.load(Ordering::SeqCst), 1);
    for _ in 0..2 {
        let answer = server.ask("nx.example.", RecordType::A);
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(answer.authorities.len(), 1);
    }
    assert_eq!(upstream.asked.load(Ordering::SeqCst), 2, "negative answers are kept too");
    // Many at once are one question.
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert_eq!(server.ask("once.example.", RecordType::A).answers.len(), 1));
        }
    });
    assert_eq!(upstream.asked.load(Ordering::SeqCst), 3);
    assert_eq!(server.forwarder.counts().len(), 1);
}

#[test]
fn answers_cut_upstream_are_fetched_over_tcp() {
    let upstream = upstream();
    let server = Server::start(&[upstream.address]);
    let octets = server.udp(&query("big.example.", RecordType::A, Some(1232))).expect("an answer");
    assert!(Message::from_vec(&octets).expect("a message").metadata.truncation);
    let whole = server.tcp(&query("big.example.", RecordType::A, None));
    assert_eq!(Message::from_vec(&whole).expect("a message").answers.len(), 200);
    assert_eq!(upstream.asked.load(Ordering::SeqCst), 1, "the second came out of the cache");
}

#[test]
fn aliases_are_followed() {
    let upstream = upstream();
    let server = Server::start(&[upstream.address]);
    let answer = server.ask("ext.demo.svc.cluster.local.", RecordType::A);
    assert_eq!(
        shown(&answer),
        ["ext.demo.svc.cluster.local. CNAME www.example.", "www.example. A 192.0.2.1"]
    );
    assert_eq!(answer.answers[0].record_type(), RecordType::CNAME, "the alias comes first");
    let answer = server.ask("inner.demo.svc.cluster.local.", RecordType::A);
    assert_eq!(
        shown(&answer),
        [
            "inner.demo.svc.cluster.local. CNAME web.demo.svc.cluster.local.",
            "web.demo.svc.cluster.local. A 10.96.0.5"
        ]
    );
    let answer = server.ask("gone.demo.svc.cluster.local.", RecordType::A);
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(shown(&answer), ["gone.demo.svc.cluster.local. CNAME nx.example."]);
    let answer = server.ask("loop.demo.svc.cluster.local.", RecordType::A);
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail, "a loop of aliases ends");
}

#[test]
fn silent_servers_are_passed_over_and_asked_last() {
    // Bound and never read.
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let upstream = upstream();
    let server = Server::start(&[silent.local_addr().expect("an address"), upstream.address]);
    let start = std::time::Instant::now();
    assert_eq!(server.ask("a.example.", RecordType::A).answers.len(), 1);
    assert!(start.elapsed() >= Duration::from_millis(900), "the first server had its time");
    let start = std::time::Instant::now();
    assert_eq!(server.ask("b.example.", RecordType::A).answers.len(), 1);
    assert!(start.elapsed() < Duration::from_millis(900), "it comes last now");
}

#[test]
fn failures_upstream_are_told() {
    let upstream = upstream();
    let server = Server::start(&[upstream.address]);
    let answer = server.ask("fail.example.", RecordType::A);
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let without = Server::start(&[]);
    let answer = without.ask("a.example.", RecordType::A);
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn two_servers_share_a_port_while_one_replaces_the_other() {
    let first = Server::start(&[]);
    let second = Sockets::bind(&[first.address]).expect("the port is shared");
    assert_eq!(second.addresses(), [first.address]);
}

/// Nanoseconds that the threads answering datagrams have run, in this process.
fn answering_nanoseconds() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("a folder").flatten();
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let answering = tasks.filter(|task| read(task.path().join("comm")).starts_with("dns-udp"));
    let ran = answering.map(|task| read(task.path().join("schedstat")));
    ran.filter_map(|text| text.split(' ').next()?.parse::<u64>().ok()).sum()
}

/// Answers, and their latencies in microseconds, of one socket that keeps 32 questions under way.
fn load(server: SocketAddr, queries: &[Vec<u8>], time: Duration) -> Vec<u32> {
    const WINDOW: usize = 32;
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.connect(server).expect("a route");
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    let (start, mut latencies) = (std::time::Instant::now(), Vec::new());
    let mut sent = [start; WINDOW];
    let mut buffer = [0; 2048];
    let mut next = 0;
    let mut send = |slot: usize, sent: &mut [std::time::Instant]| {
        let mut query = queries[next % queries.len()].clone();
        next += 1;
        query[..2].copy_from_slice(&[0, slot as u8]);
        sent[slot] = std::time::Instant::now();
        socket.send(&query).expect("it is sent");
    };
    (0..WINDOW).for_each(|slot| send(slot, &mut sent));
    while start.elapsed() < time {
        let length = socket.recv(&mut buffer).expect("an answer");
        assert!(length > 12 && buffer[3] & 0x0f == 0 && buffer[7] > 0, "{:?}", &buffer[..length]);
        let slot = usize::from(buffer[1]);
        latencies.push(u32::try_from(sent[slot].elapsed().as_micros()).unwrap_or(u32::MAX));
        send(slot, &mut sent);
    }
    latencies
}

/// `cargo test --release -p fairlead-dns --test sockets -- --ignored --nocapture`: one client socket is served by one
/// thread, so by at most one core.
#[test]
#[ignore = "measures, and wants the machine for itself"]
fn answers_per_second_on_one_core() {
    let upstream = upstream();
    let server = Server::start(&[upstream.address]);
    for i in 0..10_000_u32 {
        let key = ServiceKey::new("demo", &format!("s{i}")).expect("a key");
        let target = Target::Cluster(vec![IpAddr::from((0x0a60_1000 + i).to_be_bytes())]);
        let service = Service { target, ports: vec![], publish_not_ready: false };
        server.zone.write().service(&key, service);
    }
    let names = |of: &dyn Fn(u32) -> String| -> Vec<Vec<u8>> {
        (0..1000).map(|i| query(&of(i), RecordType::A, Some(1232))).collect()
    };
    let cluster = names(&|i| format!("s{}.demo.svc.cluster.local.", i * 10));
    let cached = names(&|i| format!("n{i}.example."));
    for octets in &cached {
        server.udp(octets).expect("an answer");
    }
    for (what, queries) in [("cluster names", &cluster), ("cached names", &cached)] {
        for _ in 0..5 {
            let (before, time) = (answering_nanoseconds(), Duration::from_secs(2));
            let mut latencies = load(server.address, queries, time);
            let busy = (answering_nanoseconds() - before) as f64 / 1e9;
            latencies.sort_unstable();
            let count = latencies.len();
            println!(
                "{what}: {:.0} answers/s, {:.0} for each second of the answering core, p50 {} us, p99 {} us",
                count as f64 / time.as_secs_f64(),
                count as f64 / busy,
                latencies[count / 2],
                latencies[count * 99 / 100]
            );
        }
    }
}
