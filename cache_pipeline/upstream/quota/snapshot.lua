-- Reads every client's quota, and the state of its access token, at one moment. Writes nothing.
--
-- KEYS  per client: log, state, token, login, refused
-- ARGV  window in microseconds, usable slots
-- Gives per client {used, in flight, microseconds until a slot is free, foreign, ms of its token that are left, life of its
-- token in ms, 1 if somebody is logging in, 1 if the login refused it lately, {counter, value, ...}}; -2 ms where there is no token.

local window, slots = tonumber(ARGV[1]), tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local function whole(number)
  return string.format('%.0f', number)
end

local answer = {}
for at = 1, #KEYS, 5 do
  local log, state, token = KEYS[at], KEYS[at + 1], KEYS[at + 2]
  local told = redis.call('HMGET', state, 'throttled_until', 'foreign', 'foreign_until')
  local counted_from = '(' .. whole(now - window)
  local used = redis.call('ZCOUNT', log, counted_from, '+inf')
  local foreign = tonumber(told[3] or 0) > now and tonumber(told[2] or 0) or 0
  local free_at = now
  local too_many = used + foreign - slots
  if too_many >= 0 then
    local last_to_leave = redis.call('ZRANGEBYSCORE', log, counted_from, '+inf', 'WITHSCORES', 'LIMIT', too_many, 1)[2]
    free_at = (last_to_leave and math.min(tonumber(last_to_leave), now) or now) + window
    if foreign > 0 then
      free_at = math.min(free_at, tonumber(told[3]))
    end
  end
  free_at = math.max(free_at, tonumber(told[1] or 0))
  table.insert(answer, {
    used,
    redis.call('ZCOUNT', log, '(' .. whole(now), '+inf'),
    whole(math.max(0, free_at - now)),
    foreign,
    redis.call('PTTL', token),
    tonumber(redis.call('HGET', token, 'life') or 0),
    redis.call('EXISTS', KEYS[at + 3]),
    redis.call('EXISTS', KEYS[at + 4]),
    redis.call('HGETALL', state),
  })
end
return answer
