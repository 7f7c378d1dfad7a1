-- Records the answer to a granted request.
--
-- KEYS     cold_start, limits, log and state of the client, of the organisation, of the endpoint and of the jobs, usage
-- ARGV     grant id, window, longest time in flight, limit, least remaining, remaining as the vendor reported it ('' if it did
--          not), Retry-After ('' if none), pause where there is none, '1' if the answer was a 429, time to live of idle state,
--          name of the counter of such answers, '1' if the request was accepted, then of the limit that a 429 named: the number
--          of its log among KEYS ('' if it named none), name, value, window; all times in microseconds
-- Returns  the microseconds for which this answer throttles the requests that the limit is for; 0 if it does not

local grant = ARGV[1]
local window, max_in_flight, limit, min_remaining = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local remaining, retry_after, default_pause = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local rejected, idle = ARGV[9] == '1', tonumber(ARGV[10])
local log, state, organisation_log, endpoint_log, jobs_log = KEYS[3], KEYS[4], KEYS[5], KEYS[7], KEYS[9]
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

local function integer(number)
  return string.format('%.0f', number)
end

-- The vendor counted the request some time before now. Counting it from now on is the safe side.
local in_flight_until = tonumber(redis.call('ZSCORE', log, grant) or nil)
local logs = {log, organisation_log}
if redis.call('ZSCORE', endpoint_log, grant) or ARGV[13] == '7' then
  table.insert(logs, endpoint_log)
end
for _, counted in ipairs(logs) do
  redis.call('ZADD', counted, integer(now), grant)
  local time_to_live = integer(math.ceil((window + max_in_flight) / 500))
  if redis.call('PTTL', counted) < tonumber(time_to_live) then
    redis.call('PEXPIRE', counted, time_to_live)
  end
end
if ARGV[12] ~= '1' then
  redis.call('ZREM', jobs_log, grant)
end
redis.call('HINCRBY', state, ARGV[11], 1)
-- Requests by day since 1970, of the last two months.
local day = math.floor(now / 86400000000)
if redis.call('HINCRBY', KEYS[11], integer(day), 1) == 1 then
  redis.call('HDEL', KEYS[11], integer(day - 70))
  redis.call('PEXPIRE', KEYS[11], integer(70 * 86400000))
end
redis.call('PEXPIRE', state, integer(math.ceil(idle / 1000)))
if rejected then
  redis.call('HINCRBY', state, 'rejected', 1)
end

if rejected and ARGV[13] ~= '' then
  -- Only the limit that was named is corrected. It is forgotten after a day, because a vendor may raise it.
  local limited = tonumber(ARGV[13])
  local known_until = integer(now + idle)
  redis.call('HSET', KEYS[2], KEYS[limited] .. ' ' .. ARGV[14], ARGV[15] .. ':' .. ARGV[16] .. ':' .. known_until)
  if redis.call('PTTL', KEYS[2]) < idle / 1000 then
    redis.call('PEXPIRE', KEYS[2], integer(math.ceil(idle / 1000)))
  end
  if KEYS[limited] ~= log then
    local pause = retry_after or default_pause
    local limited_state = KEYS[limited + 1]
    local current = tonumber(redis.call('HGET', limited_state, 'throttled_until') or 0)
    redis.call('HSET', limited_state, 'throttled_until', integer(math.max(current, now + pause)))
    redis.call('PEXPIRE', limited_state, integer(math.ceil(math.max(idle, pause) / 1000)))
    return integer(pause)
  end
end

if rejected or (remaining and remaining < min_remaining) then
  local stored = redis.call('HMGET', state, 'throttled_until', 'throttle_is_exact')
  local current, current_is_exact = tonumber(stored[1] or 0), stored[2] == '1'
  local proposed = now + (retry_after or default_pause)
  local cold_start = redis.call('HMGET', KEYS[1], 'since', 'lost')
  if rejected and cold_start[1] then
    -- If data was certainly lost, or a client that waited as the vendor asked is refused again, the vendor's window is full of
    -- requests that are no longer known here. It is free of them one window after the new data began.
    local repeated = redis.call('HINCRBY', KEYS[1], 'rejected:' .. log, 1) > 1
    if cold_start[2] or repeated then
      proposed = math.max(proposed, tonumber(cold_start[1]) + window)
    end
  end
  -- A time from the vendor is exact and replaces the default; of two times of the same kind the later one counts.
  local is_exact = retry_after ~= nil
  if current <= now or (is_exact and not current_is_exact) or (is_exact == current_is_exact and proposed > current) then
    redis.call('HSET', state, 'throttled_until', integer(proposed), 'throttle_is_exact', is_exact and '1' or '0')
    redis.call('HINCRBY', state, 'throttled', integer(proposed - math.max(now, current)))
    current = proposed
  end
  redis.call('HDEL', state, 'foreign', 'foreign_until')
  redis.call('PEXPIRE', state, integer(math.ceil(math.max(idle, current - now) / 1000)))
  return integer(math.max(0, current - now))
end

-- Another program may send with the same client. If the vendor's count exceeds the number of our requests that it can have
-- counted, the difference is foreign, and is subtracted from our share for one window.
if remaining and in_flight_until then
  redis.call('HSET', state, 'remaining_reported_at', integer(now))
  local granted_at = in_flight_until - max_in_flight
  local ours = redis.call('ZCOUNT', log, '(' .. integer(granted_at - window), '+inf')
  local foreign = limit - remaining - ours
  local stored = redis.call('HMGET', state, 'foreign', 'foreign_until')
  local known = tonumber(stored[2] or 0) > now and tonumber(stored[1] or 0) or 0
  if foreign > 0 and foreign >= known then
    redis.call('HSET', state, 'foreign', integer(foreign), 'foreign_until', integer(now + window))
  end
end
return '0'
