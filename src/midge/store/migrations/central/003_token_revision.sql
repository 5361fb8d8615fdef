-- Counts every end of tokens, so that whoever remembers tokens sees that some have ended.

CREATE TABLE revisions (
    name  TEXT    PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;

INSERT INTO revisions(name, value) VALUES('tokens', 0);
