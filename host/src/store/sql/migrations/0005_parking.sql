-- The letter that a row waits for: it failed for good, and its lane waits behind it. Never due while it is set.
ALTER TABLE parked ADD COLUMN held {key};
ALTER TABLE parked ADD COLUMN held_ms BIGINT;
CREATE INDEX parked_held ON parked (held) WHERE held IS NOT NULL;
