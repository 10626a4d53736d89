//! What the programs decide.
#![no_std]
