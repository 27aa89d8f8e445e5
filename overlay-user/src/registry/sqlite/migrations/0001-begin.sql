-- Every row of the desired state carries the revision that made it what it is: `revision > N` finds
-- what changed after N, and tombstones say what went away. STRICT: SQLite's own type checks.

CREATE TABLE meta (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL,
    pruned   INTEGER NOT NULL  -- tombstones up to this revision may be missing
) STRICT;

INSERT INTO meta (id, revision, pruned) VALUES (1, 1, 0);

CREATE TABLE network (
    vni      INTEGER PRIMARY KEY CHECK (vni BETWEEN 1 AND 16777215),
    name     TEXT    NOT NULL UNIQUE,
    mtu      INTEGER NOT NULL CHECK (mtu >= 0),
    flood    TEXT    NOT NULL,
    learning INTEGER NOT NULL CHECK (learning IN (0, 1)),
    revision INTEGER NOT NULL
) STRICT;

CREATE TABLE subnet (
    vni      INTEGER NOT NULL REFERENCES network (vni) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    cidr     TEXT    NOT NULL,
    PRIMARY KEY (vni, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE node (
    id        INTEGER PRIMARY KEY,
    name      TEXT    NOT NULL UNIQUE,
    vtep_ip   TEXT    NOT NULL UNIQUE,
    vtep_port INTEGER NOT NULL CHECK (vtep_port BETWEEN 1 AND 65535),
    agent     INTEGER NOT NULL CHECK (agent IN (0, 1)),
    last_seen INTEGER,          -- milliseconds since 1970, no part of the desired state
    revision  INTEGER NOT NULL
) STRICT;

CREATE TABLE endpoint (
    id       INTEGER PRIMARY KEY,
    name     TEXT    NOT NULL UNIQUE,
    vni      INTEGER NOT NULL REFERENCES network (vni),
    mac      TEXT    NOT NULL,  -- lower case with colons
    node     INTEGER NOT NULL REFERENCES node (id),
    netns    TEXT,
    ifname   TEXT,
    revision INTEGER NOT NULL,  -- the endpoint's generation
    UNIQUE (vni, mac),
    UNIQUE (id, vni)            -- lets an address refer to both
) STRICT;

CREATE TABLE address (
    endpoint INTEGER NOT NULL,
    position INTEGER NOT NULL,
    vni      INTEGER NOT NULL,
    ip       TEXT    NOT NULL,  -- RFC 5952 for IPv6
    prefix   INTEGER NOT NULL CHECK (prefix BETWEEN 0 AND 128),
    PRIMARY KEY (endpoint, position),
    UNIQUE (vni, ip),
    FOREIGN KEY (endpoint, vni) REFERENCES endpoint (id, vni) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE tombstone (
    kind     TEXT    NOT NULL CHECK (kind IN ('network', 'node', 'endpoint')),
    key      TEXT    NOT NULL,  -- VNI or name
    revision INTEGER NOT NULL,
    PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX network_by_revision   ON network (revision);
CREATE INDEX node_by_revision      ON node (revision);
CREATE INDEX endpoint_by_revision  ON endpoint (revision);
CREATE INDEX endpoint_by_node      ON endpoint (node);
CREATE INDEX tombstone_by_revision ON tombstone (revision);
