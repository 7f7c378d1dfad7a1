-- Gives the living token and, to one caller at a time, leave to renew it.
--
-- KEYS  token, login, refused
-- ARGV  caller, length of the lease in ms, sealed token to be passed over ('' if none), share of its life that a token must
--       have before it to count as young
-- Gives {'young', 'log in' or 'wait', sealed token, its life in ms, ms of it that are left, now in microseconds,
-- sealed refusal, when that was in microseconds}; '' or 0 for what there is not.

local clock = redis.call('TIME')
local now = string.format('%.0f', tonumber(clock[1]) * 1000000 + tonumber(clock[2]))
local token = redis.call('HMGET', KEYS[1], 'sealed', 'life')
local refusal = redis.call('HMGET', KEYS[3], 'sealed', 'at')
local left = redis.call('PTTL', KEYS[1])

local verdict = 'wait'
if token[1] and token[1] ~= ARGV[3] and left > tonumber(token[2]) * tonumber(ARGV[4]) then
  verdict = 'young'
elseif redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then
  verdict = 'log in'
end
return {
  verdict,
  token[1] or '',
  token[2] or '',
  string.format('%.0f', left),
  now,
  refusal[1] or '',
  refusal[2] or '',
}
