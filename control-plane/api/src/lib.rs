//! What every kind of the Kubernetes API is: identity, schema, defaults, validation, strategy, printed columns; and
//! the pure machinery over it: patch, selectors, protobuf, OpenAPI, discovery. No IO.

pub mod apply;
pub mod decode;
pub mod discovery;
pub mod encode;
pub mod field;
pub mod kind;
pub mod kinds;
pub mod meta;
pub mod openapi;
pub mod patch;
pub mod pod;
pub mod proto;
pub mod registry;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod validate;
pub mod yaml;
