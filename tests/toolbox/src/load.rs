//! The client: many requests over a few threads, reported as one line of JSON.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, clap::ValueEnum, PartialEq)]
enum Protocol {
    Http,
    Tcp,
    Udp,
}

#[derive(clap::Args)]
pub struct Args {
    /// HOST:PORT to send to.
    target: String,
    #[arg(long, value_enum, default_value = "http")]
    protocol: Protocol,
    /// Requests in all.
    #[arg(short = 'n', long, default_value_t = 1)]
    requests: u64,
    /// Stop after so many seconds even if requests are left (0: no limit).
    #[arg(long, default_value_t = 0.0)]
    seconds: f64,
    /// Requests under way at once.
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    connections: u16,
    /// Keep each connection open for all its requests; without it every request opens one (HTTP only).
    #[arg(long)]
    keep_alive: bool,
    /// Milliseconds until a request counts as timed out.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Pause between a connection's requests, in milliseconds.
    #[arg(long, default_value_t = 0)]
    pause: u64,
    /// Exit with failure when any request failed.
    #[arg(long)]
    strict: bool,
}

#[derive(Default)]
struct Tally {
    micros: Vec<u32>,
    backends: BTreeMap<String, u64>,
    clients: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
}

/// Sends, waits, prints the report. `false` when `--strict` and something failed.
pub fn run(args: &Args) -> io::Result<bool> {
    let address =
        args.target.to_socket_addrs()?.next().ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", args.target))
        })?;
    let taken = AtomicU64::new(0);
    let start = Instant::now();
    let mut total = Tally::default();
    thread::scope(|scope| {
        let workers: Vec<_> =
            (0..args.connections).map(|_| scope.spawn(|| work(args, address, &taken, start))).collect();
        for worker in workers {
            if let Ok(tally) = worker.join() {
                total.add(tally);
            }
        }
    });
    println!("{}", total.report(start.elapsed()));
    Ok(!args.strict || total.errors.is_empty())
}

fn work(args: &Args, address: SocketAddr, taken: &AtomicU64, start: Instant) -> Tally {
    let mut tally = Tally::default();
    let mut held = None;
    while taken.fetch_add(1, Ordering::Relaxed) < args.requests {
        if args.seconds > 0.0 && start.elapsed().as_secs_f64() >= args.seconds {
            break;
        }
        let began = Instant::now();
        match request(args, address, &mut held) {
            Ok(answer) => {
                tally.micros.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
                let mut words = answer.split_whitespace();
                *tally.backends.entry(words.next().unwrap_or("?").into()).or_default() += 1;
                let client = words
                    .find(|w| w.contains(':'))
                    .and_then(|w| w.rsplit_once(':'))
                    .map_or("?", |(ip, _)| ip);
                *tally.clients.entry(client.into()).or_default() += 1;
            }
            Err(error) => {
                held = None;
                *tally.errors.entry(name_of(&error)).or_default() += 1;
            }
        }
        if args.pause > 0 {
            thread::sleep(Duration::from_millis(args.pause));
        }
    }
    tally
}

fn name_of(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".into(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "timeout".into(),
        io::ErrorKind::ConnectionReset => "reset".into(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "unreachable".into(),
        _ => error.to_string(),
    }
}

fn request(args: &Args, address: SocketAddr, held: &mut Option<BufReader<TcpStream>>) -> io::Result<String> {
    let timeout = Duration::from_millis(args.timeout);
    match args.protocol {
        Protocol::Udp => {
            let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
            socket.connect(address)?;
            socket.set_read_timeout(Some(timeout))?;
            socket.send(b"ping")?;
            let mut buffer = [0; 2048];
            let read = socket.recv(&mut buffer)?;
            Ok(String::from_utf8_lossy(&buffer[..read]).into_owned())
        }
        Protocol::Tcp => {
            let mut input = BufReader::new(connect(address, timeout)?);
            let mut line = String::new();
            input.read_line(&mut line)?;
            if line.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(line) }
        }
        Protocol::Http => {
            let mut input = match held.take() {
                Some(open) => open,
                None => BufReader::new(connect(address, timeout)?),
            };
            let close = if args.keep_alive { "" } else { "connection: close\r\n" };
            let head = format!("GET / HTTP/1.1\r\nhost: {}\r\n{close}\r\n", args.target);
            input.get_mut().write_all(head.as_bytes())?;
            let answer = read_response(&mut input)?;
            if args.keep_alive {
                *held = Some(input);
            }
            Ok(answer)
        }
    }
}

fn connect(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    Ok(stream)
}

fn read_response(input: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut status = String::new();
    if input.read_line(&mut status)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut length = 0;
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0).min(1 << 20);
        }
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    match status.split_whitespace().nth(1) {
        Some("200") => Ok(String::from_utf8_lossy(&body).into_owned()),
        other => Err(io::Error::other(format!("status {}", other.unwrap_or("?")))),
    }
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.micros.extend(other.micros);
        for (mine, theirs) in [
            (&mut self.backends, other.backends),
            (&mut self.clients, other.clients),
            (&mut self.errors, other.errors),
        ] {
            for (name, count) in theirs {
                *mine.entry(name).or_default() += count;
            }
        }
    }

    fn report(&mut self, elapsed: Duration) -> String {
        self.micros.sort_unstable();
        let at = |q: f64| match self.micros.len() {
            0 => 0,
            // The index of the q-quantile; the cast cannot lose anything for counts that fit in memory.
            n => self.micros[((n - 1) as f64 * q).round() as usize],
        };
        let seconds = elapsed.as_secs_f64();
        format!(
            "{{\"ok\":{},\"failed\":{},\"rps\":{:.0},\"p50_us\":{},\"p90_us\":{},\"p99_us\":{},\"max_us\":{},\"seconds\":{:.3},\"backends\":{},\"clients\":{},\"errors\":{}}}",
            self.micros.len(),
            self.errors.values().sum::<u64>(),
            self.micros.len() as f64 / seconds.max(1e-9),
            at(0.5),
            at(0.9),
            at(0.99),
            at(1.0),
            seconds,
            object(&self.backends),
            object(&self.clients),
            object(&self.errors),
        )
    }
}

fn object(counts: &BTreeMap<String, u64>) -> String {
    let fields: Vec<String> = counts.iter().map(|(k, v)| format!("{k:?}:{v}")).collect();
    format!("{{{}}}", fields.join(","))
}
