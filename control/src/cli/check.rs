//! `check-config`, and loading for the daemon: the config crate's mistakes as text.

use std::path::Path;

use config::{Config, counted};

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
        Ok(config) => return Ok(config),
        Err(mistakes) => mistakes,
    };
    let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    let count = counted(lines.len(), "mistake");
    Err(Mistakes { text: format!("{}\n{}: {count}\n", lines.join("\n"), path.display()), lines })
}

/// One line on a valid file.
pub fn summary(path: &Path, config: &Config) -> String {
    let real_servers: usize = config.services.iter().map(|service| service.real_servers.len()).sum();
    let parts = [
        counted(config.ports.len(), "port"),
        counted(config.local_pools.len(), "local pool"),
        counted(config.services.len(), "service"),
        counted(real_servers, "real server"),
    ];
    format!("{}: valid: {}", path.display(), parts.join(", "))
}
