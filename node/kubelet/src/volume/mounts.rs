//! Mounts below a pod's directory: found in mountinfo and undone before anything is removed.

use std::io;
use std::path::{Path, PathBuf};

/// Mount points below `directory` in a mountinfo text, in the order in which they were made.
#[must_use]
pub fn below(mountinfo: &str, directory: &Path) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    points.filter(|point| point.starts_with(directory)).collect()
}

/// Undoes mountinfo's octal escapes (space, tab, newline, backslash).
fn unescape(text: &str) -> PathBuf {
    let mut out = text.to_owned();
    for (escape, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        out = out.replace(escape, character);
    }
    PathBuf::from(out)
}

/// Whether `path` is a mount point.
#[must_use]
pub fn is_mounted(path: &Path) -> bool {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    below(&text, path).iter().any(|point| point == path)
}

/// Mounts a tmpfs of at most `size` bytes (zero: the kernel's default).
///
/// # Errors
/// Fails when the kernel refuses.
pub fn tmpfs(path: &Path, size: i64, mode: u32) -> io::Result<()> {
    let mut options = format!("mode={mode:o}");
    if size > 0 {
        options.push_str(&format!(",size={size}"));
    }
    let options = std::ffi::CString::new(options)?;
    let flags = rustix::mount::MountFlags::empty();
    Ok(rustix::mount::mount("tmpfs", path, "tmpfs", flags, options.as_c_str())?)
}

/// Unmounts everything below `directory`, then removes it. Nothing is removed while a mount is left: it may be the
/// machine's own directory.
///
/// # Errors
/// Fails when a mount stays or a file cannot be removed.
pub fn remove_tree(directory: &Path) -> io::Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    let directory = directory.canonicalize()?;
    let read = || std::fs::read_to_string("/proc/self/mountinfo");
    for point in below(&read()?, &directory).iter().rev() {
        if let Err(error) = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH) {
            tracing::warn!(path = %point.display(), %error, "cannot unmount");
        }
    }
    if let Some(left) = below(&read()?, &directory).first() {
        return Err(io::Error::other(format!("{} is still mounted", left.display())));
    }
    std::fs::remove_dir_all(&directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let text = "36 35 98:0 / /a rw - ext4 x rw\n37 36 0:1 / /a/b\\040c rw - tmpfs t rw\n38 36 0:1 / /ab rw - tmpfs t rw\n";
        assert_eq!(below(text, Path::new("/a")), [PathBuf::from("/a"), PathBuf::from("/a/b c")]);
    }
}
