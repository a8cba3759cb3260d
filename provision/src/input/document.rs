//! A TOML file read key by key, so that one mistake costs one key and not the file.

use std::collections::BTreeSet;
use std::ops::Range;

use serde::Deserialize;
use serde::de::IntoDeserializer as _;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::problem::Problems;

/// Two names closer than this are taken for a slip (Jaro-Winkler similarity, 0 to 1).
const SIMILAR: f64 = 0.8;
/// A mistake of syntax is told so often; those that follow are mostly its echo.
const SYNTAX_ERRORS_TOLD: usize = 3;

/// A type of value that a key may have. What is told about a value of another type is this alone: the parser's own words repeat the value,
/// which may be a password.
pub trait Kind: for<'de> Deserialize<'de> {
    /// What the value has to be, in plain words.
    const WANTED: &'static str;
}

impl Kind for String {
    const WANTED: &'static str = "a text in quotes";
}

impl Kind for bool {
    const WANTED: &'static str = "true or false, without quotes";
}

impl Kind for u64 {
    const WANTED: &'static str = "a whole number, 0 or more, without quotes";
}

impl Kind for Vec<String> {
    const WANTED: &'static str = "a list of texts in quotes, such as [\"one\", \"two\"]";
}

/// What a file says about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given<T> {
    /// Nothing.
    Absent,
    /// Something that cannot be used; the problem is noted.
    Wrong,
    /// This.
    Right(T),
}

impl<T> Given<T> {
    /// The value, if it is right.
    pub fn right(self) -> Option<T> {
        match self {
            Self::Right(value) => Some(value),
            Self::Absent | Self::Wrong => None,
        }
    }

    /// Whether there is something that cannot be used.
    pub fn is_wrong(&self) -> bool {
        matches!(self, Self::Wrong)
    }

    /// The value; a wrong one leaves `former`, and so does none if the file may have lost it (`clean` is false); else `default`.
    pub fn over(self, former: Option<T>, clean: bool, default: impl FnOnce() -> T) -> T {
        match self {
            Self::Right(value) => value,
            Self::Wrong => former.unwrap_or_else(default),
            Self::Absent if clean => default(),
            Self::Absent => former.unwrap_or_else(default),
        }
    }
}

/// A file's text, and what could be read of it.
pub struct Document<'i> {
    name: String,
    text: &'i str,
    root: DeTable<'i>,
    /// Bytes of the lines where the syntax is wrong: nothing that touches them is believed.
    broken: Vec<Range<usize>>,
}

impl<'i> Document<'i> {
    /// Reads `text`; mistakes of syntax are noted under `name`.
    pub fn read(name: &str, text: &'i str, problems: &mut Problems) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut broken: Vec<Range<usize>> = Vec::new();
        let mut told = 0;
        for error in &errors {
            let span = error.span().unwrap_or(0..text.len());
            let lines = whole_lines(text, span.clone());
            if !broken.contains(&lines) && told < SYNTAX_ERRORS_TOLD {
                told += 1;
                let what = error.message().replace('\n', " ");
                let what = format!(
                    "this cannot be read ({what}). Texts stand in quotes, and every quote and bracket is closed"
                );
                problems.note(name, Some(line_of(text, span.start)), what);
            }
            broken.push(lines);
        }
        Self { name: name.to_owned(), text, root: root.into_inner(), broken }
    }

    /// Whether the syntax is right everywhere. If not, keys may be missing that somebody wrote.
    pub fn is_clean(&self) -> bool {
        self.broken.is_empty()
    }

    /// The keys outside any table.
    pub fn root(&self) -> Section<'_, 'i> {
        Section { document: self, path: String::new(), table: Some(&self.root), seen: BTreeSet::new() }
    }

    /// The value at `path`, with its place in the text.
    pub fn find(&self, path: &[&str]) -> Option<&Spanned<DeValue<'i>>> {
        let (last, tables) = path.split_last()?;
        let mut table = &self.root;
        for key in tables {
            table = table.get(*key)?.get_ref().as_table()?;
        }
        table.get(*last)
    }

    fn is_broken(&self, span: &Range<usize>) -> bool {
        self.broken.iter().any(|broken| span.start < broken.end && broken.start < span.end)
    }
}

/// One table of a document. Keys that nobody asked for are noted by [`finish`](Self::finish).
pub struct Section<'d, 'i> {
    document: &'d Document<'i>,
    path: String,
    table: Option<&'d DeTable<'i>>,
    seen: BTreeSet<&'static str>,
}

impl<'d, 'i> Section<'d, 'i> {
    /// Whether the file has this table.
    pub fn is_there(&self) -> bool {
        self.table.is_some()
    }

    /// The value of `key`, if it is of this type and `check` takes it; the check says what is wrong and what to do, and repeats no value
    /// that may be a password.
    pub fn get<T, U>(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
        check: impl FnOnce(T) -> Result<U, String>,
    ) -> Given<U>
    where
        T: Kind,
    {
        self.seen.insert(key);
        let Some(value) = self.table.and_then(|table| table.get(key)) else { return Given::Absent };
        let span = value.span();
        // The mistake of syntax was told already.
        if self.document.is_broken(&span) {
            return Given::Wrong;
        }
        let deserializer = value.clone().into_deserializer();
        let read = T::deserialize(deserializer).map_err(|_| format!("it has to be {}", T::WANTED));
        match read.and_then(check) {
            Ok(value) => Given::Right(value),
            Err(why) => {
                let line = line_of(self.document.text, span.start);
                problems.note(&self.document.name, Some(line), format!("`{}`: {why}", self.full(key)));
                Given::Wrong
            }
        }
    }

    /// As [`get`](Self::get), taking every value of the type.
    pub fn plain<T>(&mut self, key: &'static str, problems: &mut Problems) -> Given<T>
    where
        T: Kind,
    {
        self.get(key, problems, Ok)
    }

    /// The texts of the list `key`, each if `check` takes it: a wrong one is noted with its number and costs no other. A list without a right one
    /// among wrong ones is wrong, and so is one of more than `count_max`.
    pub fn each<U>(
        &mut self,
        key: &'static str,
        count_max: usize,
        problems: &mut Problems,
        check: impl Fn(&str) -> Result<U, String>,
    ) -> Given<Vec<U>> {
        self.seen.insert(key);
        let Some(value) = self.table.and_then(|table| table.get(key)) else { return Given::Absent };
        if self.document.is_broken(&value.span()) {
            return Given::Wrong;
        }
        let Some(list) = value.get_ref().as_array() else {
            self.blame(key, format!("it has to be {}", Vec::<String>::WANTED), problems);
            return Given::Wrong;
        };
        if list.len() > count_max {
            self.blame(key, format!("{} are too many: at most {count_max}", list.len()), problems);
            return Given::Wrong;
        }
        let mut right = Vec::new();
        for (at, item) in list.iter().enumerate() {
            let text = item.get_ref().as_str().ok_or_else(|| format!("it has to be {}", String::WANTED));
            match text.and_then(&check) {
                Ok(value) => right.push(value),
                Err(why) => {
                    let line = line_of(self.document.text, item.span().start);
                    let what = format!("`{}`, number {}: {why}", self.full(key), at + 1);
                    problems.note(&self.document.name, Some(line), what);
                }
            }
        }
        if right.is_empty() && !list.is_empty() { Given::Wrong } else { Given::Right(right) }
    }

    /// The table `key`; one without keys if there is none.
    pub fn section(&mut self, key: &'static str, problems: &mut Problems) -> Section<'d, 'i> {
        self.seen.insert(key);
        let path = self.full(key);
        let value = self.table.and_then(|table| table.get(key));
        let table = value.and_then(|value| value.get_ref().as_table());
        if let (Some(value), None) = (value, table)
            && !self.document.is_broken(&value.span())
        {
            let line = line_of(self.document.text, value.span().start);
            problems.note(
                &self.document.name,
                Some(line),
                format!("`{path}` is a table: write [{path}] above its keys"),
            );
        }
        Section { document: self.document, path, table, seen: BTreeSet::new() }
    }

    /// Notes that what stands under `key`, if it is there, is known and not done here, and `why`.
    pub fn not_here(&mut self, key: &'static str, why: &str, problems: &mut Problems) {
        self.seen.insert(key);
        let found = self.table.and_then(|table| table.get_key_value(key));
        if let Some((name, _)) = found {
            let line = line_of(self.document.text, name.span().start);
            problems.note(&self.document.name, Some(line), format!("`{}` is not applied: {why}", self.full(key)));
        }
    }

    /// Notes a problem with `key` that shows only beside others.
    pub fn blame(&self, key: &str, why: impl std::fmt::Display, problems: &mut Problems) {
        let value = self.table.and_then(|table| table.get(key));
        let line = value.map(|value| line_of(self.document.text, value.span().start));
        problems.note(&self.document.name, line, format!("`{}`: {why}", self.full(key)));
    }

    /// Notes every key that was not asked for.
    pub fn finish(self, problems: &mut Problems) {
        for (key, _) in self.table.into_iter().flatten() {
            let name = key.get_ref().as_ref();
            if self.seen.contains(name) || self.document.is_broken(&key.span()) {
                continue;
            }
            let place = if self.path.is_empty() { String::new() } else { format!(" in [{}]", self.path) };
            let hint = self.hint(name);
            let line = line_of(self.document.text, key.span().start);
            problems.note(&self.document.name, Some(line), format!("`{name}`{place} is not known: {hint}"));
        }
    }

    fn hint(&self, name: &str) -> String {
        // Slips of the pen, and the other style of writing a key.
        let name = name.to_lowercase().replace('-', "_");
        let similar = |known: &&&str| strsim::jaro_winkler(&known.replace('-', "_"), &name);
        let best = self.seen.iter().max_by(|a, b| similar(a).total_cmp(&similar(b)));
        match best {
            Some(best) if similar(&best) >= SIMILAR => format!("did you mean `{best}`?"),
            _ => {
                let known: Vec<String> = self.seen.iter().map(|known| format!("`{known}`")).collect();
                format!("the keys here are {}", known.join(", "))
            }
        }
    }

    fn full(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// The line, from 1, of a place in the text.
pub fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// The lines that `span` touches, at least one.
fn whole_lines(text: &str, span: Range<usize>) -> Range<usize> {
    let bytes = text.as_bytes();
    let (start, end) = (span.start.min(bytes.len()), span.end.clamp(span.start, bytes.len().max(span.start)));
    let begin = bytes[..start].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let last = end.saturating_sub(1).max(start).min(bytes.len());
    let finish = bytes[last..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |at| last + at + 1);
    begin..finish.max(begin + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(problems: &Problems) -> String {
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn one_wrong_key_leaves_the_others_readable() {
        let mut problems = Problems::default();
        let text = "[system]\nhostname = door\n[user]\nname = 3\npassword = \"ok\"\n";
        let document = Document::read("f.toml", text, &mut problems);
        assert!(!document.is_clean());
        let mut root = document.root();
        let mut system = root.section("system", &mut problems);
        assert_eq!(system.plain::<String>("hostname", &mut problems), Given::Wrong);
        let mut user = root.section("user", &mut problems);
        assert_eq!(user.plain::<String>("name", &mut problems), Given::Wrong);
        assert_eq!(user.plain::<String>("password", &mut problems), Given::Right("ok".into()));
        let told = told(&problems);
        assert!(told.contains("f.toml, line 2:") && told.contains("f.toml, line 4: `user.name`"), "{told}");
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_likely_one() {
        let mut problems = Problems::default();
        let text = "[camera]\nsorce = 1\nnothing_like_it = 2\nr_limit_ms = 5\n";
        let document = Document::read("f.toml", text, &mut problems);
        let mut root = document.root();
        let mut camera = root.section("camera", &mut problems);
        assert_eq!(camera.plain::<String>("source", &mut problems), Given::Absent);
        assert_eq!(camera.plain::<u64>("r-limit-ms", &mut problems), Given::Absent);
        camera.finish(&mut problems);
        let told = told(&problems);
        assert!(told.contains("line 2: `sorce` in [camera] is not known: did you mean `source`?"), "{told}");
        assert!(told.contains("line 3:") && told.contains("the keys here are `r-limit-ms`, `source`"), "{told}");
        assert!(told.contains("line 4:") && told.contains("did you mean `r-limit-ms`?"), "{told}");
    }

    #[test]
    fn a_wrong_text_of_a_list_costs_itself() {
        let mut problems = Problems::default();
        let text = "all = [\"a\",\n \"-\", 3,\n \"b\"]\nnone = [\"-\"]\nempty = []\nlong = [\"a\", \"a\", \"a\", \"a\", \"a\"]\ntext = \"a\"\n";
        let document = Document::read("f.toml", text, &mut problems);
        let mut root = document.root();
        let mut each = |key| {
            let check = |text: &str| if text == "-" { Err("no letter".to_owned()) } else { Ok(text.to_owned()) };
            root.each(key, 4, &mut problems, check)
        };
        assert_eq!(each("all"), Given::Right(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!((each("none"), each("empty"), each("absent")), (Given::Wrong, Given::Right(vec![]), Given::Absent));
        assert_eq!((each("long"), each("text")), (Given::Wrong, Given::Wrong));
        let told = told(&problems);
        for part in [
            "line 2: `all`, number 2: no letter",
            "line 2: `all`, number 3: it has to be a text",
            "line 4: `none`, number 1",
            "line 6: `long`: 5 are too many: at most 4",
            "line 7: `text`: it has to be a list",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert_eq!(problems.count(), 5);
    }

    #[test]
    fn a_value_where_a_table_belongs_is_told() {
        let mut problems = Problems::default();
        let document = Document::read("f.toml", "system = 3\n", &mut problems);
        assert!(!document.root().section("system", &mut problems).is_there());
        assert!(told(&problems).contains("write [system] above its keys"));
    }

    #[test]
    fn a_wrong_value_and_a_lost_one_leave_what_was() {
        assert_eq!(Given::Wrong.over(Some(1), true, || 2), 1);
        assert_eq!(Given::Absent.over(Some(1), true, || 2), 2);
        assert_eq!(Given::Absent.over(Some(1), false, || 2), 1);
        assert_eq!(Given::Wrong.over(None, true, || 2), 2);
        assert_eq!(Given::Right(3).over(Some(1), true, || 2), 3);
    }
}
