//! The small web side: `/metrics`, `/healthz` and an index.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::{Stats, Status};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::{Router, routing::get};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;
use tracing::error;

use crate::client::{Client, Error};
use crate::metrics::{self, Scrape, Totals};
use crate::{ctl, daemon};

/// The dataplane is given this long on a scrape; Prometheus gives the whole scrape 10 s.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(2);

const INDEX: &str = "<!doctype html><title>Tollgate</title><h1>Tollgate</h1>\
    <p><a href=\"/metrics\">metrics</a> for Prometheus, <a href=\"/healthz\">healthz</a> for probes.</p>";

/// What the handlers share.
#[derive(Clone)]
pub struct App {
    dataplane: PathBuf,
    events: mpsc::Sender<daemon::Event>,
    /// What the dataplane told last, for while it is away. Locked for a whole scrape: two at a time tell nothing new.
    last: Arc<Mutex<Last>>,
}

#[derive(Default)]
struct Last {
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
    async fn ask_core(&self) -> Option<ctl::Status> {
        let (answer, answered) = oneshot::channel();
        self.events.send(daemon::Event::GetStatus(answer)).await.ok()?;
        answered.await.ok()
    }
}

/// Serves until the task ends.
pub async fn serve(listener: TcpListener, app: App) {
    let router = Router::new()
        .route("/", get(async || Html(INDEX)))
        .route("/metrics", get(serve_metrics))
        .route("/healthz", get(healthz))
        .with_state(app);
    if let Err(problem) = axum::serve(listener, router).await {
        error!("metrics are not served any more: {problem}");
    }
}

async fn serve_metrics(State(app): State<App>) -> Response {
    let mut last = app.last.lock().await;
    let dataplane_up = match app.ask_dataplane().await {
        Ok((status, stats)) => {
            last.totals.update(status.pid, &stats);
            (last.status, last.stats) = (status, stats);
            true
        }
        Err(_) => false,
    };
    let control = app.ask_core().await.unwrap_or_default();
    let scrape = Scrape {
        dataplane_up,
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
    match app.ask_core().await.map(|status| status.dataplane) {
        None => unwell("control is ending".to_owned()),
        Some(link) => match link.trouble {
            Some(trouble) => unwell(trouble),
            None if !link.connected => unwell("the dataplane has not answered yet".to_owned()),
            None => (StatusCode::OK, "ok\n".to_owned()),
        },
    }
}
