//! The authenticated link between agents and their server, and from agent to agent.
//!
//! - Who is who: `CertificateAuthority` (on the server), `JoinToken`, `AgentKey`, `Identity`, `PeerIdentity`;
//!   `Credentials` holds what a process proves itself with and judges others by.
//! - The server's side: `server::serve` with a `ServerCalls`; an agent's: `agent::serve` with an `AgentCalls`.
//! - The dialling side: `join`, `ServerClient`, `AgentClient`.
//! - Repositories: `https::serve`.
//!
//! A certificate says who somebody is and authorizes nothing; grants do (`GrantKey::authorize`).

pub mod agent;
mod ca;
mod credentials;
mod dial;
mod error;
mod explain;
mod grant;
pub mod https;
mod identity;
mod listen;
pub mod log;
pub mod private_file;
mod revocation;
pub mod server;
mod token;
mod verifier;

pub use agent::{AgentClient, CreateVaultRequest, Exchange};
pub use ca::{BACKDATED, CERTIFICATE_VALID, CertificateAuthority, Fingerprint, Issued};
pub use credentials::{ClientCertificate, Credentials, Expected, Protocol};
pub use error::{Error, Result};
pub use explain::{chain, unreachable};
pub use grant::{GrantKey, GrantSigner};
pub use identity::{
    AgentKey, CertificateFacts, Identity, PeerIdentity, SERVER_NAME, Subject, agent_host_name, certificates_from_pem,
    certificates_to_pem,
};
pub use revocation::Revocations;
pub use server::{FromAgent, FromServer, JoinAnswer, JoinRequest, ServerClient, join};
pub use token::{JoinToken, TokenRecord, TokenUse};

mod proto {
    #![allow(unused_qualifications)]
    tonic::include_proto!("levee.wire.v1");
}
