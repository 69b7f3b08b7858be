//! The two programs as an operator meets them: exit codes and what they say.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as tests do")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

const TOLLGATE: &str = env!("CARGO_BIN_EXE_tollgate");
const CONTROL: &str = env!("CARGO_BIN_EXE_tollgate-control");

fn run(program: &str, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = Command::new(program).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn configs(file: &str) -> String {
    format!("{}/../configs/{file}", env!("CARGO_MANIFEST_DIR"))
}

fn mistakes() -> String {
    format!("{}/config/src/testdata/mistakes.toml", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_valid_file_is_called_valid() {
    for (program, arguments) in [(TOLLGATE, vec!["check-config"]), (CONTROL, vec!["--check", "--config"])] {
        let file = configs("demo.toml");
        let (code, stdout, stderr) = run(program, &[arguments.as_slice(), &[&file]].concat());
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert!(stdout.contains("valid: 2 ports") && stdout.contains("3 real servers"), "{stdout}");
    }
}

#[test]
fn one_of_a_kind_is_not_called_many() {
    let (_, stdout, _) = run(TOLLGATE, &["check-config", &configs("examples/minimal.toml")]);
    assert!(stdout.contains("valid: 1 port, 1 local pool, 1 service, "), "{stdout}");
}

#[test]
fn every_mistake_is_said_and_the_exit_code_is_64() {
    for (program, arguments) in [
        (TOLLGATE, vec!["check-config"]),
        (CONTROL, vec!["--check", "--config"]),
        (CONTROL, vec!["--config"]),
    ] {
        let file = mistakes();
        let (code, _, stderr) = run(program, &[arguments.as_slice(), &[&file]].concat());
        assert_eq!(code, 64, "{stderr}");
        assert!(stderr.contains(&format!("{file}:4:1: unknown key `wokers`")), "{stderr}");
        assert!(stderr.lines().count() > 40, "{stderr}");
    }
}

#[test]
fn mistakes_are_told_as_json_too() {
    let (code, stdout, _) = run(TOLLGATE, &["check-config", "--json", &mistakes()]);
    let said: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &said["valid"]), (64, &false.into()));
    assert!(said["mistakes"].as_array().unwrap().len() > 40);
}

#[test]
fn a_log_filter_that_is_none_is_a_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.toml");
    let text = std::fs::read_to_string(configs("demo.toml")).unwrap();
    std::fs::write(&file, text.replace("[control]", "[control]\nlog = \"a=b=c\"")).unwrap();
    let file = file.to_str().unwrap();
    let line = text.lines().position(|line| line == "[control]").unwrap() + 2;
    for (program, arguments) in
        [(TOLLGATE, vec!["check-config", file]), (CONTROL, vec!["--check", "--config", file])]
    {
        let (code, _, stderr) = run(program, &arguments);
        assert_eq!(code, 64);
        assert!(stderr.contains(&format!("{file}:{line}:7: `log` in [control]")), "{stderr}");
    }
}

#[test]
fn commands_say_which_program_does_not_answer() {
    for (arguments, program) in [
        (["status", "--socket", "/nonexistent/d.sock"], "is tollgate-dataplane running?"),
        (["connections", "--socket", "/nonexistent/d.sock"], "is tollgate-dataplane running?"),
        (["reload", "--control-socket", "/nonexistent/c.sock"], "is tollgate-control running?"),
    ] {
        let (code, _, stderr) = run(TOLLGATE, &arguments);
        assert_eq!(code, 1);
        assert!(stderr.contains("/nonexistent/") && stderr.contains(program), "{stderr}");
    }
}

#[test]
fn a_file_with_mistakes_still_tells_where_the_programs_are() {
    let dir = tempfile::tempdir().unwrap();
    let file = minimal(dir.path(), "none");
    let broken = format!("{}mtu = \"large\"\nnumber = = 5\n", std::fs::read_to_string(&file).unwrap());
    std::fs::write(&file, broken).unwrap();
    let (code, stdout, _) = run(TOLLGATE, &["doctor", &file]);
    assert_eq!(code, 1);
    let asked = format!("nobody answers on {}/d.sock", dir.path().display());
    assert!(stdout.contains(&asked) && stdout.contains("tollgate check-config"), "{stdout}");
}

#[test]
fn exit_codes_are_documented_in_the_help() {
    for program in [TOLLGATE, CONTROL] {
        let (code, stdout, _) = run(program, &["--help"]);
        assert_eq!(code, 0);
        assert!(
            stdout.contains("Exit codes: 0") && stdout.contains("64 the configuration has mistakes"),
            "{stdout}"
        );
    }
}

/// The least configuration whose sockets are in a folder.
fn minimal(dir: &Path, metrics: &str) -> String {
    let text = format!(
        "[dataplane]\napi_socket = \"{0}/d.sock\"\n[control]\nsocket = \"{0}/c.sock\"\nmetrics_listen = \"{metrics}\"\n\
         manage_addresses = false\n[[port]]\nname = \"wan\"\ndevice = \"0000:01:00.0\"\n",
        dir.display()
    );
    let file = dir.join("t.toml");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_metrics_port_in_use_is_named_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, stderr) = run(CONTROL, &["--config", &minimal(dir.path(), &address)]);
    assert_eq!(code, 1);
    assert!(stderr.contains(&address) && stderr.contains("metrics_listen"), "{stderr}");
}
