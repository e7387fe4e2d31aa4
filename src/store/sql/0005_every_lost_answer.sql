-- Every answer that was lost is counted, also the last one of a copy in doubt. How often a copy was sent again follows from
-- that: as often, but for the last time where it was not taken since; it was where it stands as delivered, or as failed by a
-- bounce that came later.
DROP TRIGGER copy_planned;
DROP TRIGGER copy_moved;

ALTER TABLE copies DROP COLUMN again;

UPDATE copies SET doubtful = min(doubtful + 1, 255) WHERE standing = 7;

ALTER TABLE copies ADD COLUMN again INTEGER GENERATED ALWAYS AS
    (max(doubtful - NOT (standing = 2 OR (standing = 3 AND late = 1)), 0)) VIRTUAL;

CREATE TRIGGER copy_planned AFTER INSERT ON copies BEGIN
    INSERT INTO tallies VALUES (new.launch, new.site, new.standing, coalesce(new.class, ''), new.late,
        1, new.tries, new.again, new.at)
    ON CONFLICT (launch, site, standing, class, late) DO UPDATE SET copies = copies + 1,
        tries = tries + excluded.tries, again = again + excluded.again, last = max(last, excluded.last);
END;

CREATE TRIGGER copy_moved AFTER UPDATE OF site, standing, class, late, tries, doubtful ON copies BEGIN
    UPDATE tallies SET copies = copies - 1, tries = tries - old.tries, again = again - old.again
    WHERE launch = old.launch AND site = old.site AND standing = old.standing AND class = coalesce(old.class, '')
        AND late = old.late;
    INSERT INTO tallies VALUES (new.launch, new.site, new.standing, coalesce(new.class, ''), new.late,
        1, new.tries, new.again, new.at)
    ON CONFLICT (launch, site, standing, class, late) DO UPDATE SET copies = copies + 1,
        tries = tries + excluded.tries, again = again + excluded.again, last = max(last, excluded.last);
END;
