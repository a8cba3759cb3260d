-- One edge node's durable state. WAL with synchronous=FULL: what is published was synced before.
-- Times are ms since 1970, digests 32 bytes, sequence numbers the camera's.

-- A chain this node takes part in.
CREATE TABLE chain (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  camera TEXT NOT NULL,
  batch INTEGER NOT NULL,               -- 0 live, 1 batch
  lambda BLOB NOT NULL,                 -- digest of the lambda and its parameters
  generation INTEGER NOT NULL,          -- of the boundary
  boundary_sequence INTEGER NOT NULL,   -- all records below it are folded
  boundary_digest BLOB NOT NULL,
  boundary_set_aside INTEGER NOT NULL,
  partial BLOB,                         -- state inside record boundary_sequence, if begun
  head_unit INTEGER NOT NULL,           -- the head: the boundary, or the state inside the record behind it
  head_digest BLOB NOT NULL,
  head_set_aside INTEGER NOT NULL,
  holder TEXT,                          -- node that made the head
  done INTEGER NOT NULL,                -- 1 once the end is folded
  identity BLOB NOT NULL                -- digest of name, camera, batch and lambda: no record's digest covers these
) STRICT;

-- Records with their recorded analyses, and the state each leads to.
CREATE TABLE entry (
  chain INTEGER NOT NULL REFERENCES chain(id),
  sequence INTEGER NOT NULL,
  next_sequence INTEGER NOT NULL,
  body BLOB NOT NULL,                   -- faces::content::Entry
  digest BLOB NOT NULL,                 -- state after it
  generation INTEGER NOT NULL,          -- of the state after it
  set_aside INTEGER NOT NULL,           -- of the state after it
  frames INTEGER NOT NULL,              -- sums over all records up to it, for people: never part of a state
  unreadable INTEGER NOT NULL,
  faces_seen INTEGER NOT NULL,
  PRIMARY KEY (chain, sequence)
) STRICT, WITHOUT ROWID;

-- Everybody ever seen: rows are only added, each by one record, so that a suffix can be taken back. The gallery is the 4096 seen last of them.
CREATE TABLE person (
  chain INTEGER NOT NULL REFERENCES chain(id),
  number INTEGER NOT NULL,              -- order of first sight, from 0
  face TEXT NOT NULL,                   -- id of the first event
  first_sequence INTEGER NOT NULL,
  first_face_index INTEGER NOT NULL,
  first_seen_ms INTEGER NOT NULL,
  PRIMARY KEY (chain, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE exemplar (
  chain INTEGER NOT NULL REFERENCES chain(id),
  person INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  face_index INTEGER NOT NULL,
  encoding BLOB NOT NULL,               -- 128 little-endian f32
  PRIMARY KEY (chain, person, sequence, face_index)
) STRICT, WITHOUT ROWID;

CREATE TABLE sighting (
  chain INTEGER NOT NULL REFERENCES chain(id),
  sequence INTEGER NOT NULL,
  face_index INTEGER NOT NULL,
  person INTEGER NOT NULL,
  distance REAL NOT NULL,
  captured_at_ms INTEGER NOT NULL,
  frames INTEGER NOT NULL,              -- that the person was seen in by then, this one counted
  last_seen_ms INTEGER NOT NULL,        -- when the person was seen last by then: frames may be out of the order of their times
  label TEXT NOT NULL,
  PRIMARY KEY (chain, sequence, face_index)
) STRICT, WITHOUT ROWID;
CREATE INDEX sighting_by_person ON sighting (chain, person, sequence);

-- For people only: never part of a state.
CREATE TABLE thumbnail (
  face TEXT PRIMARY KEY,
  jpeg BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Everything that is reported, under its deterministic id.
CREATE TABLE event (
  id TEXT PRIMARY KEY,
  chain INTEGER NOT NULL REFERENCES chain(id),
  sequence INTEGER NOT NULL,
  face_index INTEGER NOT NULL,
  kind TEXT NOT NULL,                   -- new-face, recognised
  face TEXT NOT NULL,
  captured_at_ms INTEGER NOT NULL,
  label TEXT NOT NULL,
  on_bus INTEGER NOT NULL,              -- 1 once it was seen on the bus
  superseded INTEGER NOT NULL           -- 1 if its fork lost
) STRICT, WITHOUT ROWID;
CREATE INDEX event_not_on_bus ON event (on_bus) WHERE on_bus = 0 AND superseded = 0;

-- The start that was made durable before it happened; gone once its step's result is committed.
CREATE TABLE attempt (
  chain INTEGER PRIMARY KEY REFERENCES chain(id),
  digest BLOB NOT NULL,                 -- of the state it starts from
  epoch INTEGER NOT NULL,
  one_unit INTEGER NOT NULL
) STRICT;

-- Units that failed on this node, at the head.
CREATE TABLE failure (
  chain INTEGER PRIMARY KEY REFERENCES chain(id),
  digest BLOB NOT NULL,                 -- of the state whose next unit failed
  times INTEGER NOT NULL,
  why TEXT NOT NULL
) STRICT;
