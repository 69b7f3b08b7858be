//! Typed reading of spanned TOML tables. A mistake is reported and reading goes on.

use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::Sink;

/// Bytes of the text.
pub(crate) type Span = Range<usize>;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// What is wrong with a value and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {help}")]
pub(crate) struct Fault {
    pub(crate) message: String,
    pub(crate) help: String,
}

impl Fault {
    pub(crate) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Fault { message: message.into(), help: help.into() }
    }
}

/// The keys of a table.
#[derive(Debug)]
pub(crate) struct Schema {
    /// How the table is called in messages, e.g. `[[port]]`.
    pub(crate) name: &'static str,
    /// Every key that it may have.
    pub(crate) keys: &'static [&'static str],
    /// Keys that an operator may know from elsewhere, with what to do instead.
    pub(crate) not_built: &'static [(&'static str, &'static str)],
}

/// A table being read.
pub(crate) struct Reader<'a> {
    pub(crate) sink: &'a Sink<'a>,
    /// `None`: the table is not in the text, all its keys have their defaults.
    table: Option<&'a DeTable<'a>>,
    pub(crate) span: Span,
    schema: &'static Schema,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(
        sink: &'a Sink<'a>,
        table: &'a DeTable<'a>,
        span: Span,
        schema: &'static Schema,
    ) -> Self {
        for (key, _) in table {
            let (name, span) = (key.get_ref().as_ref(), key.span());
            if schema.keys.contains(&name) {
                continue;
            }
            let message = format!("unknown key `{}` in {}", printable(name), schema.name);
            match schema.not_built.iter().find(|(known, _)| *known == name) {
                Some((_, instead)) => sink.report(&span, message, *instead),
                None => sink.report(&span, message, suggestion(name, schema.keys)),
            }
        }
        Reader { sink, table: Some(table), span, schema }
    }

    fn get(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        debug_assert!(self.schema.keys.contains(&key), "{key} is not in the schema of {}", self.schema.name);
        self.table?.get(key)
    }

    pub(crate) fn fault(&self, span: &Span, key: &str, fault: Fault) {
        self.sink.report(span, format!("`{key}` in {}: {}", self.schema.name, fault.message), fault.help);
    }

    fn wrong_type(&self, value: &Spanned<DeValue<'_>>, key: &str, wanted: &str) {
        let found = value.get_ref().type_str();
        let fault = Fault::new(format!("this is of type {found}"), format!("write {wanted}"));
        self.fault(&value.span(), key, fault);
    }

    /// Whether the key is in the text, right or wrong.
    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.get(key).is_some()
    }

    /// Where the key's value stands, right or wrong; the table if the key is not in the text.
    pub(crate) fn span_of(&self, key: &'static str) -> Span {
        self.get(key).map_or_else(|| self.span.clone(), Spanned::span)
    }

    /// Complains of a key's value that is right in itself.
    pub(crate) fn unfit(&self, key: &'static str, message: impl Into<String>, help: impl Into<String>) {
        self.fault(&self.span_of(key), key, Fault::new(message, help));
    }

    /// Whether the key holds exactly this word.
    pub(crate) fn is_word(&self, key: &'static str, word: &str) -> bool {
        self.get(key).is_some_and(|value| value.get_ref().as_str() == Some(word))
    }

    /// Whether the key holds a list.
    pub(crate) fn is_list(&self, key: &'static str) -> bool {
        self.get(key).is_some_and(|value| value.get_ref().is_array())
    }

    /// Whether the key holds text.
    pub(crate) fn is_string(&self, key: &'static str) -> bool {
        self.get(key).is_some_and(|value| value.get_ref().is_str())
    }

    /// Complains if the key is not in the text.
    pub(crate) fn require(&self, key: &'static str, example: &str) {
        if !self.has(key) {
            let message = format!("`{key}` is missing in {}", self.schema.name);
            self.sink.report_missing(&self.span, message, format!("add e.g. `{key} = {example}`"));
        }
    }

    pub(crate) fn string(&self, key: &'static str, example: &str) -> Option<At<&'a str>> {
        let value = self.get(key)?;
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(value, key, &format!("text in quotes, e.g. {example}"));
        }
        text.map(|text| At { value: text, span: value.span() })
    }

    pub(crate) fn parsed<T>(
        &self,
        key: &'static str,
        example: &str,
        parse: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<At<T>> {
        let text = self.string(key, example)?;
        match parse(text.value) {
            Ok(value) => Some(At { value, span: text.span }),
            Err(fault) => {
                self.fault(&text.span, key, fault);
                None
            }
        }
    }

    pub(crate) fn choice<T: Copy>(&self, key: &'static str, options: &[(&str, T)]) -> Option<At<T>> {
        let example = options.first().map_or("", |(word, _)| word);
        self.parsed(key, &format!("{example:?}"), |text| choose(text, options))
    }

    pub(crate) fn boolean(&self, key: &'static str) -> Option<bool> {
        let value = self.get(key)?;
        let found = value.get_ref().as_bool();
        if found.is_none() {
            self.wrong_type(value, key, "true or false, without quotes");
        }
        found
    }

    pub(crate) fn integer<T: TryFrom<i128>>(
        &self,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<At<T>> {
        let value = self.get(key)?;
        let help = format!("a whole number from {} to {}", range.start(), range.end());
        let Some(number) = value.get_ref().as_integer() else {
            self.wrong_type(value, key, &help);
            return None;
        };
        let Some(found) = whole(value, range) else {
            let fault = Fault::new(format!("{number} is out of range"), format!("write {help}"));
            self.fault(&value.span(), key, fault);
            return None;
        };
        Some(At { value: found, span: value.span() })
    }

    /// An integer, or `None` for the given word and for a missing key.
    pub(crate) fn integer_or_word<T: TryFrom<i128>>(
        &self,
        key: &'static str,
        range: RangeInclusive<u64>,
        word: &str,
    ) -> Option<T> {
        if self.is_word(key, word) {
            return None;
        }
        if let (true, Some(value)) = (self.is_string(key), self.get(key)) {
            let help = format!("a whole number from {} to {}, or \"{word}\"", range.start(), range.end());
            self.wrong_type(value, key, &help);
            return None;
        }
        self.integer(key, range).map(|at| at.value)
    }

    /// The items of a list.
    pub(crate) fn list(&self, key: &'static str, example: &str) -> Option<Vec<Item<'a, '_>>> {
        let value = self.get(key)?;
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(value, key, &format!("a list, e.g. {example}"));
            return None;
        };
        Some(array.iter().map(|value| Item { reader: self, key, value }).collect())
    }

    /// A list of text, each piece parsed.
    pub(crate) fn parsed_list<T>(
        &self,
        key: &'static str,
        example: &str,
        parse: impl Fn(&str) -> Result<T, Fault>,
    ) -> Vec<At<T>> {
        let items = self.list(key, example).unwrap_or_default();
        items.iter().filter_map(|item| item.parsed(example, &parse)).collect()
    }

    /// A table under this key.
    pub(crate) fn table(&self, key: &'static str, schema: &'static Schema) -> Option<Reader<'a>> {
        let value = self.get(key)?;
        if let Some(table) = value.get_ref().as_table() {
            return Some(Reader::new(self.sink, table, value.span(), schema));
        }
        self.wrong_type(value, key, &format!("one table, {}", schema.name));
        None
    }

    /// A table under this key, or `None` for the given word and for a missing key.
    pub(crate) fn table_or_word(
        &self,
        key: &'static str,
        word: &str,
        schema: &'static Schema,
    ) -> Option<Reader<'a>> {
        if self.is_word(key, word) { None } else { self.table(key, schema) }
    }

    pub(crate) fn table_or_empty(&self, key: &'static str, schema: &'static Schema) -> Reader<'a> {
        let empty = Reader { sink: self.sink, table: None, span: self.span.clone(), schema };
        self.table(key, schema).unwrap_or(empty)
    }

    /// Every table under this key.
    pub(crate) fn tables(&self, key: &'static str, schema: &'static Schema) -> Vec<Reader<'a>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(value, key, &format!("{} with two brackets on each side", schema.name));
            return Vec::new();
        };
        let tables = array.iter().filter_map(|item| {
            let table = item.get_ref().as_table();
            if table.is_none() {
                self.wrong_type(item, key, schema.name);
            }
            table.map(|table| Reader::new(self.sink, table, item.span(), schema))
        });
        tables.collect()
    }
}

/// One item of a list.
pub(crate) struct Item<'a, 'r> {
    reader: &'r Reader<'a>,
    key: &'static str,
    value: &'a Spanned<DeValue<'a>>,
}

impl Item<'_, '_> {
    pub(crate) fn parsed<T>(
        &self,
        example: &str,
        parse: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<At<T>> {
        let span = self.value.span();
        let Some(text) = self.value.get_ref().as_str() else {
            self.reader.wrong_type(self.value, self.key, &format!("text in quotes, e.g. {example}"));
            return None;
        };
        match parse(text) {
            Ok(value) => Some(At { value, span }),
            Err(fault) => {
                self.reader.fault(&span, self.key, fault);
                None
            }
        }
    }

    pub(crate) fn integer<T: TryFrom<i128>>(&self, range: RangeInclusive<u64>) -> Option<At<T>> {
        let help = format!("a whole number from {} to {}", range.start(), range.end());
        let found = whole(self.value, range);
        match self.value.get_ref().as_integer() {
            None => self.reader.wrong_type(self.value, self.key, &help),
            Some(number) if found.is_none() => {
                let fault = Fault::new(format!("{number} is out of range"), format!("write {help}"));
                self.reader.fault(&self.value.span(), self.key, fault);
            }
            Some(_) => {}
        }
        found.map(|value| At { value, span: self.value.span() })
    }

    pub(crate) fn is_integer(&self) -> bool {
        self.value.get_ref().is_integer()
    }
}

/// A whole number within bounds.
fn whole<T: TryFrom<i128>>(value: &Spanned<DeValue<'_>>, range: RangeInclusive<u64>) -> Option<T> {
    let number = value.get_ref().as_integer()?;
    let wide = i128::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok();
    let fitting = wide.filter(|wide| u64::try_from(*wide).is_ok_and(|narrow| range.contains(&narrow)));
    fitting.and_then(|wide| T::try_from(wide).ok())
}

/// One of some words.
pub(crate) fn choose<T: Copy>(text: &str, options: &[(&str, T)]) -> Result<T, Fault> {
    if let Some((_, found)) = options.iter().find(|(word, _)| *word == text) {
        return Ok(*found);
    }
    let words: Vec<&str> = options.iter().map(|(word, _)| *word).collect();
    Err(Fault::new(format!("`{}` is not known", printable(text)), suggestion(text, &words)))
}

/// "did you mean …" if something is near, and all there is.
pub(crate) fn suggestion(name: &str, known: &[&str]) -> String {
    // A typo changes a letter or two; more distant words would be guesses.
    let distance_max = (name.chars().count() / 3).clamp(1, 3);
    let nearest = known
        .iter()
        .map(|word| (strsim::osa_distance(&name.to_lowercase(), word), word))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= distance_max);
    match nearest {
        Some((_, word)) => format!("did you mean `{word}`?"),
        None if known.is_empty() => "there is none here".to_owned(),
        None => format!("there is {}", list_of(known)),
    }
}

/// "`a`, `b` and `c`".
pub(crate) fn list_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.as_slice() {
        [] => String::new(),
        [only] => only.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// Text from the file without control characters and not endless, for a message.
pub(crate) fn printable(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let mut shown: String = text.chars().take(CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}
