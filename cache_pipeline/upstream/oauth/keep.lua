-- Keeps a new token for as long as it lives.
--
-- KEYS  token, login, refused
-- ARGV  caller, sealed token, its life in ms, when the caller was given leave to log in, in microseconds by this server's clock

local dies_at = math.floor(tonumber(ARGV[4]) / 1000) + tonumber(ARGV[3])
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'sealed', ARGV[2], 'life', ARGV[3])
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', dies_at))
redis.call('DEL', KEYS[3])
if redis.call('GET', KEYS[2]) == ARGV[1] then
  redis.call('DEL', KEYS[2])
end
return redis.status_reply('OK')
