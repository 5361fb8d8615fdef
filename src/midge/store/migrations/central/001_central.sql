-- What the api alone writes: who may do what, and which host owns which machine.

CREATE TABLE organizations (
    numeric_id INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT    NOT NULL UNIQUE,
    slug       TEXT    NOT NULL UNIQUE,
    name       TEXT    NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE apps (
    numeric_id      INTEGER PRIMARY KEY AUTOINCREMENT,
    id              TEXT    NOT NULL UNIQUE,
    name            TEXT    NOT NULL UNIQUE,             -- one namespace for all organizations
    org_id          INTEGER NOT NULL REFERENCES organizations (numeric_id),
    network         TEXT    NOT NULL,
    role            TEXT    NOT NULL DEFAULT '',
    created_ms      INTEGER NOT NULL,
    idempotency_key TEXT,
    deleting        INTEGER NOT NULL DEFAULT 0           -- its machines are being destroyed; the row goes last
) STRICT;

CREATE UNIQUE INDEX apps_idempotency ON apps (org_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX apps_org ON apps (org_id, name);

CREATE TABLE tokens (
    id         TEXT    PRIMARY KEY,                      -- the public half, part of the token
    hash       BLOB    NOT NULL,                         -- SHA-256 of the secret half
    name       TEXT    NOT NULL,
    org_id     INTEGER REFERENCES organizations (numeric_id),   -- NULL: every organization
    app_id     TEXT    REFERENCES apps (id) ON DELETE CASCADE,  -- NULL: every app of the organization
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    revoked_ms INTEGER
) STRICT;

-- Written before the host is asked (the intent), completed with the digest once the host has the machine.
CREATE TABLE machines (
    id         TEXT    PRIMARY KEY,
    app_id     TEXT    NOT NULL REFERENCES apps (id),
    name       TEXT    NOT NULL,
    region     TEXT    NOT NULL,
    host       TEXT    NOT NULL,
    digest     TEXT    NOT NULL DEFAULT '',
    created_ms INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX machines_name ON machines (app_id, name);
