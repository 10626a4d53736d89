//! `subPath`: one file or directory inside a volume, never one outside of it whatever links the volume holds.
//!
//! The path is opened below the volume by the kernel (`openat2` with RESOLVE_BENEATH), and what was opened is bound
//! to a place that the pod cannot change; Docker mounts that place.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags};

fn invalid(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("subPath {} must stay inside its volume", path.display()),
    )
}

fn open_beneath(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

/// Opens `sub` below `volume`, making missing directories.
fn open(volume: &Path, sub: &Path) -> io::Result<OwnedFd> {
    if sub.as_os_str().is_empty()
        || !sub.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Err(invalid(sub));
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
    let root = rustix::fs::open(volume, flags, Mode::empty())?;
    match open_beneath(&root, sub) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let mut so_far = std::path::PathBuf::new();
    let mut parent: Option<OwnedFd> = None;
    for part in sub.components().filter(|part| matches!(part, Component::Normal(_))) {
        so_far.push(part);
        let next = match open_beneath(&root, &so_far) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let above = parent.as_ref().map_or(root.as_fd(), |fd| fd.as_fd());
                match rustix::fs::mkdirat(above, part.as_os_str(), Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                open_beneath(&root, &so_far)?
            }
            other => other?,
        };
        parent = Some(next);
    }
    parent.ok_or_else(|| invalid(sub))
}

/// Binds `sub` of `volume` to `target`; a target that shows the same thing already is left alone.
///
/// # Errors
/// Fails when the path leaves the volume or the kernel refuses.
pub fn bind(volume: &Path, sub: &Path, target: &Path) -> io::Result<()> {
    let opened = open(volume, sub)?;
    let source = format!("/proc/self/fd/{}", opened.as_raw_fd());
    let wanted = std::fs::metadata(&source)?;
    if let Ok(known) = std::fs::metadata(target) {
        if (known.dev(), known.ino()) == (wanted.dev(), wanted.ino()) {
            return Ok(());
        }
        // Not mounted is fine: then it is the empty place itself.
        let _ = rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH);
    }
    place(target, wanted.is_dir())?;
    Ok(rustix::mount::mount_bind_recursive(source.as_str(), target)?)
}

/// Makes an empty file or directory to mount on.
fn place(target: &Path, directory: bool) -> io::Result<()> {
    if let Ok(known) = std::fs::symlink_metadata(target) {
        match (known.is_dir(), directory) {
            (true, true) | (false, false) => return Ok(()),
            (true, false) => std::fs::remove_dir(target)?,
            (false, true) => std::fs::remove_file(target)?,
        }
    }
    if directory {
        return std::fs::create_dir_all(target);
    }
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::File::create(target).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_the_volume_can_be_reached() {
        let base = std::env::temp_dir().join(format!("subpath-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&base);
        let volume = base.join("volume");
        std::fs::create_dir_all(volume.join("in")).unwrap();
        std::fs::create_dir_all(base.join("out")).unwrap();
        std::os::unix::fs::symlink("../out", volume.join("relative")).unwrap();
        std::os::unix::fs::symlink(base.join("out"), volume.join("absolute")).unwrap();
        std::os::unix::fs::symlink("in", volume.join("inside")).unwrap();
        for (sub, fine) in [
            ("in", true),
            ("inside", true),
            ("new/deep", true),
            ("in/new", true),
            ("relative", false),
            ("relative/x", false),
            ("absolute", false),
            ("../out", false),
            ("/etc", false),
            ("", false),
        ] {
            let seen = open(&volume, Path::new(sub));
            assert_eq!(seen.is_ok(), fine, "{sub:?}: {seen:?}");
        }
        assert!(volume.join("new/deep").is_dir());
        assert!(!base.join("out/x").exists());
        std::fs::remove_dir_all(&base).unwrap();
    }
}
