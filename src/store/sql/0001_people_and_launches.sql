-- People. An address is compared without regard to case; its domain is in A-label form. Ids are never reused.
CREATE TABLE contacts (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    address TEXT    NOT NULL UNIQUE COLLATE NOCASE,
    name    TEXT    NOT NULL DEFAULT '',
    fields  TEXT    NOT NULL DEFAULT '{}',
    bucket  INTEGER NOT NULL,
    created INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    -- What may be noted of how they read: 1 opens, 2 no opens, 4 clicks, 8 no clicks; 0: nothing was said.
    consent INTEGER NOT NULL DEFAULT 0,
    -- Gets no campaign before this time.
    paused  INTEGER
) STRICT;

CREATE TABLE lists (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    name    TEXT    NOT NULL UNIQUE COLLATE NOCASE,
    created INTEGER NOT NULL
) STRICT;

-- Who is on which list, and since when, by which import. Status: 0 subscribed, 1 unsubscribed, 2 pending.
CREATE TABLE memberships (
    contact INTEGER NOT NULL REFERENCES contacts (id) ON DELETE CASCADE,
    list    INTEGER NOT NULL REFERENCES lists (id),
    bucket  INTEGER NOT NULL,
    status  INTEGER NOT NULL,
    source  INTEGER REFERENCES imports (id),
    since   INTEGER NOT NULL,
    PRIMARY KEY (contact, list)
) STRICT, WITHOUT ROWID;

-- The order in which a launch reads a list: bucket by bucket, by contact.
CREATE INDEX memberships_by_list ON memberships (list, bucket, contact, status);

CREATE TABLE imports (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    file     TEXT    NOT NULL,
    list     INTEGER NOT NULL REFERENCES lists (id),
    consent  TEXT,
    started  INTEGER NOT NULL,
    finished INTEGER,
    counts   TEXT    NOT NULL DEFAULT '{}'
) STRICT;

-- Who must not be mailed, whatever list they are on.
CREATE TABLE suppressions (
    address TEXT    PRIMARY KEY COLLATE NOCASE,
    reason  TEXT    NOT NULL,
    detail  TEXT    NOT NULL DEFAULT '',
    since   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Who asked to be forgotten: only a keyed hash of the address is left, so that an import cannot bring them back.
CREATE TABLE erased (
    hash  BLOB    PRIMARY KEY,
    since INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What happened to a contact beside being mailed: imported, suppressed, released, unsubscribed; launch is that of the copy
-- it came from, where there is one.
CREATE TABLE events (
    id      INTEGER PRIMARY KEY,
    contact INTEGER NOT NULL REFERENCES contacts (id) ON DELETE CASCADE,
    kind    TEXT    NOT NULL,
    detail  TEXT    NOT NULL DEFAULT '',
    at      INTEGER NOT NULL,
    launch  INTEGER
) STRICT;

CREATE INDEX events_by_contact ON events (contact);
CREATE INDEX events_by_launch ON events (launch, kind, contact) WHERE launch IS NOT NULL;

-- Frozen content, addressed by its hash.
CREATE TABLE editions (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    hash     BLOB    NOT NULL UNIQUE,
    campaign TEXT    NOT NULL,
    frozen   BLOB    NOT NULL,
    created  INTEGER NOT NULL
) STRICT;

-- Kind: 0 campaign, 1 test copies, 2 a request to confirm a subscription. State: 0 running, 1 paused, 2 cancelled, 3 done. In doubt: 0 resend, 1 hold.
CREATE TABLE launches (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    campaign TEXT    NOT NULL,
    kind     INTEGER NOT NULL,
    edition  INTEGER NOT NULL REFERENCES editions (id),
    state    INTEGER NOT NULL,
    in_doubt INTEGER NOT NULL,
    options  TEXT    NOT NULL,
    started  INTEGER NOT NULL,
    finished INTEGER,
    planned  INTEGER NOT NULL
) STRICT;

-- A campaign is sent once; a second launch of the same folder is refused by this index.
CREATE UNIQUE INDEX launch_of_campaign ON launches (campaign) WHERE kind = 0;

-- The lists of a launch, in the order in which they are read.
CREATE TABLE launch_lists (
    launch   INTEGER NOT NULL REFERENCES launches (id),
    position INTEGER NOT NULL,
    list     INTEGER NOT NULL REFERENCES lists (id),
    PRIMARY KEY (launch, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE sites (
    id   INTEGER PRIMARY KEY,
    name TEXT    NOT NULL UNIQUE
) STRICT;

-- One row per planned copy: where it stands. Standing and stage are the numbers of their words in `copies.rs`;
-- position is the list it was read from, late is 1 once a delivery report said that it bounced, cause is the class it was
-- last deferred for when it expired.
CREATE TABLE copies (
    launch   INTEGER NOT NULL,
    contact  INTEGER NOT NULL,
    position INTEGER NOT NULL,
    site     INTEGER NOT NULL REFERENCES sites (id),
    standing INTEGER NOT NULL,
    class    TEXT,
    cause    TEXT,
    code     INTEGER,
    enhanced TEXT,
    stage    INTEGER,
    text     TEXT    NOT NULL DEFAULT '',
    host     TEXT,
    channel  INTEGER NOT NULL DEFAULT 0,
    tries    INTEGER NOT NULL DEFAULT 0,
    doubtful INTEGER NOT NULL DEFAULT 0,
    late     INTEGER NOT NULL DEFAULT 0,
    at       INTEGER NOT NULL,
    PRIMARY KEY (launch, contact)
) STRICT, WITHOUT ROWID;

-- All that one contact was sent.
CREATE INDEX copies_by_contact ON copies (contact);

-- What was deferred or failed, by reason: for samples, and for whoever wants to try again.
CREATE INDEX copies_in_trouble ON copies (launch, standing, class) WHERE standing IN (1, 3);

-- The figures of every launch. Written by the triggers below and nobody else, so that they always add up to the copies.
CREATE TABLE tallies (
    launch   INTEGER NOT NULL,
    site     INTEGER NOT NULL,
    standing INTEGER NOT NULL,
    class    TEXT    NOT NULL,
    late     INTEGER NOT NULL,
    copies   INTEGER NOT NULL,
    tries    INTEGER NOT NULL,
    doubtful INTEGER NOT NULL,
    last     INTEGER NOT NULL,
    PRIMARY KEY (launch, site, standing, class, late)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER copy_planned AFTER INSERT ON copies BEGIN
    INSERT INTO tallies VALUES (new.launch, new.site, new.standing, coalesce(new.class, ''), new.late,
        1, new.tries, new.doubtful, new.at)
    ON CONFLICT (launch, site, standing, class, late) DO UPDATE SET copies = copies + 1,
        tries = tries + excluded.tries, doubtful = doubtful + excluded.doubtful, last = max(last, excluded.last);
END;

CREATE TRIGGER copy_moved AFTER UPDATE OF site, standing, class, late, tries, doubtful ON copies BEGIN
    UPDATE tallies SET copies = copies - 1, tries = tries - old.tries, doubtful = doubtful - old.doubtful
    WHERE launch = old.launch AND site = old.site AND standing = old.standing AND class = coalesce(old.class, '')
        AND late = old.late;
    INSERT INTO tallies VALUES (new.launch, new.site, new.standing, coalesce(new.class, ''), new.late,
        1, new.tries, new.doubtful, new.at)
    ON CONFLICT (launch, site, standing, class, late) DO UPDATE SET copies = copies + 1,
        tries = tries + excluded.tries, doubtful = doubtful + excluded.doubtful, last = max(last, excluded.last);
END;

-- What readers did with a copy. Link 0 is the pixel, the links of the edition count from 1. One row per copy and link,
-- however often it happens: how often by a person, by the image proxy of a mail program, by a machine.
CREATE TABLE visits (
    launch  INTEGER NOT NULL,
    contact INTEGER NOT NULL REFERENCES contacts (id) ON DELETE CASCADE,
    link    INTEGER NOT NULL,
    person  INTEGER NOT NULL,
    proxy   INTEGER NOT NULL,
    machine INTEGER NOT NULL,
    first   INTEGER NOT NULL,
    last    INTEGER NOT NULL,
    PRIMARY KEY (launch, contact, link)
) STRICT, WITHOUT ROWID;

CREATE INDEX visits_by_contact ON visits (contact);

-- Who asked on a page to be put on a list, and whether they confirmed it: the proof of consent. Launch is that of the request
-- to confirm, client and agent are what the browser was seen as, consent is what the page said.
CREATE TABLE signups (
    launch           INTEGER PRIMARY KEY,
    contact          INTEGER NOT NULL REFERENCES contacts (id) ON DELETE CASCADE,
    address          TEXT    NOT NULL COLLATE NOCASE,
    list             INTEGER NOT NULL REFERENCES lists (id),
    consent          TEXT    NOT NULL,
    form             TEXT    NOT NULL,
    client           TEXT    NOT NULL,
    agent            TEXT    NOT NULL,
    asked            INTEGER NOT NULL,
    confirmed        INTEGER,
    confirmed_client TEXT,
    confirmed_agent  TEXT
) STRICT;

CREATE INDEX signups_by_address ON signups (address, asked);
CREATE INDEX signups_by_client ON signups (client, asked);
CREATE INDEX signups_by_contact ON signups (contact);
CREATE INDEX signups_open ON signups (asked) WHERE confirmed IS NULL;

-- Single numbers: `epoch` and `outcome`, by which queue and store prove that they belong together.
CREATE TABLE marks (
    name  TEXT    PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Messages in mailboxes that are no returned mail: left where they are, and not fetched again.
CREATE TABLE known_mail (
    mailbox TEXT    NOT NULL,
    message TEXT    NOT NULL,
    since   INTEGER NOT NULL,
    PRIMARY KEY (mailbox, message)
) STRICT, WITHOUT ROWID;

-- How far a source address is known at a site: the state is `delivery::warmup`'s own.
CREATE TABLE warmups (
    source TEXT    NOT NULL,
    site   TEXT    NOT NULL,
    state  TEXT    NOT NULL,
    at     INTEGER NOT NULL,
    PRIMARY KEY (source, site)
) STRICT, WITHOUT ROWID;

-- Where a launch was stopped by itself: at a site, or as a whole (no site). Lifted when a person resumed it; what was
-- counted until then counts no more.
CREATE TABLE breaks (
    launch     INTEGER NOT NULL,
    site       TEXT    NOT NULL DEFAULT '',
    why        TEXT    NOT NULL,
    since      INTEGER NOT NULL,
    lifted     INTEGER,
    answers    INTEGER NOT NULL DEFAULT 0,
    bounced    INTEGER NOT NULL DEFAULT 0,
    complained INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (launch, site)
) STRICT, WITHOUT ROWID;

-- What happened on the road: pauses, blocks, what stood still and why. The oldest are forgotten.
CREATE TABLE incidents (
    id     INTEGER PRIMARY KEY,
    kind   TEXT    NOT NULL,
    site   TEXT,
    source TEXT,
    launch INTEGER,
    text   TEXT    NOT NULL,
    until  INTEGER,
    at     INTEGER NOT NULL
) STRICT;

CREATE INDEX incidents_by_time ON incidents (at);

-- Replies that no rule explains, for review; without what differs from copy to copy. The rarest are forgotten.
CREATE TABLE unknown_replies (
    site  TEXT    NOT NULL,
    stage INTEGER NOT NULL,
    reply TEXT    NOT NULL,
    count INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last  INTEGER NOT NULL,
    PRIMARY KEY (site, stage, reply)
) STRICT, WITHOUT ROWID;
