//! The spool's rows in and out.

use microlambda::Digest;
use microlambda_wire::Record;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{FREE_RECORDS_MAX, GAP, Input, SpoolError, Stored};

/// SQLite's integers are signed; ours stay far below 2^63.
pub(super) fn sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Back again.
pub(super) fn number(sql: i64) -> u64 {
    u64::try_from(sql).unwrap_or(0)
}

pub(super) fn digest_of(bytes: &[u8]) -> Digest {
    <[u8; 32]>::try_from(bytes).map(Digest).unwrap_or_default()
}

pub(super) fn insert(db: &Connection, sequence: u64, record: &Record, frame_bytes: u64) -> Result<(), SpoolError> {
    let (kind, captured_at_ms, digest, label) = match record {
        Record::Frame { captured_at_ms, digest, label } => {
            ("frame", *captured_at_ms, digest.0.to_vec(), label.as_str())
        }
        Record::Gap { .. } => ("gap", 0, Vec::new(), ""),
        Record::End { manifest, .. } => ("end", 0, manifest.0.to_vec(), ""),
    };
    db.prepare_cached(
        "INSERT INTO record (sequence, kind, span, captured_at_ms, digest, label, frame_bytes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        sql(sequence),
        kind,
        sql(record.span()),
        sql(captured_at_ms),
        digest,
        label,
        sql(frame_bytes)
    ])?;
    Ok(())
}

/// The oldest frame at or above `from`, with its bytes.
pub(super) fn oldest_frame_from(db: &Connection, from: u64) -> Result<Option<(u64, u64)>, SpoolError> {
    let found = db
        .prepare_cached(
            "SELECT sequence, frame_bytes FROM record WHERE sequence >= ?1 AND kind = 'frame' ORDER BY sequence LIMIT 1",
        )?
        .query_row(params![sql(from)], |row| Ok((number(row.get(0)?), number(row.get(1)?))))
        .optional()?;
    Ok(found)
}

/// Replaces the frame `sequence` by a gap, or lengthens the gap that ends before it. A gap below the sent mark may have
/// been sent and is never changed.
pub(super) fn turn_into_gap(db: &Connection, sequence: u64, sent_mark: u64) -> Result<(), SpoolError> {
    db.prepare_cached("DELETE FROM frame WHERE sequence = ?1")?.execute(params![sql(sequence)])?;
    db.prepare_cached("DELETE FROM record WHERE sequence = ?1")?.execute(params![sql(sequence)])?;
    let lengthened = db
        .prepare_cached(
            "UPDATE record SET span = span + 1
             WHERE sequence = (SELECT max(sequence) FROM record WHERE sequence < ?1)
               AND kind = 'gap' AND sequence >= ?2 AND sequence + span = ?1",
        )?
        .execute(params![sql(sequence), sql(sent_mark)])?;
    if lengthened == 0 {
        insert(db, sequence, &Record::Gap { count: 1, reason: GAP }, 0)?;
    }
    Ok(())
}

/// Writes a gap at `sequence` for frames that found no room, if there were any.
pub(super) fn insert_missed(db: &Connection, sequence: u64, missed: u64) -> Result<(), SpoolError> {
    match missed {
        0 => Ok(()),
        count => insert(db, sequence, &Record::Gap { count, reason: GAP }, 0),
    }
}

/// The record that covers `sequence`.
pub(super) fn read(db: &Connection, sequence: u64) -> Result<Option<Stored>, SpoolError> {
    let stored = db
        .prepare_cached(
            "SELECT record.sequence, kind, span, captured_at_ms, digest, label, jpeg
             FROM record LEFT JOIN frame USING (sequence)
             WHERE record.sequence = (SELECT max(sequence) FROM record WHERE sequence <= ?1) AND record.sequence + span > ?1",
        )?
        .query_row(params![sql(sequence)], stored_of)
        .optional()?;
    Ok(stored)
}

fn stored_of(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let sequence = number(row.get(0)?);
    let digest = digest_of(row.get_ref(4)?.as_blob()?);
    let record = match row.get_ref(1)?.as_str()? {
        "gap" => Record::Gap { count: number(row.get(2)?), reason: GAP },
        "end" => Record::End { count: sequence, manifest: digest },
        _frame => Record::Frame { captured_at_ms: number(row.get(3)?), digest, label: row.get(5)? },
    };
    Ok(Stored { sequence, record, jpeg: row.get(6)? })
}

/// Deletes records that end at or before `below`; returns frames and their bytes.
pub(super) fn free(db: &Connection, below: u64) -> Result<(u64, u64), SpoolError> {
    let mut oldest = db.prepare_cached(
        "SELECT sequence, kind = 'frame', frame_bytes FROM record WHERE sequence + span <= ?1 ORDER BY sequence LIMIT ?2",
    )?;
    let freed = oldest
        .query_map(params![sql(below), sql(FREE_RECORDS_MAX)], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?, number(row.get(2)?)))
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
        sql(input.modified_at_ms),
        sql(input.input_bytes),
        spooled
    ])?;
    Ok(())
}

pub(super) fn inputs(db: &Connection) -> Result<Vec<(Input, bool)>, SpoolError> {
    let mut rows =
        db.prepare("SELECT label, digest, modified_at_ms, input_bytes, spooled FROM input ORDER BY position")?;
    let inputs = rows
        .query_map([], |row| {
            let input = Input {
                label: row.get(0)?,
                digest: digest_of(row.get_ref(1)?.as_blob()?),
                modified_at_ms: number(row.get(2)?),
                input_bytes: number(row.get(3)?),
            };
            Ok((input, row.get(4)?))
        })?
        .collect::<Result<Vec<_>, _>>()?;
    Ok(inputs)
}
