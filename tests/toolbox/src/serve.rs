//! The servers: HTTP/1.1 with keep-alive, TCP echo and UDP echo, one thread a connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Header lines of a request, and bytes of them, beyond which the connection is closed.
const MAX_HEAD: u64 = 16 * 1024;
/// Connections served at once; further ones are closed at once.
const MAX_CONNECTIONS: usize = 4096;

#[derive(clap::Args)]
pub struct Args {
    /// Name to answer with.
    #[arg(long, env = "POD_NAME", default_value = "toolbox")]
    name: String,
    /// Node to answer with.
    #[arg(long, env = "NODE_NAME", default_value = "")]
    node: String,
    /// Port of the HTTP server.
    #[arg(long, default_value_t = 8080)]
    http: u16,
    /// Port of the TCP echo server: it greets with `NAME CLIENT\n`, then returns what it gets.
    #[arg(long, default_value_t = 9000)]
    tcp: u16,
    /// Port of the UDP echo server: it answers `NAME CLIENT PAYLOAD`.
    #[arg(long, default_value_t = 9001)]
    udp: u16,
}

/// Serves until the process is killed.
pub fn run(args: &Args) -> io::Result<bool> {
    let name: Arc<str> = args.name.as_str().into();
    let node: Arc<str> = args.node.as_str().into();
    let http = listen(args.http)?;
    let tcp = listen(args.tcp)?;
    let udp = UdpSocket::bind(("::", args.udp))
        .or_else(|_| UdpSocket::bind(("0.0.0.0", args.udp)))
        .map_err(|e| io::Error::new(e.kind(), format!("UDP port {}: {e}", args.udp)))?;
    eprintln!("serving http {} tcp {} udp {} as {}", args.http, args.tcp, args.udp, args.name);
    let tcp_name = name.clone();
    thread::spawn(move || accept(&tcp, move |stream, peer| echo(stream, peer, &tcp_name)));
    let udp_name = name.clone();
    thread::spawn(move || datagrams(&udp, &udp_name));
    accept(&http, move |stream, peer| pages(stream, peer, &name, &node));
    Ok(true)
}

/// Listens for both address families where the namespace has both.
fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind(("::", port))
        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
        .map_err(|e| io::Error::new(e.kind(), format!("listening on port {port}: {e}")))
}

/// Clients of the other family show as mapped addresses; they are told by their own.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

fn accept<F>(listener: &TcpListener, serve: F)
where
    F: Fn(TcpStream, SocketAddr) -> io::Result<()> + Clone + Send + 'static,
{
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let (stream, peer) = match listener.accept() {
            Ok((stream, peer)) => (stream, canonical(peer)),
            Err(error) => {
                eprintln!("accept: {error}");
                thread::sleep(Duration::from_millis(10));
                continue;
            }
        };
        if open.load(Ordering::Relaxed) >= MAX_CONNECTIONS {
            continue;
        }
        open.fetch_add(1, Ordering::Relaxed);
        let (serve, open) = (serve.clone(), open.clone());
        thread::spawn(move || {
            // A client that goes away is no event for the server.
            let _ = serve(stream, peer);
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn pages(stream: TcpStream, peer: SocketAddr, name: &str, node: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut out = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    loop {
        let mut keep = true;
        let mut first = String::new();
        if input.by_ref().take(MAX_HEAD).read_line(&mut first)? == 0 {
            return Ok(());
        }
        let mut length = first.len() as u64;
        loop {
            let mut line = String::new();
            let read = input.by_ref().take(MAX_HEAD).read_line(&mut line)?;
            length += read as u64;
            if read == 0 || length > MAX_HEAD {
                return Ok(());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            keep &= !line.eq_ignore_ascii_case("connection: close");
        }
        let path = first.split_whitespace().nth(1).unwrap_or("/");
        let (status, body) = match path {
            "/healthz" => ("200 OK", "ok\n".to_owned()),
            "/fail" => ("500 Internal Server Error", "failed as asked\n".to_owned()),
            _ => ("200 OK", format!("{name} {node} {peer}\n")),
        };
        let close = if keep { "" } else { "connection: close\r\n" };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n{close}\r\n",
            body.len()
        );
        out.write_all((head + &body).as_bytes())?;
        if !keep {
            return Ok(());
        }
    }
}

fn echo(mut stream: TcpStream, peer: SocketAddr, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(format!("{name} {peer}\n").as_bytes())?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..read])?;
    }
}

fn datagrams(socket: &UdpSocket, name: &str) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((read, peer)) => {
                let seen = canonical(peer);
                let mut answer = format!("{name} {seen} ").into_bytes();
                answer.extend_from_slice(&buffer[..read]);
                // An answer that cannot be sent is a lost datagram, as any other.
                let _ = socket.send_to(&answer, peer);
            }
            Err(error) => eprintln!("udp: {error}"),
        }
    }
}
