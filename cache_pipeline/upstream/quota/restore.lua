-- Restores the requests that a process sent itself, after Redis was unavailable or lost its data.
--
-- ZADD uses LT: an answer that came while Redis was unavailable ends the time in flight, and a request is never counted for longer.
--
-- Other processes may have sent requests too and not restored them yet, so every client is limited to one request in flight for
-- one window. Where data was certainly lost, nothing is granted until the window is over that began with the new data: some
-- processes restore their requests late, and those that were killed never do.
--
-- KEYS  cold_start, log of the organisation, then log and state of each client
-- ARGV  window, time to live of a log, time to live of idle state, then per request: client number, grant id, age; all times in
--       microseconds, age negative while in flight

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local log_ms = string.format('%.0f', math.ceil(tonumber(ARGV[2]) / 1000))
redis.call('HSET', KEYS[1], 'since', string.format('%.0f', now), 'lost', '1')
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil(tonumber(ARGV[1]) / 1000)))
for at = 4, #ARGV, 3 do
  for _, log in ipairs({KEYS[2 * tonumber(ARGV[at]) + 1], KEYS[2]}) do
    redis.call('ZADD', log, 'LT', string.format('%.0f', now - tonumber(ARGV[at + 2])), ARGV[at + 1])
    redis.call('PEXPIRE', log, log_ms)
  end
end

local lost_until = tonumber(redis.call('HGET', KEYS[1], 'lost_until') or 0)
if lost_until > now then
  for at = 4, #KEYS, 2 do
    local current = tonumber(redis.call('HGET', KEYS[at], 'throttled_until') or 0)
    if current < lost_until then
      -- Stored as if the vendor had given this time, so that no shorter Retry-After ends it.
      redis.call('HSET', KEYS[at], 'throttled_until', string.format('%.0f', lost_until), 'throttle_is_exact', '1')
      redis.call('HINCRBY', KEYS[at], 'throttled', string.format('%.0f', lost_until - math.max(now, current)))
      redis.call('PEXPIRE', KEYS[at], string.format('%.0f', math.ceil(tonumber(ARGV[3]) / 1000)))
    end
  end
end
return redis.status_reply('OK')
