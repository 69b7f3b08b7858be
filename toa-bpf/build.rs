//! Compiles the BPF program with clang; the object is embedded in the binary.
#![forbid(unsafe_code)]

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const SOURCE: &str = "bpf/toa.bpf.c";
const HEADERS: [&str; 4] = ["bpf/common.h", "bpf/helpers.h", "bpf/udp.h", "bpf/udp_header.h"];

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed={SOURCE}");
    for header in HEADERS {
        println!("cargo::rerun-if-changed={header}");
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            println!("cargo::error={problem}");
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<(), String> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let out_dir = env::var("OUT_DIR").map_err(|_| "OUT_DIR is not set: run through cargo")?;
    let object = PathBuf::from(out_dir).join("toa.bpf.o");

    // Without -g there is no BTF, and maps of socket storage need BTF types.
    let mut command = Command::new(&clang);
    command.args(["-target", "bpf", "-O2", "-g", "-Wall", "-Werror", "-c", SOURCE, "-o"]).arg(&object);
    if let Some(include) = arch_include() {
        command.arg("-I").arg(include);
    }
    let output = command.output().map_err(|error| {
        format!("cannot run {clang} ({error}); install it (Debian: apt install clang) or set CLANG")
    })?;
    if output.status.success() {
        return Ok(());
    }
    let log = String::from_utf8_lossy(&output.stderr);
    if log.contains("'linux/bpf.h' file not found") {
        return Err(
            "linux/bpf.h is missing; install the kernel's headers (Debian: apt install linux-libc-dev)"
                .into(),
        );
    }
    // One line per directive is all that cargo takes.
    for line in log.lines() {
        println!("cargo::warning={line}");
    }
    Err(format!("{clang} could not compile {SOURCE} (its messages are above)"))
}

/// Debian keeps `asm/types.h` in a folder per architecture that clang does not search when its target is bpf.
fn arch_include() -> Option<PathBuf> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").ok()?;
    let folder = Path::new("/usr/include").join(format!("{arch}-linux-gnu"));
    folder.is_dir().then_some(folder)
}
