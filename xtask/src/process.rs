//! Running other programs: captured, checked, with what they said in the error.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Builds a command from words. What `cargo run` says of this program's own package is kept from it: build scripts
/// that look at such variables (ring's does) would count as changed, and everything above them be compiled again each
/// time `cargo xtask` and plain `cargo` take turns.
pub fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    for (key, _) in std::env::vars_os() {
        let package = |key: &str| key.starts_with("CARGO_PKG_") || key.starts_with("CARGO_MANIFEST_");
        if key.to_str().is_some_and(package) {
            command.env_remove(&key);
        }
    }
    command
}

/// Runs to the end and returns standard output; a failure carries the program's last lines.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let shown = shown(command);
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("starting `{shown}`"))?;
    if !done.status.success() {
        bail!("`{shown}` ended with {}: {}", done.status, tail(&done.stderr, &done.stdout));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// The same for words.
pub fn sh(words: &[&str]) -> anyhow::Result<String> {
    output(&mut command(words))
}

/// Runs with `input` on standard input.
pub fn feed(command: &mut Command, input: &[u8]) -> anyhow::Result<String> {
    let shown = shown(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{shown}`"))?;
    let mut pipe = child.stdin.take().context("the child has no standard input")?;
    let sent = std::thread::scope(|scope| {
        let writer = scope.spawn(move || pipe.write_all(input));
        let done = child.wait_with_output();
        // A program that ends early has said why on standard error.
        let _ = writer.join();
        done
    });
    let done = sent.with_context(|| format!("waiting for `{shown}`"))?;
    if !done.status.success() {
        bail!("`{shown}` ended with {}: {}", done.status, tail(&done.stderr, &done.stdout));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Runs with the terminal's own output, for builds and tests that the user wants to see.
pub fn show(command: &mut Command) -> anyhow::Result<()> {
    let shown = shown(command);
    let status = command.status().with_context(|| format!("starting `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(())
}

/// Asks again until `probe` gives a value or the deadline passes; then the last reason is the error.
pub fn wait<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let end = Instant::now() + limit;
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= end => {
                return Err(error.context(format!("waited {} s for {what}", limit.as_secs())));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Whether PATH (or sbin) holds `program`.
pub fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path).chain(extra).any(|dir| dir.join(program).is_file())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn tail(stderr: &[u8], stdout: &[u8]) -> String {
    let said = if stderr.trim_ascii().is_empty() { stdout } else { stderr };
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
