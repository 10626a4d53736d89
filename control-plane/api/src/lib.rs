//! What every kind of the Kubernetes API is: identity, schema, defaults, validation, strategy, printed columns; and
//! the pure machinery over it: patch, selectors, protobuf, OpenAPI, discovery. No IO.

pub mod field;
pub mod kind;
pub mod kinds;
pub mod pod;
pub mod table;
pub mod validate;
