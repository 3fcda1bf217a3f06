//! Rules for single files: length, `unsafe`, addresses of package registries.

use std::path::Path;

use super::sources::Source;

/// A file of more lines holds a second idea.
const LINES_MAX: usize = 600;

/// Parts of the names of package registries' hosts, joined here so that this file does not break its own rule.
const REGISTRY_HOSTS: [(&str, &str); 9] = [
    ("crates", ".io"),
    ("pypi", ".org"),
    ("pythonhosted", ".org"),
    ("npmjs", ".org"),
    ("proxy.golang", ".org"),
    ("deb.debian", ".org"),
    ("archive.ubuntu", ".com"),
    ("nodesource", ".com"),
    ("rsproxy", ".cn"),
];

pub fn check(file: &Source, findings: &mut Vec<String>) {
    let path = file.path.display();
    for (index, line) in file.text.lines().enumerate() {
        for (name, domain) in REGISTRY_HOSTS {
            if line.contains(&format!("{name}{domain}")) {
                findings.push(format!("{path}:{}: names the registry {name}{domain}", index + 1));
            }
        }
    }
    if !file.is_rust() {
        return;
    }
    let lines = file.text.lines().count();
    if lines > LINES_MAX {
        findings.push(format!("{path}: {lines} lines (at most {LINES_MAX}): look for the second idea"));
    }
    if file.path.starts_with(Path::new("crates/device")) {
        return;
    }
    let code = code_only(&file.text);
    for (index, line) in code.lines().enumerate() {
        if line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "unsafe") {
            findings.push(format!("{path}:{}: unsafe code belongs in crates/device", index + 1));
        }
    }
}

/// The text with its comments, strings and characters blanked out; line breaks stay.
///
/// In a string that is formatted, the names between braces stay, since they are code.
pub fn code_only(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < characters.len() {
        let rest = &characters[at..];
        let length = match rest {
            ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => end_of_block_comment(rest),
            ['r', '"' | '#', ..] if !continues_a_word(&characters, at) => end_of_raw_string(rest).unwrap_or_default(),
            ['"', ..] => {
                let length = end_of_string(rest);
                push_blank_but_placeholders(&rest[..length], &mut code);
                at += length;
                continue;
            }
            ['\'', '\\', _, '\'', ..] => 4,
            ['\'', _, '\'', ..] => 3,
            _ => 0,
        };
        if length == 0 {
            code.push(rest[0]);
            at += 1;
        } else {
            code.extend(rest[..length].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at += length;
        }
    }
    code
}

/// Whether the `r` at this place belongs to a longer word; `br"…"` is a raw string too.
fn continues_a_word(characters: &[char], at: usize) -> bool {
    let in_word =
        |at: Option<usize>| at.and_then(|at| characters.get(at)).is_some_and(|c| c.is_alphanumeric() || *c == '_');
    match at.checked_sub(1) {
        Some(before) if characters[before] == 'b' => in_word(before.checked_sub(1)),
        before => in_word(before),
    }
}

fn end_of_block_comment(text: &[char]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        match &text[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn end_of_raw_string(text: &[char]) -> Option<usize> {
    let hashes = text[1..].iter().take_while(|c| **c == '#').count();
    if text.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let start = 2 + hashes;
    let ends =
        |at: &usize| text[*at] == '"' && text[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
    Some((start..text.len()).find(ends).map_or(text.len(), |at| at + 1 + hashes))
}

fn end_of_string(text: &[char]) -> usize {
    let mut at = 1;
    while at < text.len() {
        match text[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

fn push_blank_but_placeholders(string: &[char], code: &mut String) {
    let mut at = 0;
    while at < string.len() {
        if string[at] == '{' && string.get(at + 1) == Some(&'{') {
            code.push_str("  ");
            at += 2;
            continue;
        }
        let name: String = match string[at] {
            '{' => string[at + 1..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').collect(),
            _ => String::new(),
        };
        if name.is_empty() {
            code.push(if string[at] == '\n' { '\n' } else { ' ' });
            at += 1;
        } else {
            code.push(' ');
            code.push_str(&name);
            at += 1 + name.chars().count();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_is_left() {
        let check = |text: &str, expected: &str| {
            let words: Vec<String> = code_only(text).split_whitespace().map(str::to_string).collect();
            assert_eq!(words.join(" "), expected, "{text}");
        };
        check("let a = 1; // unsafe", "let a = 1;");
        check("a /* x /* y */ z */ b", "a b");
        check("f(\"unsafe \\\" {name:?} {{no}}\", b'\\'', 'x')", "f( name , b , )");
        check("r#\"raw \" here\"# after for 'a", "after for 'a");
        check("br\"x\" r", "b r");
    }

    #[test]
    fn rules_for_single_files() {
        let check = |path: &str, text: String, expected: usize| {
            let mut findings = Vec::new();
            check(&Source { path: path.into(), text }, &mut findings);
            assert_eq!(findings.len(), expected, "{findings:?}");
        };
        check("crates/a/src/lib.rs", "unsafe { x() }\n// unsafe\n#![deny(unsafe_code)]\n".into(), 1);
        check("crates/device/src/lib.rs", "unsafe { x() }\n".into(), 0);
        check("crates/a/src/lib.rs", "\n".repeat(601), 1);
        check("docs/a.md", "\n".repeat(601), 0);
        check("docs/a.md", format!("see {}{}\n", "crates", ".io"), 1);
    }
}
