//! What the emulators of the clouds' stores have in common: they are downloaded, and take a moment to listen.

use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::{Child, OFFLINE_VARIABLE, is_offline, leave_out, wait};

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The folder of an emulator. `None` only when the machine is offline by `LEVEE_TESTS_OFFLINE=1` and has it not yet.
#[track_caller]
pub(crate) fn downloaded(name: &str, installed: Result<PathBuf, String>) -> Option<PathBuf> {
    match installed {
        Ok(folder) => Some(folder),
        Err(message) if is_offline() => {
            leave_out(&format!("{name} is not to be had: {message}"));
            None
        }
        Err(message) => panic!("{name} is not to be had ({message}); set {OFFLINE_VARIABLE}=1 to test without it"),
    }
}

#[track_caller]
pub(crate) fn wait_until_it_listens(child: &Child, port: u16) {
    let listens = || TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(());
    if wait::poll(START_TIMEOUT, listens).is_none() {
        panic!("{} does not listen:\n{}", child.name(), child.log_tail(20));
    }
}
