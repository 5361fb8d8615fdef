-- A record whose host has not said yet that it has the machine. NULL: it has. Records from before are confirmed ones.

ALTER TABLE machines ADD COLUMN reserved_until_ms INTEGER;
