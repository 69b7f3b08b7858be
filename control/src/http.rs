//! The small web side: `/metrics`, `/healthz` and an index.
//!
//! Whoever reaches the address may connect, so connections are few and short: they share descriptors with the health
//! checks. Each carries one request, as one scrape does.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::{Stats, Status};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::{Router, routing::get};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use crate::client::{Client, Error};
use crate::daemon;
use crate::metrics::{self, Scrape, Totals};

/// The dataplane is given this long on a scrape; Prometheus gives the whole scrape 10 s.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(2);

/// Connections that wait in the kernel.
const BACKLOG: u32 = 128;

const LIMITS: Limits =
    Limits { connections: 32, head: Duration::from_secs(5), whole: Duration::from_secs(30) };

/// What clients may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Connections at a time; further ones wait in the kernel.
    connections: usize,
    /// Time for a request.
    head: Duration,
    /// Time for request and answer.
    whole: Duration,
}

const INDEX: &str = "<!doctype html><title>Tollgate</title><h1>Tollgate</h1>\
    <p><a href=\"/metrics\">metrics</a> for Prometheus, <a href=\"/healthz\">healthz</a> for probes.</p>";

/// What the handlers share.
#[derive(Clone)]
pub struct App {
    dataplane: PathBuf,
    events: mpsc::Sender<daemon::Event>,
    /// What the dataplane told last, for while it is away. Locked for a whole scrape; one that has waited for another
    /// takes what the dataplane told meanwhile.
    last: Arc<Mutex<Last>>,
}

#[derive(Default)]
struct Last {
    /// When the dataplane was asked.
    asked: Option<Instant>,
    /// Whether it answered then.
    dataplane_up: bool,
    status: Status,
    stats: Stats,
    totals: Totals,
}

impl App {
    /// Handlers that ask the dataplane on a socket and the core by events.
    pub fn new(dataplane: PathBuf, events: mpsc::Sender<daemon::Event>) -> Self {
        App { dataplane, events, last: Arc::default() }
    }

    async fn ask_dataplane(&self) -> Result<(Status, Stats), Error> {
        let asking = async {
            let mut client = Client::connect(&self.dataplane).await?;
            Ok((client.status(SCRAPE_TIMEOUT).await?, client.stats(SCRAPE_TIMEOUT).await?))
        };
        timeout(SCRAPE_TIMEOUT, asking).await.map_err(|_| Error::Timeout(SCRAPE_TIMEOUT))?
    }

    /// `None`: the core is gone.
    async fn ask_core<T>(&self, question: fn(oneshot::Sender<T>) -> daemon::Event) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.events.send(question(answer)).await.ok()?;
        answered.await.ok()
    }
}

/// Listens on an address. One that no interface has is taken too, as a kernel twin gets its addresses only when the
/// dataplane and this program run.
///
/// # Errors
/// Those of the kernel, e.g. that the port is in use.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // What is left of connections of a former run must not keep this one from listening.
    socket.set_reuseaddr(true)?;
    if let Err(problem) = socket.bind(address) {
        if problem.kind() != io::ErrorKind::AddrNotAvailable {
            return Err(problem);
        }
        warn!("[control] metrics_listen {address}: no interface has this address yet");
        setsockopt(&socket, sockopt::IpFreebind, &true)?;
        socket.bind(address)?;
    }
    socket.listen(BACKLOG)
}

/// Serves until the task ends.
pub async fn serve(listener: TcpListener, app: App) {
    serve_within(listener, app, LIMITS).await;
}

fn is_clients(problem: &io::Error) -> bool {
    matches!(problem.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

async fn serve_within(listener: TcpListener, app: App, limits: Limits) {
    let router = Router::new()
        .route("/", get(async || Html(INDEX)))
        .route("/metrics", get(serve_metrics))
        .route("/healthz", get(healthz))
        .with_state(app);
    let slots = Arc::new(Semaphore::new(limits.connections));
    // The semaphore is never closed.
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Of the client that was next, and gave up.
            Err(problem) if is_clients(&problem) => continue,
            Err(problem) => {
                // Out of descriptors, for example: accepting again at once would only spin.
                warn!("metrics: {problem}");
                sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            // A client that breaks off or is too slow is no news.
            let _ = timeout(limits.whole, connection).await;
            drop(slot);
        });
    }
}

async fn serve_metrics(State(app): State<App>) -> Response {
    let arrived = Instant::now();
    let mut last = app.last.lock().await;
    if last.asked.is_none_or(|asked| asked < arrived) {
        last.asked = Some(Instant::now());
        let answer = app.ask_dataplane().await;
        last.dataplane_up = answer.is_ok();
        if let Ok((status, stats)) = answer {
            last.totals.update(status.pid, &stats);
            (last.status, last.stats) = (status, stats);
        }
    }
    let control = app.ask_core(daemon::Event::GetStatus).await.unwrap_or_default();
    let scrape = Scrape {
        dataplane_up: last.dataplane_up,
        status: &last.status,
        stats: &last.stats,
        totals: &last.totals,
        control: &control,
    };
    match metrics::render(&scrape) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(problem) => (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics: {problem}\n")).into_response(),
    }
}

async fn healthz(State(app): State<App>) -> (StatusCode, String) {
    let unwell = |why: String| (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
    match app.ask_core(daemon::Event::GetLink).await {
        None => unwell("control is ending".to_owned()),
        Some(link) => match link.trouble {
            Some(trouble) => unwell(trouble),
            None if !link.connected => unwell("the dataplane has not answered yet".to_owned()),
            None => (StatusCode::OK, "ok\n".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests;
