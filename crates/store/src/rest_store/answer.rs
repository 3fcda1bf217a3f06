//! From what a server answers, or a connection dies of, to what the caller is told.

use std::error::Error as StdError;
use std::io::{self, Read};

use reqwest::StatusCode;
use reqwest::blocking::{RequestBuilder, Response};

use super::{REASON_BYTES_MAX, RestStore};
use crate::operation::Operation;
use crate::proxies::Hindrance;
use crate::{Error, Result};

impl Operation<'_> {
    /// Sends the request when the server has been left alone for as long as it wants; every answer but success is an error.
    pub(super) fn send(&self, store: &RestStore, request: RequestBuilder) -> Result<Response> {
        store.pause.wait();
        let response = request.send().map_err(|error| {
            let hindrance = store.proxies.hindrance(&error);
            // The URL may hold a password, and the location says where it was.
            self.unanswered(hindrance, &error.without_url())
        })?;
        store.pause.note(response.status(), response.headers());
        match response.status() {
            status if status.is_success() => Ok(response),
            // Without TLS a proxy's own answer comes in the place of the server's.
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Err(self.unauthorized(store.proxies.unauthorized(response.url())))
            }
            _ => Err(self.refusal(response)),
        }
    }

    /// The connection broke, or there was none.
    fn unanswered(&self, hindrance: Option<Hindrance>, error: &reqwest::Error) -> Error {
        let reason = match hindrance {
            Some(Hindrance::Unauthorized(reason)) => return self.unauthorized(reason),
            Some(Hindrance::Refused(reason)) => return self.unreachable(reason),
            Some(Hindrance::Broken(what)) => format!("{what}: {}", chain(error)),
            None => chain(error),
        };
        if is_refused_identity(error) { self.unauthorized(reason) } else { self.unreachable(reason) }
    }

    fn refusal(&self, response: Response) -> Error {
        let status = response.status();
        let mut text = Vec::new();
        // The status alone says enough when its text cannot be read.
        let _ = response.take(REASON_BYTES_MAX).read_to_end(&mut text);
        let text: String = String::from_utf8_lossy(&text).chars().filter(|c| !c.is_control()).collect();
        let reason = if text.trim().is_empty() { status.to_string() } else { text.trim().to_string() };
        let (location, name, file_type) = (self.location.to_string(), self.name.to_string(), self.file_type);
        match status {
            StatusCode::NOT_FOUND => Error::NotFound { location, file_type, name },
            StatusCode::UNAUTHORIZED => self.refused_credentials(&reason),
            StatusCode::INSUFFICIENT_STORAGE => Error::Full { location, file_type, name },
            StatusCode::RANGE_NOT_SATISFIABLE => self.damaged("it is shorter than it should be".into()),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::TOO_EARLY => {
                self.unreachable(reason)
            }
            status if status.is_server_error() => self.unreachable(reason),
            _ => self.denied(reason),
        }
    }

    fn unauthorized(&self, reason: String) -> Error {
        Error::Unauthorized { location: self.location.into(), reason }
    }
}

/// An error with everything that lies beneath it, in one line.
pub(super) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // Many wrappers repeat what they wrap.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

/// Whether one side did not accept the other's certificate: trying again will not change that.
fn is_refused_identity(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<rustls::Error>().is_some_and(is_about_identity) {
            return true;
        }
        // `source()` of an I/O error passes over the error that it holds.
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match held {
            Some(held) => Some(held as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    false
}

fn is_about_identity(error: &rustls::Error) -> bool {
    use rustls::{AlertDescription, Error::*};
    match error {
        InvalidCertificate(_) | InvalidCertRevocationList(_) | NoCertificatesPresented | UnsupportedNameType => true,
        AlertReceived(alert) => matches!(
            alert,
            AlertDescription::AccessDenied
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRequired
                | AlertDescription::UnknownCA
                | AlertDescription::DecryptError
        ),
        _ => false,
    }
}
