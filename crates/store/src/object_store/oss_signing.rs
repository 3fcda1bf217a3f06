//! OSS's current signatures (version 4). opendal signs with the first version, which Alibaba Cloud lets neither new
//! customers (since March 2025) nor new buckets (since September 2025) use any more.

use http::header::HOST;
use opendal::{Buffer, ErrorKind};
use reqsign_aliyun_oss::{Credential, RequestSigner, SigningVersion, StaticCredentialProvider};
use reqsign_core::{Context, Signer};

use super::service::SignedOptions;

/// Endpoints of the finance cloud whose names are not those of their regions: `oss-cn-szfinance` is at
/// `cn-shenzhen-finance-1`.
const OTHER_NAMES: [&str; 3] = ["hzjbp", "hzfinance", "szfinance"];

/// Signs what opendal leaves unsigned.
pub(super) struct OssSigning {
    signer: Signer<Credential>,
}

impl OssSigning {
    /// `None` where nothing names a region, as at a domain of one's own: opendal signs then.
    pub(super) fn new(options: &SignedOptions) -> Option<Self> {
        let region = region(options)?;
        let signing =
            RequestSigner::new(&options.address.bucket).with_region(region).with_signing_version(SigningVersion::V4);
        let provider = StaticCredentialProvider::new(&options.keys.id, &options.keys.secret);
        let provider = match &options.keys.session_token {
            Some(token) => provider.with_security_token(token),
            None => provider,
        };
        Some(Self { signer: Signer::new(Context::new(), provider, signing) })
    }

    pub(super) async fn sign(&self, request: http::Request<Buffer>) -> opendal::Result<http::Request<Buffer>> {
        let failed = |reason: String| opendal::Error::new(ErrorKind::ConfigInvalid, reason);
        let (mut parts, body) = request.into_parts();
        // Signed with the rest, so that the request is of use for no other bucket.
        let host = parts.uri.authority().map(|authority| authority.as_str().to_string()).unwrap_or_default();
        parts.headers.insert(HOST, host.parse().map_err(|_| failed("the service's host has no valid name".into()))?);
        let signed = self.signer.sign(&mut parts, None).await;
        signed.map_err(|error| failed(format!("the credentials cannot sign: {error}")))?;
        Ok(http::Request::from_parts(parts, body))
    }
}

/// The region that requests are signed for: the one that the user names, or the endpoint's.
pub(super) fn region(options: &SignedOptions) -> Option<&str> {
    options.region.as_deref().or_else(|| region_of(&options.address.endpoint))
}

/// `https://oss-REGION.aliyuncs.com`, also inside of the cloud, and `https://REGION.oss.aliyuncs.com`. It must never be
/// guessed: a signature for a region that isn't the bucket's is refused, where one of version 1 may be let in.
fn region_of(endpoint: &str) -> Option<&str> {
    let host = endpoint.split_once("://").map_or(endpoint, |(_, host)| host);
    let name = host.split([':', '/']).next()?.strip_suffix(".aliyuncs.com")?;
    let region = match name.strip_suffix(".oss") {
        Some(region) => region,
        None => name.strip_prefix("oss-")?,
    };
    let region = region.strip_suffix("-internal").unwrap_or(region);
    // Networks of the finance cloud.
    let region = region.strip_suffix("-pub").unwrap_or(region);
    let is_other_name = OTHER_NAMES.iter().any(|name| region.contains(name)) || region.ends_with("-console");
    // `oss-accelerate` is everywhere.
    let is_region = region.contains('-') && !region.starts_with("accelerate") && !region.contains('.');
    (is_region && !is_other_name).then_some(region)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BucketAddress;
    use crate::object_store::KeyPair;

    #[test]
    fn regions_in_hosts() {
        for (endpoint, region) in [
            ("https://oss-cn-hangzhou.aliyuncs.com", Some("cn-hangzhou")),
            ("https://oss-ap-southeast-1-internal.aliyuncs.com:443", Some("ap-southeast-1")),
            ("http://cn-hangzhou.oss.aliyuncs.com", Some("cn-hangzhou")),
            ("https://oss-cn-shenzhen-finance-1-internal.aliyuncs.com", Some("cn-shenzhen-finance-1")),
            ("https://oss-cn-shanghai-finance-1-pub.aliyuncs.com", Some("cn-shanghai-finance-1")),
            ("https://oss-cn-shanghai-finance-1-pub-internal.aliyuncs.com", Some("cn-shanghai-finance-1")),
            ("https://oss-cn-north-2-gov-1.aliyuncs.com", Some("cn-north-2-gov-1")),
            ("https://oss-cn-hzjbp-b-console.aliyuncs.com", None),
            ("https://oss-cn-hzjbp-a-internal.aliyuncs.com", None),
            ("https://oss-cn-hzfinance-internal.aliyuncs.com", None),
            ("https://oss-cn-szfinance.aliyuncs.com", None),
            ("https://oss-cn-elsewhere-console.aliyuncs.com", None),
            ("https://oss-accelerate.aliyuncs.com", None),
            ("https://oss-accelerate-overseas.aliyuncs.com", None),
            ("https://oss.example.net", None),
            ("http://127.0.0.1:9000", None),
        ] {
            assert_eq!(region_of(endpoint), region, "{endpoint}");
        }
    }

    #[test]
    fn a_region_that_is_named_counts_at_every_endpoint() {
        let keys = KeyPair { id: "id".into(), secret: "sesame".into(), session_token: None };
        let address = BucketAddress { endpoint: String::new(), bucket: "box".into(), path: String::new() };
        let mut options = SignedOptions { address, keys, region: Some("cn-hangzhou-finance".into()) };
        for endpoint in ["https://oss-cn-hzjbp-b-console.aliyuncs.com", "https://oss-cn-beijing.aliyuncs.com"] {
            options.address.endpoint = endpoint.into();
            assert_eq!(region(&options), Some("cn-hangzhou-finance"), "{endpoint}");
        }
        options.region = None;
        assert_eq!(region(&options), Some("cn-beijing"));
    }
}
