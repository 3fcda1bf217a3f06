use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use levee_api::{Client, ClientOptions, Token};

use super::context::Context;

/// How to reach the server. What is not given here comes from the context file.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// The server's address
    #[arg(long, env = "LEVEE_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// A file with the token (the token itself may be in LEVEE_TOKEN)
    #[arg(long, env = "LEVEE_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The certificate of the server's CA (ca.pem)
    #[arg(long, env = "LEVEE_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

const TOKEN_BYTES_MAX: u64 = 4096;
const CA_BYTES_MAX: u64 = 1 << 20;

impl Connection {
    pub fn client(&self) -> anyhow::Result<Client> {
        let token = std::env::var("LEVEE_TOKEN").ok().filter(|token| !token.trim().is_empty());
        let says_all =
            self.server.is_some() && self.ca_file.is_some() && (self.token_file.is_some() || token.is_some());
        let context = if says_all { None } else { Context::load()? };
        let Some(server) = self.server.clone().or_else(|| Some(context.as_ref()?.server.clone())) else {
            bail!(
                "no server is known: give --server URL or set LEVEE_SERVER, or run `levee server init` or `levee up` here"
            );
        };
        // The keys of one server are of no use to another.
        let context = context.filter(|context| context.server == server);
        let Some(ca_file) = self.ca_file.clone().or_else(|| Some(context.as_ref()?.ca_file.clone())) else {
            bail!(
                "the CA of {server} is not known: give --ca-file FILE or set LEVEE_CA_FILE (the server has it as ca/ca.pem)"
            );
        };
        let token = match (&self.token_file, token, context) {
            (Some(file), _, _) => read_token(file)?,
            (None, Some(token), _) => Token::new(&token),
            (None, None, Some(context)) => read_token(&context.token_file)?,
            (None, None, None) => {
                bail!("there is no token for {server}: give --token-file FILE, or set LEVEE_TOKEN_FILE or LEVEE_TOKEN")
            }
        };
        let ca_pem =
            read(&ca_file, CA_BYTES_MAX).with_context(|| format!("cannot read the CA file {}", ca_file.display()))?;
        Ok(Client::new(ClientOptions { server, token, ca_pem })?)
    }
}

fn read_token(file: &Path) -> anyhow::Result<Token> {
    let bytes =
        read(file, TOKEN_BYTES_MAX).with_context(|| format!("cannot read the token file {}", file.display()))?;
    let text = String::from_utf8(bytes).ok().with_context(|| format!("{} holds no token", file.display()))?;
    Ok(Token::new(&text))
}

/// Reads a file that is small, or not the right one.
pub fn read(file: &Path, bytes_max: u64) -> anyhow::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(file)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        bail!("the file is larger than {bytes_max} bytes");
    }
    Ok(bytes)
}
