//! What is wrong with an input, in words for whoever wrote it.

use std::fmt;

use microlambda_runtime::{printable, without_passwords};
use serde::{Deserialize, Serialize};

/// No more mistakes are told; whoever has made more will look at the file as a whole.
pub const PROBLEMS_MAX: usize = 40;
/// A text longer than this is cut, characters.
const TEXT_CHARS_MAX: usize = 600;

/// One mistake: where, what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The file on the boot partition, or the program that was asked.
    pub file: String,
    /// The line, from 1, if there is one to name.
    pub line: Option<usize>,
    /// What is wrong and what to do; holds no secret.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}, line {line}: {}", self.file, self.what),
            None => write!(f, "{}: {}", self.file, self.what),
        }
    }
}

/// A bounded list of mistakes, in the order they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    found: Vec<Problem>,
    more: usize,
}

impl Problems {
    /// Notes one, without the passwords of addresses in it: everybody who logs in reads it, and the log keeps it. Beyond [`PROBLEMS_MAX`] they are
    /// only counted.
    pub fn note(&mut self, file: &str, line: Option<usize>, what: impl fmt::Display) {
        if self.found.len() >= PROBLEMS_MAX {
            self.more += 1;
            return;
        }
        // Before it is cut, as a part of an address is not known as one.
        let shown = without_passwords(&printable(what));
        let mut what: String = shown.chars().take(TEXT_CHARS_MAX).collect();
        if shown.chars().nth(TEXT_CHARS_MAX).is_some() {
            what.push('…');
        }
        self.found.push(Problem { file: printable(file), line, what });
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// How many there are, those not kept included.
    pub fn count(&self) -> usize {
        self.found.len() + self.more
    }

    /// Those that were kept.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.found.iter()
    }

    /// Adds what was found elsewhere.
    pub fn extend(&mut self, others: impl IntoIterator<Item = Problem>) {
        for problem in others {
            self.note(&problem.file, problem.line, problem.what);
        }
    }
}

/// The text of `microlambda-problems.txt`; lines end as Windows' Notepad wants them, as such a computer may read the card.
pub fn report(problems: &[Problem]) -> String {
    let mut text = String::from(
        "Something in the files of this partition is wrong. What is right was applied all the same.\r\n\
         Correct the file and start the device again; this note goes away by itself.\r\n\r\n",
    );
    for problem in problems {
        text.push_str(&format!("* {problem}\r\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_mistakes_is_counted_and_not_kept() {
        let mut problems = Problems::default();
        for n in 0..PROBLEMS_MAX + 3 {
            problems.note("f", Some(n), "x".repeat(10_000));
        }
        assert_eq!((problems.iter().count(), problems.count()), (PROBLEMS_MAX, PROBLEMS_MAX + 3));
        assert!(problems.iter().all(|problem| problem.what.chars().count() == TEXT_CHARS_MAX + 1));
    }

    #[test]
    fn a_password_in_an_address_is_not_noted_wherever_the_text_is_cut() {
        for before in 0..TEXT_CHARS_MAX {
            let mut problems = Problems::default();
            problems.note("f", None, format!("{} rtsp://me:secret99@cam/x", "x".repeat(before)));
            let what = &problems.iter().next().unwrap().what;
            assert!(!what.contains("sec"), "{what}");
        }
    }

    #[test]
    fn a_mistake_cannot_forge_a_line_of_the_report() {
        let mut problems = Problems::default();
        problems.note("f", Some(3), "bad\r\n* all is well");
        let found: Vec<Problem> = problems.iter().cloned().collect();
        assert_eq!(report(&found).lines().filter(|line| line.starts_with('*')).count(), 1);
    }
}
