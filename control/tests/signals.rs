//! The daemon as a process under signals, with a stand-in for the dataplane.
#![forbid(unsafe_code)]
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use api::{DesiredState, Request, Response, frame};
use control::ctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const DEADLINE: Duration = Duration::from_secs(20);

/// Takes every state that it is sent and tells of it.
fn stand_in(socket: &Path) -> Receiver<DesiredState> {
    let (applied, states) = mpsc::channel();
    let listener = UnixListener::bind(socket).unwrap();
    spawn(move || {
        for stream in listener.incoming() {
            let applied = applied.clone();
            spawn(move || serve(stream.unwrap(), &applied));
        }
    });
    states
}

/// Until the other side goes away.
fn serve(mut stream: UnixStream, applied: &Sender<DesiredState>) {
    if frame::greet(&mut stream).is_err() {
        return;
    }
    while let Ok(Some(request)) = frame::read(&mut stream) {
        let response = match request {
            Request::GetStatus => Response::Status(Box::default()),
            Request::GetStats => Response::Stats(Box::default()),
            Request::GetConnections(_) => Response::Connections(api::ConnectionPage::default()),
            Request::Apply(state) => {
                let generation = state.generation;
                let _ = applied.send(*state);
                Response::Applied { generation }
            }
        };
        if frame::write(&mut stream, &response).is_err() {
            return;
        }
    }
}

/// A running `tollgate-control`; killed if a test fails.
struct Control(Child);

impl Control {
    fn start(file: &Path) -> Control {
        let program = env!("CARGO_BIN_EXE_tollgate-control");
        Control(Command::new(program).arg("--config").arg(file).spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        poll("the end of control", || self.0.try_wait().unwrap())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn poll<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(begun.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        sleep(Duration::from_millis(5));
    }
}

/// What control says of itself on its own socket.
fn status(dir: &Path) -> ctl::Status {
    let mut stream = UnixStream::connect(dir.join("control.sock")).unwrap();
    frame::greet(&mut stream).unwrap();
    frame::write(&mut stream, &ctl::Request::GetStatus).unwrap();
    match frame::read(&mut stream).unwrap() {
        Some(ctl::Response::Status(status)) => *status,
        other => panic!("{other:?}"),
    }
}

/// Writes a configuration that touches nothing of the machine: no checks, no addresses, no metrics.
fn write(file: &Path, weight: &str) {
    let dir = file.parent().unwrap().display();
    let text = format!(
        "[dataplane]\napi_socket = \"{dir}/dataplane.sock\"\n\
         [control]\nsocket = \"{dir}/control.sock\"\nmetrics_listen = \"none\"\nmanage_addresses = false\n\
         [[port]]\nname = \"wan\"\ndevice = \"0000:01:00.0\"\n\
         [[local_pool]]\nname = \"inside\"\naddresses = [\"10.2.0.200\"]\n\
         [[service]]\nlisten = \"10.1.0.100:80\"\nprotocol = \"tcp\"\nmode = \"fullnat\"\n\
         [[service.real_server]]\naddress = \"10.2.0.11:80\"\nweight = {weight}\n"
    );
    std::fs::write(file, text).unwrap();
}

fn weight(state: &DesiredState) -> u16 {
    state.services[0].real_servers[0].weight
}

#[test]
fn sighup_applies_a_good_file_and_leaves_everything_as_it_is_with_a_bad_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tollgate.toml");
    let states = stand_in(&dir.path().join("dataplane.sock"));
    write(&file, "1");
    let mut control = Control::start(&file);
    let first = states.recv_timeout(DEADLINE).unwrap();
    assert_eq!(weight(&first), 1);

    write(&file, "7");
    control.signal(Signal::SIGHUP);
    let second = states.recv_timeout(DEADLINE).unwrap();
    assert_eq!(weight(&second), 7);
    assert!(second.generation > first.generation);
    poll("the reload is counted", || (status(dir.path()).reloads == 1).then_some(()));

    for (failures, bad) in [(1, "70000"), (2, "= not TOML")] {
        write(&file, bad);
        control.signal(Signal::SIGHUP);
        poll("the refusal is counted", || (status(dir.path()).reload_failures == failures).then_some(()));
    }
    assert!(matches!(states.try_recv(), Err(TryRecvError::Empty)), "a bad file was applied");
    assert_eq!(status(dir.path()).reloads, 1);
    assert!(control.0.try_wait().unwrap().is_none(), "control has ended");

    write(&file, "9");
    control.signal(Signal::SIGHUP);
    let third = states.recv_timeout(DEADLINE).unwrap();
    assert_eq!(weight(&third), 9);
    assert!(third.generation > second.generation);
    assert!(control.end().success());
}
