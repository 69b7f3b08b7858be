//! A demo that is left running (`KEEP=1`), and its end (`make demo-stop`).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tollgate_tests::rig::URL;
use tollgate_tests::{Rig, gateway, netns, receiver};

/// What the names of its namespaces begin with.
pub(crate) const PREFIX: &str = "tollgate";
/// Says where its files are.
const NOTE: &str = "/run/tollgate-demo";
/// The namespaces of a rig.
const NAMESPACES: [&str; 7] = ["switch", "gw", "client1", "client2", "real1", "real2", "real3"];

/// Whether one is there, or what is left of one.
pub(crate) fn is_running() -> Result<bool> {
    Ok(!namespaces()?.is_empty())
}

/// Leaves the rig running and says how to play with it.
pub(crate) fn leave(rig: Rig) -> Result<()> {
    let tollgate = gateway::binary("tollgate")?;
    let socket = rig.gateway.api_socket();
    let control = rig.gateway.control_socket();
    let config = rig.gateway.config.clone();
    if let Some(dir) = rig.keep() {
        std::fs::write(NOTE, dir.to_string_lossy().as_bytes()).with_context(|| NOTE.to_owned())?;
    }
    println!(
        "\nIt is still running. Things to try:
  alias tollgate='ip netns exec {PREFIX}-gw {tollgate} --socket {socket} --control-socket {control}'
  tollgate status; tollgate services; tollgate connections
  ip netns exec {PREFIX}-client1 curl {URL}
  ip netns exec {PREFIX}-client2 wrk -c 32 -d 10 {URL}
  ip netns exec {PREFIX}-real1 tcpdump -ni eth0 tcp port 80     (look for `unknown-254`: the client's address)
  tail -f {dir}/real1.access.log     (nginx has it, too)
  edit {config}, then: tollgate reload
  ip netns exec {PREFIX}-gw curl http://127.0.0.1:9180/metrics
Logs are in {dir}. The end: make demo-stop",
        tollgate = tollgate.display(),
        socket = socket.display(),
        control = control.display(),
        config = config.display(),
        dir = config.parent().unwrap_or(Path::new("/tmp")).display(),
    );
    Ok(())
}

/// Ends a demo that was left running.
pub(crate) fn stop() -> Result<()> {
    let names = namespaces()?;
    for name in &names {
        netns::delete(name)?;
    }
    if let Ok(dir) = std::fs::read_to_string(NOTE) {
        let dir = PathBuf::from(dir);
        receiver::remove_pins(&dir.join("bpf"))?;
        receiver::remove_group(&receiver::group_of(PREFIX))?;
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
        }
        std::fs::remove_file(NOTE)?;
    }
    println!("{}", if names.is_empty() { "No demo was running." } else { "The demo has ended." });
    Ok(())
}

fn namespaces() -> Result<Vec<String>> {
    netns::list(|name| {
        name.strip_prefix(PREFIX)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|rest| NAMESPACES.contains(&rest))
    })
}
