//! The server and etcd, as processes that are killed.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::client::Target;

/// The longest that a process may take to serve.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Backend {
    Embedded,
    Etcd,
}

/// The processes of one run, below one directory.
pub struct Processes {
    pub directory: PathBuf,
    program: PathBuf,
    port: u16,
    server: Option<Child>,
    etcd: Option<(Child, u16, u16)>,
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl Processes {
    pub fn new(directory: PathBuf, program: &Path, backend: Backend) -> anyhow::Result<Processes> {
        std::fs::create_dir_all(&directory)?;
        let mut processes = Processes {
            directory,
            program: program.to_owned(),
            port: free_port()?,
            server: None,
            etcd: None,
        };
        if backend == Backend::Etcd {
            let (client, peer) = (free_port()?, free_port()?);
            processes.etcd = Some((processes.run_etcd(client, peer)?, client, peer));
        }
        Ok(processes)
    }

    fn log(&self, name: &str) -> anyhow::Result<File> {
        Ok(OpenOptions::new().create(true).append(true).open(self.directory.join(name))?)
    }

    fn run_etcd(&self, client: u16, peer: u16) -> anyhow::Result<Child> {
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        Command::new("/usr/bin/etcd")
            .arg("--data-dir")
            .arg(self.directory.join("etcd"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(self.log("etcd.log")?)
            .stderr(self.log("etcd.log")?)
            .spawn()
            .context("starting /usr/bin/etcd (package etcd-server)")
    }

    /// Starts the server; it may take a moment until it serves.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command
            .arg("--data-dir")
            .arg(self.directory.join("data"))
            .args(["--bind-address", "127.0.0.1", "--secure-port", &self.port.to_string()])
            .args(["--controllers=none", "--scheduler=false"]);
        if let Some((_, client, _)) = &self.etcd {
            command.arg(format!("--etcd-servers=http://127.0.0.1:{client}"));
        }
        command.stdout(self.log("server.log")?).stderr(self.log("server.log")?);
        let shown = self.program.display().to_string();
        self.server = Some(command.spawn().with_context(|| format!("starting {shown}"))?);
        Ok(())
    }

    /// Waits until the server is ready; starts it again if it gave up (etcd was away for too long).
    pub async fn ready(&mut self) -> anyhow::Result<Target> {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(server) = &mut self.server
                && server.try_wait()?.is_some()
            {
                self.start()?;
            }
            if let Ok(target) = Target::new(&self.directory.join("data"), self.port)
                && let Ok(mut connection) = target.connect().await
                && let Ok((200, _)) = connection.get("/readyz").await
            {
                return Ok(target);
            }
            if Instant::now() > end {
                bail!("the server is not ready after {} s", DEADLINE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// SIGKILL for the server.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut server) = self.server.take() {
            server.kill()?;
            server.wait()?;
        }
        Ok(())
    }

    /// SIGKILL for etcd, and a new start.
    pub fn kill_etcd(&mut self) -> anyhow::Result<()> {
        let Some((mut etcd, client, peer)) = self.etcd.take() else { bail!("there is no etcd") };
        etcd.kill()?;
        etcd.wait()?;
        self.etcd = Some((self.run_etcd(client, peer)?, client, peer));
        Ok(())
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.server.iter_mut().chain(self.etcd.iter_mut().map(|(etcd, ..)| etcd)) {
            // They may have ended by themselves.
            let _ended = child.kill();
            let _ended = child.wait();
        }
    }
}
