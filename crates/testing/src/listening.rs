//! A server of a test's own, on a free port of this machine.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Serves each connection on a thread of its own, until it is dropped.
pub struct Listening {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    acceptor: Option<thread::JoinHandle<()>>,
}

impl Listening {
    pub fn start(serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let stopping = Arc::<AtomicBool>::default();
        let (stop, serve) = (stopping.clone(), Arc::new(serve));
        let acceptor = thread::spawn(move || {
            for client in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let serve = serve.clone();
                // A client that has gone away, or a connection that breaks, is nobody's loss.
                thread::spawn(move || client.and_then(|client| serve(client)));
            }
        });
        Self { address, stopping, acceptor: Some(acceptor) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        let _ = self.acceptor.take().map(thread::JoinHandle::join);
    }
}
