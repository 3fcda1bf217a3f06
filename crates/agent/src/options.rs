//! How an agent is set up.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use levee_model::{AgentId, SiteName};

/// Where an agent listens by default.
pub const DEFAULT_WIRE_PORT: u16 = 7611;
pub const DEFAULT_STORE_PORT: u16 = 7612;
pub const DEFAULT_DNS_PORT: u16 = 7653;
/// More at once only share the disk and the link, and all of them end later.
pub const DEFAULT_COPIES_AT_ONCE: u8 = 2;

/// How an agent runs.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Everything that the agent keeps. Made when it does not exist.
    pub folder: PathBuf,
    /// `host:port` of the server, in the order in which they are tried. Empty: those that the join token named.
    pub servers: Vec<String>,
    pub listen: Listen,
    /// The address that peers are told; the listening address when it is not given.
    pub advertise: Option<IpAddr>,
    /// The `levee` program for commands that other programs run; the running one when it is not given.
    pub program: Option<PathBuf>,
    /// How many copies of folders and base backups are taken at once; the others wait in line.
    pub copies_at_once: u8,
}

/// Address and ports. Port 0 lets the system choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    pub address: IpAddr,
    /// Calls from other agents.
    pub wire_port: u16,
    /// Repositories.
    pub store_port: u16,
    /// DNS over UDP and TCP; `None` runs no DNS node.
    pub dns_port: Option<u16>,
}

impl Listen {
    /// The default ports at an address.
    pub fn at(address: IpAddr) -> Listen {
        Listen {
            address,
            wire_port: DEFAULT_WIRE_PORT,
            store_port: DEFAULT_STORE_PORT,
            dns_port: Some(DEFAULT_DNS_PORT),
        }
    }
}

/// As whom an agent joins.
#[derive(Clone, Debug)]
pub struct JoinAs {
    pub agent: AgentId,
    /// Needed when the token is bound to none.
    pub site: Option<SiteName>,
}

/// Where an agent is reached, with the real ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAddresses {
    pub wire: SocketAddr,
    pub store: SocketAddr,
    pub dns: Option<SocketAddr>,
}
