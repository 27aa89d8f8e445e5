-- Only adds: an agent of the version before goes on with the file that it has open.

-- Desired state beside networks, nodes and endpoints. The value is JSON: body, claims, references.
CREATE TABLE object (
    id       INTEGER PRIMARY KEY,
    kind     TEXT    NOT NULL,
    key      TEXT    NOT NULL,
    value    TEXT    NOT NULL,
    revision INTEGER NOT NULL,
    UNIQUE (kind, key)
) STRICT;

-- What objects claim: from their values, for the constraint.
CREATE TABLE object_claim (
    object INTEGER NOT NULL REFERENCES object (id) ON DELETE CASCADE,
    vni    INTEGER NOT NULL,  -- 0: of no network
    space  TEXT    NOT NULL,
    value  TEXT    NOT NULL,
    PRIMARY KEY (vni, space, value)
) STRICT, WITHOUT ROWID;

-- What objects refer to: from their values, for whoever removes that.
CREATE TABLE object_reference (
    object     INTEGER NOT NULL REFERENCES object (id) ON DELETE CASCADE,
    kind       TEXT    NOT NULL,
    key        TEXT    NOT NULL,  -- VNI, name or key
    on_removal TEXT    NOT NULL CHECK (on_removal IN ('restrict', 'cascade')),
    PRIMARY KEY (kind, key, object)
) STRICT, WITHOUT ROWID;

CREATE TABLE object_tombstone (
    kind     TEXT    NOT NULL,
    key      TEXT    NOT NULL,
    revision INTEGER NOT NULL,
    PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;

-- As the table quarantine, for claims that are no addresses.
CREATE TABLE claim_quarantine (
    vni      INTEGER NOT NULL,
    kind     TEXT    NOT NULL,
    value    TEXT    NOT NULL,
    owner    TEXT    NOT NULL,
    revision INTEGER NOT NULL,
    boot     TEXT    NOT NULL,
    until    INTEGER NOT NULL,
    PRIMARY KEY (vni, kind, value)
) STRICT, WITHOUT ROWID;

CREATE INDEX object_by_revision           ON object (revision);
CREATE INDEX object_claim_by_object       ON object_claim (object);
CREATE INDEX object_reference_by_object   ON object_reference (object);
CREATE INDEX object_tombstone_by_revision ON object_tombstone (revision);
CREATE INDEX claim_quarantine_by_end      ON claim_quarantine (until);

-- An address is an endpoint's or an object's, whichever binary writes.
CREATE TRIGGER address_of_object BEFORE INSERT ON address
WHEN EXISTS (SELECT 1 FROM object_claim WHERE (vni, space, value) = (new.vni, 'ip', new.ip))
BEGIN SELECT RAISE(ABORT, 'an object has this address'); END;

CREATE TRIGGER mac_of_object BEFORE INSERT ON endpoint
WHEN EXISTS (SELECT 1 FROM object_claim WHERE (vni, space, value) = (new.vni, 'mac', new.mac))
BEGIN SELECT RAISE(ABORT, 'an object has this MAC'); END;

CREATE TRIGGER new_mac_of_object BEFORE UPDATE OF mac ON endpoint
WHEN EXISTS (SELECT 1 FROM object_claim WHERE (vni, space, value) = (new.vni, 'mac', new.mac))
BEGIN SELECT RAISE(ABORT, 'an object has this MAC'); END;

CREATE TRIGGER address_of_endpoint BEFORE INSERT ON object_claim
WHEN EXISTS (SELECT 1 FROM address WHERE new.space = 'ip' AND (vni, ip) = (new.vni, new.value))
    OR EXISTS (SELECT 1 FROM endpoint WHERE new.space = 'mac' AND (vni, mac) = (new.vni, new.value))
BEGIN SELECT RAISE(ABORT, 'an endpoint has this address'); END;

-- What an object refers to stays, whichever binary writes. What is to go along goes first.
CREATE TRIGGER network_in_use BEFORE DELETE ON network
WHEN EXISTS (SELECT 1 FROM object_reference WHERE (kind, key) = ('network', CAST(old.vni AS TEXT)))
BEGIN SELECT RAISE(ABORT, 'an object refers to this network'); END;

CREATE TRIGGER node_in_use BEFORE DELETE ON node
WHEN EXISTS (SELECT 1 FROM object_reference WHERE (kind, key) = ('node', old.name))
BEGIN SELECT RAISE(ABORT, 'an object refers to this node'); END;

CREATE TRIGGER endpoint_in_use BEFORE DELETE ON endpoint
WHEN EXISTS (SELECT 1 FROM object_reference WHERE (kind, key) = ('endpoint', old.name))
BEGIN SELECT RAISE(ABORT, 'an object refers to this endpoint'); END;
