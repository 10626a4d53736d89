//! Programs, links and devices of the node.

pub mod btf;
pub mod devices;
pub mod programs;

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use crate::bpf::{self, Hook};

/// Why the programs could not be put in place. Each variant names the step that failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The object file does not load.
    #[error("loading {object}: {source}")]
    Load {
        /// The object file.
        object: PathBuf,
        /// What the loader said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A program of the object does not pass the kernel's checks.
    #[error("program {program}: {source}")]
    Program {
        /// The program.
        program: &'static str,
        /// What the loader said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The object lacks a program or a map.
    #[error("{object} has no {missing}")]
    Missing {
        /// The object file.
        object: PathBuf,
        /// What is not in it.
        missing: &'static str,
    },
    /// A pin could not be read, made or removed.
    #[error("pin {path}: {source}")]
    Pin {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program could not be attached.
    #[error("attaching {name}: {source}")]
    Attach {
        /// Name of the pin.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A device could not be found or set up.
    #[error("{step}: {source}")]
    Device {
        /// What was being done.
        step: String,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The pinned links of a node. A link keeps its program attached for as long as it is pinned, whoever runs.
#[derive(Debug)]
pub struct Links {
    directory: PathBuf,
}

impl Links {
    /// The links that are pinned in `directory`, which is made if it is missing.
    ///
    /// # Errors
    /// [`LinkError::Pin`]
    pub fn open(directory: PathBuf) -> Result<Self, LinkError> {
        fs::create_dir_all(&directory)
            .map_err(|source| LinkError::Pin { path: directory.clone(), source })?;
        Ok(Links { directory })
    }

    /// Makes `program` run at `hook`: by replacing the program of the link pinned as `name`, so that no packet passes
    /// without one, or by a new link when there is none or what it was attached to is gone.
    ///
    /// # Errors
    /// [`LinkError::Attach`], [`LinkError::Pin`]
    pub fn ensure(&self, name: &str, program: BorrowedFd<'_>, hook: Hook<'_>) -> Result<(), LinkError> {
        let path = self.directory.join(name);
        let attach_error = |source| LinkError::Attach { name: name.to_owned(), source };
        match bpf::pinned(&path) {
            Ok(link) => {
                let same = match hook {
                    Hook::Tcx { ifindex, .. } | Hook::Xdp { ifindex } => {
                        bpf::link_target(link.as_fd()).map_err(attach_error)? == ifindex
                    }
                    Hook::Sockets { map, .. } => {
                        let target = bpf::link_target(link.as_fd()).map_err(attach_error)?;
                        target == bpf::map_id(map).map_err(attach_error)?
                    }
                    Hook::Cgroup { .. } => true,
                };
                if same && bpf::replace(link.as_fd(), program).is_ok() {
                    return Ok(());
                }
                self.remove(name)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(LinkError::Pin { path, source }),
        }
        let link = bpf::attach(program, hook).map_err(attach_error)?;
        bpf::pin(link.as_fd(), &path).map_err(|source| LinkError::Pin { path, source })
    }

    /// Removes a pin, and with it the link; one that is not there is fine.
    ///
    /// # Errors
    /// [`LinkError::Pin`]
    pub fn remove(&self, name: &str) -> Result<(), LinkError> {
        let path = self.directory.join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LinkError::Pin { path, source }),
            _ => Ok(()),
        }
    }

    /// Removes every pin that is not among `names`: links of pods and devices that are gone.
    ///
    /// # Errors
    /// [`LinkError::Pin`]
    pub fn retain(&self, names: &BTreeSet<String>) -> Result<(), LinkError> {
        let failed = |source| LinkError::Pin { path: self.directory.clone(), source };
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if !names.contains(&name) {
                self.remove(&name)?;
            }
        }
        Ok(())
    }
}

/// Removes every pin of a node: programs are detached and maps freed once nothing else holds them. What is below
/// `pins` must not be used by a running dataplane.
///
/// # Errors
/// [`LinkError::Pin`]
pub fn remove_pins(pins: &Path) -> Result<(), LinkError> {
    match fs::remove_dir_all(pins) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(LinkError::Pin { path: pins.to_owned(), source })
        }
        _ => Ok(()),
    }
}
