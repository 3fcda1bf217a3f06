//! Real servers for tests, measurements and the demo: PostgreSQL clusters, stock restic, network
//! namespaces, and Levee's own server and agents, each in its own folder and on its own ports.
//!
//! This is a harness, so it panics, with a message that says what it was doing: a test has nothing
//! better to do when its own set-up fails. Everything that it starts ends when its value is dropped.

use std::io::Write;

pub mod apt;
pub mod azurite;
mod cache;
pub mod ceph;
pub mod clouds;
pub mod disk;
mod emulator;
pub mod front;
pub mod gcs;
pub mod glacier;
pub mod image;
pub mod levee;
pub mod listening;
pub mod netns;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod random;
pub mod restic;
pub mod rows;
pub mod rustic;
pub mod site;
pub mod sshd;
pub mod tools;
pub mod users;
pub mod wait;
pub mod webdav;

pub use cache::folder as cache_folder;
pub use ports::free_port;
pub use process::Child;
pub use site::TempSite;
pub use wait::wait_for;

/// Set to `1` to let a test pass over what can only be downloaded (see `restic::Restic::newest`).
pub const OFFLINE_VARIABLE: &str = "LEVEE_TESTS_OFFLINE";

/// A file to which each test that this machine has no means for adds a line.
pub const LEFT_OUT_VARIABLE: &str = "LEVEE_TESTS_LEFT_OUT";

/// Says that the running test, or a part of it, is left out. A test's own output is not shown while it passes, so
/// `cargo xtask test` lists these lines at its end: what was not tried must not look as if it had passed.
pub fn leave_out(why: &str) {
    let test = std::thread::current().name().unwrap_or("?").to_string();
    eprintln!("left out: {why}");
    let Some(path) = std::env::var_os(LEFT_OUT_VARIABLE) else { return };
    let file = std::fs::File::options().create(true).append(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(format!("{test}: {why}\n").as_bytes()));
    written.unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}

/// Whether this run was told that there is no network.
pub fn is_offline() -> bool {
    std::env::var(OFFLINE_VARIABLE).is_ok_and(|value| value == "1")
}
