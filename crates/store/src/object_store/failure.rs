//! From what a service answers to what the caller is told.

use std::error::Error as StdError;

use opendal::ErrorKind;

use super::transport;
use crate::Error;
use crate::operation::Operation;

/// How much of a service's answer is kept for the message.
const REASON_CHARS_MAX: usize = 300;

/// Codes of S3 and its kin that speak of the caller's identity.
const IDENTITY_CODES: [&str; 15] = [
    "ExpiredToken",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "TokenRefreshRequired",
    "RequestTimeTooSkewed",
    "AuthenticationFailed",
    "InvalidSecurity",
    "AuthorizationHeaderMalformed",
    "NotSignedUp",
    // Azure, where it is not AuthenticationFailed.
    "AuthorizationFailure",
    "InvalidAuthenticationInfo",
    "KeyBasedAuthenticationNotPermitted",
    // OSS, of keys that were lent for a time.
    "SecurityTokenExpired",
    "InvalidSecurityToken",
];
/// Codes that say that something broke on the way.
const BROKEN_CODES: [&str; 5] =
    ["BadDigest", "IncompleteBody", "RequestTimeout", "SlowDown", "ConditionalRequestConflict"];
const FULL_CODES: [&str; 3] = ["QuotaExceeded", "InsufficientStorage", "StorageFull"];
/// What opendal says of answers that were cut on their way: a listing that is no XML or no JSON, content of another length
/// than the head has said, and an upload of which the service says another length than was sent.
const CUT_MESSAGES: [&str; 7] = [
    "deserialize xml",
    "deserialize json",
    "reader got too little data",
    "reader got too much data",
    "reader got unexpected data size",
    "writer got too little data",
    "writer got too much data",
];
/// How Azure, Google, and OSS, COS and OBS say that the container or the bucket is missing, and not only the file. With
/// the name of the field around it, since COS and OBS also say which file was asked for.
const NO_BUCKET_MESSAGES: [&str; 3] =
    ["ContainerNotFound", "The specified bucket does not exist", "code: \"NoSuchBucket\""];
/// Objects in an archive class, which has to be asked to bring them back before they are read.
const ARCHIVED_CODES: [&str; 2] = ["InvalidObjectState", "BlobArchived"];

/// Whether it is the container or the bucket that is not there. By the kind of the error alone it looks like a vault
/// that is empty.
pub(super) fn is_without_bucket(error: &opendal::Error) -> bool {
    error.kind() == ErrorKind::NotFound && NO_BUCKET_MESSAGES.iter().any(|text| error.message().contains(text))
}

impl Operation<'_> {
    pub(super) fn failure(&self, error: &opendal::Error) -> Error {
        let reason = reason(error);
        // The answers are XML or JSON, kept as text by opendal: the codes are words of their own in it.
        let says = |codes: &[&str]| {
            let words = || error.message().split(|character: char| !character.is_ascii_alphanumeric());
            codes.iter().any(|code| words().any(|word| word == *code))
        };
        let (location, file_type, name) = (self.location.to_string(), self.file_type, self.name.to_string());
        let signing_failed = error.kind() != ErrorKind::NotFound && error.message().contains("credential");
        match error.kind() {
            _ if error.message() == transport::UNAUTHORIZED || says(&IDENTITY_CODES) => {
                self.refused_credentials(&reason)
            }
            _ if error.message() == transport::FULL || says(&FULL_CODES) => Error::Full { location, file_type, name },
            _ if says(&ARCHIVED_CODES) => Error::Frozen { location, file_type, name },
            _ if says(&BROKEN_CODES) || error.is_temporary() => self.unreachable(reason),
            _ if CUT_MESSAGES.contains(&error.message()) => self.unreachable(reason),
            ErrorKind::NotFound if is_without_bucket(error) => {
                let reason = format!("the container or bucket is not there: see its name, or make it first ({reason})");
                Error::Unauthorized { location, reason }
            }
            ErrorKind::NotFound => Error::NotFound { location, file_type, name },
            ErrorKind::RateLimited | ErrorKind::Conflict => self.unreachable(reason),
            ErrorKind::RangeNotSatisfied => self.damaged("it is shorter than it should be".into()),
            ErrorKind::ConfigInvalid => Error::Unauthorized { location, reason },
            _ if signing_failed => Error::Unauthorized { location, reason },
            _ => self.denied(reason),
        }
    }
}

/// An upload that arrived with another size than it was sent with; it may be tried again.
pub(super) fn wrong_size(size_bytes: u64, expected: usize) -> opendal::Error {
    let message = format!("{size_bytes} of {expected} bytes have arrived");
    opendal::Error::new(ErrorKind::Unexpected, message).set_temporary()
}

/// The message alone: opendal's context repeats the whole request and answer.
fn reason(error: &opendal::Error) -> String {
    let mut text = error.message().to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    let printable = text.chars().map(|character| if character.is_control() { ' ' } else { character });
    let mut text: String = printable.take(REASON_CHARS_MAX).collect();
    if text.trim().is_empty() {
        text = error.kind().to_string();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FileType;

    #[test]
    fn answers_are_told_apart() {
        let operation =
            Operation { location: "s3:https://host/bucket", action: "write", file_type: FileType::Data, name: "x" };
        let check = |kind: ErrorKind, message: &str, expected: &str| {
            let error = operation.failure(&opendal::Error::new(kind, message));
            assert!(format!("{error:?}").starts_with(expected), "{message}: {error:?}");
        };
        check(ErrorKind::PermissionDenied, "S3Error { code: \"AccessDenied\", message: \"\" }", "Denied");
        check(ErrorKind::PermissionDenied, "S3Error { code: \"SignatureDoesNotMatch\" }", "Unauthorized");
        check(ErrorKind::Unexpected, "S3Error { code: \"ExpiredToken\" }", "Unauthorized");
        check(ErrorKind::PermissionDenied, "S3Error { code: \"QuotaExceeded\" }", "Full");
        check(ErrorKind::Unexpected, "S3Error { code: \"BadDigest\" }", "Unreachable");
        check(ErrorKind::Unexpected, "deserialize xml", "Unreachable");
        check(ErrorKind::Unexpected, "deserialize json", "Unreachable");
        check(ErrorKind::PermissionDenied, "AzblobError { code: \"AuthorizationFailure\" }", "Unauthorized");
        check(ErrorKind::PermissionDenied, "AzblobError { code: \"AuthorizationPermissionMismatch\" }", "Denied");
        check(ErrorKind::NotFound, "AzblobError { code: \"ContainerNotFound\" }", "Unauthorized");
        check(ErrorKind::NotFound, "AzblobError { code: \"BlobNotFound\" }", "NotFound");
        check(ErrorKind::NotFound, "OssError { code: \"NoSuchBucket\", message: \"\" }", "Unauthorized");
        check(ErrorKind::NotFound, "CosError { code: \"NoSuchBucket\", resource: \"/config\" }", "Unauthorized");
        check(ErrorKind::NotFound, "ObsError { code: \"NoSuchKey\", resource: \"/NoSuchBucket/x\" }", "NotFound");
        check(ErrorKind::RateLimited, "S3Error { code: \"SlowDown\" }", "Unreachable");
        check(ErrorKind::NotFound, "S3Error { code: \"NoSuchKey\" }", "NotFound");
        check(ErrorKind::ConfigInvalid, "S3Error { code: \"NoSuchBucket\" }", "Unauthorized");
        check(ErrorKind::PermissionDenied, "<Error><Code>InvalidObjectState</Code></Error>", "Frozen");
        // Azure answers 409, which opendal takes for an unexpected error.
        check(ErrorKind::Unexpected, "AzblobError { code: \"BlobArchived\", message: \"\" }", "Frozen");
        check(ErrorKind::Conflict, "AzblobError { code: \"BlobArchived\", message: \"\" }", "Frozen");
        check(ErrorKind::Unexpected, "AzblobError { code: \"BlobArchivedNot\" }", "Denied");
        check(ErrorKind::Unexpected, transport::FULL, "Full");
        check(ErrorKind::RateLimited, transport::TOO_MUCH, "Unreachable");
        check(ErrorKind::Unexpected, transport::UNAUTHORIZED, "Unauthorized");
        // As `transport` says it of a proxy.
        check(ErrorKind::ConfigInvalid, "the proxy http://proxy:80 asks for a user and a password", "Unauthorized");
        let temporary = operation.failure(&wrong_size(3, 4));
        assert!(matches!(temporary, Error::Unreachable { .. }), "{temporary:?}");
    }
}
