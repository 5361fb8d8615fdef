-- What one host owns: its machines, their versions and events, and the operations under way.

CREATE TABLE machines (
  id            TEXT PRIMARY KEY,
  app           TEXT NOT NULL,
  name          TEXT NOT NULL,
  region        TEXT NOT NULL,
  state         TEXT NOT NULL,
  version       TEXT NOT NULL,
  config        BLOB NOT NULL,            -- JSON, defaults filled in, unknown members kept
  image_ref     TEXT NOT NULL,            -- JSON {registry, repository, tag, digest, labels}
  image_config  TEXT NOT NULL,            -- JSON {entrypoint, cmd, env, working_dir, user}
  ipv4          TEXT UNIQUE,              -- NULL once destroyed
  mac           TEXT NOT NULL,
  created_at_ns INTEGER NOT NULL,
  updated_at_ns INTEGER NOT NULL,
  cordoned      INTEGER NOT NULL DEFAULT 0,
  seq           INTEGER NOT NULL,
  handle        TEXT,                     -- JSON of drivers.base.Handle while something runs
  snapshot      TEXT,                     -- JSON of the driver's snapshot record while suspended
  lease         TEXT,                     -- JSON {nonce, owner, expires_at_ns, description}
  retries_s     TEXT NOT NULL DEFAULT '[]', -- when the restart policy restarted it, seconds since 1970
  destroyed_at_ns INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX machines_by_app ON machines(app, id);

CREATE TABLE versions (
  machine_id TEXT NOT NULL REFERENCES machines(id) ON DELETE CASCADE,
  version    TEXT NOT NULL,
  config     BLOB NOT NULL,
  PRIMARY KEY (machine_id, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
  machine_id TEXT NOT NULL REFERENCES machines(id) ON DELETE CASCADE,
  id         TEXT NOT NULL,               -- ULID: the order of the events
  type       TEXT NOT NULL,
  status     TEXT NOT NULL,
  source     TEXT NOT NULL,
  at_ms      INTEGER NOT NULL,
  request    TEXT,
  PRIMARY KEY (machine_id, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE operations (
  id             TEXT PRIMARY KEY,        -- ULID
  subject        TEXT NOT NULL,
  kind           TEXT NOT NULL,
  input          TEXT NOT NULL,
  step           TEXT NOT NULL,           -- the step whose intent is written
  outputs        TEXT NOT NULL,           -- JSON {step: output}
  state          TEXT NOT NULL,           -- running | done | failed | superseded
  error          TEXT,
  phases         TEXT,                    -- JSON [[name, ms], …]
  started_at_ns  INTEGER NOT NULL,
  finished_at_ns INTEGER
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX operations_one_running ON operations(subject) WHERE state = 'running';
CREATE INDEX operations_by_subject ON operations(subject, id);
