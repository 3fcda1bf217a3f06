//! Alibaba Cloud's OSS, Tencent Cloud's COS and Huawei Cloud's OBS as their public documentation describes them: none of
//! them can be installed. Their hosts are reached through this server as through an HTTP proxy, and the bucket is a part of
//! the host's name. What is not signed as the service demands is refused. Objects are held in memory, and listings come in
//! small pages. What opendal doesn't need for the files of a vault (uploads in parts among it) is refused as unknown.

mod listing;
mod messages;
mod signatures;

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufReader};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use messages::{Answer, Request, decoded};
use signatures::Account;

use crate::listening::Listening;

/// The account that the buckets belong to.
pub const KEY_ID: &str = "LTAIEXAMPLEofTests";
pub const SECRET_KEY: &str = "a secret of nobody/+=";

/// The bucket of OSS also has a domain of its owner's.
pub const OWN_DOMAIN: &str = "oss.example.net";

/// The time at which all objects were written.
const WRITTEN_AT: &str = "Sat, 28 Nov 2026 06:00:00 GMT";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cloud {
    Oss,
    Cos,
    Obs,
}

impl Cloud {
    pub const ALL: [Cloud; 3] = [Cloud::Oss, Cloud::Cos, Cloud::Obs];

    /// As it stands before a vault's address.
    pub fn scheme(self) -> &'static str {
        match self {
            Cloud::Oss => "oss",
            Cloud::Cos => "cos",
            Cloud::Obs => "obs",
        }
    }

    /// The host, to whose name the bucket's is added.
    pub fn host(self) -> &'static str {
        match self {
            Cloud::Oss => "oss-cn-hangzhou.aliyuncs.com",
            Cloud::Cos => "cos.ap-guangzhou.myqcloud.com",
            Cloud::Obs => "obs.cn-north-4.myhuaweicloud.com",
        }
    }

    /// The only bucket.
    pub fn bucket(self) -> &'static str {
        match self {
            Cloud::Oss | Cloud::Obs => "box",
            // There the account's number belongs to the name.
            Cloud::Cos => "box-1250000000",
        }
    }

    /// What the service's own headers begin with.
    fn header(self, name: &str) -> String {
        format!("x-{}-{name}", self.scheme())
    }

    fn at(host: &str) -> Option<Self> {
        let is_at = |cloud: &Cloud, domain: &str| host == format!("{}.{domain}", cloud.bucket());
        let cloud = Cloud::ALL.into_iter().find(|cloud| is_at(cloud, cloud.host()));
        cloud.or_else(|| is_at(&Cloud::Oss, OWN_DOMAIN).then_some(Cloud::Oss))
    }

    /// The service at a host, whichever bucket stands before its name.
    fn of(host: &str) -> Option<Self> {
        let is_below = |domain: &str| host.strip_suffix(domain).is_some_and(|bucket| bucket.ends_with('.'));
        Cloud::ALL.into_iter().find(|cloud| is_below(cloud.host()))
    }
}

#[derive(Default)]
struct State {
    buckets: HashMap<Cloud, BTreeMap<String, Vec<u8>>>,
    /// What has to come along with the keys, since they are lent for a time.
    token: Option<String>,
    is_expired: bool,
    /// OSS and COS pass over their condition on writing then. Older versions are not kept here.
    keeps_versions: bool,
    further_pages: u64,
}

/// The services. They end when this is dropped.
pub struct Clouds {
    listening: Listening,
    state: Arc<Mutex<State>>,
}

impl Clouds {
    /// With empty buckets, for the keys of this module.
    pub fn start() -> Self {
        Self::with(State::default())
    }

    /// For keys that are lent for a time, with a token.
    pub fn with_token(token: &str) -> Self {
        Self::with(State { token: Some(token.into()), ..State::default() })
    }

    /// With buckets that keep versions of their objects.
    pub fn with_versions() -> Self {
        Self::with(State { keeps_versions: true, ..State::default() })
    }

    fn with(state: State) -> Self {
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        Self { listening: Listening::start(move |client| serve(&client, &shared)), state }
    }

    /// Where the services listen, as a proxy.
    pub fn address(&self) -> SocketAddr {
        self.listening.address()
    }

    /// From now on the keys are refused as too old, or let in again.
    pub fn set_expired(&self, expired: bool) {
        lock(&self.state).is_expired = expired;
    }

    /// How many pages of listings were asked for after a first one.
    pub fn further_pages(&self) -> u64 {
        lock(&self.state).further_pages
    }

    /// How many objects a bucket holds.
    pub fn objects(&self, cloud: Cloud) -> usize {
        lock(&self.state).buckets.get(&cloud).map(BTreeMap::len).unwrap_or_default()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(client: &TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut writer = client;
    while let Some(request) = Request::read(&mut reader)? {
        let answer = answer(&request, &mut lock(state));
        answer.write(&mut writer, request.method != "HEAD")?;
        if request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            return client.shutdown(Shutdown::Both);
        }
    }
    Ok(())
}

/// Why a service does not do what it was asked for.
struct Refusal {
    status: u16,
    code: &'static str,
    message: String,
}

impl Refusal {
    fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// In the form that each service has for it.
    fn answer(&self, cloud: Cloud, request: &Request) -> Answer {
        let Self { status, code, message } = self;
        let place = match cloud {
            Cloud::Oss | Cloud::Obs => format!("<HostId>{}</HostId>", request.host),
            Cloud::Cos => format!("<Resource>{}</Resource><TraceId>1</TraceId>", messages::escaped(&request.path)),
        };
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{}</Message>\
             <RequestId>1</RequestId>{place}</Error>",
            messages::escaped(message)
        );
        Answer::xml(*status, text)
    }
}

fn answer(request: &Request, state: &mut State) -> Answer {
    let Some(cloud) = Cloud::at(&request.host) else {
        let message = format!("nothing is at {}", request.host);
        // A bucket that isn't there has no owner whose signature could be asked for. The code is what says it.
        return match Cloud::of(&request.host) {
            Some(cloud) => Refusal::new(404, "NoSuchBucket", message).answer(cloud, request),
            None => Refusal::new(403, "AccessDenied", message).answer(Cloud::Oss, request),
        };
    };
    carry_out(cloud, request, state).unwrap_or_else(|refusal| refusal.answer(cloud, request))
}

fn carry_out(cloud: Cloud, request: &Request, state: &mut State) -> Result<Answer, Refusal> {
    if request.header("host") != Some(request.host.as_str()) {
        return Err(Refusal::new(403, "AccessDenied", "the header Host names another host than the URL"));
    }
    let account = Account { key_id: KEY_ID, secret: SECRET_KEY, token: state.token.as_deref() };
    signatures::check(cloud, request, &account, state.is_expired)?;
    let key = decoded(request.path.strip_prefix('/').unwrap_or(&request.path));
    // OBS has no such condition.
    let has_conditions = cloud != Cloud::Obs && !state.keeps_versions;
    let bucket = state.buckets.entry(cloud).or_default();
    match (request.method.as_str(), key.is_empty()) {
        ("GET", true) => {
            let (page, is_further) = listing::list(cloud, request, bucket)?;
            state.further_pages += u64::from(is_further);
            Ok(page)
        }
        _ if key.is_empty() || !request.query.is_empty() => Err(unknown(request)),
        ("PUT", _) => {
            let only_new = has_conditions && request.header(&cloud.header("forbid-overwrite")) == Some("true");
            put(request, bucket, key, only_new)
        }
        ("GET" | "HEAD", _) => match bucket.get(&key) {
            Some(content) => get(cloud, request, content),
            None => Err(Refusal::new(404, "NoSuchKey", "the specified key does not exist")),
        },
        ("DELETE", _) => {
            bucket.remove(&key);
            Ok(Answer { status: 204, headers: Vec::new(), body: Vec::new() })
        }
        _ => Err(unknown(request)),
    }
}

fn unknown(request: &Request) -> Refusal {
    Refusal::new(501, "NotImplemented", format!("{} {} is not known here", request.method, request.path))
}

fn put(
    request: &Request,
    bucket: &mut BTreeMap<String, Vec<u8>>,
    key: String,
    only_new: bool,
) -> Result<Answer, Refusal> {
    if only_new && bucket.contains_key(&key) {
        return Err(Refusal::new(409, "FileAlreadyExists", "the object you specified already exists"));
    }
    if request.header("content-length").is_none() {
        return Err(Refusal::new(411, "MissingContentLength", "say how long it is"));
    }
    let etag = etag(&request.body);
    bucket.insert(key, request.body.clone());
    Ok(Answer { status: 200, headers: vec![("ETag", etag)], body: Vec::new() })
}

fn get(cloud: Cloud, request: &Request, content: &[u8]) -> Result<Answer, Refusal> {
    let mut headers = vec![
        ("ETag", etag(content)),
        ("Last-Modified", WRITTEN_AT.to_string()),
        ("Content-Type", "application/octet-stream".to_string()),
        ("Accept-Ranges", "bytes".to_string()),
    ];
    let whole = |headers| Ok(Answer { status: 200, headers, body: content.to_vec() });
    let Some(range) = request.header("range").filter(|_| request.method == "GET") else { return whole(headers) };
    let parsed = range.strip_prefix("bytes=").and_then(|range| {
        let (first, last) = range.split_once('-')?;
        let last = if last.is_empty() { usize::MAX } else { last.parse::<usize>().ok()? };
        Some((first.parse::<usize>().ok()?, last))
    });
    let Some((first, last)) = parsed else { return whole(headers) };
    if first >= content.len() || last < first {
        // OSS overlooks such a range unless it is told to take it as the standard of HTTP does.
        if cloud == Cloud::Oss && request.header("x-oss-range-behavior") != Some("standard") {
            return whole(headers);
        }
        return Err(Refusal::new(416, "InvalidRange", "the requested range cannot be satisfied"));
    }
    let last = last.min(content.len() - 1);
    headers.push(("Content-Range", format!("bytes {first}-{last}/{}", content.len())));
    Ok(Answer { status: 206, headers, body: content[first..=last].to_vec() })
}

/// In the form of one; nothing compares it with the content.
fn etag(content: &[u8]) -> String {
    format!("\"{}\"", &signatures::hex_sha1(content)[..32])
}
