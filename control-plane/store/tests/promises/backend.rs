//! A fresh store of either kind in a directory that goes when the test ends.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fairlead_store::{Embedded, EmbeddedOptions, Etcd, EtcdOptions, Store};

/// The longest that anything here may take.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub enum Backend {
    Embedded(Directory),
    Etcd(EtcdProcess),
}

/// A directory below the system's temporary one.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("fairlead-store-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&path).expect("temporary directory");
        Directory(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What is left of a failed test is of use to nobody.
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// A running etcd.
pub struct EtcdProcess {
    directory: Directory,
    client: u16,
    peer: u16,
    process: Mutex<Child>,
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn start(directory: &Path, client: u16, peer: u16) -> Child {
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    Command::new("/usr/bin/etcd")
        .arg("--data-dir")
        .arg(directory.join("etcd"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("/usr/bin/etcd must be installed (package etcd-server) for these tests")
}

impl EtcdProcess {
    pub fn start() -> Self {
        let directory = Directory::new();
        let (client, peer) = (free_port(), free_port());
        let process = Mutex::new(start(directory.path(), client, peer));
        EtcdProcess { directory, client, peer, process }
    }

    /// SIGKILL.
    pub fn kill(&self) {
        let mut process = self.process.lock().expect("etcd");
        process.kill().expect("kill etcd");
        process.wait().expect("wait for etcd");
    }

    pub fn start_again(&self) {
        *self.process.lock().expect("etcd") = start(self.directory.path(), self.client, self.peer);
    }

    pub async fn connect(&self) -> Arc<dyn Store> {
        let url = format!("http://127.0.0.1:{}", self.client);
        let options = EtcdOptions { endpoints: vec![url], ..EtcdOptions::default() };
        let begin = Instant::now();
        loop {
            match Etcd::connect(options.clone()).await {
                Ok(store) => return Arc::new(store),
                Err(error) => assert!(begin.elapsed() < DEADLINE, "etcd does not answer: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Backend {
    pub fn embedded() -> Self {
        Backend::Embedded(Directory::new())
    }

    pub fn etcd() -> Self {
        Backend::Etcd(EtcdProcess::start())
    }

    /// The store's directory on disk.
    pub fn directory(&self) -> &Path {
        match self {
            Backend::Embedded(directory) => directory.path(),
            Backend::Etcd(process) => process.directory.path(),
        }
    }

    /// Opens it; with the same contents as before when called again.
    pub async fn store(&self) -> Arc<dyn Store> {
        match self {
            Backend::Embedded(directory) => {
                Arc::new(Embedded::open(directory.path(), EmbeddedOptions::default()).expect("open"))
            }
            Backend::Etcd(process) => process.connect().await,
        }
    }
}
