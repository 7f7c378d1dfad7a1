-- Counts a job under its own id instead of that of the grant which started it, so that it is never counted twice.
--
-- KEYS     log of the jobs
-- ARGV     grant id, job id, until when the job is counted (microseconds)

redis.call('ZADD', KEYS[1], ARGV[3], ARGV[2])
redis.call('ZREM', KEYS[1], ARGV[1])
return redis.status_reply('OK')
