//! An agent as its server and its peers see it.

mod by_hand;
mod fencing;
mod joining;
mod repositories;
mod retention;
mod server;
mod taken_over;
mod working;
