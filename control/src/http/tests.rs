use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sched::{CloneFlags, unshare};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener};

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

/// Serves without a core; `dataplane` is its socket.
async fn start(dataplane: PathBuf, limits: Limits) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (events, _) = mpsc::channel(1);
    tokio::spawn(serve_within(listener, App::new(dataplane, events), limits));
    address
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn clients_that_say_nothing_or_half_of_it_keep_nobody_out_for_long() {
    let limits = Limits { connections: 2, head: Duration::from_millis(100), whole: DEADLINE };
    let address = start("/nonexistent".into(), limits).await;
    let mut idle = Vec::new();
    for said in ["", "GET /metrics HTT", "", "GET / HTTP/1.1\r\nx:"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        idle.push(stream);
    }
    let answer = get(address, "/").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("/metrics"), "{answer}");
    for mut stream in idle {
        let mut rest = Vec::new();
        timeout(DEADLINE, stream.read_to_end(&mut rest))
            .await
            .expect("an idle connection stays open")
            .unwrap();
    }
}

#[tokio::test]
async fn a_request_without_end_is_cut_off() {
    let limits = Limits { connections: 1, head: DEADLINE, whole: Duration::from_millis(300) };
    let address = start("/nonexistent".into(), limits).await;
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let answer = get(address, "/").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn many_scrapes_of_a_dataplane_that_hangs_wait_together() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("dataplane.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            silent.push(stream);
        }
    });
    let address = start(socket, LIMITS).await;
    let scrapes = futures::future::join_all((0..8).map(|_| get(address, "/metrics")));
    for answer in timeout(DEADLINE, scrapes).await.unwrap() {
        assert!(answer.contains("\ntollgate_dataplane_up 0\n"), "{answer}");
    }
    // The first one, and one for all that came while it waited.
    assert!(asked.load(Ordering::Relaxed) <= 2, "asked {asked:?} times");
}

#[test]
fn an_address_that_a_twin_gets_later_is_listened_on_from_the_start() {
    let in_own_namespace = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for address in ["10.1.0.1:9180", "[fd00:1::1]:9180"] {
            let address: SocketAddr = address.parse().unwrap();
            let listener = {
                let _inside = runtime.enter();
                listen(address).unwrap()
            };
            for arguments in [
                &["link", "set", "lo", "up"][..],
                &["address", "add", &address.ip().to_string(), "dev", "lo"][..],
            ] {
                assert!(Command::new("ip").args(arguments).status().unwrap().success());
            }
            runtime.block_on(async {
                let (events, _) = mpsc::channel(1);
                tokio::spawn(serve(listener, App::new("/nonexistent".into(), events)));
                assert!(get(address, "/").await.starts_with("HTTP/1.1 200 OK\r\n"));
            });
        }
    };
    std::thread::spawn(in_own_namespace).join().unwrap();
}
