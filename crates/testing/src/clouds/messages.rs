//! HTTP/1.1 as a client speaks it to a proxy.

use std::io::{self, BufRead, Write};

pub(super) struct Request {
    pub method: String,
    /// Of the URL.
    pub host: String,
    /// As it was sent.
    pub path: String,
    /// Decoded, in the order in which it was sent.
    pub query: Vec<(String, String)>,
    /// Their names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// `None` when the client has ended the connection. What breaks off in its middle was never asked for.
    pub fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace();
        let method = words.next().unwrap_or_default().to_string();
        let target = words.next().unwrap_or_default();
        let url = target.strip_prefix("http://").ok_or_else(|| invalid("it was sent to a server, not to a proxy"))?;
        let (host, rest) = url.split_at(url.find(['/', '?']).unwrap_or(url.len()));
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, path) = (host.to_string(), path.to_string());
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        });
        let query = query.collect();
        let mut headers = Vec::new();
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_string()));
        }
        let mut request = Self { method, host, path, query, headers, body: Vec::new() };
        if request.header("transfer-encoding").is_some() {
            return Err(invalid("a body in chunks is not known here"));
        }
        let length = request.header("content-length").unwrap_or("0").parse().map_err(io::Error::other)?;
        request.body = vec![0; length];
        reader.read_exact(&mut request.body)?;
        Ok(Some(request))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

pub(super) struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn xml(status: u16, text: String) -> Self {
        Self { status, headers: vec![("Content-Type", "application/xml".into())], body: text.into_bytes() }
    }

    /// An answer to `HEAD` is without the body that it tells of.
    pub fn write(&self, writer: &mut impl Write, has_body: bool) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Whatever\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        // An answer without content must not announce any.
        if self.status != 204 {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        writer.write_all(head.as_bytes())?;
        if has_body { writer.write_all(&self.body) } else { Ok(()) }
    }
}

/// Percent-decoded.
pub(super) fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| *byte == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(code) => {
                bytes.push(code);
                rest = &after[2..];
            }
            None => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Percent-encoded but for letters, digits, `-`, `.`, `_`, `~` and what is named.
pub(super) fn encoded(text: &str, but_for: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other if but_for.as_bytes().contains(&other) => char::from(other).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// As text stands in XML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
