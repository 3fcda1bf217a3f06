use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use levee_api::{
    ApplyRequest, Client, ClientError, ClientOptions, ErrorBody, Health, JoinTokenRequest, ROUTES, RunFilter, Token,
    TokenAccess, TokenRequest,
};
use tempfile::TempDir;
use tower::ServiceExt;

use crate::server::{Server, ServerOptions};

async fn start() -> (TempDir, Server) {
    let folder = tempfile::tempdir().unwrap();
    let anywhere = ([127, 0, 0, 1], 0).into();
    let options = ServerOptions {
        folder: folder.path().into(),
        api_listen: anywhere,
        wire_listen: anywhere,
        dns_listen: None,
        advertise: Vec::new(),
    };
    let server = Server::start(options).await.unwrap();
    (folder, server)
}

fn admin_token(folder: &TempDir) -> String {
    std::fs::read_to_string(folder.path().join("admin-token")).unwrap().trim().to_string()
}

async fn ask(router: &Router, request: Request<Body>) -> (StatusCode, ErrorBody) {
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_that_is_described_is_served_and_needs_a_token() {
    let (_folder, server) = start().await;
    let router = super::router(server.control());
    for route in ROUTES {
        let method = serde_json::to_value(&route.method).unwrap().as_str().unwrap().to_uppercase();
        let path = route.path.replace(['{', '}'], "");
        for token in ["", "Bearer ", "Bearer levee-api-000000000000-00", "Basic YTpi"] {
            let mut request = Request::builder().method(method.as_str()).uri(&path);
            if !token.is_empty() {
                request = request.header("authorization", token);
            }
            let (status, body) = ask(&router, request.body(Body::empty()).unwrap()).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path} {token:?} {body:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_gets_an_answer_that_says_so() {
    let (folder, server) = start().await;
    let router = super::router(server.control());
    let token = admin_token(&folder);
    let call = |method: &str, path: &str, content: &str, body: String| {
        Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("bearer {token}"))
            .header("content-type", content)
            .body(Body::from(body))
            .unwrap()
    };
    let json = "application/json";
    let cases = [
        (call("GET", "/v1/nothing", json, String::new()), 404, "no_such_call"),
        (call("GET", "/", json, String::new()), 404, "no_such_call"),
        (call("DELETE", "/v1/status", json, String::new()), 404, "no_such_call"),
        (call("POST", "/v1/apply", json, "{".into()), 400, "bad_body"),
        (call("POST", "/v1/apply", "text/plain", "{}".into()), 415, "bad_body"),
        (call("POST", "/v1/apply", json, r#"{"fill": ""}"#.into()), 422, "bad_body"),
        (call("POST", "/v1/apply", json, format!(r#"{{"file": "{}"}}"#, "x".repeat(2 << 20))), 413, "bad_body"),
        (call("POST", "/v1/apply", json, r#"{"file": "[app.shop]\nhom = 1"}"#.into()), 422, "protection_file"),
        (call("GET", "/v1/apps/UPPER", json, String::new()), 422, "invalid_name"),
        (call("GET", "/v1/apps/shop", json, String::new()), 404, "unknown_app"),
        (call("GET", "/v1/runs/none/events?wait_s=1", json, String::new()), 404, "unknown_run"),
        (call("GET", "/v1/runs?open=perhaps", json, String::new()), 400, "bad_query"),
        (call("POST", "/v1/backup", json, "{}".into()), 422, "backup"),
        (call("POST", "/v1/runs", json, r#"{"plan": "0123456789"}"#.into()), 404, "unknown_plan"),
    ];
    for (request, status, code) in cases {
        let what = format!("{} {}", request.method(), request.uri());
        let (got, body) = ask(&router, request).await;
        assert_eq!((got.as_u16(), body.error.code.as_str()), (status, code), "{what}: {}", body.error.message);
        assert!(!body.error.message.contains(&token));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_and_the_server_understand_each_other() {
    let (folder, server) = start().await;
    let address = format!("https://{}", server.listening().api);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(async { _ = stopped.await }));
    let token = admin_token(&folder);
    let ca_pem = std::fs::read(folder.path().join("ca/ca.pem")).unwrap();
    let asking = tokio::task::spawn_blocking(move || {
        let client = |token: &str, ca_pem: &[u8]| {
            let options = ClientOptions { server: address.clone(), token: Token::new(token), ca_pem: ca_pem.to_vec() };
            Client::new(options).unwrap()
        };
        let admin = client(&token, &ca_pem);
        let status = admin.status().unwrap();
        assert_eq!((status.health, status.apps.len()), (Health::Protected, 0));
        assert!(admin.sites().unwrap().is_empty() && admin.agents().unwrap().is_empty());
        assert!(admin.apps().unwrap().is_empty());
        let all = RunFilter { app: Some("shop".parse().unwrap()), open: true, limit: Some(3) };
        assert!(admin.runs(&all).unwrap().is_empty());

        let request = TokenRequest { name: "watcher".into(), access: TokenAccess::Read, expires_at: None };
        let created = admin.create_token(&request).unwrap();
        assert!(!format!("{created:?}").contains(&created.token.0));
        assert_eq!(admin.tokens().unwrap().len(), 2);
        let watcher = client(&created.token.0, &ca_pem);
        watcher.status().unwrap();
        let refused = watcher.create_join_token(&JoinTokenRequest::default()).unwrap_err();
        assert_eq!(refused.code(), Some("read_only_token"));
        admin.revoke_token(&created.view.id).unwrap();
        assert_eq!(watcher.status().unwrap_err().code(), Some("bad_token"));

        let join = JoinTokenRequest { site: Some("east".parse().unwrap()), expires_at: None };
        let join = admin.create_join_token(&join).unwrap();
        assert!(join.token.0.starts_with("levee-join-"));
        assert_eq!(admin.join_tokens().unwrap()[0].site, join.view.site);
        admin.revoke_join_token(&join.view.id).unwrap();

        let file = "[app.shop]\nhome = \"east\"\nrecovery = \"west\"\n[app.shop.files.a]\nevery = \"5s\"\n\
                    at.east.path = \"/a\"\nat.west.path = \"/a\"\n";
        let refused = admin.apply(&ApplyRequest { file: file.into(), dry_run: true }).unwrap_err();
        assert_eq!(refused.code(), Some("unknown_site"), "{refused}");

        // Another authority's certificate, as from a server that was set up anew.
        let other = tempfile::tempdir().unwrap();
        levee_wire::CertificateAuthority::open_or_create(other.path(), jiff::Timestamp::now()).unwrap();
        let other_pem = std::fs::read(other.path().join("ca.pem")).unwrap();
        let error = client(&token, &other_pem).status().unwrap_err();
        assert!(matches!(error, ClientError::WrongCa { .. }), "{error:?}");
    });
    asking.await.unwrap();
    drop(stop);
    serving.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_clients_do_not_hold_up_the_end() {
    let (_folder, server) = start().await;
    let address = server.listening().api;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(async { _ = stopped.await }));
    let silent = Arc::new(tokio::net::TcpStream::connect(address).await.unwrap());
    drop(stop);
    tokio::time::timeout(std::time::Duration::from_secs(8), serving).await.unwrap().unwrap().unwrap();
    drop(silent);
}
