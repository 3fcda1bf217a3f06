//! The HTTP/JSON interface of the server: what is sent and answered, a client for it, and its
//! description as OpenAPI.
//!
//! `ROUTES` is the one list of calls. The description is made from it, and the server's tests hold
//! its router against it. Plans and runs are answered as `levee-plan` has them.

mod client;
mod openapi;
mod routes;
mod types;

pub use client::{Client, ClientError, ClientOptions, SERVER_NAME, Token};
pub use openapi::openapi;
pub use routes::{ROUTES, Route};
pub use types::*;
