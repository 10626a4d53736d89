//! The lean pair that measures a network path: a server whose threads answer one connection each, and a client that
//! asks from as many. Both do as little as they can, so that what is left is the path.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

/// What a client asks for, by the first byte it sends.
#[derive(Clone, Copy, clap::ValueEnum, PartialEq, Debug)]
pub enum Mode {
    /// One byte each way, then the server closes: a short connection.
    Short,
    /// One byte each way, again and again on one connection.
    Kept,
    /// Bytes one way, as many as go.
    Stream,
}

impl Mode {
    const ALL: [(Mode, u8); 3] = [(Mode::Short, b's'), (Mode::Kept, b'k'), (Mode::Stream, b'b')];

    fn byte(self) -> u8 {
        Mode::ALL.iter().find(|(mode, _)| *mode == self).map_or(b's', |(_, byte)| *byte)
    }
}

#[derive(clap::Args)]
pub struct AnswerArgs {
    /// Port to listen on, every address of the namespace.
    #[arg(long, default_value_t = 7000)]
    port: u16,
    /// Connections that are answered at once.
    #[arg(long, default_value_t = 16)]
    threads: usize,
}

/// Answers until the process is killed.
pub fn answer(args: &AnswerArgs) -> io::Result<bool> {
    let listener =
        TcpListener::bind(("::", args.port)).or_else(|_| TcpListener::bind(("0.0.0.0", args.port)))?;
    thread::scope(|scope| {
        for _ in 0..args.threads {
            scope.spawn(|| {
                loop {
                    if let Ok((stream, _)) = listener.accept() {
                        // A client that goes away is no event for the server.
                        let _ = serve(stream);
                    }
                }
            });
        }
    });
    Ok(true)
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    match Mode::ALL.iter().find(|(_, first)| *first == byte[0]) {
        Some((Mode::Short, _)) => stream.write_all(&byte),
        Some((Mode::Kept, _)) => loop {
            stream.write_all(&byte)?;
            stream.read_exact(&mut byte)?;
        },
        Some((Mode::Stream, _)) => {
            let mut buffer = vec![0; 256 << 10];
            while stream.read(&mut buffer)? > 0 {}
            Ok(())
        }
        None => Ok(()),
    }
}

#[derive(clap::Args)]
pub struct AskArgs {
    /// HOST:PORT of a `toolbox answer`.
    target: String,
    #[arg(long, value_enum, default_value = "short")]
    mode: Mode,
    /// Connections at once.
    #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: u16,
    /// How long to go on.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

#[derive(Default)]
struct Tally {
    /// Answers; for a stream, bytes.
    count: u64,
    failed: u64,
    micros: Vec<u32>,
}

impl Tally {
    fn answered(&mut self, begun: Instant) {
        self.count += 1;
        self.micros.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
}

/// Prints `{"count":…,"failed":…,"per_second":…,"p50_us":…,"p99_us":…}`; for a stream the count is bytes.
pub fn ask(args: &AskArgs) -> io::Result<bool> {
    let address = args.target.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
    let begun = Instant::now();
    let end = begun + Duration::from_secs_f64(args.seconds);
    let mut all = Tally::default();
    thread::scope(|scope| {
        let workers: Vec<_> =
            (0..args.connections).map(|_| scope.spawn(move || work(args.mode, address, end))).collect();
        for tally in workers.into_iter().filter_map(|worker| worker.join().ok()) {
            all.count += tally.count;
            all.failed += tally.failed;
            all.micros.extend(tally.micros);
        }
    });
    all.micros.sort_unstable();
    let last = all.micros.len().saturating_sub(1);
    let at = |share: f64| all.micros.get((last as f64 * share) as usize).copied().unwrap_or(0);
    println!(
        "{{\"count\":{},\"failed\":{},\"per_second\":{:.1},\"p50_us\":{},\"p99_us\":{}}}",
        all.count,
        all.failed,
        all.count as f64 / begun.elapsed().as_secs_f64(),
        at(0.5),
        at(0.99)
    );
    Ok(all.failed == 0)
}

fn work(mode: Mode, address: SocketAddr, end: Instant) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < end {
        if connection(mode, address, end, &mut tally).is_err() {
            tally.failed += 1;
            thread::sleep(Duration::from_millis(1));
        }
    }
    tally
}

fn connection(mode: Mode, address: SocketAddr, end: Instant, tally: &mut Tally) -> io::Result<()> {
    let mut begun = Instant::now();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut byte = [mode.byte()];
    match mode {
        Mode::Short => {
            stream.write_all(&byte)?;
            stream.read_exact(&mut byte)?;
            // The server closes first, so that the port is free again here.
            let _ = stream.read(&mut byte)?;
            tally.answered(begun);
        }
        Mode::Kept => {
            while begun < end {
                stream.write_all(&byte)?;
                stream.read_exact(&mut byte)?;
                tally.answered(begun);
                begun = Instant::now();
            }
        }
        Mode::Stream => {
            let mut buffer = vec![0; 256 << 10];
            buffer[0] = mode.byte();
            while Instant::now() < end {
                stream.write_all(&buffer)?;
                tally.count += buffer.len() as u64;
            }
        }
    }
    Ok(())
}
