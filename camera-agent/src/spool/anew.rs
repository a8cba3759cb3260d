//! A live spool that was set back to an older copy, and begins a new chain.

use rusqlite::{TransactionBehavior, params};

use super::recover::{Marks, write_marks};
use super::rows::{self, FRAME_BYTES_AT, RECORD_COLUMNS, digest_at, integer, unsigned, unsigned_if_any};
use super::{Spool, SpoolError, empty_manifest, next_manifest};

impl Spool {
    /// Begins a new chain with what was recorded since this spool was opened: these numbers had been used before for other
    /// pictures. What is older was the old chain's, which no longer can be continued.
    ///
    /// # Errors
    /// [`SpoolError`]; then nothing has changed.
    pub fn begin_anew(&mut self) -> Result<(), SpoolError> {
        let chain = super::open::draw_chain(&self.camera)?;
        let (next, opened_at) = (self.view.next, self.opened_at);
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // A gap may reach over the mark; what it stands for was never held.
        let query = "SELECT min(sequence) FROM record WHERE sequence >= ?1";
        let first = transaction.query_row(query, params![integer(opened_at)?], |row| unsigned_if_any(row, 0))?;
        let first = first.unwrap_or(next);
        let first_row = integer(first)?;
        let records = {
            let mut statement = transaction
                .prepare(&format!("SELECT {RECORD_COLUMNS} FROM record WHERE sequence >= ?1 ORDER BY sequence"))?;
            let mut found = statement.query(params![first_row])?;
            let mut records = Vec::new();
            while let Some(row) = found.next()? {
                let (sequence, record) = rows::sealed(row)?;
                records.push((sequence - first, record, unsigned(row, FRAME_BYTES_AT)?));
            }
            records
        };
        transaction.execute("DELETE FROM frame WHERE sequence < ?1", params![first_row])?;
        // Below zero first: so no row ever gets the number of one that is still to be moved.
        transaction.execute("UPDATE frame SET sequence = ?1 - 1 - sequence", params![first_row])?;
        transaction.execute("UPDATE frame SET sequence = -1 - sequence", [])?;
        transaction.execute("DELETE FROM record", [])?;
        for (sequence, record, frame_bytes) in &records {
            rows::insert(&transaction, *sequence, record, *frame_bytes)?;
        }
        // What the frames before it showed is not in this chain.
        rows::search_all_from(&transaction, 0)?;
        let mut manifest = empty_manifest();
        {
            let mut digests =
                transaction.prepare("SELECT digest FROM record WHERE kind = 'frame' ORDER BY sequence")?;
            for digest in digests.query_map([], |row| digest_at(row, 0))? {
                manifest = next_manifest(manifest, digest?);
            }
        }
        let (frames, bytes) = transaction.query_row(
            "SELECT count(*), coalesce(sum(frame_bytes), 0) FROM record WHERE kind = 'frame'",
            [],
            |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)),
        )?;
        let identity = super::open::rename_chain(&transaction, &chain)?;
        let marks = Marks { next: next - first, sent_mark: 0, manifest, end_count: None, generation: self.generation };
        write_marks(&transaction, identity, &marks)?;
        transaction.commit()?;
        self.identity = identity;
        self.view.chain = chain;
        self.view.next = next - first;
        (self.view.frames, self.view.bytes) = (frames, bytes);
        (self.manifest, self.sent_mark, self.last_read, self.opened_at) = (manifest, 0, None, 0);
        self.refresh_oldest()
    }
}
