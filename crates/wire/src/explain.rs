//! What a failed handshake or call means, in the operator's words.

use std::error::Error as StdError;
use std::io;

use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error as TlsError};

use crate::error::Error;
use crate::identity::CertificateFacts;
use crate::verifier::{OtherFingerprint, OtherSubject};

/// Who was dialled, where, by whom.
pub(crate) struct Dialled {
    pub peer: String,
    pub address: String,
    /// This process's own certificate; none while joining.
    pub own: Option<CertificateFacts>,
    pub now: Timestamp,
}

/// Makes the error of a failed handshake.
pub(crate) fn handshake(dialled: &Dialled, error: io::Error) -> Error {
    match find_tls(&error) {
        Some(tls) => match certificate(dialled, tls) {
            Some(known) => known,
            None => Error::Handshake { peer: dialled.peer.clone(), source: error },
        },
        None => Error::Handshake { peer: dialled.peer.clone(), source: error },
    }
}

fn certificate(dialled: &Dialled, tls: &TlsError) -> Option<Error> {
    let peer = dialled.peer.clone();
    Some(match tls {
        TlsError::InvalidCertificate(error) => match error {
            CertificateError::NotValidYetContext { time, not_before } => {
                Error::NotValidYet { peer, not_before: timestamp(*not_before)?, now: timestamp(*time)? }
            }
            CertificateError::ExpiredContext { time, not_after } => {
                Error::Expired { peer, not_after: timestamp(*not_after)?, now: timestamp(*time)? }
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Error::WrongAuthority { peer },
            CertificateError::Revoked => Error::Revoked { peer },
            CertificateError::Other(other) => {
                if let Some(other) = other.0.downcast_ref::<OtherSubject>() {
                    let (expected, found) = (other.expected.clone(), other.found.clone());
                    return Some(Error::OtherPeer { address: dialled.address.clone(), expected, found });
                }
                other.0.downcast_ref::<OtherFingerprint>()?;
                Error::WrongFingerprint { address: dialled.address.clone(), expected: String::new() }
            }
            _ => return None,
        },
        TlsError::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRevoked => Error::OwnCertificateRevoked,
            AlertDescription::UnknownCA => Error::OwnAuthorityUnknown { peer },
            AlertDescription::CertificateRequired => Error::CertificateRequired { peer },
            AlertDescription::CertificateExpired => {
                let own = dialled.own.as_ref()?;
                let (not_before, not_after) = (own.not_before, own.not_after);
                Error::OwnCertificateNotValidNow { peer, not_before, not_after, now: dialled.now }
            }
            _ => return None,
        },
        _ => return None,
    })
}

fn timestamp(time: UnixTime) -> Option<Timestamp> {
    Timestamp::from_second(time.as_secs().try_into().ok()?).ok()
}

fn find_tls(error: &io::Error) -> Option<&TlsError> {
    let mut next: Option<&(dyn StdError + 'static)> = error.get_ref().map(|inner| inner as _);
    while let Some(current) = next {
        if let Some(tls) = current.downcast_ref::<TlsError>() {
            return Some(tls);
        }
        next = match current.downcast_ref::<io::Error>() {
            Some(inner) => inner.get_ref().map(|inner| inner as _),
            None => current.source(),
        };
    }
    None
}

/// Makes the error of a call that did not succeed: a refusal with its reason, or the end of the connection.
pub(crate) fn call(peer: &str, status: tonic::Status) -> Error {
    use tonic::Code;
    match status.code() {
        Code::FailedPrecondition | Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument => {
            Error::Refused { message: status.message().to_owned() }
        }
        _ => Error::Disconnected { peer: peer.to_owned(), source: Box::new(status) },
    }
}

/// Why an agent cannot be reached, for an operator: who, where, and in plain words what the network said.
pub fn unreachable(peer: &dyn std::fmt::Display, address: &dyn std::fmt::Display, error: &Error) -> String {
    let why = match error {
        Error::Unreachable { source, .. } => source.to_string(),
        Error::TimedOut { seconds, .. } => format!("no answer within {seconds} s"),
        Error::Handshake { source, .. } => match find_tls(source) {
            Some(tls) => format!("no secure connection could be made: {tls}"),
            None => "the connection broke off before it was secure".into(),
        },
        Error::Disconnected { source, .. } => broke_off(source.as_ref()).into(),
        other => return chain(other),
    };
    format!("agent {peer} at {address} can't be reached: {why}")
}

/// What became of a connection that stood. The protocol's own words would tell an operator nothing.
fn broke_off(status: &tonic::Status) -> &'static str {
    let mut next: Option<&(dyn StdError + 'static)> = status.source();
    while let Some(current) = next {
        if let Some(error) = current.downcast_ref::<io::Error>() {
            return match error.kind() {
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "the connection was reset",
                io::ErrorKind::UnexpectedEof => "the other side closed the connection",
                io::ErrorKind::TimedOut => "it no longer answers",
                _ => "the connection broke off",
            };
        }
        if current.to_string().contains("keep-alive timed out") {
            return "it no longer answers";
        }
        next = current.source();
    }
    "the connection broke off"
}

/// An error and all that caused it, in one line.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
