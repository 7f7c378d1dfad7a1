-- Reads every client's quota, and the state of its access token, at one moment. Writes nothing.
--
-- KEYS     per client: log, state, token, login, refused
-- ARGV     window in microseconds, usable slots
-- Returns  per client {used, in flight, microseconds until a slot is free, foreign, time to live of its token in ms, total
--          lifetime of its token in ms, 1 if a process is logging in, 1 if the login refused it recently, {counter, value, ...}};
--          the time to live is -2 if there is no token

local window, slots = tonumber(ARGV[1]), tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local function integer(number)
  return string.format('%.0f', number)
end

local answer = {}
for at = 1, #KEYS, 5 do
  local log, state, token = KEYS[at], KEYS[at + 1], KEYS[at + 2]
  local stored = redis.call('HMGET', state, 'throttled_until', 'foreign', 'foreign_until')
  local counted_from = '(' .. integer(now - window)
  local used = redis.call('ZCOUNT', log, counted_from, '+inf')
  local foreign = tonumber(stored[3] or 0) > now and tonumber(stored[2] or 0) or 0
  local free_at = now
  local excess = used + foreign - slots
  if excess >= 0 then
    local blocking = redis.call('ZRANGEBYSCORE', log, counted_from, '+inf', 'WITHSCORES', 'LIMIT', excess, 1)[2]
    free_at = (blocking and math.min(tonumber(blocking), now) or now) + window
    if foreign > 0 then
      free_at = math.min(free_at, tonumber(stored[3]))
    end
  end
  free_at = math.max(free_at, tonumber(stored[1] or 0))
  table.insert(answer, {
    used,
    redis.call('ZCOUNT', log, '(' .. integer(now), '+inf'),
    integer(math.max(0, free_at - now)),
    foreign,
    redis.call('PTTL', token),
    tonumber(redis.call('HGET', token, 'lifetime_ms') or 0),
    redis.call('EXISTS', KEYS[at + 3]),
    redis.call('EXISTS', KEYS[at + 4]),
    redis.call('HGETALL', state),
  })
end
return answer
