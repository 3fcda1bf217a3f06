use super::*;
use crate::LocalStore;

struct Case {
    store: LocalStore,
    _dir: tempfile::TempDir,
}

fn case() -> Case {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::new(dir.path().join("repository"));
    store.create().unwrap();
    Case { store, _dir: dir }
}

impl Case {
    fn ask(&self, access: Access, method: &str, path: &str, body: &[u8]) -> Response {
        handle(&self.store, access, Request { method, path, query: None, range: None, accept: None, body })
    }
}

fn file(folder: &str, content: &[u8]) -> String {
    format!("/{folder}/{}", content_name(content))
}

#[test]
fn append_only_allows_what_a_backup_needs_and_no_more() {
    let case = case();
    case.store.write(FileType::Config, "", b"config").unwrap();
    let append = |method: &str, path: &str, body: &[u8]| case.ask(Access::Append, method, path, body).status;
    for folder in ["data", "index", "snapshots", "locks"] {
        let path = file(folder, b"content");
        assert_eq!(append("POST", &path, b"content"), 200, "{folder}");
        assert_eq!(append("POST", &path, b"content"), 200, "the same content again: {folder}");
        assert_eq!(append("POST", &path, b"changed"), 400, "another content: {folder}");
        assert_eq!(append("GET", &path, b""), 200, "{folder}");
        assert_eq!(append("HEAD", &path, b""), 200, "{folder}");
        assert_eq!(append("DELETE", &path, b""), if folder == "locks" { 200 } else { 403 }, "{folder}");
    }
    assert_eq!(append("POST", &file("keys", b"key"), b"key"), 403);
    assert_eq!(append("POST", "/config", b"other"), 403);
    assert_eq!(append("POST", "/config", b"config"), 403);
    assert_eq!(append("DELETE", "/config", b""), 403);
    assert_eq!(append("DELETE", "/", b""), 405);
    assert_eq!(append("PUT", &file("data", b"x"), b"x"), 405);
    assert_eq!(case.store.read(FileType::Config, "").unwrap(), b"config");
    assert_eq!(case.store.list(FileType::Key).unwrap(), []);
    let create =
        Request { method: "POST", path: "/", query: Some("create=true"), range: None, accept: None, body: b"" };
    assert_eq!(handle(&case.store, Access::Append, create).status, 403);
    assert_eq!(handle(&case.store, Access::Owner, create).status, 200);
}

#[test]
fn a_reader_changes_nothing() {
    let case = case();
    let path = file("locks", b"lock");
    assert_eq!(case.ask(Access::Owner, "POST", &path, b"lock").status, 200);
    for (method, path) in [("POST", &file("locks", b"x")), ("DELETE", &path), ("POST", &"/config".to_string())] {
        assert_eq!(case.ask(Access::Read, method, path, b"x").status, 403, "{method} {path}");
    }
    assert_eq!(case.ask(Access::Read, "GET", &path, b"").body, b"lock");
}

#[test]
fn an_owner_makes_keys_and_removes_anything() {
    let case = case();
    let owner = |method: &str, path: &str, body: &[u8]| case.ask(Access::Owner, method, path, body).status;
    assert_eq!(owner("POST", "/config", b"config"), 200);
    assert_eq!(owner("POST", "/config", b"other"), 403);
    assert_eq!(owner("POST", &file("keys", b"key"), b"key"), 200);
    assert_eq!(owner("POST", &file("keys", b"key"), b"yek"), 400);
    assert_eq!(owner("DELETE", &file("keys", b"key"), b""), 200);
    assert_eq!(owner("DELETE", &file("keys", b"key"), b""), 404);
}

#[test]
fn paths_that_are_no_file_of_a_repository_are_not_found() {
    let case = case();
    let digits = "0".repeat(64);
    for path in ["/x", "/data/../config", "/data/00/x", "/config/x", "/keys/..", "//etc/passwd", &format!("/{digits}")]
    {
        for method in ["GET", "HEAD", "POST", "DELETE"] {
            assert_eq!(case.ask(Access::Owner, method, path, b"").status, 404, "{method} {path}");
        }
    }
    for upper in [content_name(b"x").to_uppercase(), format!("{digits}0")] {
        assert_eq!(case.ask(Access::Owner, "POST", &format!("/data/{upper}"), b"x").status, 404);
    }
}

#[test]
fn ranges_are_answered_as_http_has_them() {
    let case = case();
    let path = file("data", b"0123456789");
    case.ask(Access::Owner, "POST", &path, b"0123456789");
    let check = |range: &str, status: u16, body: &[u8], content_range: &str| {
        let request = Request { method: "GET", path: &path, query: None, range: Some(range), accept: None, body: b"" };
        let response = handle(&case.store, Access::Append, request);
        let header = response.headers.iter().find(|(name, _)| *name == "content-range");
        assert_eq!((response.status, header.map_or("", |(_, value)| value)), (status, content_range), "{range}");
        if status != 416 {
            assert_eq!(response.body, body, "{range}");
        }
    };
    check("bytes=2-4", 206, b"234", "bytes 2-4/10");
    check("bytes=8-99", 206, b"89", "bytes 8-9/10");
    check("bytes=-3", 206, b"789", "bytes 7-9/10");
    check("bytes=10-", 416, b"", "bytes */10");
    check("bytes=0-1,3-4", 200, b"0123456789", "");
}

#[test]
fn listings_come_in_both_versions() {
    let case = case();
    let name = content_name(b"four");
    case.ask(Access::Owner, "POST", &format!("/data/{name}"), b"four");
    let list = |accept: Option<&str>| {
        let request = Request { method: "GET", path: "/data/", query: None, range: None, accept, body: b"" };
        let response = handle(&case.store, Access::Read, request);
        (response.headers[0].1.clone(), String::from_utf8(response.body).unwrap())
    };
    assert_eq!(list(None), (LISTING_V1.into(), format!("[\"{name}\"]")));
    let (media_type, body) = list(Some(LISTING_V2));
    assert_eq!(media_type, LISTING_V2);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body, serde_json::json!([{"name": name, "size": 4}]));
}

#[test]
fn head_tells_the_length_without_a_body() {
    let case = case();
    let path = file("index", b"an index");
    case.ask(Access::Owner, "POST", &path, b"an index");
    let response = case.ask(Access::Read, "HEAD", &path, b"");
    assert!(response.headers.contains(&("content-length", "8".into())));
    assert_eq!(response.body, b"");
}

#[test]
fn a_damaged_file_is_healed_by_the_content_that_belongs_there() {
    let case = case();
    let name = content_name(b"right");
    case.store.write(FileType::Data, &name, b"right").unwrap();
    std::fs::write(case.store.dir().join("data").join(&name[..2]).join(&name), b"wrong").unwrap();
    assert_eq!(case.ask(Access::Append, "POST", &format!("/data/{name}"), b"right").status, 200);
    assert_eq!(case.store.read(FileType::Data, &name).unwrap(), b"right");
}
