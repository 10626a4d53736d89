//! What is being done, while it is being done: a spinner on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Prints steps with the time each took.
pub struct Steps {
    terminal: bool,
}

impl Steps {
    pub fn new() -> Self {
        Steps { terminal: std::io::stderr().is_terminal() }
    }

    /// Runs one step under its name; a failure carries the name as context.
    pub fn run<T>(&self, name: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let start = Instant::now();
        let bar = self.terminal.then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
                bar.set_style(style);
            }
            bar.set_message(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("... {name}");
        }
        let outcome = work();
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let took = start.elapsed().as_secs_f64();
        match &outcome {
            Ok(_) => eprintln!("ok  {name} ({took:.1} s)"),
            Err(_) => eprintln!("ERR {name} ({took:.1} s)"),
        }
        outcome.map_err(|e| e.context(format!("{name} failed")))
    }

    /// A line between steps.
    pub fn say(&self, line: &str) {
        eprintln!("    {line}");
    }
}
