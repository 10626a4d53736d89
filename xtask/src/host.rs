//! What this machine must have: packages, the eBPF linker, a Docker Engine. Missing things are named, then installed.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::process::{self, command, exists, output, sh, wait};
use crate::steps::Steps;

/// Whether missing programs may be installed.
#[derive(clap::Args, Clone, Copy)]
pub struct Consent {
    /// Install nothing: name what is missing and stop.
    #[arg(long)]
    pub no_install: bool,
}

/// How to tell that something is there.
enum Probe {
    Program(&'static str),
    File(&'static str),
    /// The compiler pair that builds eBPF programs, unless a nightly toolchain with sources does.
    BpfCompiler,
}

/// One thing a command needs and the Debian packages that bring it.
pub struct Need {
    probe: Probe,
    packages: &'static [&'static str],
}

const fn program(name: &'static str, packages: &'static [&'static str]) -> Need {
    Need { probe: Probe::Program(name), packages }
}

/// To build everything.
const BUILD: &[Need] = &[
    program("cc", &["gcc", "libc6-dev"]),
    program("protoc", &["protobuf-compiler"]),
    Need {
        probe: Probe::File("/usr/include/google/protobuf/descriptor.proto"),
        packages: &["libprotobuf-dev"],
    },
    Need { probe: Probe::BpfCompiler, packages: &["rustc-web", "cargo-web", "rust-web-src"] },
];

/// To run nodes as namespaces with containers.
const RUN: &[Need] = &[
    program("ip", &["iproute2"]),
    program("nsenter", &["util-linux"]),
    program("dockerd", &["docker.io"]),
    program("docker", &["docker.io"]),
    program("kubectl", &["kubernetes-client"]),
    Need { probe: Probe::File("/bin/busybox"), packages: &["busybox-static"] },
    program("tar", &["tar"]),
];

/// To test, beyond building and running.
const TEST: &[Need] = &[
    program("etcd", &["etcd-server"]),
    program("nft", &["nftables"]),
    program("iptables-save", &["iptables"]),
    program("bpftool", &["bpftool"]),
    program("curl", &["curl"]),
];

const ETCD: &[Need] = &[program("etcd", &["etcd-server"])];

pub const FOR_CLUSTER: &[&[Need]] = &[BUILD, RUN];
pub const FOR_ETCD_CLUSTER: &[&[Need]] = &[BUILD, RUN, ETCD];
pub const FOR_TESTS: &[&[Need]] = &[BUILD, RUN, TEST];

/// The linker release that matches the LLVM of the compilers above.
const BPF_LINKER: &str = "0.10.4";
/// Where the record of a Docker Engine that `up` started is kept.
const DOCKER_RECORD: &str = "/run/fairlead/dockerd.started";

pub fn require_root(what: &str) -> anyhow::Result<()> {
    // SAFETY: geteuid reads a number and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        bail!("`cargo xtask {what}` makes network namespaces and loads eBPF programs: run it as root");
    }
    Ok(())
}

/// Installs what is missing, or says what that is.
pub fn prepare(steps: &Steps, workspace: &Path, consent: Consent, needs: &[&[Need]]) -> anyhow::Result<()> {
    let mut missing: Vec<&str> = needs
        .iter()
        .flat_map(|group| group.iter())
        .filter(|need| !present(&need.probe))
        .flat_map(|need| need.packages.iter().copied())
        .collect();
    missing.sort_unstable();
    missing.dedup();
    if !missing.is_empty() {
        if consent.no_install {
            bail!(
                "missing packages: {}; install them with `apt-get install {}`",
                missing.join(", "),
                missing.join(" ")
            );
        }
        steps.run(&format!("installing {}", missing.join(" ")), || install(&missing))?;
    }
    if !linker_present() {
        if consent.no_install {
            bail!(
                "bpf-linker {BPF_LINKER} is missing; install it with `cargo install bpf-linker --version {BPF_LINKER} --locked`"
            );
        }
        steps.run(&format!("installing bpf-linker {BPF_LINKER}"), || install_linker(workspace))?;
    }
    Ok(())
}

fn present(probe: &Probe) -> bool {
    match probe {
        Probe::Program(name) => exists(name),
        Probe::File(path) => Path::new(path).exists(),
        Probe::BpfCompiler => crate::bpf::toolchain().is_some(),
    }
}

fn install(packages: &[&str]) -> anyhow::Result<()> {
    if !exists("apt-get") {
        bail!("this is no Debian or Ubuntu machine: install the programs of {} by hand", packages.join(", "));
    }
    let apt = |words: &[&str]| {
        let mut apt = command(&["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]);
        // A package that starts a daemon while it is installed would take the decision how to start it from us.
        output(apt.args(words).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1"))
    };
    apt(&["update"])?;
    let mut words = vec!["install", "-y", "--no-install-recommends"];
    words.extend_from_slice(packages);
    apt(&words).map(|_| ())
}

fn linker_present() -> bool {
    let local = home_bin().join("bpf-linker");
    let mut linker = if local.is_file() { Command::new(local) } else { Command::new("bpf-linker") };
    output(linker.arg("--version")).is_ok_and(|said| said.contains(BPF_LINKER))
}

/// Where `cargo install` puts programs.
pub fn home_bin() -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cargo")));
    home.unwrap_or_else(|| "/root/.cargo".into()).join("bin")
}

fn install_linker(workspace: &Path) -> anyhow::Result<()> {
    // Outside the workspace, so that its flags and target do not reach this build.
    let outside = workspace.parent().unwrap_or(workspace);
    let mut cargo =
        command(&["cargo", "install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force"]);
    output(cargo.current_dir(outside).env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("RUSTFLAGS"))
        .map(|_| ())
}

/// Makes sure that a Docker Engine answers; starts one without bridge or firewall rules if none does.
pub fn ensure_docker(steps: &Steps) -> anyhow::Result<()> {
    if docker_answers().is_ok() {
        return Ok(());
    }
    if let Some(host) = std::env::var_os("DOCKER_HOST") {
        docker_answers()
            .with_context(|| format!("no Docker Engine answers at DOCKER_HOST={}", host.to_string_lossy()))?;
    }
    if Path::new("/run/systemd/system").is_dir() {
        // Where systemd runs, the package's unit is how an administrator expects the engine to be started.
        return steps.run("starting Docker Engine", || {
            sh(&["systemctl", "start", "docker"])?;
            wait("Docker Engine to answer (`journalctl -u docker`)", Duration::from_secs(60), docker_answers)
        });
    }
    steps.run("starting Docker Engine", || {
        fs::create_dir_all("/run/fairlead")?;
        let log =
            fs::File::create("/run/fairlead/dockerd.log").context("creating /run/fairlead/dockerd.log")?;
        // An engine of ours that was killed left the record of what was there before it.
        let before = match fs::read_to_string(DOCKER_RECORD) {
            Ok(record) => record.lines().skip(1).map(str::to_owned).collect(),
            Err(_) => docker_cgroups().into_iter().map(|p| p.display().to_string()).collect::<Vec<_>>(),
        };
        // A pid file of an engine that was killed would keep the new one from starting.
        remove_stale_pid();
        // Pods get their network from CNI, so the engine needs no bridge, and the machine's firewall stays as it is.
        let child = Command::new("dockerd")
            .args(["--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("starting dockerd")?;
        fs::write(DOCKER_RECORD, format!("{}\n{}", child.id(), before.join("\n")))?;
        wait(
            "Docker Engine to answer (its log: /run/fairlead/dockerd.log)",
            Duration::from_secs(60),
            docker_answers,
        )
    })
}

/// Whether a Docker Engine answers.
pub fn docker_answers() -> anyhow::Result<()> {
    sh(&["docker", "version", "--format", "{{.Server.Version}}"]).map(|_| ())
}

fn remove_stale_pid() {
    let file = Path::new("/var/run/docker.pid");
    let Ok(pid) = fs::read_to_string(file) else { return };
    let name = fs::read_to_string(format!("/proc/{}/comm", pid.trim())).unwrap_or_default();
    if name.trim() != "dockerd" {
        let _ = fs::remove_file(file);
    }
}

fn docker_cgroups() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/sys/fs/cgroup") else { return Vec::new() };
    let roots = entries.flatten().map(|e| e.path()).chain([PathBuf::from("/sys/fs/cgroup")]);
    roots.map(|root| root.join("docker")).filter(|dir| dir.is_dir()).collect()
}

/// Stops the Docker Engine if `ensure_docker` started it and nothing uses it any more.
pub fn release_docker(steps: &Steps) -> anyhow::Result<()> {
    let Ok(record) = fs::read_to_string(DOCKER_RECORD) else { return Ok(()) };
    let mut lines = record.lines();
    let pid: i32 = lines.next().unwrap_or("").parse().context("reading the record of Docker Engine")?;
    let before: Vec<PathBuf> = lines.map(PathBuf::from).collect();
    if docker_answers().is_ok() {
        let used = sh(&["docker", "ps", "-aq"])?;
        if !used.trim().is_empty() {
            steps.say("Docker Engine stays: it has containers that are not this cluster's");
            return Ok(());
        }
    }
    let ours = fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "dockerd");
    if ours {
        steps.run("stopping Docker Engine", || {
            // SAFETY: signalling a process by number touches no memory of ours.
            unsafe { libc::kill(pid, libc::SIGTERM) };
            wait("Docker Engine to stop", Duration::from_secs(30), || {
                if Path::new(&format!("/proc/{pid}")).exists() && !process_is_zombie(pid) {
                    bail!("it still runs")
                }
                Ok(())
            })
        })?;
    }
    for dir in docker_cgroups().into_iter().filter(|dir| !before.contains(dir)) {
        // A directory that is still in use stays; it is the kernel who says so.
        let _ = fs::remove_dir(dir);
    }
    let _ = fs::remove_file(DOCKER_RECORD);
    let _ = fs::remove_file("/run/fairlead/dockerd.log");
    let _ = fs::remove_dir("/run/fairlead");
    Ok(())
}

fn process_is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

/// Builds every binary of the workspace. Always the whole of it: a part alone would have other features switched on in
/// shared dependencies, and compile them a second time.
pub fn build_binaries(workspace: &Path) -> anyhow::Result<PathBuf> {
    let mut cargo =
        command(&["cargo", "build", "--release", "--workspace", "--exclude", "fairlead-programs", "--bins"]);
    process::show(cargo.current_dir(workspace))?;
    binaries(workspace)
}

/// The folder of built binaries: that of this program, which the same profile built.
pub fn binaries(workspace: &Path) -> anyhow::Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let dir = exe.parent().context("xtask has no folder")?;
    if !dir.starts_with(workspace) && std::env::var_os("CARGO_TARGET_DIR").is_none() {
        bail!("run this as `cargo xtask` inside {}", workspace.display());
    }
    Ok(dir.to_path_buf())
}
