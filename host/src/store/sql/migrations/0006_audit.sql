-- What people asked the API to do, and what was refused to them. Rows are added, never changed, and deleted by age.
CREATE TABLE audit (
    seq    {serial},
    at_ms  BIGINT NOT NULL,
    actor  TEXT   NOT NULL,
    role   TEXT   NOT NULL,
    action TEXT   NOT NULL,
    target TEXT   NOT NULL,
    status BIGINT NOT NULL,
    count  BIGINT NOT NULL
);
CREATE INDEX audit_age ON audit (at_ms);
