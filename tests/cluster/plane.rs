//! A control plane of a test's own: one server with its controllers and no node, for what needs flags of its own or
//! settings that hold for a whole cluster.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::harness::{binaries, eventually, feed_to, text};

static COUNT: AtomicU32 = AtomicU32::new(0);

pub struct Plane {
    directory: PathBuf,
    flags: Vec<String>,
    port: u16,
    server: Child,
}

impl Plane {
    /// A fresh one, ready to take objects.
    pub fn start(flags: &[&str]) -> Plane {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("fairlead-plane-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("a folder for the server");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let server = spawn(&directory, port, &flags);
        let plane = Plane { directory, flags, port, server };
        plane.wait();
        plane
    }

    /// The same one after `kill -9`.
    pub fn restart(&mut self) {
        self.server.kill().expect("the server can be killed");
        self.server.wait().expect("the server ends");
        self.server = spawn(&self.directory, self.port, &self.flags);
        self.wait();
    }

    fn wait(&self) {
        eventually("the control plane to be ready", 60, || {
            let out = self.run(&["-n", "default", "get", "serviceaccount", "default"]);
            if out.status.success() { Ok(()) } else { Err(text(&out.stderr)) }
        });
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.directory.join("admin.kubeconfig")).args(words);
        command
    }

    /// Runs kubectl, whatever comes of it.
    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).stdin(Stdio::null()).output().expect("kubectl starts")
    }

    /// Runs kubectl and returns what it printed.
    #[track_caller]
    pub fn kubectl(&self, words: &[&str]) -> String {
        let out = self.run(words);
        assert!(out.status.success(), "kubectl {} failed: {}", words.join(" "), text(&out.stderr));
        text(&out.stdout)
    }

    /// Runs kubectl that must fail, and returns what it said.
    #[track_caller]
    pub fn refused(&self, words: &[&str]) -> String {
        let out = self.run(words);
        assert!(!out.status.success(), "kubectl {} succeeded: {}", words.join(" "), text(&out.stdout));
        text(&out.stderr)
    }

    #[track_caller]
    pub fn apply(&self, yaml: &str) {
        let out = feed_to(self.command(&["apply", "-f", "-"]), yaml);
        assert!(out.status.success(), "apply failed: {}\n{yaml}", text(&out.stderr));
    }

    /// Applies what must be refused, and returns what was said.
    #[track_caller]
    pub fn apply_refused(&self, yaml: &str) -> String {
        let out = feed_to(self.command(&["apply", "-f", "-"]), yaml);
        assert!(!out.status.success(), "apply succeeded: {}\n{yaml}", text(&out.stdout));
        text(&out.stderr)
    }

    #[track_caller]
    pub fn json(&self, words: &[&str]) -> Value {
        let mut all = words.to_vec();
        all.extend_from_slice(&["-o", "json"]);
        serde_json::from_str(&self.kubectl(&all)).expect("kubectl prints JSON")
    }

    /// The texts of the events on an object with this reason.
    pub fn events(&self, name: &str, reason: &str) -> Vec<String> {
        let fields = format!("involvedObject.name={name},reason={reason}");
        let list = self.json(&["get", "events", "-A", "--field-selector", &fields]);
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|event| event["message"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

fn spawn(directory: &PathBuf, port: u16, flags: &[String]) -> Child {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join("server.log"))
        .expect("a log file");
    let mut server = Command::new(binaries().join("fairlead-server"));
    server.arg("--data-dir").arg(directory).args(["--secure-port", &port.to_string()]).args(flags);
    server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("the server starts")
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.directory.join("server.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the server's last words\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}
