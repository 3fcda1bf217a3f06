//! The server as agents and operators see it: over the wire and through `Control`.

mod agent;
mod fixture;
mod kills;
mod protect;
mod runs;
mod tokens;
