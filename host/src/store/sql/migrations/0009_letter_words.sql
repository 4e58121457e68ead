-- The words by which letters are found (store/words.rs), under the number of their letter. NULL: its words are not there yet, which is
-- made up for when a host opens the store.
ALTER TABLE dead_letters ADD COLUMN number BIGINT;
CREATE UNIQUE INDEX dead_letters_number ON dead_letters (number);
CREATE INDEX dead_letters_wordless ON dead_letters (id) WHERE number IS NULL;
{words}
