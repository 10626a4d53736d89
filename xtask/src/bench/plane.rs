//! A control plane of our own: fairlead-server, and etcd where it stores there. It ends with its owner.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::bench::client::{Target, get};
use crate::bench::machine::{self, Cpu};
use crate::cluster::Backend;

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder that is removed with its contents.
pub struct Folder(PathBuf);

impl Folder {
    const PREFIX: &str = "bench-";

    /// Makes `bench-PID` below `parent`, and removes those that killed runs left.
    pub fn new(parent: &Path) -> anyhow::Result<Folder> {
        for entry in fs::read_dir(parent)?.flatten() {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.strip_prefix(Self::PREFIX)?.parse::<u32>().ok());
            if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let path = parent.join(format!("{}{}", Self::PREFIX, std::process::id()));
        fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Folder(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("warning: {} stays: {error}", self.0.display());
        }
    }
}

/// A process that is killed with its owner, and with this program however that ends.
struct Process(Child);

impl Process {
    fn start(command: &mut Command, log: &Path) -> anyhow::Result<Process> {
        let shown = command.get_program().to_string_lossy().into_owned();
        let out = fs::File::create(log).with_context(|| format!("creating {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        // SAFETY: prctl only sets the signal that the new process gets when its parent dies; it allocates nothing.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        Ok(Process(command.spawn().with_context(|| format!("starting {shown}"))?))
    }

    fn id(&self) -> u32 {
        self.0.id()
    }

    /// Ends it as an administrator does, and waits for that.
    fn stop(&mut self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.id())?;
        // SAFETY: signalling a child that was not waited for yet touches no memory of ours and nobody else's process.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let end = Instant::now() + PATIENCE;
        while self.0.try_wait()?.is_none() {
            if Instant::now() > end {
                bail!("process {pid} did not end");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the parts used so far.
#[derive(Clone, Copy)]
pub struct Reading {
    pub server: Cpu,
    pub etcd: Cpu,
    pub client: Cpu,
    busy: f64,
    at: Instant,
}

/// What the parts used between two readings.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    pub server: Cpu,
    pub etcd: Cpu,
    pub client: Cpu,
    /// The part of the machine that neither of them used, of all its cores.
    pub others: f64,
}

impl Used {
    /// What the control plane used.
    pub fn plane(&self) -> f64 {
        (self.server + self.etcd).total()
    }
}

/// The control plane under test.
pub struct Plane {
    server: Option<Process>,
    etcd: Option<Process>,
    program: PathBuf,
    folder: PathBuf,
    data: PathBuf,
    port: u16,
    etcd_port: u16,
    /// Neither controllers nor scheduler run.
    pub alone: bool,
}

impl Plane {
    /// Prepares one; the server is not started yet.
    pub fn new(program: &Path, folder: &Path, store: Backend, alone: bool) -> anyhow::Result<Plane> {
        let folder = folder.join(format!("{store:?}").to_lowercase());
        fs::create_dir(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let data = folder.join("data");
        let [port, etcd_port, peer_port] = free_ports()?;
        let program = program.to_owned();
        let mut plane = Plane { server: None, etcd: None, program, folder, data, port, etcd_port, alone };
        if store == Backend::Etcd {
            plane.start_etcd(peer_port)?;
        }
        Ok(plane)
    }

    fn start_etcd(&mut self, peer_port: u16) -> anyhow::Result<()> {
        if !crate::process::exists("etcd") {
            bail!("there is no etcd: `apt-get install etcd-server`, or measure with --store embedded");
        }
        let (client, peer) =
            (format!("http://127.0.0.1:{}", self.etcd_port), format!("http://127.0.0.1:{peer_port}"));
        let mut etcd = Command::new("etcd");
        etcd.arg("--data-dir").arg(self.folder.join("etcd")).args(["--name", "bench"]);
        etcd.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        etcd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        etcd.args(["--initial-cluster", &format!("bench={peer}"), "--log-level", "error"]);
        etcd.args(["--quota-backend-bytes", "8589934592"]);
        self.etcd = Some(Process::start(&mut etcd, &self.folder.join("etcd.log"))?);
        let listens = || Ok(std::net::TcpStream::connect(("127.0.0.1", self.etcd_port)).map(drop)?);
        crate::process::wait("etcd to listen", PATIENCE, listens)
    }

    /// Starts the server and waits until it says that it is ready; returns how long that took from its exec.
    pub async fn start(&mut self) -> anyhow::Result<Duration> {
        let mut server = Command::new(&self.program);
        server.arg("--data-dir").arg(&self.data).args(["--bind-address", "127.0.0.1"]);
        server.args(["--secure-port", &self.port.to_string()]);
        if self.alone {
            server.args(["--controllers=none", "--scheduler=false"]);
        }
        if self.etcd.is_some() {
            server.args(["--etcd-servers", &format!("http://127.0.0.1:{}", self.etcd_port)]);
        }
        let log = self.folder.join("server.log");
        let start = Instant::now();
        let process = self.server.insert(Process::start(&mut server, &log)?);
        loop {
            if ready(&self.data, self.port).await.is_ok() {
                return Ok(start.elapsed());
            }
            if let Some(ended) = process.0.try_wait()? {
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!("{} ended with {ended}:\n{}", self.program.display(), said.trim_end());
            }
            if start.elapsed() > PATIENCE {
                bail!("the server was not ready within {} s", PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Stops the server; what is stored stays.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.server.take().map_or(Ok(()), |mut server| server.stop())
    }

    pub fn target(&self) -> anyhow::Result<Target> {
        Target::admin(&self.data, self.port)
    }

    /// Resident memory of server and etcd in MiB.
    pub fn resident(&self) -> anyhow::Result<(f64, f64)> {
        let of = |process: &Option<Process>| process.as_ref().map_or(Ok(0.0), |p| machine::resident(p.id()));
        Ok((of(&self.server)?, of(&self.etcd)?))
    }

    pub fn read(&self) -> anyhow::Result<Reading> {
        let of = |process: &Option<Process>| {
            process.as_ref().map_or(Ok(Cpu::default()), |process| machine::cpu(process.id()))
        };
        let (server, etcd, client) = (of(&self.server)?, of(&self.etcd)?, machine::cpu(std::process::id())?);
        Ok(Reading { server, etcd, client, busy: machine::busy(), at: Instant::now() })
    }

    /// What was used since `start`.
    pub fn used(&self, start: &Reading) -> anyhow::Result<Used> {
        let now = self.read()?;
        let (server, etcd) = (now.server - start.server, now.etcd - start.etcd);
        let client = now.client - start.client;
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let all = now.at.duration_since(start.at).as_secs_f64() * cores;
        let foreign = now.busy - start.busy - (server + etcd + client).total();
        Ok(Used { server, etcd, client, others: (foreign / all).clamp(0.0, 1.0) })
    }
}

async fn ready(data: &Path, port: u16) -> anyhow::Result<()> {
    // Before the certificates are there, nobody listens either.
    let mut connection = Target::anonymous(data, port)?.connect().await?;
    connection.ask(&get("/readyz"), 200).await.map(drop)
}

/// Ports that nobody listens on now.
fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0").context("finding a free port")?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}
