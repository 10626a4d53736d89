//! What was attached, on disk: DEL after a restart needs the very configuration and result of ADD.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One attachment of a sandbox to a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// Format of the file.
    pub kind: String,
    /// The sandbox.
    pub container_id: String,
    /// Its interface.
    pub if_name: String,
    /// The network's name.
    pub network_name: String,
    /// The configuration list it was added with.
    pub config: Value,
    /// `CNI_ARGS` of ADD.
    pub cni_args: String,
    /// Values for plugins with capabilities.
    pub capability_args: Value,
    /// Pod that it belongs to.
    pub pod_uid: String,
    /// The last plugin's result; absent while ADD is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
}

/// Value of [`Attachment::kind`].
pub const KIND: &str = "fairleadCniCacheV1";

/// The directory of attachments.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// A cache in `directory`, which is made on the first write.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_path_buf() }
    }

    fn path(&self, container: &str) -> PathBuf {
        // Docker's ids are hexadecimal; anything else cannot become a path.
        let safe: String = container.chars().filter(char::is_ascii_alphanumeric).collect();
        self.directory.join(format!("{safe}.json"))
    }

    /// Keeps an attachment; it is on disk when this returns.
    ///
    /// # Errors
    /// Fails when the directory cannot be written.
    pub fn store(&self, attachment: &Attachment) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let path = self.path(&attachment.container_id);
        let temporary = path.with_extension("tmp");
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(attachment)?)?;
        file.sync_data()?;
        std::fs::rename(temporary, path)
    }

    /// The attachment of a sandbox.
    #[must_use]
    pub fn load(&self, container: &str) -> Option<Attachment> {
        let text = std::fs::read(self.path(container)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Forgets an attachment.
    pub fn remove(&self, container: &str) {
        let path = self.path(container);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove CNI result");
        }
    }

    /// All attachments.
    #[must_use]
    pub fn all(&self) -> Vec<Attachment> {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return Vec::new() };
        let texts = entries.filter_map(|entry| std::fs::read(entry.ok()?.path()).ok());
        texts.filter_map(|text| serde_json::from_slice(&text).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn attachments_survive_in_files() {
        let directory = std::env::temp_dir().join(format!("cni-cache-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        let cache = Cache::new(&directory);
        assert_eq!(cache.all(), []);
        let attachment = Attachment {
            kind: KIND.to_owned(),
            container_id: "abc123".to_owned(),
            if_name: "eth0".to_owned(),
            network_name: "n".to_owned(),
            config: json!({"name": "n"}),
            cni_args: "K8S_POD_NAME=p".to_owned(),
            capability_args: json!({}),
            pod_uid: "u".to_owned(),
            result: None,
        };
        cache.store(&attachment).unwrap();
        let done = Attachment { result: Some(json!({"ips": []})), ..attachment };
        cache.store(&done).unwrap();
        assert_eq!(Cache::new(&directory).load("abc123"), Some(done.clone()));
        assert_eq!(cache.all(), [done]);
        assert_eq!(cache.load("../abc123x"), None);
        cache.remove("abc123");
        cache.remove("abc123");
        assert_eq!(cache.load("abc123"), None);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
