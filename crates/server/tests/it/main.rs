//! The server as agents and operators see it: over the wire and through `Control`.

mod accepted;
mod adopt;
mod agent;
mod copies;
mod fixture;
mod held;
mod kills;
mod last_contact;
mod protect;
mod removal;
mod runs;
mod tokens;
