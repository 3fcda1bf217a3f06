use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::{ConnectOptions, Host};
use crate::postgres::transport::Socket;

/// A peer that has vanished is noticed within about 30 s: idle 10 s, then 4 probes 5 s apart.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 4;
/// Unacknowledged data fail the connection after this time, as keepalive does not while data are in flight.
const USER_TIMEOUT_MS: u32 = 30_000;

pub(crate) fn dial(options: &ConnectOptions) -> io::Result<Socket> {
    match &options.host {
        // A Unix socket answers at once or is full; it knows no time-out for connecting.
        Host::Unix(folder) => UnixStream::connect(folder.join(format!(".s.PGSQL.{}", options.port))).map(Socket::Unix),
        Host::Tcp(host) => dial_tcp(host, options.port, options.connect_timeout).map(Socket::Tcp),
    }
}

fn dial_tcp(host: &str, port: u16, timeout: Duration) -> io::Result<TcpStream> {
    let deadline = Instant::now() + timeout;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
                rustix::net::sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE)?;
                rustix::net::sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL)?;
                rustix::net::sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_PROBES)?;
                rustix::net::sockopt::set_tcp_user_timeout(&stream, USER_TIMEOUT_MS)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
