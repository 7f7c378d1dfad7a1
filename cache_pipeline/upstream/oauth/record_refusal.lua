-- Records that the login refused the client, and ends the caller's lease.
--
-- KEYS  token, login, refused
-- ARGV  caller, sealed reason, ms for which the refusal is kept

local clock = redis.call('TIME')
local now = string.format('%.0f', tonumber(clock[1]) * 1000000 + tonumber(clock[2]))
redis.call('HSET', KEYS[3], 'sealed', ARGV[2], 'at', now)
redis.call('PEXPIRE', KEYS[3], ARGV[3])
if redis.call('GET', KEYS[2]) == ARGV[1] then
  redis.call('DEL', KEYS[2])
end
return redis.status_reply('OK')
