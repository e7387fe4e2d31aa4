-- Sessions with mail hosts as their domains want them reported (RFC 8460), by UTC day; kept until they are.
CREATE TABLE tls_sessions (
    day      INTEGER NOT NULL, -- days since 1970
    domain   TEXT    NOT NULL,
    policy   TEXT    NOT NULL, -- JSON, as it stands in a report
    host     TEXT    NOT NULL,
    source   TEXT    NOT NULL, -- our address; empty: the system's choice
    result   TEXT    NOT NULL, -- of RFC 8460 §4.3; empty: success
    sessions INTEGER NOT NULL,
    PRIMARY KEY (day, domain, policy, host, source, result)
) STRICT, WITHOUT ROWID;
