use super::Home;

const FILE: &str = r#"[app.shop]
home = "east"
recovery = "west"

[app.shop.files.documents]
every = "5s"
at.east.path = "/srv/east/documents"
at.west.path = "/srv/west/documents"
"#;

#[test]
fn a_typo_is_named_by_file_line_and_column_without_a_server() {
    let home = Home::new();
    let check = |from: &str, to: &str, expected: &str| {
        assert!(FILE.contains(from));
        let path = home.path("shop.toml");
        std::fs::write(&path, FILE.replace(from, to)).unwrap();
        let ended = home.ends(1, &["apply", "-f", path.to_str().unwrap()]);
        assert!(ended.stderr.contains(expected), "{}", ended.stderr);
        assert!(ended.stderr.starts_with(&format!("levee: {}:", path.display())), "{}", ended.stderr);
    };
    check("recovery =", "recovry =", "shop.toml:3:1: unknown field `recovry`");
    check("\"5s\"", "\"5 parsecs\"", "shop.toml:6:9:");
    check("home = \"east\"", "home = east", "shop.toml:2:8:");
    check("\"west\"", "\"east\"", "the recovery site must be another site than home");
    // Without a mistake the next thing that is missing is the server.
    let path = home.path("shop.toml");
    std::fs::write(&path, FILE).unwrap();
    let ended = home.ends(1, &["apply", "-f", path.to_str().unwrap()]);
    assert!(ended.stderr.contains("no server is known"), "{}", ended.stderr);
}

#[test]
fn a_file_that_is_not_there_or_no_text_is_named() {
    let home = Home::new();
    let ended = home.ends(1, &["apply", "-f", "/nowhere/shop.toml"]);
    assert!(ended.stderr.contains("cannot read /nowhere/shop.toml"), "{}", ended.stderr);
    let path = home.path("binary");
    std::fs::write(&path, [0xff, 0xfe, 0]).unwrap();
    let ended = home.ends(1, &["apply", "--json", "-f", path.to_str().unwrap()]);
    let error: serde_json::Value = serde_json::from_str(&ended.stderr).unwrap();
    assert_eq!((&error["message_type"], &error["code"]), (&"exit_error".into(), &1.into()));
    assert!(error["message"].as_str().unwrap().contains("is not text"), "{error}");
}
