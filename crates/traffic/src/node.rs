use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::answer::{Transport, answer};
use crate::{Records, SiteView, TrafficError};

/// Connections over TCP that are open at once. More wait in the system's queue: TCP only serves
/// answers that were cut, and a node's answers hardly ever are.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may take over one question before it is closed.
const QUESTION_TIME_MAX: Duration = Duration::from_secs(5);
/// Questions on one connection, so that no client can hold one for ever.
const QUESTIONS_PER_CONNECTION_MAX: usize = 100;
/// How often a free port is looked for that UDP and TCP can share, when the system may choose it.
const PORT_ATTEMPTS_MAX: usize = 20;

/// An authoritative DNS node on UDP and TCP.
#[derive(Debug)]
pub struct DnsNode {
    address: SocketAddr,
    udp: UdpSocket,
    tcp: TcpListener,
    records: Records,
    view: SiteView,
}

impl DnsNode {
    /// Listens on UDP and TCP at the same address. With port 0 the system chooses one.
    pub async fn bind(address: SocketAddr, records: Records, view: SiteView) -> Result<Self, TrafficError> {
        let failed = |protocol| move |source| TrafficError::Bind { address, protocol, source };
        let mut attempt = 1;
        loop {
            let udp = UdpSocket::bind(address).await.map_err(failed("UDP"))?;
            let bound = udp.local_addr().map_err(failed("UDP"))?;
            match TcpListener::bind(bound).await {
                Ok(tcp) => return Ok(Self { address: bound, udp, tcp, records, view }),
                // Another process may hold the chosen port for TCP alone.
                Err(_) if address.port() == 0 && attempt < PORT_ATTEMPTS_MAX => attempt += 1,
                Err(source) => return Err(failed("TCP")(source)),
            }
        }
    }

    /// Where it listens.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` is over; open connections are then closed.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let Self { address, udp, tcp, records, view } = self;
        tracing::info!(%address, "answering DNS");
        tokio::select! {
            () = serve_udp(&udp, &records, &view) => {}
            () = serve_tcp(&tcp, &records, &view) => {}
            () = shutdown => {}
        }
    }
}

async fn serve_udp(socket: &UdpSocket, records: &Records, view: &SiteView) {
    // No question over UDP is longer; the rest of a longer packet is dropped, and it is malformed.
    let mut packet = [0; 4096];
    loop {
        // Errors here are those of single packets: a port unreachable, a queue that is full.
        let Ok((length, from)) = socket.recv_from(&mut packet).await else {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        if let Some(bytes) = answer(&packet[..length], Transport::Udp, &records.current(), view)
            && let Err(error) = socket.send_to(&bytes, from).await
        {
            tracing::debug!(%from, %error, "a DNS answer could not be sent");
        }
    }
}

async fn serve_tcp(listener: &TcpListener, records: &Records, view: &SiteView) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Dropped, and with it every connection, when the node is shut down.
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a DNS connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (records, view) = (records.clone(), view.clone());
        connections.spawn(async move {
            let _place = place;
            if let Err(error) = serve_connection(stream, &records, &view).await {
                tracing::debug!(%from, %error, "a DNS connection ended");
            }
        });
    }
}

/// Each message is preceded by its length in two bytes (RFC 1035, 4.2.2).
async fn serve_connection(mut stream: TcpStream, records: &Records, view: &SiteView) -> std::io::Result<()> {
    for _ in 0..QUESTIONS_PER_CONNECTION_MAX {
        let one_question = async {
            let length = stream.read_u16().await?;
            let mut packet = vec![0; usize::from(length)];
            stream.read_exact(&mut packet).await?;
            let Some(bytes) = answer(&packet, Transport::Tcp, &records.current(), view) else {
                return Ok(false);
            };
            let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
            // One write, so that the answer leaves in one segment.
            let framed = [&length.to_be_bytes()[..], &bytes].concat();
            stream.write_all(&framed).await?;
            Ok::<_, std::io::Error>(true)
        };
        match tokio::time::timeout(QUESTION_TIME_MAX, one_question).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Ok(()),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}
