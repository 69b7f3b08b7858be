//! An emulated machine that boots an image and then takes commands.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::agent::{Agent, Listening};
use crate::guest_image::Image;

/// What is wanted.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    /// What is put before qemu.
    pub(crate) wrapper: &'a [&'a str],
    /// The emulator.
    pub(crate) program: PathBuf,
    /// Its memory in MiB.
    pub(crate) memory_mib: u32,
    /// Words for the kernel besides the usual ones.
    pub(crate) append: &'a str,
    /// qemu's arguments for what the machine has besides.
    pub(crate) arguments: Vec<String>,
    /// How long booting and every command may take.
    pub(crate) patience: Duration,
}

/// The emulator; ended when dropped.
#[derive(Debug)]
pub(crate) struct Qemu(Child);

impl Machine<'_> {
    /// Boots `image` and waits until the guest takes commands on what `listening` is.
    pub(crate) fn boot(&self, image: &Image, dir: &Path, listening: Listening) -> Result<(Qemu, Agent)> {
        let mut qemu = Qemu(self.spawn(image, &console(dir))?);
        let agent = listening.accept(self.patience, || match qemu.0.try_wait()? {
            None => Ok(()),
            Some(status) => {
                bail!("qemu has ended with {status}:\n{}", std::fs::read_to_string(console(dir))?)
            }
        })?;
        Ok((qemu, agent))
    }

    fn spawn(&self, image: &Image, console: &Path) -> Result<Child> {
        let console = File::create(console)?;
        let mut words = self.wrapper.iter().chain(&["setpriv", "--pdeathsig", "KILL", "--"]);
        let mut command = Command::new(words.next().context("no program")?);
        command.args(words).arg(&self.program);
        // One emulating thread: patching code under several is not emulated right and hangs now and then.
        command.args(["-accel", "tcg,thread=single", "-smp", "1", "-m", &self.memory_mib.to_string()]);
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
        ]);
        command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initramfs);
        command.arg("-append").arg(format!("console=ttyS0 quiet panic=-1 mitigations=off {}", self.append));
        command.args(&self.arguments);
        command.stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console);
        command.spawn().context("qemu does not start; scripts/setup.sh installs qemu-system-x86")
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("qemu (pid {}) is left behind: {error}", self.0.id());
        }
    }
}

/// Where what the kernel and the first process say goes.
pub(crate) fn console(dir: &Path) -> PathBuf {
    dir.join("console")
}
