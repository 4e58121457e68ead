-- A job over many letters is `preparing` while these are written down, some thousand at a time: which are meant, the last number that
-- there was when it was made, and up to which letter they were looked through.
ALTER TABLE redrive_jobs ADD COLUMN members TEXT;
ALTER TABLE redrive_jobs ADD COLUMN bound BIGINT;
ALTER TABLE redrive_jobs ADD COLUMN reached_ms BIGINT;
ALTER TABLE redrive_jobs ADD COLUMN reached {key};
-- They go in the order of their first failure.
CREATE INDEX dead_letters_first ON dead_letters (first_failure_ms, id) WHERE state = 'dead';
