-- Puts back what a process sent itself, after Redis was away or lost its memory.
--
-- LT: an answer that came while Redis was away ends the time in flight, and nothing is ever counted for longer.
--
-- Others may have sent something too and not told it yet, so all go carefully for a window.
--
-- KEYS  careful, then log of each client
-- ARGV  window, time to live of a log, then per request: client number, grant id, age; microseconds, age negative while in flight

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local keep_ms = string.format('%.0f', math.ceil(tonumber(ARGV[2]) / 1000))
redis.call('HSET', KEYS[1], 'since', string.format('%.0f', now), 'lost', '1')
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil(tonumber(ARGV[1]) / 1000)))
for at = 3, #ARGV, 3 do
  local log = KEYS[1 + tonumber(ARGV[at])]
  redis.call('ZADD', log, 'LT', string.format('%.0f', now - tonumber(ARGV[at + 2])), ARGV[at + 1])
  redis.call('PEXPIRE', log, keep_ms)
end
return redis.status_reply('OK')
