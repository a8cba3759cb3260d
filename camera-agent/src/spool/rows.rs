//! The spool's rows in and out.

use microlambda::{Digest, DigestBuilder};
use microlambda_wire::{Areas, Record};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{FREE_RECORDS_MAX, GAP, INPUTS_PAGE, Input, SpoolError, Stored};

/// SQLite's integers are signed; ours stay far below 2^63, and one that does not is refused.
pub(super) fn integer(number: u64) -> rusqlite::Result<i64> {
    i64::try_from(number).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// A column that this program only ever fills with numbers from 0 up; any other is damage.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

/// As [`unsigned`]; `None` for NULL.
pub(super) fn unsigned_if_any(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    row.get::<_, Option<i64>>(column)?.map(|_| unsigned(row, column)).transpose()
}

/// A column that holds the 32 bytes of a digest; any other length is damage.
pub(super) fn digest_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    row.get(column).map(Digest)
}

pub(super) fn insert(db: &Connection, sequence: u64, record: &Record, frame_bytes: u64) -> Result<(), SpoolError> {
    let (kind, captured_at_ms, digest, label, moved) = match record {
        Record::Frame { captured_at_ms, digest, label, moved } => {
            ("frame", *captured_at_ms, digest.0.to_vec(), label.as_str(), moved.as_ref())
        }
        Record::Gap { .. } => ("gap", 0, Vec::new(), "", None),
        Record::End { manifest, .. } => ("end", 0, manifest.0.to_vec(), "", None),
        Record::Restart { .. } => ("restart", 0, Vec::new(), "", None),
    };
    let generation = if let Record::Restart { generation, .. } = record { *generation } else { 0 };
    db.prepare_cached(
        "INSERT INTO record (sequence, kind, span, captured_at_ms, digest, label, frame_bytes, seal, generation, moved)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        integer(sequence)?,
        kind,
        integer(record.span())?,
        integer(captured_at_ms)?,
        digest,
        label,
        integer(frame_bytes)?,
        seal(sequence, record, frame_bytes).0.as_slice(),
        generation,
        moved.map(Areas::canonical_bytes)
    ])?;
    Ok(())
}

/// The digest of a record in its place.
fn seal(sequence: u64, record: &Record, frame_bytes: u64) -> Digest {
    let digest = DigestBuilder::new("spool record").number(sequence).field(&record.canonical_bytes());
    digest.number(frame_bytes).finish()
}

/// What [`sealed`] reads of the table `record`; anything else that is selected stands behind it.
pub(super) const RECORD_COLUMNS: &str =
    "record.sequence, kind, span, captured_at_ms, digest, label, frame_bytes, generation, moved, seal";
/// Where, of these, the length of a frame in bytes stands.
pub(super) const FRAME_BYTES_AT: usize = 6;
/// The place of the first column behind these.
pub(super) const BEHIND_RECORD: usize = 10;

/// The record in a row that begins with [`RECORD_COLUMNS`]; the seal must be that of the rest.
pub(super) fn sealed(row: &Row<'_>) -> Result<(u64, Record), SpoolError> {
    let sequence = unsigned(row, 0)?;
    let damaged = || SpoolError::damaged(format!("record {sequence}"));
    let record = match row.get_ref(1)?.as_str()? {
        "frame" => {
            let moved: Option<Vec<u8>> = row.get(8)?;
            let moved = moved.map(|bytes| Areas::from_canonical_bytes(&bytes)).transpose();
            let moved = moved.map_err(|_| damaged())?;
            Record::Frame { captured_at_ms: unsigned(row, 3)?, digest: digest_at(row, 4)?, label: row.get(5)?, moved }
        }
        "gap" => Record::Gap { count: unsigned(row, 2)?, reason: GAP },
        "end" => Record::End { count: sequence, manifest: digest_at(row, 4)? },
        "restart" => Record::Restart { count: unsigned(row, 2)?, generation: row.get(7)? },
        kind => return Err(SpoolError::damaged(format!("the kind {kind:?} of record {sequence}"))),
    };
    if digest_at(row, 9)? == seal(sequence, &record, unsigned(row, FRAME_BYTES_AT)?) {
        Ok((sequence, record))
    } else {
        Err(damaged())
    }
}

/// The oldest frame at or above `from`, with its bytes.
pub(super) fn oldest_frame_from(db: &Connection, from: u64) -> Result<Option<(u64, u64)>, SpoolError> {
    let found = db
        .prepare_cached(
            "SELECT sequence, frame_bytes FROM record WHERE sequence >= ?1 AND kind = 'frame' ORDER BY sequence LIMIT 1",
        )?
        .query_row(params![integer(from)?], |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)))
        .optional()?;
    Ok(found)
}

/// Replaces the frame `sequence` by a gap, or lengthens the gap that ends before it. A gap below the sent mark may have
/// been sent and is never changed.
pub(super) fn turn_into_gap(db: &Connection, sequence: u64, sent_mark: u64) -> Result<(), SpoolError> {
    let at = integer(sequence)?;
    db.prepare_cached("DELETE FROM frame WHERE sequence = ?1")?.execute(params![at])?;
    db.prepare_cached("DELETE FROM record WHERE sequence = ?1")?.execute(params![at])?;
    let before = db
        .prepare_cached(
            "SELECT sequence, span FROM record
             WHERE sequence = (SELECT max(sequence) FROM record WHERE sequence < ?1)
               AND kind = 'gap' AND sequence >= ?2 AND sequence + span = ?1",
        )?
        .query_row(params![at, integer(sent_mark)?], |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)))
        .optional()?;
    let Some((start, span)) = before else {
        return insert(db, sequence, &Record::Gap { count: 1, reason: GAP }, 0);
    };
    let gap = Record::Gap { count: span + 1, reason: GAP };
    db.prepare_cached("UPDATE record SET span = ?2, seal = ?3 WHERE sequence = ?1")?.execute(params![
        integer(start)?,
        integer(span + 1)?,
        seal(start, &gap, 0).0.as_slice()
    ])?;
    Ok(())
}

/// Forgets where something moved in the first frame at or above `from`, which was never sent: nobody knows what those before it showed.
pub(super) fn search_all_from(db: &Connection, from: u64) -> Result<(), SpoolError> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT {RECORD_COLUMNS} FROM record WHERE sequence >= ?1 AND kind = 'frame' ORDER BY sequence LIMIT 1"
    ))?;
    let mut rows = statement.query([integer(from)?])?;
    let Some(row) = rows.next()? else { return Ok(()) };
    let (sequence, Record::Frame { captured_at_ms, digest, label, moved: Some(_) }) = sealed(row)? else {
        return Ok(());
    };
    let frame = Record::Frame { captured_at_ms, digest, label, moved: None };
    let seal = seal(sequence, &frame, unsigned(row, FRAME_BYTES_AT)?);
    db.prepare_cached("UPDATE record SET moved = NULL, seal = ?2 WHERE sequence = ?1")?
        .execute(params![integer(sequence)?, seal.0.as_slice()])?;
    Ok(())
}

/// Writes a gap at `sequence` for frames that found no room, if there were any.
pub(super) fn insert_missed(db: &Connection, sequence: u64, missed: u64) -> Result<(), SpoolError> {
    match missed {
        0 => Ok(()),
        count => insert(db, sequence, &Record::Gap { count, reason: GAP }, 0),
    }
}

/// The record that covers `sequence`, with its picture; each is what its digest says.
pub(super) fn read(db: &Connection, sequence: u64) -> Result<Option<Stored>, SpoolError> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT {RECORD_COLUMNS}, jpeg FROM record LEFT JOIN frame USING (sequence)
         WHERE record.sequence = (SELECT max(sequence) FROM record WHERE sequence <= ?1) AND record.sequence + span > ?1"
    ))?;
    let mut rows = statement.query(params![integer(sequence)?])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let (sequence, record) = sealed(row)?;
    let jpeg: Option<Vec<u8>> = row.get(BEHIND_RECORD)?;
    let sound = match &record {
        Record::Frame { digest, .. } => jpeg.as_deref().is_some_and(|jpeg| Digest::of(jpeg) == *digest),
        Record::Gap { .. } | Record::End { .. } | Record::Restart { .. } => jpeg.is_none(),
    };
    if sound {
        Ok(Some(Stored { sequence, record, jpeg }))
    } else {
        Err(SpoolError::damaged(format!("frame {sequence}")))
    }
}

/// Deletes records that end at or before `below`; returns frames and their bytes.
pub(super) fn free(db: &Connection, below: u64) -> Result<(u64, u64), SpoolError> {
    let mut oldest = db.prepare_cached(
        "SELECT sequence, kind = 'frame', frame_bytes FROM record WHERE sequence + span <= ?1 ORDER BY sequence LIMIT ?2",
    )?;
    let freed = oldest
        .query_map(params![integer(below)?, integer(FREE_RECORDS_MAX)?], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?, unsigned(row, 2)?))
        })?
        .collect::<Result<Vec<_>, _>>()?;
    let mut totals = (0, 0);
    for (sequence, is_frame, bytes) in freed {
        db.prepare_cached("DELETE FROM frame WHERE sequence = ?1")?.execute(params![sequence])?;
        db.prepare_cached("DELETE FROM record WHERE sequence = ?1")?.execute(params![sequence])?;
        totals = (totals.0 + u64::from(is_frame), totals.1 + bytes);
    }
    Ok(totals)
}

pub(super) fn insert_input(db: &Connection, input: &Input, spooled: bool) -> Result<(), SpoolError> {
    db.prepare_cached(
        "INSERT INTO input (position, label, digest, modified_at_ms, input_bytes, spooled)
         VALUES ((SELECT coalesce(max(position) + 1, 0) FROM input), ?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        input.label,
        input.digest.0.as_slice(),
        integer(input.modified_at_ms)?,
        integer(input.input_bytes)?,
        spooled
    ])?;
    Ok(())
}

pub(super) fn inputs(db: &Connection, from: u64) -> Result<Vec<(Input, bool)>, SpoolError> {
    let mut rows = db.prepare_cached(
        "SELECT label, digest, modified_at_ms, input_bytes, spooled FROM input WHERE position >= ?1 ORDER BY position LIMIT ?2",
    )?;
    let inputs = rows
        .query_map(params![integer(from)?, integer(INPUTS_PAGE as u64)?], |row| {
            let input = Input {
                label: row.get(0)?,
                digest: digest_at(row, 1)?,
                modified_at_ms: unsigned(row, 2)?,
                input_bytes: unsigned(row, 3)?,
            };
            Ok((input, row.get(4)?))
        })?
        .collect::<Result<Vec<_>, _>>()?;
    Ok(inputs)
}
