//! The gateway under test: the dataplane and control as processes in the gateway's namespace.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::config::ConfigFile;
use crate::netns::Netns;
use crate::process::{Bond, Process};
use crate::run::{Cmd, Said};
use crate::wait::{wait_for, wait_until};

/// How long EAL, ports and tables may take to come up, and every step after.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Dataplane and control of one gateway.
#[derive(Debug)]
pub struct Gateway {
    /// The dataplane, while it shall run.
    pub dataplane: Option<Process>,
    /// Control, while it shall run.
    pub control: Option<Process>,
    /// The configuration file of both.
    pub config: PathBuf,
    dir: PathBuf,
    bond: Bond,
}

impl Gateway {
    /// Prepares a gateway that runs `config`: sockets and instance name are set such that it does not meet another
    /// one on this machine. Huge pages are as `config` says.
    pub fn new(instance: &str, mut config: ConfigFile, dir: &Path, bond: Bond) -> Result<Gateway> {
        own_surroundings(&mut config, instance, dir)?;
        let path = dir.join("tollgate.toml");
        config.write(&path)?;
        Ok(Gateway { dataplane: None, control: None, config: path, dir: dir.to_owned(), bond })
    }

    /// Starts both and waits until every service is in force.
    pub fn start(&mut self, netns: &Netns) -> Result<()> {
        self.start_dataplane(netns)?;
        self.start_control(netns)
    }

    /// Starts the dataplane and waits until it answers on its socket.
    pub fn start_dataplane(&mut self, netns: &Netns) -> Result<()> {
        let command = Cmd::new(binary("tollgate-dataplane")?).arg("--config").arg(&self.config);
        let mut process = Process::spawn("dataplane", netns, &command, &self.dir, self.bond)?;
        let socket = self.api_socket();
        wait_until("the dataplane answers on its socket", START_LIMIT, || {
            process.must_run()?;
            Ok(std::os::unix::net::UnixStream::connect(&socket).is_ok())
        })?;
        self.dataplane = Some(process);
        Ok(())
    }

    /// Starts control and waits until what it wants is in force.
    pub fn start_control(&mut self, netns: &Netns) -> Result<()> {
        let command = Cmd::new(binary("tollgate-control")?).arg("--config").arg(&self.config);
        let mut process = Process::spawn("control", netns, &command, &self.dir, self.bond)?;
        let socket = self.control_socket();
        wait_until("control answers on its socket", START_LIMIT, || {
            process.must_run()?;
            Ok(std::os::unix::net::UnixStream::connect(&socket).is_ok())
        })?;
        self.control = Some(process);
        Ok(())
    }

    /// The dataplane's socket.
    pub fn api_socket(&self) -> PathBuf {
        self.dir.join("dataplane.sock")
    }

    /// Control's socket.
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// Where the logs and sockets are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The command line `tollgate` with what makes it ask this gateway.
    pub(crate) fn command_line(&self, netns: &Netns, arguments: &str) -> Result<Cmd> {
        let command = Cmd::new(binary("tollgate")?).args(arguments.split_whitespace());
        let command = command.arg("--socket").arg(self.api_socket());
        Ok(command.arg("--control-socket").arg(self.control_socket()).in_netns(netns))
    }

    /// Runs the command line `tollgate`; any exit code is fine.
    pub fn cli_any(&self, netns: &Netns, arguments: &str) -> Result<Said> {
        self.command_line(netns, arguments)?.run_any()
    }

    /// Runs the command line `tollgate`, which must succeed; its output.
    pub fn cli(&self, netns: &Netns, arguments: &str) -> Result<String> {
        let said = self.cli_any(netns, arguments)?;
        if said.code != Some(0) {
            bail!("`tollgate {arguments}` ended with {:?}\n{}{}", said.code, said.stdout, said.stderr);
        }
        Ok(said.stdout)
    }

    /// Runs the command line with `--json`.
    pub fn json(&self, netns: &Netns, arguments: &str) -> Result<Value> {
        let text = self.cli(netns, &format!("{arguments} --json"))?;
        serde_json::from_str(&text).with_context(|| format!("`tollgate {arguments} --json` said:\n{text}"))
    }

    /// Which real servers of the first service get new connections.
    pub fn in_service(&self, netns: &Netns) -> Result<Vec<bool>> {
        let services = self.json(netns, "services")?;
        let servers = services[0]["real_servers"].as_array().map_or(&[][..], Vec::as_slice);
        Ok(servers.iter().map(|server| server["up"] == true && server["reachable"] == true).collect())
    }

    /// Writes a changed configuration over the old one.
    pub fn change_config(&self, change: impl FnOnce(&mut ConfigFile) -> Result<()>) -> Result<()> {
        let mut config = ConfigFile::read(&self.config)?;
        change(&mut config)?;
        config.write(&self.config)
    }

    /// What a probe yields, once it yields something; an error when the dataplane or control ends instead.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        mut probe: impl FnMut(&Gateway) -> Result<Option<T>>,
    ) -> Result<T> {
        wait_for(what, START_LIMIT, || {
            for process in [&mut self.dataplane, &mut self.control].into_iter().flatten() {
                process.must_run()?;
            }
            probe(self)
        })
    }
}

/// Sockets in `dir`, a name of its own for DPDK's files.
fn own_surroundings(config: &mut ConfigFile, instance: &str, dir: &Path) -> Result<()> {
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    config.set("dataplane", "api_socket", path("dataplane.sock"))?;
    config.set("dataplane", "instance", instance)?;
    config.set("control", "socket", path("control.sock"))
}

/// Where a program of the project is: in `TOLLGATE_BIN_DIR`, or beside the running test or tool.
pub fn binary(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os("TOLLGATE_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let own = std::env::current_exe()?;
            // target/PROFILE/deps/test-hash or target/PROFILE/tollgate-demo
            let folder = own.parent().context("the running program lies in no folder")?;
            if folder.ends_with("deps") {
                folder.parent().unwrap_or(folder).to_owned()
            } else {
                folder.to_owned()
            }
        }
    };
    let path = dir.join(name);
    if !path.exists() {
        bail!(
            "{} is not there; build it with `make build`, or set TOLLGATE_BIN_DIR to its folder",
            path.display()
        );
    }
    Ok(path)
}
