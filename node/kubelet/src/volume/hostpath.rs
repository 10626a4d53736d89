//! `hostPath` volumes: what their type promises is checked or made.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

/// Checks or makes what a `hostPath` of `kind` promises at `path` (already on the machine); `shown` is the path the
/// pod names.
///
/// # Errors
/// Says what was expected.
pub fn prepare(path: &Path, shown: &str, kind: &str) -> Result<(), String> {
    let meta = match std::fs::metadata(path) {
        Ok(meta) => Some(meta),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("hostPath {shown}: {error}")),
    };
    let kind_of = meta.as_ref().map(std::fs::Metadata::file_type);
    let failed = |what: &str| Err(format!("hostPath type check failed: {shown} is not {what}"));
    let is = |test: fn(&std::fs::FileType) -> bool| kind_of.as_ref().is_some_and(test);
    match kind {
        // Runtimes make a missing directory when nothing is promised.
        "" if kind_of.is_some() => Ok(()),
        "" => make(shown, || std::fs::create_dir_all(path)),
        "DirectoryOrCreate" if kind_of.is_none() => make(shown, || std::fs::create_dir_all(path)),
        "FileOrCreate" if kind_of.is_none() => make(shown, || std::fs::File::create(path).map(|_| ())),
        "Directory" | "DirectoryOrCreate" if !is(std::fs::FileType::is_dir) => failed("a directory"),
        "File" | "FileOrCreate" if !is(std::fs::FileType::is_file) => failed("a file"),
        "Socket" if !is(std::fs::FileType::is_socket) => failed("a socket file"),
        "CharDevice" if !is(std::fs::FileType::is_char_device) => failed("a character device"),
        "BlockDevice" if !is(std::fs::FileType::is_block_device) => failed("a block device"),
        "Directory" | "DirectoryOrCreate" | "File" | "FileOrCreate" | "Socket" | "CharDevice"
        | "BlockDevice" => Ok(()),
        other => Err(format!("unknown hostPath type {other:?}")),
    }
}

fn make(shown: &str, action: impl FnOnce() -> io::Result<()>) -> Result<(), String> {
    action().map_err(|error| format!("cannot create hostPath {shown}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_or_made() {
        let base = std::env::temp_dir().join(format!("hostpath-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&base);
        std::fs::create_dir_all(base.join("dir")).unwrap();
        std::fs::write(base.join("file"), "").unwrap();
        for (name, kind, fine) in [
            ("dir", "", true),
            ("file", "", true),
            ("new-any", "", true),
            ("dir", "Directory", true),
            ("file", "Directory", false),
            ("none", "Directory", false),
            ("new-dir", "DirectoryOrCreate", true),
            ("file", "DirectoryOrCreate", false),
            ("file", "File", true),
            ("dir", "File", false),
            ("new-file", "FileOrCreate", true),
            ("dir", "FileOrCreate", false),
            ("file", "Socket", false),
            ("file", "CharDevice", false),
            ("file", "BlockDevice", false),
            ("file", "Nonsense", false),
        ] {
            let seen = prepare(&base.join(name), name, kind);
            assert_eq!(seen.is_ok(), fine, "{name} {kind}: {seen:?}");
        }
        assert!(prepare(Path::new("/dev/null"), "/dev/null", "CharDevice").is_ok());
        assert!(
            base.join("new-any").is_dir() && base.join("new-dir").is_dir() && base.join("new-file").is_file()
        );
        std::fs::remove_dir_all(&base).unwrap();
    }
}
