//! The CNI plugin of Fairlead. A runtime starts it with `CNI_*` variables and a configuration on standard input.

use std::{
    collections::HashMap,
    io::{Read, Write},
    process::ExitCode,
};

use fairlead_cni::{
    plugin,
    spec::{Code, Failure, MAX_CONFIG},
};

fn main() -> ExitCode {
    // Variables that are not UTF-8 cannot be meant for us; leaving them out makes them "not set".
    let environment: HashMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut input = Vec::new();
    let outcome = std::io::stdin()
        .take(MAX_CONFIG)
        .read_to_end(&mut input)
        .map_err(|error| Failure::new(Code::Io, format!("reading the configuration: {error}")))
        .and_then(|_| plugin::execute(&environment, &input));
    let (text, code) = match outcome {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(failure) => {
            let version = serde_json::from_slice::<serde_json::Value>(&input)
                .ok()
                .and_then(|config| config["cniVersion"].as_str().map(str::to_owned))
                .unwrap_or_default();
            (failure.to_json(&version), ExitCode::FAILURE)
        }
    };
    if std::io::stdout().write_all(text.as_bytes()).is_err() {
        return ExitCode::FAILURE;
    }
    code
}
