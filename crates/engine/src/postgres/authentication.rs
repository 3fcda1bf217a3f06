use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use fallible_iterator::FallibleIterator;

use super::connection::{Connection, describe};
use super::{ConnectOptions, Error, Password, Result};

const DOING: &str = "logging in";

/// Answers whatever the server asks to know who we are.
pub(crate) fn authenticate(connection: &mut Connection, options: &ConnectOptions) -> Result<()> {
    let password = || options.password.as_ref().ok_or_else(|| Error::PasswordNeeded { user: options.user.clone() });
    let unsupported = |method: &str| Err(Error::AuthenticationMethod { method: method.into() });
    match connection.receive_or_error(DOING)? {
        Message::AuthenticationOk => return Ok(()),
        Message::AuthenticationCleartextPassword => {
            let password = password()?;
            if !connection.is_private() {
                return Err(Error::CleartextRefused { user: options.user.clone() });
            }
            connection.send(DOING, |buffer| frontend::password_message(password.as_bytes(), buffer))?;
        }
        Message::AuthenticationMd5Password(body) => {
            let hash = md5_hash(options.user.as_bytes(), password()?.as_bytes(), body.salt());
            connection.send(DOING, |buffer| frontend::password_message(hash.as_bytes(), buffer))?;
        }
        Message::AuthenticationSasl(body) => scram(connection, &body, password()?, &options.user)?,
        Message::AuthenticationGss | Message::AuthenticationGssContinue(_) => return unsupported("gss"),
        Message::AuthenticationSspi => return unsupported("sspi"),
        Message::AuthenticationKerberosV5 => return unsupported("kerberos"),
        other => return Err(Error::protocol(DOING, describe(&other))),
    }
    match connection.receive_or_error(DOING)? {
        Message::AuthenticationOk => Ok(()),
        other => Err(Error::protocol(DOING, describe(&other))),
    }
}

fn scram(connection: &mut Connection, body: &AuthenticationSaslBody, password: &Password, user: &str) -> Result<()> {
    let offered: Vec<&str> = body.mechanisms().collect().map_err(Error::io(DOING))?;
    if !offered.contains(&SCRAM_SHA_256) {
        return Err(Error::AuthenticationMethod { method: offered.join(", ") });
    }
    let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
    connection.send(DOING, |buffer| frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), buffer))?;
    let not_proven = |source| Error::ServerNotProven { user: user.into(), source };
    match connection.receive_or_error(DOING)? {
        Message::AuthenticationSaslContinue(body) => scram.update(body.data()).map_err(not_proven)?,
        other => return Err(Error::protocol(DOING, describe(&other))),
    }
    connection.send(DOING, |buffer| frontend::sasl_response(scram.message(), buffer))?;
    match connection.receive_or_error(DOING)? {
        Message::AuthenticationSaslFinal(body) => scram.finish(body.data()).map_err(not_proven),
        other => Err(Error::protocol(DOING, describe(&other))),
    }
}
