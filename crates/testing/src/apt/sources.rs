use std::fs;

/// Where this machine gets its own release from. The address is read when it is needed and written
/// nowhere: a machine behind a mirror of its own keeps using that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    address: String,
    signed_by: Option<String>,
}

impl Source {
    /// The first source of the release's own suite with the component `main`.
    pub(super) fn of_this_machine() -> Result<Source, String> {
        let release =
            fs::read_to_string("/etc/os-release").map_err(|error| format!("cannot read /etc/os-release: {error}"))?;
        let codename = release
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
            .ok_or("/etc/os-release names no VERSION_CODENAME: this needs a Debian release")?
            .trim_matches('"');
        source_files()
            .iter()
            .find_map(|(name, text)| find(name, text, codename))
            .ok_or_else(|| format!("no apt source of this machine serves {codename} main"))
    }

    /// One line of a sources list for another suite of the same mirror.
    pub(super) fn line(&self, suite: &str) -> String {
        let options = self.signed_by.as_ref().map(|path| format!("[signed-by={path}] ")).unwrap_or_default();
        format!("deb {options}{} {suite} main\n", self.address)
    }
}

fn source_files() -> Vec<(String, String)> {
    let mut paths = vec![std::path::PathBuf::from("/etc/apt/sources.list")];
    let mut parts: Vec<_> =
        fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    parts.sort();
    paths.extend(parts);
    let read = |path: std::path::PathBuf| Some((path.to_str()?.to_string(), fs::read_to_string(&path).ok()?));
    paths.into_iter().filter_map(read).collect()
}

fn find(file_name: &str, text: &str, codename: &str) -> Option<Source> {
    if file_name.ends_with(".sources") { find_in_stanzas(text, codename) } else { find_in_lines(text, codename) }
}

/// The one-line form: `deb [options] ADDRESS SUITE COMPONENT…`.
fn find_in_lines(text: &str, codename: &str) -> Option<Source> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let words: Vec<&str> = rest.split_whitespace().collect();
        let signed_by =
            options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")).map(str::to_string);
        let serves = words.get(1) == Some(&codename) && words.get(2..)?.contains(&"main");
        serves.then(|| Source { address: words[0].into(), signed_by })
    })
}

/// The form of `.sources` files: stanzas of `Field: value`.
fn find_in_stanzas(text: &str, codename: &str) -> Option<Source> {
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| {
            stanza.lines().find_map(|line| {
                let (field, value) = line.split_once(':')?;
                field.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        let has = |name: &str, wanted: &str| {
            field(name).is_some_and(|value| value.split_whitespace().any(|word| word == wanted))
        };
        let serves = has("Types", "deb") && has("Suites", codename) && has("Components", "main");
        // A key that is written out in the stanza is no path; apt then uses the keys that it trusts anyway.
        let signed_by = field("Signed-By").filter(|value| value.starts_with('/')).map(str::to_string);
        let address = field("URIs")?.split_whitespace().next()?.to_string();
        serves.then_some(Source { address, signed_by })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_sources_are_understood() {
        let check = |name: &str, text: &str, line: &str| {
            assert_eq!(find(name, text, "bookworm").expect("a source").line("sid"), line);
        };
        check(
            "a.sources",
            "Types: deb\nURIs: http://other.test/x\nSuites: stable\nComponents: main\n\n\
             Types: deb\n# a remark\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\n\
             Components: main\nSigned-By: /keys/a.gpg\n",
            "deb [signed-by=/keys/a.gpg] http://mirror.test/debian sid main\n",
        );
        check(
            "sources.list",
            "# deb http://old.test bookworm main\ndeb http://sec.test bookworm-security main\n\
             deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian/ bookworm contrib main\n",
            "deb [signed-by=/k.gpg] http://mirror.test/debian/ sid main\n",
        );
        check("sources.list", "deb http://m.test bookworm main", "deb http://m.test sid main\n");
        assert_eq!(find("sources.list", "deb-src http://m.test bookworm main", "bookworm"), None);
    }
}
