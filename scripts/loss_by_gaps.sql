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
-- Ask over all time: in a window the first row of each install is no gap. Copies that were sent twice are one.
-- Not for events with a distinct_id of the host's own, nor for what was exported and imported on another machine.

-- 1. Each gap, between two numbers that arrived: the host's version before and after it. The flusher's own report
-- stands as (spool_loss), since it knows the version of ktx-spool alone.
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

-- 2. For each install: how many are missing, and how many of them the machine itself has told of. What is left
-- waits as a dead letter, was deleted by an opt-out, or was lost after it had left the machine.
SELECT
    install,
    max(number) - count(number) AS missing,
    sum(reported) AS told,
    max(number) - count(number) - sum(reported) AS unexplained
FROM (
    SELECT
        distinct_id AS install,
        toInt(properties.spool_sequence) AS number,
        max(ifNull(toInt(properties.lostByCause.over_count), 0)
            + ifNull(toInt(properties.lostByCause.over_bytes), 0)
            + ifNull(toInt(properties.lostByCause.expired), 0)
            + ifNull(toInt(properties.lostByCause.purged), 0)
            + ifNull(toInt(properties.lostByCause.damaged), 0)
            + ifNull(toInt(properties.lostByCause.dead_overflow), 0)) AS reported
    FROM events
    WHERE properties.spool_sequence IS NOT NULL
    GROUP BY install, number
)
GROUP BY install
HAVING missing > 0
ORDER BY missing DESC
LIMIT 50000;
