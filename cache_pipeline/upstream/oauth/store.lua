-- Stores a new token for as long as it is valid, ends the caller's lease and deletes a refusal.
--
-- KEYS  token, login, refused
-- ARGV  caller, sealed token, its lifetime in ms, when the caller got permission to log in (microseconds by this server's clock)

local expires_at = math.floor(tonumber(ARGV[4]) / 1000) + tonumber(ARGV[3])
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'sealed', ARGV[2], 'lifetime_ms', ARGV[3])
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', expires_at))
redis.call('DEL', KEYS[3])
if redis.call('GET', KEYS[2]) == ARGV[1] then
  redis.call('DEL', KEYS[2])
end
return redis.status_reply('OK')
