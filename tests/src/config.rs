//! Changing a configuration file for a test.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use toml::{Table, Value};

/// A configuration that a test changes and writes.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    /// All of it.
    pub table: Table,
}

impl ConfigFile {
    /// One of the repository's `configs/`.
    pub fn from_repository(name: &str) -> Result<ConfigFile> {
        ConfigFile::read(&repository().join("configs").join(name))
    }

    /// Any file.
    pub fn read(path: &Path) -> Result<ConfigFile> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        Ok(ConfigFile { table: text.parse().with_context(|| format!("{} is not TOML", path.display()))? })
    }

    /// Sets a key of a table such as `dataplane`.
    pub fn set(&mut self, table: &str, key: &str, value: impl Into<Value>) -> Result<()> {
        let table = self.table.entry(table).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(table) = table else { bail!("`{key}` shall be set in something that is no table") };
        table.insert(key.to_owned(), value.into());
        Ok(())
    }

    /// The tables of an array such as `service`.
    pub fn tables(&mut self, array: &str) -> Result<Vec<&mut Table>> {
        let values = self.table.get_mut(array).and_then(Value::as_array_mut);
        let values = values.with_context(|| format!("no [[{array}]] in the configuration"))?;
        Ok(values.iter_mut().filter_map(Value::as_table_mut).collect())
    }

    /// Gives the real servers of every service these weights, in order.
    pub fn set_weights(&mut self, weights: &[i64]) -> Result<()> {
        for service in self.tables("service")? {
            let servers = service.get_mut("real_server").and_then(Value::as_array_mut);
            let servers = servers.context("no [[service.real_server]] in the configuration")?;
            for (server, weight) in servers.iter_mut().filter_map(Value::as_table_mut).zip(weights) {
                server.insert("weight".to_owned(), (*weight).into());
            }
        }
        Ok(())
    }

    /// Writes it, at once for everybody who reads it.
    pub fn write(&self, path: &Path) -> Result<()> {
        let new = path.with_extension("new");
        std::fs::write(&new, self.table.to_string())
            .with_context(|| format!("{} cannot be written", new.display()))?;
        std::fs::rename(&new, path)?;
        Ok(())
    }
}

/// The repository's top folder.
pub fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}
