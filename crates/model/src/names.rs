use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A name that breaks the rule for names: 1 to 63 characters of `a-z`, `0-9`, `-`, `_` and `.`,
/// starting with a letter or a digit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {value:?} is not a valid name: use 1 to 63 characters of a-z, 0-9, '-', '_' and '.', starting with a letter or a digit"
)]
pub struct InvalidName {
    what: &'static str,
    value: String,
}

fn check_name(what: &'static str, value: &str) -> Result<(), InvalidName> {
    let bytes = value.as_bytes();
    let starts_well = bytes.first().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let allowed = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(b);
    // ".." would let a name climb out of the folder that is named by it.
    if starts_well && bytes.len() <= 63 && bytes.iter().all(allowed) && !value.contains("..") {
        Ok(())
    } else {
        Err(InvalidName { what, value: value.chars().take(80).collect() })
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks the rule for names.
            pub fn new(value: impl Into<String>) -> Result<Self, InvalidName> {
                let value = value.into();
                check_name($what, &value)?;
                Ok(Self(value))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(value: String) -> Result<Self, InvalidName> {
                Self::new(value)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(value: &str) -> Result<Self, InvalidName> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&self.0)
            }
        }
    };
}

name_type!(
    /// A place that can fail as a whole.
    SiteName,
    "site"
);
name_type!(
    /// The assets and entries that move together.
    AppName,
    "app"
);
name_type!(
    /// The name of an asset or entry inside its app.
    AssetName,
    "asset"
);
name_type!(
    /// One agent; it is in the agent's certificate.
    AgentId,
    "agent"
);
name_type!(
    /// One carrying-out of a plan.
    RunId,
    "run"
);
name_type!(
    /// A place for copies beside the sites.
    VaultName,
    "vault"
);

/// One protected thing, named across the fleet: `app/asset`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AssetId {
    pub app: AppName,
    pub asset: AssetName,
}

impl AssetId {
    pub fn new(app: AppName, asset: AssetName) -> Self {
        Self { app, asset }
    }
}

impl fmt::Display for AssetId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&format!("{}/{}", self.app, self.asset))
    }
}

impl FromStr for AssetId {
    type Err = InvalidName;
    fn from_str(value: &str) -> Result<Self, InvalidName> {
        let (app, asset) = value.split_once('/').ok_or_else(|| InvalidName {
            what: "asset (expected app/asset)",
            value: value.chars().take(80).collect(),
        })?;
        Ok(Self { app: app.parse()?, asset: asset.parse()? })
    }
}

impl TryFrom<String> for AssetId {
    type Error = InvalidName;
    fn try_from(value: String) -> Result<Self, InvalidName> {
        value.parse()
    }
}

impl From<AssetId> for String {
    fn from(id: AssetId) -> String {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for bad in ["", ".", "..", "a..b", "-a", "A", "a/b", "a b", "ü", &"a".repeat(64)] {
            assert!(SiteName::new(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "east", "shop-1", "0.db_main", &"a".repeat(63)] {
            assert!(SiteName::new(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn an_asset_id_reads_back_as_written() {
        let id: AssetId = "shop/orders".parse().unwrap();
        assert_eq!(id.to_string(), "shop/orders");
        assert!("shop".parse::<AssetId>().is_err());
        assert!("shop/a/b".parse::<AssetId>().is_err());
    }
}
