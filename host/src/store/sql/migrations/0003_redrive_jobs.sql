-- Letters that failed alike. Ids are hashes (model/fingerprint.rs); `failure` is the hash without the plugin version.
CREATE TABLE letter_groups (
    id       {key}  PRIMARY KEY NOT NULL,
    failure  {key}  NOT NULL,
    route    TEXT,
    class    TEXT   NOT NULL,
    code     TEXT,
    digest   TEXT,
    -- NULL: letters from before this table, whose messages were not compared.
    message  TEXT,
    first_ms BIGINT NOT NULL,
    last_ms  BIGINT NOT NULL
);
CREATE INDEX letter_groups_failure ON letter_groups (failure, first_ms);

-- How many letters there are of a kind, changed with each of them: counting a million takes too long. Types longer than
-- 200 characters are counted as '*', none as ''.
CREATE TABLE letter_counts (
    grp          {key}  NOT NULL,
    destination  {key}  NOT NULL,
    message_type {key}  NOT NULL,
    state        {key}  NOT NULL,
    letters      BIGINT NOT NULL,
    PRIMARY KEY (grp, destination, message_type, state)
);

ALTER TABLE dead_letters ADD COLUMN grp {key};

INSERT INTO letter_groups (id, failure, route, class, code, digest, message, first_ms, last_ms)
    SELECT 'old-' || MIN(id), 'old-' || MIN(id), route, class, code, digest, NULL, MIN(first_failure_ms), MAX(last_failure_ms)
    FROM dead_letters GROUP BY route, class, code, digest;
UPDATE dead_letters SET grp = (
    SELECT g.id FROM letter_groups g
    WHERE g.route IS NOT DISTINCT FROM dead_letters.route AND g.class = dead_letters.class
      AND g.code IS NOT DISTINCT FROM dead_letters.code AND g.digest IS NOT DISTINCT FROM dead_letters.digest);
INSERT INTO letter_counts (grp, destination, message_type, state, letters)
    SELECT grp, destination,
           CASE WHEN message_type IS NULL THEN '' WHEN LENGTH(message_type) > 200 THEN '*' ELSE message_type END,
           state, COUNT(*)
    FROM dead_letters GROUP BY 1, 2, 3, 4;

-- Lists begin with the newest, and what is asked for is mostly what is open: one small index for each thing to filter by.
CREATE INDEX dead_letters_open ON dead_letters (last_failure_ms, id)
    WHERE state NOT IN ('reprocessed', 'discarded');
CREATE INDEX dead_letters_open_route ON dead_letters (route, last_failure_ms)
    WHERE state NOT IN ('reprocessed', 'discarded');
CREATE INDEX dead_letters_open_type ON dead_letters (message_type, last_failure_ms)
    WHERE state NOT IN ('reprocessed', 'discarded');
CREATE INDEX dead_letters_open_class ON dead_letters (class, last_failure_ms)
    WHERE state NOT IN ('reprocessed', 'discarded');
CREATE INDEX dead_letters_open_destination ON dead_letters (destination, last_failure_ms)
    WHERE state NOT IN ('reprocessed', 'discarded');
CREATE INDEX dead_letters_open_digest ON dead_letters (digest, last_failure_ms)
    WHERE state NOT IN ('reprocessed', 'discarded');
CREATE INDEX dead_letters_open_group ON dead_letters (grp, last_failure_ms)
    WHERE state NOT IN ('reprocessed', 'discarded');
-- Counted by letter_counts now.
DROP INDEX dead_letters_depth;

-- Jobs that send letters again, or discard them.
CREATE TABLE redrive_jobs (
    seq            {serial},
    id             {key}   NOT NULL UNIQUE,
    action         TEXT    NOT NULL,
    filter         TEXT,
    rate           BIGINT,
    force          BIGINT  NOT NULL,
    reason         TEXT,
    actor          TEXT    NOT NULL,
    state          TEXT    NOT NULL,
    total          BIGINT  NOT NULL,
    done           BIGINT  NOT NULL DEFAULT 0,
    failed         BIGINT  NOT NULL DEFAULT 0,
    skipped        BIGINT  NOT NULL DEFAULT 0,
    created_ms     BIGINT  NOT NULL,
    started_ms     BIGINT,
    ended_ms       BIGINT,
    -- The host that runs it, and until when.
    holder         TEXT,
    lease_until_ms BIGINT,
    trouble        TEXT
);
-- The letters of a job. `outcome` is set once.
CREATE TABLE redrive_members (
    job     BIGINT NOT NULL,
    place   BIGINT NOT NULL,
    letter  {key}  NOT NULL,
    outcome TEXT,
    why     TEXT,
    at_ms   BIGINT,
    PRIMARY KEY (job, place)
);
CREATE INDEX redrive_members_left ON redrive_members (job, place) WHERE outcome IS NULL;
