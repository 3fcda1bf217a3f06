//! A place for copies beside the sites: an object store, a server, a folder.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Period, SiteSpec};
use crate::{Address, AppName, AssetName, InvalidAddress, SiteName, Timetable};

const DAY_MS: u64 = 24 * 3600 * 1000;
/// Ten years: a mistake in compliance mode can be undone by nobody.
const LOCKED_DAYS_MAX: u64 = 3660;
/// Amazon's storage classes. Other services that speak S3 have names of their own.
const S3_CLASSES: [&str; 8] = [
    "STANDARD",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER_IR",
    "GLACIER",
    "DEEP_ARCHIVE",
    "REDUCED_REDUNDANCY",
];
const GOOGLE_CLASSES: [&str; 4] = ["STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE"];
/// Azure calls them access tiers.
const AZURE_CLASSES: [&str; 4] = ["Hot", "Cool", "Cold", "Archive"];

/// A further vault, to which recovery sites copy what they keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultSpec {
    /// Below it each app's recovery site has a repository of its own.
    pub address: VaultAddress,
    /// What opens it: variable = the *name* of a secret, set on the agents with `levee agent secret set`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// PEM certificates on the agents' hosts, to be trusted instead of the machine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cacert: Option<PathBuf>,
    /// How often a database's log is copied.
    #[serde(default = "VaultSpec::default_log_every")]
    pub log_every: Period,
    /// How old the newest copy there may be. An older one counts no more.
    #[serde(default = "VaultSpec::default_within")]
    pub within: Period,
    /// How fast each recovery site sends its copies there, those of all apps together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Timetable>,
    /// Within what time everything there is read again and its hashes checked; nothing is, unless it is said: in many
    /// places reading costs money.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_within: Option<Period>,
    /// The storage class of file contents: at S3 such as `STANDARD_IA`, at Azure `Cool`, at Google `NEARLINE`; all else
    /// stays in the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_class: Option<String>,
    /// For how long what is in use there can be removed by nobody, at S3 with object lock; whole days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_for: Option<Period>,
    // What it shares with sites and other vaults. What is not said may be the same as anywhere else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault_domain: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
}

impl VaultSpec {
    fn default_log_every() -> Period {
        Period::from_seconds(5 * 60)
    }

    fn default_within() -> Period {
        Period::from_seconds(24 * 3600)
    }

    /// Where an app's recovery site has its repository. Each site has its own: after a change of roles two sites never
    /// share one.
    pub fn repository(&self, app: &AppName, site: &SiteName) -> Address {
        self.address.parsed.below(&[app.as_str(), site.as_str()])
    }

    /// For how many days what is in use there is locked.
    pub fn locked_for_days(&self) -> Option<u16> {
        let days = self.locked_for?.milliseconds() / DAY_MS;
        Some(u16::try_from(days).unwrap_or(u16::MAX))
    }

    /// What it shares with others, its host aside.
    pub fn place(&self) -> SiteSpec {
        let VaultSpec { disk, fault_domain, zone, region, provider, .. } = self.clone();
        SiteSpec { disk, host: None, fault_domain, zone, region, provider }
    }

    /// What makes no sense, and where it stands.
    pub(super) fn problem(&self) -> Option<(String, String)> {
        let at = |key: &str, message: String| Some((key.to_string(), message));
        if self.log_every.milliseconds() == 0 {
            return at("log_every", "it must be longer than nothing".into());
        }
        if self.within <= self.log_every {
            let message =
                format!("it must be longer than log_every ({}), or no copy of a log ever counts", self.log_every);
            return at("within", message);
        }
        if self.verify_within.is_some_and(|within| within.milliseconds() == 0) {
            return at("verify_within", "it must be longer than nothing".into());
        }
        if self.bandwidth.is_some() && matches!(self.address.parsed, Address::Folder(_)) {
            return at("bandwidth", "this is for vaults that are reached over the network, and not for folders".into());
        }
        if let Some(class) = &self.data_class {
            let is_name = class.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_') && !class.is_empty();
            let problem = match &self.address.parsed {
                // It would come to light only at the sites.
                Address::S3(_) if !is_name => Some(no_class(class, "S3", "STANDARD_IA")),
                address => address.data_class_problem(class),
            };
            if let Some(problem) = problem {
                return at("data_class", problem);
            }
        }
        if let Some(locked_for) = self.locked_for {
            if !matches!(self.address.parsed, Address::S3(_)) {
                return at("locked_for", "this is for vaults at s3:…: other stores have no object lock".into());
            }
            let (days, rest) = (locked_for.milliseconds() / DAY_MS, locked_for.milliseconds() % DAY_MS);
            if rest != 0 || !(1..=LOCKED_DAYS_MAX).contains(&days) {
                return at("locked_for", format!("say whole days, from 1d to {LOCKED_DAYS_MAX}d"));
            }
        }
        if self.cacert.is_some() && !self.address.parsed.has_certificates() {
            return at("cacert", "this is for vaults that are reached over HTTPS".into());
        }
        if let Some(cacert) = self.cacert.as_ref().filter(|cacert| !cacert.is_absolute()) {
            return at("cacert", format!("{} must be an absolute path on the agents' hosts", cacert.display()));
        }
        let known = self.address.parsed.variables();
        for (variable, secret) in &self.secrets {
            if !known.contains(&variable.as_str()) {
                let message = match known {
                    [] => "no variable opens such a vault: leave secrets out".to_string(),
                    known => format!("no such vault is opened by it; those that are read here: {}", known.join(", ")),
                };
                return at(&format!("secrets.{variable}"), message);
            }
            // Not the value: somebody may have put the secret itself here.
            if AssetName::new(secret.as_str()).is_err() {
                let message = "this is not the name of a secret: say one here, and set the secret itself on the agents with \
                               `levee agent secret set NAME`";
                return at(&format!("secrets.{variable}"), message.into());
            }
        }
        None
    }
}

impl Address {
    /// Whether file contents can have a storage class of their own there.
    pub fn has_data_classes(&self) -> bool {
        matches!(self, Address::S3(_) | Address::Azure(_) | Address::Gcs(_))
    }

    /// Why file contents there cannot have this storage class. Those of S3 are left to the service, which refuses what it
    /// doesn't know.
    pub fn data_class_problem(&self, class: &str) -> Option<String> {
        match self {
            Address::S3(_) => None,
            Address::Azure(_) if AZURE_CLASSES.contains(&class) => None,
            Address::Azure(_) => Some(no_class(class, "Azure", "Cool")),
            Address::Gcs(_) if GOOGLE_CLASSES.contains(&class) => None,
            Address::Gcs(_) => Some(no_class(class, "Google", "NEARLINE")),
            _ => Some("this is for vaults at s3:…, azure:… and gs:…".into()),
        }
    }

    /// Whether Amazon, Azure or Google has a storage class of that name.
    pub fn is_any_data_class(class: &str) -> bool {
        [&S3_CLASSES[..], &AZURE_CLASSES[..], &GOOGLE_CLASSES[..]].iter().any(|classes| classes.contains(&class))
    }
}

fn no_class(class: &str, service: &str, example: &str) -> String {
    format!("{class:?} is no storage class of {service}; one is {example}")
}

/// Where a further vault lies, as `--vault` names it, and without any password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VaultAddress {
    text: String,
    parsed: Address,
}

impl VaultAddress {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn parsed(&self) -> &Address {
        &self.parsed
    }
}

impl TryFrom<String> for VaultAddress {
    type Error = InvalidAddress;

    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        let parsed = Address::parse(&text)?;
        let invalid = |scheme: &str, reason: &str| InvalidAddress { scheme: scheme.into(), reason: reason.into() };
        let scheme = text.split_once(':').map_or("a folder", |(scheme, _)| scheme);
        if parsed.has_password() {
            let reason = "leave the password out of the address: say in secrets by which names the agents know user and \
                          password";
            return Err(invalid(scheme, reason));
        }
        match &parsed {
            Address::Folder(path) if !path.is_absolute() || path.components().any(|part| part.as_os_str() == "..") => {
                Err(invalid("a folder", "its path must be absolute and without '..'"))
            }
            Address::Rest(url) | Address::WebDav(url)
                if !url.starts_with("http://") && !url.starts_with("https://") =>
            {
                Err(invalid(scheme, "its URL begins with http:// or https://"))
            }
            _ => Ok(Self { text, parsed }),
        }
    }
}

impl From<VaultAddress> for String {
    fn from(address: VaultAddress) -> String {
        address.text
    }
}

impl fmt::Debug for VaultAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl fmt::Display for VaultAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ProtectionError, ProtectionFile};
    use super::*;
    use crate::VaultName;

    const SHOP: &str = r#"
[app.shop]
home = "east"
recovery = "west"
copy_to = ["far"]
[app.shop.files.documents]
every = "5s"
at.east.path = "/srv/east/documents"
at.west.path = "/srv/west/documents"
"#;

    /// The shop with a further vault, of which these lines speak.
    fn with_vault(lines: &str) -> Result<ProtectionFile, ProtectionError> {
        ProtectionFile::parse(&format!("[vault.far]\n{lines}\n{SHOP}"))
    }

    #[test]
    fn a_further_vault_parses() {
        let file = with_vault(
            "address = \"s3:https://s3.north.example/backups\"\nregion = \"north\"\nhost = \"s3\"\n\
             secrets = { AWS_ACCESS_KEY_ID = \"far-id\", AWS_SECRET_ACCESS_KEY = \"far-key\" }\nwithin = \"2d\"\n\
             locked_for = \"30d\"\nbandwidth = \"Mon-08:00,1M Fri-18:00,off\"",
        );
        let file = file.unwrap();
        let (shop, west) = ("shop".parse().unwrap(), "west".parse().unwrap());
        let far = &file.vault[&"far".parse().unwrap()];
        assert_eq!(file.app[&shop].copy_to.iter().map(VaultName::as_str).collect::<Vec<_>>(), ["far"]);
        assert_eq!(Ok(far.repository(&shop, &west)), Address::parse("s3:https://s3.north.example/backups/shop/west"));
        assert_eq!(far.place(), SiteSpec { region: Some("north".into()), ..SiteSpec::default() });
        assert_eq!((far.log_every.to_string(), far.within.to_string()), ("5m".into(), "2d".into()));
        assert_eq!(far.bandwidth.as_ref().map(Timetable::to_string).as_deref(), Some("Mon-08:00,1M Fri-18:00,off"));
        assert_eq!((far.locked_for_days(), far.verify_within), (Some(30), None));
        let json = serde_json::to_string(far).unwrap();
        assert_eq!(&serde_json::from_str::<VaultSpec>(&json).unwrap(), far);
    }

    #[test]
    fn each_store_has_storage_classes_of_its_own() {
        for (address, classes) in [
            ("s3:https://host/box", &S3_CLASSES[..]),
            ("azure:box:/", &AZURE_CLASSES[..]),
            ("gs:box:/", &GOOGLE_CLASSES[..]),
        ] {
            for class in classes {
                let file = with_vault(&format!("address = \"{address}\"\ndata_class = \"{class}\"")).unwrap();
                assert_eq!(file.vault[&"far".parse().unwrap()].data_class.as_deref(), Some(*class), "{address}");
                assert!(Address::is_any_data_class(class), "{class}");
            }
        }
        assert!(!Address::is_any_data_class("NEARLNE"));
    }

    #[test]
    fn what_is_wrong_about_a_further_vault_is_named() {
        let check = |lines: &str, expected: &str| {
            let message = with_vault(lines).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
            assert!(!message.contains("sesame"), "{message}");
        };
        let s3 = |more: &str| format!("address = \"s3:https://s3.north.example/backups\"\n{more}");
        check("region = \"north\"", "line 1, column 1: missing field `address`");
        check("address = \"b2:backups\"", "line 2, column 11: a vault at b2…: there is no such kind");
        check(
            "address = \"rest:https://mia:sesame@host/\"",
            "line 2, column 11: a vault at rest…: leave the password out",
        );
        check("address = \"webdav:host/x\"", "begins with http://");
        check("address = \"backups\"", "line 2, column 11: a vault at a folder…: its path must be absolute");
        check(
            &s3("secrets = { AWS_ACCES_KEY = \"x\" }"),
            "vault.far.secrets.AWS_ACCES_KEY: no such vault is opened by it",
        );
        check(
            &s3("secrets = { AWS_PROFILE = \"Open sesame\" }"),
            "vault.far.secrets.AWS_PROFILE: this is not the name",
        );
        check("address = \"/mnt/nas\"\nsecrets = { AWS_PROFILE = \"x\" }", "no variable opens such a vault");
        check("address = \"/mnt/nas\"\ncacert = \"/etc/ca.pem\"", "vault.far.cacert: this is for vaults");
        check(&s3("cacert = \"ca.pem\""), "vault.far.cacert: ca.pem must be an absolute path");
        check(&s3("log_every = \"0s\""), "vault.far.log_every: it must be longer than nothing");
        check(&s3("within = \"5m\""), "vault.far.within: it must be longer than log_every (5m)");
        check(&s3("verify_within = \"0d\""), "vault.far.verify_within: it must be longer than nothing");
        check(&s3("data_class = \"cold\""), "vault.far.data_class: \"cold\" is no storage class");
        check(
            "address = \"/mnt/nas\"\ndata_class = \"STANDARD_IA\"",
            "vault.far.data_class: this is for vaults at s3:",
        );
        let azure = |class: &str| format!("address = \"azure:box:/\"\ndata_class = \"{class}\"");
        let google = |class: &str| format!("address = \"gs:box:/\"\ndata_class = \"{class}\"");
        check(&azure("cool"), "vault.far.data_class: \"cool\" is no storage class of Azure; one is Cool");
        check(&azure("NEARLINE"), "vault.far.data_class: \"NEARLINE\" is no storage class of Azure");
        check(
            &google("STANDARD_IA"),
            "vault.far.data_class: \"STANDARD_IA\" is no storage class of Google; one is NEARLINE",
        );
        check(&google(""), "vault.far.data_class: \"\" is no storage class of Google");
        check("address = \"sftp:host:/x\"\ndata_class = \"Cool\"", "vault.far.data_class: this is for vaults at s3:");
        check(&s3("locked_for = \"36h\""), "vault.far.locked_for: say whole days, from 1d to 3660d");
        check(&s3("locked_for = \"4000d\""), "vault.far.locked_for: say whole days");
        check("address = \"/mnt/nas\"\nlocked_for = \"30d\"", "vault.far.locked_for: this is for vaults at s3:");
        check(&s3("bandwidth = \"0\""), "line 3, column 13: \"0\" is no bandwidth limit: write KiB per second");
        check("address = \"/mnt/nas\"\nbandwidth = \"1M\"", "vault.far.bandwidth: this is for vaults that are reached");
        check(&s3("regoin = \"north\""), "line 3, column 1: unknown field `regoin`");
        let message = ProtectionFile::parse(SHOP).unwrap_err().to_string();
        assert!(message.starts_with("app.shop.copy_to: there is no [vault.far]"), "{message}");
    }
}
