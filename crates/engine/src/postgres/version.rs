use std::fmt;

/// A server's version, as `server_version_num` has it: 150018 is 15.18.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerVersion(pub u32);

impl ServerVersion {
    pub fn major(self) -> u32 {
        self.0 / 10_000
    }

    /// Reads `server_version`, such as `15.18 (Debian 15.18-1)` or `17devel`.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let number = text.split_whitespace().next()?;
        let mut parts = number.split('.');
        let digits = |part: &str| {
            let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..end].parse::<u32>().ok()
        };
        let major = digits(parts.next()?)?;
        let minor = parts.next().and_then(digits).unwrap_or(0);
        Some(Self(major.checked_mul(10_000)?.checked_add(minor)?))
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major(), self.0 % 10_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_with_their_decorations() {
        let check = |text: &str, number: Option<u32>| assert_eq!(ServerVersion::from_text(text).map(|v| v.0), number);
        check("15.18 (Debian 15.18-0+deb12u1)", Some(150_018));
        check("17devel", Some(170_000));
        check("16beta2", Some(160_000));
        check("", None);
        check("x", None);
        check("99999999999", None);
    }
}
