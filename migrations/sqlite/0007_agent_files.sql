-- Who writes an agent's files: one run at a time, so that the database and the gateway agree on them.

ALTER TABLE agents ADD COLUMN files_job uuid; -- the job
ALTER TABLE agents ADD COLUMN files_claim bigint; -- which of its runs; it counts for as long as that has the lease
