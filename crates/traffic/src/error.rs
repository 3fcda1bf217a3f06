use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a DNS node cannot work.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    #[error(
        "cannot listen for DNS on {address} ({protocol}): choose another address or port, or stop what listens there"
    )]
    Bind { address: SocketAddr, protocol: &'static str, source: std::io::Error },
    #[error(
        "cannot {doing} the DNS records in {}: the node goes on with what it had; check the folder's owner and free space",
        path.display()
    )]
    File { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error(
        "the DNS records in {} are damaged: move the file away, and the node fetches its records again from the server or another node",
        path.display()
    )]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error("{name:?} is not a DNS name: correct the entry's name in the protection file")]
    Name { name: String, source: hickory_proto::ProtoError },
}
