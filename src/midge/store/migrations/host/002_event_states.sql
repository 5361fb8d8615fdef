-- What the machine was from an event on, for `wait` from an event: an event's own status is not a state
-- (a suspend that failed leaves the machine started). NULL: from before this migration.

ALTER TABLE events ADD COLUMN state TEXT;
ALTER TABLE events ADD COLUMN version TEXT;
ALTER TABLE events ADD COLUMN seq INTEGER;
