//! Directories whose files all change at once: readers see either the old set or the new one.
//!
//! The layout is the one upstream's readers know: `..data` is a link to a directory with a time in its name, and
//! every visible name is a link through `..data`. One rename of `..data` switches everything.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use k8s_openapi::jiff::Timestamp;

/// A file to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// What it holds.
    pub data: Bytes,
    /// Permission bits.
    pub mode: u32,
}

/// Relative paths and their files.
pub type Payload = BTreeMap<String, File>;

const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";

/// Whether `path` stays inside its directory and does not collide with the layout's own names.
#[must_use]
pub fn is_safe_path(path: &str) -> bool {
    let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    !path.is_empty() && path.len() <= 4096 && inside && !path.starts_with("..")
}

/// Makes `directory` hold exactly `payload`; returns whether anything had to change.
///
/// # Errors
/// Fails when a path is not safe or the file system refuses; what was there stays visible.
pub fn write(directory: &Path, payload: &Payload, group: Option<u32>, now: Timestamp) -> io::Result<bool> {
    if let Some(bad) = payload.keys().find(|path| !is_safe_path(path)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {bad:?}")));
    }
    std::fs::create_dir_all(directory)?;
    let data = directory.join(DATA);
    let old = std::fs::read_link(&data).ok();
    if old.is_some() && current(&data).is_some_and(|current| same(&current, payload, group)) {
        link_names(directory, payload)?;
        return Ok(false);
    }
    let fresh = fresh_directory(directory, now)?;
    write_files(&fresh, payload, group)?;
    let next = directory.join(NEXT);
    remove_if_there(&next)?;
    symlink(fresh.file_name().unwrap_or_default(), &next)?;
    std::fs::rename(&next, &data)?;
    link_names(directory, payload)?;
    remove_stale(directory, payload, &fresh)?;
    Ok(true)
}

fn fresh_directory(directory: &Path, now: Timestamp) -> io::Result<PathBuf> {
    let stamp = now.strftime("%Y_%m_%d_%H_%M_%S").to_string();
    for attempt in 0..1000_u32 {
        let path =
            directory.join(format!("..{stamp}.{:09}", now.subsec_nanosecond().unsigned_abs() + attempt));
        match std::fs::create_dir(&path) {
            Ok(()) => {
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
                return Ok(path);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "no free name for the new version"))
}

fn write_files(directory: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    for (name, file) in payload {
        let path = directory.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, &file.data)?;
        if group.is_some() {
            chown(&path, None, group)?;
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode(file, group)))?;
    }
    Ok(())
}

/// A file's mode; the pod's group may always read it.
fn mode(file: &File, group: Option<u32>) -> u32 {
    (file.mode & 0o777) | if group.is_some() { 0o040 } else { 0 }
}

/// Files below a version, or `None` when they cannot be read.
fn current(data: &Path) -> Option<Payload> {
    let mut out = Payload::new();
    let mut waiting = vec![(data.to_path_buf(), String::new())];
    while let Some((path, prefix)) = waiting.pop() {
        for entry in std::fs::read_dir(path).ok()? {
            let entry = entry.ok()?;
            let name = format!("{prefix}{}", entry.file_name().to_str()?);
            if entry.file_type().ok()?.is_dir() {
                waiting.push((entry.path(), format!("{name}/")));
            } else {
                let mode = entry.metadata().ok()?.permissions().mode() & 0o777;
                out.insert(name, File { data: std::fs::read(entry.path()).ok()?.into(), mode });
            }
        }
    }
    Some(out)
}

fn same(current: &Payload, wanted: &Payload, group: Option<u32>) -> bool {
    current.len() == wanted.len()
        && wanted.iter().all(|(name, file)| {
            current.get(name).is_some_and(|known| known.data == file.data && known.mode == mode(file, group))
        })
}

fn first_part(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

fn link_names(directory: &Path, payload: &Payload) -> io::Result<()> {
    let names: BTreeSet<&str> = payload.keys().map(|path| first_part(path)).collect();
    for name in names {
        let link = directory.join(name);
        let target = Path::new(DATA).join(name);
        if std::fs::read_link(&link).is_ok_and(|known| known == target) {
            continue;
        }
        remove_if_there(&link)?;
        symlink(target, link)?;
    }
    Ok(())
}

fn remove_stale(directory: &Path, payload: &Payload, fresh: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let kept =
            name == DATA || entry.path() == fresh || payload.keys().any(|path| first_part(path) == name);
        if !kept {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str, u32)]) -> Payload {
        let file = |(name, data, mode): &(&str, &str, u32)| {
            ((*name).to_owned(), File { data: Bytes::copy_from_slice(data.as_bytes()), mode: *mode })
        };
        files.iter().map(file).collect()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("atomic-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn a_change_switches_all_files_at_once_and_leaves_nothing_behind() {
        let directory = scratch("switch");
        let first = payload(&[("a", "1", 0o644), ("d/b", "2", 0o400)]);
        assert!(write(&directory, &first, None, at(0)).unwrap());
        assert_eq!(std::fs::read_to_string(directory.join("a")).unwrap(), "1");
        assert_eq!(std::fs::read_to_string(directory.join("d/b")).unwrap(), "2");
        assert_eq!(std::fs::metadata(directory.join("d/b")).unwrap().permissions().mode() & 0o777, 0o400);
        let version = std::fs::read_link(directory.join(DATA)).unwrap();
        assert!(!write(&directory, &first, None, at(1)).unwrap(), "nothing changed");
        assert_eq!(std::fs::read_link(directory.join(DATA)).unwrap(), version);

        let second = payload(&[("a", "3", 0o644), ("c", "4", 0o644)]);
        assert!(write(&directory, &second, None, at(2)).unwrap());
        assert_eq!(std::fs::read_to_string(directory.join("a")).unwrap(), "3");
        let mut names: Vec<_> = std::fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(!names.iter().any(|name| name == "d" || *name == version.to_string_lossy()), "{names:?}");
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn an_interrupted_write_is_finished_by_the_next() {
        let directory = scratch("interrupted");
        write(&directory, &payload(&[("a", "1", 0o644)]), None, at(0)).unwrap();
        std::fs::create_dir(directory.join("..half")).unwrap();
        symlink("..half", directory.join(NEXT)).unwrap();
        std::fs::remove_file(directory.join("a")).unwrap();
        write(&directory, &payload(&[("a", "2", 0o644)]), None, at(0)).unwrap();
        assert_eq!(std::fs::read_to_string(directory.join("a")).unwrap(), "2");
        assert!(!directory.join("..half").exists());
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn paths_that_leave_the_directory_are_refused() {
        for (path, safe) in [
            ("a", true),
            ("a/b", true),
            ("a..b", true),
            ("", false),
            ("/a", false),
            ("../a", false),
            ("a/../b", false),
            ("..data", false),
        ] {
            assert_eq!(is_safe_path(path), safe, "{path:?}");
        }
        let directory = scratch("refused");
        assert!(write(&directory, &payload(&[("../x", "", 0o644)]), None, at(0)).is_err());
        let _ = std::fs::remove_dir_all(&directory);
    }
}
