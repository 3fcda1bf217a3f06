use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use levee_engine::postgres::{ChannelBinding, ConnectOptions, Connection, Error, Host, Password, SslMode};
use levee_model::postgres::{Lsn, SegmentSize};
use levee_testing::postgres::Cluster;
use levee_testing::process::run;
use rustls_pki_types::pem::PemObject;

use crate::wal::stream;
use crate::{options, tcp_options};

#[test]
fn queries_return_rows_and_errors_leave_the_connection_usable() {
    let cluster = Cluster::builder().start();
    let mut connection = Connection::connect(&options(&cluster)).unwrap();
    assert_eq!(connection.server_version().major(), 15);
    let rows =
        connection.simple_query("select 1 as a, null as b, 'ü' as c union all select 2, 'x', '' order by 1").unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0].by_name("a"), rows[0].by_name("b"), rows[0].by_name("c")), (Some("1"), None, Some("ü")));
    let error = connection.simple_query("select nonsense").unwrap_err();
    assert_eq!(error.sqlstate(), Some("42703"));
    assert!(error.to_string().contains("nonsense"), "{error}");
    assert_eq!(connection.simple_query("show application_name").unwrap()[0].get(0), Some("levee"));
    let killed = connection.simple_query("select pg_terminate_backend(pg_backend_pid())").unwrap_err();
    assert_eq!(killed.sqlstate(), Some("57P01"));
    assert!(connection.simple_query("select 1").is_err());
}

#[test]
fn every_method_of_logging_in_works_and_a_wrong_password_is_told() {
    let cluster = Cluster::builder()
        .hba("host all scram all scram-sha-256")
        .hba("host all hashed all md5")
        .hba("hostnossl all clear all password")
        .hba("local all clear password")
        .hba("host all nobody all reject")
        .start();
    cluster.psql("set password_encryption = 'md5'; create role hashed login password 'sécret'");
    for role in ["scram", "clear", "nobody"] {
        cluster.psql(&format!("create role {role} login password 'sécret'"));
    }
    let attempt = |user: &str, password: Option<&str>| {
        let mut options = tcp_options(&cluster, user);
        options.password = password.map(Password::new);
        Connection::connect(&options)
    };
    for user in ["scram", "hashed"] {
        assert!(attempt(user, Some("sécret")).is_ok());
        assert_eq!(attempt(user, Some("wrong")).unwrap_err().sqlstate(), Some("28P01"), "{user}");
        assert!(matches!(attempt(user, None), Err(Error::PasswordNeeded { .. })));
    }
    assert!(matches!(attempt("clear", Some("sécret")), Err(Error::CleartextRefused { .. })));
    let mut local = options(&cluster);
    local.user = "clear".into();
    local.password = Some(Password::new("sécret"));
    assert!(Connection::connect(&local).is_ok());
    assert_eq!(attempt("nobody", None).unwrap_err().sqlstate(), Some("28000"));
}

#[test]
fn nobody_listening_and_nobody_answering_are_errors_in_time() {
    let mut cluster = Cluster::builder().start();
    let options = tcp_options(&cluster, "postgres");
    cluster.kill();
    assert!(matches!(Connection::connect(&options), Err(Error::Connect { .. })));
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut options = options;
    options.port = silent.local_addr().unwrap().port();
    options.connect_timeout = Duration::from_millis(200);
    assert!(matches!(Connection::connect(&options), Err(Error::TimedOut { .. })));
}

#[test]
fn a_connection_can_be_encrypted_and_the_server_verified() {
    let mut cluster = Cluster::builder().create();
    let certificate = make_certificate(&cluster, "-sha256");
    let conf = cluster.data_directory().join("postgresql.conf");
    let text = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, format!("{text}\nssl = on\n")).unwrap();
    cluster.start();

    let connect = |mode: SslMode, host: &str| {
        let mut options = tcp_options(&cluster, "postgres");
        options.host = Host::Tcp(host.into());
        options.ssl_mode = mode;
        Connection::connect(&options)
    };
    assert!(!connect(SslMode::Disable, "127.0.0.1").unwrap().is_encrypted());
    assert!(connect(SslMode::Prefer, "127.0.0.1").unwrap().is_encrypted());
    let mut encrypted = connect(SslMode::Require, "127.0.0.1").unwrap();
    assert!(encrypted.is_encrypted());
    // Answers and questions that are larger than TLS records and buffers.
    let rows =
        encrypted.simple_query(&format!("select length('{}'), repeat('y', 3000000)", "x".repeat(300_000))).unwrap();
    assert_eq!((rows[0].get(0), rows[0].get(1).map(str::len)), (Some("300000"), Some(3_000_000)));

    // The log, which comes as fast as the server can.
    let from = cluster.flush_lsn().parse::<Lsn>().unwrap().segment_start(SegmentSize::DEFAULT);
    cluster.pgbench().initialize(3);
    let end = cluster.flush_lsn().parse().unwrap();
    let required = ConnectOptions { ssl_mode: SslMode::Require, ..tcp_options(&cluster, "postgres") };
    assert!(stream(&required, from, end) == stream(&options(&cluster), from, end));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    let roots = Arc::new(roots);
    assert!(connect(SslMode::VerifyFull(roots.clone()), "localhost").unwrap().is_encrypted());
    assert!(matches!(connect(SslMode::VerifyFull(roots), "127.0.0.1"), Err(Error::Tls { .. })), "another name");
    let nobody = Arc::new(rustls::RootCertStore::empty());
    assert!(matches!(connect(SslMode::VerifyFull(nobody), "localhost"), Err(Error::Tls { .. })), "unknown authority");
}

#[test]
fn a_server_without_tls_is_refused_where_tls_is_required() {
    let cluster = Cluster::builder().start();
    let mut options = tcp_options(&cluster, "postgres");
    options.ssl_mode = SslMode::Prefer;
    assert!(!Connection::connect(&options).unwrap().is_encrypted());
    options.ssl_mode = SslMode::Require;
    assert!(matches!(Connection::connect(&options), Err(Error::TlsRefused { .. })));
}

#[test]
fn a_password_s_proof_is_bound_to_the_connection() {
    let mut cluster = Cluster::builder()
        .hba("hostssl all bound all scram-sha-256\nhostssl all hashed all md5")
        .hba("hostnossl all bound all scram-sha-256")
        .setting("ssl", "on")
        .create();
    make_certificate(&cluster, "-sha512");
    cluster.start();
    cluster.psql("create role bound login password 'x'");
    cluster.psql("set password_encryption = 'md5'; create role hashed login password 'x'");
    let connect = |user: &str, ssl_mode: SslMode, channel_binding: ChannelBinding| {
        let password = Some(Password::new("x"));
        let options = ConnectOptions { password, ssl_mode, channel_binding, ..tcp_options(&cluster, user) };
        Connection::connect(&options)
    };
    for binding in [ChannelBinding::Disable, ChannelBinding::Prefer, ChannelBinding::Require] {
        connect("bound", SslMode::Require, binding).unwrap();
    }
    connect("bound", SslMode::Disable, ChannelBinding::Prefer).unwrap();
    connect("hashed", SslMode::Require, ChannelBinding::Prefer).unwrap();
    // No TLS, a proof that can't be bound, and none at all.
    for (user, mode) in [("bound", SslMode::Disable), ("hashed", SslMode::Require), ("postgres", SslMode::Require)] {
        let refused = connect(user, mode, ChannelBinding::Require);
        assert!(matches!(refused, Err(Error::NotBound { .. })), "{user}: {refused:?}");
    }
}

/// A certificate for `localhost` by an authority of its own, in the data directory.
fn make_certificate(cluster: &Cluster, hash: &str) -> std::path::PathBuf {
    let folder = cluster.data_directory();
    let openssl = |arguments: &[&str]| {
        run(Command::new("openssl").args(arguments).current_dir(folder));
    };
    openssl(&[
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=ca",
        "-days", "2",
    ]);
    openssl(&[
        "req",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "server.key",
        "-out",
        "server.csr",
        "-subj",
        "/CN=localhost",
    ]);
    std::fs::write(folder.join("extensions"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n").unwrap();
    openssl(&[
        "x509",
        hash,
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-out",
        "server.crt",
        "-days",
        "2",
        "-extfile",
        "extensions",
    ]);
    for name in ["server.key", "server.crt"] {
        run(Command::new("chown").arg("postgres").arg(folder.join(name)));
        run(Command::new("chmod").arg("600").arg(folder.join(name)));
    }
    folder.join("ca.crt")
}
