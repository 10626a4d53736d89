//! The programs on packets: maps and a packet go in; verdict, bytes and counters come out of the kernel.
//!
//! What `BPF_PROG_TEST_RUN` cannot give a program (tunnel metadata, sockets) is given to the same functions on
//! the host instead; see `host`.

mod announce;
mod balance;
mod cost;
mod direct;
mod flows;
mod fragments;
mod harness;
mod host;
mod hostile;
mod icmp;
mod ipv6;
mod masquerade;
mod nodeport;
mod overlay;
mod packet;
mod policy;
mod rates;
mod reasons;
mod sctp;
mod services;
mod sockets;
mod splice;
mod xdp;
