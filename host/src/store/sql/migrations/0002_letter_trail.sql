-- What was done to a dead letter, by whom and why. Rows are added and never changed.
CREATE TABLE letter_trail (
    seq        {serial},
    letter     {key}   NOT NULL,
    at_ms      BIGINT  NOT NULL,
    actor      TEXT    NOT NULL,
    action     TEXT    NOT NULL,
    from_state TEXT    NOT NULL,
    to_state   TEXT    NOT NULL,
    reason     TEXT
);
CREATE INDEX letter_trail_of ON letter_trail (letter, seq);

-- How often the message that failed last had been sent again.
ALTER TABLE dead_letters ADD COLUMN reprocessed BIGINT NOT NULL DEFAULT 0;
-- How many of the attempts are of earlier lives.
ALTER TABLE dead_letters ADD COLUMN earlier BIGINT NOT NULL DEFAULT 0;
-- Who holds it while it is `retrying`, and until when.
ALTER TABLE dead_letters ADD COLUMN holder TEXT;
ALTER TABLE dead_letters ADD COLUMN lease_until_ms BIGINT;
CREATE INDEX dead_letters_leased ON dead_letters (lease_until_ms) WHERE state = 'retrying';
