//! Entries: the names by which an app's users reach it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Period;
use crate::SiteName;

/// Where users reach the app: a DNS name that Levee's nodes answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntrySpec {
    /// A fully qualified DNS name; the final dot may be left out.
    pub name: String,
    #[serde(default = "EntrySpec::default_ttl")]
    pub ttl: Period,
    pub at: BTreeMap<SiteName, EntrySite>,
}

impl EntrySpec {
    fn default_ttl() -> Period {
        Period::from_seconds(1)
    }
}

/// What an entry resolves to while the app is written at a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntrySite {
    pub address: IpAddr,
}
