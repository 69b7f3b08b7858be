//! `check-config`, and loading for the daemon: the config crate's mistakes and those that only control can find.

use std::path::Path;

use config::{Config, Diagnostic};
use tracing_subscriber::EnvFilter;

/// Mistakes as they are printed.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Mistakes {
    /// One line for each, and a last one that counts them.
    text: String,
    /// One line for each.
    pub lines: Vec<String>,
}

/// Loads a file.
///
/// # Errors
/// All its mistakes.
pub fn load(path: &Path) -> Result<Config, Mistakes> {
    let mistakes = match Config::load(path) {
        Ok(config) => match EnvFilter::try_new(&config.control.log) {
            Ok(_) => return Ok(config),
            Err(error) => vec![Diagnostic {
                file: path.display().to_string(),
                line: 0,
                column: 0,
                message: format!("`log` in [control]: `{}` is not a log filter: {error}", config.control.log),
                help: "write error, warn, info, debug or trace".to_owned(),
            }],
        },
        Err(mistakes) => mistakes,
    };
    let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    let count = if lines.len() == 1 { "1 mistake".to_owned() } else { format!("{} mistakes", lines.len()) };
    Err(Mistakes { text: format!("{}\n{}: {count}\n", lines.join("\n"), path.display()), lines })
}

/// One line on a valid file.
pub fn summary(path: &Path, config: &Config) -> String {
    let real_servers: usize = config.services.iter().map(|service| service.real_servers.len()).sum();
    format!(
        "{}: valid: {} ports, {} local pools, {} services, {real_servers} real servers",
        path.display(),
        config.ports.len(),
        config.local_pools.len(),
        config.services.len()
    )
}
