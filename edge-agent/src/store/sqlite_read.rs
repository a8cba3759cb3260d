//! SQLite as a store: reads.

use microlambda::{Attempt, Digest, Head, StepMode, Version};
use microlambda_faces::Encoding;
use microlambda_faces::content::{Entry, from_bytes};
use microlambda_wire::{ChainClass, EventKind, EventNote, Name};
use rusqlite::{OptionalExtension, Params, Row, params};

use super::sqlite::{SqliteStore, chain_id, identity, integer};
use super::{ChainSummary, EVENTS_MAX, EventRow, FaceRow, FrameRow, Known, StoreError, StoredChain};

const CHAIN_COLUMNS: &str =
    "id, name, camera, batch, lambda, generation, boundary_sequence, boundary_digest, boundary_set_aside,
    partial, head_unit, head_digest, head_set_aside, holder, done, identity";

/// A row of `chain` as it stands.
struct ChainRow {
    id: i64,
    name: String,
    camera: String,
    batch: bool,
    lambda: [u8; 32],
    boundary: Head,
    partial: Option<Vec<u8>>,
    head: Head,
    holder: Option<String>,
    done: bool,
    identity: [u8; 32],
}

impl ChainRow {
    fn class(&self) -> ChainClass {
        if self.batch { ChainClass::Batch } else { ChainClass::Live }
    }
}

fn chain_row(row: &Row<'_>) -> rusqlite::Result<ChainRow> {
    let version = Version { generation: row.get(5)?, sequence: unsigned(row, 6)?, unit: 0 };
    let boundary = Head { version, digest: Digest(row.get(7)?), set_aside: row.get(8)? };
    let head_version = Version { unit: row.get(10)?, ..version };
    Ok(ChainRow {
        id: row.get(0)?,
        name: row.get(1)?,
        camera: row.get(2)?,
        batch: row.get(3)?,
        lambda: row.get(4)?,
        boundary,
        partial: row.get(9)?,
        head: Head { version: head_version, digest: Digest(row.get(11)?), set_aside: row.get(12)? },
        holder: row.get(13)?,
        done: row.get(14)?,
        identity: row.get(15)?,
    })
}

/// A column that this program only ever fills with numbers from 0 up.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

/// An encoding as its row holds it: its values, each as four bytes, the lowest first.
pub(super) fn encoding_bytes(encoding: &Encoding) -> Vec<u8> {
    encoding.values().iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The encoding that a row holds, if it is one.
pub(super) fn encoding(bytes: &[u8]) -> Option<Encoding> {
    let (values, []) = bytes.as_chunks::<4>() else { return None };
    let values: Vec<f32> = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
    Encoding::try_from(values).ok()
}

impl SqliteStore {
    /// All chains, by name.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub fn chains(&self) -> Result<Vec<StoredChain>, StoreError> {
        self.read_chains_by("ORDER BY name")
    }

    /// The names of all chains, in order.
    pub(super) fn chain_names(&self) -> Result<Vec<Name>, StoreError> {
        self.names_of("SELECT name FROM chain ORDER BY name", [])
    }

    /// The names of chains that `query` gives in its only column.
    pub(super) fn names_of(&self, query: &str, params: impl Params) -> Result<Vec<Name>, StoreError> {
        let names = self.read(|connection| {
            let mut statement = connection.prepare(query)?;
            statement.query_map(params, |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        names.into_iter().map(|name| Name::new(name).map_err(|_| self.damaged("a chain's name"))).collect()
    }

    pub(super) fn read_newest_chains(&self, max: usize) -> Result<Vec<StoredChain>, StoreError> {
        // A camera that has begun another chain does not go on with the former one.
        let is_former = "id < (SELECT max(id) FROM chain AS newer WHERE newer.camera = chain.camera)";
        self.read_chains_by(&format!("ORDER BY done, {is_former}, id DESC LIMIT {max}"))
    }

    fn read_chains_by(&self, order: &str) -> Result<Vec<StoredChain>, StoreError> {
        let rows = self.read(|connection| {
            let mut statement = connection.prepare(&format!("SELECT {CHAIN_COLUMNS} FROM chain {order}"))?;
            statement.query_map([], chain_row)?.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        rows.into_iter().map(|row| self.stored_chain(row)).collect()
    }

    pub(super) fn read_chain(&self, name: &Name) -> Result<Option<StoredChain>, StoreError> {
        let query = format!("SELECT {CHAIN_COLUMNS} FROM chain WHERE name = ?1");
        let row = self.read(|connection| connection.query_row(&query, [name.as_str()], chain_row).optional())?;
        row.map(|row| self.stored_chain(row)).transpose()
    }

    /// What the row that meets `condition` says by itself.
    pub(super) fn read_summary(
        &self,
        condition: &str,
        params: impl Params,
    ) -> Result<Option<ChainSummary>, StoreError> {
        let query = format!("SELECT {CHAIN_COLUMNS} FROM chain WHERE {condition}");
        let row = self.read(|connection| connection.prepare_cached(&query)?.query_row(params, chain_row).optional())?;
        row.map(|row| {
            let (name, camera) = self.names_in(&row)?;
            Ok(ChainSummary { name, camera, class: row.class(), head: row.head, done: row.done })
        })
        .transpose()
    }

    /// The names of chain and camera in a row, if its digest bears them out.
    fn names_in(&self, row: &ChainRow) -> Result<(Name, Name), StoreError> {
        let name = Name::new(row.name.as_str()).map_err(|_| self.damaged("a chain's name"))?;
        let camera = Name::new(row.camera.as_str()).map_err(|_| self.damaged("a camera's name"))?;
        if row.identity != identity(&name, &camera, row.batch, &row.lambda) {
            return Err(self.damaged(format!("the row of chain {name}")));
        }
        Ok((name, camera))
    }

    fn stored_chain(&self, row: ChainRow) -> Result<StoredChain, StoreError> {
        let (name, camera) = self.names_in(&row)?;
        let class = row.class();
        let partial = row.partial.map(|bytes| from_bytes(&bytes)).transpose();
        let partial = partial.map_err(|_| self.damaged(format!("the partial state of chain {name}")))?;
        let attempt = |(digest, epoch, one_unit): ([u8; 32], u32, bool)| {
            let mode = if one_unit { StepMode::OneUnit } else { StepMode::Normal };
            (digest == row.head.digest.0).then_some(Attempt { step: row.head, epoch, mode })
        };
        let (attempted, failure) = self.read(|connection| {
            let query = "SELECT digest, epoch, one_unit FROM attempt WHERE chain = ?1";
            let attempted = connection.query_row(query, [row.id], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)));
            let query = "SELECT times, why FROM failure WHERE chain = ?1 AND digest = ?2";
            let key = params![row.id, row.head.digest.0];
            let failure = connection.query_row(query, key, |r| Ok((r.get(0)?, r.get(1)?)));
            Ok((attempted.optional()?, failure.optional()?))
        })?;
        let attempt = attempted.and_then(attempt);
        Ok(StoredChain {
            gallery: self.read_gallery(&name, row.boundary.version.sequence)?,
            name,
            camera,
            class,
            lambda: Digest(row.lambda),
            boundary: row.boundary,
            partial,
            head: row.head,
            holder: row.holder,
            done: row.done,
            attempt,
            failure,
        })
    }

    pub(super) fn read_boundary(&self, chain: &Name, sequence: u64) -> Result<Option<Head>, StoreError> {
        self.read(|connection| {
            let query = "SELECT id, lambda FROM chain WHERE name = ?1";
            let held: Option<(i64, [u8; 32])> =
                connection.query_row(query, [chain.as_str()], |r| Ok((r.get(0)?, r.get(1)?))).optional()?;
            let Some((id, lambda)) = held else { return Ok(None) };
            if sequence == 0 {
                return Ok(Some(Head::genesis(Digest(lambda))));
            }
            // The entry before the boundary is the last one below it; gaps span several numbers.
            let query = "SELECT digest, set_aside, next_sequence, generation FROM entry WHERE chain = ?1 AND sequence < ?2 ORDER BY sequence DESC LIMIT 1";
            let last = connection.prepare_cached(query)?.query_row(params![id, integer(sequence)?], |r| {
                Ok((r.get::<_, [u8; 32]>(0)?, r.get(1)?, unsigned(r, 2)?, r.get(3)?))
            });
            let last = last.optional()?.filter(|(_, _, next, _)| *next == sequence);
            Ok(last.map(|(digest, set_aside, _, generation)| {
                let version = Version { generation, sequence, unit: 0 };
                Head { version, digest: Digest(digest), set_aside }
            }))
        })
    }

    pub(super) fn read_locator(&self, chain: &Name) -> Result<Vec<(u64, Digest)>, StoreError> {
        self.read(|connection| {
            let id = chain_id(connection, chain)?;
            let query =
                "SELECT next_sequence, digest FROM entry WHERE chain = ?1 AND sequence < ?2 AND next_sequence <= ?2
                ORDER BY sequence DESC LIMIT 1";
            let mut statement = connection.prepare_cached(query)?;
            let mut locator = Vec::new();
            let (mut bound, mut distance) = (i64::MAX, 1_i64);
            // Growing distances: the common ancestor of a fork is found within a factor of two of its depth.
            while let Some((sequence, digest)) = statement
                .query_row(params![id, bound], |r| Ok((unsigned(r, 0)?, r.get::<_, [u8; 32]>(1)?)))
                .optional()?
            {
                locator.push((sequence, Digest(digest)));
                if locator.len() >= 4 {
                    distance = distance.saturating_mul(2);
                }
                bound = integer(sequence)?.saturating_sub(distance);
            }
            let lambda: [u8; 32] =
                connection.query_row("SELECT lambda FROM chain WHERE id = ?1", [id], |row| row.get(0))?;
            locator.push((0, Digest(lambda)));
            Ok(locator)
        })
    }

    pub(super) fn entry_of(&self, chain: &Name, body: &[u8]) -> Result<Entry, StoreError> {
        from_bytes(body).map_err(|why| self.damaged(format!("an entry of chain {chain} ({why})")))
    }

    pub(super) fn read_entries(
        &self,
        chain: &Name,
        sequence: u64,
        bytes_max: usize,
    ) -> Result<(Vec<Entry>, Option<Head>), StoreError> {
        let bodies = self.read(|connection| {
            let id = chain_id(connection, chain)?;
            let query = "SELECT body FROM entry WHERE chain = ?1 AND sequence >= ?2 ORDER BY sequence";
            let mut statement = connection.prepare_cached(query)?;
            let mut rows = statement.query(params![id, integer(sequence)?])?;
            let (mut bodies, mut bytes) = (Vec::<Vec<u8>>::new(), 0);
            while let Some(row) = rows.next()? {
                let body: Vec<u8> = row.get(0)?;
                bytes += body.len();
                if !bodies.is_empty() && bytes > bytes_max {
                    break;
                }
                bodies.push(body);
            }
            Ok(bodies)
        })?;
        let entries = bodies.iter().map(|body| self.entry_of(chain, body)).collect::<Result<Vec<_>, _>>()?;
        let behind =
            entries.last().map(|entry| self.read_boundary(chain, entry.next_sequence())).transpose()?.flatten();
        Ok((entries, behind))
    }

    pub(super) fn read_events_not_on_bus(&self) -> Result<Vec<EventNote>, StoreError> {
        let rows = self.read_events("e.on_bus = 0", "e.chain, e.sequence, e.face_index", EVENTS_MAX as u64, None)?;
        Ok(rows.into_iter().map(|row| row.event).collect())
    }

    /// The newest events that this node has, by time, at most `max`: the latest last.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub fn events(&self, max: u64) -> Result<Vec<EventRow>, StoreError> {
        let newest = "e.captured_at_ms DESC, e.chain DESC, e.sequence DESC, e.face_index DESC";
        let mut rows = self.read_events("1", newest, max, None)?;
        rows.reverse();
        Ok(rows)
    }

    /// The event of that id, if it is known here.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub fn event(&self, id: &str) -> Result<Option<EventRow>, StoreError> {
        Ok(self.read_events("1", "e.id", 1, Some(id))?.pop())
    }

    fn read_events(
        &self,
        condition: &str,
        order: &str,
        max: u64,
        id: Option<&str>,
    ) -> Result<Vec<EventRow>, StoreError> {
        self.read(|connection| {
            let query = format!(
                "SELECT e.id, e.kind, e.face, c.camera, c.name, e.sequence, e.face_index, e.captured_at_ms, e.label, e.on_bus
                 FROM event e JOIN chain c ON c.id = e.chain WHERE {condition} AND e.superseded = 0 AND (?2 IS NULL OR e.id = ?2) ORDER BY {order} LIMIT ?1"
            );
            let mut statement = connection.prepare_cached(&query)?;
            let rows = statement.query_map(params![integer(max)?, id], |row| {
                let name = |column| {
                    let text: String = row.get(column)?;
                    Name::new(text).map_err(|e| {
                        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(e))
                    })
                };
                let kind: String = row.get(1)?;
                let kind = EventKind::parse(&kind).ok_or_else(|| {
                    let why = format!("no kind of event is {kind:?}");
                    rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, why.into())
                })?;
                let event = EventNote {
                    id: name(0)?,
                    kind,
                    face: name(2)?,
                    camera: name(3)?,
                    chain: name(4)?,
                    sequence: unsigned(row, 5)?,
                    face_index: row.get(6)?,
                    captured_at_ms: unsigned(row, 7)?,
                    label: row.get(8)?,
                };
                Ok(EventRow { event, on_bus: row.get(9)? })
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })
    }

    pub(super) fn read_people(&self, chain: &Name, max: usize) -> Result<Vec<String>, StoreError> {
        self.read(|connection| {
            let id = chain_id(connection, chain)?;
            let query = "SELECT face FROM person WHERE chain = ?1 ORDER BY number LIMIT ?2";
            let mut statement = connection.prepare_cached(query)?;
            statement.query_map([id, max as i64], |row| row.get(0))?.collect::<rusqlite::Result<Vec<_>>>()
        })
    }

    pub(super) fn read_faces(&self, chain: Option<&Name>) -> Result<Vec<FaceRow>, StoreError> {
        let known = self.known(chain)?;
        let with_frames = |known: Known| {
            let frames = self.frames_of(&known, usize::MAX)?;
            Ok(FaceRow { frames, ..known.face })
        };
        known.into_iter().map(with_frames).collect()
    }

    /// All known faces, by chain and order of first sight, without the frames they were seen in: of one person these may be a million.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub fn known(&self, chain: Option<&Name>) -> Result<Vec<Known>, StoreError> {
        self.read(|connection| {
            let query = "SELECT p.face, c.camera, c.name, p.first_seen_ms, c.id, p.number,
                coalesce((SELECT length(jpeg) FROM thumbnail t WHERE t.face = p.face), 0)
                FROM person p JOIN chain c ON c.id = p.chain WHERE ?1 IS NULL OR c.name = ?1 ORDER BY c.name, p.number";
            let mut statement = connection.prepare(query)?;
            // Each sighting counts those before it.
            let last_query = "SELECT frames, last_seen_ms FROM sighting WHERE chain = ?1 AND person = ?2 ORDER BY sequence DESC LIMIT 1";
            let mut last = connection.prepare(last_query)?;
            let known = statement.query_map([chain.map(Name::as_str)], |row| {
                let key: (i64, i64) = (row.get(4)?, row.get(5)?);
                let (frames, last_seen_ms) = last.query_row(key, |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)))?;
                let face = FaceRow {
                    face: row.get(0)?,
                    name: String::new(),
                    camera: row.get(1)?,
                    chain: row.get(2)?,
                    first_seen_ms: unsigned(row, 3)?,
                    last_seen_ms,
                    frames: Vec::new(),
                    thumbnail_bytes: unsigned(row, 6)?,
                };
                Ok(Known { face, frames, key })
            })?;
            known.collect()
        })
    }

    /// The first `max` frames that somebody was seen in.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub fn frames_of(&self, known: &Known, max: usize) -> Result<Vec<FrameRow>, StoreError> {
        self.read(|connection| {
            let query = "SELECT sequence, label FROM sighting WHERE chain = ?1 AND person = ?2 GROUP BY sequence ORDER BY sequence LIMIT ?3";
            let mut statement = connection.prepare_cached(query)?;
            let max = i64::try_from(max).unwrap_or(i64::MAX);
            let frames = statement.query_map((known.key.0, known.key.1, max), |row| {
                Ok(FrameRow { sequence: unsigned(row, 0)?, label: row.get(1)? })
            })?;
            frames.collect()
        })
    }
}
