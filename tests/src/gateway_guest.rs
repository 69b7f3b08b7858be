//! A guest that runs the gateway: Debian's kernel in qemu, emulated, with dataplane, control and command line in its
//! initial RAM disk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::agent::{Agent, Listening};
use crate::gateway::binary;
use crate::guest_image::Image;
use crate::qemu::{self, Machine, Qemu};
use crate::run::Cmd;
use crate::side::Side;
use crate::wait::wait_for;

/// How long booting and every step may take on a busy machine: some ten seconds on an idle one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// The same when a test has failed already and what the guest says is only to tell why.
const PATIENCE_AFTER: Duration = Duration::from_secs(20);
/// Memory of the guest in MiB; 128 of it become huge pages.
const MEMORY_MIB: u32 = 512;

/// What fits into the guest.
const CONFIG: &str = r#"
[dataplane]
huge_pages = "require"
memory_mib = 128
mbufs = 12288
connections_max = 10000
services_max = 16
real_servers_max = 16
workers = WORKERS
steering = "STEERING"

[control]
metrics_listen = "none"
manage_addresses = false
"#;

/// A configuration of so many workers and of two ports, `wan` and `lan`, on these devices, with nothing for the
/// kernel; `rest` are pools, services, neighbours and routes.
pub fn config(workers: usize, steering: &str, devices: [&str; 2], rest: &str) -> String {
    let mut text = CONFIG.replace("WORKERS", &workers.to_string()).replace("STEERING", steering);
    for (side, device) in Side::ALL.into_iter().zip(devices) {
        text += &format!(
            "[[port]]\nname = \"{}\"\ndevice = \"{device}\"\nkernel_interface = \"\"\n\
             rx_descriptors = 256\ntx_descriptors = 256\n",
            side.name()
        );
    }
    text + rest
}

/// The sum over all workers of a count in `tollgate status --json`.
pub fn sum_of_workers(status: &Value, name: &str) -> Result<u64> {
    let workers = status["dataplane"]["workers"].as_array().context("workers")?;
    workers.iter().map(|worker| worker[name].as_u64().with_context(|| format!("no {name}"))).sum()
}

/// A running guest; ended when dropped. A test that fails ends with its gateway running: how that is is shown then.
#[derive(Debug)]
pub struct GatewayGuest {
    agent: Agent,
    gateway_runs: bool,
    _qemu: Qemu,
    _dir: TempDir,
}

impl GatewayGuest {
    /// Boots `image` and waits until it takes commands. `wrapper` is put before qemu of the folder `root`, `devices`
    /// are its arguments for what the machine has besides; `dir` is for files of this guest.
    pub(crate) fn boot(
        image: &Image,
        dir: TempDir,
        wrapper: &[&str],
        root: &Path,
        devices: Vec<String>,
    ) -> Result<GatewayGuest> {
        let listening = Listening::new(dir.path(), &qemu::console(dir.path()))?;
        let mut arguments = Vec::new();
        for folder in ["usr/share/qemu", "usr/share/seabios"] {
            arguments.extend(["-L".into(), root.join(folder).display().to_string()]);
        }
        let chardev = format!("socket,id=agent,path={}", dir.path().join("agent").display());
        let all = ["-M", "q35", "-cpu", "max", "-chardev", &chardev, "-device", "isa-serial,chardev=agent"];
        arguments.extend(all.map(str::to_owned));
        arguments.extend(devices);
        let machine = Machine {
            wrapper,
            program: root.join("usr/bin/qemu-system-x86_64"),
            memory_mib: MEMORY_MIB,
            // On a busy machine the check of the timer finds none.
            append: "no_timer_check",
            arguments,
            patience: PATIENCE,
        };
        let (qemu, agent) = machine.boot(image, dir.path(), listening)?;
        Ok(GatewayGuest { agent, gateway_runs: false, _qemu: qemu, _dir: dir })
    }

    /// Runs a line of shell, which must succeed; what it prints.
    pub fn run(&mut self, line: &str) -> Result<String> {
        self.agent.run(line)
    }

    /// Runs a line of shell, which must fail; what it prints.
    pub fn run_failing(&mut self, line: &str) -> Result<String> {
        let said = self.agent.run_any(line)?;
        ensure!(said.status != 0, "`{line}` did not fail:\n{}", said.text);
        Ok(said.text)
    }

    /// Makes this the configuration, for a start or a reload.
    pub fn write_config(&mut self, config: &str) -> Result<()> {
        self.run("rm -f /config")?;
        for line in config.lines() {
            ensure!(!line.contains('\''), "a shell would take this for something else: {line}");
            self.run(&format!("echo '{line}' >>/config"))?;
        }
        Ok(())
    }

    /// Starts dataplane and control and waits until the services are in force and both ports have a link.
    pub fn start_gateway(&mut self, config: &str) -> Result<()> {
        self.write_config(config)?;
        self.gateway_runs = true;
        for program in ["dataplane", "control"] {
            self.run(&format!("tollgate-{program} --config /config >/{program}.log 2>&1 &"))?;
            let socket = format!("test -S /run/tollgate/{program}.sock");
            self.wait_for(&format!("{program}'s socket"), |agent| Ok(agent.run_any(&socket)?.status == 0))?;
        }
        self.wait_for("the services and the links", |agent| {
            if agent.run_any("pidof tollgate-dataplane && pidof tollgate-control")?.status != 0 {
                bail!("one of them has ended");
            }
            // The dataplane's socket is there before it answers.
            let said = agent.run_any("tollgate status --json")?;
            let status: Value = serde_json::from_str(&said.text).unwrap_or_default();
            let ports = status["dataplane"]["ports"].as_array().into_iter().flatten();
            let links = ports.filter(|port| port["link_up"] == true).count();
            let in_force = status["dataplane"]["generation"].as_u64() > Some(0);
            Ok(in_force && links == Side::ALL.len())
        })
    }

    /// Ends both.
    pub fn stop_gateway(&mut self) -> Result<()> {
        self.run("killall tollgate-control tollgate-dataplane")?;
        self.wait_for("both programs' end", |agent| {
            Ok(agent.run_any("pidof tollgate-control tollgate-dataplane")?.status != 0)
        })?;
        self.gateway_runs = false;
        Ok(())
    }

    /// `tollgate status --json`.
    pub fn status(&mut self) -> Result<Value> {
        let text = self.run("tollgate status --json")?;
        serde_json::from_str(&text).with_context(|| format!("`tollgate status --json` said:\n{text}"))
    }

    /// What the kernel and the first process have said.
    pub(crate) fn console(&self) -> String {
        self.agent.console()
    }

    fn wait_for(&mut self, what: &str, mut condition: impl FnMut(&mut Agent) -> Result<bool>) -> Result<()> {
        wait_for(what, PATIENCE, || Ok(condition(&mut self.agent)?.then_some(())))
    }

    /// The logs, the counters, and the connections that have not come about.
    fn last_words(&mut self) -> Result<String> {
        self.agent.set_patience(PATIENCE_AFTER)?;
        let words = "tail -n 40 /dataplane.log /control.log; tollgate status; tollgate stats; \
                     tollgate connections | grep SYN | head -n 20";
        Ok(self.agent.run_any(words)?.text)
    }
}

impl Drop for GatewayGuest {
    fn drop(&mut self) {
        if self.gateway_runs {
            let words = self.last_words().unwrap_or_else(|error| format!("{error:#}"));
            eprintln!("{words}\n── console ──\n{}", self.console());
        }
    }
}

/// The gateway's programs, without what a debugger wants of them.
pub(crate) fn programs(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut programs = Vec::new();
    for name in ["tollgate-dataplane", "tollgate-control", "tollgate"] {
        let stripped = dir.join(name);
        Cmd::line("strip --strip-debug -o").arg(&stripped).arg(binary(name)?).run()?;
        programs.push(stripped);
    }
    Ok(programs)
}

/// DPDK's plug-ins: `/usr/lib/TRIPLE/dpdk/pmds-VERSION/librte_NAME.so.VERSION`.
pub(crate) fn plug_ins(names: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for library in std::fs::read_dir("/usr/lib")?.flatten() {
        for folder in std::fs::read_dir(library.path().join("dpdk")).into_iter().flatten().flatten() {
            for name in names {
                let path = folder.path().join(format!("librte_{name}.so"));
                found.extend(path.canonicalize());
            }
        }
    }
    ensure!(found.len() == names.len(), "of DPDK's plug-ins {names:?} there are only {found:?}");
    Ok(found)
}
