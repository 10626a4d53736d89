//! `toolbox`: the echo servers and the load client that the demo, the tests and the benchmarks run inside pods.

mod dns;
mod load;
mod pingpong;
mod serve;
mod stream;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Echo servers, DNS tools, request client and load tester for trying out a cluster's network.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve HTTP, TCP echo and UDP echo; every answer names this backend and the client's address as seen here.
    Serve(serve::Args),
    /// Send requests and report errors, backends, latency percentiles and requests/s as one line of JSON.
    Load(load::Args),
    /// Answer `toolbox ask`: one byte for one byte, as lean as can be.
    Answer(pingpong::AnswerArgs),
    /// Measure a path to `toolbox answer`: short connections, request and response, or a stream.
    Ask(pingpong::AskArgs),
    /// Hold one TCP connection to an echo server, send numbered blocks and check that every byte comes back.
    Stream(stream::Args),
    /// Ask DNS for names and print the answers.
    Dig(dns::DigArgs),
    /// Ask a DNS server as fast as it answers and report answers/s and latencies as one line of JSON.
    Dnsload(dns::LoadArgs),
    /// Answer DNS with fixed records.
    Dnsserve(dns::ServeArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Answer(args) => pingpong::answer(&args),
        Command::Ask(args) => pingpong::ask(&args),
        Command::Stream(args) => stream::run(&args),
        Command::Dig(args) => dns::dig(&args),
        Command::Dnsload(args) => dns::load(&args),
        Command::Dnsserve(args) => dns::serve(&args),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("toolbox: {error}");
            ExitCode::from(2)
        }
    }
}
