//! What every store behind a network agrees on: how long to wait, and how much to take.

use std::time::Duration;

use tokio::runtime::Runtime;

use crate::{Error, Result};

/// The largest file that is read whole: restic's own limit for an index or a tree is far below.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 30;
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer may leave sent bytes without any sign before the connection counts as dead.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(30);
/// What a request may take beyond moving its bytes: the server syncs before it answers.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a peer may leave a connection that stands without the beginning of its answer, or without more of it. Nothing else
/// notices one that takes requests and never answers. A server looks through a folder of millions of files before it begins.
pub(crate) const ANSWER_SILENCE_MAX: Duration = Duration::from_secs(5 * 60);
/// The slowest link on which moving bytes counts as progress.
const BYTES_PER_SECOND_MIN: u64 = 32 << 10;
/// Enough for every thread that uploads or reads at once.
pub(crate) const IDLE_CONNECTIONS_MAX: usize = 16;
/// Threads that move bytes; callers wait on their own.
const RUNTIME_THREADS: usize = 2;

pub(crate) fn time_for(bytes: u64) -> Duration {
    ANSWER_TIMEOUT + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN)
}

/// The private runtime of a store. It must be neither made nor dropped on a thread of another runtime.
pub(crate) fn start_runtime(location: &str) -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .thread_name("store")
        .enable_all()
        .build()
        .map_err(|error| Error::Unauthorized { location: location.into(), reason: format!("no threads: {error}") })
}

/// A server that takes every request, says this much and nothing more, and keeps the connection.
#[cfg(test)]
pub(crate) mod silent {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};
    use std::thread;
    use std::time::Duration;

    pub const PATIENCE: Duration = Duration::from_millis(300);

    pub fn server(said: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let mut kept = Vec::new();
            while let Ok((mut client, _)) = listener.accept() {
                // What comes before a request is no answer to it.
                let _ = client.read(&mut [0; 1024]);
                client.write_all(said.as_bytes()).unwrap();
                kept.push(client);
            }
        });
        address
    }
}
