//! Traffic that must not notice what changes beside it: connections held all the time, and new ones all the time. And
//! traffic to what changes, which may fail but must never be answered by somebody else.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketType, sockopt::Timeout};

use crate::pauses::Pauses;
use crate::space::Space;

/// What an answer may take, less what the machine stood still: a packet that is lost and sent again shows as a second
/// when it opens a connection.
const PATIENCE: Duration = Duration::from_millis(900);

/// After this long what has not been answered never is.
const LOST: Duration = Duration::from_secs(5);

/// How long what changes is given to answer.
const IMPATIENCE: Duration = Duration::from_millis(100);

/// Pause between the requests over one held connection; there are many of them.
const PAUSE: Duration = Duration::from_millis(30);

/// Pause between two new connections of one client.
const BREATH: Duration = Duration::from_millis(4);

/// Ports that a client with few addresses to ask asks from, each once before the first is used again: two frontends that
/// lead to one backend cannot be asked from one port at once.
const PORTS: std::ops::Range<u16> = 10000..60000;

/// Ports that connections which are held come from, so that they are never in the way.
const HELD_PORTS: std::ops::Range<u16> = 61000..65000;

/// Faults that are kept; what comes after them says nothing new.
const FAULTS: usize = 100;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    Tcp,
    Udp,
}

/// Where a client asks, and what it must see.
#[derive(Clone, Debug)]
pub struct Target {
    pub what: String,
    pub to: SocketAddr,
    pub transport: Transport,
    /// Who may answer.
    pub servers: Vec<String>,
    /// The client's address as the server must see it, where that is known.
    pub client: Option<IpAddr>,
}

/// A frontend that changes: its group's pods alone may answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rough {
    pub to: SocketAddr,
    pub group: String,
    /// Of the Service; an answer counts only if the frontend was this one's before and after.
    pub uid: String,
}

struct Shared {
    pauses: Pauses,
    stop: AtomicBool,
    faults: Mutex<Vec<(Instant, String)>>,
    held: AtomicU64,
    opened: AtomicU64,
    rough: AtomicU64,
    refused: AtomicU64,
    slowest: AtomicU64,
    /// What changes, as pods and as the host outside ask for it.
    frontends: Mutex<[Vec<Rough>; 2]>,
}

impl Shared {
    fn going(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Notes what went wrong with something that began then.
    fn fault(&self, began: Instant, text: String) {
        let mut faults = self.faults.lock().expect("the faults");
        if faults.len() < FAULTS {
            faults.push((began, text));
        }
    }

    /// Notes what an answer took, if that was not too long.
    fn took(&self, began: Instant) -> io::Result<()> {
        let time = began.elapsed().saturating_sub(self.pauses.since(began));
        if time > PATIENCE {
            return Err(io::Error::other(format!("it took {} ms", time.as_millis())));
        }
        self.slowest.fetch_max(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(())
    }
}

/// Gives ports of a range in turn, for each transport.
struct Ports {
    range: std::ops::Range<u16>,
    given: [AtomicU64; 2],
}

impl Ports {
    fn new(range: std::ops::Range<u16>) -> Arc<Ports> {
        Arc::new(Ports { range, given: Default::default() })
    }

    fn next(&self, transport: Transport) -> u16 {
        let count = self.given[transport as usize].fetch_add(1, Ordering::Relaxed);
        self.range.start + (count % self.range.len() as u64) as u16
    }
}

/// From where a client asks.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// From ports that its kernel chooses.
    Any,
    /// From ports in turn.
    InTurn(&'a Ports),
}

impl Source<'_> {
    fn port(self, transport: Transport) -> u16 {
        match self {
            Source::Any => 0,
            Source::InTurn(ports) => ports.next(transport),
        }
    }
}

/// Who asks: a place, its name, and whether it asks from ports in turn.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    pub space: &'a Space,
    pub name: &'a str,
    pub in_turn: bool,
}

impl Client<'_> {
    fn source<'p>(&self, ports: &'p Ports) -> Source<'p> {
        if self.in_turn { Source::InTurn(ports) } else { Source::Any }
    }
}

/// All clients of a run.
pub struct Traffic {
    shared: Arc<Shared>,
    ports: Arc<Ports>,
    held_ports: Arc<Ports>,
    threads: Vec<JoinHandle<()>>,
}

/// What the clients have done.
pub struct Tally {
    /// Requests over connections that were held.
    pub held: u64,
    /// Connections and datagram sockets opened to what nobody touched.
    pub opened: u64,
    /// Answers of what was changed meanwhile, and requests that it did not answer.
    pub rough: (u64, u64),
    /// The longest that a held connection or a new one took.
    pub slowest: Duration,
    /// The longest that the machine stood still.
    pub paused: Duration,
}

impl Traffic {
    pub fn new() -> Traffic {
        let shared = Shared {
            pauses: Pauses::watch(),
            stop: AtomicBool::new(false),
            faults: Mutex::default(),
            held: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            rough: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            slowest: AtomicU64::new(0),
            frontends: Mutex::default(),
        };
        Traffic {
            shared: Arc::new(shared),
            ports: Ports::new(PORTS),
            held_ports: Ports::new(HELD_PORTS),
            threads: Vec::new(),
        }
    }

    /// Holds one connection to a target, with a request and its answer again and again.
    pub fn hold(&mut self, client: Client<'_>, target: Target) {
        let (shared, what) = (self.shared.clone(), format!("held from {} to {}", client.name, target.what));
        let port = client.source(&self.held_ports).port(target.transport);
        self.threads.push(client.space.spawn(move || {
            let mut began = Instant::now();
            if let Err(error) = hold(&shared, &target, port, &mut began) {
                shared.fault(began, format!("{what}: {error}"));
            }
        }));
    }

    /// Opens connections to these targets in turn, all the time.
    pub fn knock(&mut self, client: Client<'_>, targets: Vec<Target>) {
        let (shared, ports, who) = (self.shared.clone(), self.ports.clone(), client.name.to_owned());
        let in_turn = client.in_turn;
        self.threads.push(client.space.spawn(move || {
            let source = if in_turn { Source::InTurn(&ports) } else { Source::Any };
            for target in targets.iter().cycle().take_while(|_| shared.going()) {
                let began = Instant::now();
                let seen = ask_within(source, target.to, target.transport, LOST)
                    .and_then(|seen| check(target, &seen))
                    .and_then(|()| shared.took(began));
                shared.opened.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = seen {
                    let took = began.elapsed().as_millis();
                    shared
                        .fault(began, format!("new from {who} to {} after {took} ms: {error}", target.what));
                }
                std::thread::sleep(BREATH);
            }
        }));
    }

    /// Asks what changes, whatever is there at the moment; `side` is 0 for pods, 1 for the outside.
    pub fn try_out(&mut self, client: Client<'_>, side: usize) {
        let (shared, ports, who) = (self.shared.clone(), self.ports.clone(), client.name.to_owned());
        let in_turn = client.in_turn;
        self.threads.push(client.space.spawn(move || {
            let source = if in_turn { Source::InTurn(&ports) } else { Source::Any };
            let mut turn = 0;
            while shared.going() {
                std::thread::sleep(BREATH);
                let picked = {
                    let all = &shared.frontends.lock().expect("the frontends")[side];
                    all.get(turn % all.len().max(1)).cloned()
                };
                turn += 1;
                let Some(rough) = picked else { continue };
                let asked = Instant::now();
                let Ok((server, _)) = ask_within(source, rough.to, Transport::Tcp, IMPATIENCE) else {
                    shared.refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                shared.rough.fetch_add(1, Ordering::Relaxed);
                let still = shared.frontends.lock().expect("the frontends")[side].contains(&rough);
                if still && !server.starts_with(&rough.group) {
                    shared.fault(
                        asked,
                        format!("{who} asked {} of {} and {server} answered", rough.to, rough.group),
                    );
                }
            }
        }));
    }

    /// What changes now.
    pub fn set_frontends(&self, frontends: [Vec<Rough>; 2]) {
        *self.shared.frontends.lock().expect("the frontends") = frontends;
    }

    /// What went wrong so far, and when.
    pub fn faults(&self) -> Vec<(Instant, String)> {
        self.shared.faults.lock().expect("the faults").clone()
    }

    /// How many requests were answered so far over held connections.
    pub fn held(&self) -> u64 {
        self.shared.held.load(Ordering::Relaxed)
    }

    pub fn tally(&self) -> Tally {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let shared = &self.shared;
        Tally {
            held: of(&shared.held),
            opened: of(&shared.opened),
            rough: (of(&shared.rough), of(&shared.refused)),
            slowest: Duration::from_micros(of(&shared.slowest)),
            paused: shared.pauses.longest(),
        }
    }

    /// Ends every client and waits for it.
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.shared.fault(Instant::now(), "a client failed".to_owned());
            }
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop();
    }
}

fn check(target: &Target, (server, client): &(String, IpAddr)) -> io::Result<()> {
    if !target.servers.contains(server) {
        return Err(io::Error::other(format!("{server} answered, not one of {:?}", target.servers)));
    }
    match target.client {
        Some(expected) if expected != *client => {
            Err(io::Error::other(format!("the server saw {client}, not {expected}")))
        }
        _ => Ok(()),
    }
}

fn parse(line: &str) -> io::Result<(String, IpAddr)> {
    let odd = || io::Error::other(format!("an odd answer: {line:?}"));
    let (server, client) = line.trim_end().split_once(' ').ok_or_else(odd)?;
    Ok((server.to_owned(), client.parse().map_err(|_| odd())?))
}

/// Asks once over a connection or a socket of its own.
pub fn ask_once(to: SocketAddr, transport: Transport) -> io::Result<(String, IpAddr)> {
    ask_within(Source::Any, to, transport, LOST)
}

fn ask_within(
    source: Source<'_>,
    to: SocketAddr,
    transport: Transport,
    patience: Duration,
) -> io::Result<(String, IpAddr)> {
    let port = source.port(transport);
    match transport {
        Transport::Tcp => open(port, to, patience).map(|(_, seen)| seen),
        Transport::Udp => {
            let mut buffer = [0; 256];
            let length = exchange_datagram(&socket(port, to, patience)?, b"ping", &mut buffer)?;
            parse(String::from_utf8_lossy(&buffer[..length]).lines().next().unwrap_or_default())
        }
    }
}

/// Every address of a family, at a port.
fn any(of: SocketAddr, port: u16) -> SocketAddr {
    let all: IpAddr = if of.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(all, port)
}

fn open(port: u16, to: SocketAddr, patience: Duration) -> io::Result<(TcpStream, (String, IpAddr))> {
    let mut stream = if port == 0 {
        TcpStream::connect_timeout(&to, patience)?
    } else {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
        rustix::net::bind(&socket, &any(to, port))?;
        rustix::net::connect(&socket, &to)?;
        TcpStream::from(socket)
    };
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok((stream, parse(&String::from_utf8_lossy(&line))?))
}

fn socket(port: u16, to: SocketAddr, patience: Duration) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(any(to, port))?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect(to)?;
    Ok(socket)
}

fn exchange_datagram(socket: &UdpSocket, question: &[u8], buffer: &mut [u8]) -> io::Result<usize> {
    socket.send(question)?;
    socket.recv(buffer)
}

/// Holds one connection until the end; `began` is when its last request did.
fn hold(shared: &Shared, target: &Target, port: u16, began: &mut Instant) -> io::Result<()> {
    match target.transport {
        Transport::Tcp => {
            let (mut stream, seen) = open(port, target.to, LOST)?;
            check(target, &seen)?;
            hold_stream(shared, &mut stream, began)
        }
        Transport::Udp => {
            let socket = socket(port, target.to, LOST)?;
            let mut buffer = [0; 256];
            let mut round = 0_u64;
            while shared.going() {
                let question = round.to_be_bytes();
                *began = Instant::now();
                let length = exchange_datagram(&socket, &question, &mut buffer)
                    .map_err(|error| io::Error::new(error.kind(), format!("datagram {round}: {error}")))?;
                shared.took(*began)?;
                let line = buffer[..length].strip_suffix(&question[..]);
                let line =
                    line.ok_or_else(|| io::Error::other(format!("datagram {round} came back changed")))?;
                check(target, &parse(&String::from_utf8_lossy(line))?)?;
                shared.held.fetch_add(1, Ordering::Relaxed);
                round += 1;
                std::thread::sleep(PAUSE);
            }
            Ok(())
        }
    }
}

fn hold_stream(shared: &Shared, stream: &mut TcpStream, began: &mut Instant) -> io::Result<()> {
    let mut back = [0; 64];
    let (mut round, mut again) = (0_u64, 0);
    while shared.going() {
        let mut block = [round as u8; 64];
        block[..8].copy_from_slice(&round.to_be_bytes());
        *began = Instant::now();
        stream.write_all(&block).and_then(|()| stream.read_exact(&mut back)).map_err(|error| {
            let waited = began.elapsed().as_millis();
            io::Error::new(error.kind(), format!("round {round} after {waited} ms: {error}"))
        })?;
        shared.took(*began)?;
        if back != block {
            return Err(io::Error::other(format!("round {round} came back changed")));
        }
        // What was lost and sent again shows here even when it was not missed for long. A machine that stands still makes
        // the kernel believe that something was lost.
        let sent_again = retransmitted(stream)?;
        if sent_again > again && shared.pauses.since(*began).is_zero() {
            return Err(io::Error::other(format!("a segment of round {round} was sent again")));
        }
        again = sent_again;
        shared.held.fetch_add(1, Ordering::Relaxed);
        round += 1;
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Segments that this side of a connection has sent more than once.
fn retransmitted(stream: &TcpStream) -> io::Result<u32> {
    // SAFETY: a tcp_info is numbers alone, of which all zeroes is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`, which is that long, and the new length to `length`.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result != 0 { Err(io::Error::last_os_error()) } else { Ok(info.tcpi_total_retrans) }
}
