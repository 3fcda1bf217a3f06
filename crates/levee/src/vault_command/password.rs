//! Where a password comes from: a file, the environment, or a person at a terminal.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use anyhow::{Context, bail};
use levee_vault::Password;
use rustix::termios::{self, LocalModes, OptionalActions, Termios};
use zeroize::Zeroizing;

use super::text_file;

/// The environment variable that holds a password. A file is better: other processes of the same user
/// can read an environment.
const VARIABLE: &str = "LEVEE_PASSWORD";

/// The longest password that is taken from a file or a terminal, in bytes.
const PASSWORD_BYTES_MAX: usize = 64 << 10;

/// The password of a vault that exists.
pub fn current(file: Option<&Path>) -> anyhow::Result<Password> {
    given(file)?.map_or_else(|| checked(prompt("password of the vault: ")?), Ok)
}

/// The password of a vault that is being made: typed twice when it is typed.
pub fn first(file: Option<&Path>) -> anyhow::Result<Password> {
    given(file)?.map_or_else(typed_twice, Ok)
}

/// A further password, from its own file or typed twice.
pub fn further(file: Option<&Path>) -> anyhow::Result<Password> {
    match file {
        Some(path) => from_file(path),
        None => typed_twice(),
    }
}

fn given(file: Option<&Path>) -> anyhow::Result<Option<Password>> {
    if let Some(path) = file {
        return from_file(path).map(Some);
    }
    match std::env::var_os(VARIABLE) {
        None => Ok(None),
        Some(value) => {
            // Any bytes: a password need not be text.
            checked(Zeroizing::new(value.into_vec())).map(Some)
        }
    }
}

fn from_file(path: &Path) -> anyhow::Result<Password> {
    let unreadable = || format!("cannot read the password file {}", path.display());
    let mut file = File::open(path).with_context(unreadable)?.take(PASSWORD_BYTES_MAX as u64 + 1);
    let mut content = Zeroizing::new(Vec::with_capacity(PASSWORD_BYTES_MAX + 1));
    file.read_to_end(&mut content).with_context(unreadable)?;
    if content.len() > PASSWORD_BYTES_MAX {
        bail!("the password file {} is longer than {PASSWORD_BYTES_MAX} bytes", path.display());
    }
    let Some(content) = text_file::decoded(&content) else {
        bail!("the password file {} begins like UTF-16 and is not", path.display());
    };
    // As restic does: editors leave a newline at the end.
    checked(Zeroizing::new(content.trim_ascii().to_vec()))
}

fn checked(password: Zeroizing<Vec<u8>>) -> anyhow::Result<Password> {
    if password.is_empty() {
        bail!("an empty password protects nothing: give another one");
    }
    Ok(Password::new(password.to_vec()))
}

fn typed_twice() -> anyhow::Result<Password> {
    let password = prompt("new password: ")?;
    if *prompt("the same again: ")? != *password {
        bail!("the two passwords are not the same; nothing was changed");
    }
    checked(password)
}

fn prompt(text: &str) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        bail!("no password was given: use --password-file, LEVEE_PASSWORD_FILE or {VARIABLE}");
    }
    let mut stderr = io::stderr().lock();
    write!(stderr, "{text}").and_then(|()| stderr.flush()).context("cannot ask for the password")?;
    let typed = {
        let _silence = Silence::over(&stdin).context("cannot keep the terminal from showing the password")?;
        // Not through the standard library's buffer, where the password would stay.
        let keys = stdin.as_fd().try_clone_to_owned();
        keys.and_then(|keys| read_line(&mut File::from(keys)))
    };
    let _ = writeln!(stderr);
    typed.context("no password was typed")
}

/// The terminal shows nothing and hands over each key while this lives. Keys that end a process come
/// as keys, so that an interrupted prompt cannot leave the terminal silent.
struct Silence<'a> {
    terminal: &'a io::Stdin,
    before: Termios,
}

impl<'a> Silence<'a> {
    fn over(terminal: &'a io::Stdin) -> io::Result<Self> {
        let before = termios::tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        termios::tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

/// One line from a terminal that doesn't edit lines itself.
fn read_line(keys: &mut impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    const INTERRUPT: u8 = 0x03;
    const END: u8 = 0x04;
    const BACKSPACE: u8 = 0x08;
    const KILL: u8 = 0x15;
    const DELETE: u8 = 0x7f;
    // Its whole room at once, so that growing leaves no copies behind.
    let mut line = Zeroizing::new(Vec::with_capacity(PASSWORD_BYTES_MAX));
    let mut key = [0];
    loop {
        if keys.read(&mut key)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        match key[0] {
            b'\n' | b'\r' => return Ok(line),
            INTERRUPT => return Err(ErrorKind::Interrupted.into()),
            END if line.is_empty() => return Err(ErrorKind::UnexpectedEof.into()),
            BACKSPACE | DELETE => remove_character(&mut line),
            KILL => line.clear(),
            _ if line.len() == PASSWORD_BYTES_MAX => return Err(ErrorKind::FileTooLarge.into()),
            byte => line.push(byte),
        }
    }
}

/// Removes the last UTF-8 character, however many bytes it has.
fn remove_character(line: &mut Vec<u8>) {
    while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_edited_as_on_a_terminal() {
        let check = |keys: &str, expected: Option<&str>| {
            let line = read_line(&mut keys.as_bytes()).ok().map(|line| String::from_utf8(line.to_vec()).unwrap());
            assert_eq!(line.as_deref(), expected, "{keys:?}");
        };
        check("sesame\n", Some("sesame"));
        check("sesamö\x7fe\r", Some("sesame"));
        check("\x7f\x7fx\n", Some("x"));
        check("wrong\x15right\n", Some("right"));
        check("se\x03", None);
        check("\x04", None);
        check("never ended", None);
    }

    #[test]
    fn a_password_file_may_end_with_a_newline() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, "\n").unwrap();
        assert!(from_file(&path).is_err());
        assert!(from_file(&folder.path().join("absent")).is_err());
        std::fs::write(&path, "sesame\r\n").unwrap();
        assert!(from_file(&path).is_ok());
    }
}
