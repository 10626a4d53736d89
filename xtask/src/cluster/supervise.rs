//! The process that keeps a cluster's processes running, as systemd would on a real node.

use std::collections::HashMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// Environment variable that marks every process of a cluster with the cluster's state folder.
pub const MARK: &str = "FAIRLEAD_SUPERVISED";

/// What to run.
#[derive(Serialize, Deserialize)]
pub struct Plan {
    pub state: PathBuf,
    pub logs: PathBuf,
    pub processes: Vec<Process>,
}

/// One process that is started again whenever it ends.
#[derive(Serialize, Deserialize, Clone)]
pub struct Process {
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Path of the network namespace to run in.
    pub namespace: PathBuf,
    /// Port on the machine's loopback whose listening socket the process gets as file descriptor 3 (LISTEN_FDS).
    pub listen: Option<u16>,
}

/// The longest pause before a process that keeps failing is started again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

struct Running {
    process: Process,
    listener: Option<TcpListener>,
    child: Option<Child>,
    pause: Duration,
    next: Instant,
}

/// Runs the plan until SIGTERM, then stops what it started.
pub fn run(plan: &Path) -> anyhow::Result<()> {
    let plan: Plan =
        serde_json::from_slice(&fs::read(plan).with_context(|| format!("reading {}", plan.display()))?)?;
    let handler = on_signal as extern "C" fn(libc::c_int);
    // SAFETY: the handler only stores to an atomic, which is allowed in a signal handler.
    unsafe {
        libc::signal(libc::SIGTERM, handler as libc::sighandler_t);
        libc::signal(libc::SIGINT, handler as libc::sighandler_t);
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
    }
    fs::create_dir_all(&plan.logs)?;
    let mut running = Vec::new();
    for process in &plan.processes {
        // The socket stays open while its process is restarted: connections wait instead of being refused.
        let listener = process.listen.map(|port| TcpListener::bind(("127.0.0.1", port))).transpose();
        let listener = listener.with_context(|| format!("opening the loopback port of {}", process.name))?;
        running.push(Running {
            process: process.clone(),
            listener,
            child: None,
            pause: Duration::ZERO,
            next: Instant::now(),
        });
    }
    while !STOP.load(Ordering::Relaxed) {
        for one in &mut running {
            one.tend(&plan)?;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    stop(running);
    Ok(())
}

impl Running {
    fn tend(&mut self, plan: &Plan) -> anyhow::Result<()> {
        if let Some(child) = &mut self.child {
            let Some(status) = child.try_wait()? else {
                if self.next.elapsed() > Duration::from_secs(30) {
                    self.pause = Duration::ZERO;
                }
                return Ok(());
            };
            eprintln!("{} ended with {status}", self.process.name);
            self.child = None;
            self.next = Instant::now() + self.pause;
            self.pause = (self.pause * 2).clamp(Duration::from_millis(200), LONGEST_PAUSE);
        }
        if Instant::now() >= self.next {
            match self.process.start(plan, self.listener.as_ref()) {
                Ok(child) => {
                    eprintln!("{} runs as {}", self.process.name, child.id());
                    self.child = Some(child);
                }
                Err(error) => {
                    eprintln!("{}: {error:#}", self.process.name);
                    self.next = Instant::now() + LONGEST_PAUSE;
                    return Ok(());
                }
            }
            self.next = Instant::now();
        }
        Ok(())
    }
}

impl Process {
    fn start(&self, plan: &Plan, listener: Option<&TcpListener>) -> anyhow::Result<Child> {
        let namespace =
            File::open(&self.namespace).with_context(|| format!("opening {}", self.namespace.display()))?;
        let log =
            File::options().create(true).append(true).open(plan.logs.join(format!("{}.log", self.name)))?;
        let mut command = if listener.is_some() {
            // The protocol wants the process's own number in LISTEN_PID; only a shell that becomes it can know it.
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"", "sh"]);
            shell.args(&self.command);
            shell
        } else {
            let mut direct = Command::new(&self.command[0]);
            direct.args(&self.command[1..]);
            direct
        };
        command
            .env(MARK, &plan.state)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let (space, socket) = (namespace.as_raw_fd(), listener.map(AsRawFd::as_raw_fd));
        // SAFETY: between fork and exec only setns and dup2 are called, both async-signal-safe, on descriptors that
        // outlive the call to spawn.
        unsafe {
            command.pre_exec(move || {
                if libc::setns(space, libc::CLONE_NEWNET) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                if let Some(socket) = socket {
                    let done =
                        if socket == 3 { libc::fcntl(3, libc::F_SETFD, 0) } else { libc::dup2(socket, 3) };
                    if done < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        command.spawn().with_context(|| format!("starting {}", self.command[0]))
    }
}

/// Asks all to end, last started first, and kills what does not.
fn stop(mut running: Vec<Running>) {
    let children: HashMap<String, u32> =
        running.iter().filter_map(|r| Some((r.process.name.clone(), r.child.as_ref()?.id()))).collect();
    for (name, pid) in &children {
        eprintln!("stopping {name}");
        if let Ok(pid) = libc::pid_t::try_from(*pid) {
            // SAFETY: signalling a process by number touches no memory of ours.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
    }
    let end = Instant::now() + Duration::from_secs(5);
    for child in running.iter_mut().rev().filter_map(|r| r.child.as_mut()) {
        while Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}
