-- Only adds: an agent of the version before goes on with the file that it has open.

-- How an endpoint is connected to its host, as JSON, if that is not the end of a veth: that is netns and ifname.
ALTER TABLE endpoint ADD COLUMN attachment TEXT;
