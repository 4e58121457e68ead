-- What the host does with a letter by itself ([dlq.auto]): how often it has tried, when it may look again, and why not any
-- more: 'exhausted', or 'left …' and the policy that left it alone.
ALTER TABLE dead_letters ADD COLUMN auto_attempts BIGINT NOT NULL DEFAULT 0;
ALTER TABLE dead_letters ADD COLUMN auto_due_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE dead_letters ADD COLUMN auto_end {key};
CREATE INDEX dead_letters_auto ON dead_letters (class, auto_due_ms) WHERE state = 'dead' AND auto_end IS NULL;
CREATE INDEX dead_letters_auto_end ON dead_letters (auto_end) WHERE auto_end IS NOT NULL;

-- Since when it is reprocessed, discarded or expired.
ALTER TABLE dead_letters ADD COLUMN closed_ms BIGINT;
UPDATE dead_letters SET closed_ms = COALESCE(
        (SELECT MAX(t.at_ms) FROM letter_trail t WHERE t.letter = dead_letters.id), last_failure_ms)
    WHERE state IN ('reprocessed', 'discarded', 'expired');
CREATE INDEX dead_letters_closed ON dead_letters (closed_ms) WHERE closed_ms IS NOT NULL;
CREATE INDEX dead_letters_age ON dead_letters (last_failure_ms) WHERE state = 'dead';

-- Is a letter still to come in a job?
CREATE INDEX redrive_members_of ON redrive_members (letter) WHERE outcome IS NULL;
