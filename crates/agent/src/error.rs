use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use levee_model::{AgentId, SiteName};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an agent cannot join or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {doing} {}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is in use by another agent process: stop that one first", folder.display())]
    FolderInUse { folder: PathBuf },
    #[error("there is no agent in {}: run `levee agent join` with a token first", folder.display())]
    NotJoined { folder: PathBuf },
    #[error(
        "{} already belongs to agent {agent} of site {site}: use another folder, or join again as that agent and site",
        folder.display()
    )]
    OtherAgent { folder: PathBuf, agent: AgentId, site: SiteName },
    #[error(
        "{} belongs to another Levee, whose authority is {known}, and the token is of {offered}: use another folder",
        folder.display()
    )]
    OtherAuthority { folder: PathBuf, known: String, offered: String },
    #[error("the token is bound to no site: say which one with --site")]
    NoSite,
    #[error("the token names no server")]
    NoServer,
    #[error("cannot join the server")]
    Join(#[source] levee_wire::Error),
    #[error("the agent's certificate or key cannot be used")]
    Identity(#[source] levee_wire::Error),
    #[error("cannot listen for {what} at {address}")]
    Listen { what: &'static str, address: SocketAddr, source: io::Error },
    #[error("the agent listens at every address ({address}): say with --advertise at which one others reach it")]
    NoAdvertise { address: IpAddr },
    #[error("cannot serve {what}")]
    Serve { what: &'static str, source: levee_wire::Error },
    #[error("the DNS node cannot run")]
    Dns(#[source] levee_traffic::TrafficError),
    #[error("cannot find the path of this program")]
    Program(#[source] io::Error),
    #[error("{name:?} is not a name for a secret: use 1 to 63 characters of a-z, 0-9, '-', '_' and '.'")]
    SecretName { name: String },
    #[error("there is no secret {name:?} on this agent: run `levee agent secret set {name}` here")]
    NoSecret { name: String },
    #[error("the secret {name:?} is not text in one line of at most 64 KiB")]
    SecretContent { name: String },
    #[error("cannot start a thread for the agent's apps")]
    Thread { source: io::Error },
    #[error("a part of the agent failed inside; its log says where")]
    Task { source: tokio::task::JoinError },
}
