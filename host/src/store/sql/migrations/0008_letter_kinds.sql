-- Of each kind of letter that letter_counts counts, the newest failure last: a list of letters is a merge of the kinds that it
-- asks for, whatever the filter (sql/find.rs). One index instead of one for each thing to filter by, and for every state.
-- `kind` is the type as letter_counts has it.
ALTER TABLE dead_letters ADD COLUMN kind {key} GENERATED ALWAYS AS (
    CASE WHEN message_type IS NULL THEN '' WHEN LENGTH(message_type) > 200 THEN '*' ELSE message_type END) {generated};
CREATE INDEX dead_letters_kind ON dead_letters (grp, destination, kind, state{bytewise}, last_failure_ms, id);
DROP INDEX dead_letters_open_route;
DROP INDEX dead_letters_open_type;
DROP INDEX dead_letters_open_class;
DROP INDEX dead_letters_open_destination;
DROP INDEX dead_letters_open_digest;
DROP INDEX dead_letters_open_group;
