-- The job that is sending the letter again, while it is `retrying`: if its message fails before that is written down, the job
-- has sent it.
ALTER TABLE dead_letters ADD COLUMN job BIGINT;
