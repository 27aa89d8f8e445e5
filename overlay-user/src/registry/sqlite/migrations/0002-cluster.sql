-- Only adds: an agent of the version before goes on with the file that it has open.
-- Times are milliseconds since the boot that `boot` names: no clock that can be set decides anything.

ALTER TABLE network ADD COLUMN resolve TEXT NOT NULL DEFAULT 'proactive';
ALTER TABLE node    ADD COLUMN version TEXT;
ALTER TABLE node    ADD COLUMN abi     INTEGER;

-- Who speaks for a node. It may come before the node does.
CREATE TABLE session (
    node    TEXT    PRIMARY KEY,
    session TEXT    NOT NULL,
    boot    TEXT    NOT NULL,
    seen    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Addresses that were removed a moment ago, and whose they were.
CREATE TABLE quarantine (
    vni      INTEGER NOT NULL,
    kind     TEXT    NOT NULL CHECK (kind IN ('mac', 'ip')),
    value    TEXT    NOT NULL,
    owner    TEXT    NOT NULL,
    revision INTEGER NOT NULL,  -- the commit that removed it
    boot     TEXT    NOT NULL,
    until    INTEGER NOT NULL,
    PRIMARY KEY (vni, kind, value)
) STRICT, WITHOUT ROWID;

-- The bodies are JSON.
CREATE TABLE question (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id     TEXT    NOT NULL UNIQUE,
    body   TEXT    NOT NULL,
    boot   TEXT    NOT NULL,
    until  INTEGER NOT NULL
) STRICT;

CREATE TABLE report (
    question TEXT    NOT NULL,  -- empty: nobody asked
    node     TEXT    NOT NULL,
    body     TEXT    NOT NULL,
    boot     TEXT    NOT NULL,
    until    INTEGER NOT NULL,  -- of those that nobody asked for: when it was written
    PRIMARY KEY (question, node)
) STRICT, WITHOUT ROWID;

CREATE INDEX quarantine_by_end ON quarantine (until);
