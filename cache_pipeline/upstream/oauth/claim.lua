-- Returns the valid token and, to one caller at a time, permission to log in.
--
-- KEYS     token, login, refused
-- ARGV     caller, length of the login lease in ms, sealed token to ignore ('' if none), share of its lifetime that a token must
--          have left to count as fresh
-- Returns  {'fresh', 'log_in' or 'wait', sealed token, its total lifetime in ms, its time to live in ms, now in microseconds,
--          sealed refusal, time of the refusal in microseconds}; '' or 0 for what is absent

local clock = redis.call('TIME')
local now = string.format('%.0f', tonumber(clock[1]) * 1000000 + tonumber(clock[2]))
local token = redis.call('HMGET', KEYS[1], 'sealed', 'lifetime_ms')
local refusal = redis.call('HMGET', KEYS[3], 'sealed', 'at')
local ttl_ms = redis.call('PTTL', KEYS[1])

local verdict = 'wait'
if token[1] and token[1] ~= ARGV[3] and ttl_ms > tonumber(token[2]) * tonumber(ARGV[4]) then
  verdict = 'fresh'
elseif redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then
  verdict = 'log_in'
end
return {
  verdict,
  token[1] or '',
  token[2] or '',
  string.format('%.0f', ttl_ms),
  now,
  refusal[1] or '',
  refusal[2] or '',
}
