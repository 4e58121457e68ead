-- Messages that wait for a retry. `seq` is the order in which they were parked.
CREATE TABLE parked (
    seq              {serial},
    id               {key}   NOT NULL UNIQUE,
    route            {key}   NOT NULL,
    lane             {bytes},
    -- 1: may be handed out. Of each lane only the first row is.
    head             BIGINT  NOT NULL,
    attempt          BIGINT  NOT NULL,
    due_ms           BIGINT  NOT NULL,
    -- due_ms, or the end of the lease while one is held.
    ready_ms         BIGINT  NOT NULL,
    -- Leases taken since the last recorded outcome.
    claims           BIGINT  NOT NULL DEFAULT 0,
    history          TEXT    NOT NULL,
    first_failure_ms BIGINT  NOT NULL,
    message          {bytes}    NOT NULL
);
CREATE INDEX parked_ready ON parked (ready_ms, seq) WHERE head = 1;
CREATE INDEX parked_lane ON parked (route, {lane}, seq) WHERE lane IS NOT NULL;

CREATE TABLE dead_letters (
    id               {key}   PRIMARY KEY NOT NULL,
    destination      {key}   NOT NULL,
    message_id       TEXT,
    message_type     TEXT,
    route            TEXT,
    plugin           TEXT,
    digest           TEXT,
    class            TEXT    NOT NULL,
    reason           TEXT    NOT NULL,
    code             TEXT,
    attempts         TEXT    NOT NULL,
    first_failure_ms BIGINT  NOT NULL,
    last_failure_ms  BIGINT  NOT NULL,
    trace_id         TEXT,
    state            TEXT    NOT NULL,
    message          {bytes}    NOT NULL
);
CREATE INDEX dead_letters_newest ON dead_letters (last_failure_ms DESC, id DESC);
CREATE INDEX dead_letters_depth ON dead_letters (state, destination);
