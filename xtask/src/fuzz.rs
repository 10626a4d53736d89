//! Fuzzes what reads the bodies of requests (`fuzz/`), one target after the other.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::process::{command, show};

/// The targets, each with the directory of `fuzz/seeds` that it starts from and how many bytes an input may have.
const TARGETS: [(&str, &str, usize); 7] = [
    ("json", "objects", 16 << 10),
    ("yaml", "objects", 16 << 10),
    ("protobuf", "objects", 16 << 10),
    ("patch", "patch", 16 << 10),
    ("selector", "selector", 4 << 10),
    ("apply", "apply", 16 << 10),
    ("large", "large", 4),
];

#[derive(clap::Args)]
pub struct Args {
    /// Which targets; all when none is named.
    targets: Vec<String>,
    /// How long each is fuzzed.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
}

/// Runs the targets until one finds something; the finding is left in `fuzz/artifacts`.
///
/// # Errors
/// A finding, a name that is no target, or cargo-fuzz that is not installed.
pub fn run(workspace: &Path, args: &Args) -> anyhow::Result<()> {
    if let Some(other) = args.targets.iter().find(|name| TARGETS.iter().all(|(known, ..)| known != name)) {
        bail!("there is no target {other}; there are {}", TARGETS.map(|(name, ..)| name).join(", "));
    }
    let installed = Command::new("cargo").args(["fuzz", "--version"]).output().context("run cargo")?;
    ensure!(installed.status.success(), "cargo-fuzz is missing: run `cargo install cargo-fuzz`");
    for (name, seeds, longest) in TARGETS {
        if !args.targets.is_empty() && !args.targets.iter().any(|wanted| wanted == name) {
            continue;
        }
        eprintln!("--- fuzzing {name} for {} s", args.seconds);
        let corpus = format!("fuzz/corpus/{name}");
        std::fs::create_dir_all(workspace.join(&corpus)).with_context(|| format!("create {corpus}"))?;
        // Coverage is an option of the compiler that stable ones have as well, once asked. All code is safe Rust:
        // a sanitizer would find nothing more and take half of the speed.
        let mut fuzz = command(&["cargo", "fuzz", "run", "--sanitizer", "none", name, &corpus]);
        fuzz.arg(format!("fuzz/seeds/{seeds}"))
            .arg("--")
            .arg(format!("-max_total_time={}", args.seconds))
            .arg(format!("-max_len={longest}"))
            .args(["-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"])
            .current_dir(workspace)
            .env("RUSTC_BOOTSTRAP", "1");
        show(&mut fuzz).with_context(|| format!("{name} found something"))?;
    }
    Ok(())
}
