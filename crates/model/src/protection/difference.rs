use serde::{Deserialize, Serialize};

/// In what two sites may differ without either being wrong: whether it matters is the operator's to judge. What would keep a
/// database from running (a version, a user, room, a port) is none of these, and can't be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difference {
    /// Another version of the C library, which may sort text another way.
    CLibrary,
}
