//! Connections between pods of one node that go from socket to socket.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use fairlead_abi::{ABI_VERSION, Counter, Metric, Reason};
use fairlead_cni::sysctl;
use fairlead_dataplane::{
    maps::{Observed, carry},
    model::{Protocol, Rates},
};
use serde_json::json;

use crate::{
    address, at,
    space::Space,
    world::{DEADLINE, TestPod, World},
};

/// Bytes of a stream that are written at once.
const BLOCK: usize = 64 << 10;

fn observed(world: &World) -> Observed {
    Observed::open(&carry::directory(&world.nodes[0].settings.pins, ABI_VERSION)).expect("the maps")
}

/// Bytes that went from socket to socket on the first node.
fn spliced(world: &World) -> u64 {
    let counters: Vec<Counter> = observed(world).spliced.get(&0).expect("the counter");
    counters.iter().map(|one| one.bytes).sum()
}

fn metric(world: &World, metric: Metric) -> u64 {
    observed(world).metrics.get(&(metric as u32)).expect("the counter").iter().sum()
}

fn dropped(world: &World, reason: Reason) -> u64 {
    let counters = observed(world).drops.get(&(reason as u32)).expect("the counter");
    counters.iter().map(|one| one.packets).sum()
}

/// A world whose first node splices, with two pods on that.
fn world(dual: bool) -> (World, TestPod, TestPod) {
    let mut world = if dual { World::dual() } else { World::new() };
    world.reconfigure(0, |settings| settings.splice = true);
    let client = world.pod(0, "one", "client", &[]);
    let server = world.pod(0, "one", "server", &[("app", "server")]);
    (world, client, server)
}

/// Both ends of a new connection to `to`, with a listener at `bound`.
fn connected(server: &Space, client: &Space, bound: SocketAddr, to: SocketAddr) -> (TcpStream, TcpStream) {
    let listener = server.run(|| TcpListener::bind(bound)).expect("a listener");
    let near = client.run(|| TcpStream::connect_timeout(&to, DEADLINE)).expect("a connection");
    let far = listener.accept().expect("its other end").0;
    for end in [&near, &far] {
        end.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        end.set_write_timeout(Some(DEADLINE)).expect("a timeout");
    }
    (near, far)
}

fn between(client: &TestPod, server: &TestPod, port: u16) -> (TcpStream, TcpStream) {
    let to = at(server.address, port);
    connected(&server.space, &client.space, to, to)
}

/// A number that follows from another in no visible way (SplitMix64).
fn scatter(number: u64) -> u64 {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// The bytes of a stream from `from` on: no two places look alike.
fn pattern(seed: u64, from: u64, length: usize) -> Vec<u8> {
    let first = from / 8;
    let words =
        (first..(from + length as u64).div_ceil(8)).flat_map(|word| scatter(seed ^ word).to_le_bytes());
    words.skip((from % 8) as usize).take(length).collect()
}

/// Reads what is there, or waits for it. Whatever else wakes the reader of a spliced socket, such as room to write, makes
/// the kernel say that nothing is there, even to those who would wait (`tcp_msg_wait_data`, seen in 6.18).
fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> usize {
    let began = Instant::now();
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && began.elapsed() < DEADLINE => {}
            outcome => return outcome.expect("bytes received"),
        }
    }
}

/// Sends `total` bytes in pieces of every size.
fn send(mut stream: TcpStream, seed: u64, total: u64) {
    let mut sent = 0;
    while sent < total {
        let size =
            1 + scatter(seed.wrapping_add(sent)) % [100, 5000, 70_000, 900_000][(sent / 7 % 4) as usize];
        let piece = pattern(seed, sent, size.min(total - sent) as usize);
        stream.write_all(&piece).expect("bytes sent");
        sent += piece.len() as u64;
    }
}

/// Receives them, with a rest now and then, so that the sender gets ahead.
fn receive(mut stream: TcpStream, seed: u64, total: u64) {
    let mut buffer = vec![0; 300_000];
    let (mut received, mut rests) = (0, 0);
    while received < total {
        let length = read(&mut stream, &mut buffer);
        assert_ne!(length, 0, "the stream ended after {received} bytes");
        assert!(
            buffer[..length] == pattern(seed, received, length)[..],
            "the {length} bytes from {received} on are not what was sent"
        );
        received += length as u64;
        if received / (8 << 20) > rests {
            rests += 1;
            std::thread::sleep(Duration::from_millis(rests % 4 * 5));
        }
    }
}

/// Sends `total` bytes both ways at once and checks every one.
fn exchange(near: &TcpStream, far: &TcpStream, total: u64) {
    let clone = |stream: &TcpStream| stream.try_clone().expect("a second handle");
    let threads: Vec<JoinHandle<()>> = [(near, far, 1 << 40), (far, near, 2 << 40)]
        .into_iter()
        .flat_map(|(from, to, seed)| {
            let (from, to) = (clone(from), clone(to));
            [
                std::thread::spawn(move || send(from, seed, total)),
                std::thread::spawn(move || receive(to, seed, total)),
            ]
        })
        .collect();
    for thread in threads {
        thread.join().expect("every byte, in order");
    }
}

/// A stream that goes on until it is ended.
struct Pump {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Pump {
    /// Every byte is checked.
    fn new(near: TcpStream, far: TcpStream) -> Self {
        Self::with(near, far, true)
    }

    fn with(mut near: TcpStream, mut far: TcpStream, checked: bool) -> Self {
        let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        // One repeated block, so that checking takes less time than sending.
        let block = pattern(3, 0, BLOCK);
        let (flag, sent) = (stop.clone(), block.clone());
        let writer = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                near.write_all(&sent).expect("bytes sent");
            }
        });
        let count = received.clone();
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; BLOCK];
            let mut place = 0;
            loop {
                let length = read(&mut far, &mut buffer[..BLOCK - place]);
                if length == 0 {
                    return;
                }
                let same = !checked || buffer[..length] == block[place..place + length];
                assert!(same, "bytes are lost or out of order");
                place = (place + length) % BLOCK;
                count.fetch_add(length as u64, Ordering::Relaxed);
            }
        });
        Pump { stop, received, threads: vec![writer, reader] }
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until more has come.
    #[track_caller]
    fn moves(&self, what: &str) {
        let (before, began) = (self.received(), Instant::now());
        while self.received() < before + (16 << 20) {
            assert!(began.elapsed() < DEADLINE, "{what}: the stream stands");
            assert!(self.threads.iter().all(|thread| !thread.is_finished()), "{what}: the stream ended");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until nothing comes any more.
    #[track_caller]
    fn stands(&self, what: &str) {
        let (mut before, began) = (u64::MAX, Instant::now());
        while before != self.received() {
            assert!(began.elapsed() < DEADLINE, "{what}: the stream goes on");
            before = self.received();
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a whole stream");
        }
    }
}

/// Waits until a stream goes from socket to socket.
#[track_caller]
fn splices(world: &World, pump: &Pump, what: &str) {
    let (before, began) = (spliced(world), Instant::now());
    while spliced(world) < before + (16 << 20) {
        assert!(began.elapsed() < DEADLINE, "{what}: nothing is spliced");
        pump.moves(what);
    }
}

/// Both directions of one connection, and what of them is spliced.
#[track_caller]
fn check(world: &World, ends: &(TcpStream, TcpStream), is_spliced: bool, what: &str) {
    const TOTAL: u64 = 4 << 20;
    let before = spliced(world);
    exchange(&ends.0, &ends.1, TOTAL);
    let bytes = spliced(world) - before;
    assert_eq!(bytes > 0, is_spliced, "{what}: {bytes} bytes spliced");
}

#[test]
fn every_byte_of_a_spliced_stream_arrives_in_order() {
    const TOTAL: u64 = 128 << 20;
    let (world, client, server) = world(true);
    let v6 = server.v6.expect("an IPv6 address");
    let any = at(Ipv6Addr::UNSPECIFIED.into(), 7003);
    server.space.run(|| sysctl::set("ipv6/bindv6only", "0")).expect("sockets of both families");
    let ends = [
        ("IPv4", between(&client, &server, 7001)),
        ("IPv6", connected(&server.space, &client.space, at(v6, 7002), at(v6, 7002))),
        ("mapped IPv4", connected(&server.space, &client.space, any, at(server.address, 7003))),
    ];
    for (what, (near, far)) in ends {
        let before = spliced(&world);
        exchange(&near, &far, TOTAL);
        let bytes = spliced(&world) - before;
        println!("{what}: {} % spliced", bytes * 100 / (2 * TOTAL));
        assert!(bytes > TOTAL / 8, "{what}: {bytes} of {} bytes spliced", 2 * TOTAL);
        drop(near);
        let mut rest = Vec::new();
        (&far).read_to_end(&mut rest).expect("an end");
        assert!(rest.is_empty());
    }
}

#[test]
fn only_streams_between_two_pods_of_the_node_are_spliced() {
    let (mut world, client, server) = world(false);
    let far = world.pod(1, "one", "far", &[]);
    check(&world, &between(&client, &server, 7001), true, "pod to pod");
    world.service("web", "10.96.0.90", Protocol::Tcp, 30090, 7002, &[&server]);
    let virtual_address = at(address("10.96.0.90"), 80);
    let by_service = connected(&server.space, &client.space, at(server.address, 7002), virtual_address);
    check(&world, &by_service, true, "by a Service");
    let node_port = at(world.nodes[0].address, 30090);
    let by_node = connected(&server.space, &world.outside, at(server.address, 7002), node_port);
    check(&world, &by_node, false, "from outside");
    check(&world, &between(&client, &far, 7003), false, "to another node");
    let to = at(server.address, 7004);
    check(&world, &connected(&server.space, &world.nodes[0].space, to, to), false, "from the node");
    check(&world, &between(&server, &server, 7005), false, "within one pod");
    let local = at(address("127.0.0.1"), 7006);
    check(&world, &connected(&server.space, &server.space, local, local), false, "over loopback");
    // A pod that has the addresses of two others speaks for neither.
    let thief = world.pod(0, "one", "thief", &[]);
    thief.space.run(|| {
        let mut socket = fairlead_cni::netlink::Socket::open().expect("netlink");
        for pod in [&client, &server] {
            let own = fairlead_cni::netlink::Address { index: 1, address: pod.address, prefix: 32 };
            socket.add_address(own).expect("an address");
        }
    });
    let to = at(server.address, 7007);
    check(&world, &connected(&thief.space, &thief.space, to, to), false, "under others' addresses");
}

#[test]
fn a_sender_waits_for_a_reader_that_does_not_read() {
    let (world, client, server) = world(false);
    let (mut near, mut far) = between(&client, &server, 7001);
    near.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let mut sent = 0_u64;
    while let Ok(length) = near.write(&pattern(1, sent, BLOCK)) {
        sent += length as u64;
        assert!(sent < 16 << 20, "the node's memory fills");
    }
    assert!(spliced(&world) > 0);
    near.set_write_timeout(Some(DEADLINE)).expect("a timeout");
    let (total, mut buffer) = (sent + (32 << 20), vec![0; BLOCK]);
    let writer = std::thread::spawn(move || {
        while sent < total {
            let piece = pattern(1, sent, BLOCK.min((total - sent) as usize));
            near.write_all(&piece).expect("bytes sent");
            sent += piece.len() as u64;
        }
    });
    let mut received = 0;
    while received < total {
        let length = read(&mut far, &mut buffer);
        assert!(length > 0 && buffer[..length] == pattern(1, received, length)[..], "at {received}");
        received += length as u64;
    }
    writer.join().expect("the writer");
}

#[test]
fn a_policy_that_closes_stops_a_spliced_stream_and_one_that_allows_does_not() {
    let (mut world, client, server) = world(false);
    let pump = {
        let (near, far) = between(&client, &server, 7001);
        Pump::new(near, far)
    };
    splices(&world, &pump, "without a policy");
    let to_server = |rules: serde_json::Value| json!({"podSelector": {"matchLabels": {"app": "server"}}, "ingress": rules});
    let evaluated = metric(&world, Metric::PolicyEvaluated);
    let clients = json!([{"from": [{"podSelector": {}}], "ports": [{"port": 7001}]}]);
    world.policy("one", "p", to_server(clients.clone()));
    splices(&world, &pump, "under a policy that allows it");
    assert!(metric(&world, Metric::PolicyEvaluated) > evaluated, "the stream was judged again");
    let drops = dropped(&world, Reason::PolicyIngress);
    world.policy("one", "p", to_server(json!([])));
    pump.stands("under a policy that denies it");
    assert!(dropped(&world, Reason::PolicyIngress) > drops, "what is denied is counted");
    let before = spliced(&world);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(spliced(&world), before, "nothing is spliced");
    world.policy("one", "p", to_server(clients));
    pump.moves("under a policy that allows it again");
    world.policy("one", "e", json!({"podSelector": {}, "policyTypes": ["Egress"]}));
    pump.stands("when the client may not send");
    world.no_policy("one", "e");
    splices(&world, &pump, "without that policy");
    pump.end();
}

#[test]
fn spliced_streams_outlive_the_agent_and_go_on_as_packets_when_splicing_is_taken_back() {
    let (mut world, client, server) = world(false);
    let new_pump = |port: u16| {
        let (near, far) = between(&client, &server, port);
        Pump::new(near, far)
    };
    let first = new_pump(7001);
    splices(&world, &first, "at first");
    world.kill(0);
    splices(&world, &first, "without an agent");
    let second = new_pump(7002);
    splices(&world, &second, "begun without an agent");
    world.start(0);
    splices(&world, &first, "with the next agent");
    let links = world.nodes[0].settings.pins.join("links");
    assert!(links.join("splice_enter").exists() && links.join("splice_send").exists());
    world.reconfigure(0, |settings| settings.splice = false);
    assert!(!links.join("splice_enter").exists() && !links.join("splice_send").exists());
    let before = spliced(&world);
    for pump in [&first, &second] {
        pump.moves("as packets");
    }
    let third = new_pump(7003);
    third.moves("never spliced");
    assert_eq!(spliced(&world), before, "nothing is spliced any more");
    world.reconfigure(0, |settings| settings.splice = true);
    splices(&world, &new_pump(7004), "begun after it was allowed again");
    for pump in [first, second, third] {
        pump.end();
    }
}

#[test]
fn pods_with_a_bandwidth_are_not_spliced() {
    let (mut world, client, server) = world(false);
    let ends = between(&client, &server, 7001);
    check(&world, &ends, true, "without a bound");
    for rates in [
        Rates { ingress: None, egress: Some(400_000_000) },
        Rates { ingress: Some(400_000_000), egress: None },
    ] {
        world.bound(&client, rates);
        check(&world, &ends, false, "with a bound");
        check(&world, &between(&client, &server, 7002), false, "begun with a bound");
    }
    world.bound(&client, Rates::default());
    check(&world, &between(&client, &server, 7003), true, "without one again");
}

/// Not a test: prints what a stream and short messages gain.
#[test]
#[ignore = "measures; run it by name"]
fn measure_streams_and_messages() {
    let mut world = World::new();
    let (client, server) = (world.pod(0, "one", "client", &[]), world.pod(0, "one", "server", &[]));
    let mut port = 7000;
    for round in 0..5 {
        for splice in [false, true] {
            world.reconfigure(0, |settings| settings.splice = splice);
            port += 2;
            let (near, far) = between(&client, &server, port);
            let pump = Pump::with(near, far, false);
            let (before, bytes, began) = (pump.received(), spliced(&world), Instant::now());
            std::thread::sleep(Duration::from_secs(2));
            let gigabits = (pump.received() - before) as f64 * 8e-9 / began.elapsed().as_secs_f64();
            let part = (spliced(&world) - bytes) as f64 / (pump.received() - before) as f64;
            pump.end();
            let (mut near, mut far) = between(&client, &server, port + 1);
            let answers = std::thread::spawn(move || {
                let mut byte = [0];
                while far.read_exact(&mut byte).is_ok() {
                    far.write_all(&byte).expect("an answer");
                }
            });
            let (mut count, began) = (0, Instant::now());
            while began.elapsed() < Duration::from_secs(1) {
                near.write_all(&[1]).expect("a question");
                near.read_exact(&mut [0]).expect("an answer");
                count += 1;
            }
            drop(near);
            answers.join().expect("the server");
            println!(
                "{round} splice {splice:5}: {gigabits:5.1} Gbit/s ({:3.0} % spliced), {count} round trips/s",
                part * 100.0
            );
        }
    }
}
