//! The face lambda: one unit is one tile searched or one face encoded.

use microlambda::{Lambda, Next, UnitCost};
use microlambda_faces::judge::CLEAR_SCORE_MIN;
use microlambda_faces::plan::{NextUnit, Plan, TileArea};
use microlambda_faces::proto::{CLASS_DECODE, CLASS_DETECT, CLASS_ENCODE, CLASS_NOTE, ENCODE_WORK, LOOK_WORK};
use microlambda_faces::{
    Analysis, Areas, Encoding, Face, FaceOutcome, FaceParams, Partial, Rect, Scene, SeenFace, Unusable,
};

use crate::engine::{Engine, EngineError};
use crate::picture::{self, PictureError, Pyramid};
use crate::thumbnail;

/// A second look is taken on the coarsest level on which the face is as long as this, px: the longest that it is shown.
const LOOK_SIDE_PX: i64 = 92;
/// What is found below the bound by less than this is looked at again before it is left out: a face may score so much less than it would a few pixels
/// larger. On pictures without people that is one of 30 (`docs/quality.md`).
const SCORE_SLACK: f32 = 0.25;

/// A frame to analyse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its place in the chain.
    pub sequence: u64,
    /// A JPEG or PNG picture.
    pub bytes: Vec<u8>,
    /// Where alone something may be new in it; `None` for all of it.
    pub moved: Option<Areas>,
}

/// Where frames come from, in the order of their sequence numbers.
pub trait Frames {
    /// The next frame, `None` if there is none now. May wait a little.
    fn next_frame(&mut self) -> Option<Frame>;
}

/// The state of the face lambda.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Progress {
    /// Inside the current frame; `None` before its first unit.
    pub partial: Option<Partial>,
    /// Finished analyses with their sequence numbers, until somebody takes them.
    pub finished: Vec<(u64, Analysis)>,
}

/// What a decoded picture needs beside its pixels.
struct Decoded<P> {
    pyramid: Pyramid,
    opened: P,
}

/// The current frame and all that is rebuilt rather than saved.
struct Current<P> {
    frame: Frame,
    plan: Plan,
    pixels: u64,
    unreadable: Option<PictureError>,
    decoded: Option<Decoded<P>>,
}

/// What outlives a step and saves work if the next one goes on with the same frame.
pub struct Cache<P>(Option<(u32, Current<P>)>);

impl<P> Default for Cache<P> {
    fn default() -> Self {
        Self(None)
    }
}

/// Analyses frames with an engine.
pub struct FaceLambda<'a, E: Engine, F> {
    engine: &'a mut E,
    params: FaceParams,
    frames: F,
    current: Option<Current<E::Picture>>,
    cache: Cache<E::Picture>,
    ran_in_full: bool,
    thumbnail: Option<Vec<u8>>,
}

impl<'a, E: Engine, F: Frames> FaceLambda<'a, E, F> {
    /// A lambda that takes its frames from `frames` and what it may reuse from `cache`.
    pub fn new(engine: &'a mut E, params: FaceParams, frames: F, cache: Cache<E::Picture>) -> Self {
        Self { engine, params, frames, current: None, cache, ran_in_full: true, thumbnail: None }
    }

    /// The sequence number of the frame under work.
    pub fn sequence(&self) -> Option<u64> {
        self.current.as_ref().map(|current| current.frame.sequence)
    }

    /// Where the frames come from.
    pub fn frames(&mut self) -> &mut F {
        &mut self.frames
    }

    /// The bytes of the frame under work.
    #[cfg(feature = "fault-injection")]
    pub fn frame_bytes(&self) -> &[u8] {
        self.current.as_ref().map_or(&[], |current| &current.frame.bytes)
    }

    /// The picture of the face that the last unit encoded, if it did; a JPEG.
    pub fn take_thumbnail(&mut self) -> Option<Vec<u8>> {
        self.thumbnail.take()
    }

    /// Ends the lambda and keeps what the next one may reuse.
    pub fn into_cache(self) -> Cache<E::Picture> {
        match self.current {
            Some(current) => Cache(Some((self.params.picture_px_max, current))),
            None => self.cache,
        }
    }

    /// The current frame, or the next one if there is none.
    fn current(&mut self) -> Option<&mut Current<E::Picture>> {
        if self.current.is_none() {
            let frame = self.frames.next_frame()?;
            self.current = Some(match self.cache.0.take() {
                Some((px_max, old)) if px_max == self.params.picture_px_max && is_same(&old.frame, &frame) => {
                    Current { frame, ..old }
                }
                _ => open_frame(frame, self.params.picture_px_max),
            });
        }
        self.current.as_mut()
    }

    fn search(&mut self, partial: &mut Partial, tile: TileArea) -> Result<(), UnitError> {
        let Some((plan, decoded)) = self.current.as_ref().and_then(|c| Some((&c.plan, c.decoded.as_ref()?))) else {
            return Err(UnitError::NotPrepared);
        };
        let level = decoded.pyramid.level(tile.level).ok_or(UnitError::NotPrepared)?;
        let score_min = self.params.score_min - SCORE_SLACK;
        let whole = (tile.width_px, tile.height_px) == (level.width_px(), level.height_px());
        let found = if whole {
            self.engine.search(level, tile.layers_max(), score_min)?
        } else {
            let part = level.crop(tile.left_px, tile.top_px, tile.width_px, tile.height_px);
            self.engine.search(&part.ok_or(UnitError::NotPrepared)?, tile.layers_max(), score_min)?
        };
        let seen: Vec<SeenFace> = found
            .into_iter()
            .filter(|(_, score)| score.is_finite())
            .filter_map(|(rect, score)| Some(SeenFace { rect: tile.to_picture(rect)?, score }))
            .collect();
        plan.tile_done(partial, &seen);
        Ok(())
    }

    fn encode(&mut self, seen: SeenFace) -> Result<Face, UnitError> {
        // Found below the bound, it has to be worth it.
        let is_candidate = seen.score < self.params.score_min;
        let unusable = |seen: SeenFace, sharpness: f32, why: Unusable| {
            let why = if is_candidate { Unusable::NoFace } else { why };
            Face { seen, sharpness, outcome: FaceOutcome::Unusable(why) }
        };
        if let Some(face_px) = too_small(&seen, &self.params) {
            return Ok(unusable(seen, 0.0, Unusable::TooSmall { face_px }));
        }
        let Some((plan, decoded)) = self.current.as_ref().and_then(|c| Some((&c.plan, c.decoded.as_ref()?))) else {
            return Err(UnitError::NotPrepared);
        };
        let pixels = decoded.pyramid.finest().ok_or(UnitError::NotPrepared)?;
        let rect = scaled_down(seen.rect, plan.first_level());
        let (face, sharpness) = self.engine.align(pixels, &decoded.opened, rect)?;
        if sharpness < self.params.sharpness_min {
            self.ran_in_full = false;
            return Ok(unusable(seen, sharpness, Unusable::Blurred { sharpness }));
        }
        let seen = SeenFace { score: look_again(self.engine, &decoded.pyramid, plan, seen, &face)?, ..seen };
        if is_candidate && seen.score < self.params.new_person_score_min {
            self.ran_in_full = false;
            return Ok(unusable(seen, sharpness, Unusable::NoFace));
        }
        let Ok(encoding) = Encoding::try_from(self.engine.encode(&decoded.opened, &face)?) else {
            return Ok(unusable(seen, sharpness, Unusable::NoEncoding));
        };
        self.thumbnail = thumbnail::of_face(pixels, rect);
        Ok(Face { seen, sharpness, outcome: FaceOutcome::Encoded(encoding) })
    }

    fn scene(&self) -> Option<Scene> {
        let coarsest = self.current.as_ref()?.decoded.as_ref()?.pyramid.coarsest()?;
        Scene::of(coarsest.width_px(), coarsest.height_px(), coarsest.rgb())
    }

    /// Where the unit starts from: the saved state if it can be one of this picture, else the picture's beginning.
    fn resumed(&self, state: &Progress) -> Option<Partial> {
        let plan = &self.current.as_ref()?.plan;
        Some(state.partial.clone().filter(|partial| plan.accepts(partial)).unwrap_or_else(|| plan.begin()))
    }

    fn finish(&mut self, state: &mut Progress, analysis: Analysis) {
        state.partial = None;
        if let Some(current) = self.current.take() {
            state.finished.push((current.frame.sequence, analysis));
        }
    }
}

impl<E: Engine, F: Frames> Lambda for FaceLambda<'_, E, F> {
    type State = Progress;
    type Error = UnitError;

    fn next(&mut self, state: &Progress) -> Next {
        let params = self.params;
        let Some(current) = self.current() else { return Next::Starved };
        let prepare = current.decoded.is_none().then_some((CLASS_DECODE, current.pixels));
        if current.unreadable.is_some() {
            return Next::Unit(UnitCost::run(CLASS_NOTE, 1));
        }
        let begin = current.plan.begin();
        let partial = state.partial.as_ref().filter(|partial| current.plan.accepts(partial)).unwrap_or(&begin);
        Next::Unit(match current.plan.next_unit(partial) {
            NextUnit::Tile(index) => {
                UnitCost { run: (CLASS_DETECT, current.plan.tiles()[index as usize].pixels()), prepare }
            }
            NextUnit::Face(index) if too_small(&partial.to_encode[index as usize], &params).is_none() => {
                let is_weak = partial.to_encode[index as usize].score < CLEAR_SCORE_MIN;
                let work = if is_weak { ENCODE_WORK + LOOK_WORK } else { ENCODE_WORK };
                UnitCost { run: (CLASS_ENCODE, work), prepare }
            }
            NextUnit::Face(_) | NextUnit::Finished => UnitCost::run(CLASS_NOTE, 1),
        })
    }

    fn prepare(&mut self, _state: &Progress) -> Result<(), UnitError> {
        let Some(current) = self.current.as_mut() else { return Err(UnitError::NotPrepared) };
        let decoded = picture::decode(&current.frame.bytes);
        self.ran_in_full = decoded.is_ok();
        match decoded {
            Ok(pixels) => {
                let (first, last) = (current.plan.first_level(), current.plan.last_level());
                let pyramid = Pyramid::new(pixels, first, last);
                let opened = self.engine.open(pyramid.finest().ok_or(UnitError::NotPrepared)?);
                current.decoded = Some(Decoded { pyramid, opened });
            }
            Err(error) => current.unreadable = Some(error),
        }
        Ok(())
    }

    fn advance(&mut self, state: &mut Progress) -> Result<(), UnitError> {
        self.ran_in_full = true;
        self.thumbnail = None;
        if let Some(error) = self.current.as_ref().and_then(|current| current.unreadable.clone()) {
            self.ran_in_full = false;
            self.finish(state, Analysis::Unreadable { why: error.to_string() });
            return Ok(());
        }
        let mut partial = self.resumed(state).ok_or(UnitError::NotPrepared)?;
        let plan = self.current.as_ref().map(|current| current.plan.clone()).ok_or(UnitError::NotPrepared)?;
        if partial.units() == 0 {
            partial.scene = self.scene();
        }
        match plan.next_unit(&partial) {
            NextUnit::Tile(index) => self.search(&mut partial, plan.tiles()[index as usize])?,
            NextUnit::Face(index) => {
                let face = self.encode(partial.to_encode[index as usize])?;
                partial.faces.push(face);
            }
            NextUnit::Finished => {}
        }
        match plan.finished(&partial) {
            Some(analysis) => self.finish(state, Analysis::Frame(analysis)),
            None => state.partial = Some(partial),
        }
        Ok(())
    }

    fn ran_in_full(&self) -> bool {
        self.ran_in_full
    }
}

/// A unit that failed; the state is as before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// The engine gave up.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A unit was run without what [`Lambda::prepare`] rebuilds.
    #[error("a unit was run without a decoded picture: call `prepare` when the cost says so")]
    NotPrepared,
}

/// Whether one frame's work is the other's, whatever their numbers.
fn is_same(a: &Frame, b: &Frame) -> bool {
    a.moved == b.moved && a.bytes == b.bytes
}

fn open_frame<P>(frame: Frame, picture_px_max: u32) -> Current<P> {
    match picture::header(&frame.bytes) {
        Ok(header) => {
            // Cameras say what moved in the picture as they store it.
            let moved = frame.moved.as_ref().filter(|_| !header.is_turned);
            let plan = Plan::of_moved(header.width_px, header.height_px, picture_px_max, moved);
            Current { plan, pixels: header.pixels(), frame, unreadable: None, decoded: None }
        }
        Err(error) => {
            Current { plan: Plan::of(0, 0, picture_px_max), pixels: 0, frame, unreadable: Some(error), decoded: None }
        }
    }
}

/// The shorter side of a face that is too small to encode, px.
fn too_small(seen: &SeenFace, params: &FaceParams) -> Option<u32> {
    let side = seen.rect.width().min(seen.rect.height());
    let face_px = u32::try_from(side).unwrap_or(u32::MAX);
    (face_px < params.face_px_min).then_some(face_px)
}

/// The score of a face: the detector's, or of one that it found weakly that of a second look. How a face lies in the detector's pyramid moves its
/// score by 0.5, and a tilt of the head by 2; on closer look frontal faces are above profiles and what is no face (`docs/quality.md`).
fn look_again<E: Engine>(
    engine: &mut E,
    pyramid: &Pyramid,
    plan: &Plan,
    seen: SeenFace,
    face: &E::Aligned,
) -> Result<f32, EngineError> {
    if seen.score >= CLEAR_SCORE_MIN {
        return Ok(seen.score);
    }
    let at = |level: u32| {
        let rect = scaled_down(seen.rect, level);
        Some((pyramid.level(level)?, rect)).filter(|_| rect.width().min(rect.height()) >= LOOK_SIDE_PX)
    };
    let finest = plan.first_level();
    let levels = (finest..=plan.last_level()).rev().find_map(at);
    let look = levels.or_else(|| Some((pyramid.level(finest)?, scaled_down(seen.rect, finest))));
    let Some((pixels, rect)) = look else { return Ok(seen.score) };
    let score = engine.look_again(pixels, rect, face)?;
    Ok(if score.is_finite() { score } else { seen.score })
}

/// A box of the picture as it came, in the picture that was scaled down before the search.
fn scaled_down(rect: Rect, level: u32) -> Rect {
    if level == 0 {
        return rect;
    }
    let down = |px: i32| px >> level.min(31);
    Rect { left: down(rect.left), top: down(rect.top), right: down(rect.right), bottom: down(rect.bottom) }
}

/// One frame and nothing after it.
impl Frames for Option<Frame> {
    fn next_frame(&mut self) -> Option<Frame> {
        self.take()
    }
}

/// Analyses all of one picture from beginning to end, without a limit.
///
/// # Errors
/// If a unit fails.
pub fn analyse<E: Engine>(engine: &mut E, params: FaceParams, bytes: Vec<u8>) -> Result<Analysis, UnitError> {
    analyse_frame(engine, params, Frame { sequence: 0, bytes, moved: None })
}

/// Analyses one frame from beginning to end, without a limit.
///
/// # Errors
/// If a unit fails.
pub fn analyse_frame<E: Engine>(engine: &mut E, params: FaceParams, frame: Frame) -> Result<Analysis, UnitError> {
    let mut lambda = FaceLambda::new(engine, params, Some(frame), Cache::default());
    let mut state = Progress::default();
    while let Next::Unit(cost) = lambda.next(&state) {
        if cost.prepare.is_some() {
            lambda.prepare(&state)?;
        }
        lambda.advance(&mut state)?;
    }
    state.finished.pop().map(|(_, analysis)| analysis).ok_or(UnitError::NotPrepared)
}

#[cfg(test)]
mod tests;
