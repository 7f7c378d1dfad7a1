"""SQL statements on job rows. Each statement is one complete change, so a job is never half changed."""
# ruff: noqa: S608 - only column names and conditions from this module are put together

COLUMNS = """id, tenant, report, request, lane, requested_by, state, created_at, started_at, finished_at, attempts, owner,
    percent, chunks_done, chunks_total, problem, context"""

_JOBS_BEFORE = """(
            SELECT count(*) FROM cache_pipeline_state.job AS other WHERE other.state = 'queued' AND other.id <> {job}.id
            AND (array_position(%(lanes)s::text[], other.lane), other.created_at)
              < (array_position(%(lanes)s::text[], {job}.lane), {job}.created_at))"""
_THROUGHPUT = """
        (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - started_at))
         FROM (SELECT finished_at, started_at FROM cache_pipeline_state.job
               WHERE report = %(report)s AND state = 'done' ORDER BY finished_at DESC LIMIT 20) AS latest
        )::float8 AS seconds,
        (SELECT count(*) / 60.0 FROM cache_pipeline_state.job
         WHERE finished_at > now() - interval '60 seconds')::float8 AS jobs_per_second"""

# The one statement of a miss: it looks at how the same query ended lately, queues or joins the job unless that decides, and
# returns everything that the estimate in the response needs.
ADMIT = f"""
    WITH recent AS MATERIALIZED (
        SELECT state, problem FROM cache_pipeline_state.job
        WHERE key = %(key)s AND state IN ('done', 'failed') AND finished_at > now() - %(within)s::interval
        ORDER BY finished_at DESC LIMIT 1
    ), admitted AS (
        INSERT INTO cache_pipeline_state.job AS j (id, key, tenant, report, request, lane, requested_by, context)
        SELECT %(id)s, %(key)s, %(tenant)s, %(report)s, %(request)s, %(lane)s, ARRAY[%(requested_by)s], %(context)s
        WHERE NOT EXISTS (SELECT FROM recent)
        ON CONFLICT (key) WHERE state IN ('queued', 'running') DO UPDATE SET
            requested_by = array_remove(j.requested_by, %(requested_by)s) || ARRAY[%(requested_by)s],
            -- A user waiting in front of a screen raises the priority of the job for all its callers.
            lane = CASE WHEN array_position(%(lanes)s::text[], excluded.lane) < array_position(%(lanes)s::text[], j.lane)
                        THEN excluded.lane ELSE j.lane END
        RETURNING {COLUMNS}
    )
    SELECT {", ".join(f"admitted.{name.strip()}" for name in COLUMNS.split(","))},
        recent.state AS recent_state, recent.problem AS recent_problem,
        {_JOBS_BEFORE.format(job="admitted")} AS jobs_before, {_THROUGHPUT}
    FROM (SELECT) AS one LEFT JOIN recent ON true LEFT JOIN admitted ON true
"""

GET = f"SELECT {COLUMNS} FROM cache_pipeline_state.job WHERE id = %(id)s AND tenant = %(tenant)s"

# Interactive jobs first, then the tenant with the fewest running jobs, then the key with the fewest, then the oldest job. A job
# that several keys wait for counts as that of the least busy one.
CLAIM = f"""
    WITH busy AS (
        SELECT tenant, count(*) AS running FROM cache_pipeline_state.job
        WHERE state = 'running' AND lease_until >= now() GROUP BY tenant
    ), busy_key AS (
        SELECT key_id, count(*) AS running FROM cache_pipeline_state.job, unnest(requested_by) AS key_id
        WHERE state = 'running' AND lease_until >= now() GROUP BY key_id
    ), next AS (
        SELECT j.id FROM cache_pipeline_state.job AS j LEFT JOIN busy USING (tenant)
        WHERE attempts < %(max_attempts)s AND NOT requested_by <@ %(busy_keys)s::text[]
          AND ((state = 'queued' AND not_before <= now()
                AND (%(lost_after)s::interval IS NULL OR published_at < now() - %(lost_after)s::interval))
            OR (state = 'running' AND lease_until < now()))
        ORDER BY array_position(%(lanes)s::text[], lane), coalesce(busy.running, 0),
            (SELECT min(coalesce(busy_key.running, 0)) FROM unnest(requested_by) AS waiting(key_id)
             LEFT JOIN busy_key USING (key_id)),
            created_at
        LIMIT 1 FOR UPDATE OF j SKIP LOCKED
    )
    UPDATE cache_pipeline_state.job SET state = 'running', owner = %(owner)s, attempts = attempts + 1,
        started_at = coalesce(started_at, now()), lease_until = now() + %(lease)s::interval, percent = 0, chunks_done = 0
    WHERE id = (SELECT id FROM next) RETURNING {COLUMNS}
"""

RENEW_LEASES = """
    UPDATE cache_pipeline_state.job SET lease_until = now() + %(lease)s::interval
    WHERE id = ANY(%(ids)s) AND owner = %(owner)s AND state = 'running' RETURNING id, lane, requested_by
"""

CANCELLED = "SELECT id FROM cache_pipeline_state.job WHERE id = ANY(%(ids)s) AND state = 'cancelled'"

# The attempt number is a fencing token: a worker that missed its lease and later claimed its own job again must not
# finish it twice.
_OWNED = "id = %(id)s AND owner = %(owner)s AND attempts = %(attempt)s AND state = 'running'"

PROGRESS = f"""
    UPDATE cache_pipeline_state.job
    SET percent = greatest(percent, %(percent)s), chunks_done = %(done)s, chunks_total = %(total)s
    WHERE {_OWNED} RETURNING id
"""

FINISH = f"""
    UPDATE cache_pipeline_state.job SET finished_at = now(), lease_until = NULL, problem = %(problem)s::jsonb,
        state = CASE WHEN %(problem)s::jsonb IS NULL THEN 'done' ELSE 'failed' END,
        percent = CASE WHEN %(problem)s::jsonb IS NULL THEN 100 ELSE percent END
    WHERE {_OWNED} RETURNING extract(epoch FROM started_at - created_at)::float8 AS waited,
        extract(epoch FROM now() - started_at)::float8 AS worked
"""

REQUEUE = f"""
    UPDATE cache_pipeline_state.job SET state = 'queued', owner = NULL, lease_until = NULL,
        not_before = now() + %(after)s::interval, published_at = '-infinity', attempts = attempts - %(uncounted)s
    WHERE {_OWNED} RETURNING id
"""

CANCEL = f"""
    UPDATE cache_pipeline_state.job SET requested_by = array_remove(requested_by, %(by)s),
        state = CASE WHEN requested_by <@ ARRAY[%(by)s] THEN 'cancelled' ELSE state END,
        finished_at = CASE WHEN requested_by <@ ARRAY[%(by)s] THEN now() END
    WHERE id = %(id)s AND tenant = %(tenant)s AND state IN ('queued', 'running') RETURNING {COLUMNS}
"""

OUTLOOK = f"""
    SELECT {_JOBS_BEFORE.format(job="j")} AS jobs_before, {_THROUGHPUT}
    FROM cache_pipeline_state.job AS j WHERE id = %(id)s
"""

DEAD_LETTER = """
    UPDATE cache_pipeline_state.job SET state = 'failed', finished_at = now(), lease_until = NULL,
        problem = %(problem)s::jsonb
    WHERE attempts >= %(max_attempts)s AND state = 'running' AND lease_until < now() - %(grace)s::interval RETURNING id
"""

DELETE_EXPIRED = "DELETE FROM cache_pipeline_state.job WHERE finished_at < now() - %(retention)s::interval RETURNING id"

DEAD_LETTER_MESSAGE = """
    INSERT INTO cache_pipeline_state.dead_letter (body, reason) VALUES (%(body)s, %(reason)s) RETURNING id
"""

COUNTS = "SELECT state, count(*) AS jobs FROM cache_pipeline_state.job GROUP BY state"
