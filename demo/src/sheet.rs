//! The contact sheet: one HTML file that needs nothing else.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::summary::{Person, Summary};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2430; --soft: #64748b; --card: #ffffff; --page: #f1f4f8; --line: #dbe2ea; --mark: #0f766e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8edf3; --soft: #94a3b8; --card: #1b2430; --page: #10161e; --line: #2c3a4a; --mark: #5eead4; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 2rem clamp(1rem, 4vw, 4rem); background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.6rem; }
p.lead { margin: .3rem 0 1.5rem; color: var(--soft); }
dl.facts { display: flex; flex-wrap: wrap; gap: .6rem; margin: 0 0 2rem; }
dl.facts div { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .5rem .9rem; }
dl.facts dt { color: var(--soft); font-size: .75rem; letter-spacing: .04em; text-transform: uppercase; }
dl.facts dd { margin: 0; font-weight: 600; }
ul.people { list-style: none; display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1rem; margin: 0; padding: 0; }
ul.people > li { background: var(--card); border: 1px solid var(--line); border-radius: .8rem; overflow: hidden; }
.face { display: block; width: 100%; aspect-ratio: 1; object-fit: cover; background: var(--line); }
div.face { display: grid; place-items: center; color: var(--soft); }
.text { padding: .7rem .9rem 1rem; }
h2 { margin: 0; font-size: 1.05rem; }
.text p { margin: .2rem 0; color: var(--soft); font-size: .88rem; overflow-wrap: anywhere; }
.text p b { color: var(--mark); }
main > details { margin-top: 1.5rem; }
details { font-size: .85rem; color: var(--soft); }
details ul { margin: .3rem 0 0; padding-left: 1.1rem; overflow-wrap: anywhere; }
footer { margin-top: 2rem; color: var(--soft); font-size: .8rem; overflow-wrap: anywhere; }
";

/// The sheet of a run. `thumbnails` are JPEG pictures by face id; who has none gets a placeholder.
pub fn html(summary: &Summary, camera: &str, thumbnails: &BTreeMap<String, Vec<u8>>) -> String {
    let mut page = String::new();
    let people = plural(summary.people.len() as u64, "person", "people");
    let frames = plural(summary.frames, "photo", "photos");
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>MicroLambda: {people} in {frames}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<header>\n\
         <h1>{people} in {frames}</h1>\n<p class=\"lead\">Seen by camera {}, each reported once.</p>\n</header>\n",
        escape(camera)
    );
    let _ = writeln!(page, "<dl class=\"facts\">");
    for (label, value) in facts(summary) {
        let _ = writeln!(page, "<div><dt>{}</dt><dd>{}</dd></div>", escape(label), escape(&value));
    }
    let _ = writeln!(page, "</dl>\n<main>\n<ul class=\"people\">");
    for (index, person) in summary.people.iter().enumerate() {
        page.push_str(&card(index + 1, person, thumbnails.get(&person.face)));
    }
    let _ = writeln!(page, "</ul>");
    page.push_str(&listed(summary.passed_over, "passed over", &summary.passed_over_why));
    page.push_str(&listed(summary.unreadable, "unreadable", &summary.unreadable_why));
    let same = match (summary.digests_equal, summary.is_comparable()) {
        (true, _) => "the same as",
        (false, true) => "different from",
        (false, false) => "not comparable, as a picture could not be searched, with",
    };
    let _ = write!(
        page,
        "</main>\n<footer>Digest of the final state: {}, {same} that of {}.</footer>\n</body>\n</html>\n",
        escape(&summary.digest),
        summary.long_run()
    );
    page
}

/// So many pictures that were not searched, with the reasons; empty if there are none.
fn listed(pictures: u64, what: &str, why: &[String]) -> String {
    if pictures == 0 {
        return String::new();
    }
    let count = plural(pictures, "picture", "pictures");
    let list: String = why.iter().map(|why| format!("<li>{}</li>", escape(why))).collect();
    format!("<details><summary>{count} {what}</summary><ul>{list}</ul></details>\n")
}

fn facts(summary: &Summary) -> Vec<(&'static str, String)> {
    let nodes: Vec<String> = summary.steps_per_node.iter().map(|(node, steps)| format!("{node} {steps}")).collect();
    let mut facts = vec![
        ("Steps", summary.steps.to_string()),
        ("By node", nodes.join(", ")),
        ("Moves between nodes", summary.migrations.to_string()),
        ("Limit of a step", format!("{} ms", summary.r_limit_ms)),
        ("Over the limit", summary.overruns.to_string()),
    ];
    if summary.passed_over > 0 {
        facts.push(("Passed over", plural(summary.passed_over, "picture", "pictures")));
    }
    if summary.unreadable > 0 {
        facts.push(("Unreadable", plural(summary.unreadable, "picture", "pictures")));
    }
    if let Some(kill) = &summary.kill {
        facts.push(("Went on after a kill", format!("{:.0} ms", kill.recovery_ms)));
    }
    facts
}

fn card(number: usize, person: &Person, thumbnail: Option<&Vec<u8>>) -> String {
    let name = if person.name.is_empty() { format!("Person {number}") } else { person.name.clone() };
    let name = escape(&name);
    let picture = match thumbnail {
        Some(jpeg) if !jpeg.is_empty() => {
            format!("<img class=\"face\" alt=\"{name}\" src=\"data:image/jpeg;base64,{}\">", STANDARD.encode(jpeg))
        }
        _ => "<div class=\"face\">no picture</div>".to_string(),
    };
    let first = person.frames.first().map_or(String::new(), |label| format!(" in <b>{}</b>", escape(label)));
    let list: String = person.frames.iter().map(|label| format!("<li>{}</li>", escape(label))).collect();
    let count = plural(person.frames.len() as u64, "photo", "photos");
    let frames = if list.is_empty() {
        String::new()
    } else {
        format!("<details><summary>{count}</summary><ul>{list}</ul></details>\n")
    };
    format!(
        "<li>\n{picture}\n<div class=\"text\">\n<h2>{name}</h2>\n<p>first seen{first}</p>\n\
         <p><time datetime=\"{}\">{}</time></p>\n{frames}</div>\n</li>\n",
        time(person.first_seen_ms, "%Y-%m-%dT%H:%M:%SZ"),
        time(person.first_seen_ms, "%-d %B %Y, %H:%M UTC"),
    )
}

fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A time in UTC; an impossible one as it is.
fn time(ms_since_1970: u64, format: &str) -> String {
    i64::try_from(ms_since_1970)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| ms_since_1970.to_string(), |time| time.strftime(format).to_string())
}

/// Text as HTML shows it, inside elements and quoted attributes; control characters, which HTML forbids, as spaces.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::summary;

    #[test]
    fn names_and_labels_cannot_break_out_of_the_page() {
        let mut summary = summary();
        summary.people[0].name = "\"><script>alert('x')</script>".into();
        summary.people[0].frames = vec!["a&b<c>.jpg".into()];
        let page = html(&summary, "c", &[("f1".to_string(), vec![1, 2, 3])].into());
        assert!(!page.contains("<script") && !page.contains("a&b<"), "{page}");
        assert!(page.contains("a&amp;b&lt;c&gt;.jpg"));
        assert!(page.contains("alt=\"&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;\""));
        assert!(page.contains("src=\"data:image/jpeg;base64,AQID\""));
    }

    #[test]
    fn every_element_is_closed_in_order() {
        let passed_over_why = vec!["<a>.jpg: it is empty".to_string()];
        let unreadable_why = vec!["<b>.jpg: its data is damaged".to_string()];
        let summary = Summary { passed_over: 1, passed_over_why, unreadable: 2, unreadable_why, ..summary() };
        let page = html(&summary, "folder", &BTreeMap::new());
        assert!(page.contains("1 picture passed over") && page.contains("&lt;a&gt;.jpg: it is empty"), "{page}");
        assert!(page.contains("2 pictures unreadable") && page.contains("&lt;b&gt;.jpg: its data"), "{page}");
        let mut open: Vec<&str> = Vec::new();
        for tag in page.split('<').skip(1) {
            let (tag, _) = tag.split_once('>').unwrap();
            let name = tag.split_whitespace().next().unwrap();
            match name.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name)),
                None if ["!DOCTYPE", "meta", "img"].contains(&name) => {}
                None => open.push(name),
            }
        }
        assert!(open.is_empty(), "{open:?}");
        assert!(page.contains("no picture") && page.contains("13 September 2020, 12:26 UTC"), "{page}");
        assert!(page.contains("<h1>1 person in 7 photos</h1>") && page.contains("2 photos"), "{page}");
    }

    #[test]
    fn the_long_run_is_called_what_it_was() {
        let footer = |summary: &Summary| html(summary, "c", &BTreeMap::new());
        assert!(footer(&summary()).contains("ab, the same as that of one long run."));
        let cut = Summary { long_run_in_parts: true, ..summary() };
        assert!(footer(&cut).contains("the same as that of a long run in parts."));
        let aside = Summary { units_set_aside: 1, digests_equal: false, ..summary() };
        assert!(footer(&aside).contains("not comparable, as a picture could not be searched, with that of"));
    }

    #[test]
    fn an_impossible_time_is_shown_as_it_is() {
        assert_eq!(time(u64::MAX, "%Y"), u64::MAX.to_string());
    }
}
