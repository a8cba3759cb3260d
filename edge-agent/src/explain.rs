//! `explain`: why an event was reported, from what the node has stored: the record is judged once more from the state before it.

use microlambda_faces::fold::{FoldState, Gallery, Person, event_id, lambda_digest};
use microlambda_faces::judge::{self, Judgement, Why};
use microlambda_faces::{Analysis, Face, FaceOutcome, FaceParams, FrameAnalysis, Rect};
use microlambda_runtime::printable;
use microlambda_wire::{Area, Areas, Name, Record};
use serde::Serialize;

use crate::cli::CommandError;
use crate::config::Config;
use crate::report::{event_line, open, print, print_json};
use crate::store::{EventRow, SqliteStore, Store};

/// The nearest people named.
const NEAREST_SHOWN: usize = 3;

/// Somebody known before the event.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Known {
    face: String,
    /// Of the nearest kept encoding.
    distance: f64,
    encodings: usize,
    frames: u64,
}

/// Somebody seen a moment before.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Before {
    face: String,
    /// Between that view and this one.
    distance: f64,
}

/// Everything that the decision rests on.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Explanation {
    event: EventRow,
    /// Columns and rows of the picture, px.
    picture_px: (u32, u32),
    /// px.
    rect: Rect,
    /// The shorter side of the box, px.
    face_px: i64,
    score: f32,
    sharpness: f32,
    strong: bool,
    clear: bool,
    /// Usable faces in the picture.
    faces: usize,
    nearest: Vec<Known>,
    /// Who is within the threshold, but somebody else's face in the same picture.
    elsewhere: Option<String>,
    followed: Option<Before>,
    /// Views of the face in a row, this one counted, if nobody was followed.
    views: u32,
    /// Whether it has moved by half of its size over these views.
    moved: bool,
    /// Where alone the picture was searched, [left, top, width, height] in px; `null` if all of it was.
    searched: Option<Areas>,
    decision: Why,
}

pub(crate) fn explain(config: &Config, id: &str, as_json: bool) -> Result<(), CommandError> {
    let store = open(config)?;
    let event = store.event(id)?.ok_or_else(|| {
        let id = printable(id);
        CommandError::Failed(format!("no event {id} is stored here: `edge-agent events --json` shows all ids"))
    })?;
    let explanation = of(&store, &config.faces, event)?;
    if as_json { print_json(&explanation) } else { print(&text(&config.faces, &explanation)) }
}

fn of(store: &SqliteStore, params: &FaceParams, row: EventRow) -> Result<Explanation, CommandError> {
    let (chain, sequence, face_index) = (row.event.chain.clone(), row.event.sequence, row.event.face_index);
    let lacks = || CommandError::Failed(format!("record {sequence} of chain {chain} is not stored here any more"));
    if store.chain(&chain)?.is_some_and(|stored| stored.lambda != lambda_digest(params)) {
        return Err(CommandError::Failed(format!(
            "chain {chain} was folded with other [faces] settings or another version: explain it with these"
        )));
    }
    let (entries, _) = store.entries(&chain, sequence, 1)?;
    let entry = entries.into_iter().next().filter(|entry| entry.sequence == sequence).ok_or_else(lacks)?;
    let (Record::Frame { captured_at_ms, moved, .. }, Some(Analysis::Frame(frame))) = (&entry.record, &entry.analysis)
    else {
        return Err(lacks());
    };
    let boundary = store.boundary(&chain, sequence)?.ok_or_else(lacks)?;
    let fold = FoldState::restore(*params, boundary, store.gallery_at(&chain, sequence)?);
    let judgements = fold.explain(*captured_at_ms, frame);
    let judgement = judgements.iter().find(|judgement| judgement.face_index == face_index).ok_or_else(lacks)?;
    let face = frame.faces.get(face_index as usize).ok_or_else(lacks)?;
    let faces = judgements.len();
    let told = explanation(row, &chain, fold.gallery(), frame, face, judgement, faces);
    Ok(Explanation { searched: moved.clone(), ..told })
}

fn explanation(
    event: EventRow,
    chain: &Name,
    gallery: &Gallery,
    frame: &FrameAnalysis,
    face: &Face,
    judgement: &Judgement,
    faces: usize,
) -> Explanation {
    let id = |person: &Person| event_id(chain.as_str(), person.first);
    let known = |person: usize| gallery.person(person).map(id);
    let mut nearest = match &face.outcome {
        FaceOutcome::Encoded(encoding) => gallery.distances(encoding).collect(),
        FaceOutcome::Unusable(_) => Vec::new(),
    };
    nearest.sort_by(|a, b| a.1.total_cmp(&b.1));
    nearest.truncate(NEAREST_SHOWN);
    let compared = |(person, distance): (&Person, f64)| Known {
        face: id(person),
        distance,
        encodings: person.exemplars.len(),
        frames: person.frames,
    };
    let rect = face.seen.rect;
    Explanation {
        event,
        picture_px: (frame.width_px, frame.height_px),
        rect,
        face_px: rect.width().min(rect.height()),
        score: face.seen.score,
        sharpness: face.sharpness,
        strong: judgement.strong,
        clear: judgement.clear,
        faces,
        nearest: nearest.into_iter().map(compared).collect(),
        elsewhere: judgement.elsewhere.and_then(|(person, _)| known(person)),
        followed: judgement.followed.and_then(|(person, distance)| Some(Before { face: known(person)?, distance })),
        views: judgement.views,
        moved: judgement.moved,
        searched: None,
        decision: judgement.why,
    }
}

fn text(params: &FaceParams, told: &Explanation) -> String {
    let Explanation { rect, picture_px: (width_px, height_px), .. } = told;
    let (face_px, score, sharpness) = (told.face_px, told.score, told.sharpness);
    let mut text = event_line(&told.event);
    text += &format!("  face      {face_px} px at ({}, {}) of {width_px}×{height_px}, ", rect.left, rect.top);
    text += &format!("{} usable in the picture\n", told.faces);
    if let Some(areas) = &told.searched {
        let areas: Vec<String> = areas.iter().map(area_text).collect();
        text += &format!("  searched  where something moved: {}\n", areas.join(", "));
    }
    text += &format!(
        "  score     {score:.2}: {} for somebody new from {}, clear from {}\n",
        if told.strong { "evidence" } else { "no evidence" },
        params.new_person_score_min,
        judge::CLEAR_SCORE_MIN
    );
    text += &format!(
        "  sharpness {sharpness:.0}: usable from {}, clear from {}\n",
        params.sharpness_min,
        judge::CLEAR_SHARPNESS_MIN
    );
    if told.nearest.is_empty() {
        text += "  nearest   nobody was known before\n";
    }
    for Known { face, distance, encodings, frames } in &told.nearest {
        let within = if *distance <= params.distance_max { "within" } else { "beyond" };
        text += &format!("  nearest   {face} at {distance:.3}, {within} {}, ", params.distance_max);
        text += &format!("of {encodings} kept encodings, seen in {frames} frames before\n");
    }
    if let Some(face) = &told.elsewhere {
        text += &format!("  beside    {face} is another face of the same picture, and nearer to that\n");
    }
    if let Some(Before { face, distance }) = &told.followed {
        text += &format!("  before    {face} was there a moment ago, that view is {distance:.3} away\n");
    }
    if told.views > 0 {
        let moved = if told.moved { "over which it moved" } else { "over which it hardly moved" };
        text += &format!("  vote      {} of {} views in a row, {moved}\n", told.views, judge::VIEWS_MIN);
    }
    text + &format!("  decision  {}\n", sentence(told.decision))
}

fn area_text(area: Area) -> String {
    format!("{}×{} px at ({}, {})", area.width_px, area.height_px, area.left_px, area.top_px)
}

fn sentence(why: Why) -> &'static str {
    match why {
        Why::Near => "somebody known: a kept encoding is within the threshold",
        Why::Followed => "somebody known in an odd view: it goes on where that person was a moment before",
        Why::NewAtOnce => "somebody new: the picture continues no other, so no further view is to be expected",
        Why::NewFar => "somebody new: nobody known is anywhere near",
        Why::NewByVote => "somebody new: not far from somebody known, but seen often enough in a row",
        Why::Waiting => "nobody yet: further views have to confirm it",
        Why::Weak => "nobody: found too weakly",
    }
}
