//! Answers over HTTP whose sizes are wrong, made of right ones.

use std::fmt::Write;

/// What is wrong with an answer to a `GET`, or with the sizes that answers tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lie {
    /// The last byte is missing, and the head fits to that.
    ShortAnswer,
    /// There is a byte more, and the head fits to that.
    LongAnswer,
    /// The head announces a byte less than comes.
    ShortPromise,
    /// The head announces a byte more than comes before the connection ends.
    LongPromise,
    /// The head announces nothing, and the connection ends in the middle.
    NoPromise,
    /// All of the file comes, as if nobody had asked for a part.
    IgnoredRange,
    /// Another part comes, and the head says so.
    OtherRange,
    /// A part comes, and nobody has asked for one.
    PartOfAll,
    /// Every size in a listing or about a file is a byte too small.
    SmallSizes,
    /// Every size in a listing or about a file is a byte too large.
    LargeSizes,
}

impl Lie {
    /// What is noticed at once, so that it can be tried again.
    pub const NOTICED: [Lie; 8] = [
        Lie::ShortAnswer,
        Lie::LongAnswer,
        Lie::ShortPromise,
        Lie::LongPromise,
        Lie::NoPromise,
        Lie::IgnoredRange,
        Lie::OtherRange,
        Lie::PartOfAll,
    ];

    /// Tells it: `head` is the request's.
    pub fn tell(self, head: &str, answer: Vec<u8>) -> Vec<u8> {
        let Some(mut answer) = Answer::parse(&answer) else { return answer };
        if !answer.status.contains(" 2") {
            return answer.into_bytes();
        }
        match self {
            Lie::SmallSizes => answer.change_sizes(|size| size.saturating_sub(1)),
            Lie::LargeSizes => answer.change_sizes(|size| size + 1),
            _ if head.starts_with("GET ") => self.about_content(&mut answer),
            _ => {}
        }
        answer.into_bytes()
    }

    fn about_content(self, answer: &mut Answer) {
        let length = answer.body.len();
        let part = answer.part();
        match (self, part) {
            (Lie::ShortAnswer, _) => drop(answer.body.pop()),
            (Lie::LongAnswer, _) => answer.body.push(b'x'),
            (Lie::ShortPromise, _) => answer.promised = Promise::Length(length.saturating_sub(1)),
            (Lie::LongPromise, _) => answer.promised = Promise::Length(length + 1),
            (Lie::NoPromise, _) => {
                answer.promised = Promise::Nothing;
                answer.body.truncate(length / 2);
            }
            (Lie::IgnoredRange, Some((first, file))) => {
                answer.status = "HTTP/1.1 200 OK".into();
                answer.remove("content-range");
                let mut body = vec![0; first];
                body.append(&mut answer.body);
                body.resize(file.max(body.len()), 0);
                answer.body = body;
            }
            (Lie::OtherRange, Some((first, file))) => {
                answer.remove("content-range");
                answer.headers.push(format!("Content-Range: bytes {}-{}/{}", first + 1, first + length, file + 1));
                answer.body.rotate_left(length.min(1));
            }
            (Lie::PartOfAll, None) if length > 1 => {
                answer.status = "HTTP/1.1 206 Partial Content".into();
                answer.body.truncate(length / 2);
                answer.headers.push(format!("Content-Range: bytes 0-{}/{length}", length / 2 - 1));
            }
            _ => {}
        }
    }
}

/// What the head says of the body's length.
#[derive(Clone, Copy)]
enum Promise {
    Right,
    Length(usize),
    Nothing,
}

struct Answer {
    status: String,
    /// Without those that tell the length of the body.
    headers: Vec<String>,
    promised: Promise,
    body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n").map(str::to_string);
        let status = lines.next()?;
        let mut answer =
            Answer { status, headers: Vec::new(), promised: Promise::Right, body: bytes[end + 4..].into() };
        for line in lines {
            match line.to_ascii_lowercase().split_once(':') {
                Some(("content-length", length)) if answer.body.is_empty() => {
                    // The answer to a HEAD request.
                    answer.promised = Promise::Length(length.trim().parse().ok()?);
                }
                Some(("content-length", _)) => {}
                Some(("transfer-encoding", _)) => answer.body = joined(&answer.body)?,
                _ => answer.headers.push(line),
            }
        }
        Some(answer)
    }

    fn into_bytes(self) -> Vec<u8> {
        let mut head = self.status + "\r\n";
        for header in self.headers {
            head += &header;
            head += "\r\n";
        }
        match self.promised {
            Promise::Right => write!(head, "Content-Length: {}\r\n", self.body.len()).unwrap(),
            Promise::Length(length) => write!(head, "Content-Length: {length}\r\n").unwrap(),
            Promise::Nothing => {}
        }
        // So that nobody asks for more on a connection that ends.
        head += "Connection: close\r\n\r\n";
        let mut bytes = head.into_bytes();
        bytes.extend(self.body);
        bytes
    }

    fn remove(&mut self, name: &str) {
        self.headers.retain(|line| !line.to_ascii_lowercase().starts_with(name));
    }

    /// Where the part that it is begins, and how long the file is.
    fn part(&self) -> Option<(usize, usize)> {
        let line = self.headers.iter().find(|line| line.to_ascii_lowercase().starts_with("content-range:"))?;
        let (range, file) = line.split_once("bytes ")?.1.split_once('/')?;
        Some((range.split_once('-')?.0.parse().ok()?, file.trim().parse().ok()?))
    }

    fn change_sizes(&mut self, change: fn(usize) -> usize) {
        if let Promise::Length(length) = self.promised {
            self.promised = Promise::Length(change(length));
        }
        // As the REST protocol, Google, S3, WebDAV and Azure have them.
        for before in ["\"size\":", "\"size\": \"", "<Size>", "getcontentlength>", "<Content-Length>"] {
            let Ok(text) = std::str::from_utf8(&self.body) else { return };
            let mut parts = text.split(before);
            let mut changed = parts.next().unwrap_or_default().to_string();
            for part in parts {
                let rest = part.trim_start_matches(|character: char| character.is_ascii_digit());
                let size = part[..part.len() - rest.len()].parse().map(change);
                changed += before;
                changed += &size.map(|size| size.to_string()).unwrap_or_default();
                changed += rest;
            }
            self.body = changed.into_bytes();
        }
    }
}

/// A body that came in chunks.
fn joined(mut chunks: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = chunks.windows(2).position(|window| window == b"\r\n")?;
        let length = std::str::from_utf8(&chunks[..end]).ok()?.split(';').next()?.trim();
        let length = usize::from_str_radix(length, 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.extend(chunks.get(end + 2..end + 2 + length)?);
        chunks = chunks.get(end + 4 + length..)?;
    }
}
