-- Whose lease it is: of hosts that share a database, one that starts again takes back its own only.
ALTER TABLE parked ADD COLUMN host {key};
-- Which of its claims.
ALTER TABLE parked ADD COLUMN ticket BIGINT;
ALTER TABLE dead_letters ADD COLUMN host {key};
CREATE INDEX parked_of_host ON parked (host) WHERE host IS NOT NULL;
ALTER TABLE redrive_jobs ADD COLUMN host {key};
