//! What pods share wherever they stand: defaults, quality of service, the printed row.

pub mod defaults;
mod dump;
pub mod printer;
pub mod qos;
pub mod update;
