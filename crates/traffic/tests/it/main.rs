//! A node on real sockets, asked by a client that is written here from RFC 1035 alone.

mod client;
mod node;
