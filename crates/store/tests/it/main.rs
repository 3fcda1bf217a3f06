mod faults;
mod local;
mod rest;
mod restic;
mod server;
mod tls;
