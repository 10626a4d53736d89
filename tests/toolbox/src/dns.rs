//! DNS: one question with its answer in lines, a load tester, and a server with fixed answers to be an upstream one.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType, rdata};

/// Most messages of the load tester under way in one thread.
const MAX_WINDOW: u16 = 256;

#[derive(clap::Args)]
pub struct DigArgs {
    /// Names to ask for; PTR takes an address too.
    #[arg(required = true)]
    names: Vec<String>,
    /// Type: A, AAAA, SRV, PTR, CNAME, TXT, NS, SOA, ...
    #[arg(short = 't', long = "type", default_value = "A")]
    kind: RecordType,
    /// Server, ADDRESS or ADDRESS:PORT; without it the first of /etc/resolv.conf.
    #[arg(short, long)]
    server: Option<String>,
    /// Try the search domains of /etc/resolv.conf, as programs do that look a name up.
    #[arg(long)]
    search: bool,
    /// Ask over TCP from the start; without it TCP is used when the answer over UDP is cut.
    #[arg(long)]
    tcp: bool,
    /// Take an answer that is cut as it is.
    #[arg(long)]
    no_retry: bool,
    /// UDP payload to announce (0: no EDNS).
    #[arg(long, default_value_t = 1232)]
    payload: u16,
    /// Milliseconds to wait for an answer.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Ask again and again for so many milliseconds until there is an answer, and say how long that took.
    #[arg(long, default_value_t = 0)]
    patience: u64,
}

#[derive(clap::Args)]
pub struct LoadArgs {
    /// Server, ADDRESS or ADDRESS:PORT.
    server: String,
    /// Names to ask for in turn.
    #[arg(required = true)]
    names: Vec<String>,
    /// Type.
    #[arg(short = 't', long = "type", default_value = "A")]
    kind: RecordType,
    /// How long.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Threads, each with a socket.
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: u16,
    /// Questions of one thread under way at once.
    #[arg(short, long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_WINDOW)))]
    window: u16,
}

#[derive(clap::Args)]
pub struct ServeArgs {
    /// Address to answer on, UDP and TCP.
    #[arg(long, default_value = "0.0.0.0:5353")]
    listen: SocketAddr,
    /// NAME=ADDRESS; a name may have several. Other names do not exist.
    #[arg(long = "record", value_parser = record)]
    records: Vec<(Name, Ipv4Addr)>,
    /// TTL of the answers in seconds.
    #[arg(long, default_value_t = 30)]
    ttl: u32,
}

fn record(text: &str) -> Result<(Name, Ipv4Addr), String> {
    let (name, address) = text.split_once('=').ok_or("write NAME=ADDRESS")?;
    let name = full(name).map_err(|e| e.to_string())?;
    Ok((name, address.parse().map_err(|e| format!("{address}: {e}"))?))
}

fn full(name: &str) -> io::Result<Name> {
    let dot = if name.ends_with('.') { "" } else { "." };
    Name::from_ascii(format!("{name}{dot}")).map_err(io::Error::other)
}

fn address(text: &str) -> io::Result<SocketAddr> {
    let plain = text.parse::<IpAddr>().ok().map(|ip| SocketAddr::from((ip, 53)));
    plain.or_else(|| text.parse().ok()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{text} is no ADDRESS or ADDRESS:PORT"))
    })
}

/// What /etc/resolv.conf says: servers, search domains, ndots.
fn resolv_conf() -> io::Result<(Vec<String>, Vec<String>, usize)> {
    let text = std::fs::read_to_string("/etc/resolv.conf")?;
    let (mut servers, mut search, mut ndots) = (Vec::new(), Vec::new(), 1);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => servers.extend(words.next().map(str::to_owned)),
            Some("search") => search = words.map(str::to_owned).collect(),
            Some("options") => {
                let mut values = words.filter_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                ndots = values.next_back().unwrap_or(ndots);
            }
            _ => {}
        }
    }
    Ok((servers, search, ndots))
}

/// Prints a line for the code and one for each record: `NAME TTL TYPE DATA`, additional ones after `+`. False when a
/// name has no such record.
pub fn dig(args: &DigArgs) -> io::Result<bool> {
    let (servers, search, ndots) = resolv_conf().unwrap_or_default();
    let server = args.server.clone().or_else(|| servers.first().cloned());
    let server = address(&server.ok_or_else(|| io::Error::other("/etc/resolv.conf names no server"))?)?;
    let mut found_all = true;
    for name in &args.names {
        let start = Instant::now();
        let found = loop {
            let tried = dig_one(args, server, name, &search, ndots);
            let fine =
                tried.as_ref().is_ok_and(|message| message.metadata.response_code != ResponseCode::ServFail);
            if fine || start.elapsed() >= Duration::from_millis(args.patience) {
                break tried?;
            }
            thread::sleep(Duration::from_millis(5));
        };
        if args.patience > 0 {
            println!(";; after_ms {}", start.elapsed().as_millis());
        }
        found_all &= !found.answers.is_empty();
        print(&found);
    }
    Ok(found_all)
}

fn print(message: &Message) {
    let truncated = if message.metadata.truncation { " truncated" } else { "" };
    let authority = if message.metadata.authoritative { " authoritative" } else { "" };
    println!(";; {} answers {}{authority}{truncated}", message.metadata.response_code, message.answers.len());
    let line = |r: &Record| format!("{} {} {} {}", r.name, r.ttl, r.record_type(), r.data);
    message.answers.iter().for_each(|record| println!("{}", line(record)));
    message.authorities.iter().for_each(|record| println!("- {}", line(record)));
    message.additionals.iter().for_each(|record| println!("+ {}", line(record)));
}

fn dig_one(
    args: &DigArgs,
    server: SocketAddr,
    name: &str,
    search: &[String],
    ndots: usize,
) -> io::Result<Message> {
    if let (RecordType::PTR, Ok(ip)) = (args.kind, name.parse::<IpAddr>()) {
        return ask(args, server, Name::from(ip));
    }
    if !args.search || name.ends_with('.') {
        return ask(args, server, full(name)?);
    }
    let mut tried: Vec<String> = search.iter().map(|domain| format!("{name}.{domain}")).collect();
    let at = if name.matches('.').count() >= ndots { 0 } else { tried.len() };
    tried.insert(at, name.to_owned());
    let mut last = None;
    for name in tried {
        let answer = ask(args, server, full(&name)?)?;
        if !answer.answers.is_empty() {
            return Ok(answer);
        }
        last = Some(answer);
    }
    last.ok_or_else(|| io::Error::other("there is nothing to ask for"))
}

fn query(name: Name, kind: RecordType, id: u16, payload: u16) -> io::Result<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind));
    if payload > 0 {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message.to_vec().map_err(io::Error::other)
}

fn ask(args: &DigArgs, server: SocketAddr, name: Name) -> io::Result<Message> {
    let timeout = Duration::from_millis(args.timeout);
    let octets = query(name, args.kind, std::process::id() as u16, args.payload)?;
    if !args.tcp {
        let socket = connect(server)?;
        socket.set_read_timeout(Some(timeout))?;
        socket.send(&octets)?;
        let mut buffer = vec![0; 65_536];
        let length = socket.recv(&mut buffer)?;
        let message = Message::from_vec(&buffer[..length]).map_err(io::Error::other)?;
        if !message.metadata.truncation || args.no_retry {
            return Ok(message);
        }
    }
    let mut stream = TcpStream::connect_timeout(&server, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    send_framed(&mut stream, &octets)?;
    Message::from_vec(&read_framed(&mut stream)?).map_err(io::Error::other)
}

fn connect(server: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(server)?;
    Ok(socket)
}

fn send_framed(stream: &mut TcpStream, octets: &[u8]) -> io::Result<()> {
    let length = u16::try_from(octets.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], octets].concat())
}

fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut octets = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut octets)?;
    Ok(octets)
}

#[derive(Default)]
struct Tally {
    nanoseconds: Vec<u32>,
    lost: u64,
    codes: BTreeMap<u8, u64>,
}

/// Keeps a window of questions under way and prints answers/s and latencies as one line of JSON.
pub fn load(args: &LoadArgs) -> io::Result<bool> {
    let server = address(&args.server)?;
    let mut queries = Vec::new();
    for name in &args.names {
        queries.push(query(full(name)?, args.kind, 0, 1232)?);
    }
    let start = Instant::now();
    let mut total = Tally::default();
    thread::scope(|scope| -> io::Result<()> {
        let workers: Vec<_> =
            (0..args.connections).map(|_| scope.spawn(|| load_one(args, server, &queries))).collect();
        for worker in workers {
            let tally = worker.join().map_err(|_| io::Error::other("a thread panicked"))??;
            total.nanoseconds.extend(tally.nanoseconds);
            total.lost += tally.lost;
            for (code, count) in tally.codes {
                *total.codes.entry(code).or_default() += count;
            }
        }
        Ok(())
    })?;
    let seconds = start.elapsed().as_secs_f64();
    total.nanoseconds.sort_unstable();
    let at = |q: f64| match total.nanoseconds.len() {
        0 => 0.0,
        // The index of the q-quantile; the cast cannot lose anything for counts that fit in memory.
        n => f64::from(total.nanoseconds[((n - 1) as f64 * q).round() as usize]) / 1000.0,
    };
    let codes: Vec<String> = total.codes.iter().map(|(code, count)| format!("\"{code}\":{count}")).collect();
    println!(
        "{{\"answers\":{},\"per_second\":{:.0},\"p50_us\":{:.1},\"p99_us\":{:.1},\"p999_us\":{:.1},\"max_us\":{:.1},\"lost\":{},\"rcodes\":{{{}}}}}",
        total.nanoseconds.len(),
        total.nanoseconds.len() as f64 / seconds,
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        total.lost,
        codes.join(",")
    );
    Ok(total.lost == 0)
}

fn load_one(args: &LoadArgs, server: SocketAddr, queries: &[Vec<u8>]) -> io::Result<Tally> {
    let socket = connect(server)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let window = usize::from(args.window);
    let (start, end) = (Instant::now(), Duration::from_secs_f64(args.seconds));
    let mut tally = Tally::default();
    // The number of a message is that of its slot in the window, with the round in the upper octet.
    let mut sent = vec![(start, 0_u8); window];
    let mut octets: Vec<Vec<u8>> = (0..window).map(|i| queries[i % queries.len()].clone()).collect();
    let mut next = window;
    let send = |slot: usize, sent: &mut Vec<(Instant, u8)>, octets: &mut Vec<Vec<u8>>| {
        sent[slot] = (Instant::now(), sent[slot].1.wrapping_add(1));
        octets[slot][..2].copy_from_slice(&[sent[slot].1, slot as u8]);
        socket.send(&octets[slot])
    };
    for slot in 0..window {
        send(slot, &mut sent, &mut octets)?;
    }
    let mut buffer = [0; 2048];
    while start.elapsed() < end {
        match socket.recv(&mut buffer) {
            Ok(length) if length >= 12 => {
                let slot = usize::from(buffer[1]);
                if slot >= window || sent[slot].1 != buffer[0] {
                    continue;
                }
                tally.nanoseconds.push(u32::try_from(sent[slot].0.elapsed().as_nanos()).unwrap_or(u32::MAX));
                *tally.codes.entry(buffer[3] & 0x0f).or_default() += 1;
                octets[slot].clone_from(&queries[next % queries.len()]);
                next += 1;
                send(slot, &mut sent, &mut octets)?;
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                // Everything under way is lost.
                tally.lost += window as u64;
                for slot in 0..window {
                    send(slot, &mut sent, &mut octets)?;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(tally)
}

/// Answers until the process is killed.
pub fn serve(args: &ServeArgs) -> io::Result<bool> {
    let listener = TcpListener::bind(args.listen)?;
    let socket = UdpSocket::bind(args.listen)?;
    let records = Arc::new(args.records.clone());
    let (shared, ttl) = (records.clone(), args.ttl);
    eprintln!("serving DNS on {} with {} records", args.listen, records.len());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let records = shared.clone();
            // One thread a connection: its clients are tests.
            thread::spawn(move || converse(stream, &records, ttl));
        }
    });
    let mut buffer = vec![0; 4096];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer)?;
        if let Some(answer) = answer(&buffer[..length], &records, ttl, 512) {
            // An answer that cannot be sent is a lost datagram, as any other.
            let _ = socket.send_to(&answer, peer);
        }
    }
}

fn converse(mut stream: TcpStream, records: &[(Name, Ipv4Addr)], ttl: u32) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    loop {
        let query = read_framed(&mut stream)?;
        let Some(answer) = answer(&query, records, ttl, usize::from(u16::MAX)) else { return Ok(()) };
        send_framed(&mut stream, &answer)?;
    }
}

fn answer(octets: &[u8], records: &[(Name, Ipv4Addr)], ttl: u32, limit: usize) -> Option<Vec<u8>> {
    let asked = Message::from_vec(octets).ok()?;
    let question = asked.queries.first()?.clone();
    let mut answer = Message::response(asked.metadata.id, OpCode::Query);
    answer.metadata.recursion_desired = asked.metadata.recursion_desired;
    let mine: Vec<_> = records.iter().filter(|(name, _)| name == question.name()).collect();
    if mine.is_empty() {
        answer.metadata.response_code = ResponseCode::NXDomain;
    } else if question.query_type() == RecordType::A {
        let record = |(name, address): &&(Name, Ipv4Addr)| {
            Record::from_rdata(name.clone(), ttl, RData::A(rdata::A(*address)))
        };
        answer.add_answers(mine.iter().map(record));
    }
    answer.add_query(question);
    let octets = answer.to_vec().ok()?;
    if octets.len() <= limit {
        return Some(octets);
    }
    answer.answers.clear();
    answer.metadata.truncation = true;
    answer.to_vec().ok()
}
