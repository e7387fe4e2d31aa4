-- How often a copy was sent again: as often as an answer to it was lost, but for the last time, unless it was sent once more
-- and taken: then it stands as delivered, or as failed by a bounce that came later. Of a copy in doubt the last loss is not
-- counted among the doubtful.
ALTER TABLE copies ADD COLUMN again INTEGER GENERATED ALWAYS AS
    (max(doubtful - (standing NOT IN (2, 7) AND NOT (standing = 3 AND late = 1)), 0)) VIRTUAL;

DROP TRIGGER copy_planned;
DROP TRIGGER copy_moved;

ALTER TABLE tallies RENAME COLUMN doubtful TO again;

UPDATE tallies SET again = 0;

INSERT INTO tallies SELECT launch, site, standing, coalesce(class, ''), late, 0, 0, sum(again), 0 FROM copies
    WHERE doubtful > 0 GROUP BY 1, 2, 3, 4, 5
ON CONFLICT (launch, site, standing, class, late) DO UPDATE SET again = excluded.again;

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
