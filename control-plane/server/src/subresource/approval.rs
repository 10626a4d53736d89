//! `certificatesigningrequests/approval`: only conditions can be written.

use serde_json::Value;

/// What a write through `/approval` changes of `old`: its conditions, and the metadata that every write may change.
pub fn prepare(new: &mut Value, old: &Value) {
    let conditions = new["status"]["conditions"].take();
    new["spec"] = old["spec"].clone();
    new["status"] = old["status"].clone();
    match (conditions, new["status"].as_object_mut()) {
        (Value::Null, Some(status)) => {
            status.remove("conditions");
        }
        (Value::Null, None) => {}
        (conditions, _) => new["status"]["conditions"] = conditions,
    }
}
