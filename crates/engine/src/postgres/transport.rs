use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::ClientConnection;

pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub(crate) fn set_timeouts(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => {
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))
            }
            Socket::Unix(stream) => {
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))
            }
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(buffer),
            Socket::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(buffer),
            Socket::Unix(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

/// A socket, bare or under TLS.
pub(crate) struct Transport {
    pub(crate) socket: Socket,
    pub(crate) tls: Option<Box<ClientConnection>>,
}

/// What ended a wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    Readable,
    Woken,
    TimedOut,
}

impl Transport {
    pub(crate) fn is_private(&self) -> bool {
        self.tls.is_some() || matches!(self.socket, Socket::Unix(_))
    }

    /// Does the TLS handshake, so that its errors are not taken for those of the first read.
    pub(crate) fn handshake(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.is_handshaking() {
            tls.complete_io(&mut self.socket)?;
        }
        Ok(())
    }

    /// Reads what is there, waiting for the first byte; 0 at the end. The socket's own time-out applies.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return retrying(|| self.socket.read(buffer)) };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A peer that closes the socket without the TLS goodbye, as PostgreSQL may.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if tls.wants_write() {
                tls.write_tls(&mut self.socket)?;
                continue;
            }
            retrying(|| tls.read_tls(&mut self.socket))?;
            tls.process_new_packets().map_err(io::Error::other)?;
        }
    }

    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return self.socket.write_all(bytes) };
        // The writer's own buffer is bounded, so larger messages go in parts.
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = tls.writer().write(rest)?;
            rest = &rest[taken..];
            while tls.wants_write() {
                retrying(|| tls.write_tls(&mut self.socket))?;
            }
        }
        Ok(())
    }

    /// Waits until there may be something to read, one of `wake` is readable, or the time is over. Bytes that are
    /// already decrypted count as readable: the socket would not tell of them.
    pub(crate) fn wait(&mut self, timeout: Duration, wake: &[BorrowedFd<'_>]) -> io::Result<Waited> {
        if let Some(tls) = &mut self.tls {
            let state = tls.process_new_packets().map_err(io::Error::other)?;
            if state.plaintext_bytes_to_read() > 0 || state.peer_has_closed() {
                return Ok(Waited::Readable);
            }
        }
        let timeout =
            Timespec { tv_sec: timeout.as_secs().min(i32::MAX as u64) as i64, tv_nsec: timeout.subsec_nanos().into() };
        let mut descriptors = Vec::with_capacity(1 + wake.len());
        descriptors.push(PollFd::new(&self.socket, PollFlags::IN));
        descriptors.extend(wake.iter().map(|descriptor| PollFd::from_borrowed_fd(*descriptor, PollFlags::IN)));
        match poll(&mut descriptors, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) | Ok(0) => return Ok(Waited::TimedOut),
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
        // The one who wakes has something to say to the server; the socket's bytes will still be there.
        if descriptors[1..].iter().any(|descriptor| !descriptor.revents().is_empty()) {
            return Ok(Waited::Woken);
        }
        // Half of a TLS record is nothing to read yet, and a link that breaks in it must not block the reader.
        if let Some(tls) = &mut self.tls {
            let read = retrying(|| tls.read_tls(&mut self.socket))?;
            let state = tls.process_new_packets().map_err(io::Error::other)?;
            if read > 0 && state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed() {
                return Ok(Waited::TimedOut);
            }
        }
        Ok(Waited::Readable)
    }
}

fn retrying<T>(mut operation: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match operation() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
