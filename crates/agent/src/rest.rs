//! A repository's answers as HTTP.

use bytes::Bytes;
use hyper::header::{ACCEPT, HeaderName, HeaderValue, RANGE};
use hyper::{Request, Response, StatusCode};
use levee_store::Store;
use levee_store::rest_server::{self, Access};

/// Answers a request on a repository; `path` is what follows the repository's own place in the request's path.
pub fn answer(store: &dyn Store, access: Access, path: &str, request: &Request<Bytes>) -> Response<Bytes> {
    let header = |name: HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let answer = rest_server::handle(
        store,
        access,
        rest_server::Request {
            method: request.method().as_str(),
            path,
            query: request.uri().query(),
            range: header(RANGE),
            accept: header(ACCEPT),
            body: request.body(),
        },
    );
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::new(Bytes::from(answer.body));
    *response.status_mut() = status;
    for (name, value) in answer.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}
