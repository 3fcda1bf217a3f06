//! Which proxy a request to a store goes through, by the variables that curl, Go and stock restic honour, and what is
//! said of one that lets nothing through.

use std::error::Error as StdError;
use std::fmt;
use std::net::IpAddr;

use reqwest::Url;

use crate::{Error, Result};

/// What the library says of a proxy that answers 407 to CONNECT, and of one that answers anything else but 200. Its
/// error has no other sign, and the status itself is lost.
const TUNNEL_UNAUTHORIZED: &str = "tunnel error: proxy authorization required";
const TUNNEL_REFUSED: &str = "tunnel error: unsuccessful";

/// The HTTP proxies between this machine and its stores. By default there are none.
#[derive(Clone, Default)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    direct: Vec<Direct>,
}

/// Why a request that goes through a proxy was not answered. All of them name the proxy, and never its password.
pub(crate) enum Hindrance {
    /// It wants another user or password: trying again will not help.
    Unauthorized(String),
    /// It makes no connection to the store: because it must not, or because it cannot. Its status says which, and
    /// nobody sees that here.
    Refused(String),
    /// Something broke on the way to it, or behind it. This is the beginning of what to say; the error comes after it.
    Broken(String),
}

impl fmt::Debug for Proxies {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Their URLs may hold passwords.
        let (http, https) = (self.http.is_some(), self.https.is_some());
        formatter.debug_struct("Proxies").field("http", &http).field("https", &https).finish_non_exhaustive()
    }
}

impl Proxies {
    /// As `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` say, or the same in lower case.
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let set = |name: &'static str| {
            let value = variable(name).filter(|value| !value.trim().is_empty())?;
            Some((name, value))
        };
        // A web server gives the header `Proxy` of whoever asks it to its programs as HTTP_PROXY.
        let is_cgi = set("REQUEST_METHOD").is_some();
        let http = set("HTTP_PROXY").filter(|_| !is_cgi).or_else(|| set("http_proxy"));
        let https = set("HTTPS_PROXY").or_else(|| set("https_proxy"));
        let excepted = set("NO_PROXY").or_else(|| set("no_proxy")).map(|(_, list)| list).unwrap_or_default();
        let parsed = |given: Option<(&'static str, String)>| given.map(|(name, url)| parse(name, &url)).transpose();
        Ok(Self {
            http: parsed(http)?,
            https: parsed(https)?,
            direct: excepted.split(',').filter_map(Direct::parse).collect(),
        })
    }

    /// The proxy for a URL. What is on this machine is never asked for through another one.
    fn between(&self, url: &Url) -> Option<&Proxy> {
        let proxy = match url.scheme() {
            "http" => self.http.as_ref(),
            "https" => self.https.as_ref(),
            _ => None,
        }?;
        let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        let host = host.to_ascii_lowercase();
        let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        let is_here = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        let port = url.port_or_known_default();
        let is_direct = is_here || self.direct.iter().any(|direct| direct.covers(&host, address, port));
        (!is_direct).then_some(proxy)
    }

    fn for_url(&self, url: &Url) -> Option<Url> {
        self.between(url).map(|proxy| proxy.url.clone())
    }

    /// For a client's builder, after `no_proxy`, which keeps the library from looking by itself.
    pub(crate) fn for_client(&self) -> Option<reqwest::Proxy> {
        if self.http.is_none() && self.https.is_none() {
            return None;
        }
        let proxies = self.clone();
        Some(reqwest::Proxy::custom(move |url: &Url| proxies.for_url(url)))
    }

    /// What kept a request from its answer, where it goes through a proxy and no connection was made.
    pub(crate) fn hindrance(&self, error: &reqwest::Error) -> Option<Hindrance> {
        let url = error.url().filter(|_| error.is_connect())?;
        let proxy = self.between(url)?;
        if says(error, TUNNEL_UNAUTHORIZED) {
            return Some(Hindrance::Unauthorized(proxy.unauthorized()));
        }
        if says(error, TUNNEL_REFUSED) {
            return Some(Hindrance::Refused(format!(
                "the proxy {} makes no connection to {}: it must allow that; or name the host in NO_PROXY, if it can \
                 be reached without a proxy",
                proxy.place(),
                place(url)
            )));
        }
        let (place, variable) = (proxy.place(), proxy.variable);
        Some(Hindrance::Broken(format!("the connection through the proxy {place} ({variable}) failed")))
    }

    /// What to say of the answer 407. It comes in the place of the store's where a proxy passes requests on as they are.
    pub(crate) fn unauthorized(&self, url: &Url) -> String {
        match self.between(url) {
            Some(proxy) => proxy.unauthorized(),
            None => "a proxy on the way asks for a user and a password, and no variable names it: set HTTP_PROXY to \
                     http://USER:PASSWORD@HOST:PORT"
                .into(),
        }
    }
}

/// A proxy, as a variable names it.
#[derive(Clone)]
struct Proxy {
    variable: &'static str,
    /// May hold a user and a password.
    url: Url,
}

impl Proxy {
    /// Where it is, without what opens it.
    fn place(&self) -> String {
        format!("{}://{}", self.url.scheme(), place(&self.url))
    }

    fn unauthorized(&self) -> String {
        let (place, variable) = (self.place(), self.variable);
        if self.url.username().is_empty() && self.url.password().is_none() {
            return format!(
                "the proxy {place} asks for a user and a password: give them in {variable}, as \
                 http://USER:PASSWORD@HOST:PORT"
            );
        }
        format!(
            "the proxy {place} doesn't accept the user and the password in {variable}: see whether they are right, and \
             whether what is neither a letter nor a digit in them is written as %XX"
        )
    }
}

/// The host and the port of a URL, and nothing else of it.
fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port_or_known_default().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"))
}

/// Whether this is the text of an error, or of one beneath it.
fn says(error: &reqwest::Error, text: &str) -> bool {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if error.to_string() == text {
            return true;
        }
        next = error.source();
    }
    false
}

/// The value may hold a password, and is not shown.
fn parse(variable: &'static str, value: &str) -> Result<Proxy> {
    let invalid = || Error::Unauthorized {
        location: format!("the proxy in {variable}"),
        reason: "it must look like http://HOST:PORT; other kinds of proxies are not known".into(),
    };
    let value = value.trim();
    let url = if value.contains("://") { Url::parse(value) } else { Url::parse(&format!("http://{value}")) };
    let url = url.map_err(|_| invalid())?;
    let is_known = matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty());
    if is_known { Ok(Proxy { variable, url }) } else { Err(invalid()) }
}

/// One entry of `NO_PROXY`.
#[derive(Clone)]
enum Direct {
    Everything,
    /// The addresses that begin with the same bits.
    Network {
        address: IpAddr,
        bits: u32,
        port: Option<u16>,
    },
    /// What is below a domain, and the domain itself unless it was written with a dot before it.
    Domain {
        name: String,
        only_below: bool,
        port: Option<u16>,
    },
}

impl Direct {
    /// `None` where an entry says nothing that could be understood; curl and Go pass over it, too.
    fn parse(entry: &str) -> Option<Self> {
        let entry = entry.trim().to_ascii_lowercase();
        if entry.is_empty() {
            return None;
        }
        if entry == "*" {
            return Some(Self::Everything);
        }
        if let Some((address, bits)) = entry.split_once('/') {
            let (address, bits) = (address.parse::<IpAddr>().ok()?, bits.parse::<u32>().ok()?);
            return (bits <= width(address)).then_some(Self::Network { address, bits, port: None });
        }
        let whole = |text: &str, port: Option<u16>| {
            let address = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok()?;
            Some(Self::Network { address, bits: width(address), port })
        };
        if let Some(network) = whole(&entry, None) {
            return Some(network);
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse::<u16>().ok()?)),
            None => (entry.as_str(), None),
        };
        if let Some(network) = whole(host, port) {
            return Some(network);
        }
        let host = host.strip_prefix('*').unwrap_or(host);
        let name = host.trim_matches('.').to_string();
        (!name.is_empty()).then(|| Self::Domain { name, only_below: host.starts_with('.'), port })
    }

    fn covers(&self, host: &str, at: Option<IpAddr>, port_asked: Option<u16>) -> bool {
        let is_port = |port: &Option<u16>| port.is_none() || *port == port_asked;
        match self {
            Self::Everything => true,
            Self::Network { address, bits, port } => {
                is_port(port) && at.is_some_and(|at| have_same_start(at, *address, *bits))
            }
            Self::Domain { name, only_below, port } => {
                let is_below = host.strip_suffix(name.as_str()).is_some_and(|before| before.ends_with('.'));
                is_port(port) && (is_below || (!only_below && host == name))
            }
        }
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn have_same_start(one: IpAddr, other: IpAddr, bits: u32) -> bool {
    // With the first bit of either kind in the highest place.
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
        IpAddr::V6(address) => u128::from(address),
    };
    let differing = number(one) ^ number(other);
    one.is_ipv4() == other.is_ipv4() && differing.checked_shr(128 - bits).unwrap_or_default() == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(set: &[(&str, &str)]) -> Result<Proxies> {
        let variable = |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
        Proxies::from_variables(&variable)
    }

    fn proxy_for(set: &[(&str, &str)], url: &str) -> Option<String> {
        let proxy = proxies(set).unwrap().for_url(&Url::parse(url).unwrap())?;
        Some(format!("{}:{}", proxy.host_str().unwrap(), proxy.port_or_known_default().unwrap()))
    }

    #[test]
    fn each_scheme_has_its_own_and_this_machine_has_none() {
        let set = [("HTTP_PROXY", "one:1"), ("https_proxy", "http://two:2/"), ("http_proxy", "other:3")];
        let check = |url: &str, expected: Option<&str>| assert_eq!(proxy_for(&set, url).as_deref(), expected, "{url}");
        check("http://store/x", Some("one:1"));
        check("https://store/x", Some("two:2"));
        check("https://10.1.2.3:9000", Some("two:2"));
        for here in ["localhost:9000", "LOCALHOST", "127.0.0.1:1", "127.9.9.9", "[::1]:80", "[::ffff:127.0.0.1]"] {
            check(&format!("http://{here}/"), None);
            check(&format!("https://{here}/"), None);
        }
        assert_eq!(proxy_for(&[], "http://store/"), None);
        assert_eq!(proxy_for(&[("HTTP_PROXY", " ")], "http://store/"), None);
        assert_eq!(proxy_for(&[("HTTP_PROXY", "one:1")], "https://store/"), None);
    }

    #[test]
    fn what_a_web_server_has_set_is_not_believed() {
        let set = [("REQUEST_METHOD", "GET"), ("HTTP_PROXY", "thief:1")];
        assert_eq!(proxy_for(&set, "http://store/"), None);
        let set = [set[0], set[1], ("http_proxy", "own:1")];
        assert_eq!(proxy_for(&set, "http://store/").as_deref(), Some("own:1"));
    }

    #[test]
    fn exceptions() {
        let check = |list: &str, url: &str, is_direct: bool| {
            let found = proxy_for(&[("http_proxy", "one:1"), ("no_proxy", list)], url);
            assert_eq!(found.is_none(), is_direct, "{list}: {url}");
        };
        check("*", "http://anything/", true);
        check("example.net", "http://example.net/", true);
        check("other, Example.NET ,", "http://box.example.net/", true);
        check("example.net", "http://notexample.net/", false);
        for below in [".example.net", "*.example.net"] {
            check(below, "http://box.example.net/", true);
            check(below, "http://example.net/", false);
        }
        check("example.net:8080", "http://example.net:8080/", true);
        check("example.net:80", "http://example.net/", true);
        check("example.net:8080", "http://example.net/", false);
        check("10.0.0.0/8", "http://10.200.0.1/", true);
        check("10.0.0.0/8", "http://11.0.0.1/", false);
        check("10.0.0.0/33", "http://10.0.0.1/", false);
        check("0.0.0.0/0", "http://11.0.0.1/", true);
        check("192.0.2.7", "http://192.0.2.7:9000/", true);
        check("192.0.2.7:9000", "http://192.0.2.7/", false);
        check("2001:db8::/32", "http://[2001:db8::1]/", true);
        check("2001:db8::1", "http://[2001:db8::1]/", true);
        check("2001:db8::1", "http://[2001:db8::2]/", false);
    }

    #[test]
    fn a_proxy_that_wants_other_credentials_is_named_without_them() {
        let said = |value: &str, url: &str| {
            proxies(&[("https_proxy", value)]).unwrap().unauthorized(&Url::parse(url).unwrap())
        };
        let without = said("proxy.example.net", "https://store/x");
        assert!(without.starts_with("the proxy http://proxy.example.net:80 asks for a user"), "{without}");
        assert!(without.contains("in https_proxy"), "{without}");
        let wrong = said("https://mia:sesame@[2001:db8::1]:3128/x", "https://store/x");
        assert!(wrong.starts_with("the proxy https://[2001:db8::1]:3128 doesn't accept"), "{wrong}");
        assert!(!wrong.contains("mia") && !wrong.contains("sesame"), "{wrong}");
        let unknown = said("http://mia:sesame@proxy:1", "http://store/x");
        assert!(unknown.starts_with("a proxy on the way asks for a user"), "{unknown}");
    }

    #[test]
    fn what_is_no_http_proxy_is_said_without_its_password() {
        for value in ["socks5://mia:sesame@host:1", "http://", "http://mia:sesame@host:port"] {
            let refused = proxies(&[("HTTPS_PROXY", value)]).unwrap_err();
            let said = format!("{refused} {refused:?}");
            assert!(said.contains("HTTPS_PROXY") && !said.contains("sesame"), "{said}");
        }
        let said = format!("{:?}", proxies(&[("HTTPS_PROXY", "http://mia:sesame@host:1")]).unwrap());
        assert!(!said.contains("sesame"), "{said}");
    }
}
