//! Removing a cluster: processes, containers, mounts, namespaces, folders; by its record and its label only.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use super::{Cluster, Overlay, RECORDS, containers, network, processes};
use crate::host;
use crate::process::{command, exists, output, sh, wait};
use crate::steps::Steps;

/// Removes the cluster of this name, and the Docker Engine with it if `up` started that and nobody else uses it.
pub fn run(steps: &Steps, workspace: &Path, name: &str) -> anyhow::Result<()> {
    host::require_root("down")?;
    let lock = super::up::lock(name)?;
    let removed = run_keeping_docker(steps, workspace, name);
    remove_file(&super::up::lock_file(name))?;
    drop(lock);
    let _ = fs::remove_dir("/run/fairlead");
    removed?;
    host::release_docker(steps)
}

/// Removes the cluster of this name; says so when there is none.
pub fn run_keeping_docker(steps: &Steps, workspace: &Path, name: &str) -> anyhow::Result<()> {
    let record = Cluster::load(name)?;
    // After a reboot the record is gone, but folders and stopped containers are still there.
    let left = record.is_none() && workspace.join(".fairlead").join(name).exists();
    let cluster = match record {
        Some(cluster) if cluster.workspace != workspace && super::up::supervisor(&cluster).is_some() => {
            bail!(
                "cluster `{name}` belongs to {}: run `cargo xtask down` there",
                cluster.workspace.display()
            );
        }
        Some(cluster) => cluster,
        None if left => Cluster {
            name: name.into(),
            workspace: workspace.into(),
            nodes: 0,
            store: super::Backend::Embedded,
            dual_stack: false,
            overlay: Overlay::default(),
            splice: false,
        },
        None => {
            steps.say(&format!("there is no cluster `{name}`"));
            return Ok(());
        }
    };
    steps.run("stopping processes", || stop_processes(&cluster))?;
    // Containers outlive an engine that was killed, and only an engine can remove them. A machine without the program
    // has none of ours.
    if exists("docker") {
        host::ensure_docker(steps)?;
        if !containers(&cluster.name)?.is_empty() {
            steps.run("removing containers", || remove_containers(&cluster))?;
        }
    }
    steps.run("removing mounts, namespaces and folders", || {
        unmount(&cluster.state())?;
        network::remove(&cluster)?;
        remove_dir(&cluster.state())?;
        remove_file(&cluster.kubeconfig())?;
        let _ = fs::remove_dir(cluster.workspace.join(".fairlead"));
        remove_dir(&cluster.run())?;
        // Shared with other clusters: goes with the last one.
        let _ = fs::remove_dir(RECORDS);
        let _ = fs::remove_dir("/run/fairlead");
        let _ = fs::remove_dir("/run/netns").or_else(|_| unmount_netns());
        Ok(())
    })
}

/// Ends the supervisor first, so that it starts nothing again.
pub fn stop_processes(cluster: &Cluster) -> anyhow::Result<()> {
    let state = cluster.state();
    let signal = |signal: i32, only: Option<i32>| {
        for pid in processes(&state) {
            if only.is_none_or(|one| one == pid) {
                // SAFETY: signalling a process by number touches no memory of ours.
                unsafe { libc::kill(pid, signal) };
            }
        }
    };
    if let Some(supervisor) = super::up::supervisor(cluster) {
        signal(libc::SIGTERM, Some(supervisor));
        let gone = || {
            if super::up::supervisor(cluster).is_some() { bail!("the supervisor still runs") } else { Ok(()) }
        };
        if wait("the supervisor to end", Duration::from_secs(8), gone).is_err() {
            signal(libc::SIGKILL, Some(supervisor));
        }
    }
    signal(libc::SIGKILL, None);
    wait("the cluster's processes to end", Duration::from_secs(10), || {
        let left = processes(&state);
        if left.is_empty() { Ok(()) } else { bail!("processes {left:?} still run") }
    })
}

fn remove_containers(cluster: &Cluster) -> anyhow::Result<()> {
    // One that ends by itself meanwhile makes `docker rm` fail, so the list is asked for again.
    wait("the cluster's containers to go", Duration::from_secs(60), || {
        let list = containers(&cluster.name)?;
        if list.is_empty() {
            return Ok(());
        }
        output(command(&["docker", "rm", "-f", "-v"]).args(&list)).map(|_| ())?;
        if containers(&cluster.name)?.is_empty() { Ok(()) } else { bail!("some are left") }
    })
}

/// Unmounts everything below a folder, deepest first.
pub fn unmount(folder: &Path) -> anyhow::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    let mut below: Vec<String> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(|path| path.replace("\\040", " "))
        .filter(|path| Path::new(path).starts_with(folder))
        .collect();
    below.sort_by_key(|path| std::cmp::Reverse(path.len()));
    for path in below {
        sh(&["umount", "-l", &path])?;
    }
    Ok(())
}

/// `ip netns` makes /run/netns a mount point of its own; it goes when it is empty.
fn unmount_netns() -> std::io::Result<()> {
    let empty = fs::read_dir("/run/netns").is_ok_and(|mut entries| entries.next().is_none());
    if empty && sh(&["umount", "/run/netns"]).is_ok() {
        return fs::remove_dir("/run/netns");
    }
    Ok(())
}

fn remove_dir(dir: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn remove_file(file: &Path) -> anyhow::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", file.display()))
        }
        _ => Ok(()),
    }
}
