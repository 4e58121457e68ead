-- Replays: what was asked, and how far it has come. `progress` is written as one, so that counts and offsets belong together.
CREATE TABLE replays (
    id             {key}   PRIMARY KEY NOT NULL,
    status         TEXT    NOT NULL,
    plan           TEXT    NOT NULL,
    progress       TEXT    NOT NULL,
    created_ms     BIGINT  NOT NULL,
    started_ms     BIGINT,
    ended_ms       BIGINT,
    -- Who runs it, and until when without a sign of life.
    holder         TEXT,
    -- Whose lease it is: a host that starts again takes back its own only.
    host           {key},
    lease_until_ms BIGINT
);
CREATE INDEX replays_newest ON replays (created_ms DESC, id DESC);
CREATE INDEX replays_open ON replays (created_ms, id) WHERE status IN ('pending', 'running');
