//! A WebDAV server: nginx with its module for it.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::{Child, TempSite, free_port, tools, wait};

const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Where Debian puts what nginx loads.
pub const MODULE: &str = "/usr/lib/nginx/modules/ngx_http_dav_ext_module.so";

pub const USER: &str = "levee";
pub const PASSWORD: &str = "a dav password";

/// A running server that asks for [`USER`] and [`PASSWORD`].
pub struct WebDav {
    // Ended before its folder is removed.
    _child: Child,
    site: TempSite,
    port: u16,
}

impl WebDav {
    #[track_caller]
    pub fn start() -> WebDav {
        let site = TempSite::new("webdav");
        let (folder, port) = (site.path(), free_port());
        fs::create_dir_all(site.folder("files").join("vaults")).expect("our own folder");
        write(folder, "users", &user_with(PASSWORD));
        let at = folder.display();
        let config = format!(
            "load_module {MODULE};\nuser root;\ndaemon off;\npid {at}/nginx.pid;\nworker_processes 1;\n\
             error_log stderr;\nevents {{ worker_connections 256; }}\nhttp {{\n access_log off;\n\
             client_body_temp_path {at}/body;\n proxy_temp_path {at}/proxy;\n fastcgi_temp_path {at}/fastcgi;\n\
             uwsgi_temp_path {at}/uwsgi;\n scgi_temp_path {at}/scgi;\n client_max_body_size 200m;\n server {{\n\
             listen 127.0.0.1:{port};\n root {at}/files;\n auth_basic vaults;\n auth_basic_user_file {at}/users;\n\
             location / {{ dav_methods PUT DELETE MKCOL COPY MOVE; dav_ext_methods PROPFIND OPTIONS; }}\n }}\n}}\n"
        );
        write(folder, "nginx.conf", &config);
        let mut command = Command::new(tools::required("nginx"));
        command.arg("-p").arg(folder).arg("-e").arg("stderr").arg("-c").arg(folder.join("nginx.conf"));
        let child = Child::spawn("nginx", &mut command, &folder.join("nginx.log"));
        let answers = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        if wait::poll(START_TIMEOUT, || answers().then_some(())).is_none() {
            panic!("nginx does not answer:\n{}", child.log_tail(20));
        }
        WebDav { _child: child, site, port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets [`USER`] in with this password from now on, and with no other.
    pub fn set_password(&self, password: &str) {
        write(self.site.path(), "users", &user_with(password));
    }

    /// The URL of a folder that is there, below which more may be made.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/vaults", self.port)
    }

    /// The same folder on this machine.
    pub fn folder(&self) -> std::path::PathBuf {
        self.site.path().join("files/vaults")
    }
}

/// A line of the file that nginx reads at each request.
fn user_with(password: &str) -> String {
    format!("{USER}:{{PLAIN}}{password}\n")
}

fn write(folder: &Path, name: &str, content: &str) {
    let path = folder.join(name);
    fs::write(&path, content).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}
