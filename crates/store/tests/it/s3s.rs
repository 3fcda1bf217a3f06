//! S3 as s3s-fs serves it from a folder: a second server of the protocol, so that nothing is taken for granted that is
//! only Ceph's manner.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use levee_store::object_store::{Service, TransportOptions};
use levee_store::{FileType, ObjectStore, RetryStore, Store, conformance, content_name};
use levee_testing::ceph::{ACCESS_KEY, SECRET_KEY};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::kept;
use crate::late::LateListings;
use crate::limits;
use crate::proxy::{self, Fault, QUICK};
use crate::s3::{self, BUCKET};

/// Serves until it is dropped.
struct S3sFs {
    address: SocketAddr,
    runtime: Option<Runtime>,
    _folder: tempfile::TempDir,
}

impl S3sFs {
    fn start() -> S3sFs {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(FileSystem::new(folder.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let service = service.clone();
                tokio::spawn(async move {
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    // A client may break off; that is its own affair.
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        S3sFs { address, runtime: Some(runtime), _folder: folder }
    }
}

impl Drop for S3sFs {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

fn store(address: SocketAddr, path: &str) -> ObjectStore {
    s3::store(s3::options(format!("http://{address}"), BUCKET, path))
}

#[test]
fn conforms() {
    let server = S3sFs::start();
    let store = store(server.address, "a/b c");
    store.create().unwrap();
    conformance::check(&store);
}

#[test]
fn a_bad_network_is_not_noticed() {
    let server = S3sFs::start();
    let proxy = proxy::start(server.address, proxy::often);
    conformance::check_through_faults(&RetryStore::new(store(proxy.address, "faults"), QUICK));
}

#[test]
fn an_upload_that_breaks_off_while_it_is_sent_is_sent_again() {
    let server = S3sFs::start();
    let proxy = proxy::start(server.address, |request| if request == 0 { Fault::Unheard } else { Fault::None });
    let store = RetryStore::new(store(proxy.address, "cut"), QUICK);
    // More than any buffer on the way takes.
    let content = vec![7u8; 16 << 20];
    let name = content_name(&content);
    store.write(FileType::Data, &name, &content).unwrap();
    assert!(store.read(FileType::Data, &name).unwrap() == content);
}

#[test]
fn a_connection_that_ends_when_something_is_asked_on_it_is_not_noticed() {
    let server = S3sFs::start();
    kept::check(server.address, |address| store(address, "kept"));
}

#[test]
fn wrong_sizes_are_noticed() {
    s3::check_wrong_sizes(S3sFs::start().address);
}

#[test]
fn a_service_with_too_much_to_do_is_left_alone_for_as_long_as_it_asks() {
    let server = S3sFs::start();
    proxy::check_pause(server.address, |address| Box::new(store(address, "pause")));
}

#[test]
fn late_listings_decide_nothing() {
    let server = S3sFs::start();
    let late = LateListings::start(server.address);
    late.check(&store(late.address(), "late"));
}

#[test]
fn expired_credentials_are_said_at_once() {
    s3::check_expired_credentials(S3sFs::start().address);
}

#[test]
fn limits_are_kept() {
    let server = S3sFs::start();
    limits::check(|bandwidth| {
        let service = Service::S3(s3::options(format!("http://{}", server.address), BUCKET, "limits"));
        let transport = TransportOptions { bandwidth, ..TransportOptions::default() };
        Arc::new(ObjectStore::new(service, transport).unwrap())
    });
}
