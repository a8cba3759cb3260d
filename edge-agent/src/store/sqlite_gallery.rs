//! SQLite as a store: the people of a chain as they were at a record boundary.

use std::sync::Arc;

use microlambda_faces::FaceAt;
use microlambda_faces::fold::{Exemplar, Gallery, PEOPLE_MAX, Person};
use microlambda_faces::recent::{RECENT_FRAMES_MAX, Recent, Seen};
use microlambda_wire::Name;
use rusqlite::params;

use super::StoreError;
use super::sqlite::{SqliteStore, chain_id, integer};
use super::sqlite_read::{encoding, unsigned};

impl SqliteStore {
    /// The gallery at a record boundary: who was seen last of all that were seen before it.
    pub(super) fn read_gallery(&self, chain: &Name, sequence: u64) -> Result<Gallery, StoreError> {
        let (bound, count, ever, people) = self.read(|connection| {
            let (id, bound) = (chain_id(connection, chain)?, integer(sequence)?);
            let query =
                "SELECT count(*), coalesce(max(number) + 1, 0) FROM person WHERE chain = ?1 AND first_sequence < ?2";
            let mut statement = connection.prepare_cached(query)?;
            let (count, ever) = statement.query_row([id, bound], |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)))?;
            Ok((bound, count, ever, self.read_known(id, bound)?))
        })?;
        let ever = usize::try_from(ever).ok().filter(|_| count == ever);
        match (ever, people) {
            (Some(ever), Some(people)) => Ok(Gallery { people, ever, recent: self.read_recent(chain, bound)? }),
            _ => Err(self.damaged(format!("the gallery of chain {chain}"))),
        }
    }

    /// People of a gallery; `None` if an encoding is none, or somebody has none. However many were ever seen, only of those known is more read than when.
    fn read_known(&self, chain_id: i64, bound: i64) -> rusqlite::Result<Option<Vec<Arc<Person>>>> {
        let query = "SELECT number, last FROM (SELECT p.number, (SELECT max(sequence) FROM sighting s
             WHERE s.chain = p.chain AND s.person = p.number AND s.sequence < ?2) AS last
            FROM person p WHERE p.chain = ?1 AND p.first_sequence < ?2 ORDER BY last DESC, p.number DESC LIMIT ?3) ORDER BY number";
        let mut statement = self.connection.prepare_cached(query)?;
        let known = statement
            .query_map([chain_id, bound, PEOPLE_MAX as i64], |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)))?;
        let known = known.collect::<rusqlite::Result<Vec<_>>>()?;
        let mut people = Vec::with_capacity(known.len());
        for (number, last_sequence) in known {
            let mut person = self.read_person(chain_id, number, last_sequence)?;
            let query =
                "SELECT sequence, face_index, encoding FROM exemplar WHERE chain = ?1 AND person = ?2 AND sequence < ?3
                ORDER BY sequence, face_index";
            let mut statement = self.connection.prepare_cached(query)?;
            let mut rows = statement.query(params![chain_id, integer(number)?, bound])?;
            while let Some(row) = rows.next()? {
                let Some(encoding) = encoding(&row.get::<_, Vec<u8>>(2)?) else { return Ok(None) };
                let at = FaceAt { sequence: unsigned(row, 0)?, face_index: row.get(1)? };
                person.exemplars.push(Exemplar { at, encoding });
            }
            if person.exemplars.is_empty() {
                return Ok(None);
            }
            people.push(Arc::new(person));
        }
        Ok(Some(people))
    }

    /// A person without the encodings, as they were when last seen.
    fn read_person(&self, chain_id: i64, number: u64, last_sequence: u64) -> rusqlite::Result<Person> {
        let query = "SELECT p.first_sequence, p.first_face_index, p.first_seen_ms, s.last_seen_ms, s.frames
            FROM person p JOIN sighting s ON s.chain = p.chain AND s.person = p.number AND s.sequence = ?3
            WHERE p.chain = ?1 AND p.number = ?2 LIMIT 1";
        let mut statement = self.connection.prepare_cached(query)?;
        statement.query_row(params![chain_id, integer(number)?, integer(last_sequence)?], |row| {
            Ok(Person {
                number: usize::try_from(number).unwrap_or(usize::MAX),
                first: FaceAt { sequence: unsigned(row, 0)?, face_index: row.get(1)? },
                first_seen_ms: unsigned(row, 2)?,
                last_seen_ms: unsigned(row, 3)?,
                last_sequence,
                frames: unsigned(row, 4)?,
                exemplars: Vec::new(),
            })
        })
    }

    /// What the last records below `bound` showed.
    fn read_recent(&self, chain: &Name, bound: i64) -> Result<Recent, StoreError> {
        let read = self.read(|connection| {
            let id = chain_id(connection, chain)?;
            let query =
                "SELECT sequence, body FROM entry WHERE chain = ?1 AND sequence < ?2 ORDER BY sequence DESC LIMIT ?3";
            let mut statement = connection.prepare_cached(query)?;
            let records = statement.query_map(params![id, bound, RECENT_FRAMES_MAX as i64], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
            })?;
            let records = records.collect::<rusqlite::Result<Vec<_>>>()?;
            let query = "SELECT face_index, person, distance FROM sighting WHERE chain = ?1 AND sequence = ?2 ORDER BY face_index";
            let mut statement = connection.prepare_cached(query)?;
            let mut recent = Vec::new();
            for (sequence, body) in records.into_iter().rev() {
                let seen = statement.query_map(params![id, sequence], |row| {
                    Ok(Seen { face_index: row.get(0)?, person: unsigned(row, 1)? as usize, distance: row.get(2)? })
                })?;
                recent.push((body, seen.collect::<rusqlite::Result<Vec<_>>>()?));
            }
            Ok(recent)
        })?;
        let mut recent = Recent::default();
        for (body, seen) in read {
            recent.push(&self.entry_of(chain, &body)?, &seen);
        }
        Ok(recent)
    }
}
