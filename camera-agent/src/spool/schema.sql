-- The camera's spool, version 2: every record of one chain from the oldest one still held to the newest.
-- Sequence numbers and the marks below only ever grow. All times are ms since 1970.

-- One row: the chain and its marks.
CREATE TABLE spool (
    id             INTEGER PRIMARY KEY CHECK (id = 1),
    chain          TEXT    NOT NULL,  -- <camera>-<8 random hexadecimal digits>, drawn when the spool was made
    camera         TEXT    NOT NULL,
    class          TEXT    NOT NULL CHECK (class IN ('live', 'batch')),
    source         TEXT    NOT NULL,  -- what a finite input is read from; a batch chain has one source for life
    created_at_ms  INTEGER NOT NULL,
    next           INTEGER NOT NULL,  -- the number of the next record; a number below was used and is never used again
    sent_mark      INTEGER NOT NULL,  -- records below may have been sent: they are never turned into a gap
    manifest       BLOB    NOT NULL,  -- running digest over the digests of all frames so far
    generation     INTEGER NOT NULL,  -- of the newest restart; 0 before the first
    end_count      INTEGER,           -- set once a finite input has ended: records before the end record
    seal           BLOB    NOT NULL   -- digest of all of the above: a mark that was damaged must not pass for one
) STRICT;

-- One row per record. A gap and a restart cover `span` numbers from their own on; all others cover one.
CREATE TABLE record (
    sequence       INTEGER PRIMARY KEY,
    kind           TEXT    NOT NULL CHECK (kind IN ('frame', 'gap', 'end', 'restart')),
    span           INTEGER NOT NULL CHECK (span >= 1),
    captured_at_ms INTEGER NOT NULL,  -- 0 unless a frame
    digest         BLOB    NOT NULL,  -- SHA-256 of a frame's JPEG; of the manifest for the end; else empty
    label          TEXT    NOT NULL,
    moved          BLOB,              -- where something moved in a frame: 8 bytes an area; NULL if all of it is to be searched
    frame_bytes    INTEGER NOT NULL,  -- 0 unless a frame
    generation     INTEGER NOT NULL,  -- 0 unless a restart
    seal           BLOB    NOT NULL   -- digest of number, content and frame_bytes
) STRICT;

-- The pictures, apart from the records so that going through the records does not read them.
CREATE TABLE frame (
    sequence INTEGER PRIMARY KEY REFERENCES record (sequence),
    jpeg     BLOB NOT NULL
) STRICT;

-- What a finite input has given so far, in order, so that a restart goes on where it was.
CREATE TABLE input (
    position       INTEGER PRIMARY KEY,  -- 0, 1, 2, …
    label          TEXT    NOT NULL,     -- a file's name
    digest         BLOB    NOT NULL,     -- SHA-256 of the input as read, before anything was done to it
    modified_at_ms INTEGER NOT NULL,     -- a file's modification time; 0 otherwise
    input_bytes    INTEGER NOT NULL,
    spooled        INTEGER NOT NULL CHECK (spooled IN (0, 1))  -- 0: passed over, for it can be no picture
) STRICT;
