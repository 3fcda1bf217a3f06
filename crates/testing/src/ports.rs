//! Ports that no other test of this machine is about to take.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::Mutex;

/// Below the kernel's range for outgoing connections, so that no client takes a port between its
/// choice and its use.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// Locks on the chosen ports, kept until this process ends: a server that is stopped and started
/// again by its test must find its port free.
static RESERVED: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A port that is free on 127.0.0.1, over TCP and UDP, and stays reserved against other users of this harness.
pub fn free_port() -> u16 {
    free_port_on(&[IpAddr::V4(Ipv4Addr::LOCALHOST)])
}

/// A port that is free on all of these addresses.
pub fn free_port_on(addresses: &[IpAddr]) -> u16 {
    let folder = lock_folder();
    let start = start_of_search();
    for offset in 0..COUNT {
        let port = FIRST + (start + offset) % COUNT;
        let Ok(lock) = File::create(folder.join(port.to_string())) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        let free =
            |address: &IpAddr| TcpListener::bind((*address, port)).is_ok() && UdpSocket::bind((*address, port)).is_ok();
        if addresses.iter().all(free) {
            RESERVED.lock().expect("no thread panics while it holds this lock").push(lock);
            return port;
        }
    }
    panic!("all ports from {FIRST} to {} are taken on {addresses:?}", FIRST + COUNT - 1);
}

fn lock_folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("levee-test-ports-{}", rustix::process::geteuid().as_raw()));
    std::fs::create_dir_all(&folder)
        .unwrap_or_else(|error| panic!("cannot make the folder {}: {error}", folder.display()));
    folder
}

/// Spreads the processes of a test run over the range.
fn start_of_search() -> u16 {
    (std::process::id().wrapping_mul(97) % u32::from(COUNT)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_out_once() {
        let first = free_port();
        let second = free_port();
        assert_ne!(first, second);
        TcpListener::bind(("127.0.0.1", first)).unwrap();
    }
}
