-- Only adds: an agent of the version before goes on with the file that it has open.

-- Which registry this is; copies keep it. Empty: the migration is about to make it.
ALTER TABLE meta ADD COLUMN identity TEXT NOT NULL DEFAULT '';

ALTER TABLE node ADD COLUMN mtu INTEGER;  -- of its underlay, bytes
