//! A real server: nginx in a namespace, which answers with its own name.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Netns;
use crate::process::{Bond, Process};
use crate::receiver;
use crate::run::Cmd;
use crate::wait::wait_until;

/// How long nginx may take to listen.
const START_LIMIT: Duration = Duration::from_secs(10);

/// nginx on port 80 of a namespace, over IPv4 and IPv6. `/` answers with the server's name, `/health` with `ok`,
/// `/files/` serves the directory that it was given, `/upload` keeps what it is sent and then answers as `/` does.
/// Port 81 expects the PROXY protocol; there `/` answers with the client's address and port and the address that it wanted.
#[derive(Debug)]
pub struct Nginx {
    process: Option<Process>,
    config: PathBuf,
    dir: PathBuf,
    name: String,
    bond: Bond,
    /// The control group that it starts in, if not in that of this process.
    cgroup: Option<PathBuf>,
}

impl Nginx {
    /// Writes the configuration of the server `name`; its own files go to `dir`, it serves those of `files`.
    pub fn new(name: &str, dir: &Path, files: &Path, bond: Bond) -> Result<Nginx> {
        let config = dir.join(format!("{name}.conf"));
        std::fs::write(&config, config_text(name, dir, files))?;
        Ok(Nginx { process: None, config, dir: dir.to_owned(), name: name.to_owned(), bond, cgroup: None })
    }

    /// From its next start on it runs in this control group.
    pub fn set_cgroup(&mut self, cgroup: &Path) {
        self.cgroup = Some(cgroup.to_owned());
    }

    /// Starts it and waits until it listens.
    pub fn start(&mut self, netns: &Netns) -> Result<()> {
        let command = match &self.cgroup {
            None => Cmd::new("nginx"),
            Some(group) => receiver::member(group, &Cmd::new("nginx")),
        };
        let command = command.arg("-c").arg(&self.config);
        let mut process = Process::spawn(&self.name, netns, &command, &self.dir, self.bond)?;
        wait_until(&format!("{} listens on port 80", self.name), START_LIMIT, || {
            process.must_run()?;
            Ok(!Cmd::line("ss -Hltn sport = :80").in_netns(netns).run()?.stdout.is_empty())
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills it with its workers, as a crash would: the kernel answers its port with RST from now on.
    pub fn crash(&mut self, netns: &Netns) -> Result<()> {
        netns.kill_all()?;
        self.process = None;
        Ok(())
    }

    /// What `/upload` was sent: one file each.
    pub fn uploads(&self) -> Result<Vec<PathBuf>> {
        let folder = self.dir.join(format!("{}.body", self.name));
        let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        entries.map(|entry| Ok(entry?.path())).collect()
    }

    /// The clients' addresses that its log has for `/`.
    pub fn logged(&self) -> Result<Vec<String>> {
        let log = self.dir.join(format!("{}.access.log", self.name));
        let text = std::fs::read_to_string(&log).with_context(|| log.display().to_string())?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// The running process.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }
}

fn config_text(name: &str, dir: &Path, files: &Path) -> String {
    let (dir, files) = (dir.display(), files.display());
    format!(
        "daemon off; user root; worker_processes 1; worker_rlimit_nofile 65536;
pid {dir}/{name}.pid; error_log {dir}/{name}.error.log;
events {{ worker_connections 8192; }}
http {{
  log_format peer \"$remote_addr:$remote_port\";
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 10000000; default_type text/plain;
  client_body_temp_path {dir}/{name}.body; proxy_temp_path {dir}/{name}.proxy;
  fastcgi_temp_path {dir}/{name}.fastcgi; uwsgi_temp_path {dir}/{name}.uwsgi; scgi_temp_path {dir}/{name}.scgi;
  server {{
    listen 80 backlog=4096;
    listen [::]:80 ipv6only=on backlog=4096;
    location / {{ access_log {dir}/{name}.access.log peer; return 200 \"{name}\\n\"; }}
    location /health {{ return 200 \"ok\\n\"; }}
    location /files/ {{ alias {files}/; }}
    client_max_body_size 0;
    location /upload {{
      client_body_buffer_size 16k; client_body_in_file_only on;
      proxy_pass http://127.0.0.1:80/;
    }}
  }}
  server {{
    listen 81 proxy_protocol;
    listen [::]:81 ipv6only=on proxy_protocol;
    client_max_body_size 0;
    location / {{ return 200 \"$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr\\n\"; }}
    location /upload {{
      client_body_buffer_size 16k; client_body_in_file_only on;
      proxy_pass http://127.0.0.1:80/;
    }}
  }}
}}
"
    )
}
