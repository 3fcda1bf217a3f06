use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding as Binding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use fallible_iterator::FallibleIterator;

use super::connection::{Connection, describe};
use super::{ChannelBinding, ConnectOptions, Error, Password, Result};

const DOING: &str = "logging in";

/// Answers whatever the server asks to know who we are.
pub(crate) fn authenticate(connection: &mut Connection, options: &ConnectOptions) -> Result<()> {
    let password = || options.password.as_ref().ok_or_else(|| Error::PasswordNeeded { user: options.user.clone() });
    let unsupported = |method: &str| Err(Error::AuthenticationMethod { method: method.into() });
    let first = connection.receive_or_error(DOING)?;
    // A proof that is asked for in any other way could be passed on by whoever is in between.
    if options.channel_binding == ChannelBinding::Require && !matches!(first, Message::AuthenticationSasl(_)) {
        return Err(Error::NotBound { address: options.address(), reason: "the server asks for no SCRAM proof" });
    }
    match first {
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
        Message::AuthenticationSasl(body) => scram(connection, &body, password()?, options)?,
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

fn scram(
    connection: &mut Connection,
    body: &AuthenticationSaslBody,
    password: &Password,
    options: &ConnectOptions,
) -> Result<()> {
    let offered: Vec<&str> = body.mechanisms().collect().map_err(Error::io(DOING))?;
    let (mechanism, binding) = choose(&offered, connection.end_point(), options)?;
    let mut scram = ScramSha256::new(password.as_bytes(), binding);
    connection.send(DOING, |buffer| frontend::sasl_initial_response(mechanism, scram.message(), buffer))?;
    let not_proven = |source| Error::ServerNotProven { user: options.user.clone(), source };
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

/// How to prove the password (RFC 5802, section 6). `end_point` is what it can be bound to.
fn choose(offered: &[&str], end_point: Option<Vec<u8>>, options: &ConnectOptions) -> Result<(&'static str, Binding)> {
    let end_point = end_point.filter(|_| options.channel_binding != ChannelBinding::Disable);
    let server_can = offered.contains(&SCRAM_SHA_256_PLUS);
    let not_bound = |reason| Error::NotBound { address: options.address(), reason };
    match (end_point, server_can) {
        (Some(end_point), true) => Ok((SCRAM_SHA_256_PLUS, Binding::tls_server_end_point(end_point))),
        (None, _) if options.channel_binding == ChannelBinding::Require => {
            Err(not_bound("it has no TLS, or a certificate whose signature has no hash to bind to"))
        }
        (Some(_), false) if options.channel_binding == ChannelBinding::Require => {
            Err(not_bound("the server does not offer it"))
        }
        _ if !offered.contains(&SCRAM_SHA_256) => Err(Error::AuthenticationMethod { method: offered.join(", ") }),
        // Said to the server, so that one that did offer it notices that the offer was taken out on the way.
        (Some(_), false) => Ok((SCRAM_SHA_256, Binding::unrequested())),
        (None, _) => Ok((SCRAM_SHA_256, Binding::unsupported())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_bound_where_both_ends_can_and_never_less_than_is_required() {
        const BOTH: &[&str] = &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256];
        let check = |offered: &[&str], end_point: bool, wanted: ChannelBinding, expected: Option<&str>| {
            let mut options: ConnectOptions = "user=levee".parse().unwrap();
            options.channel_binding = wanted;
            let chosen = choose(offered, end_point.then(|| vec![1]), &options).ok().map(|(mechanism, _)| mechanism);
            assert_eq!(chosen, expected, "{offered:?} {end_point} {wanted:?}");
        };
        for (wanted, bound, plain) in [
            (ChannelBinding::Disable, Some(SCRAM_SHA_256), Some(SCRAM_SHA_256)),
            (ChannelBinding::Prefer, Some(SCRAM_SHA_256_PLUS), Some(SCRAM_SHA_256)),
            (ChannelBinding::Require, Some(SCRAM_SHA_256_PLUS), None),
        ] {
            check(BOTH, true, wanted, bound);
            check(BOTH, false, wanted, plain);
            check(&[SCRAM_SHA_256], true, wanted, plain);
            check(&["OTHER"], true, wanted, None);
        }
    }
}
