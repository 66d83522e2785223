//! TOML with lines: tables whose keys are asked for one by one, values that know where they stand.
//!
//! A table remembers which keys it was asked for; what is left over when it is closed is unknown. Problems are collected, never thrown, so that
//! one run reports them all.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::error::{Fault, Place, Problem};
use super::value::{ValueError, Word, duration};

/// Longest excerpt of a bad value in a message, in characters.
const MAX_EXCERPT: usize = 60;
/// Keys that hold secrets in WireGuard's own files, in our spelling.
const SECRETS: [&str; 3] = ["private-key", "preshared-key", "pre-shared-key"];

/// Something and where it stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed<T> {
    pub(super) place: Place,
    pub(super) value: T,
}

/// Where the problems go, and how byte offsets become lines.
#[derive(Debug)]
pub(super) struct Report<'t> {
    text: &'t str,
    /// Where each line begins: every value asks for its place.
    lines: Vec<usize>,
    pub(super) problems: Vec<Problem>,
}

impl<'t> Report<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let line_ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self {
            text,
            lines: std::iter::once(0).chain(line_ends.map(|(at, _)| at + 1)).collect(),
            problems: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, place: Place, fault: Fault) {
        self.problems.push(Problem { place, fault });
    }

    fn at(&self, offset: usize, exact: bool) -> Place {
        let offset = offset.min(self.text.len());
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines[line - 1];
        let before = &self.text.as_bytes()[start..offset];
        Place::Line(line, exact.then(|| String::from_utf8_lossy(before).chars().count() + 1))
    }

    /// Parses a document. What is not TOML ends here, for a broken document would only produce further, false, problems.
    pub(super) fn document(&mut self) -> Option<Spanned<DeTable<'t>>> {
        match DeTable::parse(self.text) {
            Ok(root) => Some(root),
            Err(error) => {
                let start = error.span().map(|span| span.start);
                let place = start.map_or(Place::Whole, |start| self.at(start, true));
                let bare = start.is_some_and(|start| is_bare_word(self.text, start));
                let message = if bare {
                    "words must be quoted".to_owned()
                } else {
                    one_line(error.message())
                };
                self.add(place, Fault::Syntax(message));
                None
            }
        }
    }
}

/// Whether a value starts at `start` that is a word without quotes: the likeliest mistake, which the parser takes for a bad boolean or number.
fn is_bare_word(text: &str, start: usize) -> bool {
    let (Some(before), Some(value)) = (text.get(..start), text.get(start..)) else {
        return false;
    };
    before.trim_end_matches([' ', '\t']).ends_with('=') && value.starts_with(|c: char| c.is_alphabetic())
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

/// A table being read.
#[derive(Debug)]
pub(super) struct Table<'d, 't> {
    entries: &'d DeTable<'t>,
    /// As its header is written; for messages.
    header: &'static str,
    pub(super) place: Place,
    /// Whether it may stand in one line with others, so that columns help.
    exact: bool,
    known: Vec<&'static str>,
}

impl<'d, 't> Table<'d, 't> {
    pub(super) const fn root(entries: &'d DeTable<'t>) -> Self {
        Self {
            entries,
            header: "the file",
            place: Place::Whole,
            exact: false,
            known: Vec::new(),
        }
    }

    /// The value of a key that this table may have.
    pub(super) fn get(&mut self, key: &'static str, report: &Report<'_>) -> Option<Value<'d, 't>> {
        self.known.push(key);
        let value = self.entries.get(key)?;
        Some(Value::new(key, value, self.exact, report))
    }

    /// The value of a key that this table must have.
    pub(super) fn need(
        &mut self,
        key: &'static str,
        example: &'static str,
        report: &mut Report<'_>,
    ) -> Option<Value<'d, 't>> {
        let value = self.get(key, report);
        if value.is_none() {
            report.add(
                self.place,
                Fault::Missing {
                    table: self.header,
                    key,
                    example,
                },
            );
        }
        value
    }

    /// All keys have been asked for: the others are unknown.
    pub(super) fn close(mut self, report: &mut Report<'_>) {
        self.known.sort_unstable();
        for key in self.entries.keys() {
            let name = key.get_ref().as_ref();
            if self.known.contains(&name) {
                continue;
            }
            let place = report.at(key.span().start, self.exact);
            let (key, table) = (excerpt(name), self.header);
            let fault = if SECRETS.contains(&normal(name).as_str()) {
                Fault::Secret { key, table }
            } else {
                let nearest = nearest(name, &self.known);
                Fault::UnknownKey {
                    key,
                    table,
                    nearest,
                    known: self.known.clone(),
                }
            };
            report.add(place, fault);
        }
    }
}

/// A value being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'d, 't> {
    key: &'static str,
    value: &'d DeValue<'t>,
    pub(super) place: Place,
}

impl<'d, 't> Value<'d, 't> {
    fn new(key: &'static str, value: &'d Spanned<DeValue<'t>>, exact: bool, report: &Report<'_>) -> Self {
        Self {
            key,
            value: value.get_ref(),
            place: report.at(value.span().start, exact),
        }
    }

    fn wrong(self, expected: &'static str, report: &mut Report<'_>) {
        report.add(
            self.place,
            Fault::Type {
                key: self.key,
                expected,
                found: describe(self.value),
            },
        );
    }

    /// As a string.
    pub(super) fn string(self, expected: &'static str, report: &mut Report<'_>) -> Option<Placed<&'d str>> {
        let value = self.value.as_str();
        if value.is_none() {
            self.wrong(expected, report);
        }
        Some(Placed {
            place: self.place,
            value: value?,
        })
    }

    /// As `true` or `false`.
    pub(super) fn boolean(self, report: &mut Report<'_>) -> Option<Placed<bool>> {
        let value = self.value.as_bool();
        if value.is_none() {
            self.wrong("true or false", report);
        }
        Some(Placed {
            place: self.place,
            value: value?,
        })
    }

    /// As a whole number within `range`, whose words are `expected`.
    pub(super) fn whole(
        self,
        range: RangeInclusive<u32>,
        expected: &'static str,
        report: &mut Report<'_>,
    ) -> Option<Placed<u32>> {
        let number = self
            .value
            .as_integer()
            .and_then(integer)
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| range.contains(number));
        if number.is_none() {
            self.wrong(expected, report);
        }
        Some(Placed {
            place: self.place,
            value: number?,
        })
    }

    /// As a number that `fits`.
    pub(super) fn number(
        self,
        range: &'static str,
        fits: impl Fn(f64) -> bool,
        report: &mut Report<'_>,
    ) -> Option<f64> {
        let number = float(self.value).filter(|number| fits(*number));
        if number.is_none() {
            self.out_of(range, report);
        }
        number
    }

    /// As a share of a whole, such as `"5%"` or 0.05, in parts per million within `range`, whose words are `expected`.
    pub(super) fn share(
        self,
        range: RangeInclusive<u32>,
        expected: &'static str,
        report: &mut Report<'_>,
    ) -> Option<u32> {
        let percent = |text: &str| text.strip_suffix('%')?.trim_end().parse::<f64>().ok();
        let share = match self.value {
            DeValue::String(text) => percent(text).map(|percent| percent / 100.0),
            number => float(number),
        };
        // What is not a number becomes 0, what is too large the largest.
        let ppm = share.map(|share| (share * 1e6).round() as u32);
        let ppm = ppm.filter(|ppm| range.contains(ppm));
        if ppm.is_none() {
            self.out_of(expected, report);
        }
        ppm
    }

    fn out_of(self, range: &'static str, report: &mut Report<'_>) {
        let found = describe(self.value);
        report.add(
            self.place,
            Fault::Range {
                key: self.key,
                found,
                range,
            },
        );
    }

    /// As a duration within `range`, whose words are `expected`.
    pub(super) fn duration(
        self,
        range: RangeInclusive<Duration>,
        expected: &'static str,
        report: &mut Report<'_>,
    ) -> Option<Duration> {
        let text = self.string("a duration with its unit, such as \"50ms\" or \"10s\"", report)?;
        match duration(text.value) {
            Ok(value) if range.contains(&value) => Some(value),
            Ok(_) => {
                self.out_of(expected, report);
                None
            }
            Err(rule) => {
                report.add(
                    self.place,
                    Fault::Value {
                        key: self.key,
                        found: excerpt(text.value),
                        rule,
                    },
                );
                None
            }
        }
    }

    /// As a value with a rule of its own.
    pub(super) fn parsed<T: FromStr<Err = ValueError>>(
        self,
        expected: &'static str,
        report: &mut Report<'_>,
    ) -> Option<Placed<T>> {
        let Placed { place, value: text } = self.string(expected, report)?;
        match text.parse() {
            Ok(value) => Some(Placed { place, value }),
            Err(rule) => {
                let key = self.key;
                let secret = matches!(
                    rule,
                    ValueError::KeyEncoding | ValueError::KeyLength(_) | ValueError::KeyZero
                );
                let fault = if secret {
                    Fault::Key { key, rule }
                } else {
                    Fault::Value {
                        key,
                        found: excerpt(text),
                        rule,
                    }
                };
                report.add(place, fault);
                None
            }
        }
    }

    /// As one of a few words.
    pub(super) fn word<W: Word>(self, report: &mut Report<'_>) -> Option<Placed<W>> {
        let Placed { place, value: text } = self.string("a word in quotes", report)?;
        if let Some((_, value)) = W::KNOWN.iter().find(|(word, _)| *word == text) {
            return Some(Placed { place, value: *value });
        }
        let fault = match W::NOT_YET.iter().find(|(word, _)| *word == text) {
            Some((word, advice)) => Fault::NotYet {
                key: self.key,
                word,
                advice,
            },
            None => {
                let known: Vec<&'static str> = W::KNOWN.iter().map(|(word, _)| *word).collect();
                Fault::Word {
                    key: self.key,
                    found: excerpt(text),
                    nearest: nearest(text, &known),
                    known,
                }
            }
        };
        report.add(place, fault);
        None
    }

    /// The elements, if it is a list.
    pub(super) fn list(self, report: &Report<'_>) -> Option<Vec<Self>> {
        let elements = self.value.as_array()?;
        Some(
            elements
                .iter()
                .map(|element| Self::new(self.key, element, true, report))
                .collect(),
        )
    }

    /// The elements, or itself as the only one.
    pub(super) fn one_or_more(self, report: &Report<'_>) -> Vec<Self> {
        self.list(report).unwrap_or_else(|| vec![self])
    }

    /// As a table in one line.
    pub(super) fn inline(
        self,
        header: &'static str,
        expected: &'static str,
        report: &mut Report<'_>,
    ) -> Option<Table<'d, 't>> {
        let Some(entries) = self.value.as_table() else {
            self.wrong(expected, report);
            return None;
        };
        Some(Table {
            entries,
            header,
            place: self.place,
            exact: true,
            known: Vec::new(),
        })
    }

    /// As a table with a header of its own.
    pub(super) fn table(
        self,
        header: &'static str,
        expected: &'static str,
        report: &mut Report<'_>,
    ) -> Option<Table<'d, 't>> {
        Some(Table {
            exact: false,
            ..self.inline(header, expected, report)?
        })
    }

    /// As a list of tables, each with a header of its own.
    pub(super) fn tables(
        self,
        header: &'static str,
        advice: &'static str,
        report: &mut Report<'_>,
    ) -> Option<Vec<Table<'d, 't>>> {
        let elements = self.value.as_array().map(Vec::from_iter);
        let tables: Option<Vec<_>> = elements.and_then(|elements| {
            elements
                .into_iter()
                .map(|element| {
                    let entries = element.get_ref().as_table()?;
                    let place = report.at(element.span().start, false);
                    Some(Table {
                        entries,
                        header,
                        place,
                        exact: false,
                        known: Vec::new(),
                    })
                })
                .collect()
        });
        if tables.is_none() {
            report.add(self.place, Fault::NotTables { header, advice });
        }
        tables
    }

    /// Whether it is a number without a fraction.
    pub(super) fn is_whole(self) -> bool {
        self.value.as_integer().is_some()
    }

    /// As it stands in the file.
    pub(super) fn is(self, text: &str) -> bool {
        self.value.as_str() == Some(text)
    }

    /// Whether it is a list without elements.
    pub(super) fn is_empty_list(self) -> bool {
        self.value
            .as_array()
            .is_some_and(|elements| elements.iter().next().is_none())
    }
}

fn float(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Float(float) => float.as_str().parse().ok(),
        DeValue::Integer(number) => integer(number).map(|number| number as f64),
        _ => None,
    }
}

fn integer(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// A value as a message shows it.
fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{:?}", excerpt(text)),
        DeValue::Integer(number) => excerpt(&number.to_string()),
        DeValue::Float(number) => excerpt(number.as_str()),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// No more of a text than a message can bear.
pub(super) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(MAX_EXCERPT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// In our spelling: kebab-case.
fn normal(key: &str) -> String {
    let mut normal = String::new();
    for c in key.chars().take(MAX_EXCERPT) {
        match c {
            '_' | ' ' => normal.push('-'),
            c if c.is_uppercase() => {
                if normal.ends_with(char::is_lowercase) {
                    normal.push('-');
                }
                normal.extend(c.to_lowercase());
            }
            c => normal.push(c),
        }
    }
    normal
}

/// The known word that was probably meant: no more than a third of its letters away.
fn nearest(found: &str, known: &[&'static str]) -> Option<&'static str> {
    let found = normal(found);
    known
        .iter()
        .map(|word| (strsim::damerau_levenshtein(&found, word), *word))
        .filter(|(distance, word)| *distance <= word.len().div_ceil(3))
        .min()
        .map(|(_, word)| word)
}
