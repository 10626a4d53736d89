#![no_main]
//! Label and field selectors: what is parsed is printed, and what is printed is parsed as the same.

use fairlead_api::{
    decode, kinds,
    selector::{FieldSelector, LabelSelector},
};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

fuzz_target!(|data: &[u8]| {
    if let Ok(decoded) = decode::json(data)
        && let Ok(selector) = LabelSelector::from_object(&decoded.value)
    {
        printed(&selector);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(selector) = LabelSelector::parse(text) {
        printed(&selector);
    }
    for kind in kinds::REGISTRY {
        if let Ok(selector) = FieldSelector::parse(kind, text) {
            let _ = selector.matches(kind, &json!({"metadata": {"name": "a", "namespace": "b"}}));
            let _ = (selector.name(), selector.is_empty());
        }
    }
});

fn printed(selector: &LabelSelector) {
    let labels = json!({"a": "b", "app": "web", "x/y": "1"});
    let text = selector.to_string();
    let _ = selector.matches(&labels);
    if selector.is_empty() || text.is_empty() {
        return;
    }
    let again = LabelSelector::parse(&text).unwrap_or_else(|words| panic!("{text:?}: {words}"));
    assert_eq!(
        again.to_string(),
        LabelSelector::parse(&again.to_string()).map(|s| s.to_string()).unwrap_or_default()
    );
    assert_eq!(selector.matches(&labels), again.matches(&labels), "{text:?}");
}
