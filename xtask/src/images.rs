//! Container images made from what was just built, with no registry: a folder, a tar stream, `docker import`.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::host;
use crate::process::{command, feed, output, sh};
use crate::steps::Steps;

/// One image: its files and how it starts.
struct Image {
    name: &'static str,
    /// (source, path in the image)
    files: Vec<(PathBuf, &'static str)>,
    /// Applets of the static busybox that become links in /bin.
    applets: bool,
    /// Dockerfile instructions for `docker import --change`.
    changes: &'static [&'static str],
}

/// Builds programs and images; an image whose content did not change is left alone.
pub fn build(steps: &Steps, workspace: &Path) -> anyhow::Result<()> {
    let object = steps.run("compiling the eBPF programs", || crate::bpf::build(workspace, true))?;
    let bin = steps.run("building the binaries", || host::build_binaries(workspace))?;
    host::ensure_docker(steps)?;
    for image in images(&bin, &object) {
        let content = image.content()?;
        if loaded(image.name)? == Some(content.clone()) {
            continue;
        }
        steps.run(&format!("making image {}", image.name), || image.load(&content))?;
    }
    Ok(())
}

fn images(bin: &Path, object: &Path) -> Vec<Image> {
    vec![
        Image {
            name: "fairlead/node:latest",
            files: vec![
                (bin.join("fairlead-node"), "usr/bin/fairlead-node"),
                (bin.join("fairlead-cni"), "usr/bin/fairlead-cni"),
                (object.into(), "usr/lib/fairlead/programs.o"),
            ],
            applets: false,
            changes: &[r#"ENTRYPOINT ["/usr/bin/fairlead-node"]"#],
        },
        Image {
            name: "fairlead/pause:latest",
            files: vec![(bin.join("pause"), "pause")],
            applets: false,
            changes: &[r#"ENTRYPOINT ["/pause"]"#],
        },
        Image {
            name: "fairlead/toolbox:latest",
            files: vec![(bin.join("toolbox"), "usr/bin/toolbox"), ("/bin/busybox".into(), "bin/busybox")],
            applets: true,
            changes: &["ENV PATH=/usr/bin:/bin", r#"CMD ["/usr/bin/toolbox","serve"]"#],
        },
    ]
}

impl Image {
    /// A number that changes with any byte of the image; it detects change, it proves nothing.
    fn content(&self) -> anyhow::Result<String> {
        let mut hash = DefaultHasher::new();
        for (source, path) in &self.files {
            hash.write(path.as_bytes());
            hash.write(&fs::read(source).with_context(|| format!("reading {}", source.display()))?);
        }
        self.changes.iter().for_each(|change| hash.write(change.as_bytes()));
        Ok(format!("{:016x}", hash.finish()))
    }

    fn load(&self, content: &str) -> anyhow::Result<()> {
        let root = std::env::temp_dir().join(format!("fairlead-image-{}", std::process::id()));
        let made = self.lay_out(&root).and_then(|()| self.import(&root, content));
        // The folder is ours alone; what is left of it would only take room.
        let _ = fs::remove_dir_all(&root);
        made
    }

    fn lay_out(&self, root: &Path) -> anyhow::Result<()> {
        for (source, path) in &self.files {
            let target = root.join(path);
            fs::create_dir_all(target.parent().unwrap_or(root))?;
            fs::copy(source, &target).with_context(|| format!("copying {}", source.display()))?;
            let mode = if path.starts_with("usr/lib") { 0o644 } else { 0o755 };
            fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
        }
        for dir in ["tmp", "etc", "proc", "sys", "dev"] {
            fs::create_dir_all(root.join(dir))?;
        }
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        if self.applets {
            for applet in sh(&["/bin/busybox", "--list"])?.lines().filter(|a| *a != "busybox") {
                std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
            }
        }
        Ok(())
    }

    fn import(&self, root: &Path, content: &str) -> anyhow::Result<()> {
        let archive = root.with_extension("tar");
        let packed = output(
            command(&["tar", "--owner=0", "--group=0", "-cf"]).arg(&archive).arg("-C").arg(root).arg("."),
        );
        let sent = packed.and_then(|_| {
            let mut import =
                command(&["docker", "import", "--change", &format!("LABEL fairlead.io/content={content}")]);
            for change in self.changes {
                import.args(["--change", change]);
            }
            feed(import.args(["-", self.name]), &fs::read(&archive)?)
        });
        let _ = fs::remove_file(&archive);
        sent.map(|_| ())
    }
}

fn loaded(name: &str) -> anyhow::Result<Option<String>> {
    let list = sh(&["docker", "images", "-q", name])?;
    if list.trim().is_empty() {
        return Ok(None);
    }
    let label = sh(&[
        "docker",
        "image",
        "inspect",
        "--format",
        r#"{{index .Config.Labels "fairlead.io/content"}}"#,
        name,
    ])?;
    Ok(Some(label.trim().to_owned()))
}
