use super::Home;

/// The help of a command and of every command below it, in the order in which the help lists them.
fn add_pages(home: &Home, command: &[&str], pages: &mut Vec<(String, String)>) {
    let help = home.levee(&[command, &["--help"][..]].concat());
    pages.push((command.join(" "), help.clone()));
    for name in subcommands(&help) {
        add_pages(home, &[command, &[name][..]].concat(), pages);
    }
}

/// The names of the commands that a help lists.
fn subcommands(help: &str) -> impl Iterator<Item = &str> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // What goes on in a second line stands further in.
    let named = listed.filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    named.filter_map(|line| line.split(' ').next()).filter(|name| *name != "help")
}

/// Every command with its help, as it is printed.
fn pages() -> Vec<(String, String)> {
    let mut pages = Vec::new();
    add_pages(&Home::new(), &[], &mut pages);
    pages
}

/// All of it as one text.
fn help() -> String {
    let mut text = String::new();
    for (command, help) in pages() {
        let command = if command.is_empty() { command } else { format!("{command} ") };
        text.push_str(&format!("$ levee {command}--help\n{help}\n"));
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

/// The manual is made from the command tree itself: no command is left out of what was reviewed.
#[test]
fn the_help_that_was_reviewed_is_that_of_every_command() {
    let manual = Home::new().levee(&["man"]);
    let section = |line: &str| Some(line.strip_prefix(".SH \"LEVEE ")?.strip_suffix('"')?.to_lowercase());
    let mut in_the_manual: Vec<String> = manual.lines().filter_map(section).collect();
    // The first is that of `levee` alone.
    let mut reviewed: Vec<String> = pages().iter().skip(1).map(|(command, _)| command.replace('-', " ")).collect();
    in_the_manual.sort();
    reviewed.sort();
    assert!(!in_the_manual.is_empty(), "{manual}");
    assert_eq!(reviewed, in_the_manual);
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
