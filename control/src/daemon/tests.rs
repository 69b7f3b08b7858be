use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api::frame::{self, Greeting};
use api::{Refusal, Request, Response};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::*;
use crate::client::{greet, receive, send};
use crate::ctl;

const DEADLINE: Duration = Duration::from_secs(20);

/// How a fake dataplane behaves.
#[derive(Debug, Clone, Default)]
struct Behaviour {
    version: Option<u16>,
    status: api::Status,
    stats: api::Stats,
    refuse: Option<Refusal>,
    /// Answers to `Apply` are cut off so many times.
    truncate: u32,
    /// Answers to `Apply` wait while this is set.
    hold: bool,
}

/// Stands in for the dataplane where control's own logic is tested: it takes states and says what it is told to say.
struct Fake {
    applied: Arc<Mutex<Vec<DesiredState>>>,
    behaviour: Arc<Mutex<Behaviour>>,
    task: AbortHandle,
    path: PathBuf,
    /// Answers to `Apply` that wait or have waited.
    held: Arc<AtomicUsize>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Fake {
    fn start(path: &Path, behaviour: Behaviour) -> Fake {
        let listener = UnixListener::bind(path).unwrap();
        let applied = Arc::new(Mutex::new(Vec::new()));
        let behaviour = Arc::new(Mutex::new(behaviour));
        let (log, how) = (Arc::clone(&applied), Arc::clone(&behaviour));
        let held = Arc::new(AtomicUsize::new(0));
        let waiting = Arc::clone(&held);
        let accepting = async move {
            // Aborted with this task, so that the fake's end closes its connections as a process's end would.
            let mut clients = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                clients.spawn(serve_fake(stream, Arc::clone(&log), Arc::clone(&how), Arc::clone(&waiting)));
            }
        };
        let task = tokio::spawn(accepting).abort_handle();
        Fake { applied, behaviour, task, path: path.to_owned(), held }
    }

    /// Keeps answers to `Apply` back, or lets them go.
    fn hold(&self, hold: bool) {
        self.behaviour.lock().unwrap().hold = hold;
    }

    async fn wait_for_held(&self, count: usize) {
        until("an answer is held back", async || self.held.load(Ordering::Relaxed) == count).await;
    }

    async fn wait_for(&self, what: &str, found: impl Fn(&[DesiredState]) -> bool) -> Vec<DesiredState> {
        until(what, async || found(&self.applied.lock().unwrap())).await;
        self.applied.lock().unwrap().clone()
    }
}

async fn serve_fake(
    mut stream: UnixStream,
    log: Arc<Mutex<Vec<DesiredState>>>,
    how: Arc<Mutex<Behaviour>>,
    held: Arc<AtomicUsize>,
) {
    let version = how.lock().unwrap().version.unwrap_or(api::API_VERSION);
    stream.write_all(&Greeting { version }.to_bytes()).await.unwrap();
    if stream.read_exact(&mut [0; frame::GREETING_LEN]).await.is_err() {
        return;
    }
    while let Ok(Some(request)) = receive::<Request>(&mut stream).await {
        let now = how.lock().unwrap().clone();
        let response = match request {
            Request::GetStatus => Response::Status(Box::new(now.status)),
            Request::GetStats => Response::Stats(Box::new(now.stats)),
            Request::GetConnections(_) => Response::Connections(api::ConnectionPage::default()),
            Request::Apply(_) if now.truncate > 0 => {
                how.lock().unwrap().truncate -= 1;
                let whole = frame::encode(&Response::Applied { generation: 1 }).unwrap();
                stream.write_all(&whole[..whole.len() - 1]).await.unwrap();
                return;
            }
            Request::Apply(_) if now.refuse.is_some() => Response::Refused(now.refuse.unwrap()),
            Request::Apply(state) => {
                if now.hold {
                    held.fetch_add(1, Ordering::Relaxed);
                    while how.lock().unwrap().hold {
                        sleep(Duration::from_millis(5)).await;
                    }
                }
                let generation = state.generation;
                log.lock().unwrap().push(*state);
                Response::Applied { generation }
            }
        };
        if send(&mut stream, &response).await.is_err() {
            return;
        }
    }
}

async fn until(what: &str, mut found: impl AsyncFnMut() -> bool) {
    let polling = async {
        while !found().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(DEADLINE, polling).await.is_ok(), "not within {DEADLINE:?}: {what}");
}

/// A control with its files in a folder of its own.
struct Rig {
    dir: TempDir,
    _running: Option<Running>,
}

impl Rig {
    fn new() -> Rig {
        Rig { dir: tempfile::tempdir().unwrap(), _running: None }
    }

    fn dataplane_socket(&self) -> PathBuf {
        self.dir.path().join("dataplane.sock")
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("tollgate.toml")
    }

    /// Writes a configuration with one service; `check` is its health check.
    fn write(&self, weight: u32, check: &str) {
        self.write_with(weight, check, "");
    }

    /// The same with further keys of the service.
    fn write_with(&self, weight: u32, check: &str, keys: &str) {
        let dir = self.dir.path().display();
        let text = format!(
            "[dataplane]\napi_socket = \"{dir}/dataplane.sock\"\n\
             [control]\nsocket = \"{dir}/control.sock\"\nmetrics_listen = \"none\"\nmanage_addresses = false\n\
             [[port]]\nname = \"wan\"\ndevice = \"0000:01:00.0\"\n\
             [[local_pool]]\nname = \"inside\"\naddresses = [\"10.2.0.200\"]\n\
             [[service]]\nname = \"web\"\nlisten = \"10.1.0.100:80\"\nprotocol = \"tcp\"\nmode = \"fullnat\"\n\
             health_check = {check}\n{keys}\n\
             [[service.real_server]]\naddress = \"10.2.0.11:9\"\nweight = {weight}\n"
        );
        std::fs::write(self.file(), text).unwrap();
    }

    async fn start(&mut self) {
        // Nobody listens there; a reload brings back an unchecked server.
        self.start_with(([127, 0, 0, 2], 9).into()).await;
    }

    /// Starts control with all real servers at an address of this machine, which checks must not leave.
    async fn start_with(&mut self, real: SocketAddr) {
        let mut config = Config::load(self.file()).unwrap();
        for server in config.services.iter_mut().flat_map(|service| &mut service.real_servers) {
            server.address = real;
        }
        let socket = listen(&config.control.socket).await.unwrap();
        self._running = Some(Running::start(config, &self.file(), socket, None));
    }

    async fn ask(&self, request: &ctl::Request) -> ctl::Response {
        let mut stream = UnixStream::connect(self.dir.path().join("control.sock")).await.unwrap();
        greet(&mut stream).await.unwrap();
        send(&mut stream, request).await.unwrap();
        timeout(DEADLINE, receive(&mut stream)).await.unwrap().unwrap().unwrap()
    }

    async fn link(&self) -> DataplaneLink {
        match self.ask(&ctl::Request::GetStatus).await {
            ctl::Response::Status(status) => status.dataplane,
            other => panic!("{other:?}"),
        }
    }

    async fn reload(&self) -> Result<Reloaded, NotReloaded> {
        match self.ask(&ctl::Request::Reload).await {
            ctl::Response::Reloaded(reloaded) => Ok(reloaded),
            ctl::Response::NotReloaded(problem) => Err(problem),
            other => panic!("{other:?}"),
        }
    }
}

const UNCHECKED: &str = "{ type = \"none\" }";

/// A check that never decides within a test.
const SLOW: &str = "{ type = \"tcp\", interval = \"1h\", fall = 1000 }";

fn weights(states: &[DesiredState]) -> Vec<u16> {
    states.iter().map(|state| state.services[0].real_servers[0].weight).collect()
}

#[tokio::test]
async fn the_whole_state_is_applied_again_after_the_dataplane_was_restarted() {
    let mut rig = Rig::new();
    rig.write(3, UNCHECKED);
    rig.start().await;
    // Nobody there at first: control keeps trying.
    until("trouble is told", async || rig.link().await.trouble.is_some()).await;
    let fake = Fake::start(&rig.dataplane_socket(), Behaviour::default());
    let first = fake.wait_for("the first state", |states| !states.is_empty()).await;
    assert_eq!(first[0].services[0].name, "web");
    assert!(first[0].services[0].real_servers[0].up);
    drop(fake);
    let fake = Fake::start(&rig.dataplane_socket(), Behaviour::default());
    let again = fake.wait_for("the state again", |states| !states.is_empty()).await;
    assert_eq!(again[0].services, first[0].services);
    assert!(again[0].generation > first[0].generation);
}

#[tokio::test]
async fn the_generation_grows_beyond_that_of_the_dataplane_even_if_the_clock_went_back() {
    let mut rig = Rig::new();
    rig.write(1, UNCHECKED);
    let far = u64::MAX / 2;
    let status = api::Status { generation: far, ..api::Status::default() };
    let fake = Fake::start(&rig.dataplane_socket(), Behaviour { status, ..Behaviour::default() });
    rig.start().await;
    let states = fake.wait_for("a state", |states| !states.is_empty()).await;
    assert_eq!(states[0].generation, far + 1);
}

#[tokio::test]
async fn another_api_version_is_told_and_nothing_is_applied() {
    let mut rig = Rig::new();
    rig.write(1, UNCHECKED);
    let fake = Fake::start(&rig.dataplane_socket(), Behaviour { version: Some(99), ..Behaviour::default() });
    rig.start().await;
    until("the version is told", async || {
        rig.link().await.trouble.is_some_and(|trouble| trouble.contains("version 99"))
    })
    .await;
    assert!(fake.applied.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_cut_off_answer_leads_to_a_new_connection_and_the_state_arrives() {
    let mut rig = Rig::new();
    rig.write(1, UNCHECKED);
    let fake = Fake::start(&rig.dataplane_socket(), Behaviour { truncate: 2, ..Behaviour::default() });
    rig.start().await;
    fake.wait_for("a state", |states| !states.is_empty()).await;
    assert_eq!(fake.behaviour.lock().unwrap().truncate, 0);
}

#[tokio::test]
async fn a_restart_of_control_takes_no_live_server_out() {
    let mut rig = Rig::new();
    rig.write(1, SLOW);
    let config = Config::load(rig.file()).unwrap();
    let mut stats = api::Stats::default();
    for (live, port) in [(true, 9), (false, 10)] {
        let real = api::RealServerStats {
            real: ([127, 0, 0, 2], port).into(),
            mode: api::Mode::FullNat,
            is_sorry: false,
            weight: 1,
            ramp_percent: 100,
            up: live,
            reachable: true,
            traffic: api::Traffic::default(),
            active: 0,
            inactive: 0,
            persistent: 0,
        };
        if stats.services.is_empty() {
            stats.services.push(api::ServiceStats {
                key: crate::desired::service_key(&config.services[0]),
                name: "web".to_owned(),
                also: Vec::new(),
                scheduler: api::Scheduler::Wlc,
                scheduler_flags: api::SchedulerFlags::default(),
                one_packet: false,
                persistence: None,
                no_real_server: 0,
                real_servers: Vec::new(),
            });
        }
        stats.services[0].real_servers.push(real);
    }
    let fake = Fake::start(&rig.dataplane_socket(), Behaviour { stats, ..Behaviour::default() });
    rig.start().await;
    let states = fake.wait_for("a state", |states| !states.is_empty()).await;
    assert!(states.iter().all(|state| state.services[0].real_servers[0].up), "{states:?}");
}

#[tokio::test]
async fn a_checked_server_gets_no_connections_before_its_first_pass() {
    let mut rig = Rig::new();
    rig.write(1, SLOW);
    let fake = Fake::start(&rig.dataplane_socket(), Behaviour::default());
    rig.start().await;
    let states = fake.wait_for("a state", |states| !states.is_empty()).await;
    assert!(!states[0].services[0].real_servers[0].up);
}

#[tokio::test]
async fn a_real_server_that_comes_back_gets_its_weight_slowly_and_a_new_one_at_once() {
    let mut rig = Rig::new();
    let check = "{ type = \"tcp\", interval = \"100ms\", timeout = \"5s\", rise = 1, fall = 1 }";
    rig.write_with(1, check, "slow_start = \"3s\"");
    let fake = Fake::start(&rig.dataplane_socket(), Behaviour::default());
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = server.local_addr().unwrap();
    rig.start_with(address).await;
    let seen = |states: &[DesiredState]| -> Vec<(bool, u8)> {
        let reals = states.iter().map(|state| &state.services[0].real_servers[0]);
        let mut seen: Vec<_> = reals.map(|real| (real.up, real.ramp_percent)).collect();
        seen.dedup();
        seen
    };
    fake.wait_for("a server that is up", |states| seen(states).last() == Some(&(true, 100))).await;
    drop(server);
    fake.wait_for("a server that is down", |states| seen(states).last() == Some(&(false, 100))).await;
    let _server = TcpListener::bind(address).await.unwrap();
    let done = [(false, 100), (true, 1)];
    let states = fake
        .wait_for("the whole weight", |states| {
            seen(states).windows(2).any(|two| two == done) && seen(states).last() == Some(&(true, 100))
        })
        .await;
    let steps: Vec<u8> = seen(&states).iter().skip_while(|now| **now != (true, 1)).map(|now| now.1).collect();
    // On a busy machine a step may be left out, but none goes back.
    assert!(steps.is_sorted() && steps.len() >= 3 && steps.len() <= 4, "{steps:?}");
}

#[tokio::test]
async fn connections_of_a_drained_server_are_ended_at_its_deadline_and_weight_stops_the_clock() {
    let mut rig = Rig::new();
    rig.write_with(0, UNCHECKED, "drain_deadline = \"1s\"");
    let fake = Fake::start(&rig.dataplane_socket(), Behaviour::default());
    rig.start().await;
    let ends = |states: &[DesiredState]| {
        states.last().map(|state| state.services[0].real_servers[0].end_connections)
    };
    fake.wait_for("the first state", |states| ends(states) == Some(false)).await;
    fake.wait_for("the deadline", |states| ends(states) == Some(true)).await;
    rig.write_with(3, UNCHECKED, "drain_deadline = \"1s\"");
    rig.reload().await.unwrap();
    assert_eq!(ends(&fake.applied.lock().unwrap()), Some(false));
}

#[tokio::test]
async fn a_reload_is_in_force_when_it_is_answered() {
    let mut rig = Rig::new();
    rig.write(1, UNCHECKED);
    let fake = Fake::start(&rig.dataplane_socket(), Behaviour::default());
    rig.start().await;
    fake.wait_for("the first state", |states| !states.is_empty()).await;
    rig.write(7, UNCHECKED);
    let text = std::fs::read_to_string(rig.file()).unwrap();
    std::fs::write(rig.file(), text.replace("[dataplane]", "[dataplane]\nworkers = 4")).unwrap();
    let reloaded = rig.reload().await.unwrap();
    let states = fake.applied.lock().unwrap().clone();
    assert_eq!(weights(&states), [1, 7]);
    assert_eq!(reloaded.generation, Some(states[1].generation));
    assert_eq!(reloaded.warnings.len(), 1, "{:?}", reloaded.warnings);
    assert!(reloaded.warnings[0].contains("workers in [dataplane]"), "{:?}", reloaded.warnings);
}

#[tokio::test]
async fn a_reload_with_mistakes_leaves_the_old_configuration_in_force() {
    let mut rig = Rig::new();
    rig.write(1, UNCHECKED);
    let fake = Fake::start(&rig.dataplane_socket(), Behaviour::default());
    rig.start().await;
    let before = fake.wait_for("the first state", |states| !states.is_empty()).await;
    rig.write(70_000, UNCHECKED);
    let Err(NotReloaded::Mistakes(mistakes)) = rig.reload().await else { panic!("reloaded") };
    assert!(mistakes[0].contains(&format!("{}:", rig.file().display())), "{mistakes:?}");
    assert!(mistakes[0].contains("70000"), "{mistakes:?}");
    assert_eq!(*fake.applied.lock().unwrap(), before);
}

#[tokio::test]
async fn a_reload_that_the_dataplane_refuses_leaves_the_old_configuration_in_force() {
    let mut rig = Rig::new();
    rig.write(1, UNCHECKED);
    let fake = Fake::start(&rig.dataplane_socket(), Behaviour::default());
    rig.start().await;
    fake.wait_for("the first state", |states| !states.is_empty()).await;
    fake.behaviour.lock().unwrap().refuse = Some(Refusal::Invalid("not today".to_owned()));
    rig.write(7, UNCHECKED);
    let Err(NotReloaded::Refused(why)) = rig.reload().await else { panic!("reloaded") };
    assert!(why.contains("not today"), "{why}");
    fake.behaviour.lock().unwrap().refuse = None;
    drop(fake);
    // What is applied after a restart of the dataplane shows which configuration is in force.
    let fake = Fake::start(&rig.dataplane_socket(), Behaviour::default());
    let states = fake.wait_for("the state again", |states| !states.is_empty()).await;
    assert_eq!(weights(&states), [1]);
}

#[tokio::test]
async fn the_status_names_every_checked_server_with_service_mode_and_state() {
    let mut rig = Rig::new();
    rig.write(1, "{ type = \"tcp\", interval = \"1h\", fall = 1 }");
    rig.start().await;
    let health = async || match rig.ask(&ctl::Request::GetStatus).await {
        ctl::Response::Status(status) => status.health,
        other => panic!("{other:?}"),
    };
    until("the server is down", async || health().await[0].state == "down").await;
    let [found] = &health().await[..] else { panic!("there is one") };
    assert_eq!((found.name.as_str(), found.mode), ("web", api::Mode::FullNat));
    assert_eq!(found.service.virtual_, ([10, 1, 0, 100], 80).into());
    assert_eq!((found.real, found.failures), (([127, 0, 0, 2], 9).into(), 1));
    rig.write(1, UNCHECKED);
    rig.reload().await.unwrap();
    assert!(health().await.is_empty());
}

#[tokio::test]
async fn a_health_change_during_a_reload_does_not_put_the_old_configuration_back() {
    let mut rig = Rig::new();
    rig.write(1, "{ type = \"tcp\", interval = \"100ms\", timeout = \"5s\", rise = 1, fall = 1 }");
    let fake = Fake::start(&rig.dataplane_socket(), Behaviour::default());
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    rig.start_with(server.local_addr().unwrap()).await;
    let is_up =
        |states: &[DesiredState]| states.last().is_some_and(|state| state.services[0].real_servers[0].up);
    let before = fake.wait_for("a server that is up", is_up).await.len();
    fake.hold(true);
    rig.write(7, UNCHECKED);
    let meanwhile = async {
        fake.wait_for_held(1).await;
        drop(server);
        until("the server is down", async || match rig.ask(&ctl::Request::GetStatus).await {
            ctl::Response::Status(status) => status.health[0].state == "down",
            other => panic!("{other:?}"),
        })
        .await;
        fake.hold(false);
    };
    let (reloaded, ()) = tokio::join!(rig.reload(), meanwhile);
    reloaded.unwrap();
    rig.write(9, UNCHECKED);
    rig.reload().await.unwrap();
    assert_eq!(weights(&fake.applied.lock().unwrap())[before..], [7, 9]);
}

#[tokio::test]
async fn a_sighup_during_a_reload_is_followed_by_another_reload() {
    let mut rig = Rig::new();
    rig.write(1, UNCHECKED);
    let fake = Fake::start(&rig.dataplane_socket(), Behaviour::default());
    rig.start().await;
    fake.wait_for("the first state", |states| !states.is_empty()).await;
    fake.hold(true);
    let hangup = || rig._running.as_ref().unwrap().reload_by_signal();
    rig.write(7, UNCHECKED);
    hangup();
    fake.wait_for_held(1).await;
    rig.write(9, UNCHECKED);
    hangup();
    // Answered after the signal has been heard.
    assert!(matches!(rig.reload().await, Err(NotReloaded::Busy)));
    fake.hold(false);
    fake.wait_for("the later file", |states| weights(states) == [1, 7, 9]).await;
}

#[tokio::test]
async fn a_reload_without_a_dataplane_is_applied_when_it_comes() {
    let mut rig = Rig::new();
    rig.write(1, UNCHECKED);
    rig.start().await;
    rig.write(7, UNCHECKED);
    assert_eq!(rig.reload().await.unwrap().generation, None);
    let fake = Fake::start(&rig.dataplane_socket(), Behaviour::default());
    let states = fake.wait_for("a state", |states| !states.is_empty()).await;
    assert_eq!(weights(&states), [7]);
}

#[tokio::test]
async fn a_second_control_on_the_same_socket_is_refused_and_a_dead_one_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let first = listen(&path).await.unwrap();
    assert!(matches!(listen(&path).await, Err(Error::Running(_))));
    // A socket file that nobody answers on any more stays behind a killed control.
    drop(first);
    assert!(path.exists());
    listen(&path).await.unwrap();
}

#[tokio::test]
async fn a_plain_file_in_the_sockets_place_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes.txt");
    std::fs::write(&path, "dear diary").unwrap();
    assert!(matches!(listen(&path).await, Err(Error::NotASocket(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"dear diary");
}

#[tokio::test]
async fn nonsense_on_the_control_socket_disturbs_nobody() {
    let mut rig = Rig::new();
    rig.write(1, UNCHECKED);
    rig.start().await;
    let mut rude = UnixStream::connect(rig.dir.path().join("control.sock")).await.unwrap();
    greet(&mut rude).await.unwrap();
    rude.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
    let mut rest = Vec::new();
    timeout(DEADLINE, rude.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.is_empty());
    assert!(!rig.link().await.connected);
}
