use super::Home;

/// The help of the commands of the fleet, as it is printed.
fn help() -> String {
    let home = Home::new();
    let commands: &[&[&str]] = &[
        &[],
        &["up"],
        &["server"],
        &["server", "init"],
        &["server", "run"],
        &["server", "backup"],
        &["agent"],
        &["agent", "join"],
        &["agent", "run"],
        &["agent", "secret"],
        &["apply"],
        &["status"],
        &["run"],
        &["run", "skip"],
        &["token", "create"],
        &["drill"],
        &["failover"],
        &["switchover"],
    ];
    let mut text = String::new();
    for command in commands {
        text.push_str(&format!("$ levee {}\n", [command, &["--help"][..]].concat().join(" ")));
        text.push_str(&home.levee(&[command, &["--help"][..]].concat()));
        text.push('\n');
    }
    text
}

#[test]
fn the_help_is_as_it_was_reviewed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/control/help.txt");
    let now = help();
    if std::env::var_os("LEVEE_TESTS_WRITE_HELP").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    let line = kept.lines().zip(now.lines()).position(|(kept, now)| kept != now);
    assert!(
        kept == now,
        "line {line:?} of {path} differs: look at it, and write it anew with LEVEE_TESTS_WRITE_HELP=1"
    );
}

#[test]
fn completions_and_the_manual_name_every_command() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = home.levee(&["completions", shell]);
        for word in ["switchover", "old-site-is-down", "snapshots"] {
            assert!(script.contains(word), "{word} in the completions for {shell}");
        }
    }
    let page = home.levee(&["man"]);
    for word in [".TH levee", "LEVEE SERVER BACKUP", "LEVEE VAULT RESTORE", "LEVEE FAILOVER", "old\\-site\\-is\\-down"]
    {
        assert!(page.contains(word), "{word} in the manual");
    }
}

#[test]
fn the_description_of_the_api_is_the_one_that_is_checked_in() {
    let kept = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json")).unwrap();
    assert_eq!(Home::new().levee(&["openapi"]), kept);
}

#[test]
fn wrong_use_ends_with_1_and_says_what_is_right() {
    let home = Home::new();
    for (arguments, said) in [
        (&["stauts"][..], "status"),
        (&["failover", "shop"], "--to"),
        (&["failover", "Shop", "--to", "west"], "not a valid name"),
        (&["token", "create"], "--name"),
        (&["token", "create", "--name", "a", "--join"], "cannot be used with"),
        (&["run", "skip", "r", "s"], "--reason"),
        (&["server", "backup", "--output", "x"], "--recipient"),
    ] {
        let ended = home.ends(1, arguments);
        assert!(ended.stderr.contains(said) && ended.stdout.is_empty(), "{arguments:?}: {}", ended.stderr);
    }
}
