use std::io;
use std::path::PathBuf;

use jiff::Timestamp;
use levee_model::{AgentId, AppName, Epoch, InvalidName, SiteName};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between an agent, its server and its peers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {doing} {}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{what} is damaged or not what it should be: {why}")]
    Malformed { what: String, why: String },
    #[error("cannot make {what}")]
    Generate { what: &'static str, source: rcgen::Error },
    #[error("TLS cannot be set up with {what}")]
    TlsSetup { what: &'static str, source: rustls::Error },

    #[error("cannot reach {peer} at {address}")]
    Unreachable { peer: String, address: String, source: io::Error },
    #[error("{peer} at {address} did not answer within {seconds} s")]
    TimedOut { peer: String, address: String, seconds: u64 },
    #[error("the secure connection to {peer} failed")]
    Handshake { peer: String, source: io::Error },
    #[error("the connection to {peer} ended")]
    Disconnected { peer: String, source: Box<tonic::Status> },

    #[error(
        "the certificate of {peer} is valid only from {not_before}, and this machine's clock says {now}: \
         the two clocks differ by at least {}. Set both (for example by NTP) and try again", span(*now, *not_before)
    )]
    NotValidYet { peer: String, not_before: Timestamp, now: Timestamp },
    #[error(
        "the certificate of {peer} ended at {not_after}, and this machine's clock says {now}, {} later: \
         either this clock is ahead (set it, for example by NTP), or the certificate was not renewed in time \
         and {peer} has to join again", span(*not_after, *now)
    )]
    Expired { peer: String, not_after: Timestamp, now: Timestamp },
    #[error(
        "{peer} finds that this agent's certificate is not valid now. It is valid from {not_before} to {not_after}, and \
         this machine's clock says {now}: if that is inside, the clocks of the two machines differ (set both, for \
         example by NTP); if it is outside, join again with a new token"
    )]
    OwnCertificateNotValidNow { peer: String, not_before: Timestamp, not_after: Timestamp, now: Timestamp },
    #[error(
        "the clock of agent {agent} and that of the server differ by {}: set both (for example by NTP) and join again; \
         the token was not used up", span(*agent_now, *server_now)
    )]
    ClocksDiffer { agent: AgentId, agent_now: Timestamp, server_now: Timestamp },
    #[error(
        "{peer} does not belong to this Levee: its certificate is from another certificate authority. \
         Check the address, or join again with a token of the right server"
    )]
    WrongAuthority { peer: String },
    #[error(
        "{peer} does not know the certificate authority of this agent: it belongs to another Levee. \
         Check the address, or join again with a token of that server"
    )]
    OwnAuthorityUnknown { peer: String },
    #[error(
        "the server at {address} has another certificate authority than the token was made for \
         (the token says {expected}): somebody is in between, or the token is of another server"
    )]
    WrongFingerprint { address: String, expected: String },
    #[error("the certificate of {peer} has been revoked")]
    Revoked { peer: String },
    #[error(
        "this agent's certificate has been revoked: join with a new token, another name and another folder; what this one keeps stays there"
    )]
    OwnCertificateRevoked,
    #[error("{peer} asks for a client certificate, and none was accepted")]
    CertificateRequired { peer: String },
    #[error("{address} is not {expected}, but {found}")]
    OtherPeer { address: String, expected: String, found: String },

    #[error("{0:?} is not a join token: copy the whole text that `levee token create` printed, from `levee-join-` on")]
    NotAToken(String),
    #[error("the join token is unknown to this server, or was not copied whole")]
    UnknownToken,
    #[error("the join token was used already, by agent {by} at {at}: a token works once, ask for a new one")]
    UsedToken { by: AgentId, at: Timestamp },
    #[error("the join token expired at {at}: ask for a new one")]
    ExpiredToken { at: Timestamp },
    #[error("the join token is for site {bound}, not for site {asked}")]
    TokenOfOtherSite { bound: SiteName, asked: SiteName },

    #[error("the signature under the {what} is not the server's")]
    BadSignature { what: &'static str },
    #[error("the grant is for {granted}, not for {asked}")]
    NotGranted { granted: String, asked: String },
    #[error("{app} is at epoch {known} here, and the grant is of epoch {granted}: the sender's word is outdated")]
    StaleGrant { app: AppName, granted: Epoch, known: Epoch },
    #[error("{message}")]
    Refused { message: String },
    #[error("a name is not valid")]
    Name(#[from] InvalidName),
}

fn span(from: Timestamp, to: Timestamp) -> String {
    let seconds = from.as_second().abs_diff(to.as_second());
    let parts = [(seconds / 86400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "min"), (seconds % 60, "s")];
    let shown: Vec<String> =
        parts.iter().skip_while(|(n, _)| *n == 0).take(2).map(|(n, unit)| format!("{n} {unit}")).collect();
    if shown.is_empty() { "less than a second".into() } else { shown.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_names_its_two_largest_units() {
        let check = |seconds: i64, expected: &str| {
            let from = Timestamp::from_second(1_000_000).unwrap();
            let to = Timestamp::from_second(1_000_000 + seconds).unwrap();
            assert_eq!((span(from, to).as_str(), span(to, from).as_str()), (expected, expected));
        };
        check(0, "less than a second");
        check(59, "59 s");
        check(3600, "1 h 0 min");
        check(90_061, "1 d 1 h");
    }
}
