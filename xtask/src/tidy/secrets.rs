//! Nothing that is named like a secret is given to a log, an error or the terminal.

use super::sources::Source;
use super::text::code_only;

/// Macros whose text is seen by somebody.
const SEEN: [&str; 14] = [
    "error!",
    "warn!",
    "info!",
    "debug!",
    "trace!",
    "println!",
    "eprintln!",
    "print!",
    "eprint!",
    "anyhow!",
    "bail!",
    "panic!",
    "event!",
    "span!",
];

/// Words that a secret is named by.
const SECRET_WORDS: [&str; 6] = ["password", "passphrase", "secret", "token", "private_key", "master_key"];

/// Endings of names for things that are about a secret and do not hold it.
const HARMLESS_ENDINGS: [&str; 11] =
    ["_name", "_names", "_file", "_path", "_folder", "_id", "_ids", "_hash", "_count", "_source", "_at"];

/// A line with this remark is shown on purpose; the remark says why.
const ON_PURPOSE: &str = "tidy: shown on purpose";

pub fn check(file: &Source, findings: &mut Vec<String>) {
    let code = code_only(&file.text);
    for macro_name in SEEN {
        for (at, _) in code.match_indices(macro_name) {
            let continues = code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
            if continues {
                continue;
            }
            let arguments = arguments(&code[at + macro_name.len()..]);
            let line = code[..at].matches('\n').count();
            if let Some(word) =
                words(arguments).find(|(at, word)| names_a_secret(word) && !is_shown_as_path(&arguments[*at..]))
                && !is_on_purpose(&file.text, line)
            {
                findings.push(format!(
                    "{}:{}: {macro_name} is given `{}`, which is named like a secret (if it is meant: `// {ON_PURPOSE}: why`)",
                    file.path.display(),
                    line + 1,
                    word.1
                ));
            }
        }
    }
}

/// From the opening bracket to the one that closes it.
fn arguments(code: &str) -> &str {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth <= 0 && at > 0 {
            return &code[..at];
        }
    }
    code
}

/// The words of a code, with their places.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = 0;
    std::iter::from_fn(move || {
        let start = rest + code[rest..].find(is_part)?;
        let end = start + code[start..].find(|c| !is_part(c)).unwrap_or(code.len() - start);
        rest = end;
        Some((start, &code[start..end]))
    })
}

/// Whether a value is a path: `folder.admin_token().display()` shows where a token lies, not the token.
fn is_shown_as_path(value: &str) -> bool {
    let end = value.find([',', ';', '\n']).unwrap_or(value.len());
    value[..end].contains(".display()")
}

fn names_a_secret(word: &str) -> bool {
    // Types and constants are not values that hold one.
    let is_value = word.chars().next().is_some_and(|c| c.is_lowercase() || c == '_');
    let lower = word.to_lowercase();
    is_value
        && SECRET_WORDS.iter().any(|secret| lower.contains(secret))
        && !HARMLESS_ENDINGS.iter().any(|ending| lower.ends_with(ending))
}

/// Whether the line of the macro, or the one before it, says so.
fn is_on_purpose(text: &str, line: usize) -> bool {
    text.lines().skip(line.saturating_sub(1)).take(if line == 0 { 1 } else { 2 }).any(|line| line.contains(ON_PURPOSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_messages_are_found() {
        let check = |text: &str, expected: usize| {
            let mut findings = Vec::new();
            check(&Source { path: "a.rs".into(), text: text.into() }, &mut findings);
            assert_eq!(findings.len(), expected, "{text}: {findings:?}");
        };
        check("info!(\"connected with {password}\");", 1);
        check("tracing::warn!(user, secret = %value, \"refused\");", 1);
        check("println!(\n    \"{}\",\n    join_token.reveal()\n);", 1);
        check("bail!(\"the password of {user} is wrong\");", 0);
        check("info!(\"read {password_file}\"); let password = 1;", 0);
        check("// tidy: shown on purpose: it is asked for\nprintln!(\"{token}\");", 0);
        check("my_info!(token)", 0);
        check("info!(file = %folder.admin_token().display(), \"wrote it\");", 0);
        check("info!(file = %path.display(), token);", 1);
    }
}
