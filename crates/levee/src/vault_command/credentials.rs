//! What opens a store, from the environment variables that restic and the services' own tools use. Nothing of
//! it is an argument, where every user of the machine could read it.

use std::path::PathBuf;

use anyhow::{Context, bail};
use levee_store::object_store::{AzureOptions, GcsOptions, KeyPair, S3Options, Service, SignedOptions, WebDavOptions};
use levee_store::{BucketAddress, ContainerAddress};

/// A variable that is set to something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn first_of(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| variable(name))
}

/// `data_class` and `locked_for_days` are of the vault, not of who opens it.
pub fn s3(address: BucketAddress, data_class: Option<String>, locked_for_days: Option<u16>) -> anyhow::Result<Service> {
    let keys = match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(secret)) => Some(KeyPair { id, secret, session_token: variable("AWS_SESSION_TOKEN") }),
        (None, None) => None,
        _ => bail!("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together; only one of them is set"),
    };
    let region = first_of(&["AWS_DEFAULT_REGION", "AWS_REGION"]);
    Ok(Service::S3(S3Options { address, region, keys, profile: variable("AWS_PROFILE"), data_class, locked_for_days }))
}

pub fn oss(address: BucketAddress) -> anyhow::Result<Service> {
    let keys = keys(
        &["OSS_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_ID"],
        &["OSS_ACCESS_KEY_SECRET", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"],
        &["OSS_SESSION_TOKEN", "ALIBABA_CLOUD_SECURITY_TOKEN"],
    )?;
    Ok(Service::Oss(SignedOptions { address, keys }))
}

pub fn cos(address: BucketAddress) -> anyhow::Result<Service> {
    let keys = keys(&["TENCENTCLOUD_SECRET_ID"], &["TENCENTCLOUD_SECRET_KEY"], &["TENCENTCLOUD_TOKEN"])?;
    Ok(Service::Cos(SignedOptions { address, keys }))
}

pub fn obs(address: BucketAddress) -> anyhow::Result<Service> {
    let keys = keys(
        &["OBS_ACCESS_KEY_ID", "HUAWEI_CLOUD_ACCESS_KEY_ID"],
        &["OBS_SECRET_ACCESS_KEY", "HUAWEI_CLOUD_SECRET_ACCESS_KEY"],
        &[],
    )?;
    Ok(Service::Obs(SignedOptions { address, keys }))
}

fn keys(id: &[&str], secret: &[&str], token: &[&str]) -> anyhow::Result<KeyPair> {
    let wanted = |names: &[&str]| first_of(names).with_context(|| format!("set {}", names.join(" or ")));
    Ok(KeyPair { id: wanted(id)?, secret: wanted(secret)?, session_token: first_of(token) })
}

pub fn azure(address: ContainerAddress) -> anyhow::Result<Service> {
    let account = variable("AZURE_ACCOUNT_NAME").context("set AZURE_ACCOUNT_NAME")?;
    let (key, sas_token) = (variable("AZURE_ACCOUNT_KEY"), variable("AZURE_ACCOUNT_SAS"));
    if key.is_none() && sas_token.is_none() {
        bail!("set AZURE_ACCOUNT_KEY or AZURE_ACCOUNT_SAS");
    }
    let endpoint = variable("AZURE_ENDPOINT_SUFFIX").map(|suffix| format!("https://{account}.blob.{suffix}"));
    Ok(Service::Azure(AzureOptions { address, endpoint, account, key, sas_token }))
}

pub fn gcs(address: ContainerAddress) -> Service {
    Service::Gcs(GcsOptions {
        address,
        endpoint: None,
        credential_file: variable("GOOGLE_APPLICATION_CREDENTIALS").map(PathBuf::from),
        access_token: variable("GOOGLE_ACCESS_TOKEN"),
    })
}

pub fn webdav(url: String) -> Service {
    Service::WebDav(WebDavOptions {
        url,
        user: variable("LEVEE_WEBDAV_USERNAME"),
        password: variable("LEVEE_WEBDAV_PASSWORD"),
    })
}

/// The URL of a REST repository with the user and password of the environment, unless it has its own.
pub fn rest(url: String) -> String {
    let (Some(user), Some(password)) = (
        first_of(&["LEVEE_REST_USERNAME", "RESTIC_REST_USERNAME"]),
        first_of(&["LEVEE_REST_PASSWORD", "RESTIC_REST_PASSWORD"]),
    ) else {
        return url;
    };
    let Some((scheme, rest)) = url.split_once("://") else { return url };
    let host = rest.split('/').next().unwrap_or_default();
    if host.contains('@') {
        return url;
    }
    format!("{scheme}://{}:{}@{rest}", encoded(&user), encoded(&password))
}

/// As it stands in the user's part of a URL.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_fit_into_urls() {
        assert_eq!(encoded("mia"), "mia");
        assert_eq!(encoded("a:b@c/ä"), "a%3Ab%40c%2F%C3%A4");
    }
}
