//! The link between agents and server, over loopback.

mod certificates;
mod fleet;
mod grants;
mod join;
mod log;
mod repositories;
