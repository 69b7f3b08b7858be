//! A guest that runs the gateway: Debian's kernel in qemu, emulated, with dataplane, control and command line in its
//! initial RAM disk.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::agent::{Agent, Listening};
use crate::gateway::binary;
use crate::guest_image::Image;
use crate::run::Cmd;
use crate::wait::wait_for;

/// How long booting and every step may take on a busy machine: some ten seconds on an idle one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Memory of the guest in MiB; 128 of it become huge pages.
const MEMORY_MIB: u32 = 512;

/// A running guest; ended when dropped.
#[derive(Debug)]
pub(crate) struct GatewayGuest {
    _qemu: Qemu,
    pub(crate) agent: Agent,
}

impl GatewayGuest {
    /// Boots `image` and waits until it takes commands. `wrapper` is put before qemu of the folder `root`, `devices`
    /// are its arguments for what the machine has besides.
    pub(crate) fn boot(
        image: &Image,
        dir: &Path,
        wrapper: &[&str],
        root: &Path,
        devices: &[String],
    ) -> Result<GatewayGuest> {
        let console = dir.join("console");
        let listening = Listening::new(dir, &console)?;
        let mut qemu = Qemu(spawn_qemu(image, dir, wrapper, root, devices)?);
        let agent = listening.accept(PATIENCE, || match qemu.0.try_wait()? {
            None => Ok(()),
            Some(status) => {
                bail!("qemu has ended with {status}:\n{}", std::fs::read_to_string(&console)?)
            }
        })?;
        Ok(GatewayGuest { _qemu: qemu, agent })
    }

    /// Makes this the configuration.
    pub(crate) fn write_config(&mut self, config: &str) -> Result<()> {
        self.agent.run("rm -f /config")?;
        for line in config.lines() {
            ensure!(!line.contains('\''), "a shell would take this for something else: {line}");
            self.agent.run(&format!("echo '{line}' >>/config"))?;
        }
        Ok(())
    }

    /// Starts dataplane and control and waits until the services are in force and so many ports have a link.
    pub(crate) fn start_gateway(&mut self, config: &str, wanted_links: usize) -> Result<()> {
        self.write_config(config)?;
        for program in ["dataplane", "control"] {
            self.agent.run(&format!("tollgate-{program} --config /config >/{program}.log 2>&1 &"))?;
            let socket = format!("test -S /run/tollgate/{program}.sock");
            self.wait_for(&format!("{program}'s socket"), |guest| {
                Ok((guest.agent.run_any(&socket)?.status == 0).then_some(()))
            })?;
        }
        self.wait_for("the services and the links", |guest| {
            if guest.agent.run_any("pidof tollgate-dataplane && pidof tollgate-control")?.status != 0 {
                bail!("one of them has ended");
            }
            // The dataplane's socket is there before it answers.
            let said = guest.agent.run_any("tollgate status --json")?;
            let status: Value = serde_json::from_str(&said.text).unwrap_or_default();
            let ports = status["dataplane"]["ports"].as_array().into_iter().flatten();
            let links = ports.filter(|port| port["link_up"] == true).count();
            let in_force = status["dataplane"]["generation"].as_u64() > Some(0);
            Ok((in_force && links == wanted_links).then_some(()))
        })
    }

    /// Ends both.
    pub(crate) fn stop_gateway(&mut self) -> Result<()> {
        self.agent.run("killall tollgate-control tollgate-dataplane")?;
        self.wait_for("both programs' end", |guest| {
            Ok((guest.agent.run_any("pidof tollgate-control tollgate-dataplane")?.status != 0).then_some(()))
        })
    }

    /// What the command line says with `--json`.
    pub(crate) fn json(&mut self, arguments: &str) -> Result<Value> {
        let text = self.agent.run(&format!("tollgate {arguments} --json"))?;
        serde_json::from_str(&text).with_context(|| format!("`tollgate {arguments} --json` said:\n{text}"))
    }

    pub(crate) fn wait_for<T>(
        &mut self,
        what: &str,
        mut probe: impl FnMut(&mut GatewayGuest) -> Result<Option<T>>,
    ) -> Result<T> {
        let waited = wait_for(what, PATIENCE, || probe(self));
        waited.map_err(|error| error.context(self.last_words()))
    }

    /// The logs and the counters.
    pub(crate) fn last_words(&mut self) -> String {
        let logs = "tail -n 30 /dataplane.log /control.log; tollgate status; tollgate stats";
        let said = self.agent.run_any(logs).map_or_else(|error| format!("{error:#}"), |said| said.text);
        format!("{said}\n{}", self.agent.console())
    }
}

/// The emulator; ended when dropped.
#[derive(Debug)]
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("qemu (pid {}) is left behind: {error}", self.0.id());
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

fn spawn_qemu(image: &Image, dir: &Path, wrapper: &[&str], root: &Path, devices: &[String]) -> Result<Child> {
    let console = File::create(dir.join("console"))?;
    let mut words = wrapper.iter().chain(&["setpriv", "--pdeathsig", "KILL", "--"]);
    let mut command = Command::new(words.next().context("no program")?);
    command.args(words);
    // One emulating thread: patching code under several is not emulated right and hangs now and then.
    command.arg(root.join("usr/bin/qemu-system-x86_64"));
    for folder in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(root.join(folder));
    }
    command.args(["-M", "q35", "-accel", "tcg,thread=single", "-cpu", "max", "-smp", "1"]);
    command.args(["-m", &MEMORY_MIB.to_string()]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    command.args(["-chardev", &format!("socket,id=agent,path={}", dir.join("agent").display())]);
    command.args(["-device", "isa-serial,chardev=agent"]);
    command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initramfs);
    // On a busy machine the check of the timer finds none.
    command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check"]);
    command.args(devices);
    command.stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console);
    command.spawn().context("qemu does not start; scripts/setup.sh installs qemu-system-x86")
}
