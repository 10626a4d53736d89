//! The machinery over kinds, by the table: each line is an input and the answer that upstream gives.

mod apply;
mod bodies;
mod documents;
mod patches;
mod schemas;
mod selectors;
mod statuses;
