//! One long connection whose every byte is checked: it shows what a restart of the network does to it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Args {
    /// HOST:PORT of a TCP echo server.
    target: String,
    /// How long to go on.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Pause between blocks in milliseconds.
    #[arg(long, default_value_t = 5)]
    pause: u64,
    /// Bytes of a block.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(8..=65536))]
    block: u32,
}

/// Prints `{"blocks":…,"bytes":…,"longest_ms":…}`; an error or a wrong byte is a failure.
pub fn run(args: &Args) -> io::Result<bool> {
    let address =
        args.target.to_socket_addrs()?.next().ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", args.target))
        })?;
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut input = BufReader::new(stream);
    let mut banner = String::new();
    input.read_line(&mut banner)?;
    eprintln!("connected to {}", banner.trim_end());
    let (start, mut blocks, mut longest) = (Instant::now(), 0_u64, Duration::ZERO);
    let mut block = vec![0; args.block as usize];
    let mut back = block.clone();
    while start.elapsed().as_secs_f64() < args.seconds {
        for (i, byte) in block.iter_mut().enumerate() {
            *byte = (blocks as usize).wrapping_mul(31).wrapping_add(i) as u8;
        }
        block[..8].copy_from_slice(&blocks.to_be_bytes());
        let sent = Instant::now();
        input.get_mut().write_all(&block)?;
        input.read_exact(&mut back)?;
        longest = longest.max(sent.elapsed());
        if back != block {
            eprintln!("block {blocks} came back changed");
            return Ok(false);
        }
        blocks += 1;
        std::thread::sleep(Duration::from_millis(args.pause));
    }
    println!(
        "{{\"blocks\":{blocks},\"bytes\":{},\"longest_ms\":{}}}",
        blocks * u64::from(args.block),
        longest.as_millis()
    );
    Ok(true)
}
