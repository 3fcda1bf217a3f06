//! HTTPS stores behind a proxy, which is asked for a way to them by CONNECT.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use levee_store::object_store::{Service, TransportOptions};
use levee_store::rest_server::Access;
use levee_store::{Error, FileType, LocalStore, ObjectStore, Proxies, RestOptions, RestStore, Store, conformance};
use levee_testing::front::Request;

use crate::cutter::{self, Cut};
use crate::s3;
use crate::server::Server;
use crate::tls::{Authority, HOST};

/// Whom a guarded proxy lets through: as it hears of them, and as they stand in its URL.
const USER: &str = "mia:open sesame";
const USER_IN_URL: &str = "mia:open%20sesame@";

#[derive(Clone, Copy)]
enum Manner {
    Open,
    Guarded,
    /// Answers so to everybody.
    Refusing(u16),
}

impl Manner {
    fn status(self, request: &Request) -> u16 {
        let right = format!("Basic {}", STANDARD.encode(USER));
        match self {
            Manner::Guarded if request.header("proxy-authorization") != Some(right.as_str()) => 407,
            Manner::Refusing(status) => status,
            Manner::Open | Manner::Guarded => 200,
        }
    }
}

struct Proxy {
    server: Server,
    /// The head of each request to the proxy itself.
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Leads to `upstream` whatever it is asked for: the store's name is known to no resolver.
    fn start(upstream: SocketAddr, manner: Manner) -> Self {
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = heads.clone();
        let server = Server::listen(move |client, _| {
            let Some(request) = Request::read(&client)? else { return Ok(()) };
            seen.lock().unwrap().push(request.head.clone());
            lead(client, upstream, manner.status(&request))
        });
        Self { server, heads }
    }

    fn url(&self, user: &str) -> String {
        format!("http://{user}{}", self.server.address)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn lead(mut client: TcpStream, upstream: SocketAddr, status: u16) -> io::Result<()> {
    if status != 200 {
        write!(client, "HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        return client.shutdown(Shutdown::Both);
    }
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    cutter::join(client, TcpStream::connect(upstream)?, Cut::Never)
}

fn proxies(set: &[(&str, &str)]) -> Proxies {
    let variable = |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
    Proxies::from_variables(&variable).unwrap()
}

/// A store over mutual TLS.
struct Case {
    authority: Authority,
    server: Server,
    _folder: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let store = LocalStore::new(folder.path().join("repository"));
        let server = Server::start_tls(store, Access::Owner, authority.server_config());
        Self { authority, server, _folder: folder }
    }

    /// As the proxy is asked for it.
    fn place(&self) -> String {
        format!("{HOST}:{}", self.server.address.port())
    }

    /// With a user of the store's own, and directly where no variable names a proxy.
    fn store(&self, variables: &[(&str, &str)]) -> RestStore {
        let options = RestOptions {
            base_url: format!("https://ben:hush@{}/some/repository", self.place()),
            tls: Some(self.authority.client_config(Some(&self.authority))),
            resolve: Some((HOST.into(), self.server.address)),
        };
        RestStore::through(&proxies(variables), options).unwrap()
    }

    /// What stores of either kind say when a proxy is between that lets nothing through.
    fn refusals(&self, proxy: &str) -> [Error; 2] {
        let variables = [("HTTPS_PROXY", proxy)];
        let service = Service::S3(s3::options(format!("https://{}", self.place()), s3::BUCKET, "tunnel"));
        let transport = TransportOptions {
            tls: Some(self.authority.client_config(Some(&self.authority))),
            proxies: proxies(&variables),
            ..TransportOptions::default()
        };
        let objects = ObjectStore::new(service, transport).unwrap();
        [
            self.store(&variables).size_bytes(FileType::Config, "").unwrap_err(),
            objects.size_bytes(FileType::Config, "").unwrap_err(),
        ]
    }
}

/// What an error says, which never tells a secret.
#[track_caller]
fn said_by(error: &Error) -> String {
    let said = format!("{error} {error:?}");
    assert!(!["sesame", "hush"].iter().any(|secret| said.contains(secret)), "{said}");
    said
}

#[test]
fn a_store_is_reached_through_a_proxy_that_hears_nothing_but_its_name() {
    let case = Case::new();
    let proxy = Proxy::start(case.server.address, Manner::Open);
    let url = proxy.url("");
    conformance::check(&case.store(&[("HTTPS_PROXY", url.as_str())]));
    let heads = proxy.heads();
    assert!(!heads.is_empty(), "it was reached without the proxy");
    for head in heads {
        assert!(head.starts_with(&format!("CONNECT {} HTTP/1.1\r\n", case.place())), "{head}");
        assert!(!head.to_ascii_lowercase().contains("authorization"), "{head}");
    }
}

/// The server of the tests refuses a request that tells it what opens a proxy.
#[test]
fn a_proxys_user_is_told_to_the_proxy_alone() {
    let case = Case::new();
    let proxy = Proxy::start(case.server.address, Manner::Guarded);
    let url = proxy.url(USER_IN_URL);
    let store = case.store(&[("https_proxy", url.as_str())]);
    store.create().unwrap();
    assert_eq!(store.list(FileType::Data).unwrap(), []);
    let heads = proxy.heads();
    assert!(!heads.is_empty(), "it was reached without the proxy");
    // What opens the store goes to the store alone.
    let own = format!("\r\nauthorization: Basic {}", STANDARD.encode("ben:hush")).to_ascii_lowercase();
    assert!(!heads.iter().any(|head| head.to_ascii_lowercase().contains(&own)), "{heads:?}");
}

#[test]
fn what_is_excepted_is_reached_directly() {
    let case = Case::new();
    case.store(&[]).create().unwrap();
    let check = |variable: &str, excepted: &str, is_direct: bool| {
        let proxy = Proxy::start(case.server.address, Manner::Open);
        let url = proxy.url("");
        let store = case.store(&[(variable, url.as_str()), ("NO_PROXY", excepted)]);
        assert_eq!(store.list(FileType::Data).unwrap(), []);
        assert_eq!(proxy.heads().is_empty(), is_direct, "{variable}, except {excepted:?}");
    };
    check("HTTPS_PROXY", "", false);
    check("HTTPS_PROXY", "other.internal", false);
    check("HTTPS_PROXY", "other.internal, levee.internal", true);
    check("HTTPS_PROXY", HOST, true);
    check("HTTPS_PROXY", &case.place(), true);
    check("HTTPS_PROXY", &format!("{HOST}:1"), false);
    // That one is for stores without TLS.
    check("HTTP_PROXY", "", true);
}

#[test]
fn a_proxy_that_lets_nothing_through_is_named_without_its_password() {
    let case = Case::new();
    let place = case.place();
    let check = |manner: Manner, user: &str, is_final: bool, expected: [&str; 2]| {
        let proxy = Proxy::start(case.server.address, manner);
        let named = format!("the proxy http://{} ", proxy.server.address);
        for error in case.refusals(&proxy.url(user)) {
            let said = said_by(&error);
            assert_eq!(matches!(error, Error::Unauthorized { .. }), is_final, "{said}");
            assert_eq!(matches!(error, Error::Unreachable { .. }), !is_final, "{said}");
            assert!(said.contains(&named) && expected.iter().all(|text| said.contains(text)), "{said}");
        }
        assert!(proxy.heads().iter().all(|head| head.starts_with(&format!("CONNECT {place} "))));
    };
    check(Manner::Guarded, "", true, ["asks for a user and a password", "HTTPS_PROXY"]);
    check(Manner::Guarded, "mia:sesame@", true, ["doesn't accept the user and the password", "HTTPS_PROXY"]);
    // Whether it must not or cannot is not heard: it is tried again.
    check(Manner::Refusing(403), USER_IN_URL, false, [place.as_str(), "NO_PROXY"]);
    check(Manner::Refusing(502), "", false, [place.as_str(), "NO_PROXY"]);
}

#[test]
fn a_proxy_that_is_not_there_is_named_without_its_password() {
    let case = Case::new();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let expected = format!("the connection through the proxy http://{gone} (HTTPS_PROXY) failed");
    for error in case.refusals(&format!("http://{USER_IN_URL}{gone}")) {
        let said = said_by(&error);
        assert!(matches!(error, Error::Unreachable { .. }) && said.contains(&expected), "{said}");
    }
}

/// Its answer comes in the place of the store's.
#[test]
fn without_tls_a_proxy_that_asks_for_a_user_is_named_too() {
    let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], 1)), Manner::Guarded);
    let url = proxy.url("mia:sesame@");
    let variables = [("HTTP_PROXY", url.as_str())];
    let options = RestOptions { base_url: "http://store.levee.internal/x".into(), tls: None, resolve: None };
    let service = Service::S3(s3::options("http://store.levee.internal".into(), s3::BUCKET, "tunnel"));
    let transport = TransportOptions { proxies: proxies(&variables), ..TransportOptions::default() };
    let stores: [Box<dyn Store>; 2] = [
        Box::new(RestStore::through(&proxies(&variables), options).unwrap()),
        Box::new(ObjectStore::new(service, transport).unwrap()),
    ];
    for store in stores {
        let error = store.size_bytes(FileType::Config, "").unwrap_err();
        let said = said_by(&error);
        assert!(matches!(error, Error::Unauthorized { .. }), "{said}");
        let expected = format!("the proxy http://{} doesn't accept", proxy.server.address);
        assert!(said.contains(&expected) && said.contains("HTTP_PROXY"), "{said}");
    }
}
