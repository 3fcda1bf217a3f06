//! The settings of each service.

use std::fmt;
use std::path::PathBuf;

use opendal::{Operator, services};

use super::Publishing;
use super::oss_signing::{self, OssSigning};
use crate::{BucketAddress, ContainerAddress, Error, InvalidAddress, Result};

/// A long-lived key and its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPair {
    pub id: String,
    pub secret: String,
    /// What belongs to a pair that was lent for a time.
    pub session_token: Option<String>,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KeyPair").field("id", &self.id).finish_non_exhaustive()
    }
}

/// S3, and what speaks its protocol.
#[derive(Clone, Debug)]
pub struct S3Options {
    pub address: BucketAddress,
    /// What requests are signed for; `us-east-1` where the service doesn't care.
    pub region: Option<String>,
    /// Without keys, the chain of AWS: profiles, roles of the machine or container.
    pub keys: Option<KeyPair>,
    pub profile: Option<String>,
    /// The storage class of packs of data, such as `STANDARD_IA`. Everything else stays in the usual one.
    pub data_class: Option<String>,
    /// How long nobody may remove or change what is written, the bucket's owner included. Not for lock files.
    pub locked_for_days: Option<u16>,
}

impl S3Options {
    /// The region that requests are signed for.
    pub(super) fn region(&self) -> &str {
        self.region.as_deref().unwrap_or_else(|| region_of(&self.address.endpoint))
    }

    /// Some services take the bucket only as a part of the host's name.
    fn has_virtual_host(&self) -> bool {
        let BucketAddress { endpoint, bucket, .. } = &self.address;
        VIRTUAL_HOSTS.iter().any(|suffix| endpoint.ends_with(suffix)) && !bucket.contains('.')
    }

    /// Without a slash at its end.
    pub(super) fn bucket_url(&self) -> String {
        let BucketAddress { endpoint, bucket, .. } = &self.address;
        match endpoint.split_once("://") {
            Some((scheme, host)) if self.has_virtual_host() => format!("{scheme}://{bucket}.{host}"),
            _ => format!("{endpoint}/{bucket}"),
        }
    }
}

/// OSS, COS and OBS.
#[derive(Clone, Debug)]
pub struct SignedOptions {
    pub address: BucketAddress,
    pub keys: KeyPair,
    /// What requests to OSS are signed for, where the endpoint doesn't name it. The others need none.
    pub region: Option<String>,
}

#[derive(Clone)]
pub struct AzureOptions {
    pub address: ContainerAddress,
    /// Another cloud's, or an emulator's, instead of `https://ACCOUNT.blob.core.windows.net`.
    pub endpoint: Option<String>,
    pub account: String,
    pub key: Option<String>,
    pub sas_token: Option<String>,
    /// The access tier of packs of data: `Hot`, `Cool`, `Cold` or `Archive`. Everything else stays in the account's own.
    pub data_class: Option<String>,
}

impl AzureOptions {
    pub(super) fn endpoint(&self) -> String {
        let own = || format!("https://{}.blob.core.windows.net", self.account);
        self.endpoint.clone().unwrap_or_else(own)
    }
}

#[derive(Clone)]
pub struct GcsOptions {
    pub address: ContainerAddress,
    /// An emulator's, instead of Google's own. Without a file and a token no credentials are looked for: those of the
    /// machine are not for others.
    pub endpoint: Option<String>,
    /// A service account's JSON file. Without it and a token, what the machine itself has.
    pub credential_file: Option<PathBuf>,
    pub access_token: Option<String>,
    /// The storage class of packs of data: `STANDARD`, `NEARLINE`, `COLDLINE` or `ARCHIVE`. Everything else stays in the
    /// bucket's own.
    pub data_class: Option<String>,
}

#[derive(Clone)]
pub struct WebDavOptions {
    /// The folder. May hold a user and a password.
    pub url: String,
    /// Instead of those in the URL.
    pub user: Option<String>,
    pub password: Option<String>,
}

/// Where a repository lies, and what opens it.
#[derive(Clone)]
pub enum Service {
    S3(S3Options),
    Oss(SignedOptions),
    Cos(SignedOptions),
    Obs(SignedOptions),
    Azure(AzureOptions),
    Gcs(GcsOptions),
    WebDav(WebDavOptions),
}

impl fmt::Debug for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // All of them may hold secrets.
        formatter.write_str(&self.location())
    }
}

impl Service {
    /// Where it is, for messages, without what opens it.
    pub(super) fn location(&self) -> String {
        let bucket = |scheme: &str, address: &BucketAddress| {
            format!("{scheme}:{}/{}/{}", address.endpoint, address.bucket, address.path)
        };
        match self {
            Service::S3(options) => bucket("s3", &options.address),
            Service::Oss(options) => bucket("oss", &options.address),
            Service::Cos(options) => bucket("cos", &options.address),
            Service::Obs(options) => bucket("obs", &options.address),
            Service::Azure(AzureOptions { address, .. }) => format!("azure:{}:/{}", address.container, address.path),
            Service::Gcs(GcsOptions { address, .. }) => format!("gs:{}:/{}", address.container, address.path),
            Service::WebDav(options) => match WebDavFolder::parse(options) {
                Some(folder) => format!("webdav:{}{}", folder.endpoint, folder.path),
                None => "webdav:…".into(),
            },
        }
    }

    pub(super) fn publishing(&self) -> Publishing {
        match self {
            Service::S3(_) | Service::Oss(_) | Service::Cos(_) | Service::Azure(_) | Service::Gcs(_) => {
                Publishing::Refused
            }
            // It has no condition on writing in opendal.
            Service::Obs(_) => Publishing::Asked,
            Service::WebDav(_) => Publishing::Moved,
        }
    }

    /// What signs in the place of opendal.
    pub(super) fn oss_signing(&self) -> Option<OssSigning> {
        match self {
            Service::Oss(options) => OssSigning::new(options),
            _ => None,
        }
    }

    pub(super) fn operator(&self, location: &str) -> Result<Operator> {
        let built = match self {
            Service::Oss(options @ SignedOptions { address, .. }) if oss_signing::region(options).is_some() => {
                Operator::new(
                    services::Oss::default()
                        .root(&root(&address.path))
                        .endpoint(&address.endpoint)
                        .bucket(&address.bucket)
                        .skip_signature(),
                )
            }
            Service::S3(options) => Operator::new(s3(options)),
            Service::Oss(SignedOptions { address, keys, .. }) => Operator::new(
                services::Oss::default()
                    .root(&root(&address.path))
                    .endpoint(&address.endpoint)
                    .bucket(&address.bucket)
                    .access_key_id(&keys.id)
                    .access_key_secret(&keys.secret)
                    .security_token(keys.session_token.as_deref().unwrap_or_default()),
            ),
            Service::Cos(SignedOptions { address, keys, .. }) => Operator::new(
                services::Cos::default()
                    .root(&root(&address.path))
                    .endpoint(&address.endpoint)
                    .bucket(&address.bucket)
                    .secret_id(&keys.id)
                    .secret_key(&keys.secret)
                    .security_token(keys.session_token.as_deref().unwrap_or_default())
                    .disable_config_load(),
            ),
            Service::Obs(SignedOptions { keys, .. }) if keys.session_token.is_some() => {
                // opendal has no place for a token, and would send requests that nobody lets in.
                let reason = "keys of OBS that were lent for a time, with a token, cannot be used".into();
                return Err(Error::Unauthorized { location: location.into(), reason });
            }
            Service::Obs(SignedOptions { address, keys, .. }) => Operator::new(
                services::Obs::default()
                    .root(&root(&address.path))
                    .endpoint(&address.endpoint)
                    .bucket(&address.bucket)
                    .access_key_id(&keys.id)
                    .secret_access_key(&keys.secret),
            ),
            Service::Azure(options) => Operator::new(azure(options)),
            Service::Gcs(options) => Operator::new(gcs(options)),
            Service::WebDav(options) => {
                let folder = WebDavFolder::parse(options).ok_or_else(|| InvalidAddress {
                    scheme: "webdav".into(),
                    reason: "its URL looks like webdav:https://HOST/PATH/".into(),
                })?;
                Operator::new(
                    services::Webdav::default()
                        .endpoint(&folder.endpoint)
                        .root(&folder.path)
                        .username(&folder.user)
                        .password(&folder.password)
                        // `create` makes them once.
                        .disable_create_dir(true),
                )
            }
        };
        built.map_err(|error| cannot_be_built(&error, location))
    }

    /// What writes packs of data, where they have a class that opendal can only say for all uploads of an operator.
    pub(super) fn data_operator(&self, location: &str) -> Result<Option<Operator>> {
        let Service::Gcs(options @ GcsOptions { data_class: Some(class), .. }) = self else { return Ok(None) };
        let built = Operator::new(gcs(options).default_storage_class(class));
        built.map(Some).map_err(|error| cannot_be_built(&error, location))
    }
}

fn cannot_be_built(error: &opendal::Error, location: &str) -> Error {
    Error::Unauthorized { location: location.into(), reason: error.message().into() }
}

/// Hosts of services that take the bucket only as a part of the host's name.
const VIRTUAL_HOSTS: [&str; 4] = [".amazonaws.com", ".aliyuncs.com", ".myqcloud.com", ".myhuaweicloud.com"];

fn s3(options: &S3Options) -> services::S3 {
    let S3Options { address, keys, profile, .. } = options;
    let mut builder = services::S3::default()
        .root(&root(&address.path))
        .bucket(&address.bucket)
        .endpoint(&address.endpoint)
        .region(options.region())
        // The service compares it with what has arrived.
        .checksum_algorithm("md5");
    if options.has_virtual_host() {
        builder = builder.enable_virtual_host_style();
    }
    match keys {
        Some(keys) => {
            builder = builder.access_key_id(&keys.id).secret_access_key(&keys.secret).disable_config_load();
            match &keys.session_token {
                Some(token) => builder.session_token(token),
                None => builder,
            }
        }
        None => builder.profile(profile.as_deref().unwrap_or_default()),
    }
}

/// AWS names the region in its hosts: `s3.REGION.amazonaws.com`.
fn region_of(endpoint: &str) -> &str {
    let named = endpoint.split_once("//s3.").and_then(|(_, rest)| rest.strip_suffix(".amazonaws.com"));
    named.filter(|region| !region.is_empty() && !region.contains('.')).unwrap_or("us-east-1")
}

fn azure(options: &AzureOptions) -> services::Azblob {
    let mut builder = services::Azblob::default()
        .root(&root(&options.address.path))
        .container(&options.address.container)
        .endpoint(&options.endpoint())
        .account_name(&options.account);
    if let Some(key) = &options.key {
        builder = builder.account_key(key);
    }
    match &options.sas_token {
        Some(token) => builder.sas_token(token.trim_start_matches('?')),
        None => builder,
    }
}

fn gcs(options: &GcsOptions) -> services::Gcs {
    let mut builder = services::Gcs::default().root(&root(&options.address.path)).bucket(&options.address.container);
    if let Some(endpoint) = &options.endpoint {
        builder = builder.endpoint(endpoint.trim_end_matches('/'));
        if options.credential_file.is_none() && options.access_token.is_none() {
            builder = builder.skip_signature();
        }
    }
    if let Some(file) = options.credential_file.as_ref().and_then(|file| file.to_str()) {
        builder = builder.credential_path(file);
    }
    match &options.access_token {
        Some(token) => builder.token(token.clone()),
        None => builder,
    }
}

fn root(path: &str) -> String {
    format!("/{path}/")
}

struct WebDavFolder {
    endpoint: String,
    path: String,
    user: String,
    password: String,
}

impl WebDavFolder {
    fn parse(options: &WebDavOptions) -> Option<Self> {
        let url = reqwest::Url::parse(&options.url).ok()?;
        if !matches!(url.scheme(), "http" | "https") {
            return None;
        }
        let host = url.host_str()?;
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let given = |text: &str| percent_decoded(text).filter(|text| !text.is_empty());
        let user = options.user.clone().or_else(|| given(url.username()));
        let password = options.password.clone().or_else(|| given(url.password().unwrap_or_default()));
        Some(Self {
            endpoint: format!("{}://{host}{port}", url.scheme()),
            path: format!("{}/", percent_decoded(url.path())?.trim_end_matches('/')),
            user: user.unwrap_or_default(),
            password: password.unwrap_or_default(),
        })
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *byte == b'%').and_then(|digits| hex::decode(digits).ok());
        match code {
            Some(code) => {
                bytes.extend(code);
                rest = &after[2..];
            }
            None => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_in_hosts() {
        for (endpoint, region) in [
            ("https://s3.eu-central-1.amazonaws.com", "eu-central-1"),
            ("https://s3.amazonaws.com", "us-east-1"),
            ("http://127.0.0.1:9000", "us-east-1"),
        ] {
            assert_eq!(region_of(endpoint), region, "{endpoint}");
        }
    }

    #[test]
    fn buckets_stand_in_the_host_where_they_must() {
        let url = |endpoint: &str| {
            let address = BucketAddress { endpoint: endpoint.into(), bucket: "box".into(), path: String::new() };
            S3Options { address, region: None, keys: None, profile: None, data_class: None, locked_for_days: None }
                .bucket_url()
        };
        assert_eq!(url("https://s3.amazonaws.com"), "https://box.s3.amazonaws.com");
        assert_eq!(url("http://127.0.0.1:9000"), "http://127.0.0.1:9000/box");
    }

    #[test]
    fn a_webdav_url_is_taken_apart_and_shown_without_its_password() {
        let url = "https://us%40er:ses%C3%A4me@host:8443/a%20folder/x".to_string();
        let options = WebDavOptions { url, user: None, password: None };
        let folder = WebDavFolder::parse(&options).unwrap();
        assert_eq!((folder.user.as_str(), folder.password.as_str()), ("us@er", "sesäme"));
        assert_eq!((folder.endpoint.as_str(), folder.path.as_str()), ("https://host:8443", "/a folder/x/"));
        let service = Service::WebDav(options);
        assert_eq!(format!("{service:?}"), "webdav:https://host:8443/a folder/x/");
        let given = WebDavOptions { url: "http://host".into(), user: Some("me".into()), password: Some("x".into()) };
        assert_eq!(WebDavFolder::parse(&given).unwrap().user, "me");
    }
}
