//! From an address to an open store, with what opens it: the variables that restic and the services' own tools use. Who
//! looks them up says where they come from: the command line from its environment, an agent from its secrets.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use crate::limit::Bandwidth;
use crate::local::LimitedFolder;
use crate::object_store::{
    AzureOptions, GcsOptions, KeyPair, S3Options, Service, SignedOptions, TransportOptions, WebDavOptions,
};
use crate::{
    Address, BucketAddress, ContainerAddress, Error, FileType, LocalStore, ObjectStore, Proxies, RestOptions,
    RestStore, Result, RetryPolicy, RetryStore, SftpOptions, SftpStore, Store,
};

/// A server that cannot be reached at all is more likely a mistake in its address than an outage.
const FIRST_CONTACT: RetryPolicy = RetryPolicy {
    attempts_max: 4,
    time_max: Duration::from_secs(10),
    delay_first: Duration::from_millis(200),
    delay_max: Duration::from_secs(1),
};

/// How a store is opened.
pub struct Opening<'a> {
    /// A variable that is set to something. Only those are asked for that `Address::variables` names.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Whom to trust, and what to show; this machine's own authorities when it is not given.
    pub tls: Option<Arc<ClientConfig>>,
    /// What stands between this machine and stores that are reached over HTTP.
    pub proxies: Proxies,
    /// Further arguments for `ssh`.
    pub sftp_arguments: Vec<String>,
    pub bandwidth: Bandwidth,
    /// How patient it is once it was reached.
    pub patience: RetryPolicy,
    /// The storage class of file contents, at stores that have such: S3, Azure and Google. One of the store's own kind.
    pub data_class: Option<String>,
    /// Lock what is written to S3 for so many days.
    pub s3_locked_for_days: Option<u16>,
}

impl<'a> Opening<'a> {
    /// Nothing but what opens it.
    pub fn with(variable: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            variable,
            tls: None,
            proxies: Proxies::default(),
            sftp_arguments: Vec::new(),
            bandwidth: Bandwidth::default(),
            patience: RetryPolicy::default(),
            data_class: None,
            s3_locked_for_days: None,
        }
    }

    /// Opens a store. What is on another machine was reached once when this returns.
    pub fn store(self, address: Address) -> Result<Arc<dyn Store>> {
        match address {
            Address::Folder(path) if self.bandwidth.is_unlimited() => Ok(Arc::new(LocalStore::new(path))),
            Address::Folder(path) => Ok(Arc::new(LimitedFolder::new(LocalStore::new(path), self.bandwidth))),
            Address::Rest(url) => {
                let options = RestOptions { base_url: self.rest(url), tls: self.tls.clone(), resolve: None };
                let store = RestStore::through(&self.proxies, options)?.with_bandwidth(self.bandwidth.clone());
                Ok(Arc::new(self.contacted(store)?))
            }
            Address::Sftp(address) => {
                let (arguments, bandwidth) = (self.sftp_arguments.clone(), self.bandwidth.clone());
                Ok(Arc::new(self.contacted(SftpStore::new(SftpOptions { address, arguments, bandwidth })?)?))
            }
            other => Ok(Arc::new(self.object_store(other)?)),
        }
    }

    /// Opens a store of objects, for what only those can do.
    pub fn object_store(self, address: Address) -> Result<RetryStore<ObjectStore>> {
        // These say that the bucket itself is missing in the body of an answer, which one to HEAD doesn't have.
        let says_in_body = matches!(address, Address::Oss(_) | Address::Cos(_) | Address::Obs(_));
        let service = self.service(address)?;
        let (tls, proxies, bandwidth) = (self.tls.clone(), self.proxies.clone(), self.bandwidth.clone());
        let transport = TransportOptions { tls, proxies, bandwidth };
        let store = ObjectStore::new(service, transport)?;
        self.contacted_by(store, |store| match store.size_bytes(FileType::Config, "") {
            Err(Error::NotFound { .. }) if says_in_body => store.read_range(FileType::Config, "", 0, 1).map(drop),
            looked_up => looked_up.map(drop),
        })
    }

    /// A store that was reached once, and is patient from now on.
    fn contacted<S: Store>(&self, store: S) -> Result<RetryStore<S>> {
        self.contacted_by(store, |store| store.size_bytes(FileType::Config, "").map(drop))
    }

    /// The same, reached by a request of its kind's own.
    fn contacted_by<S: Store>(
        &self,
        store: S,
        contact: impl FnOnce(&RetryStore<S>) -> Result<()>,
    ) -> Result<RetryStore<S>> {
        let store = RetryStore::new(store, FIRST_CONTACT);
        match contact(&store) {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(store.with_policy(self.patience)),
            Err(error) => Err(error),
        }
    }

    fn service(&self, address: Address) -> Result<Service> {
        match address {
            Address::S3(address) => self.s3(address),
            Address::Oss(address) => {
                let keys = self.keys(
                    "oss",
                    &["OSS_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_ID"],
                    &["OSS_ACCESS_KEY_SECRET", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"],
                    &["OSS_SESSION_TOKEN", "ALIBABA_CLOUD_SECURITY_TOKEN"],
                )?;
                Ok(Service::Oss(SignedOptions { address, keys, region: self.oss_region() }))
            }
            Address::Cos(address) => {
                let (id, secret) = (&["TENCENTCLOUD_SECRET_ID"], &["TENCENTCLOUD_SECRET_KEY"]);
                let keys = self.keys("cos", id, secret, &["TENCENTCLOUD_TOKEN"])?;
                Ok(Service::Cos(SignedOptions { address, keys, region: None }))
            }
            Address::Obs(address) => {
                let keys = self.keys(
                    "obs",
                    &["OBS_ACCESS_KEY_ID", "HUAWEI_CLOUD_ACCESS_KEY_ID"],
                    &["OBS_SECRET_ACCESS_KEY", "HUAWEI_CLOUD_SECRET_ACCESS_KEY"],
                    &[],
                )?;
                Ok(Service::Obs(SignedOptions { address, keys, region: None }))
            }
            Address::Azure(address) => self.azure(address),
            Address::Gcs(address) => Ok(Service::Gcs(self.gcs(address))),
            Address::WebDav(url) => Ok(Service::WebDav(WebDavOptions {
                url,
                user: self.get("LEVEE_WEBDAV_USERNAME"),
                password: self.get("LEVEE_WEBDAV_PASSWORD"),
            })),
            Address::Folder(_) => Err(credentials("a folder", "this vault lies in no object store")),
            Address::Rest(_) => Err(credentials("rest", "this vault lies in no object store")),
            Address::Sftp(_) => Err(credentials("sftp", "this vault lies in no object store")),
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    /// The region's ID, also where it is written as in the endpoint's name: `oss-cn-hangzhou`.
    fn oss_region(&self) -> Option<String> {
        let region = self.get("OSS_REGION")?;
        Some(region.strip_prefix("oss-").map(str::to_string).unwrap_or(region))
    }

    fn first_of(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.get(name))
    }

    fn s3(&self, address: BucketAddress) -> Result<Service> {
        let keys = match (self.get("AWS_ACCESS_KEY_ID"), self.get("AWS_SECRET_ACCESS_KEY")) {
            (Some(id), Some(secret)) => Some(KeyPair { id, secret, session_token: self.get("AWS_SESSION_TOKEN") }),
            (None, None) => None,
            _ => {
                let reason = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together; only one of them is set";
                return Err(credentials("s3", reason));
            }
        };
        Ok(Service::S3(S3Options {
            address,
            region: self.first_of(&["AWS_DEFAULT_REGION", "AWS_REGION"]),
            keys,
            profile: self.get("AWS_PROFILE"),
            data_class: self.data_class.clone(),
            locked_for_days: self.s3_locked_for_days,
        }))
    }

    fn keys(&self, scheme: &str, id: &[&str], secret: &[&str], token: &[&str]) -> Result<KeyPair> {
        let wanted = |names: &[&str]| {
            self.first_of(names).ok_or_else(|| credentials(scheme, format!("set {}", names.join(" or "))))
        };
        Ok(KeyPair { id: wanted(id)?, secret: wanted(secret)?, session_token: self.first_of(token) })
    }

    fn azure(&self, address: ContainerAddress) -> Result<Service> {
        let account = self.get("AZURE_ACCOUNT_NAME").ok_or_else(|| credentials("azure", "set AZURE_ACCOUNT_NAME"))?;
        let (key, sas_token) = (self.get("AZURE_ACCOUNT_KEY"), self.get("AZURE_ACCOUNT_SAS"));
        if key.is_none() && sas_token.is_none() {
            return Err(credentials("azure", "set AZURE_ACCOUNT_KEY or AZURE_ACCOUNT_SAS"));
        }
        let in_cloud = || Some(format!("https://{account}.blob.{}", self.get("AZURE_ENDPOINT_SUFFIX")?));
        let endpoint = self.get("AZURE_STORAGE_SERVICE_ENDPOINT").or_else(in_cloud);
        let data_class = self.data_class.clone();
        Ok(Service::Azure(AzureOptions { address, endpoint, account, key, sas_token, data_class }))
    }

    fn gcs(&self, address: ContainerAddress) -> GcsOptions {
        let data_class = self.data_class.clone();
        // As with Google's own libraries, an emulator is shown no credentials.
        if let Some(emulator) = self.get("STORAGE_EMULATOR_HOST") {
            let endpoint = if emulator.contains("://") { emulator } else { format!("http://{emulator}") };
            let endpoint = Some(endpoint);
            return GcsOptions { address, endpoint, credential_file: None, access_token: None, data_class };
        }
        GcsOptions {
            address,
            endpoint: None,
            credential_file: self.get("GOOGLE_APPLICATION_CREDENTIALS").map(PathBuf::from),
            access_token: self.get("GOOGLE_ACCESS_TOKEN"),
            data_class,
        }
    }

    /// The URL of a REST repository with the user and password that are set, unless it has its own.
    fn rest(&self, url: String) -> String {
        let (Some(user), Some(password)) = (
            self.first_of(&["LEVEE_REST_USERNAME", "RESTIC_REST_USERNAME"]),
            self.first_of(&["LEVEE_REST_PASSWORD", "RESTIC_REST_PASSWORD"]),
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
}

fn credentials(scheme: &str, reason: impl Into<String>) -> Error {
    Error::Credentials { scheme: scheme.into(), reason: reason.into() }
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
    use std::cell::RefCell;

    #[test]
    fn passwords_fit_into_urls() {
        assert_eq!(encoded("mia"), "mia");
        assert_eq!(encoded("a:b@c/ä"), "a%3Ab%40c%2F%C3%A4");
        let set = |name: &str| match name {
            "LEVEE_REST_USERNAME" => Some("mia".to_string()),
            "RESTIC_REST_PASSWORD" => Some("a:b".to_string()),
            _ => None,
        };
        let opening = Opening::with(&set);
        assert_eq!(opening.rest("https://host:8000/x/".into()), "https://mia:a%3Ab@host:8000/x/");
        assert_eq!(opening.rest("https://ben:c@host/".into()), "https://ben:c@host/");
    }

    #[test]
    fn each_kind_of_store_asks_for_its_own_variables_and_for_all_of_them() {
        for text in [
            "rest:https://host/",
            "webdav:https://host/",
            "s3:https://host/bucket",
            "oss:https://host/bucket",
            "cos:https://host/bucket",
            "obs:https://host/bucket",
            "azure:box:/",
            "gs:box:/",
        ] {
            let address = Address::parse(text).unwrap();
            let mut known: Vec<String> = address.variables().iter().map(|name| name.to_string()).collect();
            // Every name that could be asked for when some are set and others are not.
            let asked = RefCell::new(Vec::new());
            for odd in 0..=known.len() {
                let set = |name: &str| {
                    asked.borrow_mut().push(name.to_string());
                    (odd == known.len() || known.get(odd).is_some_and(|left_out| left_out != name))
                        .then(|| "x".to_string())
                };
                let opening = Opening::with(&set);
                match address.clone() {
                    Address::Rest(url) => drop(opening.rest(url)),
                    other => drop(opening.service(other)),
                }
            }
            let mut asked = asked.into_inner();
            known.sort();
            asked.sort();
            asked.dedup();
            assert_eq!(asked, known, "{text}");
        }
    }

    #[test]
    fn other_clouds_and_emulators_are_found_by_the_services_own_variables() {
        let azure = |set: &[(&str, &str)]| {
            let given = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
            let known = |name: &str| given(name).or_else(|| name.starts_with("AZURE_ACCOUNT_").then(|| "mine".into()));
            match Opening::with(&known).service(Address::parse("azure:box:/").unwrap()).unwrap() {
                Service::Azure(options) => options.endpoint,
                other => panic!("{other:?}"),
            }
        };
        let suffix = ("AZURE_ENDPOINT_SUFFIX", "core.chinacloudapi.cn");
        let whole = ("AZURE_STORAGE_SERVICE_ENDPOINT", "http://127.0.0.1:10000/mine");
        assert_eq!(azure(&[]), None);
        assert_eq!(azure(&[suffix]).unwrap(), "https://mine.blob.core.chinacloudapi.cn");
        assert_eq!(azure(&[suffix, whole]).unwrap(), whole.1);

        let gcs = |emulator: Option<&str>| {
            let known = |name: &str| match name {
                "STORAGE_EMULATOR_HOST" => emulator.map(str::to_string),
                "GOOGLE_ACCESS_TOKEN" => Some("sesame".to_string()),
                _ => None,
            };
            match Opening::with(&known).service(Address::parse("gs:box:/").unwrap()).unwrap() {
                Service::Gcs(options) => (options.endpoint, options.access_token),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(gcs(None), (None, Some("sesame".to_string())));
        for emulator in ["127.0.0.1:9023", "http://127.0.0.1:9023"] {
            assert_eq!(gcs(Some(emulator)), (Some("http://127.0.0.1:9023".to_string()), None));
        }
    }

    #[test]
    fn a_storage_class_reaches_each_store_that_has_such() {
        let set = |_: &str| Some("x".to_string());
        for text in ["s3:https://host/bucket", "azure:box:/", "gs:box:/"] {
            let opening = Opening { data_class: Some("COLD".into()), ..Opening::with(&set) };
            let class = match opening.service(Address::parse(text).unwrap()).unwrap() {
                Service::S3(options) => options.data_class,
                Service::Azure(options) => options.data_class,
                Service::Gcs(options) => options.data_class,
                other => panic!("{other:?}"),
            };
            assert_eq!(class.as_deref(), Some("COLD"), "{text}");
        }
    }

    #[test]
    fn a_region_of_oss_may_be_written_as_in_the_name_of_its_endpoint() {
        for (written, region) in [
            ("cn-hangzhou", Some("cn-hangzhou")),
            ("oss-cn-hangzhou", Some("cn-hangzhou")),
            ("oss-us-east-1", Some("us-east-1")),
            ("", None),
        ] {
            let set = |name: &str| Some(if name == "OSS_REGION" { written } else { "x" }.to_string());
            match Opening::with(&set).service(Address::parse("oss:https://host/bucket").unwrap()).unwrap() {
                Service::Oss(options) => assert_eq!(options.region.as_deref(), region, "{written}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_is_missing_is_named_and_nothing_of_what_is_there() {
        let check = |text: &str, set: &[&str], expected: &str| {
            let variable = |name: &str| set.contains(&name).then(|| "sesame".to_string());
            let refused = Opening::with(&variable).store(Address::parse(text).unwrap()).err().unwrap();
            let said = format!("{refused} {refused:?}");
            assert!(said.contains(expected) && !said.contains("sesame"), "{said}");
        };
        check("s3:https://host/bucket", &["AWS_ACCESS_KEY_ID"], "belong together");
        check("oss:https://host/bucket", &["OSS_ACCESS_KEY_ID"], "set OSS_ACCESS_KEY_SECRET or ALIBABA_CLOUD_");
        check("cos:https://host/bucket", &[], "set TENCENTCLOUD_SECRET_ID");
        check("obs:https://host/bucket", &[], "set OBS_ACCESS_KEY_ID or HUAWEI_CLOUD_ACCESS_KEY_ID");
        check("azure:box:/", &[], "a vault at azure…: set AZURE_ACCOUNT_NAME");
        check("azure:box:/", &["AZURE_ACCOUNT_NAME"], "set AZURE_ACCOUNT_KEY or AZURE_ACCOUNT_SAS");
    }
}
