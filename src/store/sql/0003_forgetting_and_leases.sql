-- What is forgotten of a launch with time: 1 once the hosts' words about its copies are; what readers did, once it is kept
-- as figures only, and 1 once who they were is gone.
ALTER TABLE launches ADD COLUMN wordless INTEGER NOT NULL DEFAULT 0;
ALTER TABLE launches ADD COLUMN reading TEXT;
ALTER TABLE launches ADD COLUMN visitless INTEGER NOT NULL DEFAULT 0;

-- What passes is found by its time.
CREATE INDEX events_that_pass ON events (at) WHERE kind IN ('auto_reply', 'bounced', 'paused', 'resumed');

-- Who looks through a mailbox at present: one at a time, until the time it said, or longer when it says so again.
CREATE TABLE mailbox_leases (
    mailbox TEXT    PRIMARY KEY,
    holder  TEXT    NOT NULL,
    until   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
