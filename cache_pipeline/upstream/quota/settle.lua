-- Takes back what a granted request learned.
--
-- KEYS  log and state of the client, careful
-- ARGV  grant id, window, hold, limit, low water, remaining as the vendor said ('' if it did not), Retry-After ('' if none),
--       pause where there is none, '1' if the answer was a 429, time to live of idle state, counter of such answers;
--       all times in microseconds
-- Gives the microseconds for which this answer throttles the client, 0 if it does not.

local grant = ARGV[1]
local window, hold, limit, low_water = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local remaining, retry_after, pause = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local rejected, idle = ARGV[9] == '1', tonumber(ARGV[10])
local log, state = KEYS[1], KEYS[2]
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

local function whole(number)
  return string.format('%.0f', number)
end

-- The vendor counted the request some time before now: counting it from now on errs on the safe side.
local in_flight_until = tonumber(redis.call('ZSCORE', log, grant) or nil)
redis.call('ZADD', log, whole(now), grant)
redis.call('PEXPIRE', log, whole(math.ceil((window + hold) / 500)))
redis.call('HINCRBY', state, ARGV[11], 1)
redis.call('PEXPIRE', state, whole(math.ceil(idle / 1000)))
if rejected then
  redis.call('HINCRBY', state, 'rejected', 1)
end

if rejected or (remaining and remaining < low_water) then
  local told = redis.call('HMGET', state, 'throttled_until', 'throttle_told')
  local current, current_told = tonumber(told[1] or 0), told[2] == '1'
  local proposed = now + (retry_after or pause)
  local careful = redis.call('HMGET', KEYS[3], 'since', 'lost')
  if rejected and careful[1] then
    -- Where the memory is known to be lost, or a client that waited as it was told is refused again, the vendor's window is
    -- full of what nobody here remembers: it is empty of that one window after this memory began.
    local again = redis.call('HINCRBY', KEYS[3], 'rejected:' .. log, 1) > 1
    if careful[2] or again then
      proposed = math.max(proposed, tonumber(careful[1]) + window)
    end
  end
  -- What the vendor said is exact and beats the default; of two of a kind the later one counts.
  local said = retry_after ~= nil
  if current <= now or (said and not current_told) or (said == current_told and proposed > current) then
    redis.call('HSET', state, 'throttled_until', whole(proposed), 'throttle_told', said and '1' or '0')
    redis.call('HINCRBY', state, 'throttled', whole(proposed - math.max(now, current)))
    current = proposed
  end
  redis.call('HDEL', state, 'foreign', 'foreign_until')
  redis.call('PEXPIRE', state, whole(math.ceil(math.max(idle, current - now) / 1000)))
  return whole(math.max(0, current - now))
end

-- Somebody else may be sending with the same client. The vendor's count above every request of ours that it can have
-- counted is theirs, and is kept out of our share for one window.
if remaining and in_flight_until then
  redis.call('HSET', state, 'told_at', whole(now))
  local granted_at = in_flight_until - hold
  local ours = redis.call('ZCOUNT', log, '(' .. whole(granted_at - window), '+inf')
  local foreign = limit - remaining - ours
  local told = redis.call('HMGET', state, 'foreign', 'foreign_until')
  local known = tonumber(told[2] or 0) > now and tonumber(told[1] or 0) or 0
  if foreign > 0 and foreign >= known then
    redis.call('HSET', state, 'foreign', whole(foreign), 'foreign_until', whole(now + window))
  end
end
return '0'
