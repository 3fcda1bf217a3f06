//! Where a vault lies, in restic's notation: `/srv/vault`, `rest:https://…`, `sftp:user@host:/srv/vault`,
//! `s3:https://host/bucket/path`, `azure:container:/path`, `gs:bucket:/path`; by analogy `oss:`, `cos:`, `obs:`
//! as `s3:`, and `webdav:` as `rest:`.

use std::fmt;
use std::path::PathBuf;

/// How a vault was named, and why it cannot be so. The text itself stays out of it: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a vault at {scheme}…: {reason}")]
pub struct InvalidAddress {
    pub scheme: String,
    pub reason: String,
}

type Result<T> = std::result::Result<T, InvalidAddress>;

/// A parsed address. It may hold a password in its URL, and so has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub enum Address {
    Folder(PathBuf),
    /// The URL of a restic REST server.
    Rest(String),
    /// The URL of a WebDAV folder.
    WebDav(String),
    Sftp(SftpAddress),
    S3(BucketAddress),
    Oss(BucketAddress),
    Cos(BucketAddress),
    Obs(BucketAddress),
    Azure(ContainerAddress),
    Gcs(ContainerAddress),
}

/// A folder behind an SSH server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SftpAddress {
    pub user: Option<String>,
    /// A host as `ssh` understands it: also a name from its configuration.
    pub host: String,
    pub port: Option<u16>,
    /// Absolute, or relative to where the server puts the user.
    pub path: String,
}

/// A place in a bucket of a service that is named by its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketAddress {
    /// `https://host` or `http://host`, with a port where one was given.
    pub endpoint: String,
    pub bucket: String,
    /// Without slashes at its ends; empty for the whole bucket.
    pub path: String,
}

/// A place in a container or bucket of a service that has one address for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerAddress {
    pub container: String,
    pub path: String,
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Folder(path) => formatter.debug_tuple("Folder").field(path).finish(),
            Address::Rest(_) => formatter.write_str("Rest(…)"),
            Address::WebDav(_) => formatter.write_str("WebDav(…)"),
            Address::Sftp(address) => formatter.debug_tuple("Sftp").field(address).finish(),
            Address::S3(bucket) | Address::Oss(bucket) | Address::Cos(bucket) | Address::Obs(bucket) => {
                formatter.debug_tuple("Bucket").field(bucket).finish()
            }
            Address::Azure(container) | Address::Gcs(container) => {
                formatter.debug_tuple("Container").field(container).finish()
            }
        }
    }
}

impl Address {
    /// The environment variables that a store of this kind is opened with, as restic and the services' own tools name
    /// them.
    pub fn variables(&self) -> &'static [&'static str] {
        match self {
            Address::Folder(_) | Address::Sftp(_) => &[],
            Address::Rest(_) => {
                &["LEVEE_REST_USERNAME", "LEVEE_REST_PASSWORD", "RESTIC_REST_USERNAME", "RESTIC_REST_PASSWORD"]
            }
            Address::WebDav(_) => &["LEVEE_WEBDAV_USERNAME", "LEVEE_WEBDAV_PASSWORD"],
            Address::S3(_) => &[
                "AWS_ACCESS_KEY_ID",
                "AWS_SECRET_ACCESS_KEY",
                "AWS_SESSION_TOKEN",
                "AWS_DEFAULT_REGION",
                "AWS_REGION",
                "AWS_PROFILE",
            ],
            Address::Oss(_) => &[
                "OSS_ACCESS_KEY_ID",
                "OSS_ACCESS_KEY_SECRET",
                "OSS_SESSION_TOKEN",
                "ALIBABA_CLOUD_ACCESS_KEY_ID",
                "ALIBABA_CLOUD_ACCESS_KEY_SECRET",
                "ALIBABA_CLOUD_SECURITY_TOKEN",
                "OSS_REGION",
            ],
            Address::Cos(_) => &["TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY", "TENCENTCLOUD_TOKEN"],
            Address::Obs(_) => &[
                "OBS_ACCESS_KEY_ID",
                "OBS_SECRET_ACCESS_KEY",
                "HUAWEI_CLOUD_ACCESS_KEY_ID",
                "HUAWEI_CLOUD_SECRET_ACCESS_KEY",
            ],
            Address::Azure(_) => &[
                "AZURE_ACCOUNT_NAME",
                "AZURE_ACCOUNT_KEY",
                "AZURE_ACCOUNT_SAS",
                "AZURE_ENDPOINT_SUFFIX",
                "AZURE_STORAGE_SERVICE_ENDPOINT",
            ],
            Address::Gcs(_) => &["GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_ACCESS_TOKEN", "STORAGE_EMULATOR_HOST"],
        }
    }

    /// Whether it is reached over HTTPS, so that a certificate says whom it belongs to.
    pub fn has_certificates(&self) -> bool {
        !matches!(self, Address::Folder(_) | Address::Sftp(_))
    }

    /// Whether its URL names a password, which everybody could read who reads the address.
    pub fn has_password(&self) -> bool {
        let (Address::Rest(url) | Address::WebDav(url)) = self else { return false };
        let authority = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest).split(['/', '?', '#']).next();
        authority.and_then(|authority| authority.rsplit_once('@')).is_some_and(|(user, _)| user.contains(':'))
    }

    /// A place below this one.
    pub fn below(&self, folders: &[&str]) -> Address {
        let below = |path: &str| {
            let above = Some(path.trim_end_matches('/')).filter(|above| !above.is_empty() || path.starts_with('/'));
            above.into_iter().chain(folders.iter().copied()).collect::<Vec<_>>().join("/")
        };
        let in_bucket = |bucket: &BucketAddress| BucketAddress { path: below(&bucket.path), ..bucket.clone() };
        let in_container = |there: &ContainerAddress| ContainerAddress { path: below(&there.path), ..there.clone() };
        match self {
            Address::Folder(path) => Address::Folder(folders.iter().fold(path.clone(), |path, name| path.join(name))),
            // What stands in a URL of a folder ends with a slash.
            Address::Rest(url) => Address::Rest(below(url) + "/"),
            Address::WebDav(url) => Address::WebDav(below(url) + "/"),
            Address::Sftp(there) => Address::Sftp(SftpAddress { path: below(&there.path), ..there.clone() }),
            Address::S3(bucket) => Address::S3(in_bucket(bucket)),
            Address::Oss(bucket) => Address::Oss(in_bucket(bucket)),
            Address::Cos(bucket) => Address::Cos(in_bucket(bucket)),
            Address::Obs(bucket) => Address::Obs(in_bucket(bucket)),
            Address::Azure(there) => Address::Azure(in_container(there)),
            Address::Gcs(there) => Address::Gcs(in_container(there)),
        }
    }
}

/// Schemes of restic's that this has nothing for: they would end up as strange folders.
const FOREIGN: [&str; 5] = ["b2:", "swift:", "rclone:", "http:", "https:"];

impl Address {
    pub fn parse(text: &str) -> Result<Self> {
        let Some((scheme, rest)) = text.split_once(':') else { return Ok(Address::Folder(text.into())) };
        match scheme {
            "local" => Ok(Address::Folder(rest.into())),
            "rest" => Ok(Address::Rest(rest.into())),
            "webdav" => Ok(Address::WebDav(rest.into())),
            "sftp" => sftp(rest).map(Address::Sftp),
            "s3" => bucket("s3", rest).map(Address::S3),
            "oss" => bucket("oss", rest).map(Address::Oss),
            "cos" => bucket("cos", rest).map(Address::Cos),
            "obs" => bucket("obs", rest).map(Address::Obs),
            "azure" => container("azure", rest).map(Address::Azure),
            "gs" => container("gs", rest).map(Address::Gcs),
            _ if FOREIGN.iter().any(|foreign| text.starts_with(foreign)) => Err(invalid(
                scheme,
                "there is no such kind of vault: use a folder, or rest:, sftp:, webdav:, s3:, oss:, cos:, obs:, azure:, gs:",
            )),
            _ => Ok(Address::Folder(text.into())),
        }
    }
}

fn invalid(scheme: &str, reason: impl Into<String>) -> InvalidAddress {
    InvalidAddress { scheme: scheme.into(), reason: reason.into() }
}

fn sftp(rest: &str) -> Result<SftpAddress> {
    let wrong =
        |reason: &str| invalid("sftp", format!("{reason}: write sftp:USER@HOST:/PATH or sftp://USER@HOST:PORT//PATH"));
    let (user, host, port, path) = match rest.strip_prefix("//") {
        Some(url) => {
            // As restic does: one slash ends the host, so that a second one makes the path absolute.
            let (authority, path) = url.split_once('/').ok_or_else(|| wrong("the path is missing"))?;
            let (user, host) = user_and_host(authority);
            let (host, port) = host_and_port(host).ok_or_else(|| wrong("the port is not a number"))?;
            (user, host, port, path)
        }
        None => {
            let (user, rest) = user_and_host(rest);
            let (host, path) = rest.split_once(':').ok_or_else(|| wrong("there is no colon after the host"))?;
            (user, host, None, path)
        }
    };
    // `ssh` would take it for an option.
    if host.is_empty() || host.starts_with('-') || user.is_some_and(|user| user.is_empty() || user.starts_with('-')) {
        return Err(wrong("the user or the host cannot be so"));
    }
    if path.is_empty() {
        return Err(wrong("the path is missing"));
    }
    Ok(SftpAddress { user: user.map(Into::into), host: host.into(), port, path: path.into() })
}

fn user_and_host(text: &str) -> (Option<&str>, &str) {
    // A path may hold an @ as well: only what stands before it counts.
    let end = text.find(['/', ':']).unwrap_or(text.len());
    match text[..end].rfind('@') {
        Some(at) => (Some(&text[..at]), &text[at + 1..]),
        None => (None, text),
    }
}

fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    match text.rsplit_once(':') {
        Some((host, port)) => Some((host, Some(port.parse().ok()?))),
        None => Some((text, None)),
    }
}

fn bucket(scheme: &str, rest: &str) -> Result<BucketAddress> {
    let (protocol, rest) = match rest.split_once("://") {
        Some((protocol @ ("http" | "https"), rest)) => (protocol, rest),
        Some(_) => return Err(invalid(scheme, "its URL begins with http:// or https://")),
        None => ("https", rest.strip_prefix("//").unwrap_or(rest)),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.contains('@') {
        return Err(invalid(scheme, "credentials come from the environment, not from the address"));
    }
    let (bucket, path) = path.split_once('/').unwrap_or((path, ""));
    if host.is_empty() || bucket.is_empty() {
        return Err(invalid(scheme, format!("write {scheme}:https://HOST/BUCKET/PATH")));
    }
    Ok(BucketAddress { endpoint: format!("{protocol}://{host}"), bucket: bucket.into(), path: trimmed(path) })
}

fn container(scheme: &str, rest: &str) -> Result<ContainerAddress> {
    match rest.split_once(':') {
        Some((container, path)) if !container.is_empty() => {
            Ok(ContainerAddress { container: container.into(), path: trimmed(path) })
        }
        _ => Err(invalid(scheme, format!("write {scheme}:CONTAINER:/PATH"))),
    }
}

fn trimmed(path: &str) -> String {
    path.trim_matches('/').into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Address) {
        assert_eq!(Address::parse(text).unwrap(), expected, "{text}");
    }

    fn place(endpoint: &str, bucket: &str, path: &str) -> BucketAddress {
        BucketAddress { endpoint: endpoint.into(), bucket: bucket.into(), path: path.into() }
    }

    #[test]
    fn folders() {
        check("/srv/vault", Address::Folder("/srv/vault".into()));
        check("local:vault", Address::Folder("vault".into()));
        check("vault", Address::Folder("vault".into()));
        // A folder's name may hold a colon.
        check("./2026:07", Address::Folder("./2026:07".into()));
    }

    #[test]
    fn buckets_as_restic_names_them() {
        let aws = place("https://s3.amazonaws.com", "bucket", "");
        check("s3:s3.amazonaws.com/bucket", Address::S3(aws.clone()));
        check("s3://s3.amazonaws.com/bucket/", Address::S3(aws));
        let own = place("http://127.0.0.1:9000", "bucket", "a/b");
        check("s3:http://127.0.0.1:9000/bucket/a/b/", Address::S3(own));
        let oss = place("https://oss-cn-beijing.aliyuncs.com", "bucket", "x");
        check("oss:https://oss-cn-beijing.aliyuncs.com/bucket/x", Address::Oss(oss));
        let there = ContainerAddress { container: "box".into(), path: "a".into() };
        check("azure:box:/a", Address::Azure(there.clone()));
        check("gs:box:a/", Address::Gcs(there));
    }

    #[test]
    fn ssh_hosts_as_restic_names_them() {
        let there = |user: Option<&str>, port: Option<u16>, path: &str| {
            Address::Sftp(SftpAddress { user: user.map(Into::into), host: "host".into(), port, path: path.into() })
        };
        check("sftp:me@host:/srv/vault", there(Some("me"), None, "/srv/vault"));
        check("sftp:host:vault", there(None, None, "vault"));
        check("sftp:host:/a@b:c", there(None, None, "/a@b:c"));
        check("sftp://me@host:2222//srv/vault", there(Some("me"), Some(2222), "/srv/vault"));
        check("sftp://host/vault", there(None, None, "vault"));
    }

    #[test]
    fn what_is_wrong_is_refused_without_repeating_it() {
        for text in [
            "s3:",
            "s3:host",
            "s3:ftp://host/bucket",
            "s3:https://key:sesame@host/bucket",
            "azure:sesame",
            "gs::/x",
            "sftp:host",
            "sftp:-oProxyCommand=sesame:/x",
            "sftp:host:",
            "sftp://host:port/sesame",
            "b2:sesame:x",
            "https://u:sesame@host/",
            "swift:x",
        ] {
            let refused = Address::parse(text).unwrap_err();
            assert!(!format!("{refused} {refused:?}").contains("sesame"), "{text}: {refused}");
        }
        let hidden = Address::parse("webdav:https://u:sesame@host/").unwrap();
        assert!(!format!("{hidden:?}").contains("sesame"));
    }

    #[test]
    fn places_below_a_place() {
        let check = |text: &str, below: &str| {
            let found = Address::parse(text).unwrap().below(&["shop", "west"]);
            assert_eq!(found, Address::parse(below).unwrap(), "{text}");
        };
        check("/srv/vaults", "/srv/vaults/shop/west");
        check("rest:https://host:8000/mia", "rest:https://host:8000/mia/shop/west/");
        check("rest:https://host:8000/", "rest:https://host:8000/shop/west/");
        check("webdav:https://host/a/", "webdav:https://host/a/shop/west/");
        check("sftp:me@host:/srv", "sftp:me@host:/srv/shop/west");
        check("sftp:me@host:/", "sftp:me@host:/shop/west");
        check("sftp:host:vaults", "sftp:host:vaults/shop/west");
        check("s3:https://host/bucket", "s3:https://host/bucket/shop/west");
        check("s3:https://host/bucket/a/", "s3:https://host/bucket/a/shop/west");
        check("azure:box:/a", "azure:box:/a/shop/west");
        check("gs:box:/", "gs:box:/shop/west");
    }

    #[test]
    fn passwords_in_addresses_are_seen() {
        let check = |text: &str, has: bool| assert_eq!(Address::parse(text).unwrap().has_password(), has, "{text}");
        check("rest:https://mia:sesame@host/", true);
        check("webdav:https://mia:ses/ame@host/", false);
        check("rest:https://mia:se@same@host:80?x", true);
        check("rest:https://mia@host:8000/", false);
        check("rest:https://host:8000/a:b@c/", false);
        check("/srv/a:b@c", false);
    }
}
