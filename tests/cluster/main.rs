//! A whole cluster as its administrator meets it: an unmodified kubectl, real containers, real packets.
//!
//! `cargo xtask test cluster` starts the cluster and names it in FAIRLEAD_CLUSTER; `FAIRLEAD_CLUSTER=fairlead cargo
//! test -p fairlead-tests --test cluster` uses the one that `cargo xtask up` made.

mod bad_input;
mod dns;
mod dual_stack;
mod harness;
mod kubectl;
mod load_balancer;
mod mixed;
mod outside;
mod plane;
mod policy;
mod recovery;
mod services;
mod system;
