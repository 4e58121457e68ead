-- Letters of which others shall have a copy, in the order in which they were entered. A row goes when its copy is confirmed.
CREATE TABLE letter_exports (
    seq            {serial},
    letter         {key}  NOT NULL,
    -- 'task' or 'event': each has its topic.
    kind           {key}  NOT NULL,
    -- Who is sending it, and until when nobody else does; 0 = nobody.
    host           {key},
    lease_until_ms BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX letter_exports_next ON letter_exports (kind, seq);
CREATE INDEX letter_exports_host ON letter_exports (host) WHERE host IS NOT NULL;
-- Is a letter still to be copied?
CREATE INDEX letter_exports_letter ON letter_exports (letter);
