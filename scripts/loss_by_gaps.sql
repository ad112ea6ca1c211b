-- HogQL, for PostHog's SQL editor: which events were captured and have not arrived, by install and version.
--
-- Each event of an install gets the next number when it enters the queue: `spool_sequence`, from 1. A number below
-- the highest that has arrived, and that has not arrived itself, is a gap. What is behind a gap:
--   lost, and told by `spool_loss`   over_count, over_bytes, expired, purged, damaged, dead_overflow
--   lost, and told to nobody         opted_out: a person deleted what waited
--   not lost                         a dead letter; retried, it arrives under its own number
--   lost after PostHog said 200      a quota, a filter, a deletion in PostHog: no cause on the machine explains it
-- No gap: what is still on the machine after the last number that arrived (the tail), and what was lost before it
-- had a number (invalid, too_large, disk_full and the like), which `spool_loss` alone tells of.
--
-- Numbers that stand twice: the same install and number, with another uuid. A home was restored from a backup, or
-- copied, as with an image that has one in it: each copy goes on with the same install id and the same numbers. Then
-- what one copy lost is hidden where another copy's event has the same number. So no gap is no proof for such an
-- install: ask 2 which these are, and 3 where their numbers are too few. The same uuid again is no such thing: an
-- event that was sent twice counts once.
--
-- Ask over all time: in a window the first row of each install is no gap.
-- Not for events with a distinct_id of the host's own, nor for what was exported and imported on another machine.

-- 1. Each gap, between two numbers that arrived: the host's version before and after it. The flusher's own report
-- stands as (spool_loss), since it knows the version of ktx-spool alone. Where numbers stand twice, a gap is a number
-- that arrived from no copy of the home.
SELECT
    install,
    version_before,
    version,
    before + 1 AS first_missing,
    number - 1 AS last_missing,
    number - before - 1 AS missing
FROM (
    SELECT
        install,
        version,
        number,
        ifNull(lagInFrame(number) OVER (
            PARTITION BY install ORDER BY number ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ), 0) AS before,
        ifNull(lagInFrame(version) OVER (
            PARTITION BY install ORDER BY number ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ), '') AS version_before
    FROM (
        SELECT
            distinct_id AS install,
            toInt(properties.spool_sequence) AS number,
            max(CASE WHEN event = 'spool_loss' THEN '(spool_loss)' ELSE properties.cliVersion END) AS version
        FROM events
        WHERE properties.spool_sequence IS NOT NULL
        GROUP BY install, number
    )
)
WHERE number > before + 1
ORDER BY install, number
LIMIT 50000;

-- 2. For each install: how many are missing, and how many of them the machine itself has told of. What is left is
-- unexplained: it waits as a dead letter, was deleted by an opt-out, or was lost after it had left the machine.
-- Where numbers stand twice: how many, and at least how many homes share the install id. There `missing` is the least
-- that was lost, what one home told explains no gap of another, and `unexplained` is empty: it can't be known.
SELECT
    install,
    max(number) - count(number) AS missing,
    sum(reported_by_all) AS told,
    CASE WHEN max(copies) > 1 THEN NULL ELSE max(number) - count(number) - sum(reported_by_all) END AS unexplained,
    sum(CASE WHEN copies > 1 THEN 1 ELSE 0 END) AS numbers_twice,
    max(copies) AS homes
FROM (
    SELECT
        install,
        number,
        count(uuid) AS copies,
        sum(reported) AS reported_by_all
    FROM (
        SELECT
            distinct_id AS install,
            toInt(properties.spool_sequence) AS number,
            uuid,
            max(ifNull(toInt(properties.lostByCause.over_count), 0)
                + ifNull(toInt(properties.lostByCause.over_bytes), 0)
                + ifNull(toInt(properties.lostByCause.expired), 0)
                + ifNull(toInt(properties.lostByCause.purged), 0)
                + ifNull(toInt(properties.lostByCause.damaged), 0)
                + ifNull(toInt(properties.lostByCause.dead_overflow), 0)) AS reported
        FROM events
        WHERE properties.spool_sequence IS NOT NULL
        GROUP BY install, number, uuid
    )
    GROUP BY install, number
)
GROUP BY install
HAVING missing > 0 OR numbers_twice > 0
ORDER BY missing DESC, numbers_twice DESC
LIMIT 50000;

-- 3. Where numbers stand twice: each number that arrived from fewer homes than a number before it and one after it.
-- With one home copied once into many, that is a loss of some of them. It is none if most copies had ended, and one
-- that went on was copied again. A number that arrived from no home is in 1.
SELECT
    install,
    number,
    copies,
    CASE WHEN most_before < most_after THEN most_before ELSE most_after END AS copies_around
FROM (
    SELECT
        install,
        number,
        copies,
        max(copies) OVER (
            PARTITION BY install ORDER BY number ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS most_before,
        max(copies) OVER (
            PARTITION BY install ORDER BY number DESC ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS most_after
    FROM (
        SELECT
            distinct_id AS install,
            toInt(properties.spool_sequence) AS number,
            count(DISTINCT uuid) AS copies
        FROM events
        WHERE properties.spool_sequence IS NOT NULL
        GROUP BY install, number
    )
)
WHERE copies < most_before AND copies < most_after
ORDER BY install, number
LIMIT 50000;
