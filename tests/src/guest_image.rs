//! What a guest boots: Debian's kernel, and an initial RAM disk with busybox, programs and the modules that
//! it needs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::run::Cmd;

/// What qemu boots.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
}

/// What is to be in it besides busybox.
#[derive(Debug)]
pub(crate) struct Contents<'a> {
    /// What the first process, `guest_init.sh`, does before it takes commands.
    pub(crate) prepare: &'a [u8],
    /// Programs of this machine, which go to `/sbin` with the libraries that they are linked with.
    pub(crate) programs: &'a [PathBuf],
    /// Plug-ins that programs open by themselves; they stay where they are here.
    pub(crate) plug_ins: &'a [PathBuf],
    /// Modules of the kernel, besides those that they need.
    pub(crate) modules: &'a [&'a str],
}

/// Makes it in `dir`; the kernel is fetched if there is none.
pub(crate) fn make(dir: &Path, contents: &Contents<'_>) -> Result<Image> {
    let unpacked = unpacked_kernel()?;
    let version = unpacked.to_str().and_then(|path| path.rsplit_once("image-")).context("an odd folder")?.1;
    let mut archive = Archive::default();
    for folder in
        ["bin", "sbin", "usr", "usr/sbin", "modules", "proc", "sys", "dev", "tmp", "run", "var", "var/run"]
    {
        archive.add_folder(folder);
    }
    archive.add("init", MODE_PROGRAM, include_bytes!("guest_init.sh"));
    archive.add("prepare", MODE_FILE, contents.prepare);
    archive.add("bin/busybox", MODE_PROGRAM, &read(Path::new("/bin/busybox"))?);
    add_programs(&mut archive, contents)?;
    add_modules(&mut archive, &unpacked.join("lib/modules").join(version), contents.modules)?;
    let initramfs = dir.join("initramfs");
    fs::write(&initramfs, archive.finish()).context("the initial RAM disk cannot be written")?;
    Ok(Image { kernel: unpacked.join("boot").join(format!("vmlinuz-{version}")), initramfs })
}

/// Where a program of this machine is.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let folders = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    let path = folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists());
    path.with_context(|| format!("{name} is not installed; scripts/setup.sh installs it"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
}

/// The folder of a kernel package's files, below the folder that this program was built in.
fn unpacked_kernel() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/guest-kernel.sh");
    let said = Cmd::new(script).limit(std::time::Duration::from_secs(240)).run()?;
    Ok(PathBuf::from(said.stdout.trim()))
}

/// Adds the programs and plug-ins, and all libraries that they are linked with at the places where they are
/// here.
fn add_programs(archive: &mut Archive, contents: &Contents<'_>) -> Result<()> {
    let mut files = BTreeSet::new();
    for path in contents.programs {
        let name = path.file_name().and_then(|name| name.to_str()).context("a program without name")?;
        archive.add(&format!("sbin/{name}"), MODE_PROGRAM, &read(path)?);
        files.extend(libraries(path)?);
    }
    for path in contents.plug_ins {
        files.insert(path.clone());
        files.extend(libraries(path)?);
    }
    for path in files {
        // The same plug-in under two names must stay one file: it registers itself once per file.
        let real = path.canonicalize().with_context(|| path.display().to_string())?;
        archive.add_file(&real)?;
        let folder = path.parent().context("a library without folder")?.canonicalize()?;
        let name = path.file_name().context("a library without name")?;
        if real != folder.join(name) {
            archive.add_link(&folder.join(name), &real)?;
        }
        // Asked for by a path that leads through a link, as /lib64 is.
        if folder.join(name) != path {
            archive.add_link(&path, &real)?;
        }
    }
    Ok(())
}

/// The libraries that a program or a library is linked with.
fn libraries(path: &Path) -> Result<Vec<PathBuf>> {
    let said = Cmd::new("ldd").arg(path).run()?;
    Ok(said.stdout.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// Adds the modules, and a list of them in an order in which they load.
fn add_modules(archive: &mut Archive, folder: &Path, wanted: &[&str]) -> Result<()> {
    let mut files = Vec::new();
    collect_modules(&folder.join("kernel"), &mut files)?;
    let builtin = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
    let mut order = Vec::new();
    for name in wanted {
        order_module(name, &files, &builtin, &mut order)?;
    }
    for (name, bytes) in &order {
        archive.add(&format!("modules/{name}.ko"), MODE_FILE, bytes);
    }
    let names: String = order.iter().map(|(name, _)| format!("{name}\n")).collect();
    archive.add("modules/order", MODE_FILE, names.as_bytes());
    Ok(())
}

fn collect_modules(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect_modules(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// A module's name as the kernel has it; file names may have hyphens instead.
fn module_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.strip_suffix(".ko")?.replace('-', "_"))
}

/// Appends a module behind those that it needs.
fn order_module(
    name: &str,
    files: &[PathBuf],
    builtin: &str,
    order: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    if order.iter().any(|(known, _)| known == name) {
        return Ok(());
    }
    let Some(file) = files.iter().find(|file| module_name(file).as_deref() == Some(name)) else {
        ensure!(
            builtin.lines().any(|line| module_name(Path::new(line)).as_deref() == Some(name)),
            "no module {name}"
        );
        return Ok(());
    };
    let bytes = read(file)?;
    for needed in depends(&bytes).with_context(|| format!("{} is no module", file.display()))? {
        order_module(&needed.replace('-', "_"), files, builtin, order)?;
    }
    order.push((name.to_owned(), bytes));
    Ok(())
}

/// The modules that a module says it needs. Packages have no modules.dep; depmod would make it out of the
/// same.
fn depends(module: &[u8]) -> Result<Vec<String>> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        bail!("no list of needs")
    };
    let value = module[at + KEY.len()..].split(|&byte| byte == 0).next().unwrap_or_default();
    let value = std::str::from_utf8(value)?;
    Ok(value.split(',').filter(|name| !name.is_empty()).map(String::from).collect())
}

const MODE_FOLDER: u32 = 0o040_755;
const MODE_LINK: u32 = 0o120_777;
const MODE_PROGRAM: u32 = 0o100_755;
const MODE_FILE: u32 = 0o100_644;

/// A cpio archive of the kind "newc", which the kernel unpacks (Linux,
/// Documentation/driver-api/early-userspace).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    /// What is there already.
    names: BTreeSet<String>,
}

impl Archive {
    fn add_folder(&mut self, name: &str) {
        if self.names.insert(name.to_owned()) {
            self.add(name, MODE_FOLDER, &[]);
        }
    }

    /// The name of a path in the archive, after its folders were added; `None` if it is there already.
    fn place(&mut self, path: &Path) -> Result<Option<String>> {
        let name = path.to_str().with_context(|| path.display().to_string())?.trim_start_matches('/');
        for (at, _) in name.match_indices('/') {
            self.add_folder(&name[..at]);
        }
        Ok(self.names.insert(name.to_owned()).then(|| name.to_owned()))
    }

    /// A file of this machine, at the same place.
    fn add_file(&mut self, path: &Path) -> Result<()> {
        if let Some(name) = self.place(path)? {
            self.add(&name, MODE_PROGRAM, &read(path)?);
        }
        Ok(())
    }

    fn add_link(&mut self, path: &Path, to: &Path) -> Result<()> {
        if let Some(name) = self.place(path)? {
            self.add(&name, MODE_LINK, to.as_os_str().as_encoded_bytes());
        }
        Ok(())
    }

    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        // inode, mode, user, group, links, time, size, device (2), special device (2), length of the name,
        // checksum.
        let fields =
            [self.entries, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_read_from_a_module() {
        let module = |depends: &str| [b"\x7fELF\0license=GPL\0", depends.as_bytes(), b"\0name=a\0"].concat();
        assert_eq!(depends(&module("depends=virtio,virtio-ring")).unwrap(), ["virtio", "virtio-ring"]);
        assert!(depends(&module("depends=")).unwrap().is_empty());
        assert!(depends(&module("")).is_err());
    }

    #[test]
    fn entries_of_an_archive_begin_at_multiples_of_four() {
        let mut archive = Archive::default();
        archive.add("a", MODE_FILE, b"12345");
        archive.add("bc", MODE_FILE, b"");
        let bytes = archive.finish();
        let starts: Vec<_> =
            bytes.windows(6).enumerate().filter(|(_, w)| w == b"070701").map(|(at, _)| at).collect();
        assert_eq!(starts.len(), 3);
        assert!(starts.iter().all(|at| at % 4 == 0));
    }
}
