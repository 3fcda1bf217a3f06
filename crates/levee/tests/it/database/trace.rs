//! What a process asked of the system, as `strace -f -y -x` writes it down, and in which order.

use std::collections::HashMap;
use std::path::Path;

/// What has to be traced for the checks of this module. A name with `?` is not known on every processor.
pub const CALLS: &str =
    "trace=write,writev,pwrite64,sendto,sendmsg,fsync,fdatasync,?rename,?renameat,renameat2,?unlink,unlinkat";
/// So many bytes of each written string are needed.
pub const STRING_BYTES: &str = "64";

/// One call that has returned. `begun` and `returned` are lines of the trace: the order of both over all threads.
#[derive(Debug)]
pub struct Call {
    pub name: String,
    arguments: String,
    pub begun: usize,
    pub returned: usize,
    pub succeeded: bool,
}

impl Call {
    /// What the first argument, a file descriptor, leads to.
    pub fn path(&self) -> Option<&Path> {
        let (descriptor, rest) = self.arguments.split_once('<')?;
        let (path, _) = rest.split_once('>')?;
        descriptor.bytes().all(|byte| byte.is_ascii_digit()).then(|| Path::new(path))
    }

    /// The strings among the arguments, as they are written.
    pub fn strings(&self) -> Vec<&str> {
        self.arguments.split('"').skip(1).step_by(2).collect()
    }

    /// The first string's bytes, where it has bytes that can't be printed: `-x` writes all of such a string as `\x00`.
    pub fn bytes(&self) -> Vec<u8> {
        let strings = self.strings();
        let hexadecimal = strings.first().map_or("", |text| *text);
        hexadecimal.split("\\x").skip(1).map_while(|byte| u8::from_str_radix(byte, 16).ok()).collect()
    }

    pub fn is_sync(&self) -> bool {
        self.succeeded && matches!(&*self.name, "fsync" | "fdatasync")
    }

    pub fn is_write(&self) -> bool {
        matches!(&*self.name, "write" | "writev" | "pwrite64")
    }

    pub fn is_rename(&self) -> bool {
        self.succeeded && self.name.starts_with("rename")
    }

    pub fn is_removal(&self) -> bool {
        self.succeeded && self.name.starts_with("unlink")
    }
}

/// The calls of a trace, by the time at which they returned.
pub fn parse(text: &str) -> Vec<Call> {
    let mut unfinished = HashMap::new();
    let mut calls = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(begin) = rest.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread, (number, begin));
        } else if let Some(end) = rest.strip_prefix("<... ") {
            let Some((begun, begin)) = unfinished.remove(thread) else { continue };
            let (_, end) = end.split_once(" resumed>").unwrap_or_else(|| panic!("strange line of strace: {line}"));
            calls.extend(call(&format!("{begin}{end}"), begun, number));
        } else {
            calls.extend(call(rest, number, number));
        }
    }
    calls
}

/// `None` for what is no call, as a signal or an end.
fn call(text: &str, begun: usize, returned: usize) -> Option<Call> {
    let (call, result) = text.rsplit_once(" = ")?;
    let (name, arguments) = call.trim_end().strip_suffix(')')?.split_once('(')?;
    let is_name = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let succeeded = result.starts_with(|first: char| first.is_ascii_digit());
    is_name.then(|| Call { name: name.into(), arguments: arguments.into(), begun, returned, succeeded })
}

#[test]
fn calls_are_put_together_across_threads() {
    let text = "7  fdatasync(5</j/x.tail> <unfinished ...>\n\
                18 sendto(9<socket:[1]>, \"\\x64\\x00\\xff\", 3, MSG_NOSIGNAL, NULL, 0) = 3\n\
                7  <... fdatasync resumed>)          = 0\n\
                7  rename(\"/j/a = b\", \"/j/c\") = -1 ENOENT (No such file or directory)\n\
                7  +++ exited with 0 +++\n";
    let calls = parse(text);
    let seen: Vec<_> = calls.iter().map(|call| (&*call.name, call.begun, call.returned, call.succeeded)).collect();
    assert_eq!(seen, [("sendto", 1, 1, true), ("fdatasync", 0, 2, true), ("rename", 3, 3, false)]);
    assert_eq!(calls[0].bytes(), [0x64, 0, 0xff]);
    assert_eq!(calls[0].path(), Some(Path::new("socket:[1]")));
    assert_eq!(calls[1].path(), Some(Path::new("/j/x.tail")));
    assert_eq!(calls[2].strings(), ["/j/a = b", "/j/c"]);
    assert_eq!(calls[2].path(), None);
}
