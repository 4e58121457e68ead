-- Who cancelled a job; NULL for those that were not, or before this was written down.
ALTER TABLE redrive_jobs ADD COLUMN cancelled_by TEXT;
