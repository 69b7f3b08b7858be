//! Mistakes and where they are.

use std::cell::RefCell;
use std::fmt;
use std::str::Utf8Error;

use crate::reader::Span;

/// One mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Diagnostic {
    /// The file.
    pub file: String,
    /// The line, from 1; 0: the file as a whole.
    pub line: usize,
    /// The column in characters, from 1; 0: the file as a whole.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What would be right; may be empty.
    pub help: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        write!(f, " {}", self.message)?;
        if !self.help.is_empty() {
            write!(f, "; {}", self.help)?;
        }
        Ok(())
    }
}

impl Diagnostic {
    pub(crate) fn unreadable(file: &str, error: &std::io::Error) -> Self {
        Diagnostic {
            file: file.to_owned(),
            line: 0,
            column: 0,
            message: format!("the file cannot be read: {error}"),
            help: "name a configuration file that exists and may be read".to_owned(),
        }
    }

    pub(crate) fn not_utf8(file: &str, bytes: &[u8], error: Utf8Error) -> Self {
        let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let (line, column) = Lines::new(&good).place(good.len());
        Diagnostic {
            file: file.to_owned(),
            line,
            column,
            message: "a byte that is not UTF-8".to_owned(),
            help: "save the file as UTF-8".to_owned(),
        }
    }
}

/// Turns byte offsets into lines and columns.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Lines { text, starts }
    }

    /// Line and column of a byte offset, both from 1.
    fn place(&self, offset: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|&start| start <= offset).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let before = self.text.as_bytes().get(start..offset).unwrap_or_default();
        (line, String::from_utf8_lossy(before).chars().count() + 1)
    }
}

/// Collects the mistakes in one text.
pub(crate) struct Sink<'t> {
    file: &'t str,
    lines: Lines<'t>,
    found: RefCell<Vec<(usize, Diagnostic)>>,
    /// Lines with broken syntax: what else is said of them is a consequence.
    broken_lines: RefCell<Vec<usize>>,
}

impl<'t> Sink<'t> {
    pub(crate) fn new(file: &'t str, text: &'t str) -> Self {
        Sink { file, lines: Lines::new(text), found: RefCell::default(), broken_lines: RefCell::default() }
    }

    pub(crate) fn report(&self, span: &Span, message: impl Into<String>, help: impl Into<String>) {
        let (line, column) = self.lines.place(span.start);
        let broken = self.broken_lines.borrow();
        // The parser gives a value that it made up, in place of a broken one, no place in the text.
        if broken.contains(&line) || (!broken.is_empty() && *span == (0..0)) {
            return;
        }
        let diagnostic = Diagnostic {
            file: self.file.to_owned(),
            line,
            column,
            message: message.into(),
            help: help.into(),
        };
        self.found.borrow_mut().push((span.start, diagnostic));
    }

    pub(crate) fn report_syntax(&self, span: Span, message: &str) {
        self.report(&span, format!("not TOML: {}", message.trim().replace('\n', "; ")), "");
        self.broken_lines.borrow_mut().push(self.lines.place(span.start).0);
    }

    /// A key is missing. After a syntax error it may just not have been understood, so nothing is said then.
    pub(crate) fn report_missing(&self, span: &Span, message: String, help: String) {
        if self.broken_lines.borrow().is_empty() {
            self.report(span, message, help);
        }
    }

    /// Line of an offset, to refer from one mistake to another place.
    pub(crate) fn line(&self, span: &Span) -> usize {
        self.lines.place(span.start).0
    }

    pub(crate) fn into_diagnostics(self) -> Vec<Diagnostic> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(offset, _)| *offset);
        // What a service says for all its real servers is complained of once.
        found.dedup();
        found.into_iter().map(|(_, diagnostic)| diagnostic).collect()
    }
}
