//! The configuration: any text gives a valid model or mistakes that are in the text.

use config::Config;

/// The bytes are the text of a configuration file.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Err(diagnostics) = Config::from_str("fuzz.toml", text) else { return };
    assert!(!diagnostics.is_empty(), "refused without a reason");
    let lines: Vec<&str> = text.split('\n').collect();
    for diagnostic in diagnostics {
        assert!(!diagnostic.message.is_empty());
        let _ = diagnostic.to_string();
        if diagnostic.line == 0 {
            continue;
        }
        let line = lines.get(diagnostic.line - 1).unwrap_or_else(|| panic!("no such line: {diagnostic}"));
        let columns = line.chars().count() + 1;
        assert!((1..=columns).contains(&diagnostic.column), "no such column: {diagnostic}");
    }
}
